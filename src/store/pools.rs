//! Pools: named sets of sessions that may stand in for one another. A session moves to another pool when none of its jobs
//! runs: at once when nobody holds it, otherwise by its holder.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError,
    event_types::EventType,
    failed,
    leases::{self, LeaseKey},
    sessions,
};
use crate::ids::SessionId;

/// A pool and its sessions.
#[derive(Debug, Clone)]
pub struct PoolRecord {
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub sessions: i64,
    /// Those that run jobs: ready or limited.
    pub usable: i64,
    /// Those that a worker holds.
    pub held: i64,
    /// Jobs that wait for any of its sessions.
    pub queued: i64,
}

/// Every pool, by name.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<PoolRecord>, StoreError> {
    sqlx::query_as!(
        PoolRecord,
        r#"-- list_pools
        SELECT p.name, p.created_at, count(s.id) AS "sessions!",
            count(s.id) FILTER (WHERE s.state IN ('ready', 'limited')) AS "usable!", count(l.session_id) AS "held!",
            (SELECT count(*) FROM jobs j WHERE j.state = 'queued' AND j.session_id IS NULL AND j.pool = p.name) AS "queued!"
        FROM pools p LEFT JOIN sessions s ON s.pool = p.name
        LEFT JOIN session_leases l ON l.session_id = s.id AND l.owner IS NOT NULL AND l.expires_at > wireroom_now()
        GROUP BY p.name ORDER BY p.name"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("list_pools"))
}

/// Makes a pool. `false`: there is one of that name.
pub async fn create(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let made = sqlx::query!(
        "-- create_pool
        INSERT INTO pools (name) VALUES ($1) ON CONFLICT DO NOTHING",
        name,
    )
    .execute(conn)
    .await
    .map_err(failed("create_pool"))?;
    Ok(made.rows_affected() == 1)
}

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It is in the pool.
    Now,
    /// Its holder moves it when its running jobs have ended.
    Later,
    /// There is no such session.
    Unknown,
}

/// Moves a session to a pool, which must exist.
pub async fn move_session(conn: &mut PgConnection, session: SessionId, pool: &str) -> Result<Moved, StoreError> {
    // A worker that takes it meanwhile finds with its first renewal that it is in another pool, and lets go.
    let held = sqlx::query_scalar!(
        r#"-- lock_for_move
        SELECT coalesce(l.owner IS NOT NULL AND l.expires_at > wireroom_now(), false) AS "held!"
        FROM sessions s LEFT JOIN session_leases l ON l.session_id = s.id WHERE s.id = $1 FOR UPDATE OF s"#,
        session.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_for_move"))?;
    let Some(held) = held else {
        return Ok(Moved::Unknown);
    };
    sqlx::query!(
        "-- ask_for_move
        UPDATE sessions SET next_pool = nullif($2, pool), settings_version = settings_version + 1 WHERE id = $1",
        session.0,
        pool,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("ask_for_move"))?;
    if held {
        return Ok(if pool_of(conn, session).await? == pool {
            Moved::Now
        } else {
            Moved::Later
        });
    }
    carry_out(conn, session).await?;
    Ok(Moved::Now)
}

/// Those of these sessions that are not, or are not to stay, in the pool named with them.
pub async fn moving(conn: &mut PgConnection, pools: &[(SessionId, &str)]) -> Result<Vec<SessionId>, StoreError> {
    let (ids, names): (Vec<Uuid>, Vec<&str>) = pools.iter().map(|(id, pool)| (id.0, *pool)).unzip();
    sqlx::query_scalar!(
        r#"-- moving_sessions
        SELECT s.id AS "id: SessionId" FROM unnest($1::uuid[], $2::text[]) AS p (id, pool) JOIN sessions s ON s.id = p.id
        WHERE s.next_pool IS NOT NULL OR s.pool <> p.pool"#,
        &ids,
        &names as &[&str],
    )
    .fetch_all(conn)
    .await
    .map_err(failed("moving_sessions"))
}

/// Carries out the move that was asked for, under the lease, while no job runs on the session; answers with its pool.
pub async fn settle(conn: &mut PgConnection, lease: LeaseKey) -> Result<String, StoreError> {
    leases::hold(conn, lease, "settle_pool").await?;
    carry_out(conn, lease.session).await?;
    pool_of(conn, lease.session).await
}

async fn carry_out(conn: &mut PgConnection, session: SessionId) -> Result<(), StoreError> {
    let moved = sqlx::query!(
        "-- move_session
        UPDATE sessions s SET pool = s.next_pool, next_pool = NULL
        FROM (SELECT id, pool FROM sessions WHERE id = $1 FOR NO KEY UPDATE) was
        WHERE s.id = was.id AND s.next_pool IS NOT NULL
        RETURNING was.pool AS from_pool, s.pool AS to_pool",
        session.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("move_session"))?;
    if let Some(moved) = moved {
        let data = json!({ "session": session, "from": moved.from_pool, "to": moved.to_pool });
        sessions::emit(conn, EventType::SessionPoolChanged, session, data).await?;
    }
    Ok(())
}

async fn pool_of(conn: &mut PgConnection, session: SessionId) -> Result<String, StoreError> {
    sqlx::query_scalar!(
        "-- pool_of_session
        SELECT pool FROM sessions WHERE id = $1",
        session.0
    )
    .fetch_one(conn)
    .await
    .map_err(failed("pool_of_session"))
}
