//! Jobs that were enqueued together. A batch counts its jobs as they finish: a trigger on `jobs` does that, so every
//! statement that ends a job counts, and the transaction of the last one writes the event `batch.finished`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{StoreError, failed, one_row, outbox};
use crate::ids::BatchId;

/// What happens when some jobs of a batch cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchMode {
    /// None is.
    AllOrNothing,
    /// The others are.
    PerItem,
}

impl BatchMode {
    pub const ALL: [Self; 2] = [Self::AllOrNothing, Self::PerItem];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllOrNothing => "all_or_nothing",
            Self::PerItem => "per_item",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// A batch and how far it is. The counts of one look add up to `total`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRecord {
    pub id: BatchId,
    pub mode: BatchMode,
    /// Jobs it was made of.
    pub total: i32,
    pub scheduled: i64,
    pub queued: i64,
    pub running: i64,
    pub succeeded: i32,
    pub failed: i32,
    pub cancelled: i32,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// Lets the caller's transaction wait for `most` between two statements: a batch is stored as it comes in.
pub async fn come_in_slowly(conn: &mut PgConnection, most: Duration) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "-- come_in_slowly
        SELECT set_config('idle_in_transaction_session_timeout', $1, true)",
        most.as_millis().to_string(),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("come_in_slowly"))?;
    Ok(())
}

/// Opens a batch in the caller's transaction; [`close`] it before the commit.
pub async fn open(
    conn: &mut PgConnection,
    id: BatchId,
    mode: BatchMode,
    created_by: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- open_batch
        INSERT INTO batches (id, mode, created_by) VALUES ($1, $2, $3)",
        id.0,
        mode.as_str(),
        created_by
    )
    .execute(conn)
    .await
    .map_err(failed("open_batch"))?;
    Ok(())
}

/// Puts stored jobs into a batch, for those who ask later which jobs it was made of.
pub(super) async fn add(conn: &mut PgConnection, id: BatchId, jobs: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- add_to_batch
        INSERT INTO batch_jobs (batch_id, job_id) SELECT $1, unnest($2::uuid[])",
        id.0,
        jobs
    )
    .execute(conn)
    .await
    .map_err(failed("add_to_batch"))?;
    Ok(())
}

/// Says how many jobs the transaction has put into the batch, and in which mode. A batch without jobs is finished, and its
/// event written.
pub async fn close(conn: &mut PgConnection, id: BatchId, mode: BatchMode, total: usize) -> Result<(), StoreError> {
    let changed = sqlx::query_scalar!(
        r#"-- close_batch
        WITH closed AS (
            UPDATE batches SET mode = $2, total = $3, finished_at = CASE WHEN $3 = 0 THEN wireroom_now() END WHERE id = $1
            RETURNING id, finished_at
        ), told AS (
            INSERT INTO outbox (type, subject, data)
            SELECT 'batch.finished', 'batch:' || id,
                jsonb_build_object('batch', id, 'total', 0, 'succeeded', 0, 'failed', 0, 'cancelled', 0)
            FROM closed WHERE finished_at IS NOT NULL
        )
        SELECT count(*) AS "changed!" FROM closed"#,
        id.0,
        mode.as_str(),
        i32::try_from(total).unwrap_or(i32::MAX),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("close_batch"))?;
    if total == 0 {
        outbox::written();
    }
    one_row(changed.unsigned_abs(), "close_batch")
}

/// The batch of that id. Finished jobs come from its counters, live ones from an index of its own.
pub async fn get(executor: impl PgExecutor<'_>, id: BatchId) -> Result<Option<BatchRecord>, StoreError> {
    let row = sqlx::query!(
        r#"-- get_batch
        SELECT b.mode, b.total, l.scheduled AS "scheduled!", l.queued AS "queued!", l.running AS "running!", b.succeeded,
            b.failed, b.cancelled, b.created_by, b.created_at, b.finished_at
        FROM batches b CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE j.state = 'scheduled') AS scheduled,
                count(*) FILTER (WHERE j.state = 'queued') AS queued,
                count(*) FILTER (WHERE j.state = 'running') AS running
            FROM jobs j WHERE j.batch_id = b.id) l
        WHERE b.id = $1"#,
        id.0
    )
    .fetch_optional(executor)
    .await
    .map_err(failed("get_batch"))?;
    row.map(|row| {
        let mode = BatchMode::parse(&row.mode).ok_or_else(|| StoreError::Decode {
            operation: "get_batch",
            detail: format!("mode {}", row.mode),
        })?;
        Ok(BatchRecord {
            id,
            mode,
            total: row.total,
            scheduled: row.scheduled,
            queued: row.queued,
            running: row.running,
            succeeded: row.succeeded,
            failed: row.failed,
            cancelled: row.cancelled,
            created_by: row.created_by,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    })
    .transpose()
}

/// Deletes up to `limit` batches that finished more than `keep` days ago, each with up to ten thousand rows of its jobs;
/// returns how many went.
pub async fn sweep(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- sweep_batches
        DELETE FROM batches WHERE id IN (
            SELECT id FROM batches WHERE finished_at < (SELECT wireroom_now()) - make_interval(days => $1)
            ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        keep,
        limit
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_batches"))?;
    Ok(done.rows_affected())
}
