//! Many jobs at once, by filter: cancelled or retried in bounded batches, each of which is one statement in the caller's
//! transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError, failed,
    job_reads::{JobFilter, JobState},
    jobs::micros,
    outbox,
};
use crate::ids::{JobId, SessionId};

/// Most jobs of one batch.
pub const BATCH: i64 = 1000;

/// The time by the database's clock: a bulk operation leaves what is made after it began alone.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(
        r#"-- now
        SELECT wireroom_now() AS "now!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("now"))
}

/// How many live jobs of each state the filter meets that no cancel was asked for yet.
pub async fn count_live(conn: &mut PgConnection, filter: &JobFilter<'_>) -> Result<Vec<(JobState, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"-- count_live
        SELECT state, count(*) AS "jobs!" FROM jobs
        WHERE cancel_requested_at IS NULL AND ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR state = $2)
            AND ($3::text IS NULL OR pool = $3) AND ($4::uuid IS NULL OR session_id = $4)
            AND ($5::text IS NULL OR $5 = ANY (tags)) AND ($6::timestamptz IS NULL OR created_at >= $6)
            AND ($7::timestamptz IS NULL OR created_at < $7) AND ($8::uuid IS NULL OR batch_id = $8)
        GROUP BY state ORDER BY state"#,
        filter.kind,
        filter.state.map(JobState::as_str),
        filter.pool,
        filter.session.map(|id| id.0),
        filter.tag,
        filter.since,
        filter.until,
        filter.batch.map(|id| id.0),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("count_live"))?;
    rows.into_iter()
        .map(|row| Ok((known_state(&row.state, "count_live")?, row.jobs)))
        .collect()
}

/// One job of a cancelled batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkCancelled {
    pub id: JobId,
    /// It ran, and was asked to stop; otherwise it is `cancelled`, or `failed` with `outcome_unknown` when an earlier
    /// attempt may have sent.
    pub running: bool,
}

/// Cancels up to `limit` of the live jobs that the filter meets. Jobs that somebody else has in hand at this moment are
/// left out: call it again.
pub async fn cancel_batch(
    conn: &mut PgConnection,
    filter: &JobFilter<'_>,
    limit: i64,
) -> Result<Vec<BulkCancelled>, StoreError> {
    let rows = sqlx::query!(
        r#"-- cancel_batch
        WITH chosen AS MATERIALIZED (
            SELECT id, state = 'running' AS running FROM jobs
            WHERE cancel_requested_at IS NULL AND ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR state = $2)
                AND ($3::text IS NULL OR pool = $3) AND ($4::uuid IS NULL OR session_id = $4)
                AND ($5::text IS NULL OR $5 = ANY (tags)) AND ($6::timestamptz IS NULL OR created_at >= $6)
                AND ($7::timestamptz IS NULL OR created_at < $7) AND ($9::uuid IS NULL OR batch_id = $9)
            ORDER BY id LIMIT $8 FOR UPDATE SKIP LOCKED
        ), asked AS (
            UPDATE jobs j SET cancel_requested_at = (SELECT wireroom_now()) FROM chosen c WHERE j.id = c.id AND c.running
        ), gone AS (
            DELETE FROM jobs j USING chosen c WHERE j.id = c.id AND NOT c.running RETURNING j.*
        ), moved AS (
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
                max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
            SELECT id, kind, args, CASE WHEN in_doubt THEN 'failed' ELSE 'cancelled' END, lane, pool, session_id, priority,
                run_at, deadline, attempt, max_attempts, fence, worker_id, started_at, (SELECT wireroom_now()), progress,
                CASE WHEN in_doubt THEN outcome_unknown(last_error) ELSE last_error END, tags, created_by, created_at
            FROM gone CROSS JOIN LATERAL (SELECT outcome_in_doubt(gone.id, checkpoint) AS in_doubt) d
        )
        SELECT id, running AS "running!" FROM chosen"#,
        filter.kind,
        filter.state.map(JobState::as_str),
        filter.pool,
        filter.session.map(|id| id.0),
        filter.tag,
        filter.since,
        filter.until,
        limit,
        filter.batch.map(|id| id.0),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("cancel_batch"))?;
    if rows.iter().any(|row| !row.running) {
        outbox::jobs_ended();
    }
    let cancelled = rows.into_iter().map(|row| BulkCancelled {
        id: JobId(row.id),
        running: row.running,
    });
    Ok(cancelled.collect())
}

/// How many finished jobs a bulk retry would repeat, and how many it would leave because their session cannot run jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retryable {
    pub jobs: i64,
    pub session_not_ready: i64,
}

/// Counts finished jobs that the filter meets and that nobody has retried yet. The filter must name a final state.
pub async fn count_retryable(conn: &mut PgConnection, filter: &JobFilter<'_>) -> Result<Retryable, StoreError> {
    sqlx::query_as!(
        Retryable,
        r#"-- count_retryable
        SELECT count(*) FILTER (WHERE f.session_id IS NULL OR s.state IN ('ready', 'limited', 'degraded')) AS "jobs!",
            count(*) FILTER (WHERE f.session_id IS NOT NULL AND (s.id IS NULL OR s.state NOT IN ('ready', 'limited', 'degraded')))
                AS "session_not_ready!"
        FROM finished_jobs f LEFT JOIN sessions s ON s.id = f.session_id
        WHERE ($1::text IS NULL OR f.kind = $1) AND f.state = $2 AND ($3::text IS NULL OR f.pool = $3)
            AND ($4::uuid IS NULL OR f.session_id = $4) AND ($5::text IS NULL OR $5 = ANY (f.tags))
            AND ($6::timestamptz IS NULL OR f.created_at >= $6) AND ($7::timestamptz IS NULL OR f.created_at < $7)
            AND ($8::uuid IS NULL OR f.id IN (SELECT job_id FROM batch_jobs WHERE batch_id = $8))
            AND NOT EXISTS (SELECT FROM job_origins o WHERE o.retry_of = f.id)"#,
        filter.kind,
        filter.state.map(JobState::as_str),
        filter.pool,
        filter.session.map(|id| id.0),
        filter.tag,
        filter.since,
        filter.until,
        filter.batch.map(|id| id.0),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("count_retryable"))
}

/// Up to `limit` of the finished jobs that [`count_retryable`] counts as jobs, the oldest first.
pub async fn find_retryable(
    conn: &mut PgConnection,
    filter: &JobFilter<'_>,
    limit: i64,
) -> Result<Vec<JobId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"-- find_retryable
        SELECT f.id FROM finished_jobs f LEFT JOIN sessions s ON s.id = f.session_id
        WHERE ($1::text IS NULL OR f.kind = $1) AND f.state = $2 AND ($3::text IS NULL OR f.pool = $3)
            AND ($4::uuid IS NULL OR f.session_id = $4) AND ($5::text IS NULL OR $5 = ANY (f.tags))
            AND ($6::timestamptz IS NULL OR f.created_at >= $6) AND ($7::timestamptz IS NULL OR f.created_at < $7)
            AND (f.session_id IS NULL OR s.state IN ('ready', 'limited', 'degraded'))
            AND ($9::uuid IS NULL OR f.id IN (SELECT job_id FROM batch_jobs WHERE batch_id = $9))
            AND NOT EXISTS (SELECT FROM job_origins o WHERE o.retry_of = f.id)
        ORDER BY f.id LIMIT $8"#,
        filter.kind,
        filter.state.map(JobState::as_str),
        filter.pool,
        filter.session.map(|id| id.0),
        filter.tag,
        filter.since,
        filter.until,
        limit,
        filter.batch.map(|id| id.0),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("find_retryable"))?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// A new job and the finished one it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retried {
    pub id: JobId,
    pub retry_of: JobId,
}

/// Repeats finished jobs: each as a new job that is due at once, with what the old one was asked to do, its pool, its
/// session, its priority, its tags and its limit key, and without its deadline. A job that ran on a session stays with it:
/// work never moves on to get round a limit.
///
/// A publish to several chats goes on where the old one ended: its messages that were sent stay sent, and where one may have
/// been sent, nobody sends it again.
///
/// Left out are jobs that are not finished, that were retried before, or whose session cannot run jobs. After the commit
/// call `queue::Waker::ready`.
pub async fn retry(
    conn: &mut PgConnection,
    ids: &[JobId],
    actor: &str,
    ageing_step: Duration,
) -> Result<Vec<Retried>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"-- retry
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        old AS MATERIALIZED (
            SELECT f.*, o.limit_key, new_job_id() AS new_id
            FROM finished_jobs f LEFT JOIN job_origins o ON o.job_id = f.id LEFT JOIN sessions s ON s.id = f.session_id
            WHERE f.id = ANY ($1) AND (f.session_id IS NULL OR s.state IN ('ready', 'limited', 'degraded'))
        ), origins AS (
            INSERT INTO job_origins (job_id, retry_of, limit_key) SELECT new_id, id, limit_key FROM old
            ON CONFLICT DO NOTHING
            RETURNING job_id, retry_of
        ), stored AS (
            INSERT INTO jobs (id, kind, args, state, lane, pool, session_id, session_bound, priority, rank, run_at,
                max_attempts, tags, limit_key, created_by, created_at)
            SELECT o.new_id, o.kind, o.args, 'queued', o.lane, o.pool, o.session_id, o.session_id IS NOT NULL, o.priority,
                (extract(epoch FROM c.t) * 1000000)::bigint - o.priority * $2::bigint, c.t, o.max_attempts, o.tags,
                o.limit_key, $3, c.t
            FROM old o JOIN origins n ON n.job_id = o.new_id CROSS JOIN clock c
        ), ended AS (
            SELECT n.job_id AS new_job, t.*, EXISTS (SELECT FROM job_effects e WHERE e.job_id = t.job_id AND e.chat_id = t.chat_id
                AND e.attempted_at IS NOT NULL AND e.settled_at IS NULL) AS in_doubt
            FROM origins n JOIN old o ON o.new_id = n.job_id AND o.kind = 'publish'
            JOIN publish_targets t ON t.job_id = o.id
        ), carried AS (
            INSERT INTO publish_targets (job_id, position, chat_id, tries, outcome, error, message_id, other_message_ids,
                message_date)
            SELECT d.new_job, d.position, d.chat_id, d.tries, coalesce(d.outcome, 'outcome_unknown'),
                CASE WHEN d.outcome IS NULL THEN 'The job that this one repeats ended before it could find out whether the'
                    || ' message was sent. Look in the chat before you send it again.' ELSE d.error END,
                d.message_id, d.other_message_ids, d.message_date
            FROM ended d WHERE d.outcome IN ('sent', 'outcome_unknown') OR (d.outcome IS NULL AND d.in_doubt)
        )
        SELECT job_id, retry_of AS "retry_of!" FROM origins"#,
        &ids,
        micros(ageing_step),
        actor,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("retry"))?;
    let retried = rows.into_iter().map(|row| Retried {
        id: JobId(row.job_id),
        retry_of: JobId(row.retry_of),
    });
    Ok(retried.collect())
}

/// Why a job was not retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRetried {
    Unknown,
    /// It is live, in this state.
    Live(JobState),
    /// As this job.
    Already(JobId),
    /// Its session is in this state; `None` when it was deleted.
    SessionNotReady(SessionId, Option<String>),
}

/// Why [`retry`] left a job out; `None` when nothing is in the way any more.
pub async fn why_not_retried(conn: &mut PgConnection, id: JobId) -> Result<Option<NotRetried>, StoreError> {
    let row = sqlx::query!(
        r#"-- why_not_retried
        SELECT j.state AS "state!", j.session_id, s.state AS "session_state?",
            (SELECT o.job_id FROM job_origins o WHERE o.retry_of = j.id) AS already
        FROM all_jobs j LEFT JOIN sessions s ON s.id = j.session_id WHERE j.id = $1"#,
        id.0
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("why_not_retried"))?;
    let Some(row) = row else {
        return Ok(Some(NotRetried::Unknown));
    };
    let state = known_state(&row.state, "why_not_retried")?;
    if !state.is_finished() {
        return Ok(Some(NotRetried::Live(state)));
    }
    if let Some(already) = row.already {
        return Ok(Some(NotRetried::Already(JobId(already))));
    }
    let ready = row
        .session_state
        .as_deref()
        .is_some_and(|state| ["ready", "limited", "degraded"].contains(&state));
    Ok(match row.session_id {
        Some(session) if !ready => Some(NotRetried::SessionNotReady(SessionId(session), row.session_state)),
        _ => None,
    })
}

fn known_state(name: &str, operation: &'static str) -> Result<JobState, StoreError> {
    JobState::parse(name).ok_or_else(|| StoreError::Decode {
        operation,
        detail: format!("state {name}"),
    })
}
