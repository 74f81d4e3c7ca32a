//! `Idempotency-Key`: an equal request is answered as the first one was, and does nothing.

use std::sync::atomic::Ordering;

use chrono::TimeDelta;
use futures::future::join_all;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom_jobs::ports::Clock as _;

use super::{id_of, join, with};
use crate::{
    api::tests::bed::{Answer, TestApi, send},
    store::{
        api_keys::Scope,
        idempotency::{self, Claim, RequestKey},
    },
};

async fn post(api: &TestApi, key: &str, body: &Value) -> Answer {
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Idempotency-Key", key)
        .body_json(body);
    send(request).await
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

#[track_caller]
fn assert_same(again: &Answer, first: &Answer) {
    assert!(is_replayed(again) && !is_replayed(first));
    assert_eq!(again.status, first.status, "{}", again.text);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.json(), first.json());
}

#[tokio::test]
async fn an_equal_request_is_given_the_first_answer_again() {
    let api = TestApi::new().await;
    let first = post(&api, "k-1", &with("priority", json!(3))).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    let id = id_of(&first.json());
    let reordered = api
        .request(Method::POST, "/v1/jobs")
        .header("Idempotency-Key", "k-1")
        .content_type("application/json")
        .body(r#" { "priority":3, "args" : {"chat":"@reading\u005fclub"},"kind":"join"} "#);
    assert_same(&send(reordered).await, &first);
    // The answer is the first one, whatever became of the job.
    api.finish(id).await;
    assert_same(&post(&api, "k-1", &with("priority", json!(3))).await, &first);

    assert_eq!(api.count("jobs").await + api.count("finished_jobs").await, 1);
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 1);
    assert_eq!(api.count("audit_log WHERE action = 'job.created'").await, 1);
}

#[tokio::test]
async fn concurrent_equal_keys_give_one_job_and_one_answer() {
    let api = TestApi::new().await;
    let body = join();
    for round in 0..5 {
        let key = format!("round-{round}");
        let answers = join_all((0..12).map(|_| post(&api, &key, &body))).await;
        let first: Vec<&Answer> = answers.iter().filter(|answer| !is_replayed(answer)).collect();
        assert_eq!(first.len(), 1);
        for again in answers.iter().filter(|answer| is_replayed(answer)) {
            assert_same(again, first[0]);
        }
        assert_eq!(api.count("jobs").await, round + 1);
    }
}

#[tokio::test]
async fn a_key_goes_with_one_request_of_one_client() {
    let api = TestApi::new().await;
    post(&api, "k", &join()).await;
    let problem = post(&api, "k", &with("priority", json!(1)))
        .await
        .problem("idempotency_key_reused");
    assert_eq!(problem["field"], "Idempotency-Key");
    let batch = api
        .request(Method::POST, "/v1/jobs/batch")
        .header("Idempotency-Key", "k")
        .body_json(&json!({ "jobs": [join()] }));
    send(batch).await.problem("idempotency_key_reused");
    assert_eq!(api.count("jobs").await, 1);

    let other = format!("Bearer {}", api.key(Scope::Operator).await);
    let request = api
        .bare(Method::POST, "/v1/jobs")
        .header("Authorization", other)
        .header("Idempotency-Key", "k")
        .body_json(&with("priority", json!(1)));
    let answer = send(request).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert!(!is_replayed(&answer));
    assert_eq!(api.count("jobs").await, 2);
}

#[tokio::test]
async fn what_was_refused_is_tried_anew() {
    let api = TestApi::new().await;
    let body = with("session", json!("Anna"));
    post(&api, "k", &body).await.problem("unknown_session");
    assert_eq!(api.count("idempotency_keys").await, 0);
    api.session("Anna", "ready").await;
    let answer = post(&api, "k", &body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
}

#[tokio::test]
async fn an_answer_is_given_again_when_the_request_would_be_too_late_now() {
    let api = TestApi::new().await;
    let deadline = (api.clock.now() + TimeDelta::seconds(30)).to_rfc3339();
    let body = with("deadline", json!(deadline));
    let first = post(&api, "k", &body).await;
    api.clock.advance(TimeDelta::minutes(1));
    assert_same(&post(&api, "k", &body).await, &first);
    post(&api, "other", &body).await.problem("invalid_value");
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let api = TestApi::new().await;
    let first = id_of(&post(&api, "k", &join()).await.json());
    assert_eq!(
        api.count("idempotency_keys WHERE expires_at BETWEEN wireroom_now() + interval '23 h 59 min' AND wireroom_now() + interval '24 h'")
            .await,
        1
    );
    post(&api, "stays", &join()).await;
    api.execute("UPDATE idempotency_keys SET expires_at = wireroom_now() WHERE key = 'k'")
        .await;
    let second = id_of(&post(&api, "k", &join()).await.json());
    assert_ne!(first, second);
    api.execute("UPDATE idempotency_keys SET expires_at = wireroom_now() WHERE key = 'k'")
        .await;
    let mut conn = api.pool().acquire().await.expect("a connection");
    assert_eq!(idempotency::sweep(&mut conn, 10).await.expect("swept"), 1);
    assert_eq!(api.count("idempotency_keys WHERE key = 'stays'").await, 1);
}

#[tokio::test]
async fn the_text_of_a_message_is_kept_with_its_job_alone() {
    let api = TestApi::new().await;
    let secret = "the-parcel-is-under-the-bridge";
    let body = json!({ "kind": "publish", "args": { "chat": "@reading_club", "text": secret } });
    let first = post(&api, "k", &body).await;
    let kept: String = sqlx::query_scalar("SELECT k::text FROM idempotency_keys k")
        .fetch_one(api.pool())
        .await
        .expect("a row");
    assert!(!kept.contains(secret), "{kept}");
    let again = post(&api, "k", &body).await;
    assert_same(&again, &first);
    assert_eq!(again.json()["args"]["text"], secret);
}

#[tokio::test]
async fn a_repeated_wait_is_for_the_first_job() {
    let api = TestApi::new().await;
    let first = post(&api, "k", &join()).await;
    let id = id_of(&first.json());
    api.finish(id).await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Idempotency-Key", "k")
        .header("Prefer", "wait=10")
        .body_json(&join());
    let again = send(request).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert!(is_replayed(&again));
    assert_eq!(again.json()["state"], "succeeded");
    assert_eq!(id_of(&again.json()), id);
}

#[tokio::test]
async fn a_key_of_another_shape_is_refused() {
    let api = TestApi::new().await;
    for wrong in ["a b", &"x".repeat(256)] {
        let problem = post(&api, wrong, &join()).await.problem("invalid_parameter");
        assert_eq!(problem["field"], "Idempotency-Key");
    }
    assert_eq!(api.count("jobs").await, 0);
}

#[tokio::test]
async fn who_waits_for_a_request_that_is_undone_becomes_the_first() {
    let api = TestApi::new().await;
    let owner = api.key.split('_').nth(1).expect("the id of the key").to_owned();
    let key = RequestKey {
        owner: &owner,
        key: "k",
    };
    let mut transaction = api.pool().begin().await.expect("a transaction");
    let claimed = idempotency::claim(&mut transaction, key).await.expect("a claim");
    assert_eq!(claimed, Claim::First);
    let undone = async {
        // The other one has come to the row.
        while api
            .count("pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
            .await
            == 0
        {
            tokio::task::yield_now().await;
        }
        transaction.rollback().await.expect("undone");
    };
    let body = join();
    let (answer, ()) = tokio::join!(post(&api, "k", &body), undone);
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert!(!is_replayed(&answer));
    assert_eq!(api.count("jobs").await, 1);
}

#[tokio::test]
async fn to_cancel_twice_is_to_cancel_once() {
    let api = TestApi::new().await;
    let id = id_of(&api.post_job(&join()).await.json());
    let path = format!("/v1/jobs/{id}/cancel");
    let cancel = || async { send(api.request(Method::POST, &path)).await };
    let (first, again) = (cancel().await, cancel().await);
    assert_eq!((first.status, again.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(first.json(), again.json());
    assert_eq!(api.count("audit_log WHERE action = 'job.cancelled'").await, 1);
}
