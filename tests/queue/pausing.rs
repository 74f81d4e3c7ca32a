//! Pauses: what is held back, and that everything else goes on.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use wireroom::{
    ids::SessionId,
    store::{
        claims::promote,
        jobs::NewJob,
        limits::{self, LimitScope},
        pauses::{self, PauseScope},
    },
};
use wireroom_jobs::{JobKind, Outcome};

use super::bed::{BOUND, Bed, Running, function, job, jobs, now, waits_for_cancel};
use crate::support::wait::eventually;

async fn pause(bed: &Bed, scope: PauseScope, target: &str, until: Option<DateTime<Utc>>) {
    let mut conn = bed.pool().acquire().await.expect("a connection");
    pauses::pause(&mut conn, scope, target, "tests", until, "key:test")
        .await
        .expect("a pause");
}

async fn resume(bed: &Bed, scope: PauseScope, target: &str) -> bool {
    let mut conn = bed.pool().acquire().await.expect("a connection");
    pauses::resume(&mut conn, scope, target).await.expect("a resume")
}

async fn quick(bed: &Bed, slots: i32) -> Running {
    bed.start(slots, function(|_| async { Outcome::Done(1.into()) })).await
}

fn scan() -> NewJob {
    NewJob::new(JobKind::Scan, json!({}))
}

/// Waits until the worker that holds the session has claimed from its queue and passed over a join job there.
async fn knows_of_the_pause(bed: &Bed, session: SessionId) {
    let its_own = |new: NewJob| NewJob {
        session: Some(session),
        ..new
    };
    eventually(BOUND, async || {
        let probe = bed.enqueue_one(its_own(job())).await;
        let marker = bed.enqueue_one(its_own(scan())).await;
        bed.until_state(marker, "succeeded").await;
        match bed.job(probe).await.fence {
            0 => Ok(()),
            fence => Err(fence),
        }
    })
    .await;
}

#[tokio::test]
async fn a_paused_kind_waits_on_every_worker_and_the_others_go_on() {
    let bed = Bed::new().await;
    let first = quick(&bed, 5).await;
    let second = quick(&bed, 5).await;
    pause(&bed, PauseScope::Kind, "join", None).await;
    // One of the workers hears of it over the notification, the other in its own process.
    first.waker.control_changed();
    for worker in [&first, &second] {
        knows_of_the_pause(&bed, worker.session).await;
    }
    let held = bed.enqueue(&jobs(50)).await;
    for _ in 0..20 {
        let marker = bed.enqueue_one(scan()).await;
        first.waker.ready();
        bed.until_state(marker, "succeeded").await;
    }
    for id in &held {
        assert_eq!(bed.job(*id).await.fence, 0, "a paused backlog is not claimed");
    }
    assert!(resume(&bed, PauseScope::Kind, "join").await);
    first.waker.control_changed();
    for id in held {
        bed.until_state(id, "succeeded").await;
    }
}

/// How fast a pause takes hold, without a clock: what is claimed in the round that was under way may start, and nothing after.
#[tokio::test]
async fn after_a_pause_and_the_claim_under_way_nothing_new_of_it_starts() {
    let bed = Bed::new().await;
    let running = quick(&bed, 2).await;
    let backlog = bed.enqueue(&jobs(3000)).await;
    bed.until_state(backlog[20], "succeeded").await;
    pause(&bed, PauseScope::Kind, "join", None).await;
    running.waker.control_changed();
    // In front of the whole backlog. A claim brought the first one, and the next claim began after that.
    let marker = || NewJob {
        priority: 100,
        ..scan()
    };
    for _ in 0..2 {
        let marker = bed.enqueue_one(marker()).await;
        running.waker.ready();
        bed.until_state(marker, "succeeded").await;
    }
    let started = "SELECT (SELECT count(*) FROM jobs WHERE kind = 'join' AND fence > 0)
        + (SELECT count(*) FROM finished_jobs WHERE kind = 'join')";
    let before = bed.count(started).await;
    assert!(before < 3000, "the backlog was not worked off before the pause");
    for _ in 0..20 {
        let marker = bed.enqueue_one(marker()).await;
        running.waker.ready();
        bed.until_state(marker, "succeeded").await;
    }
    assert_eq!(bed.count(started).await, before);
}

#[tokio::test]
async fn a_worker_that_starts_under_a_pause_claims_nothing_that_it_holds() {
    let bed = Bed::new().await;
    pause(&bed, PauseScope::Kind, "join", None).await;
    let held = bed.enqueue_one(job()).await;
    let marker = bed.enqueue_one(scan()).await;
    let running = quick(&bed, 5).await;
    bed.until_state(marker, "succeeded").await;
    assert_eq!(bed.job(held).await.fence, 0);
    running.handle.shutdown().await;
    let _again = quick(&bed, 5).await;
    let marker = bed.enqueue_one(scan()).await;
    bed.until_state(marker, "succeeded").await;
    assert_eq!(bed.job(held).await.fence, 0);
}

#[tokio::test]
async fn a_pause_of_everything_ends_by_itself_and_running_jobs_are_left_alone() {
    let bed = Bed::new().await;
    let running = bed.start(1, waits_for_cancel()).await;
    let runs = bed.enqueue_one(job()).await;
    bed.until_state(runs, "running").await;
    let until = now() + TimeDelta::milliseconds(1200);
    pause(&bed, PauseScope::Everything, "", Some(until)).await;
    let other = quick(&bed, 1).await;
    let held = bed.enqueue_one(job()).await;
    other.waker.ready();
    let seen = bed.until_state(held, "succeeded").await;
    let claimed_at: DateTime<Utc> = sqlx::query_scalar("SELECT started_at FROM finished_jobs WHERE id = $1")
        .bind(held.0)
        .fetch_one(bed.pool())
        .await
        .expect("its start");
    assert!(claimed_at >= until, "{claimed_at} is before {until}");
    assert_eq!((seen.fence, bed.job(runs).await.state.as_str()), (1, "running"));
    drop(running);
}

#[tokio::test]
async fn a_paused_session_and_a_paused_pool_hold_their_own_only() {
    let bed = Bed::new().await;
    pause(&bed, PauseScope::Pool, "default", None).await;
    let first = quick(&bed, 3).await;
    let other = bed.session("other").await;
    let mut of_other = super::bed::held(other, bed.lease(other, first.worker).await, 3);
    of_other.pool = "other".to_owned();
    first.sessions.replace(vec![first.held.clone(), of_other]);
    let pinned_to = |session| NewJob {
        session: Some(session),
        ..job()
    };
    let held = bed.enqueue_one(pinned_to(first.session)).await;
    let free = bed.enqueue_one(pinned_to(other)).await;
    first.waker.ready();
    bed.until_state(free, "succeeded").await;
    assert_eq!(bed.job(held).await.fence, 0, "its pool is paused");

    pause(&bed, PauseScope::Session, &other.to_string(), None).await;
    assert!(resume(&bed, PauseScope::Pool, "default").await);
    first.waker.control_changed();
    bed.until_state(held, "succeeded").await;
    let held = bed.enqueue_one(pinned_to(other)).await;
    let free = bed.enqueue_one(pinned_to(first.session)).await;
    first.waker.ready();
    bed.until_state(free, "succeeded").await;
    assert_eq!(bed.job(held).await.fence, 0, "its session is paused");
    assert!(
        !resume(&bed, PauseScope::Pool, "default").await,
        "it was resumed before"
    );
}

#[tokio::test]
async fn a_pause_and_a_resume_that_nobody_announced_are_found() {
    let bed = Bed::new().await;
    let _running = quick(&bed, 5).await;
    pause(&bed, PauseScope::Kind, "join", None).await;
    let held = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let probe = bed.enqueue_one(job()).await;
            let marker = bed.enqueue_one(scan()).await;
            bed.until_state(marker, "succeeded").await;
            if bed.job(probe).await.fence == 0 {
                break probe;
            }
        }
    })
    .await
    .expect("the pause is found by polling");
    assert!(resume(&bed, PauseScope::Kind, "join").await);
    bed.until_state(held, "succeeded").await;
}

#[tokio::test]
async fn every_change_of_a_control_is_told_by_its_version_and_no_claim_is() {
    let bed = Bed::new().await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let mut seen = vec![promote(&mut conn, 1).await.unwrap().control_version];
    let minute = Duration::from_mins(1);
    pause(&bed, PauseScope::Kind, "join", None).await;
    seen.push(promote(&mut conn, 1).await.unwrap().control_version);
    pause(&bed, PauseScope::Kind, "join", Some(now())).await;
    seen.push(promote(&mut conn, 1).await.unwrap().control_version);
    resume(&bed, PauseScope::Kind, "join").await;
    seen.push(promote(&mut conn, 1).await.unwrap().control_version);
    for most in [1, 2] {
        limits::set_concurrency(&mut conn, LimitScope::Kind, "join", most, "key:test")
            .await
            .unwrap();
        seen.push(promote(&mut conn, 1).await.unwrap().control_version);
        limits::set_rate(&mut conn, "chat", most, minute, 1, "key:test")
            .await
            .unwrap();
        seen.push(promote(&mut conn, 1).await.unwrap().control_version);
    }
    // What a claim under the limit writes.
    bed.run("UPDATE concurrency_limits SET version = version + 1").await;
    assert_eq!(promote(&mut conn, 1).await.unwrap().control_version, seen[7]);
    limits::remove_concurrency(&mut conn, LimitScope::Kind, "join")
        .await
        .unwrap();
    seen.push(promote(&mut conn, 1).await.unwrap().control_version);
    limits::remove_rate(&mut conn, "chat").await.unwrap();
    seen.push(promote(&mut conn, 1).await.unwrap().control_version);
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
}
