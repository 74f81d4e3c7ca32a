//! Scans over real processes, the sandbox and Postgres: every outcome, what a later scan changes, and nothing lost or read
//! twice whatever dies.

mod comments;
mod crashes;
mod endings;
mod erased_files;
mod finds;
mod history;
mod media;
mod members;
mod plans;
mod storage;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::stack::{Options, Stack};

/// 32 bytes of made-up key.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

async fn stack() -> Stack {
    Stack::with(Options {
        variables: vec![("WIREROOM_PERSON_KEY", KEY.to_owned())],
        ..Options::default()
    })
    .await
}

/// The args of a scan of `what`, with more of them.
fn scan(what: &str, chat: &str, more: Value) -> Value {
    let mut args = json!({ "what": what, "chat": chat, "purpose": "a count for the harbour's yearly report" });
    if chat.is_empty() {
        args.as_object_mut().expect("fields").remove("chat");
    }
    let Value::Object(more) = more else {
        panic!("{more} has no fields");
    };
    args.as_object_mut().expect("fields").extend(more);
    args
}

/// Args with this one alone.
fn with(name: &str, value: Value) -> Value {
    Value::Object([(name.to_owned(), value)].into_iter().collect())
}

/// Runs a scan that must succeed; its id and its result.
async fn scanned(stack: &Stack, args: Value) -> (String, Value) {
    let id = stack.post("scan", args).await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    (id, job["result"].clone())
}

/// All rows of a list, page by page.
async fn rows(stack: &Stack, path: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let sign = if path.contains('?') { '&' } else { '?' };
    let mut next = format!("{path}{sign}limit=1000");
    loop {
        let page = stack.get(&next).await;
        all.extend(page["items"].as_array().expect("a list").iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else {
            return all;
        };
        next = format!("{path}{sign}limit=1000&cursor={cursor}");
    }
}

/// A whole list in another format.
async fn whole(stack: &Stack, path: &str, format: &str) -> String {
    let request = stack.request(Method::GET, path).header("Accept", format);
    request.send().await.expect("answered").text().await.expect("text")
}

/// Every row of every table but `but` that holds `needle`.
async fn rows_with(stack: &Stack, needle: &str, but: &[&str]) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(stack.database.pool())
    .await
    .expect("tables");
    let mut found = Vec::new();
    for table in tables.iter().filter(|table| !but.contains(&table.as_str())) {
        let statement = format!("SELECT t::text FROM {table} t WHERE t::text ILIKE '%{needle}%'");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
            .fetch_all(stack.database.pool())
            .await
            .expect("rows");
        found.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    found
}
