//! What holds a job back, as the tables have it: beside the state of its sessions, which
//! [`job_reads::place_facts`](super::job_reads::place_facts) knows.

use sqlx::PgConnection;

use super::{
    StoreError, failed,
    limits::{self, Limits},
    pauses::{self, Pause},
};
use crate::ids::JobId;

/// As far as a line is counted.
pub const MOST_AHEAD: i32 = 10_000;

/// What is known of a live job beside its record.
#[derive(Debug, Clone, Default)]
pub struct JobHolds {
    pub limit_key: Option<String>,
    /// A worker died while it held the job.
    pub suspect: bool,
    /// Another job of that sort runs now.
    pub suspect_runs: bool,
    /// Jobs of the same line (of its session, or of its pool) and lane that go first; at most [`MOST_AHEAD`] and one.
    pub ahead: i64,
}

/// What operators and admins hold back.
#[derive(Debug, Clone, Default)]
pub struct Controls {
    pub pauses: Vec<Pause>,
    pub limits: Limits,
    /// How many run under each concurrency limit, in their order.
    pub running: Vec<i64>,
}

/// The pauses and the limits of this moment.
pub async fn controls(conn: &mut PgConnection) -> Result<Controls, StoreError> {
    let (pauses, _) = pauses::active(conn).await?;
    let limits = limits::all(conn).await?;
    let running = if limits.concurrency.is_empty() {
        Vec::new()
    } else {
        limits::running(conn, &limits.concurrency).await?
    };
    Ok(Controls {
        pauses,
        limits,
        running,
    })
}

/// The facts of a live job; `None` when it is finished or unknown.
pub async fn of_job(conn: &mut PgConnection, id: JobId) -> Result<Option<JobHolds>, StoreError> {
    sqlx::query_as!(
        JobHolds,
        r#"-- job_holds
        SELECT j.limit_key, j.suspect,
            j.suspect AND EXISTS (SELECT FROM jobs r WHERE r.state = 'running' AND r.suspect AND r.id <> j.id)
                AS "suspect_runs!",
            CASE WHEN j.state <> 'queued' THEN 0
                WHEN j.session_id IS NULL THEN (SELECT count(*) FROM (
                    SELECT FROM jobs a WHERE a.state = 'queued' AND a.session_id IS NULL AND a.pool = j.pool
                        AND a.lane = j.lane AND (a.rank, a.id) < (j.rank, j.id) LIMIT $2 + 1) ahead)
                ELSE (SELECT count(*) FROM (
                    SELECT FROM jobs a WHERE a.state = 'queued' AND a.session_id = j.session_id
                        AND a.lane = j.lane AND (a.rank, a.id) < (j.rank, j.id) LIMIT $2 + 1) ahead)
                END AS "ahead!"
        FROM jobs j WHERE j.id = $1"#,
        id.0,
        MOST_AHEAD,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("job_holds"))
}
