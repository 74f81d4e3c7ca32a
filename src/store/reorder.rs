//! Changes to a job that waits: its priority and when it is due.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, failed, jobs::micros};
use crate::ids::JobId;

/// What is to be changed; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    /// From -100 to 100.
    pub priority: Option<i16>,
    /// When it is due; the past makes it due at once.
    pub run_at: Option<DateTime<Utc>>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// After the commit call `queue::Waker::scheduled`.
    Done,
    Running,
    Finished,
    Unknown,
    /// The new time is not before the job's deadline; nothing was changed.
    PastDeadline,
}

/// Changes a waiting job in the caller's transaction, and its place among the ready with it. A new `run_at` drops what made
/// the job wait until the old one; a priority alone does not.
pub async fn change(
    conn: &mut PgConnection,
    id: JobId,
    change: Change,
    ageing_step: Duration,
) -> Result<Changed, StoreError> {
    let row = sqlx::query!(
        r#"-- change: lock
        SELECT state, deadline IS NOT NULL AND $2::timestamptz >= deadline AS "late" FROM jobs WHERE id = $1 FOR UPDATE"#,
        id.0,
        change.run_at,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("change"))?;
    match row {
        None => finished_or_unknown(conn, id).await,
        Some(row) if row.state == "running" => Ok(Changed::Running),
        Some(row) if row.late == Some(true) => Ok(Changed::PastDeadline),
        Some(_) => write(conn, id, change, ageing_step).await.map(|()| Changed::Done),
    }
}

async fn write(conn: &mut PgConnection, id: JobId, change: Change, ageing_step: Duration) -> Result<(), StoreError> {
    sqlx::query!(
        "-- change
        UPDATE jobs j SET priority = c.priority, run_at = c.run_at,
            rank = CASE WHEN $3::timestamptz IS NULL THEN j.rank + (j.priority - c.priority) * $4::bigint
                ELSE (extract(epoch FROM c.run_at) * 1000000)::bigint - c.priority * $4::bigint END,
            state = CASE WHEN $3::timestamptz IS NULL THEN j.state WHEN c.run_at > c.t THEN 'scheduled' ELSE 'queued' END,
            wait_reason = CASE WHEN $3::timestamptz IS NULL THEN j.wait_reason END,
            limit_turn = j.limit_turn AND $3::timestamptz IS NULL
        FROM (
            SELECT coalesce($2::smallint, o.priority) AS priority,
                CASE WHEN $3::timestamptz IS NULL THEN o.run_at ELSE greatest($3::timestamptz, n.t) END AS run_at, n.t
            FROM jobs o CROSS JOIN (SELECT wireroom_now() AS t) n WHERE o.id = $1
        ) c
        WHERE j.id = $1",
        id.0,
        change.priority,
        change.run_at,
        micros(ageing_step),
    )
    .execute(conn)
    .await
    .map_err(failed("change"))?;
    Ok(())
}

async fn finished_or_unknown(conn: &mut PgConnection, id: JobId) -> Result<Changed, StoreError> {
    let finished = sqlx::query_scalar!(
        r#"-- change: finished
        SELECT EXISTS (SELECT FROM finished_jobs WHERE id = $1) AS "finished!""#,
        id.0
    )
    .fetch_one(conn)
    .await
    .map_err(failed("change"))?;
    Ok(if finished { Changed::Finished } else { Changed::Unknown })
}
