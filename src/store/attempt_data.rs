//! What a running attempt keeps in its job's row. Every write names the attempt's fence.

use serde_json::Value;
use sqlx::PgConnection;

use wireroom_jobs::{LogLevel, scan::ports::PageEnd};

use super::{StoreError, failed, job_logs};
use crate::ids::JobId;

/// One attempt: the job and the fence its claim returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptKey {
    pub job: JobId,
    pub fence: i64,
}

/// Makes sure the attempt still owns its job, and keeps it so until the transaction ends.
pub async fn hold(conn: &mut PgConnection, attempt: AttemptKey, operation: &'static str) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "-- hold_attempt
        SELECT id FROM jobs WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued') FOR SHARE",
        attempt.job.0,
        attempt.fence,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("hold_attempt"))?
    .map(|_| ())
    .ok_or(StoreError::Fenced { operation })
}

/// The same for a transaction that changes the job's row.
pub async fn hold_alone(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    operation: &'static str,
) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "-- hold_attempt_alone
        SELECT id FROM jobs WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued') FOR NO KEY UPDATE",
        attempt.job.0,
        attempt.fence,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("hold_attempt_alone"))?
    .map(|_| ())
    .ok_or(StoreError::Fenced { operation })
}

/// The same for a page of rows that can be had again: the transaction commits without waiting for the disk.
pub async fn hold_page(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    operation: &'static str,
) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        r#"-- hold_page
        SELECT set_config('synchronous_commit', 'off', true) AS "set!" FROM jobs
        WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued') FOR NO KEY UPDATE"#,
        attempt.job.0,
        attempt.fence,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("hold_page"))?
    .map(|_| ())
    .ok_or(StoreError::Fenced { operation })
}

/// Stores the checkpoint, the progress and the line of a page. The transaction holds the job's row alone, so lines become
/// visible in the order of their numbers.
pub async fn end_page(conn: &mut PgConnection, attempt: AttemptKey, end: &PageEnd) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- end_page
        WITH held AS (
            UPDATE jobs SET checkpoint = $3, progress = $4
            WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued') RETURNING id, attempt, fence
        )
        INSERT INTO job_logs (job_id, attempt, fence, level, code, message, data)
        SELECT id, attempt, fence, $5, $6, $7, $8 FROM held",
        attempt.job.0,
        attempt.fence,
        end.checkpoint,
        serde_json::to_value(&end.progress).expect("numbers serialise"),
        LogLevel::Info.as_str(),
        end.line.code,
        end.line.message,
        job_logs::numbers(&end.line),
    )
    .execute(conn)
    .await
    .map_err(failed("end_page"))?;
    changed_one(done.rows_affected(), "end_page")
}

pub async fn checkpoint(conn: &mut PgConnection, attempt: AttemptKey) -> Result<Option<Value>, StoreError> {
    sqlx::query_scalar!(
        "-- read_checkpoint
        SELECT checkpoint FROM jobs WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued')",
        attempt.job.0,
        attempt.fence,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("read_checkpoint"))?
    .ok_or(StoreError::Fenced {
        operation: "read_checkpoint",
    })
}

pub async fn save_checkpoint(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    checkpoint: &Value,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- save_checkpoint
        UPDATE jobs SET checkpoint = $3 WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued')",
        attempt.job.0,
        attempt.fence,
        checkpoint,
    )
    .execute(conn)
    .await
    .map_err(failed("save_checkpoint"))?;
    changed_one(done.rows_affected(), "save_checkpoint")
}

pub async fn save_progress(conn: &mut PgConnection, attempt: AttemptKey, progress: &Value) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- save_progress
        UPDATE jobs SET progress = $3 WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued')",
        attempt.job.0,
        attempt.fence,
        progress,
    )
    .execute(conn)
    .await
    .map_err(failed("save_progress"))?;
    changed_one(done.rows_affected(), "save_progress")
}

/// Ties a pooled job to the session it was claimed on, before its first Telegram call: from here on a retry, a flood or
/// a rescue keeps the session, since a `random_id` is known to one account only.
pub async fn bind_session(conn: &mut PgConnection, attempt: AttemptKey) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- bind_session
        UPDATE jobs SET session_bound = true WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued')",
        attempt.job.0,
        attempt.fence,
    )
    .execute(conn)
    .await
    .map_err(failed("bind_session"))?;
    changed_one(done.rows_affected(), "bind_session")
}

fn changed_one(changed: u64, operation: &'static str) -> Result<(), StoreError> {
    if changed == 1 {
        Ok(())
    } else {
        Err(StoreError::Fenced { operation })
    }
}
