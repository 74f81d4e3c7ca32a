//! How attempts end, and what a late end changes: nothing.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use wireroom::{
    clock::SystemClock,
    config::QueueConfig,
    ids::JobId,
    store::{
        completions::{BackAs, Due, FinalState, Finish, GoBack, fail_past_deadline, finish, go_back},
        jobs::{Cancelled, NewJob, cancel},
        rescue::{RescueLimits, rescue_orphans},
    },
};
use wireroom_jobs::{JobError, JobKind, Outcome, WaitReason, ports::Clock};

use super::bed::{AGEING, BOUND, Bed, Counter, args, config, function, job, jobs, waits_for_cancel};
use crate::support::wait::eventually;

/// Part of a function, to see it dropped.
struct CountsItsDrop(Counter);

impl Drop for CountsItsDrop {
    fn drop(&mut self) {
        self.0.up();
    }
}

fn done(id: JobId, fence: i64) -> Finish {
    Finish {
        id,
        fence,
        state: FinalState::Succeeded,
        result: Some(json!({"late": true})),
        error: None,
    }
}

fn retry(id: JobId, fence: i64, due: Due) -> GoBack {
    GoBack {
        id,
        fence,
        back_as: BackAs::Retry,
        due,
        wait_reason: WaitReason::new("backoff", "x"),
        error: Some(JobError::transient("x", "x")),
    }
}

/// A late success of attempt `fence` must change nothing about the job.
async fn assert_stale(bed: &Bed, id: JobId, fence: i64) {
    let before = bed.job(id).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    assert!(finish(&mut conn, &[done(id, fence)]).await.unwrap().is_empty());
    assert!(
        go_back(&mut conn, &[retry(id, fence, Due::Now)], AGEING)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(bed.job(id).await, before);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM all_jobs WHERE id = $1")
        .bind(id.0)
        .fetch_one(bed.pool())
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_success_moves_the_job_with_its_result() {
    let bed = Bed::new().await;
    let _running = bed
        .start(1, function(|_| async { Outcome::Done(json!({"n": 1})) }))
        .await;
    let id = bed.enqueue_one(job()).await;
    let seen = bed.until_state(id, "succeeded").await;
    assert_eq!(
        (seen.result, seen.error, seen.attempt, seen.started),
        (Some(json!({"n": 1})), None, 1, true)
    );
    assert_eq!(bed.count("SELECT count(*) FROM jobs").await, 0);
    assert_eq!(bed.count("SELECT count(*) FROM finished_jobs_default").await, 0);
}

#[tokio::test]
async fn a_late_success_after_a_rescue_changes_nothing() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    bed.run("UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 hour'")
        .await;
    bed.expire_lease(session).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let limits = RescueLimits {
        worker_dead: Duration::from_secs(15),
        crashes: 3,
        batch: 10,
    };
    assert_eq!(rescue_orphans(&mut conn, limits).await.unwrap().len(), 1);
    assert_stale(&bed, id, 1).await;
    // Also while the next attempt runs.
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.claim(worker, session, fence, "default", 1).await;
    assert_stale(&bed, id, 1).await;
    assert_eq!(finish(&mut conn, &[done(id, 2)]).await.unwrap(), [id]);
}

#[tokio::test]
async fn a_late_success_after_a_failure_or_a_cancel_changes_nothing() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let failed = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    let failure = Finish {
        state: FinalState::Failed,
        result: None,
        error: Some(JobError::permanent("x", "x")),
        ..done(failed, 1)
    };
    finish(&mut conn, &[failure]).await.unwrap();
    assert_stale(&bed, failed, 1).await;
    assert_eq!(bed.job(failed).await.error_code(), "x");

    let cancelled = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    assert_eq!(cancel(&mut conn, cancelled).await.unwrap(), Cancelled::Requested);
    let handed = GoBack {
        back_as: BackAs::HandedOver,
        ..retry(cancelled, 1, Due::Now)
    };
    go_back(&mut conn, &[handed], AGEING).await.unwrap();
    assert_eq!(bed.job(cancelled).await.state, "cancelled");
    assert_stale(&bed, cancelled, 1).await;
}

#[tokio::test]
async fn a_snooze_refunds_and_waits_until_its_time() {
    let bed = Bed::new().await;
    let until = SystemClock.now() + TimeDelta::hours(2);
    let runner = function(move |_| async move {
        Outcome::Snooze {
            until,
            reason: WaitReason::new("flood", "Telegram asks for a pause."),
        }
    });
    let _running = bed.start(1, runner).await;
    let id = bed
        .enqueue_one(NewJob {
            max_attempts: 1,
            ..job()
        })
        .await;
    let seen = bed.until_state(id, "scheduled").await;
    assert_eq!((seen.attempt, seen.wait_code(), seen.session_id), (0, "flood", None));
    let run_at: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT run_at FROM jobs")
        .fetch_one(bed.pool())
        .await
        .unwrap();
    assert!((run_at - until).abs() < TimeDelta::milliseconds(1));
    assert_eq!(
        bed.count("SELECT count(*) FROM job_attempts WHERE outcome = 'snooze' AND attempt = 1")
            .await,
        1
    );
}

#[tokio::test]
async fn a_back_off_is_respected() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let later = retry(id, 1, Due::In(Duration::from_secs(100)));
    go_back(&mut conn, &[later], AGEING).await.unwrap();
    let seen = bed.job(id).await;
    assert_eq!(
        (seen.state.as_str(), seen.attempt, seen.error_code()),
        ("scheduled", 1, "x")
    );
    let promotion = wireroom::store::claims::promote(&mut conn, 10).await.unwrap();
    assert_eq!(promotion.promoted, 0);
    assert!(
        promotion
            .next_in
            .is_some_and(|next_in| next_in > Duration::from_secs(95))
    );
}

#[tokio::test]
async fn spent_attempts_end_failed_with_the_last_error() {
    let bed = Bed::new().await;
    let runs = Counter::default();
    let counted = runs.clone();
    let runner = function(move |attempt| {
        counted.up();
        async move { Outcome::Retry(JobError::transient(format!("error_{}", attempt.job.attempt), "x")) }
    });
    let _running = bed.start(1, runner).await;
    let id = bed
        .enqueue_one(NewJob {
            max_attempts: 3,
            ..job()
        })
        .await;
    let seen = bed.until_state(id, "failed").await;
    assert_eq!((seen.error_code(), seen.attempt, runs.get()), ("error_3", 3, 3));
    assert_eq!(
        bed.count("SELECT count(*) FROM job_attempts WHERE outcome = 'retry'")
            .await,
        2
    );
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_dropped_and_counts_and_the_last_one_fails_the_job() {
    let bed = Bed::new().await;
    let (begun, dropped) = (Counter::default(), Counter::default());
    let runner = {
        let (begun, dropped) = (begun.clone(), dropped.clone());
        function(move |attempt| {
            let (begun, dropped) = (begun.clone(), dropped.clone());
            async move {
                if attempt.job.kind == JobKind::Scan {
                    return Outcome::Done(1.into());
                }
                begun.up();
                let _seen = CountsItsDrop(dropped);
                std::future::pending().await
            }
        })
    };
    let session = bed.session("default").await;
    let limit = |_| Duration::from_millis(150);
    let running = bed
        .start_timed(bed.pool().clone(), session, 1, runner, config(), limit)
        .await;
    let id = bed
        .enqueue_one(NewJob {
            max_attempts: 2,
            ..job()
        })
        .await;
    // The only slot is taken by attempts that never end.
    let behind = bed.enqueue_one(NewJob::new(JobKind::Scan, json!({}))).await;
    let seen = bed.until_state(id, "failed").await;
    assert_eq!((seen.attempt, seen.error_code()), (2, "attempt_timeout"));
    assert_eq!((begun.get(), dropped.get()), (2, 2));
    let earlier: (String, Value) = sqlx::query_as("SELECT outcome, error FROM job_attempts WHERE job_id = $1")
        .bind(id.0)
        .fetch_one(bed.pool())
        .await
        .unwrap();
    assert_eq!(
        (earlier.0.as_str(), &earlier.1["code"]),
        ("retry", &json!("attempt_timeout"))
    );
    assert_eq!(earlier.1["message"], "The attempt took longer than 0 s.");
    bed.until_state(behind, "succeeded").await;
    drop(running);
}

#[tokio::test]
async fn a_panic_costs_an_attempt_and_not_the_worker() {
    let bed = Bed::new().await;
    let runner = function(|attempt| async move {
        assert!(attempt.job.attempt > 1, "the first attempt panics");
        Outcome::Done(1.into())
    });
    let _running = bed.start(1, runner).await;
    let id = bed.enqueue_one(job()).await;
    assert_eq!(bed.until_state(id, "succeeded").await.attempt, 2);
    let code: String = sqlx::query_scalar("SELECT error->>'code' FROM job_attempts")
        .fetch_one(bed.pool())
        .await
        .unwrap();
    assert_eq!(code, "panicked");
    let last = bed
        .enqueue_one(NewJob {
            max_attempts: 1,
            ..job()
        })
        .await;
    assert_eq!(bed.until_state(last, "failed").await.error_code(), "panicked");
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_fails_its_job_alone() {
    let bed = Bed::new().await;
    let runner = function(|attempt| async move {
        Outcome::Done(if args(&attempt)["bad"] == true {
            "\u{0}".into()
        } else {
            "good".into()
        })
    });
    let _running = bed.start(10, runner).await;
    let jobs: Vec<NewJob> = (0..10)
        .map(|n| NewJob {
            args: json!({"bad": n == 4}),
            ..job()
        })
        .collect();
    let ids = bed.enqueue(&jobs).await;
    for (n, id) in ids.into_iter().enumerate() {
        let state = if n == 4 { "failed" } else { "succeeded" };
        bed.until_state(id, state).await;
    }
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_when_it_stops() {
    let bed = Bed::new().await;
    let running = bed.start(1, waits_for_cancel()).await;
    let first = bed.enqueue_one(job()).await;
    bed.until_state(first, "running").await;
    let second = bed.enqueue_one(job()).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    assert_eq!(cancel(&mut conn, second).await.unwrap(), Cancelled::AtOnce);
    assert_eq!(bed.job(second).await.state, "cancelled");
    assert_eq!(cancel(&mut conn, first).await.unwrap(), Cancelled::Requested);
    running.waker.cancelled(first);
    assert_eq!(bed.until_state(first, "cancelled").await.attempt, 1);
    assert_eq!(cancel(&mut conn, first).await.unwrap(), Cancelled::Finished);
    assert_eq!(cancel(&mut conn, JobId::generate()).await.unwrap(), Cancelled::Unknown);
}

#[tokio::test]
async fn a_cancel_whose_notification_is_lost_is_found_by_the_beat() {
    let bed = Bed::new().await;
    let _running = bed.start(1, waits_for_cancel()).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "running").await;
    let mut conn = bed.pool().acquire().await.unwrap();
    cancel(&mut conn, id).await.unwrap();
    bed.until_state(id, "cancelled").await;
}

#[tokio::test]
async fn a_deadline_fails_jobs_that_wait_and_leaves_those_that_run() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let running = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    let waiting = bed.enqueue_one(job()).await;
    let endless = bed.enqueue_one(job()).await;
    sqlx::query("UPDATE jobs SET deadline = wireroom_now() - interval '1 second' WHERE id <> $1")
        .bind(endless.0)
        .execute(bed.pool())
        .await
        .unwrap();
    let mut conn = bed.pool().acquire().await.unwrap();
    assert_eq!(fail_past_deadline(&mut conn, 10).await.unwrap(), [waiting]);
    assert_eq!(bed.job(waiting).await.error_code(), "deadline_exceeded");
    assert_eq!(bed.job(running).await.state, "running");
    assert_eq!(bed.job(endless).await.state, "queued");
}

#[tokio::test]
async fn a_bound_job_keeps_its_session_on_retry_and_an_unbound_one_gives_it_back() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let [bound, unbound] = [bed.enqueue_one(job()).await, bed.enqueue_one(job()).await];
    bed.claim(worker, session, fence, "default", 2).await;
    sqlx::query("UPDATE jobs SET session_bound = true WHERE id = $1")
        .bind(bound.0)
        .execute(bed.pool())
        .await
        .unwrap();
    let mut conn = bed.pool().acquire().await.unwrap();
    let back = [retry(bound, 1, Due::Now), retry(unbound, 1, Due::Now)];
    assert_eq!(go_back(&mut conn, &back, AGEING).await.unwrap().len(), 2);
    assert_eq!(bed.job(bound).await.session_id, Some(session.0));
    assert_eq!(bed.job(unbound).await.session_id, None);
}

#[tokio::test]
async fn the_session_stays_in_use_until_the_end_is_stored() {
    let bed = Bed::new().await;
    let running = bed.start(1, function(|_| async { Outcome::Done(1.into()) })).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "succeeded").await;
    running.held.in_use.close();
    tokio::time::timeout(BOUND, running.held.in_use.wait())
        .await
        .expect("no token is left behind");
}

#[tokio::test]
async fn claims_wait_for_ends_to_be_stored_and_go_on_at_once() {
    let bed = Bed::new().await;
    bed.run(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.03); RETURN NULL; END';
         CREATE TRIGGER slowly AFTER INSERT ON finished_jobs FOR EACH STATEMENT EXECUTE FUNCTION slowly()",
    )
    .await;
    bed.enqueue(&jobs(200)).await;
    let session = bed.session("default").await;
    // Four ends may be unstored, and no poll helps.
    let config = QueueConfig {
        poll: Duration::from_hours(1),
        claim_batch: 1,
        ..config()
    };
    let runner = function(|_| async { Outcome::Done(1.into()) });
    let _running = bed.start_on(session, 50, runner, config).await;
    eventually(BOUND, || async {
        let left = bed.count("SELECT count(*) FROM jobs").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn a_job_that_may_not_begin_on_a_session_is_anothers_at_once_and_its_own_sessions_later() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let until = SystemClock.now() + TimeDelta::hours(2);
    let elsewhere = |id| GoBack {
        back_as: BackAs::Snooze,
        wait_reason: WaitReason::new("cap_reached", "x"),
        error: None,
        ..retry(id, 1, Due::Elsewhere(until))
    };
    let pooled = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    go_back(&mut conn, &[elsewhere(pooled)], AGEING).await.unwrap();
    let seen = bed.job(pooled).await;
    assert_eq!(
        (seen.state.as_str(), seen.attempt, seen.session_id),
        ("queued", 0, None)
    );
    let (other_worker, other, other_fence) = bed.worker_with_session().await;
    let claimed = bed.claim(other_worker, other, other_fence, "default", 1).await;
    assert_eq!((claimed[0].id, claimed[0].session), (pooled, other));

    let bound = bed
        .enqueue_one(NewJob {
            session: Some(session),
            ..job()
        })
        .await;
    bed.claim(worker, session, fence, "default", 1).await;
    go_back(&mut conn, &[elsewhere(bound)], AGEING).await.unwrap();
    let seen = bed.job(bound).await;
    assert_eq!(
        (seen.state.as_str(), seen.wait_code(), seen.session_id),
        ("scheduled", "cap_reached", Some(session.0))
    );
}
