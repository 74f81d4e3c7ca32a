//! What one process hears of another's jobs, by the bells alone: no dispatcher looks for itself here.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use wireroom_jobs::{JobKind, ports::Clock as _};

use super::{Instant, RING_EVERY, Waker};
use crate::{
    clock::SystemClock,
    cluster::testing::TestDatabase,
    store::jobs::{NewJob, enqueue_ringing},
};

const BOUND: Duration = Duration::from_secs(10);

fn job() -> NewJob {
    NewJob::new(JobKind::Join, json!({}))
}

async fn woken(waker: &Waker, what: &str) {
    tokio::time::timeout(BOUND, waker.woken()).await.expect(what);
}

#[tokio::test]
async fn another_process_is_woken_by_a_notification() {
    let database = TestDatabase::new().await;
    let (api, worker) = (
        Waker::start(database.pool().clone()),
        Waker::start(database.pool().clone()),
    );
    woken(&worker, "it listens now").await;
    api.enqueued(&[job()], None);
    woken(&worker, "it is told").await;
}

#[tokio::test]
async fn another_process_is_woken_by_a_ring_that_goes_with_the_commit() {
    let database = TestDatabase::new().await;
    let (api, worker) = (
        Waker::start(database.pool().clone()),
        Waker::start(database.pool().clone()),
    );
    woken(&worker, "it listens now").await;
    let job = job();
    let ring = api.ring(std::slice::from_ref(&job)).expect("the first for a while");
    let mut transaction = database.pool().begin().await.expect("a transaction");
    enqueue_ringing(&mut transaction, &[job], Duration::ZERO, Some(&ring))
        .await
        .expect("stored");
    transaction.commit().await.expect("committed");
    woken(&worker, "nothing but the commit tells it").await;
}

#[tokio::test]
async fn another_process_looks_at_events_when_it_is_asked_to() {
    let database = TestDatabase::new().await;
    let (api, worker) = (
        Waker::start(database.pool().clone()),
        Waker::start(database.pool().clone()),
    );
    let asked = worker.events();
    let rung = async |what: &str| tokio::time::timeout(BOUND, asked.notified()).await.expect(what);
    rung("it listens now, and looks for what it has missed").await;
    api.events_asked();
    rung("it is told").await;
}

#[tokio::test]
async fn few_rings_are_given_out() {
    let database = TestDatabase::new().await;
    let waker = Waker::start(database.pool().clone());
    let later = NewJob {
        run_at: Some(SystemClock.now() + TimeDelta::hours(1)),
        ..job()
    };
    assert!(waker.ring(&[job(), job()]).is_none(), "several");
    assert!(waker.ring(&[later]).is_none(), "not due");
    assert!(waker.ring(&[job()]).is_some());
    let at = Instant::now() + RING_EVERY;
    assert!(waker.bell.may_ring(at), "a while later");
    assert!(!waker.bell.may_ring(at), "another one at the same moment");
    assert!(!waker.bell.may_ring(at + RING_EVERY / 2), "nor soon after it");
    assert!(waker.bell.may_ring(at + RING_EVERY));
}
