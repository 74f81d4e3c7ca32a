//! Rows of worker processes: who lives, and what a beat tells a worker about its own jobs.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::{JobId, WorkerId};

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerFacts {
    pub id: WorkerId,
    pub host: String,
    pub pid: i32,
    pub version: String,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    Running,
    /// It claims nothing any more.
    Draining,
    Stopped,
}

impl WorkerState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// An attempt that its worker should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwanted {
    pub id: JobId,
    pub fence: i64,
    /// The job was taken from this worker; otherwise its cancellation was asked for.
    pub lost: bool,
}

/// Writes the worker's row with a fresh heartbeat, and tells which of the attempts it runs it should stop. A row that
/// somebody removed is made again.
pub async fn beat(
    conn: &mut PgConnection,
    worker: &WorkerFacts,
    state: WorkerState,
    running: &[(JobId, i64)],
) -> Result<Vec<Unwanted>, StoreError> {
    let ids: Vec<Uuid> = running.iter().map(|(id, _)| id.0).collect();
    let fences: Vec<i64> = running.iter().map(|(_, fence)| *fence).collect();
    let rows = sqlx::query!(
        r#"-- beat
        WITH beaten AS (
            INSERT INTO workers (id, host, pid, version, state) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (id) DO UPDATE SET heartbeat_at = wireroom_now(),
                -- A stopped process beats no more: what comes later was under way before.
                state = CASE WHEN workers.state = 'stopped' THEN workers.state ELSE excluded.state END
        )
        SELECT r.id AS "id!", r.fence AS "fence!", j.id IS NULL AS "lost!"
        FROM unnest($6::uuid[], $7::bigint[]) AS r (id, fence)
        LEFT JOIN jobs j ON j.id = ANY (ARRAY[r.id]) AND j.fence = r.fence AND j.state NOT IN ('scheduled', 'queued')
        WHERE j.id IS NULL OR j.cancel_requested_at IS NOT NULL"#,
        worker.id.0,
        worker.host,
        worker.pid,
        worker.version,
        state.as_str(),
        &ids,
        &fences,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("beat"))?;
    Ok(rows
        .into_iter()
        .map(|row| Unwanted {
            id: JobId(row.id),
            fence: row.fence,
            lost: row.lost,
        })
        .collect())
}
