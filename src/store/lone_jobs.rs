//! A job that is stored by itself: what [`jobs::enqueue`](super::jobs::enqueue) does with a list of one, in half the time, since
//! nothing is made for lists.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    StoreError, failed,
    jobs::{NewJob, micros},
    notifications::{CHANNEL, Ring},
};

/// Stores the job as the statement for many does, and rings with the commit; `false` when its pool or session is not
/// there, or the session is in another pool.
pub(super) async fn insert(
    conn: &mut PgConnection,
    job: &NewJob,
    ageing_step: Duration,
    ring: Option<&Ring>,
) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        r#"-- enqueue_one
        INSERT INTO jobs (id, kind, args, state, lane, pool, session_id, session_bound, priority, rank, run_at,
            deadline, max_attempts, tags, created_by, created_at, limit_key)
        SELECT $1, $2, $3, CASE WHEN $8 > c.t THEN 'scheduled' ELSE 'queued' END, $4, p.name, $6, $6::uuid IS NOT NULL,
            $7::smallint, (extract(epoch FROM coalesce($8, c.t)) * 1000000)::bigint - $7::smallint * $9::bigint, coalesce($8, c.t),
            $10, $11, $12, $13, c.t, $14
        FROM (SELECT wireroom_now() AS t OFFSET 0) c CROSS JOIN LATERAL (
            SELECT CASE WHEN $6::uuid IS NULL
                THEN (SELECT name FROM pools WHERE name = coalesce($5, 'default'))
                ELSE (SELECT s.pool FROM sessions s WHERE s.id = $6 AND s.pool = coalesce($5, s.pool)) END AS name OFFSET 0
        ) p
        WHERE p.name IS NOT NULL
        RETURNING CASE WHEN $16::text IS NOT NULL THEN pg_notify($15, $16) END AS rung"#,
        job.id.0,
        job.kind.as_str(),
        job.args,
        job.kind.lane().as_str(),
        job.pool,
        job.session.map(|session| session.0),
        job.priority,
        job.run_at,
        micros(ageing_step),
        job.deadline,
        job.max_attempts,
        &job.tags,
        job.created_by,
        job.limit_key,
        CHANNEL,
        ring.map(Ring::payload),
    )
    .execute(conn)
    .await
    .map_err(failed("enqueue_one"))?;
    Ok(stored.rows_affected() == 1)
}
