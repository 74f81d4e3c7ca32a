//! Limits over all workers: how many run at a time, and how fast a key's jobs start.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tokio::sync::Semaphore;
use wireroom::{
    ids::SessionId,
    queue::Runner,
    store::{
        claims::{ClaimRequest, Member},
        jobs::NewJob,
        limited_claims::claim_within,
        limits::{self, LimitScope},
        rates,
    },
};
use wireroom_jobs::{JobKind, Lane, Outcome};

use super::bed::{BOUND, Bed, Running, bulk, function, job, jobs, now};
use crate::support::wait::eventually;

/// Counts what runs at a time, over all workers of a test.
#[derive(Clone, Default)]
struct Gauge(Arc<(AtomicI64, AtomicI64)>);

impl Gauge {
    /// A function that takes a moment, so that others overlap it if they may.
    fn runner(&self) -> Arc<dyn Runner> {
        let gauge = self.clone();
        function(move |_| {
            let gauge = gauge.clone();
            async move {
                let now = gauge.0.0.fetch_add(1, Ordering::SeqCst) + 1;
                gauge.0.1.fetch_max(now, Ordering::SeqCst);
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                gauge.0.0.fetch_sub(1, Ordering::SeqCst);
                Outcome::Done(1.into())
            }
        })
    }

    fn most(&self) -> i64 {
        self.0.1.load(Ordering::SeqCst)
    }
}

async fn limit(bed: &Bed, scope: LimitScope, target: &str, most: i32) {
    let mut conn = bed.pool().acquire().await.expect("a connection");
    limits::set_concurrency(&mut conn, scope, target, most, "key:test")
        .await
        .expect("a limit");
}

async fn rate(bed: &Bed, name: &str, starts: i32, period: Duration, burst: i32) {
    let mut conn = bed.pool().acquire().await.expect("a connection");
    limits::set_rate(&mut conn, name, starts, period, burst, "key:test")
        .await
        .expect("a limit");
}

async fn three(bed: &Bed, slots: i32, runner: Arc<dyn Runner>) -> [Running; 3] {
    [
        bed.start(slots, runner.clone()).await,
        bed.start(slots, runner.clone()).await,
        bed.start(slots, runner).await,
    ]
}

async fn until_none_is_left(bed: &Bed) {
    eventually(BOUND, || async {
        match bed.count("SELECT count(*) FROM jobs").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
}

#[tokio::test]
async fn no_more_of_a_kind_run_than_its_limit_over_three_workers() {
    let bed = Bed::new().await;
    limit(&bed, LimitScope::Kind, "join", 2).await;
    bed.enqueue(&jobs(120)).await;
    let scans: Vec<NewJob> = std::iter::repeat_with(|| NewJob::new(JobKind::Scan, json!({})))
        .take(30)
        .collect();
    bed.enqueue(&scans).await;
    let joins = Gauge::default();
    let count = joins.runner();
    let runner = function(move |attempt| {
        let count = count.clone();
        async move {
            if attempt.job.kind == JobKind::Join {
                count.run(attempt).await
            } else {
                Outcome::Done(1.into())
            }
        }
    });
    let _running = three(&bed, 10, runner).await;
    until_none_is_left(&bed).await;
    assert_eq!(joins.most(), 2, "the limit is reached, and not passed");
}

#[tokio::test]
async fn no_more_of_a_pool_run_than_its_limit_over_three_workers() {
    let bed = Bed::new().await;
    limit(&bed, LimitScope::Pool, "default", 3).await;
    let gauge = Gauge::default();
    let running = three(&bed, 10, gauge.runner()).await;
    let pinned: Vec<NewJob> = std::iter::repeat_n(running[0].session, 40)
        .map(|session| NewJob {
            session: Some(session),
            ..job()
        })
        .collect();
    bed.enqueue(&jobs(80)).await;
    bed.enqueue(&pinned).await;
    running[0].waker.ready();
    until_none_is_left(&bed).await;
    assert_eq!(gauge.most(), 3);
}

#[tokio::test]
async fn claims_at_the_same_moment_stay_within_the_limit() {
    let bed = Bed::new().await;
    limit(&bed, LimitScope::Kind, "join", 7).await;
    bed.enqueue(&jobs(200)).await;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let limits = Arc::new(limits::all(&mut conn).await.expect("limits"));
    drop(conn);
    let start = Arc::new(Semaphore::new(0));
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (worker, session, fence) = bed.worker_with_session().await;
        let (pool, limits, start) = (bed.pool().clone(), limits.clone(), start.clone());
        claims.spawn(async move {
            let request = by_kind(worker, session, fence, 5);
            let mut conn = pool.acquire().await.expect("a connection");
            let _go = start.acquire().await.expect("the start");
            for _ in 0..20 {
                claim_within(&mut conn, &request, &limits).await.expect("a claim");
            }
        });
    }
    start.add_permits(8);
    while let Some(done) = claims.join_next().await {
        done.expect("a claimer");
    }
    let running = bed.count("SELECT count(*) FROM jobs WHERE state = 'running'").await;
    assert_eq!(running, 7);
}

fn by_kind(worker: wireroom::ids::WorkerId, session: SessionId, fence: i64, free: i32) -> ClaimRequest {
    ClaimRequest {
        worker,
        members: vec![Member {
            session,
            fence,
            free,
            group: 0,
        }],
        groups: vec![bulk(
            "default",
            Some(vec![JobKind::Join, JobKind::Scan, JobKind::Publish]),
        )],
        take_suspect: true,
    }
}

#[tokio::test]
async fn a_reached_limit_reads_past_no_backlog_and_holds_nothing_else() {
    let bed = Bed::new().await;
    limit(&bed, LimitScope::Kind, "join", 0).await;
    bed.enqueue(&jobs(500)).await;
    let scan = bed.enqueue_one(NewJob::new(JobKind::Scan, json!({}))).await;
    let running = bed.start(2, function(|_| async { Outcome::Done(1.into()) })).await;
    bed.until_state(scan, "succeeded").await;
    assert_eq!(bed.count("SELECT count(*) FROM jobs WHERE fence > 0").await, 0);
    let mut conn = bed.pool().acquire().await.expect("a connection");
    assert!(
        limits::remove_concurrency(&mut conn, LimitScope::Kind, "join")
            .await
            .expect("removed")
    );
    running.waker.control_changed();
    until_none_is_left(&bed).await;
}

fn keyed(key: &str, count: usize) -> Vec<NewJob> {
    std::iter::repeat_with(|| NewJob {
        limit_key: Some(key.to_owned()),
        ..job()
    })
    .take(count)
    .collect()
}

async fn starts(bed: &Bed, sql: &'static str) -> Vec<DateTime<Utc>> {
    sqlx::query_scalar(sql).fetch_all(bed.pool()).await.expect(sql)
}

#[tokio::test]
async fn three_workers_share_the_rate_of_a_key() {
    let bed = Bed::new().await;
    // Three a second, two at once after a quiet time: the last start is seconds away from what nothing holds.
    rate(&bed, "campaign", 3, Duration::from_secs(1), 2).await;
    bed.enqueue(&keyed("campaign:spring", 12)).await;
    bed.enqueue(&keyed("campaign:autumn", 3)).await;
    bed.enqueue(&keyed("chat:1", 50)).await;
    let _running = three(&bed, 10, function(|_| async { Outcome::Done(1.into()) })).await;
    until_none_is_left(&bed).await;
    let at = starts(
        &bed,
        "SELECT f.started_at FROM finished_jobs f JOIN job_origins o ON o.job_id = f.id
         WHERE o.limit_key = 'campaign:spring' ORDER BY 1",
    )
    .await;
    assert_eq!(at.len(), 12);
    for (first, from) in at.iter().enumerate() {
        for (last, to) in at.iter().enumerate().skip(first) {
            let took = (*to - *from).as_seconds_f64();
            let starts = f64::from(u32::try_from(last - first + 1).expect("a dozen"));
            // A millisecond is left for the clocks of a claim and of its row.
            assert!(starts <= 2.0 + (took + 0.001) * 3.0, "{starts} starts in {took} s");
        }
    }
    // Neither another key of the class nor a key without a limit waits for it.
    let others = starts(
        &bed,
        "SELECT max(f.started_at) FROM finished_jobs f JOIN job_origins o ON o.job_id = f.id WHERE o.limit_key = 'chat:1'",
    )
    .await;
    assert!(others[0] < at[11], "a key without a limit is not held");
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE fence <> 1").await,
        0
    );
}

#[tokio::test]
async fn claims_of_the_watch_lane_keep_to_the_rate_of_a_key_and_to_a_kinds_limit() {
    let bed = Bed::new().await;
    rate(&bed, "chat", 1, Duration::from_hours(1), 3).await;
    limit(&bed, LimitScope::Kind, "scan", 2).await;
    bed.enqueue(&keyed("chat:1", 10)).await;
    let scans: Vec<NewJob> = std::iter::repeat_with(|| NewJob::new(JobKind::Scan, json!({})))
        .take(10)
        .collect();
    bed.enqueue(&scans).await;
    bed.run("UPDATE jobs SET lane = 'watch'").await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let mut request = by_kind(worker, session, fence, 10_000);
    request.groups[0].lane = Lane::Watch;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let limits = limits::all(&mut conn).await.expect("limits");
    let claim = claim_within(&mut conn, &request, &limits).await.expect("a claim");
    let of = |kind| claim.jobs.iter().filter(|job| job.kind == kind).count();
    assert_eq!(
        (of(JobKind::Join), of(JobKind::Scan)),
        (3, 2),
        "room for thousands changes nothing"
    );
    assert_eq!(claim.spent_keys, ["chat:1"]);
    let again = claim_within(&mut conn, &request, &limits).await.expect("a claim");
    assert_eq!(again.jobs.len(), 0);
}

#[tokio::test]
async fn a_spent_key_is_looked_at_once_and_what_is_behind_it_runs() {
    let bed = Bed::new().await;
    rate(&bed, "chat:1", 1, Duration::from_hours(1), 1).await;
    bed.enqueue(&keyed("chat:1", 3000)).await;
    let behind = bed.enqueue_one(job()).await;
    let _running = bed.start(3, function(|_| async { Outcome::Done(1.into()) })).await;
    bed.until_state(behind, "succeeded").await;
    eventually(BOUND, || async {
        match bed.count("SELECT count(*) FROM jobs WHERE state <> 'scheduled'").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    assert_eq!(
        bed.count("SELECT count(*) FROM jobs WHERE limit_turn AND attempt = 0 AND fence = 0 AND wait_reason->>'code' = 'rate_limited'")
            .await,
        2999
    );
    // One behind the other, an hour apart.
    assert_eq!(bed.count("SELECT count(DISTINCT run_at) FROM jobs").await, 2999);
    let span = starts(
        &bed,
        "SELECT min(run_at) FROM jobs UNION ALL SELECT max(run_at) FROM jobs",
    )
    .await;
    assert_eq!((span[1] - span[0]).num_hours(), 2998);
}

#[tokio::test]
async fn after_a_stop_the_line_does_not_burst_and_a_new_limit_frees_it() {
    let bed = Bed::new().await;
    rate(&bed, "chat:1", 1, Duration::from_mins(1), 1).await;
    bed.enqueue(&keyed("chat:1", 20)).await;
    let running = bed.start(10, function(|_| async { Outcome::Done(1.into()) })).await;
    eventually(BOUND, || async {
        match bed.count("SELECT count(*) FROM jobs WHERE limit_turn").await {
            19 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    running.handle.shutdown().await;
    // Ten turns come while nobody works; the bucket holds one all the same.
    bed.move_clock(600).await;
    let session = bed.session("default").await;
    let again = bed
        .start_on(
            session,
            10,
            function(|_| async { Outcome::Done(1.into()) }),
            super::bed::config(),
        )
        .await;
    eventually(BOUND, || async {
        let waiting = bed.count("SELECT count(*) FROM jobs WHERE state = 'scheduled'").await;
        let finished = bed.count("SELECT count(*) FROM finished_jobs").await;
        if (waiting, finished) == (18, 2) {
            Ok(())
        } else {
            Err((waiting, finished))
        }
    })
    .await;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    assert!(limits::remove_rate(&mut conn, "chat:1").await.expect("removed"));
    assert_eq!(rates::dissolve_line(&mut conn, "chat:1").await.expect("dissolved"), 18);
    again.waker.control_changed();
    until_none_is_left(&bed).await;
    assert_eq!(bed.count("SELECT count(*) FROM rate_buckets").await, 0);
}

#[tokio::test]
async fn a_low_priority_is_not_starved_by_a_stream_of_high_ones() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let run_at = Some(now() - TimeDelta::hours(4));
    let low = NewJob {
        priority: -100,
        run_at,
        ..job()
    };
    let low = bed.enqueue_one(low).await;
    let urgent = || NewJob { priority: 100, ..job() };
    // Two hundred steps of a minute are 3 h 20 min: whatever comes now is behind it.
    bed.enqueue(&std::iter::repeat_with(urgent).take(50).collect::<Vec<_>>())
        .await;
    let claimed = bed.claim(worker, session, fence, "default", 1).await;
    assert_eq!(claimed[0].id, low);
}
