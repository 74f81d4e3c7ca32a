use poem::http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::{api::tests::bed::TestApi, ids::JobId};

/// A scan of `what` whose messages are numbered from 1 to `count`.
async fn scan(api: &TestApi, what: &str, count: i32) -> JobId {
    let id = JobId::generate();
    for (statement, bind) in [
        (
            "INSERT INTO finished_jobs (id, kind, args, state, lane, pool, priority, run_at, attempt, max_attempts, fence,
                 finished_at, tags, created_at, created_by)
             VALUES ($1, 'scan', '{}', 'succeeded', 'bulk', 'default', 0, wireroom_now(), 1, 12, 1, wireroom_now(), '{}',
                 wireroom_now(), $2)",
            "key:test",
        ),
        (
            "INSERT INTO scans (job_id, chat_id, purpose, expires_at, what)
             VALUES ($1, -1001, 'test', wireroom_now() + interval '1 day', $2)",
            what,
        ),
    ] {
        sqlx::query(statement)
            .bind(id.0)
            .bind(bind)
            .execute(api.pool())
            .await
            .expect("a scan");
    }
    for statement in [
        "INSERT INTO seen_messages (chat_id, owner, message_id, sent_at, sender_id, outgoing, text, media, reactions, job_id,
             purpose, expires_at)
         SELECT -1001, 0, n, '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 hour', 10 + n % 2, false, '=' || n,
             CASE WHEN n % 3 = 0 THEN 'photo' END, '[{\"reaction\": \"👍\", \"count\": 2}]', $1, 'test',
             wireroom_now() + interval '1 day'
         FROM generate_series(1, $2) n ON CONFLICT DO NOTHING",
        "INSERT INTO scan_messages (job_id, chat_id, owner, message_id, post_id)
         SELECT $1, -1001, 0, n, n % 2 FROM generate_series(1, $2) n",
    ] {
        sqlx::query(statement)
            .bind(id.0)
            .bind(count)
            .execute(api.pool())
            .await
            .expect("messages");
    }
    id
}

fn ids(page: &Value) -> Vec<i64> {
    let items = page["items"].as_array().expect("items").iter();
    items.map(|message| message["id"].as_i64().expect("an id")).collect()
}

#[tokio::test]
async fn messages_are_read_page_by_page_and_filtered() {
    let api = TestApi::new().await;
    let job = scan(&api, "history", 7).await;
    let mut seen = Vec::new();
    let mut path = format!("/v1/jobs/{job}/messages?limit=3");
    loop {
        let page = api.get(&path).await.json();
        seen.extend(ids(&page));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/jobs/{job}/messages?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    for (filter, expected) in [
        ("sender_id=11", vec![1, 3, 5, 7]),
        ("media=photo", vec![3, 6]),
        ("post_id=0", vec![2, 4, 6]),
        ("from=2026-01-01T06:00:00Z", vec![6, 7]),
        ("to=2026-01-01T02:00:00Z", vec![1, 2]),
        (
            "from=2026-01-01T02:00:00Z&to=2026-01-01T04:00:00Z&sender_id=10",
            vec![2, 4],
        ),
    ] {
        let page = api.get(&format!("/v1/jobs/{job}/messages?{filter}")).await.json();
        assert_eq!(ids(&page), expected, "{filter}");
    }
}

#[tokio::test]
async fn csv_guards_its_cells_and_ndjson_holds_the_same() {
    let api = TestApi::new().await;
    let job = scan(&api, "comments", 2).await;
    let csv = api.get(&format!("/v1/jobs/{job}/messages?format=csv")).await;
    assert_eq!(csv.status, StatusCode::OK);
    let lines: Vec<&str> = csv.text.lines().collect();
    assert_eq!(lines[1], "-1001,1,1,2026-01-01T01:00:00Z,,11,false,'=1,,,,,,,,👍 2,,,,");
    assert_eq!(lines.len(), 3);
    let ndjson = api.get(&format!("/v1/jobs/{job}/messages?format=ndjson")).await;
    let messages: Vec<Value> = ndjson
        .text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let page = api.get(&format!("/v1/jobs/{job}/messages")).await.json();
    assert_eq!(page["items"], json!(messages));
    assert_eq!(messages[0]["text"], "=1", "only CSV is escaped");
}

#[tokio::test]
async fn what_cannot_be_shown_is_said() {
    let api = TestApi::new().await;
    let job = scan(&api, "history", 1).await;
    for (query, code) in [
        ("media=smell", "invalid_parameter"),
        ("from=yesterday", "invalid_parameter"),
        ("sender_id=ada", "invalid_parameter"),
        ("cursor=abc", "invalid_cursor"),
        ("text=tide", "unknown_parameter"),
    ] {
        api.get(&format!("/v1/jobs/{job}/messages?{query}")).await.problem(code);
    }
    api.get(&format!("/v1/jobs/{job}/members"))
        .await
        .problem("members_not_found");
    api.get(&format!("/v1/jobs/{job}/chats"))
        .await
        .problem("rows_not_found");
    api.execute("UPDATE scans SET expires_at = wireroom_now()").await;
    api.get(&format!("/v1/jobs/{job}/messages"))
        .await
        .problem("rows_not_found");
}

#[test]
fn a_key_reads_back() {
    let key = MessageKey {
        chat_id: -1_001,
        owner: 77,
        message_id: 5,
    };
    assert_eq!(key.to_string().parse(), Ok(key));
    assert_eq!("1:2".parse::<MessageKey>(), Err(()));
}
