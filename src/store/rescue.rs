//! What happens to jobs whose worker or session is gone.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{Action, JobError, JobKind};

use super::{
    StoreError, claims,
    completions::error_value,
    failed,
    jobs::{cancel_waiting, micros},
    outbox,
};
use crate::ids::{JobId, SessionId, WorkerId};

/// A job that was taken from a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub id: JobId,
    pub worker: Option<WorkerId>,
    pub session: Option<SessionId>,
    /// `queued` again, `failed`, or `cancelled` when that had been asked for.
    pub became: String,
}

/// The limits of a rescue.
#[derive(Debug, Clone, Copy)]
pub struct RescueLimits {
    /// Silence after which a worker is dead.
    pub worker_dead: Duration,
    /// How many workers may die under one job.
    pub crashes: i16,
    /// Most jobs of one call.
    pub batch: i64,
}

/// Takes back running jobs whose worker stopped beating (or is gone, or says that it stopped) or whose session's lease
/// is another one than they were claimed under; never before the lease they were claimed under has expired.
///
/// A worker whose session went to another one is known to live once it has beaten since; until then, or until it is dead, its
/// jobs stay, so that a crash is never taken for a lost lease. An attempt that had not started, or whose worker still lives, is refunded. One that had started under a worker that
/// died counts, and counts as a crash; when attempts or crashes are spent the job ends `failed` with `worker_crashed`, or
/// with `outcome_unknown` when a message of it may have been sent; so does one that was to be cancelled then.
/// A job keeps its session when it is bound to it. A watch, which lasts as long as its workers do, has no part in the death of
/// a worker that lived on for [`claims::WATCH_TRIAL`] after its start.
pub async fn rescue_orphans(conn: &mut PgConnection, limits: RescueLimits) -> Result<Vec<Orphan>, StoreError> {
    let error = error_value(&JobError::transient(
        "worker_crashed",
        "The worker died while it ran this job, and no attempt is left.",
    ));
    let rows = sqlx::query!(
        r#"-- rescue_orphans
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        orphans AS MATERIALIZED (
            SELECT j.id, j.attempt, j.max_attempts, j.fence, j.worker_id, j.session_id, j.started_at, j.crashes,
                j.cancel_requested_at IS NOT NULL AS cancelled, outcome_in_doubt(j.id, j.checkpoint) AS in_doubt,
                (w.id IS NULL OR w.state = 'stopped' OR w.heartbeat_at < c.t - $1::bigint * interval '1 microsecond') AS dead,
                j.lane = 'watch' AND w.heartbeat_at >= j.started_at + make_interval(secs => $5) AS acquitted
            FROM clock c CROSS JOIN jobs j
            LEFT JOIN workers w ON w.id = j.worker_id
            LEFT JOIN session_leases l ON l.session_id = j.session_id
            WHERE j.state = 'running'
                AND (w.id IS NULL OR w.state = 'stopped' OR w.heartbeat_at < c.t - $1::bigint * interval '1 microsecond'
                    -- A holder that has not beaten since its lease was taken over may live or be dead: that is waited for.
                    OR (l.fence IS DISTINCT FROM j.session_fence
                        AND (l.session_id IS NULL OR w.heartbeat_at >= l.acquired_at)))
                AND (l.fence IS DISTINCT FROM j.session_fence OR l.owner IS NULL OR l.expires_at <= c.t)
            ORDER BY j.claimed_at LIMIT $3 FOR UPDATE OF j SKIP LOCKED
        ), judged AS MATERIALIZED (
            SELECT o.*, o.dead AND o.started_at IS NOT NULL AND o.acquitted IS NOT TRUE AS crashed,
                CASE WHEN o.cancelled THEN CASE WHEN o.in_doubt THEN 'failed' ELSE 'cancelled' END
                    WHEN o.dead AND o.started_at IS NOT NULL AND o.acquitted IS NOT TRUE AND (o.attempt >= o.max_attempts OR o.crashes + 1 >= $2)
                    THEN 'failed' ELSE 'queued' END AS becomes
            FROM orphans o
        ), returned AS (
            UPDATE jobs j SET state = 'queued', attempt = j.attempt - (NOT o.crashed)::int,
                crashes = CASE WHEN o.acquitted THEN 0 ELSE j.crashes + o.crashed::int END,
                suspect = (j.suspect OR o.dead) AND o.acquitted IS NOT TRUE,
                session_id = CASE WHEN j.session_bound THEN j.session_id END, session_fence = NULL, worker_id = NULL,
                claimed_at = NULL, started_at = NULL
            FROM judged o WHERE j.id = ANY (ARRAY[o.id]) AND o.becomes = 'queued'
        ), noted AS (
            INSERT INTO job_attempts (job_id, attempt, fence, worker_id, session_id, started_at, ended_at, outcome)
            SELECT id, attempt, fence, worker_id, session_id, started_at, (SELECT t FROM clock), 'orphaned'
            FROM judged WHERE becomes = 'queued'
        ), gone AS (
            DELETE FROM jobs j USING judged o WHERE j.id = ANY (ARRAY[o.id]) AND o.becomes <> 'queued'
            RETURNING j.*, o.becomes, o.in_doubt, CASE WHEN o.cancelled THEN j.last_error ELSE $4::jsonb END AS error
        ), moved AS (
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
                max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
            SELECT id, kind, args, becomes, lane, pool, session_id, priority, run_at, deadline, attempt, max_attempts,
                fence, worker_id, started_at, (SELECT t FROM clock), progress,
                CASE WHEN in_doubt THEN outcome_unknown(error) ELSE error END, tags, created_by, created_at
            FROM gone
        )
        SELECT id, worker_id, session_id, becomes AS "becomes!" FROM judged"#,
        micros(limits.worker_dead),
        i32::from(limits.crashes),
        limits.batch,
        error,
        claims::WATCH_TRIAL.as_secs_f64(),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("rescue_orphans"))?;
    if rows.iter().any(|row| row.becomes != "queued") {
        outbox::jobs_ended();
    }
    Ok(rows
        .into_iter()
        .map(|row| Orphan {
            id: JobId(row.id),
            worker: row.worker_id.map(WorkerId),
            session: row.session_id.map(SessionId),
            became: row.becomes,
        })
        .collect())
}

/// Returns running jobs of a live worker that it does not know of, because the answer to its claim was lost; their attempt
/// is refunded, and one that was to be cancelled is. Only claims older than `age` are looked at, so that one still on its way is not. Tells also whether
/// younger ones are left in doubt.
pub async fn return_unknown(
    conn: &mut PgConnection,
    worker: WorkerId,
    known: &[(JobId, i64)],
    age: Duration,
) -> Result<(Vec<Orphan>, bool), StoreError> {
    let ids: Vec<Uuid> = known.iter().map(|(id, _)| id.0).collect();
    let fences: Vec<i64> = known.iter().map(|(_, fence)| *fence).collect();
    let rows = sqlx::query!(
        r#"-- return_unknown
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        unknown AS MATERIALIZED (
            SELECT j.id, j.attempt, j.fence, j.worker_id, j.session_id, j.started_at,
                j.cancel_requested_at IS NOT NULL AS cancelled, j.claimed_at < c.t - $4::bigint * interval '1 microsecond' AS old
            FROM clock c CROSS JOIN jobs j
            WHERE j.worker_id = $1 AND j.state = 'running'
                AND NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::bigint[]) AS k (id, fence)
                    WHERE k.id = ANY (ARRAY[j.id]) AND k.fence = j.fence)
            FOR UPDATE OF j
        ), returned AS (
            UPDATE jobs j SET state = 'queued', attempt = j.attempt - 1,
                session_id = CASE WHEN j.session_bound THEN j.session_id END, session_fence = NULL, worker_id = NULL,
                claimed_at = NULL, started_at = NULL
            FROM unknown o WHERE j.id = ANY (ARRAY[o.id]) AND o.old
        ), noted AS (
            INSERT INTO job_attempts (job_id, attempt, fence, worker_id, session_id, started_at, ended_at, outcome)
            SELECT id, attempt, fence, worker_id, session_id, started_at, (SELECT t FROM clock), 'orphaned'
            FROM unknown WHERE old
        )
        SELECT id, session_id, cancelled AS "cancelled!", old AS "old!" FROM unknown"#,
        worker.0,
        &ids,
        &fences,
        micros(age),
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("return_unknown"))?;
    let in_doubt = rows.iter().any(|row| !row.old);
    let mut returned = Vec::new();
    for row in rows.into_iter().filter(|row| row.old) {
        let id = JobId(row.id);
        if row.cancelled {
            cancel_waiting(conn, id).await?;
        }
        returned.push(Orphan {
            id,
            worker: Some(worker),
            session: row.session_id.map(SessionId),
            became: if row.cancelled { "cancelled" } else { "queued" }.to_owned(),
        });
    }
    Ok((returned, in_doubt))
}

/// Ends running jobs as `cancelled` whose attempt has not stopped within `wait` of the request, at most `limit`; returns
/// which. The attempt is fenced out: whatever it writes from now on changes nothing. The error says that it was abandoned,
/// and what may have happened; when a message may have been sent, the job is `failed` with `outcome_unknown`.
pub async fn abandon_cancelled(conn: &mut PgConnection, wait: Duration, limit: i64) -> Result<Vec<JobId>, StoreError> {
    let harmless = error_value(&JobError::permanent(
        "abandoned",
        "The attempt did not stop when the job was cancelled, and was abandoned. It only read.",
    ));
    let unsure = error_value(&JobError::permanent(
        "abandoned",
        "The attempt did not stop when the job was cancelled, and was abandoned. What it was doing may have happened: look \
         before you enqueue the job again.",
    ));
    let reading: Vec<&str> = JobKind::ALL
        .into_iter()
        .filter(|kind| kind.action() == Action::Read)
        .map(JobKind::as_str)
        .collect();
    let moved = sqlx::query_scalar!(
        "-- abandon_cancelled
        WITH overdue AS MATERIALIZED (
            SELECT id FROM jobs WHERE cancel_requested_at IS NOT NULL AND state = 'running'
                AND cancel_requested_at <= (SELECT wireroom_now()) - $1::bigint * interval '1 microsecond'
            ORDER BY cancel_requested_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM jobs j USING overdue o WHERE j.id = ANY (ARRAY[o.id]) RETURNING j.*
        )
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
            max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
        SELECT id, kind, args, CASE WHEN in_doubt THEN 'failed' ELSE 'cancelled' END, lane, pool, session_id, priority,
            run_at, deadline, attempt, max_attempts, fence, worker_id, coalesce(started_at, claimed_at),
            (SELECT wireroom_now()), progress, CASE WHEN in_doubt THEN outcome_unknown(error) ELSE error END, tags,
            created_by, created_at
        FROM gone CROSS JOIN LATERAL (SELECT outcome_in_doubt(gone.id, checkpoint) AS in_doubt,
            CASE WHEN kind = ANY ($3) THEN $4::jsonb ELSE $5::jsonb END AS error) d
        RETURNING id",
        micros(wait),
        limit,
        &reading as &[&str],
        harmless,
        unsure,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("abandon_cancelled"))?;
    if !moved.is_empty() {
        outbox::jobs_ended();
    }
    Ok(moved.into_iter().map(JobId).collect())
}

/// Fails waiting jobs that are bound to a session that will not come back (logged out, banned, frozen or deleted), at most
/// `limit`, but watches, which have others to go on with: with `outcome_unknown` when something was being sent and not seen to be refused, otherwise with `session_lost`.
pub async fn fail_jobs_of_lost_sessions(conn: &mut PgConnection, limit: i64) -> Result<Vec<JobId>, StoreError> {
    let lost = error_value(&JobError::permanent(
        "session_lost",
        "The session this job is bound to is logged out, banned, frozen or deleted. Enqueue the job again on another one.",
    ));
    let moved = sqlx::query_scalar!(
        r#"-- fail_jobs_of_lost_sessions
        WITH RECURSIVE pinned AS (
            -- From one session to the next over the index: a session's whole backlog is never read.
            SELECT (SELECT session_id FROM jobs WHERE session_id IS NOT NULL AND state <> 'running'
                ORDER BY session_id LIMIT 1) AS id
            UNION ALL
            SELECT (SELECT j.session_id FROM jobs j WHERE j.session_id > p.id AND j.state <> 'running'
                ORDER BY j.session_id LIMIT 1)
            FROM pinned p WHERE p.id IS NOT NULL
        ), lost AS MATERIALIZED (
            SELECT j.id FROM pinned p LEFT JOIN sessions s ON s.id = p.id
            CROSS JOIN LATERAL (
                SELECT id FROM jobs WHERE session_id = p.id AND state <> 'running' AND session_bound AND kind <> 'monitor'
                LIMIT $1 FOR UPDATE SKIP LOCKED
            ) j
            WHERE s.id IS NULL OR s.state IN ('logged_out', 'banned', 'frozen') LIMIT $1
        ), gone AS (
            DELETE FROM jobs j USING lost WHERE j.id = ANY (ARRAY[lost.id]) RETURNING j.*
        )
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
            max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
        SELECT id, kind, args, 'failed', lane, pool, session_id, priority, run_at, deadline, attempt, max_attempts, fence,
            worker_id, started_at, (SELECT wireroom_now()), progress,
            CASE WHEN outcome_in_doubt(id, checkpoint) THEN outcome_unknown($2::jsonb) ELSE $2::jsonb END,
            tags, created_by, created_at
        FROM gone
        RETURNING id"#,
        limit,
        lost,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("fail_jobs_of_lost_sessions"))?;
    if !moved.is_empty() {
        outbox::jobs_ended();
    }
    Ok(moved.into_iter().map(JobId).collect())
}
