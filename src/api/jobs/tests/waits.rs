use std::time::Duration;

use poem::http::{Method, StatusCode};
use serde_json::json;

use super::join;
use crate::{
    api::tests::bed::{TestApi, send},
    ids::JobId,
};

async fn wait_for_job(api: &TestApi) -> JobId {
    let found = async {
        loop {
            let id: Option<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM jobs LIMIT 1")
                .fetch_optional(api.pool())
                .await
                .expect("a look");
            if let Some(id) = id {
                return JobId(id);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .expect("the job is stored in time")
}

#[tokio::test]
async fn a_wait_ends_with_the_finished_job() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=30")
        .body_json(&join());
    let worker = async {
        let id = wait_for_job(&api).await;
        api.finish(id).await;
        // Nobody announces: polling finds it.
        id
    };
    let (answer, id) = tokio::join!(send(request), worker);
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.header("preference-applied"), "wait=30");
    assert_eq!(answer.header("location"), format!("/v1/jobs/{id}"));
    let job = answer.json();
    assert_eq!(job["state"], "succeeded");
    assert_eq!(job["result"], json!({ "status": "joined" }));
}

#[tokio::test]
async fn a_wait_that_ends_first_gives_the_job_as_it_is() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=1")
        .body_json(&join());
    let answer = send(request).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header("preference-applied"), "wait=1");
    assert_eq!(answer.json()["state"], "queued");
    let wrong = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=soon")
        .body_json(&join());
    assert_eq!(send(wrong).await.problem("invalid_parameter")["field"], "Prefer");
}

#[tokio::test]
async fn waiters_are_bounded_and_whoever_is_refused_leaves_no_job() {
    let api = TestApi::with(|config| config.api.max_waiters = 1).await;
    let waits = || {
        api.request(Method::POST, "/v1/jobs")
            .header("Prefer", "wait=30")
            .body_json(&join())
    };
    let others = async {
        let id = wait_for_job(&api).await;
        let refused = send(waits()).await;
        refused.problem("too_many_waiters");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(api.count("jobs").await, 1);
        api.finish(id).await;
    };
    let (first, ()) = tokio::join!(send(waits()), others);
    assert_eq!(first.status, StatusCode::OK);
}

#[tokio::test]
async fn waiters_hold_no_connection() {
    let api = TestApi::new().await;
    let waits: Vec<_> = (0..40)
        .map(|_| {
            send(
                api.request(Method::POST, "/v1/jobs")
                    .header("Prefer", "wait=30")
                    .body_json(&join()),
            )
        })
        .collect();
    let worker = async {
        // More than the pool has connections: none of them is held while they wait.
        let stored = async {
            while api.count("jobs").await < 40 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stored)
            .await
            .expect("all are stored");
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM jobs")
            .fetch_all(api.pool())
            .await
            .expect("ids");
        for id in ids {
            api.finish(JobId(id)).await;
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(waits), worker);
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
}

#[tokio::test]
async fn who_waits_for_a_job_hears_that_it_was_cancelled() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=30")
        .body_json(&join());
    let canceller = async {
        let id = wait_for_job(&api).await;
        send(api.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await
    };
    let (answer, cancelled) = tokio::join!(send(request), canceller);
    assert_eq!(cancelled.status, StatusCode::OK);
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["state"], "cancelled");
}
