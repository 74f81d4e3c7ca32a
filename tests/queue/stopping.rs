//! Shutdown, lost sessions, and Postgres that goes away.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    time::Duration,
};

use wireroom::{
    cluster::{Cluster, ClusterConfig},
    config::QueueConfig,
    ids::JobId,
    queue::Attempt,
    store::{MIGRATOR, jobs::NewJob},
};
use wireroom_jobs::Outcome;

use super::bed::{BOUND, Bed, Counter, config, function, job, jobs, waits_for_cancel};
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
async fn an_idle_queue_stops_at_once() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let patient = QueueConfig {
        shutdown_soft: Duration::from_hours(1),
        shutdown_hard: Duration::from_hours(1),
        ..config()
    };
    let running = bed.start_on(session, 1, waits_for_cancel(), patient).await;
    tokio::time::timeout(BOUND, running.handle.shutdown())
        .await
        .expect("the shutdown ends");
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_short_jobs() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let patient = QueueConfig {
        shutdown_soft: Duration::from_hours(1),
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
async fn nothing_is_lost_when_connections_are_cut_under_load() {
    let bed = Bed::new().await;
    let runs = Counter::default();
    let counted = runs.clone();
    let runner = function(move |_: Attempt| {
        counted.up();
        async { Outcome::Done(1.into()) }
    });
    let _running = bed.start(20, runner).await;
    for _ in 0..20 {
        bed.enqueue(&jobs(100)).await;
        // Every connection of this database is cut, the listener's and those in the middle of a statement included.
        bed.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    }
    eventually(Duration::from_mins(1), || async {
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

#[tokio::test]
async fn nothing_is_lost_when_postgres_restarts_and_crashes_under_load() {
    let place = tempfile::tempdir().unwrap();
    // The server's user may be another one.
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::start(ClusterConfig {
        dir: place.path().join("cluster"),
        ..ClusterConfig::default()
    })
    .await
    .expect("a cluster");
    let url = cluster.ensure_database("queue").await.expect("a database");
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    MIGRATOR.run(&pool).await.unwrap();
    let bed = Bed::over(pool);
    let runs: Arc<Mutex<BTreeMap<JobId, i32>>> = Arc::default();
    let counted = Arc::clone(&runs);
    let runner = function(move |attempt: Attempt| {
        *counted.lock().unwrap().entry(attempt.job.id).or_default() += 1;
        async {
            // Long enough for some jobs to be in the middle when the server goes.
            tokio::time::sleep(Duration::from_millis(2)).await;
            Outcome::Done(1.into())
        }
    });
    let _running = bed.start(50, runner).await;
    for abruptly in [false, true] {
        let before = runs.lock().unwrap().len();
        bed.enqueue(&jobs(3000)).await;
        eventually(BOUND, || async {
            let done = runs.lock().unwrap().len() - before;
            if done > 200 { Ok(()) } else { Err(done) }
        })
        .await;
        cluster.halt(abruptly).await.expect("it stops");
        cluster.start_again().await.expect("it starts");
        eventually(Duration::from_mins(1), || async {
            let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM jobs")
                .fetch_one(bed.pool())
                .await;
            match left {
                Ok(0) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE state = 'succeeded'")
            .await,
        6000
    );
    assert_eq!(runs.lock().unwrap().len(), 6000);
}
