//! Workers die, sessions are lost: every job comes back, once.

use std::time::Duration;

use wireroom::{
    cluster::testing::TestDatabase,
    config::{DatabaseConfig, Secret},
    ids::JobId,
    store::{
        self,
        attempt_data::{self, AttemptKey},
        claims::start,
        jobs::{Cancelled, NewJob, cancel},
        rescue::{Orphan, RescueLimits, fail_jobs_of_lost_sessions, rescue_orphans, return_unknown},
    },
};
use wireroom_jobs::Outcome;

use super::bed::{Bed, config, function, job, waits_for_cancel};

const LIMITS: RescueLimits = RescueLimits {
    worker_dead: Duration::from_secs(15),
    crashes: 3,
    batch: 100,
};

async fn rescue(bed: &Bed) -> Vec<Orphan> {
    let mut conn = bed.pool().acquire().await.unwrap();
    rescue_orphans(&mut conn, LIMITS).await.unwrap()
}

/// Claims the job under a new worker and session, lets it start or not, and lets the worker die with its lease.
async fn die_with(bed: &Bed, id: JobId, started: bool) {
    let (worker, session, fence) = bed.worker_with_session().await;
    let claimed = bed.claim(worker, session, fence, "default", 1).await;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    if started {
        let mut conn = bed.pool().acquire().await.unwrap();
        assert_eq!(start(&mut conn, &[(id, claimed[0].fence)]).await.unwrap(), [id]);
    }
    sqlx::query("UPDATE workers SET heartbeat_at = wireroom_now() - interval '1 hour' WHERE id = $1")
        .bind(worker.0)
        .execute(bed.pool())
        .await
        .unwrap();
    bed.expire_lease(session).await;
}

#[tokio::test]
async fn an_orphan_that_had_not_started_is_refunded() {
    let bed = Bed::new().await;
    let id = bed.enqueue_one(job()).await;
    die_with(&bed, id, false).await;
    assert_eq!(rescue(&bed).await[0].became, "queued");
    let seen = bed.job(id).await;
    assert_eq!(
        (seen.state.as_str(), seen.attempt, seen.session_id),
        ("queued", 0, None)
    );
    assert_eq!(bed.count("SELECT crashes::bigint FROM jobs").await, 0);
    assert_eq!(bed.count("SELECT count(*) FROM jobs WHERE suspect").await, 1);
    assert_eq!(
        bed.count("SELECT count(*) FROM job_attempts WHERE outcome = 'orphaned'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_job_that_kills_its_worker_ends_failed() {
    let bed = Bed::new().await;
    let id = bed.enqueue_one(job()).await;
    for crash in 1..=3 {
        die_with(&bed, id, true).await;
        let became = rescue(&bed).await[0].became.clone();
        assert_eq!(became, if crash < 3 { "queued" } else { "failed" }, "crash {crash}");
    }
    let seen = bed.job(id).await;
    assert_eq!((seen.error_code(), seen.attempt), ("worker_crashed", 3));
}

#[tokio::test]
async fn a_crash_on_the_last_attempt_ends_failed() {
    let bed = Bed::new().await;
    let id = bed
        .enqueue_one(NewJob {
            max_attempts: 1,
            ..job()
        })
        .await;
    die_with(&bed, id, true).await;
    rescue(&bed).await;
    assert_eq!(bed.job(id).await.error_code(), "worker_crashed");
}

#[tokio::test]
async fn nothing_is_rescued_before_its_lease_has_expired() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    bed.run("UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 hour'")
        .await;
    assert!(rescue(&bed).await.is_empty());
    bed.expire_lease(session).await;
    assert_eq!(rescue(&bed).await[0].id, id);
}

#[tokio::test]
async fn a_worker_whose_row_is_gone_still_gets_its_jobs_rescued() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue_one(job()).await;
    bed.claim(worker, session, fence, "default", 1).await;
    bed.run("DELETE FROM workers").await;
    bed.expire_lease(session).await;
    assert_eq!(rescue(&bed).await.len(), 1);
}

#[tokio::test]
async fn a_healthy_long_job_is_not_rescued() {
    let bed = Bed::new().await;
    let running = bed.start(1, waits_for_cancel()).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "running").await;
    // Its lease is renewed by nobody here; the worker beats, and the fence is the one of the claim.
    bed.expire_lease(running.session).await;
    assert!(rescue(&bed).await.is_empty());
    assert_eq!(bed.job(id).await.state, "running");
}

#[tokio::test]
async fn a_session_under_a_newer_fence_gives_its_old_jobs_back_without_a_crash() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed
        .enqueue_one(NewJob {
            session: Some(session),
            ..job()
        })
        .await;
    bed.claim(worker, session, fence, "default", 1).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    start(&mut conn, &[(id, 1)]).await.unwrap();
    let other = bed.worker().await;
    bed.lease(session, other).await;
    bed.run("UPDATE workers SET heartbeat_at = wireroom_now()").await;
    assert_eq!(rescue(&bed).await.len(), 1);
    let seen = bed.job(id).await;
    assert_eq!(
        (seen.state.as_str(), seen.attempt, seen.session_id),
        ("queued", 0, Some(session.0))
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM jobs WHERE suspect OR crashes > 0")
            .await,
        0
    );
}

#[tokio::test]
async fn a_watch_has_no_part_in_the_death_of_a_worker_that_lived_on_after_its_start() {
    let bed = Bed::new().await;
    let id = bed.enqueue_one(job()).await;
    bed.run("UPDATE jobs SET lane = 'watch', started_at = wireroom_now()")
        .await;
    let rescued = async |heartbeat: f64| {
        let worker = bed.worker().await;
        sqlx::query(
            "UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, worker_id = $1,
                started_at = wireroom_now() - interval '1 hour'",
        )
        .bind(worker.0)
        .execute(bed.pool())
        .await
        .unwrap();
        sqlx::query("UPDATE workers SET heartbeat_at = wireroom_now() - interval '1 hour' + make_interval(secs => $1)")
            .bind(heartbeat)
            .execute(bed.pool())
            .await
            .unwrap();
        assert_eq!(rescue(&bed).await[0].became, "queued");
        bed.count("SELECT (crashes * 100 + attempt * 10 + suspect::int)::bigint FROM jobs WHERE state = 'queued'")
            .await
    };
    assert_eq!(rescued(4.0).await, 111, "it may have been the watch");
    for _ in 0..5 {
        assert_eq!(rescued(6.0).await, 10, "it was not, nor is it counted");
    }
    assert_eq!(bed.job(id).await.state, "queued");
}

/// The lease may run out, and another worker take it, a moment before the dead worker's silence has lasted long enough.
#[tokio::test]
async fn a_crash_counts_although_the_lease_was_taken_over_before_the_worker_counted_as_dead() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.enqueue_one(job()).await;
    let claimed = bed.claim(worker, session, fence, "default", 1).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    start(&mut conn, &[(id, claimed[0].fence)]).await.unwrap();
    bed.run("UPDATE workers SET heartbeat_at = wireroom_now() - interval '14 seconds'")
        .await;
    bed.expire_lease(session).await;
    let other = bed.worker().await;
    bed.lease(session, other).await;

    assert!(rescue(&bed).await.is_empty(), "dead or alive: not known yet");

    bed.run("UPDATE workers SET heartbeat_at = wireroom_now() - interval '16 seconds' WHERE heartbeat_at < started_at")
        .await;
    assert_eq!(rescue(&bed).await[0].became, "queued");
    assert_eq!(bed.count("SELECT crashes::bigint FROM jobs").await, 1);
}

#[tokio::test]
async fn a_cancelled_orphan_is_cancelled() {
    let bed = Bed::new().await;
    let id = bed.enqueue_one(job()).await;
    die_with(&bed, id, true).await;
    bed.run("UPDATE jobs SET cancel_requested_at = wireroom_now()").await;
    rescue(&bed).await;
    assert_eq!(bed.job(id).await.state, "cancelled");
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_comes_back() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue(&[job(), job()]).await;
    let claimed = bed.claim(worker, session, fence, "default", 2).await;
    let known = [(claimed[0].id, claimed[0].fence)];
    let mut conn = bed.pool().acquire().await.unwrap();
    let (returned, in_doubt) = return_unknown(&mut conn, worker, &known, Duration::from_mins(1))
        .await
        .unwrap();
    assert!(returned.is_empty() && in_doubt, "it may still be on its way");
    let (returned, in_doubt) = return_unknown(&mut conn, worker, &known, Duration::ZERO).await.unwrap();
    assert!(!in_doubt);
    assert_eq!(
        returned.iter().map(|orphan| orphan.id).collect::<Vec<_>>(),
        [claimed[1].id]
    );
    let seen = bed.job(claimed[1].id).await;
    assert_eq!((seen.state.as_str(), seen.attempt), ("queued", 0));
    assert_eq!(bed.job(claimed[0].id).await.state, "running");

    bed.run("UPDATE jobs SET cancel_requested_at = wireroom_now() WHERE state = 'running'")
        .await;
    return_unknown(&mut conn, worker, &[], Duration::ZERO).await.unwrap();
    assert_eq!(bed.job(claimed[0].id).await.state, "cancelled", "and is not run first");
}

#[tokio::test]
async fn jobs_bound_to_a_lost_session_fail_by_what_is_known_of_their_effects() {
    let bed = Bed::new().await;
    let [session, healthy] = [bed.session("default").await, bed.session("default").await];
    let of = |session| NewJob {
        session: Some(session),
        ..job()
    };
    let [plain, sent, unknown, other] = [
        bed.enqueue_one(of(session)).await,
        bed.enqueue_one(of(session)).await,
        bed.enqueue_one(of(session)).await,
        bed.enqueue_one(of(healthy)).await,
    ];
    for (id, message) in [(sent, Some(7)), (unknown, None)] {
        sqlx::query(
            "INSERT INTO job_effects (job_id, chat_id, session_id, random_id, attempted_at, message_id)
             VALUES ($1, 5, $2, $3, wireroom_now(), $4)",
        )
        .bind(id.0)
        .bind(session.0)
        .bind(i64::from(message.unwrap_or(0)))
        .bind(message)
        .execute(bed.pool())
        .await
        .unwrap();
    }
    let mut conn = bed.pool().acquire().await.unwrap();
    assert!(fail_jobs_of_lost_sessions(&mut conn, 10).await.unwrap().is_empty());
    sqlx::query("UPDATE sessions SET state = 'banned' WHERE id = $1")
        .bind(session.0)
        .execute(bed.pool())
        .await
        .unwrap();
    assert_eq!(fail_jobs_of_lost_sessions(&mut conn, 10).await.unwrap().len(), 3);
    assert_eq!(bed.job(plain).await.error_code(), "session_lost");
    assert_eq!(
        bed.job(sent).await.error_code(),
        "outcome_unknown",
        "not to be sent again"
    );
    assert_eq!(bed.job(unknown).await.error_code(), "outcome_unknown");
    assert_eq!(bed.job(other).await.state, "queued");
}

#[tokio::test]
async fn a_start_is_stored_while_the_job_runs_and_before_a_suspect_runs() {
    let bed = Bed::new().await;
    let pool = bed.pool().clone();
    let runner = function(move |attempt| {
        let pool = pool.clone();
        async move {
            let started: bool = sqlx::query_scalar("SELECT started_at IS NOT NULL FROM jobs WHERE id = $1")
                .bind(attempt.job.id.0)
                .fetch_one(&pool)
                .await
                .unwrap();
            if attempt.job.suspect {
                return Outcome::Done(started.into());
            }
            attempt.cancellation.cancelled().await;
            Outcome::Cancelled
        }
    });
    let session = bed.session("default").await;
    let suspect = bed.enqueue_one(job()).await;
    bed.run("UPDATE jobs SET suspect = true").await;
    let _running = bed.start_on(session, 2, runner, config()).await;
    assert_eq!(bed.until_state(suspect, "succeeded").await.result, Some(true.into()));
    let plain = bed.enqueue_one(job()).await;
    crate::support::wait::eventually(super::bed::BOUND, || async {
        let seen = bed.job(plain).await;
        if seen.started { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn a_dead_workers_job_runs_again_elsewhere_with_one_result() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let id = bed
        .enqueue_one(NewJob {
            session: Some(session),
            ..job()
        })
        .await;
    let worker = bed.worker().await;
    let fence = bed.lease(session, worker).await;
    bed.claim(worker, session, fence, "default", 1).await;
    sqlx::query("UPDATE workers SET heartbeat_at = wireroom_now() - interval '1 hour' WHERE id = $1")
        .bind(worker.0)
        .execute(bed.pool())
        .await
        .unwrap();
    bed.expire_lease(session).await;
    let _running = bed
        .start_on(session, 1, function(|_| async { Outcome::Done(2.into()) }), config())
        .await;
    let seen = bed.until_state(id, "succeeded").await;
    assert_eq!((seen.fence, seen.attempt), (2, 1));
    assert_eq!(bed.count("SELECT count(*) FROM finished_jobs").await, 1);
}

/// Found by the simulation: a process that is frozen, or cut off without a word, between two statements of a transaction.
#[tokio::test]
async fn a_worker_that_falls_silent_in_a_transaction_keeps_nobody_from_its_job() {
    let database = TestDatabase::new().await;
    let bed = Bed::over(database.pool().clone());
    let id = bed.enqueue_one(job()).await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let claimed = bed.claim(worker, session, fence, "default", 1).await;
    let config = DatabaseConfig {
        url: Secret::new(database.url()),
        max_connections: 2,
        acquire_timeout: Duration::from_secs(5),
        // Longer than the test needs for its next statement.
        idle_transaction: Duration::from_secs(3),
    };
    let silent = store::pool(&config).unwrap();
    let attempt = AttemptKey {
        job: id,
        fence: claimed[0].fence,
    };
    let mut transaction = silent.begin().await.unwrap();
    attempt_data::hold(&mut transaction, attempt, "test").await.unwrap();
    let mut conn = bed.pool().acquire().await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_secs(20), cancel(&mut conn, id)).await;
    assert_eq!(cancelled.expect("its lock is gone").unwrap(), Cancelled::Requested);
    let late = attempt_data::hold(&mut transaction, attempt, "test").await;
    assert!(late.expect_err("the server ended it").is_unavailable());
}
