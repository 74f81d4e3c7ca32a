//! A person who was erased is in no table, and does not come back.

use super::*;

/// Every row of every table that holds `needle`.
async fn rows_with(stack: &Stack, needle: &str) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1",
    )
    .fetch_all(stack.database.pool())
    .await
    .expect("tables");
    assert!(tables.len() > 40, "the whole database");
    let mut found = Vec::new();
    for table in tables {
        let statement = format!("SELECT t::text FROM {table} t WHERE t::text ILIKE '%{needle}%'");
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
            .fetch_all(stack.database.pool())
            .await
            .expect("rows");
        found.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_is_in_no_table_and_does_not_come_back() {
    let stack = stack_of(vec!["alice"]).await;
    let worker = stack.worker().await;
    // Frank is in the group that is scanned, on a list, in a job's args, on the list of suppressions and in a ledger.
    join(&stack, "frank");
    let frank = stack.account("frank");
    let scan = json!({ "chat": CHAT, "purpose": "a count for the yearly report" });
    let first = stack.post("scan", scan.clone()).await;
    stack.finished(&first).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["frank", "dave"]).await;
    let ids = json!({ "items": [{ "user_id": frank, "basis": "join_request" }] });
    post(&stack, &format!("{path}/people"), &ids).await;
    done(&stack, &resume(&stack, &path).await).await;
    suppress(&stack, json!({ "user_id": frank })).await;
    let id = path.rsplit('/').next().expect("an id");
    let named = json!({ "campaign": id, "people": ["@frank", frank.to_string()] });
    stack.run("invite", named).await;
    worker.kill();
    let exported = stack.get(&format!("/v1/people/{frank}/export")).await;
    let tables: Vec<&String> = exported["tables"].as_object().expect("tables").keys().collect();
    for table in [
        "campaign_people",
        "finished_jobs",
        "people",
        "scan_members",
        "suppressions",
    ] {
        assert!(
            tables.iter().any(|known| *known == table),
            "{table} is not in {tables:?}"
        );
    }
    let (status, erased) = send(&stack, Method::DELETE, &format!("/v1/people/{frank}"), &Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{erased}");
    for needle in [frank.to_string().as_str(), "frank"] {
        assert_eq!(rows_with(&stack, needle).await, Vec::<String>::new(), "{needle}");
    }
    assert_eq!(stack.figure("SELECT count(*) FROM erased_people").await, 1);
    assert!(!rows_with(&stack, "dave").await.is_empty(), "and nobody else is gone");
    // He is in the group as before, and somebody puts him on a list again.
    let _worker = stack.worker().await;
    let second = stack.post("scan", scan).await;
    stack.finished(&second).await;
    assert!(stack.figure("SELECT count(*) FROM scan_members").await > 1000);
    let again = post(&stack, &format!("{path}/people"), &ids).await;
    assert_eq!(again["refused"][0]["code"], "erased", "{again}");
    list(&stack, &path, &["frank"]).await;
    let result = done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(result["outcomes"], json!({ "erased": 1 }), "{result}");
    assert_eq!(rows_with(&stack, "frank").await, Vec::<String>::new());
    // Telegram's reference to a member of a chat is the session's, and says nothing but that there is one.
    let left: Vec<String> = rows_with(&stack, &frank.to_string()).await;
    assert!(left.iter().all(|row| row.starts_with("session_peers")), "{left:?}");
    let (status, refused) = send(
        &stack,
        Method::DELETE,
        &format!("/v1/people/{}", stack.account("alice")),
        &Value::Null,
    )
    .await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::CONFLICT, &json!("person_is_session"))
    );
    stack.finish().await;
}
