//! Jobs that come in at the same time, and are stored together.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use futures::future::join_all;
use poem::http::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::{id_of, join};
use crate::api::tests::bed::{Answer, TestApi, send};

/// How long anything may take that is waited for.
const BOUND: Duration = Duration::from_secs(30);

/// Posts jobs at the same time, the n-th with the priority n and the request id `post-n`.
async fn post_all(api: &TestApi, count: usize, change: impl Fn(usize, &mut serde_json::Value)) -> Vec<Answer> {
    let posts = (0..count).map(|nth| {
        let mut body = join();
        body["priority"] = json!(nth);
        change(nth, &mut body);
        let request = api
            .request(Method::POST, "/v1/jobs")
            .header("X-Request-Id", format!("post-{nth}"));
        send(request.body_json(&body))
    });
    join_all(posts).await
}

#[tokio::test]
async fn many_at_once_are_each_answered_with_their_own_job() {
    let api = TestApi::new().await;
    let answers = post_all(&api, 60, |_, _| ()).await;
    let mut ids = HashSet::new();
    for (nth, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        let job = answer.json();
        assert_eq!(job["priority"], nth);
        assert_eq!(job["wait_reason"]["code"], "pool_empty");
        let id = id_of(&job);
        assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.json(), job);
        let subject: String = sqlx::query_scalar("SELECT subject FROM audit_log WHERE request_id = $1")
            .bind(format!("post-{nth}"))
            .fetch_one(api.pool())
            .await
            .expect("one audit row");
        assert_eq!(subject, format!("job:{id}"));
        ids.insert(id);
    }
    assert_eq!(ids.len(), 60);
    assert_eq!(api.count("jobs").await, 60);
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 60);
    let transactions: i64 = sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM jobs")
        .fetch_one(api.pool())
        .await
        .expect("counted");
    assert!(transactions < 20, "{transactions} transactions for 60 jobs");
}

#[tokio::test]
async fn one_that_cannot_be_stored_takes_none_of_the_others_along() {
    let api = TestApi::new().await;
    let answers = post_all(&api, 20, |nth, body| {
        if nth % 10 == 7 {
            body["pool"] = json!("nowhere");
        }
    })
    .await;
    for (nth, answer) in answers.iter().enumerate() {
        if nth % 10 == 7 {
            assert_eq!(answer.problem("unknown_pool")["field"], "pool");
        } else {
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        }
    }
    assert_eq!(api.count("jobs").await, 18);
    assert_eq!(api.count("audit_log WHERE action = 'job.created'").await, 18);
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 18);
}

#[tokio::test]
async fn one_that_the_database_refuses_fails_alone() {
    let api = TestApi::new().await;
    api.execute("ALTER TABLE jobs ADD CHECK (priority <> 7)").await;
    let answers = post_all(&api, 20, |_, _| ()).await;
    for (nth, answer) in answers.iter().enumerate() {
        let wanted = if nth == 7 {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::ACCEPTED
        };
        assert_eq!(answer.status, wanted, "{nth}: {}", answer.text);
    }
    assert_eq!(api.count("jobs").await, 19);
}

#[tokio::test]
async fn nothing_is_left_of_jobs_whose_transaction_failed() {
    let api = TestApi::new().await;
    api.execute("ALTER TABLE audit_log RENAME TO audit_log_elsewhere").await;
    for answer in post_all(&api, 20, |_, _| ()).await {
        answer.problem("internal");
    }
    assert_eq!(api.count("jobs").await, 0);
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 0);
    api.execute("ALTER TABLE audit_log_elsewhere RENAME TO audit_log").await;
    let answer = api.post_job(&join()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
}

#[tokio::test]
async fn a_connection_that_died_between_two_jobs_costs_none() {
    let api = TestApi::new().await;
    let first = api.post_job(&join()).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE '%COMMIT%' AND pid <> pg_backend_pid()) ended",
    )
    .fetch_one(api.pool())
    .await
    .expect("ended");
    assert!(ended > 0, "the kept connection was found");
    let second = api.post_job(&join()).await;
    assert_eq!(second.status, StatusCode::ACCEPTED, "{}", second.text);
}

#[tokio::test]
async fn jobs_that_are_tried_one_by_one_stop_at_a_database_that_is_away() {
    let api = TestApi::new().await;
    // Many in one statement are refused for one of them; a lone one, except those that go ahead, finds the database away.
    sqlx::raw_sql(
        "CREATE SEQUENCE tries; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE jobs bigint; first bigint;
        BEGIN
            SELECT count(*), min(priority) INTO jobs, first FROM new;
            IF jobs > 1 THEN RAISE EXCEPTION 'refused' USING ERRCODE = '23514'; END IF;
            IF first > 0 THEN
                PERFORM nextval('tries');
                RAISE EXCEPTION 'away' USING ERRCODE = '53300';
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER refuse AFTER INSERT ON jobs REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    )
    .execute(api.pool())
    .await
    .expect("made");
    let mut lock = api.pool().begin().await.expect("begun");
    sqlx::query("LOCK TABLE jobs IN EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .expect("locked");
    // One after the other: two that came at the same time would share a transaction.
    let first = post_all(&api, 1, |_, body| body["priority"] = json!(0));
    let then = async {
        waits_for_a_lock(&api, 1).await;
        let second = post_all(&api, 1, |_, body| body["priority"] = json!(0));
        let others = async {
            waits_for_a_lock(&api, 2).await;
            let others = post_all(&api, 20, |_, body| body["priority"] = json!(1));
            let release = async {
                let all_wait = async {
                    while api.state().gather.waiting() < 20 {
                        tokio::task::yield_now().await;
                    }
                };
                timeout(BOUND, all_wait).await.expect("twenty wait for a transaction");
                lock.rollback().await.expect("released");
            };
            futures::future::join(others, release).await.0
        };
        futures::future::join(second, others).await
    };
    let (first, (second, others)) = futures::future::join(first, then).await;
    let mut ahead = first.iter().chain(&second);
    assert!(ahead.all(|answer| answer.status == StatusCode::ACCEPTED));
    for answer in &others {
        answer.problem("database_unavailable");
    }
    let tries: i64 = sqlx::query_scalar("SELECT last_value FROM tries")
        .fetch_one(api.pool())
        .await
        .expect("counted");
    assert!(tries <= 2, "each was tried: {tries}");
}

/// Returns when so many statements wait for a lock.
async fn waits_for_a_lock(api: &TestApi, count: i64) {
    let waiting = async {
        loop {
            let waits: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(api.pool())
            .await
            .expect("counted");
            if waits >= count {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, waiting).await.expect("so many wait");
}
