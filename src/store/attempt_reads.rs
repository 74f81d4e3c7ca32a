//! The attempts of a job as the API shows them: the earlier ones from `job_attempts`, the one that runs, or was the last,
//! from the job's own row; and how far the jobs are that somebody follows.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::{StoreError, failed, job_reads::earliest_finish};
use crate::ids::{JobId, SessionId, WorkerId};

/// One execution of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// From 1; one that was refunded has the number of the one after it.
    pub attempt: i32,
    /// Grows from attempt to attempt.
    pub fence: i64,
    pub worker: Option<WorkerId>,
    pub session: Option<SessionId>,
    /// When its function was called, or else when it was claimed.
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// `running`, how it went back (`retry`, `snooze`, `handed_over`, `orphaned`), or the job's final state.
    pub outcome: String,
    /// `{code, message, retryable}`.
    pub error: Option<Value>,
    /// `{code, message}` of what the job waited for afterwards.
    pub wait_reason: Option<Value>,
}

/// The attempts before the fence `before`, the latest first, at most `limit`.
pub async fn page(
    pool: &PgPool,
    job: JobId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AttemptRecord>, StoreError> {
    sqlx::query_as!(
        AttemptRecord,
        // A job that ended while it waited (cancelled, past its deadline) has its last attempt among the earlier ones.
        r#"-- attempt_page
        SELECT attempt AS "attempt!", fence AS "fence!", worker_id AS "worker: WorkerId",
            session_id AS "session: SessionId", started_at, ended_at, outcome AS "outcome!", error, wait_reason
        FROM (
            SELECT attempt, fence, worker_id, session_id, coalesce(started_at, claimed_at) AS started_at,
                NULL::timestamptz AS ended_at, 'running' AS outcome, NULL::jsonb AS error, NULL::jsonb AS wait_reason
            FROM jobs WHERE id = $1 AND state = 'running'
            UNION ALL
            SELECT attempt, fence, worker_id, session_id, started_at, finished_at, state, error, NULL
            FROM finished_jobs f WHERE id = $1 AND finished_at >= $2 AND fence > 0
                AND NOT EXISTS (SELECT FROM job_attempts a WHERE a.job_id = $1 AND a.ended_at >= $2 AND a.fence = f.fence)
            UNION ALL
            SELECT attempt, fence, worker_id, session_id, started_at, ended_at, outcome, error, wait_reason
            FROM job_attempts WHERE job_id = $1 AND ended_at >= $2
        ) attempts
        WHERE fence < $3 ORDER BY fence DESC LIMIT $4"#,
        job.0,
        earliest_finish(job.0),
        before.unwrap_or(i64::MAX),
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("attempt_page"))
}

/// A live job, as those who follow it see it.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveRecord {
    pub id: JobId,
    /// `scheduled`, `queued` or `running`.
    pub state: String,
    pub attempt: i32,
    pub fence: i64,
    pub run_at: DateTime<Utc>,
    pub worker: Option<WorkerId>,
    pub session: Option<SessionId>,
    pub wait_reason: Option<Value>,
    pub progress: Option<Value>,
    /// Its newest line, 0 when it has none.
    pub last_line: i64,
}

/// How the live ones of the jobs are, in one statement for all.
pub async fn live(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<LiveRecord>, StoreError> {
    sqlx::query_as!(
        LiveRecord,
        r#"-- followed_jobs
        SELECT id AS "id: JobId", state, attempt, fence, run_at, worker_id AS "worker: WorkerId",
            session_id AS "session: SessionId", wait_reason, progress,
            coalesce((SELECT line FROM job_logs l WHERE l.job_id = j.id ORDER BY line DESC LIMIT 1), 0) AS "last_line!"
        FROM jobs j WHERE id = ANY ($1)"#,
        ids,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("followed_jobs"))
}
