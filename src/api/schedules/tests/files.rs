//! Uploaded files of schedules: they are there when a schedule is stored, and stay as long as it has ticks to come.

use poem::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{digest, patch, patched, post};
use crate::{api::tests::bed::TestApi, store::files};

const KEEP_DAYS: i32 = 30;

async fn upload(api: &TestApi) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO files (id, sha256, object, size_bytes, content_type, expires_at)
            VALUES ($1, $1::text::bytea, 'x', 1, 'image/png', wireroom_now() + interval '1 hour')",
    )
    .bind(id)
    .execute(api.pool())
    .await
    .expect("a file");
    id
}

fn weekly(file: Uuid) -> Value {
    let mut body = digest();
    let media = json!([{ "type": "photo", "file": file }]);
    body["job"] = json!({ "kind": "publish", "args": { "chat": "@reading_club", "media": media } });
    body
}

async fn days_left(api: &TestApi, file: Uuid) -> f64 {
    sqlx::query_scalar(
        "SELECT (extract(epoch FROM expires_at - wireroom_now()) / 86400)::float8 FROM files WHERE id = $1",
    )
    .bind(file)
    .fetch_one(api.pool())
    .await
    .expect("a file")
}

async fn kept_by_the_sweep(api: &TestApi, file: Uuid) -> bool {
    sqlx::query("UPDATE files SET expires_at = wireroom_now() - interval '1 second'")
        .execute(api.pool())
        .await
        .expect("its time is over");
    let mut conn = api.pool().acquire().await.expect("a connection");
    files::keep_scheduled(&mut conn, KEEP_DAYS).await.expect("kept");
    days_left(api, file).await > 29.0
}

#[tokio::test]
async fn a_schedule_keeps_its_files_as_long_as_it_has_ticks_to_come() {
    let api = TestApi::new().await;
    let (file, other) = (upload(&api).await, upload(&api).await);
    let answer = post(&api, "/v1/schedules", &weekly(file)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let schedule = answer.json();
    assert!(days_left(&api, file).await > 29.0);
    assert!(days_left(&api, other).await < 1.0);

    patched(&api, &schedule, &json!({ "paused": { "reason": "holidays" } })).await;
    assert!(kept_by_the_sweep(&api, file).await, "paused is not over");
    assert!(!kept_by_the_sweep(&api, other).await, "nobody names it");

    api.execute("UPDATE schedules SET next_tick_at = NULL, next_due_at = NULL")
        .await;
    assert!(!kept_by_the_sweep(&api, file).await, "no tick is to come");
}

#[tokio::test]
async fn a_schedule_without_its_file_is_refused_and_can_still_be_paused() {
    let api = TestApi::new().await;
    let problem = post(&api, "/v1/schedules", &weekly(Uuid::nil()))
        .await
        .problem("invalid_value");
    assert_eq!(problem["field"], "job.args.media[0].file", "{problem}");
    assert_eq!(api.count("schedules").await, 0);

    let file = upload(&api).await;
    let schedule = post(&api, "/v1/schedules", &weekly(file)).await.json();
    let problem = patch(&api, &schedule, &json!({ "job": weekly(Uuid::nil())["job"] }))
        .await
        .problem("invalid_value");
    assert_eq!(problem["field"], "job.args.media[0].file", "{problem}");
    api.execute("UPDATE files SET deleted_at = wireroom_now()").await;
    patched(&api, &schedule, &json!({ "paused": { "reason": "its file is gone" } })).await;
}
