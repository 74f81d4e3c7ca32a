//! Uploaded files of jobs that come in: they are there, and stay until the job has run.

use chrono::{DateTime, TimeDelta, Utc};
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use wireroom_jobs::ports::Clock as _;

use super::id_of;
use crate::api::tests::bed::{TestApi, send};

async fn upload(api: &TestApi) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO files (id, sha256, object, size_bytes, content_type, expires_at)
            VALUES ($1, $1::text::bytea, 'x', 1, 'image/png', wireroom_now() + interval '30 days')",
    )
    .bind(id)
    .execute(api.pool())
    .await
    .expect("a file");
    id
}

async fn expiry(api: &TestApi, id: Uuid) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT expires_at FROM files WHERE id = $1")
        .bind(id)
        .fetch_one(api.pool())
        .await
        .expect("a file")
}

fn with_file(id: Uuid, run_at: Option<DateTime<Utc>>) -> Value {
    let media = json!([{ "type": "photo", "url": "https://example.com/a.png" }, { "type": "photo", "file": id }]);
    json!({ "kind": "publish", "args": { "chat": "@reading_club", "media": media }, "run_at": run_at })
}

#[tokio::test]
async fn a_file_is_kept_until_its_job_has_run() {
    let api = TestApi::new().await;
    let file = upload(&api).await;
    let run_at = api.clock.now() + TimeDelta::days(90);
    let job = api.post_job(&with_file(file, Some(run_at))).await;
    assert_eq!(job.status, StatusCode::ACCEPTED, "{}", job.text);
    assert!(expiry(&api, file).await >= run_at + TimeDelta::days(29));
    let later = api.clock.now() + TimeDelta::days(200);
    let path = format!("/v1/jobs/{}", id_of(&job.json()));
    let moved = send(api.request(Method::PATCH, &path).body_json(&json!({ "run_at": later }))).await;
    assert_eq!(moved.status, StatusCode::OK, "{}", moved.text);
    assert!(expiry(&api, file).await >= later + TimeDelta::days(29));
}

#[tokio::test]
async fn a_file_that_is_not_there_is_refused() {
    let api = TestApi::new().await;
    let problem = api
        .post_job(&with_file(Uuid::nil(), None))
        .await
        .problem("invalid_value");
    assert_eq!(problem["field"], "args.media[1].file", "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("POST /v1/files"))
    );
    assert_eq!(api.count("jobs").await, 0);
    let gone = upload(&api).await;
    api.execute("UPDATE files SET deleted_at = wireroom_now()").await;
    api.post_job(&with_file(gone, None)).await.problem("invalid_value");
}

#[tokio::test]
async fn files_of_a_batch_are_kept_too() {
    let api = TestApi::new().await;
    let file = upload(&api).await;
    let at = |days| api.clock.now() + TimeDelta::days(days);
    let jobs = [
        with_file(file, Some(at(120))),
        with_file(Uuid::nil(), None),
        with_file(file, Some(at(60))),
        with_file(file, Some(at(180))),
    ];
    let request = api.request(Method::POST, "/v1/jobs/batch?mode=per_item");
    let answer = send(request.body_json(&json!({ "jobs": jobs }))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let items = answer.json()["items"].clone();
    let outcomes: Vec<&str> = (0..4).filter_map(|at| items[at]["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["created", "refused", "created", "created"], "{items}");
    assert_eq!(items[1]["error"]["field"], "args.media[1].file", "{items}");
    assert!(expiry(&api, file).await >= at(180) + TimeDelta::days(29));
}
