//! What a client does to jobs that are there: cancel with a bound, retry, change, many at once.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::Semaphore;
use wireroom::{
    config::QueueConfig,
    ids::JobId,
    store::{
        bulk::{self, NotRetried},
        job_reads::{JobFilter, JobState},
        jobs::{Cancelled, NewJob, cancel},
        reorder::{Change, Changed, change},
    },
};
use wireroom_jobs::{JobKind, Outcome};

use super::bed::{AGEING, BOUND, Bed, bulk as group, config, function, job, jobs, now};
use crate::support::wait::eventually;

/// Asked to stop, its functions never do; and a cancel is waited for only so long.
fn stubborn() -> QueueConfig {
    QueueConfig {
        cancel_wait: Duration::from_millis(500),
        shutdown_hard: Duration::from_mins(5),
        ..config()
    }
}

async fn ask(bed: &Bed, id: JobId) {
    let mut conn = bed.pool().acquire().await.expect("a connection");
    assert_eq!(cancel(&mut conn, id).await.expect("a cancel"), Cancelled::Requested);
}

#[tokio::test]
async fn a_job_that_does_not_stop_is_abandoned_and_fenced_out() {
    let bed = Bed::new().await;
    let done = Arc::new(Semaphore::new(0));
    let gate = done.clone();
    let runner = function(move |_| {
        let gate = gate.clone();
        async move {
            let _open = gate.acquire().await;
            Outcome::Done("too late".into())
        }
    });
    let session = bed.session("default").await;
    let running = bed.start_on(session, 1, runner, stubborn()).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "running").await;
    ask(&bed, id).await;
    running.waker.cancelled(id);
    let seen = bed.until_state(id, "cancelled").await;
    assert_eq!(seen.error_code(), "abandoned");
    let text = seen.error.expect("an error")["message"].to_string();
    assert!(text.contains("may have happened"), "{text}");
    assert_eq!(running.handle.in_flight(), 1, "the stale attempt still runs");
    done.add_permits(10);
    // Its end is stored, or rather not: the next job of the only slot comes after it.
    let next = bed.enqueue_one(job()).await;
    running.waker.ready();
    bed.until_state(next, "succeeded").await;
    let seen = bed.job(id).await;
    assert_eq!((seen.state.as_str(), seen.result), ("cancelled", None));
    assert_eq!(bed.count("SELECT count(*) FROM finished_jobs").await, 2);
}

#[tokio::test]
async fn a_cancelled_job_says_what_may_have_happened() {
    let unknown = ("failed", "outcome_unknown");
    for (effect, (state, code)) in [
        (Some(None), unknown),
        (Some(Some(7)), unknown),
        (None, ("cancelled", "abandoned")),
    ] {
        let bed = Bed::new().await;
        let (worker, session, fence) = bed.worker_with_session().await;
        let id = bed.enqueue_one(NewJob::new(JobKind::Publish, json!({}))).await;
        assert_eq!(bed.claim(worker, session, fence, "default", 1).await.len(), 1);
        if let Some(message_id) = effect {
            sqlx::query(
                "INSERT INTO job_effects (job_id, chat_id, session_id, random_id, attempted_at, message_id)
                 VALUES ($1, 1, $2, 1, wireroom_now(), $3)",
            )
            .bind(id.0)
            .bind(session.0)
            .bind::<Option<i32>>(message_id)
            .execute(bed.pool())
            .await
            .expect("an effect");
        }
        ask(&bed, id).await;
        // Any worker abandons it; this one has no session.
        let other = bed.session("other").await;
        let _running = bed
            .start_on(other, 0, function(|_| async { Outcome::Cancelled }), stubborn())
            .await;
        assert_eq!(bed.until_state(id, state).await.error_code(), code);
    }
}

async fn retry(conn: &mut PgConnection, id: JobId) -> Vec<JobId> {
    let retried = bulk::retry(conn, &[id], "key:test", AGEING).await.expect("a retry");
    retried.iter().map(|retried| retried.id).collect()
}

#[tokio::test]
async fn a_retry_is_a_new_job_that_names_the_old_and_is_made_once() {
    let bed = Bed::new().await;
    let first = NewJob {
        priority: 5,
        tags: vec!["spring".to_owned()],
        limit_key: Some("campaign:spring".to_owned()),
        deadline: Some(now() + TimeDelta::hours(1)),
        ..NewJob::new(JobKind::Scan, json!({"chat": "@reading_club"}))
    };
    let old = bed.enqueue_one(first).await;
    let running = bed
        .start(
            1,
            function(|_| async { Outcome::Discard(wireroom_jobs::JobError::permanent("x", "x")) }),
        )
        .await;
    bed.until_state(old, "failed").await;
    running.handle.stop_claims();
    let (mut a, mut b) = (
        bed.pool().acquire().await.expect("a connection"),
        bed.pool().acquire().await.expect("a connection"),
    );
    let (a, b) = tokio::join!(retry(&mut a, old), retry(&mut b, old));
    assert_eq!(a.len() + b.len(), 1, "two at once make one");
    let new = *a.first().or(b.first()).expect("one of them");
    assert!(new > old, "ids sort by time");
    let same: bool = sqlx::query_scalar(
        "SELECT n.args = o.args AND n.priority = 5 AND n.tags = o.tags AND n.session_id = o.session_id AND n.session_bound
             AND n.deadline IS NULL AND n.limit_key = 'campaign:spring' AND n.created_by = 'key:test' AND n.attempt = 0
             AND r.retry_of = o.id AND n.state = 'queued'
         FROM jobs n JOIN job_origins r ON r.job_id = n.id, finished_jobs o WHERE n.id = $1 AND o.id = $2",
    )
    .bind(new.0)
    .bind(old.0)
    .fetch_one(bed.pool())
    .await
    .expect("both jobs");
    assert!(same);
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let mut why = async |id| bulk::why_not_retried(&mut conn, id).await.expect("a look");
    assert_eq!(why(old).await, Some(NotRetried::Already(new)));
    assert_eq!(why(new).await, Some(NotRetried::Live(JobState::Queued)));
    assert_eq!(why(JobId::generate()).await, Some(NotRetried::Unknown));
}

#[tokio::test]
async fn a_job_of_a_lost_session_is_not_retried_elsewhere() {
    let bed = Bed::new().await;
    let running = bed.start(1, function(|_| async { Outcome::Done(1.into()) })).await;
    let old = bed.enqueue_one(job()).await;
    bed.until_state(old, "succeeded").await;
    bed.run("UPDATE sessions SET state = 'banned'").await;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    assert_eq!(retry(&mut conn, old).await, []);
    assert_eq!(
        bulk::why_not_retried(&mut conn, old).await.expect("a look"),
        Some(NotRetried::SessionNotReady(running.session, Some("banned".to_owned())))
    );
}

#[tokio::test]
async fn a_waiting_job_changes_its_place_and_its_time() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let ids = bed.enqueue(&jobs(3)).await;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let up = Change {
        priority: Some(1),
        run_at: None,
    };
    let away = Change {
        priority: None,
        run_at: Some(now() + TimeDelta::hours(1)),
    };
    assert_eq!(
        change(&mut conn, ids[2], up, AGEING).await.expect("changed"),
        Changed::Done
    );
    assert_eq!(
        change(&mut conn, ids[0], away, AGEING).await.expect("changed"),
        Changed::Done
    );
    let claimed = bed.claim(worker, session, fence, "default", 5).await;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [ids[2], ids[1]]);
    assert_eq!(bed.job(ids[0]).await.state, "scheduled");
    let now = Change {
        priority: None,
        run_at: Some(now()),
    };
    assert_eq!(
        change(&mut conn, ids[0], now, AGEING).await.expect("changed"),
        Changed::Done
    );
    assert_eq!(bed.job(ids[0]).await.state, "queued");
    assert_eq!(
        change(&mut conn, ids[1], up, AGEING).await.expect("refused"),
        Changed::Running
    );
    let unknown = change(&mut conn, JobId::generate(), up, AGEING).await;
    assert_eq!(unknown.expect("refused"), Changed::Unknown);
    let rank_fits: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM jobs WHERE abs(rank - ((extract(epoch FROM run_at) * 1000000)::bigint - priority * $1)) > 1",
    )
    .bind(i64::try_from(AGEING.as_micros()).expect("a minute"))
    .fetch_one(bed.pool())
    .await
    .expect("a count");
    assert_eq!(rank_fits, 0);
}

#[tokio::test]
async fn a_change_past_the_deadline_is_refused() {
    let bed = Bed::new().await;
    let deadline = Some(now() + TimeDelta::minutes(5));
    let id = bed.enqueue_one(NewJob { deadline, ..job() }).await;
    let late = Change {
        priority: Some(3),
        run_at: Some(now() + TimeDelta::minutes(6)),
    };
    let mut conn = bed.pool().acquire().await.expect("a connection");
    assert_eq!(
        change(&mut conn, id, late, AGEING).await.expect("refused"),
        Changed::PastDeadline
    );
    assert_eq!(bed.count("SELECT count(*) FROM jobs WHERE priority = 0").await, 1);
}

#[tokio::test]
async fn a_bulk_cancel_meets_its_filter_whatever_the_state() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let tagged = |tag: &str| NewJob {
        tags: vec![tag.to_owned()],
        ..job()
    };
    let scheduled = NewJob {
        run_at: Some(now() + TimeDelta::hours(1)),
        ..tagged("spring")
    };
    let other = bed.enqueue_one(tagged("autumn")).await;
    bed.enqueue(&[scheduled, tagged("spring"), tagged("spring"), tagged("spring")])
        .await;
    let request = wireroom::store::claims::ClaimRequest {
        worker,
        members: vec![wireroom::store::claims::Member {
            session,
            fence,
            free: 2,
            group: 0,
        }],
        groups: vec![group("default", None)],
        take_suspect: true,
    };
    assert_eq!(bed.claim_with(&request).await.len(), 2);
    let filter = JobFilter {
        tag: Some("spring"),
        ..JobFilter::default()
    };
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let counts = bulk::count_live(&mut conn, &filter).await.expect("counts");
    assert_eq!(
        counts,
        [(JobState::Queued, 2), (JobState::Running, 1), (JobState::Scheduled, 1)]
    );
    let mut cancelled = Vec::new();
    loop {
        let batch = bulk::cancel_batch(&mut conn, &filter, 3).await.expect("a batch");
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 3);
        cancelled.extend(batch);
    }
    assert_eq!(cancelled.iter().filter(|job| job.running).count(), 1);
    assert_eq!(cancelled.len(), 4);
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE state = 'cancelled'")
            .await,
        3
    );
    assert_eq!(
        bed.count("SELECT count(*) FROM jobs WHERE state = 'running' AND cancel_requested_at IS NOT NULL")
            .await,
        1
    );
    assert_eq!(bed.job(other).await.state, "running");
}

#[tokio::test]
async fn a_bulk_retry_repeats_what_failed_and_nobody_repeated() {
    let bed = Bed::new().await;
    let running = bed
        .start(
            5,
            function(|_| async { Outcome::Discard(wireroom_jobs::JobError::permanent("x", "x")) }),
        )
        .await;
    bed.enqueue(&jobs(25)).await;
    running.waker.ready();
    eventually(BOUND, || async {
        match bed.count("SELECT count(*) FROM finished_jobs").await {
            25 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    running.handle.stop_claims();
    let filter = JobFilter {
        state: Some(JobState::Failed),
        ..JobFilter::default()
    };
    let mut conn = bed.pool().acquire().await.expect("a connection");
    assert_eq!(
        bulk::count_retryable(&mut conn, &filter).await.expect("a count").jobs,
        25
    );
    let mut made = 0;
    loop {
        let ids = bulk::find_retryable(&mut conn, &filter, 10).await.expect("ids");
        if ids.is_empty() {
            break;
        }
        made += bulk::retry(&mut conn, &ids, "key:test", AGEING)
            .await
            .expect("a batch")
            .len();
    }
    assert_eq!((made, bed.count("SELECT count(*) FROM jobs").await), (25, 25));
}
