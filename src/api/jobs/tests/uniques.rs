//! `unique_key`: how a job is alone, for how long, and what happens to the second one.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::TimeDelta;
use futures::future::join_all;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom_jobs::{JobKind, ports::Clock as _};

use super::{id_of, join};
use crate::{
    api::{
        jobs::admission,
        problem::Code,
        tests::bed::{TestApi, send},
    },
    ids::JobId,
    store::{
        PgTransaction,
        jobs::NewJob,
        unique_keys::{self, KeyedJob, OnConflict, Scope, Unique},
    },
};

fn keyed(scope: &str, on_conflict: &str) -> Value {
    let mut body = join();
    body["unique_key"] = json!("digest of Ünal");
    body["unique_scope"] = json!(scope);
    body["on_conflict"] = json!(on_conflict);
    if scope == "period" {
        body["unique_seconds"] = json!(600);
    }
    body
}

async fn created(api: &TestApi, body: &Value) -> JobId {
    let answer = api.post_job(body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    id_of(&answer.json())
}

async fn refused_for(api: &TestApi, body: &Value, holder: JobId) {
    let problem = api.post_job(body).await.problem("unique_key_conflict");
    assert_eq!(problem["job"], json!(holder));
    assert_eq!(problem["field"], "unique_key");
}

async fn set_running(api: &TestApi, id: JobId) {
    sqlx::query("UPDATE jobs SET state = 'running', fence = fence + 1, attempt = attempt + 1 WHERE id = $1")
        .bind(id.0)
        .execute(api.pool())
        .await
        .expect("running");
}

#[tokio::test]
async fn a_second_live_job_is_refused_until_the_first_has_finished() {
    let api = TestApi::new().await;
    let body = keyed("live", "reject");
    let first = created(&api, &body).await;
    refused_for(&api, &body, first).await;
    set_running(&api, first).await;
    refused_for(&api, &body, first).await;
    api.finish(first).await;
    let second = created(&api, &body).await;
    refused_for(&api, &body, second).await;
    let cancel = format!("/v1/jobs/{second}/cancel");
    send(api.request(Method::POST, &cancel)).await;
    created(&api, &body).await;
    assert_eq!(api.count("unique_keys").await, 1);
}

#[tokio::test]
async fn a_key_of_the_waiting_is_free_once_its_job_is_claimed() {
    let api = TestApi::new().await;
    let body = keyed("queued", "reject");
    let first = created(&api, &body).await;
    refused_for(&api, &body, first).await;
    set_running(&api, first).await;
    let second = created(&api, &body).await;
    refused_for(&api, &body, second).await;
}

#[tokio::test]
async fn a_period_outlasts_its_job() {
    let api = TestApi::new().await;
    let body = keyed("period", "reject");
    let first = created(&api, &body).await;
    api.finish(first).await;
    refused_for(&api, &body, first).await;
    let existing = api.post_job(&keyed("period", "return_existing")).await;
    assert_eq!(existing.status, StatusCode::OK, "{}", existing.text);
    assert_eq!(existing.json()["state"], "succeeded");
    assert_eq!(
        api.count("unique_keys WHERE expires_at BETWEEN wireroom_now() + interval '590 s' AND wireroom_now() + interval '600 s'")
            .await,
        1
    );
    api.execute("UPDATE unique_keys SET expires_at = wireroom_now()").await;
    let second = created(&api, &body).await;
    refused_for(&api, &body, second).await;
}

#[tokio::test]
async fn the_existing_job_stands_for_the_second() {
    let api = TestApi::new().await;
    let first = created(&api, &keyed("live", "reject")).await;
    let mut body = keyed("live", "return_existing");
    body["args"]["chat"] = json!("@garden");
    let answer = api.post_job(&body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(id_of(&answer.json()), first);
    assert_eq!(answer.json()["args"]["chat"], "@reading_club");
    assert_eq!(answer.header("location"), format!("/v1/jobs/{first}"));
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 1, "nobody is woken for it");
    // Again under an idempotency key: the args are the existing job's, not the request's.
    for _ in 0..2 {
        let request = api
            .request(Method::POST, "/v1/jobs")
            .header("Idempotency-Key", "k")
            .body_json(&body);
        let answer = send(request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.json()["args"]["chat"], "@reading_club");
    }
}

#[tokio::test]
async fn a_waiting_job_takes_over_args_and_time() {
    let api = TestApi::new().await;
    let mut body = keyed("live", "replace");
    body["priority"] = json!(7);
    let first = created(&api, &body).await;
    let at = api.clock.now() + TimeDelta::hours(1);
    let mut later = keyed("live", "replace");
    later["args"]["chat"] = json!("@garden");
    later["run_at"] = json!(at.to_rfc3339());
    let answer = api.post_job(&later).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let job = answer.json();
    assert_eq!(id_of(&job), first);
    assert_eq!(job["args"]["chat"], "@garden");
    assert_eq!((&job["state"], &job["priority"]), (&json!("scheduled"), &json!(7)));
    let rank = "jobs WHERE rank = (extract(epoch FROM run_at) * 1000000)::bigint - 7 * 60000000::bigint";
    assert_eq!(api.count(rank).await, 1);
    assert_eq!(api.count("audit_log WHERE action = 'job.replaced'").await, 1);
    // Without a time it is due at once.
    let now = api.post_job(&keyed("live", "replace")).await.json();
    assert_eq!(now["state"], "queued");
    assert_eq!(api.count(rank).await, 1);
    assert_eq!(api.count("jobs").await, 1);
}

#[tokio::test]
async fn a_job_that_has_begun_is_not_replaced() {
    let api = TestApi::new().await;
    let body = keyed("live", "replace");
    let first = created(&api, &body).await;
    set_running(&api, first).await;
    refused_for(&api, &body, first).await;
    // It waits for another attempt: it may have sent what its args say.
    api.execute("UPDATE jobs SET state = 'scheduled'").await;
    refused_for(&api, &body, first).await;
}

#[tokio::test]
async fn keys_meet_within_a_kind_and_a_scope_alone() {
    let api = TestApi::new().await;
    for scope in ["queued", "live", "period"] {
        created(&api, &keyed(scope, "reject")).await;
    }
    let mut publish = keyed("live", "reject");
    publish["kind"] = json!("publish");
    publish["args"] = json!({ "chat": "@reading_club", "text": "x" });
    created(&api, &publish).await;
    let mut other = keyed("live", "reject");
    other["unique_key"] = json!("digest of unal");
    created(&api, &other).await;
    let kept: Vec<String> = sqlx::query_scalar("SELECT u::text FROM unique_keys u")
        .fetch_all(api.pool())
        .await
        .expect("rows");
    assert_eq!(kept.len(), 5);
    assert!(
        kept.iter().all(|row| !row.contains("nal")),
        "a key may name a person: {kept:?}"
    );
}

#[tokio::test]
async fn concurrent_equal_unique_keys_give_one_job() {
    let api = TestApi::new().await;
    for scope in ["queued", "live", "period"] {
        for on_conflict in ["reject", "return_existing", "replace"] {
            api.execute("DELETE FROM unique_keys; ").await;
            api.execute("DELETE FROM jobs").await;
            let body = keyed(scope, on_conflict);
            let answers = join_all((0..10).map(|_| api.post_job(&body))).await;
            let made = answers
                .iter()
                .filter(|answer| answer.status == StatusCode::ACCEPTED)
                .count();
            assert_eq!(made, 1, "{scope} {on_conflict}");
            let others = if on_conflict == "reject" {
                StatusCode::CONFLICT
            } else {
                StatusCode::OK
            };
            assert_eq!(answers.iter().filter(|answer| answer.status == others).count(), 9);
            assert_eq!(api.count("jobs").await, 1, "{scope} {on_conflict}");
        }
    }
}

#[tokio::test]
async fn a_free_key_is_taken_over_by_one() {
    let api = TestApi::new().await;
    let body = keyed("live", "reject");
    for _ in 0..5 {
        let first = created(&api, &body).await;
        api.finish(first).await;
        let answers = join_all((0..8).map(|_| api.post_job(&body))).await;
        let made: Vec<JobId> = answers
            .iter()
            .filter(|answer| answer.status == StatusCode::ACCEPTED)
            .map(|answer| id_of(&answer.json()))
            .collect();
        assert_eq!(made.len(), 1);
        api.finish(made[0]).await;
    }
}

#[tokio::test]
async fn keys_of_the_finished_are_swept_and_others_stay() {
    let api = TestApi::new().await;
    let live = created(&api, &keyed("live", "reject")).await;
    let queued = created(&api, &keyed("queued", "reject")).await;
    created(&api, &keyed("period", "reject")).await;
    api.finish(queued).await;
    let mut conn = api.pool().acquire().await.expect("a connection");
    assert_eq!(
        unique_keys::sweep(&mut conn, 10).await.expect("swept"),
        0,
        "none is due"
    );
    api.execute("UPDATE unique_keys SET expires_at = wireroom_now()").await;
    assert_eq!(unique_keys::sweep(&mut conn, 10).await.expect("swept"), 3);
    assert_eq!(unique_keys::sweep(&mut conn, 10).await.expect("swept"), 0);
    assert_eq!(api.count("unique_keys").await, 1);
    refused_for(&api, &keyed("live", "reject"), live).await;
}

#[tokio::test]
async fn wrong_options_are_refused() {
    let api = TestApi::new().await;
    let with = |field: &str, value: Value| {
        let mut body = keyed("live", "reject");
        body[field] = value;
        body
    };
    let mut no_seconds = keyed("period", "reject");
    no_seconds["unique_seconds"] = Value::Null;
    let mut long_period = keyed("period", "reject");
    long_period["unique_seconds"] = json!(2_592_001);
    let mut alone = join();
    alone["on_conflict"] = json!("reject");
    for (body, field) in [
        (with("unique_key", json!("")), "unique_key"),
        (with("unique_key", json!("ü".repeat(201))), "unique_key"),
        (with("unique_scope", json!("running")), "unique_scope"),
        (with("on_conflict", json!("ignore")), "on_conflict"),
        (with("unique_seconds", json!(5)), "unique_seconds"),
        (no_seconds, "unique_seconds"),
        (long_period, "unique_seconds"),
        (alone, "on_conflict"),
    ] {
        let problem = api.post_job(&body).await.problem("invalid_value");
        assert_eq!(problem["field"], field, "{problem}");
    }
    created(&api, &with("unique_key", json!("ü".repeat(200)))).await;
}

#[tokio::test]
async fn two_batches_that_wait_for_each_other_are_told_apart_from_a_fault() {
    let api = TestApi::new().await;
    let entry = |key: &str| KeyedJob {
        job: NewJob::new(JobKind::Join, json!({ "chat": "@reading_club" })),
        unique: Some(Unique {
            key: key.to_owned(),
            scope: Scope::Live,
            on_conflict: OnConflict::Reject,
        }),
    };
    let mut one = api.pool().begin().await.expect("a transaction");
    let mut other = api.pool().begin().await.expect("a transaction");
    let (a, b) = ([entry("a")], [entry("b")]);
    unique_keys::enqueue(&mut one, None, &a, Duration::ZERO)
        .await
        .expect("the first key");
    unique_keys::enqueue(&mut other, None, &b, Duration::ZERO)
        .await
        .expect("the other key");
    let crossing = async |mut transaction: PgTransaction<'static>, entries: &[KeyedJob]| {
        let outcome = unique_keys::enqueue(&mut transaction, None, entries, Duration::ZERO).await;
        match outcome {
            Ok(_) => transaction.commit().await.expect("committed"),
            Err(_) => transaction.rollback().await.expect("undone"),
        }
        outcome
    };
    let outcomes: [_; 2] = tokio::join!(crossing(one, &b), crossing(other, &a)).into();
    let refused = outcomes.into_iter().find_map(Result::err).expect("one is undone");
    assert_eq!(admission::refused(refused).code(), Code::Collision);
    assert_eq!(api.count("jobs").await, 2, "the other's two");
}
