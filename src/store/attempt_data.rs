//! What a running attempt keeps in its job's row. Every write names the attempt's fence.

use serde_json::Value;
use sqlx::PgConnection;

use super::{StoreError, failed};
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
