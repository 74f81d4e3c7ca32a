//! What the hot statements read. A queue is fast as long as its statements never read what waits, lies ahead or is over: each
//! of these runs beside thousands of such rows, and Postgres' own counters of this backend tell what it touched.

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use wireroom::{
    ids::{JobId, SessionId, WorkerId},
    store::{
        bench,
        claims::{self, ClaimRequest, ClaimedJob, Member},
        completions::{self, FinalState, Finish},
        job_reads,
        jobs::{NewJob, enqueue},
        line::queue_pool,
        own_claims::claim_own,
        rescue::{self, RescueLimits},
    },
};
use wireroom_jobs::JobKind;

use super::bed::{AGEING, Bed, bulk, job, jobs};

const FINISHED: i64 = 20_000;
const FUTURE: i64 = 20_000;
/// Enough that reading all of them is noticed.
const SESSIONS: usize = 2_000;

/// A database full of what is not to be read, and a worker that holds some of its sessions.
struct Full {
    bed: Bed,
    worker: WorkerId,
    sessions: Vec<SessionId>,
}

/// What a statement read: blocks of tables and indexes, rows that an index led to, and rows that came from reading a table
/// from its start. A block counts once for all rows that follow each other in it, so that reading an index in order looks
/// cheap by blocks alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read {
    blocks: i64,
    found_rows: i64,
    scanned_rows: i64,
}

impl Full {
    async fn new() -> Self {
        let bed = Bed::new().await;
        let worker = bed.worker().await;
        let mut conn = bed.pool().acquire().await.expect("a connection");
        let sessions = bench::add_sessions(&mut conn, SESSIONS, 10).await.expect("sessions");
        bench::add_finished(&mut conn, FINISHED, &sessions)
            .await
            .expect("finished jobs");
        bench::add_future(&mut conn, FUTURE, &sessions)
            .await
            .expect("future jobs");
        sqlx::query(
            "INSERT INTO session_leases (session_id, owner, fence, expires_at)
             SELECT id, $1, 1, wireroom_now() + interval '10 minutes' FROM sessions",
        )
        .bind(worker.0)
        .execute(&mut *conn)
        .await
        .expect("leases");
        drop(conn);
        let full = Self { bed, worker, sessions };
        full.settle().await;
        // From here on the test says when statistics are taken.
        full.bed.run("ALTER TABLE jobs SET (autovacuum_enabled = off)").await;
        full
    }

    async fn settle(&self) {
        let mut conn = self.bed.pool().acquire().await.expect("a connection");
        bench::settle(&mut conn).await.expect("fresh statistics");
    }

    /// So many ready jobs of one kind, spread over the sessions from the first to `over`. The statistics know nothing of them.
    async fn ready(&self, count: usize, over: usize, kind: JobKind, priority: i16) {
        let jobs: Vec<NewJob> = (0..count)
            .map(|n| NewJob {
                session: Some(self.sessions[n % over]),
                priority,
                ..NewJob::new(kind, json!({}))
            })
            .collect();
        for part in jobs.chunks(5_000) {
            self.bed.enqueue(part).await;
        }
    }

    /// A claim of some sessions, each with as many slots.
    fn claim(&self, sessions: usize, free: i32, open: Option<Vec<JobKind>>) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker,
            members: self.sessions[..sessions]
                .iter()
                .map(|session| Member {
                    session: *session,
                    fence: 1,
                    free,
                    group: 0,
                })
                .collect(),
            groups: vec![bulk("default", open)],
            take_suspect: true,
        }
    }

    fn queue_pool(&self) -> PgPool {
        queue_pool(self.bed.pool())
    }
}

/// All that this backend has read of our tables and indexes, as far as it is not summed up elsewhere yet.
async fn counters(conn: &mut PgConnection) -> Read {
    let (blocks, found_rows, scanned_rows) = sqlx::query_as(
        "SELECT sum(pg_stat_get_xact_blocks_fetched(c.oid))::bigint,
            (SELECT sum(idx_tup_fetch)::bigint FROM pg_stat_xact_user_tables),
            (SELECT sum(seq_tup_read)::bigint FROM pg_stat_xact_user_tables)
         FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'i')",
    )
    .fetch_one(conn)
    .await
    .expect("counters");
    Read {
        blocks,
        found_rows,
        scanned_rows,
    }
}

/// What `$statement` reads on `$conn`, in a transaction that is rolled back; the last of several times, since a connection
/// plans a statement for its values at first.
macro_rules! read_by {
    ($pool:expr, |$conn:ident| $statement:expr) => {{
        let mut connection = $pool.acquire().await.expect("a connection");
        let mut read = None;
        for _ in 0..7 {
            let mut transaction = wireroom::store::begin(&mut connection, "test")
                .await
                .expect("a transaction");
            let before = counters(&mut transaction).await;
            let $conn: &mut PgConnection = &mut transaction;
            let answer = $statement.await.expect("the statement");
            let after = counters(&mut transaction).await;
            transaction.rollback().await.expect("a rollback");
            let what = Read {
                blocks: after.blocks - before.blocks,
                found_rows: after.found_rows - before.found_rows,
                scanned_rows: after.scanned_rows - before.scanned_rows,
            };
            read = Some((what, answer));
        }
        read.expect("it ran")
    }};
}

/// `base` blocks whatever it does, and `each` for every row that it is about; hardly more rows than those.
#[track_caller]
fn within(what: &str, read: Read, base: i64, each: i64, rows: usize) {
    let rows = i64::try_from(rows).expect("few rows");
    let most = base + each * rows;
    println!("{what}: {read:?}, at most {most} blocks");
    assert!(read.blocks <= most, "{what} read {read:?}, more than {most} blocks");
    assert!(
        read.found_rows <= 50 + 4 * rows,
        "{what} followed an index to rows that are none of its own: {read:?}"
    );
    // Tables with a handful of rows may be read whole: pools, schedules, pauses.
    assert!(read.scanned_rows <= 10, "{what} read a table from its start: {read:?}");
}

#[tokio::test]
async fn a_claim_reads_what_it_takes_and_nothing_else() {
    let full = Full::new().await;
    let pool = full.queue_pool();
    let idle = full.claim(1, 10, None);
    let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &idle));
    assert!(jobs.is_empty());
    within("an idle claim of one session", read, 20, 0, 0);
    let idle = full.claim(500, 1, None);
    let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &idle));
    assert!(jobs.is_empty());
    within("an idle claim of many sessions", read, 20, 6, 500);
    let (read, jobs) = read_by!(pool, |conn| claim_own(conn, &idle));
    assert!(jobs.is_empty());
    within("the same of what is their own", read, 20, 6, 500);

    full.ready(1_000, 1, JobKind::Join, -50).await;
    for statistics in ["of an idle queue", "of this one"] {
        let pool = full.queue_pool();
        let lower = full.claim(1, 10, None);
        let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &lower));
        assert_eq!(jobs.len(), 10);
        within(
            &format!("a claim among 1,000 of a lower priority, statistics {statistics}"),
            read,
            60,
            25,
            10,
        );
        let (read, jobs) = read_by!(pool, |conn| claim_own(conn, &lower));
        assert_eq!(jobs.len(), 10);
        let what = format!("the same of what is its own, statistics {statistics}");
        within(&what, read, 60, 25, 10);
        let open = full.claim(1, 10, Some(vec![JobKind::Scan, JobKind::Publish]));
        let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &open));
        assert!(jobs.is_empty());
        within(
            &format!("a claim past kinds that are not open, statistics {statistics}"),
            read,
            45,
            0,
            0,
        );
        full.settle().await;
    }
}

#[tokio::test]
async fn a_backlog_behind_a_closed_gate_is_not_read() {
    let full = Full::new().await;
    full.ready(20_000, 100, JobKind::Publish, 0).await;
    let open = || Some(vec![JobKind::Join, JobKind::Scan]);
    for statistics in ["of an idle queue", "of this one"] {
        let pool = full.queue_pool();
        let one = full.claim(1, 10, open());
        let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &one));
        assert!(jobs.is_empty());
        within(
            &format!("a claim behind a closed gate, statistics {statistics}"),
            read,
            45,
            0,
            0,
        );
        let many = full.claim(100, 1, open());
        let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &many));
        assert!(jobs.is_empty());
        within(
            &format!("a claim of 100 sessions behind a closed gate, statistics {statistics}"),
            read,
            45,
            12,
            100,
        );
        let all = full.claim(100, 1, None);
        let (read, jobs) = read_by!(pool, |conn| claims::claim(conn, &all));
        assert_eq!(jobs.len(), 100);
        within(
            &format!("a claim of 100 jobs from a backlog, statistics {statistics}"),
            read,
            60,
            40,
            100,
        );
        let (read, kinds) = read_by!(pool, |conn| claims::unknown_kinds(conn));
        assert!(kinds.is_empty());
        within(
            &format!("the look for unknown kinds, statistics {statistics}"),
            read,
            20,
            6,
            100,
        );
        full.settle().await;
    }
}

#[tokio::test]
async fn ends_are_stored_by_id() {
    let full = Full::new().await;
    let pool = full.queue_pool();
    // Statistics of a queue where nothing runs, as they are when a burst begins.
    full.ready(2_000, 1, JobKind::Join, 0).await;
    let request = full.claim(1, 500, None);
    let mut conn = pool.acquire().await.expect("a connection");
    let claimed = claims::claim(&mut conn, &request).await.expect("a claim");
    drop(conn);
    let ends: Vec<Finish> = claimed[..50]
        .iter()
        .map(|job| Finish {
            id: job.id,
            fence: job.fence,
            state: FinalState::Succeeded,
            result: Some(json!(1)),
            error: None,
        })
        .collect();
    let (read, ended) = read_by!(pool, |conn| completions::finish(conn, &ends));
    assert_eq!(ended.len(), 50);
    within("an end", read, 20, 25, 50);
    let started: Vec<(JobId, i64)> = claimed[..50].iter().map(|job| (job.id, job.fence)).collect();
    let (read, stored) = read_by!(pool, |conn| claims::start(conn, &started));
    assert_eq!(stored.len(), 50);
    within("a start", read, 20, 30, 50);
}

#[tokio::test]
async fn what_a_process_asks_regularly_reads_no_backlog() {
    let full = Full::new().await;
    let pool = full.queue_pool();
    let (read, promotion) = read_by!(pool, |conn| claims::promote(conn, 1_000));
    assert_eq!((promotion.promoted, promotion.any_ready), (0, false));
    within("a promotion with nothing due", read, 40, 0, 0);

    full.bed
        .run("UPDATE jobs SET run_at = wireroom_now() - interval '1 minute' WHERE id IN (SELECT id FROM jobs LIMIT 20)")
        .await;
    full.settle().await;
    let (read, promotion) = read_by!(pool, |conn| claims::promote(conn, 1_000));
    assert_eq!(promotion.promoted, 20);
    within("a promotion", read, 60, 40, 20);

    let limits = RescueLimits {
        worker_dead: Duration::from_secs(10),
        crashes: 3,
        batch: 500,
    };
    let (read, orphans) = read_by!(pool, |conn| rescue::rescue_orphans(conn, limits));
    assert!(orphans.is_empty());
    within("a rescue with nothing to rescue", read, 20, 0, 0);
    let (read, late) = read_by!(pool, |conn| completions::fail_past_deadline(conn, 500));
    assert!(late.is_empty());
    within("the look for passed deadlines", read, 20, 0, 0);
    let (read, lost) = read_by!(pool, |conn| rescue::fail_jobs_of_lost_sessions(conn, 500));
    assert!(lost.is_empty());
    within("the look for lost sessions", read, 20, 4, SESSIONS);
}

#[tokio::test]
async fn an_enqueue_looks_up_its_own_session_alone() {
    let full = Full::new().await;
    let pinned = [NewJob {
        session: Some(full.sessions[7]),
        ..job()
    }];
    for (pool, whose) in [
        (full.queue_pool(), "a worker's"),
        (full.bed.pool().clone(), "the API's"),
    ] {
        let (read, _) = read_by!(pool, |conn| enqueue(conn, &pinned, AGEING));
        within(&format!("an enqueue over {whose} connection"), read, 45, 0, 0);
        let (read, _) = read_by!(pool, |conn| enqueue(conn, &[job()], AGEING));
        within(&format!("a pooled job over {whose} connection"), read, 45, 0, 0);
    }
}

/// The planner believes that a queue is empty which was vacuumed when it was: all night, and for a minute into a burst.
#[tokio::test]
async fn a_burst_into_a_queue_that_was_vacuumed_empty_is_not_read() {
    let bed = Bed::new().await;
    bed.run("ALTER TABLE jobs SET (autovacuum_enabled = off)").await;
    // Pages without a row, which is what the planner multiplies with as the table grows.
    bed.enqueue(&jobs(2_000)).await;
    bed.run("DELETE FROM jobs").await;
    bed.run("VACUUM (ANALYZE, TRUNCATE off) jobs").await;
    let believed = "SELECT count(*) FROM pg_class WHERE relname = 'jobs' AND reltuples = 0 AND relpages > 0";
    assert_eq!(bed.count(believed).await, 1);
    let pool = queue_pool(bed.pool());
    let mut kept = pool.acquire().await.expect("a connection");
    let (worker, session, fence) = bed.worker_with_session().await;
    let slots = |free: i32| ClaimRequest {
        worker,
        members: vec![Member {
            session,
            fence,
            free,
            group: 0,
        }],
        groups: vec![bulk("default", None)],
        take_suspect: true,
    };
    let limits = RescueLimits {
        worker_dead: Duration::from_secs(10),
        crashes: 3,
        batch: 500,
    };
    let end = |job: &ClaimedJob| Finish {
        id: job.id,
        fence: job.fence,
        state: FinalState::Succeeded,
        result: None,
        error: None,
    };
    // Everything is planned now.
    claims::promote(&mut kept, 1_000).await.expect("a promotion");
    claims::claim(&mut kept, &slots(1)).await.expect("a claim");
    claim_own(&mut kept, &slots(1)).await.expect("a claim");
    completions::finish(&mut kept, &[]).await.expect("an end");
    claims::start(&mut kept, &[]).await.expect("a start");
    rescue::rescue_orphans(&mut kept, limits).await.expect("a rescue");
    rescue::return_unknown(&mut kept, worker, &[], Duration::ZERO)
        .await
        .expect("a look");
    job_reads::live(&mut *kept, &[]).await.expect("a read");
    drop(kept);

    let ids = bed.enqueue(&jobs(20_000)).await;
    let (read, promotion) = read_by!(pool, |conn| claims::promote(conn, 1_000));
    assert!(promotion.any_ready);
    within("a promotion", read, 40, 0, 0);
    let (read, own) = read_by!(pool, |conn| claim_own(conn, &slots(100)));
    assert!(own.is_empty(), "they are the pool's");
    within("a claim of what is its own", read, 40, 0, 0);
    let mut kept = pool.acquire().await.expect("a connection");
    let claimed = claims::claim(&mut kept, &slots(100)).await.expect("a claim");
    drop(kept);
    let started: Vec<(JobId, i64)> = claimed.iter().map(|job| (job.id, job.fence)).collect();
    assert_eq!(started.len(), 100);
    let (read, stored) = read_by!(pool, |conn| claims::start(conn, &started));
    assert_eq!(stored.len(), 100);
    within("a start", read, 20, 30, 100);
    let ends: Vec<Finish> = claimed.iter().map(|job| end(job)).collect();
    let (read, ended) = read_by!(pool, |conn| completions::finish(conn, &ends));
    assert_eq!(ended.len(), 100);
    within("an end", read, 20, 25, 100);
    // Of jobs that no statement above has left dead versions of: when Postgres takes those away is its own affair.
    let untouched = &ids[ids.len() - 50..];
    assert!(claimed.iter().all(|job| !untouched.contains(&job.id)));
    let (read, views) = read_by!(pool, |conn| job_reads::live(&mut *conn, untouched));
    assert_eq!(views.len(), 50);
    within("a read of jobs", read, 20, 10, 50);
    let (read, (returned, _)) = read_by!(pool, |conn| rescue::return_unknown(
        conn,
        worker,
        &started[1..],
        Duration::ZERO
    ));
    assert_eq!(returned.len(), 1);
    within("a look for unknown jobs", read, 300, 0, 100);

    bed.run("UPDATE workers SET heartbeat_at = wireroom_now() - interval '1 hour'")
        .await;
    bed.expire_lease(session).await;
    let (read, orphans) = read_by!(pool, |conn| rescue::rescue_orphans(conn, limits));
    assert_eq!(orphans.len(), 100);
    within("a rescue", read, 50, 60, 100);
}
