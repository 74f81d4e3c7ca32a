//! What running jobs say of themselves: written under the attempt's fence, read in order by those who follow a job.
//!
//! Bounded twice: of each job the newest [`KEPT`] lines stay, and none longer than [`DAYS`].

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::{PgConnection, PgPool};
use wireroom_jobs::{LogLevel, LogLine};

use super::{StoreError, attempt_data::AttemptKey, failed};
use crate::ids::JobId;

/// Lines kept of one job; a running one may have some more until it is trimmed.
pub const KEPT: i64 = 500;

/// Days a line is kept, or as long as finished jobs are when that is shorter.
pub const DAYS: i32 = 7;

/// A line as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// Grows within the job, in the order in which lines become visible.
    pub line: i64,
    pub at: DateTime<Utc>,
    pub attempt: i32,
    pub fence: i64,
    pub level: String,
    pub code: String,
    pub message: String,
    /// The numbers that go with it, by name.
    pub data: Value,
}

/// Adds a line. The job's row is locked before the line's number is taken: so numbers become visible in order, also when
/// an attempt writes from two places at once.
pub async fn append(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    level: LogLevel,
    line: &LogLine,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- append_log
        WITH held AS MATERIALIZED (
            SELECT id, attempt, fence FROM jobs WHERE id = $1 AND fence = $2 AND state NOT IN ('scheduled', 'queued') FOR NO KEY UPDATE
        )
        INSERT INTO job_logs (job_id, attempt, fence, level, code, message, data)
        SELECT id, attempt, fence, $3, $4, $5, $6 FROM held",
        attempt.job.0,
        attempt.fence,
        level.as_str(),
        line.code,
        line.message,
        numbers(line),
    )
    .execute(conn)
    .await
    .map_err(failed("append_log"))?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Fenced {
            operation: "append_log",
        })
    }
}

/// The figures of a line as its column has them.
pub(super) fn numbers(line: &LogLine) -> Value {
    let numbers = line.numbers.iter();
    let named: Map<String, Value> = numbers
        .map(|(name, number)| ((*name).to_owned(), Value::from(*number)))
        .collect();
    Value::Object(named)
}

/// Deletes all but the newest lines of a job.
pub async fn trim(conn: &mut PgConnection, job: JobId) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- trim_log
        DELETE FROM job_logs WHERE job_id = $1
            AND line <= (SELECT line FROM job_logs WHERE job_id = $1 ORDER BY line DESC OFFSET $2 LIMIT 1)",
        job.0,
        KEPT,
    )
    .execute(conn)
    .await
    .map_err(failed("trim_log"))?;
    Ok(done.rows_affected())
}

/// Deletes up to `limit` lines that are too old, where finished jobs are kept for `keep` days; returns how many. Call it
/// again while that is not zero.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- expire_logs
        DELETE FROM job_logs WHERE (job_id, line) IN (
            SELECT job_id, line FROM job_logs WHERE at < (SELECT wireroom_now()) - make_interval(days => $1)
            ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        keep.min(DAYS),
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("expire_logs"))?;
    Ok(done.rows_affected())
}

/// The lines of a job after `after`, at most `limit`, in order.
pub async fn after(pool: &PgPool, job: JobId, after: i64, limit: i64) -> Result<Vec<LogRecord>, StoreError> {
    sqlx::query_as!(
        LogRecord,
        "-- log_after
        SELECT line, at, attempt, fence, level, code, message, data FROM job_logs
        WHERE job_id = $1 AND line > $2 ORDER BY line LIMIT $3",
        job.0,
        after,
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("log_after"))
}
