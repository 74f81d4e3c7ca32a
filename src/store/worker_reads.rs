//! Workers as the API reads them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, postgres::types::PgInterval};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::WorkerId;

/// One start of one worker process, and what it has in hand.
#[derive(Debug, Clone)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub host: String,
    pub pid: i32,
    pub version: String,
    pub state: String,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
    /// It has not stopped, and its heart beat within `dead_after`.
    pub alive: bool,
    /// Unexpired leases.
    pub sessions: i64,
    pub running_jobs: i64,
}

/// A page of workers, the latest started first, those before `before`.
pub async fn list(
    pool: &PgPool,
    dead_after: Duration,
    only_alive: bool,
    before: Option<WorkerId>,
    limit: i64,
) -> Result<Vec<WorkerRecord>, StoreError> {
    let dead_after = PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(dead_after.as_micros()).unwrap_or(i64::MAX),
    };
    sqlx::query_as!(
        WorkerRecord,
        r#"-- list_workers
        SELECT w.id AS "id: WorkerId", w.host, w.pid, w.version, w.state, w.started_at, w.heartbeat_at, a.alive AS "alive!",
            (SELECT count(*) FROM session_leases l WHERE l.owner = w.id AND l.expires_at > wireroom_now()) AS "sessions!",
            (SELECT count(*) FROM jobs j WHERE j.worker_id = w.id AND j.state = 'running') AS "running_jobs!"
        FROM workers w
        CROSS JOIN LATERAL (SELECT w.state <> 'stopped' AND w.heartbeat_at > wireroom_now() - $1::interval AS alive) a
        WHERE (a.alive OR NOT $2) AND w.id < $3
        ORDER BY w.id DESC LIMIT $4"#,
        dead_after,
        only_alive,
        before.map_or(Uuid::max(), |id| id.0),
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list_workers"))
}
