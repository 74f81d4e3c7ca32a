//! Shutdown, lost sessions, and Postgres that goes away.

use std::{path::PathBuf, time::Duration};

use wireroom::{config::QueueConfig, queue::Attempt, store::jobs::NewJob};
use wireroom_jobs::Outcome;

use super::bed::{BOUND, Bed, Counter, config, function, job, waits_for_cancel};
use crate::support::wait::eventually;

fn impatient() -> QueueConfig {
    QueueConfig {
        shutdown_soft: Duration::ZERO,
        ..config()
    }
}

#[tokio::test]
async fn a_short_job_finishes_and_nothing_is_claimed_after_the_stop() {
    let bed = Bed::new().await;
    let (go, gate) = tokio::sync::watch::channel(false);
    let runner = function(move |_| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            Outcome::Done(1.into())
        }
    });
    let running = bed.start(1, runner).await;
    let short = bed.enqueue_one(job()).await;
    bed.until_state(short, "running").await;
    let waiting = bed.enqueue_one(job()).await;
    let worker = running.worker;
    let shutdown = tokio::spawn(running.handle.shutdown());
    let state = |expected: &'static str| {
        let bed = &bed;
        eventually(BOUND, move || async move {
            let state: String = sqlx::query_scalar("SELECT state FROM workers WHERE id = $1")
                .bind(worker.0)
                .fetch_one(bed.pool())
                .await
                .unwrap();
            if state == expected { Ok(()) } else { Err(state) }
        })
    };
    state("draining").await;
    go.send_replace(true);
    tokio::time::timeout(BOUND, shutdown)
        .await
        .expect("the shutdown ends")
        .unwrap();
    assert_eq!(bed.job(short).await.state, "succeeded");
    assert_eq!(bed.job(waiting).await.state, "queued");
    state("stopped").await;
}

#[tokio::test]
async fn a_long_job_is_handed_back_refunded() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let running = bed.start_on(session, 1, waits_for_cancel(), impatient()).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "running").await;
    tokio::time::timeout(BOUND, running.handle.shutdown())
        .await
        .expect("the shutdown ends");
    let seen = bed.job(id).await;
    assert_eq!(
        (seen.state.as_str(), seen.attempt, seen.wait_code()),
        ("queued", 0, "handed_over")
    );
}

#[tokio::test]
async fn a_function_that_does_not_stop_is_dropped_and_handed_back() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let stubborn = function(|_| std::future::pending());
    let running = bed.start_on(session, 1, stubborn, impatient()).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "running").await;
    tokio::time::timeout(BOUND, running.handle.shutdown())
        .await
        .expect("the shutdown ends");
    assert_eq!(bed.job(id).await.state, "queued");
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_short_jobs() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let patient = QueueConfig {
        shutdown_soft: Duration::from_secs(3600),
        ..config()
    };
    let running = bed.start_on(session, 1, waits_for_cancel(), patient).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "running").await;
    running.handle.hurry().cancel();
    tokio::time::timeout(BOUND, running.handle.shutdown())
        .await
        .expect("the shutdown ends");
    assert_eq!(bed.job(id).await.state, "queued");
}

#[tokio::test]
async fn a_lost_session_stops_its_jobs_and_hands_them_over() {
    let bed = Bed::new().await;
    let running = bed.start(1, waits_for_cancel()).await;
    let id = bed
        .enqueue_one(NewJob {
            session: Some(running.session),
            ..job()
        })
        .await;
    bed.until_state(id, "running").await;
    running.sessions.replace(Vec::new());
    running.held.lost.cancel();
    let seen = bed.until_state(id, "queued").await;
    assert_eq!((seen.attempt, seen.session_id), (0, Some(running.session.0)));
}

#[tokio::test]
async fn nothing_is_lost_when_postgres_goes_away_under_load() {
    use wireroom::cluster::Cluster;
    let bed = Bed::new().await;
    let runs = Counter::default();
    let counted = runs.clone();
    let runner = function(move |_: Attempt| {
        counted.up();
        async { Outcome::Done(1.into()) }
    });
    let _running = bed.start(20, runner).await;
    let _ = std::any::type_name::<(Cluster, PathBuf)>();
    for _ in 0..20 {
        bed.enqueue(&[0; 100].map(|_| job())).await;
        // Every connection of this database is cut, the listener's and those in the middle of a statement included.
        bed.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    }
    eventually(Duration::from_secs(60), || async {
        let left = bed.count("SELECT count(*) FROM jobs").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE state = 'succeeded'")
            .await,
        2000
    );
}
