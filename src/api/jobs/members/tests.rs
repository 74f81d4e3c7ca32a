use std::time::Duration;

use futures::TryStreamExt as _;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::api::tests::bed::{TestApi, send};

/// A finished scan of `count` people, whose user ids go up from 1.
async fn scan(api: &TestApi, count: i32) -> JobId {
    let id = JobId::generate();
    for statement in [
        "INSERT INTO finished_jobs (id, kind, args, state, lane, pool, priority, run_at, attempt, max_attempts, fence,
             finished_at, tags, created_at)
         VALUES ($1, 'scan', '{}', 'succeeded', 'bulk', 'default', 0, wireroom_now(), 1, 12, 1, wireroom_now(), '{}',
             wireroom_now())",
        "INSERT INTO scans (job_id, chat_id, purpose, expires_at)
         VALUES ($1, -1001, 'test', wireroom_now() + interval '1 day')",
    ] {
        sqlx::query(statement)
            .bind(id.0)
            .execute(api.pool())
            .await
            .expect("a scan");
    }
    sqlx::query(
        "INSERT INTO scan_members (job_id, user_id, username, first_name, is_bot, is_deleted, is_premium, role)
         SELECT $1, n, 'user' || n, 'Person ' || n, false, false, n % 2 = 0, 'member' FROM generate_series(1, $2) n",
    )
    .bind(id.0)
    .bind(count)
    .execute(api.pool())
    .await
    .expect("members");
    id
}

#[tokio::test]
async fn members_are_read_page_by_page() {
    let api = TestApi::new().await;
    let job = scan(&api, 7).await;
    let mut seen = Vec::new();
    let mut path = format!("/v1/jobs/{job}/members?limit=3");
    loop {
        let page = api.get(&path).await.json();
        let items = page["items"].as_array().expect("items").clone();
        seen.extend(items.iter().map(|member| member["user_id"].as_i64().expect("an id")));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        // Who comes in behind the cursor does not shift the next page.
        api.execute("INSERT INTO scan_members SELECT job_id, -count(*), NULL, NULL, NULL, false, false, false, 'member', NULL FROM scan_members GROUP BY job_id")
            .await;
        path = format!("/v1/jobs/{job}/members?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn csv_and_ndjson_hold_the_same_people() {
    let api = TestApi::new().await;
    let job = scan(&api, 2).await;
    api.execute(
        "UPDATE scan_members SET first_name = '=HYPERLINK(\"https://example.com\"),x', last_name = NULL,
             username = '@user', joined_at = '2026-01-02T03:04:05Z' WHERE user_id = 1",
    )
    .await;
    let csv = send(
        api.request(Method::GET, &format!("/v1/jobs/{job}/members"))
            .header("Accept", "text/csv"),
    )
    .await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    assert!(csv.header("content-disposition").starts_with("attachment"));
    assert_eq!(
        csv.text,
        "user_id,username,first_name,last_name,is_bot,is_deleted,is_premium,role,joined_at\n\
         1,'@user,\"'=HYPERLINK(\"\"https://example.com\"\"),x\",,false,false,false,member,2026-01-02T03:04:05Z\n\
         2,user2,Person 2,,false,false,true,member,\n"
    );
    let ndjson = api.get(&format!("/v1/jobs/{job}/members?format=ndjson")).await;
    assert_eq!(ndjson.header("content-type"), "application/x-ndjson");
    let people: Vec<Value> = ndjson
        .text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(people.len(), 2);
    assert_eq!(people[0]["username"], "@user", "only CSV is escaped");
    assert_eq!(people[1]["first_name"], "Person 2");
    let page = api.get(&format!("/v1/jobs/{job}/members")).await.json();
    assert_eq!(page["items"], json!(people));
}

#[tokio::test]
async fn what_cannot_be_shown_is_said() {
    let api = TestApi::new().await;
    let job = scan(&api, 1).await;
    let path = format!("/v1/jobs/{job}/members");
    api.get(&format!("{path}?format=xml"))
        .await
        .problem("invalid_parameter");
    api.get(&format!("{path}?format=csv&limit=5"))
        .await
        .problem("invalid_parameter");
    let html = api
        .request(Method::GET, &path)
        .header("Accept", "text/html;q=1, image/*");
    send(html).await.problem("not_acceptable");
    let browser = api.request(Method::GET, &path).header("Accept", "text/html, */*;q=0.8");
    assert_eq!(send(browser).await.status, StatusCode::OK);

    api.execute("UPDATE scans SET expires_at = wireroom_now() - interval '1 second'")
        .await;
    api.get(&path).await.problem("members_not_found");
    let body = json!({ "kind": "join", "args": { "chat": "@reading_club" } });
    let join = api.post_job(&body).await.json()["id"].clone();
    let path = format!("/v1/jobs/{}/members", join.as_str().expect("an id"));
    api.get(&path).await.problem("members_not_found");
}

#[tokio::test]
async fn a_long_list_is_read_only_as_fast_as_it_is_sent() {
    let api = TestApi::new().await;
    let job = scan(&api, 100_000).await;
    let request = api.request(Method::GET, &format!("/v1/jobs/{job}/members?format=ndjson"));
    let response = request.send().await.0;
    let mut chunks = Box::pin(response.into_body().into_bytes_stream());
    let (mut lines, mut largest) = (0, 0);
    for _ in 0..3 {
        let chunk = chunks.try_next().await.expect("a chunk").expect("more");
        largest = largest.max(chunk.len());
        lines += bytecount(&chunk);
    }
    assert_eq!(lines, 3000, "a chunk is a thousand people, not all of them");

    // What is not sent yet is not read yet, and no connection is held meanwhile.
    let idle = async {
        while api.pool().num_idle() < usize::try_from(api.pool().size()).expect("a few") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), idle)
        .await
        .expect("the connections are given back");
    api.execute("DELETE FROM scan_members WHERE user_id > 50000").await;
    while let Some(chunk) = chunks.try_next().await.expect("a chunk") {
        largest = largest.max(chunk.len());
        lines += bytecount(&chunk);
    }
    assert_eq!(lines, 50_000);
    assert!(largest < 512 * 1024, "{largest} bytes at a time");
}

fn bytecount(chunk: &[u8]) -> usize {
    chunk.split(|byte| *byte == b'\n').count() - 1
}
