//! What holds a job back, as the tables have it: beside the state of its sessions, which
//! [`job_reads::place_facts`](super::job_reads::place_facts) knows.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError, failed,
    limits::{self, Limits},
    pauses::{self, Pause},
};
use crate::ids::JobId;

/// As far as a line is counted.
pub const MOST_AHEAD: i32 = 10_000;

/// So many jobs are named that are in a job's way.
const MOST_NAMED: i32 = 3;

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
    /// Slots of the lane that workers hold, on the sessions where a queued job can run.
    pub slots: i64,
    /// How many of them are free.
    pub free: i64,
    /// Up to [`MOST_NAMED`] of the jobs in the others, those that began first.
    pub in_slots: Vec<Uuid>,
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
            j.suspect AND EXISTS (SELECT FROM jobs r WHERE r.state = 'running' AND r.suspect AND r.id <> j.id
                AND r.claimed_at > wireroom_now() - interval '1 minute') AS "suspect_runs!",
            CASE WHEN j.state <> 'queued' THEN 0
                WHEN j.session_id IS NULL THEN (SELECT count(*) FROM (
                    SELECT FROM jobs a WHERE a.state = 'queued' AND a.session_id IS NULL AND a.pool = j.pool
                        AND a.lane = j.lane AND (a.rank, a.id) < (j.rank, j.id) LIMIT $2 + 1) ahead)
                ELSE (SELECT count(*) FROM (
                    SELECT FROM jobs a WHERE a.state = 'queued' AND a.session_id = j.session_id
                        AND a.lane = j.lane AND (a.rank, a.id) < (j.rank, j.id) LIMIT $2 + 1) ahead)
                END AS "ahead!",
            coalesce(p.slots, 0) AS "slots!", coalesce(p.free, 0) AS "free!",
            ARRAY(SELECT r.id FROM jobs r WHERE r.state = 'running' AND r.lane = j.lane AND r.session_id = ANY (p.sessions)
                ORDER BY r.claimed_at, r.id LIMIT $3) AS "in_slots!"
        FROM jobs j
        LEFT JOIN LATERAL (
            SELECT sum(o.slots)::bigint AS slots, sum(greatest(o.slots - o.taken, 0))::bigint AS free,
                array_agg(o.id) AS sessions
            FROM (
                SELECT s.id, CASE j.lane WHEN 'interactive' THEN s.interactive_slots WHEN 'watch' THEN s.watch_slots
                    ELSE s.bulk_slots END AS slots, coalesce(t.taken, 0) AS taken
                FROM sessions s
                JOIN session_leases l ON l.session_id = s.id AND l.owner IS NOT NULL AND l.expires_at > wireroom_now()
                LEFT JOIN (SELECT session_id, count(*) AS taken FROM jobs WHERE state = 'running' AND lane = j.lane
                    GROUP BY session_id) t ON t.session_id = s.id
                WHERE s.state = 'ready' AND CASE WHEN j.session_id IS NULL THEN s.pool = j.pool ELSE s.id = j.session_id END
            ) o
        ) p ON j.state = 'queued'
        WHERE j.id = $1"#,
        id.0,
        MOST_AHEAD,
        i64::from(MOST_NAMED),
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("job_holds"))
}
