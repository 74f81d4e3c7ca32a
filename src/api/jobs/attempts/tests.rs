use serde_json::{Value, json};

use crate::{api::tests::bed::TestApi, ids::JobId};

/// Three attempts that ended, and the job's row as the claim of a fourth leaves it.
async fn job_with_attempts(api: &TestApi) -> JobId {
    let id = api.stored_job().await;
    for (fence, outcome, error) in [
        (
            1_i64,
            "retry",
            Some(json!({ "code": "x", "message": "X.", "retryable": true })),
        ),
        (2, "snooze", None),
        (3, "orphaned", None),
    ] {
        sqlx::query(
            "INSERT INTO job_attempts (job_id, attempt, fence, worker_id, session_id, started_at, ended_at, outcome, error,
                wait_reason)
             VALUES ($1, $2, $2, gen_random_uuid(), gen_random_uuid(), wireroom_now(), wireroom_now(), $3, $4,
                CASE WHEN $3 = 'snooze' THEN '{\"code\": \"flood\", \"message\": \"Wait.\"}'::jsonb END)",
        )
        .bind(id.0)
        .bind(fence)
        .bind(outcome)
        .bind(error)
        .execute(api.pool())
        .await
        .expect("an attempt");
    }
    sqlx::query(
        "UPDATE jobs SET state = 'running', fence = 4, attempt = 4, worker_id = gen_random_uuid(),
            claimed_at = wireroom_now() WHERE id = $1",
    )
    .bind(id.0)
    .execute(api.pool())
    .await
    .expect("claimed");
    id
}

fn outcomes(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["outcome"].as_str()).collect()
}

#[tokio::test]
async fn attempts_are_listed_the_latest_first_the_running_one_included() {
    let api = TestApi::new().await;
    let id = job_with_attempts(&api).await;
    let page = api.get(&format!("/v1/jobs/{id}/attempts")).await.json();
    assert_eq!(outcomes(&page), ["running", "orphaned", "snooze", "retry"]);
    let [running, _, snoozed, retried] = [0, 1, 2, 3].map(|index| &page["items"][index]);
    assert!(
        running["started_at"].is_string() && running["ended_at"].is_null(),
        "{running}"
    );
    assert!(running["worker"].is_string(), "{running}");
    assert_eq!(snoozed["wait"]["code"], "flood");
    assert_eq!(retried["error"]["code"], "x");
    assert!(retried["ended_at"].is_string() && retried["session"].is_string());
    assert_eq!(page["next_cursor"], Value::Null);
}

#[tokio::test]
async fn a_page_of_attempts_goes_on_where_the_last_one_ended() {
    let api = TestApi::new().await;
    let id = job_with_attempts(&api).await;
    let first = api.get(&format!("/v1/jobs/{id}/attempts?limit=3")).await.json();
    assert_eq!(outcomes(&first).len(), 3);
    let cursor = first["next_cursor"].as_str().expect("a cursor").to_owned();
    // What ends meanwhile does not shift the page.
    api.finish(id).await;
    let second = api
        .get(&format!("/v1/jobs/{id}/attempts?limit=3&cursor={cursor}"))
        .await
        .json();
    assert_eq!(outcomes(&second), ["retry"]);
    assert_eq!(second["next_cursor"], Value::Null);
    let all = api.get(&format!("/v1/jobs/{id}/attempts")).await.json();
    assert_eq!(outcomes(&all), ["succeeded", "orphaned", "snooze", "retry"]);
    let refused = api.get(&format!("/v1/jobs?cursor={cursor}")).await;
    refused.problem("invalid_cursor");
}

#[tokio::test]
async fn a_job_that_ended_while_it_waited_has_no_attempt_twice() {
    let api = TestApi::new().await;
    let id = job_with_attempts(&api).await;
    sqlx::query("UPDATE jobs SET state = 'queued', fence = 3 WHERE id = $1")
        .bind(id.0)
        .execute(api.pool())
        .await
        .expect("waits");
    let path = format!("/v1/jobs/{id}/attempts");
    assert_eq!(outcomes(&api.get(&path).await.json()), ["orphaned", "snooze", "retry"]);
    api.finish(id).await;
    assert_eq!(outcomes(&api.get(&path).await.json()), ["orphaned", "snooze", "retry"]);
}

#[tokio::test]
async fn a_job_without_attempts_has_none_and_no_job_is_an_error() {
    let api = TestApi::new().await;
    let id = api.stored_job().await;
    let page = api.get(&format!("/v1/jobs/{id}/attempts")).await.json();
    assert_eq!(page, json!({ "items": [], "next_cursor": null }));
    let unknown = JobId::generate();
    api.get(&format!("/v1/jobs/{unknown}/attempts"))
        .await
        .problem("job_not_found");
}
