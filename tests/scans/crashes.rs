//! Workers that are killed at the boundary of a page, on either side of its commit: the scan goes on there, and its rows are
//! those of a scan that nobody disturbed.

use wireroom::sandbox::{Effect, Fault};

use super::*;
use crate::support::{
    process::Process,
    stack::{JOB_BOUND, patience},
    wait::eventually,
};

/// What is killed, and what it must have in the end.
struct Case {
    args: Value,
    method: &'static str,
    /// The table of the scan's rows.
    table: &'static str,
    page: i64,
    rows: i64,
}

fn members() -> Case {
    Case {
        args: scan("members", "@harbour_market", json!({})),
        method: "channels.getParticipants",
        table: "scan_members",
        page: 200,
        rows: 1250,
    }
}

fn history() -> Case {
    Case {
        args: scan("history", "@harbour_market", json!({})),
        method: "messages.getHistory",
        table: "scan_messages",
        page: 100,
        rows: 420,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_killed_before_a_page_is_committed() {
    before_the_commit(members()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_killed_after_a_page_is_committed() {
    after_the_commit(members()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_killed_before_a_page_is_committed() {
    before_the_commit(history()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_killed_after_a_page_is_committed() {
    after_the_commit(history()).await;
}

/// A stack whose workers wait for an answer for as long as a test may take: they are killed before that.
async fn patient() -> Stack {
    Stack::with(Options {
        variables: vec![("WIREROOM_PERSON_KEY", KEY.to_owned()), patience()],
        ..Options::default()
    })
    .await
}

/// The first call that is hit, and that other calls come before.
const HIT: u64 = 3;

/// The calls of `method` up to the one that `effect` hits; its fault.
fn hit(stack: &Stack, method: &str, at: u64, effect: Effect) -> u64 {
    for _ in 1..at {
        stack.fault(Fault::once(method, Effect::Delay { ms: 0 }));
    }
    stack.sandbox.controls().add_fault(Fault::once(method, effect))
}

async fn rows_of(stack: &Stack, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_one(stack.database.pool())
        .await
        .expect("answered")
}

/// A worker that waits for the page number [`HIT`] of a scan, with those before it committed; the fault that holds it.
async fn at_a_page(stack: &Stack, case: &Case) -> (Process, String, u64) {
    let held = hit(stack, case.method, HIT, Effect::Hold);
    let worker = stack.worker().await;
    let id = stack.post("scan", case.args.clone()).await;
    let committed = case.page * (i64::try_from(HIT).expect("small") - 1);
    eventually(JOB_BOUND, async || {
        match (stack.calls(case.method), rows_of(stack, case.table).await) {
            (calls, rows) if calls >= HIT && rows >= committed => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    (worker, id, held)
}

/// The page is written and waits for its commit when the worker dies: nothing of it stays.
async fn before_the_commit(case: Case) {
    let stack = patient().await;
    let (worker, id, held) = at_a_page(&stack, &case).await;
    // A lock that the page's statement has to wait for.
    let mut lock = stack.database.pool().begin().await.expect("a transaction");
    let statement = format!("LOCK TABLE {} IN SHARE MODE", case.table);
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(&mut *lock)
        .await
        .expect("locked");
    let stored = rows_of(&stack, case.table).await;
    stack.sandbox.controls().remove_fault(held);
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '-- save_me%'";
    eventually(JOB_BOUND, async || match stack.figure(waiting).await {
        0 => Err("no page waits"),
        _ => Ok(()),
    })
    .await;
    worker.kill();
    lock.rollback().await.expect("unlocked");
    go_on(&stack, &case, &id, stored).await;
}

/// The page is committed, and the next one asked for, when the worker dies: it is not read again.
async fn after_the_commit(case: Case) {
    let stack = patient().await;
    let (worker, id, _held) = at_a_page(&stack, &case).await;
    let stored = rows_of(&stack, case.table).await;
    worker.kill();
    go_on(&stack, &case, &id, stored).await;
}

/// Another worker ends the scan from `stored` rows on.
async fn go_on(stack: &Stack, case: &Case, id: &str, stored: i64) {
    assert!((case.page..case.rows).contains(&stored), "{stored} rows");
    stack.sandbox.controls().clear_faults();
    let before = stack.calls(case.method);
    let _second: Process = stack.worker().await;
    let job = stack.finished(id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(
        (&job["result"]["seen"], &job["result"]["new"]),
        (&json!(case.rows), &json!(case.rows)),
        "{job}"
    );
    assert_eq!(job["result"]["complete"], true, "{job}");
    assert_eq!(rows_of(stack, case.table).await, case.rows);
    let pages = i64::try_from(stack.calls(case.method) - before).expect("a few");
    let left = (case.rows - stored + case.page - 1) / case.page;
    assert!(pages <= left + 1, "{pages} pages for {left}: it began again");
    let count = rows(stack, &format!("/v1/chats/{}/counts", job["result"]["chat"]["id"])).await;
    assert_eq!(count.len(), 1, "one scan, one count");
}

/// The worker is killed while it waits for the answer number `at` to `method`; another one ends the scan. Its result, and how often
/// the method was called in all.
async fn killed_waiting(stack: &Stack, args: Value, method: &'static str, at: u64) -> (String, Value, u64) {
    hit(stack, method, at, Effect::Blackhole);
    let worker = stack.worker().await;
    let before = stack.calls(method);
    let id = stack.post("scan", args).await;
    eventually(JOB_BOUND, async || match stack.calls(method) - before {
        calls if calls >= at => Ok(()),
        calls => Err(calls),
    })
    .await;
    worker.kill();
    stack.sandbox.controls().clear_faults();
    let _next = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    (id, job["result"].clone(), stack.calls(method) - before)
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_killed_between_two_pages_are_read_once() {
    let stack = patient().await;
    let (news, market) = (stack.chat("morning_news"), stack.chat("harbour_market"));
    let bob = stack.account("bob");
    stack.sandbox.controls().with_world(|world| {
        world.link_discussion(news, market).expect("linked");
        world.put_in(market, bob).expect("in the chat");
        for number in 0..230 {
            world
                .comment_as(bob, news, 300, &format!("Comment {number}"))
                .expect("commented");
        }
    });
    let args = scan("comments", "@morning_news", json!({ "comments": { "posts": [300] } }));
    let (id, result, calls) = killed_waiting(&stack, args, "messages.getReplies", 3).await;
    assert_eq!(
        (&result["seen"], &result["new"], &result["complete"]),
        (&json!(230), &json!(230), &json!(true)),
        "{result}"
    );
    assert_eq!(rows(&stack, &format!("/v1/jobs/{id}/messages")).await.len(), 230);
    assert!(calls <= 5, "{calls} pages: it began again");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_killed_between_two_queries_finds_each_chat_once() {
    let stack = patient().await;
    let queries = json!({ "queries": ["harbour", "morning"], "standing": "weekly" });
    let args = scan("chats", "", with("search", queries.clone()));
    let (id, result, _) = killed_waiting(&stack, args.clone(), "contacts.search", 2).await;
    assert_eq!(result["new"], 3, "{result}");
    assert_eq!(rows(&stack, &format!("/v1/jobs/{id}/chats")).await.len(), 3);
    assert_eq!(stack.figure("SELECT count(*) FROM search_finds").await, 3);
    let _worker = stack.worker().await;
    let (_, again) = scanned(&stack, args).await;
    assert_eq!(again["seen"], 0, "{again}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_killed_while_it_is_read_is_stored_once() {
    let stack = patient().await;
    let args = scan("profile", "@harbour_market", json!({}));
    let (_, result, calls) = killed_waiting(&stack, args, "channels.getFullChannel", 1).await;
    assert_eq!((calls, &result["seen"]), (2, &json!(1)), "{result}");
    assert_eq!(stack.figure("SELECT count(*) FROM scan_profiles").await, 1);
    stack.finish().await;
}
