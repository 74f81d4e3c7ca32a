//! What `wireroom bench` needs of a database besides the queue: a place of its own, sessions, and rows that lie about.

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{MIGRATOR, StoreError, failed};
use crate::ids::{SessionId, WorkerId};

/// Makes a migrated database beside the one of `url`; returns its name and its URL.
pub async fn create_database(url: &str) -> Result<(String, String), StoreError> {
    let name = format!("wireroom_bench_{}", Uuid::new_v4().simple());
    let mut conn = PgConnection::connect(url).await.map_err(failed("connect"))?;
    // The name has hexadecimal digits only.
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut conn)
        .await
        .map_err(failed("create_database"))?;
    let mut own = url::Url::parse(url).map_err(|_| StoreError::Decode {
        operation: "create_database",
        detail: "the URL".to_owned(),
    })?;
    own.set_path(&name);
    let own = own.to_string();
    let options: PgConnectOptions = own.parse().map_err(failed("connect"))?;
    let pool = PgPool::connect_lazy_with(options);
    MIGRATOR.run(&pool).await.map_err(|source| StoreError::Query {
        operation: "migrate",
        source: source.into(),
    })?;
    pool.close().await;
    Ok((name, own))
}

/// Removes it, whoever is connected.
pub async fn drop_database(url: &str, name: &str) -> Result<(), StoreError> {
    let mut conn = PgConnection::connect(url).await.map_err(failed("connect"))?;
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")))
        .execute(&mut conn)
        .await
        .map_err(failed("drop_database"))?;
    Ok(())
}

/// Makes ready sessions, each leased for ever to the worker beside it.
pub async fn add_sessions(conn: &mut PgConnection, owners: &[WorkerId]) -> Result<Vec<SessionId>, StoreError> {
    let sessions: Vec<SessionId> = owners.iter().map(|_| SessionId::generate()).collect();
    let ids: Vec<Uuid> = sessions.iter().map(|id| id.0).collect();
    let owners: Vec<Uuid> = owners.iter().map(|id| id.0).collect();
    sqlx::query!(
        "-- add_bench_sessions
        WITH added AS (
            INSERT INTO sessions (id, label, pool, state, home_dc)
            SELECT id, id::text, 'default', 'ready', 2 FROM unnest($1::uuid[]) AS s (id)
        )
        INSERT INTO session_leases (session_id, owner, fence, expires_at)
        SELECT id, owner, 1, 'infinity' FROM unnest($1::uuid[], $2::uuid[]) AS s (id, owner)",
        &ids,
        &owners,
    )
    .execute(conn)
    .await
    .map_err(failed("add_bench_sessions"))?;
    Ok(sessions)
}

/// The sessions of one worker.
pub async fn sessions_of(conn: &mut PgConnection, owner: WorkerId) -> Result<Vec<SessionId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "-- sessions_of
        SELECT session_id FROM session_leases WHERE owner = $1 ORDER BY session_id",
        owner.0
    )
    .fetch_all(conn)
    .await
    .map_err(failed("sessions_of"))?;
    Ok(ids.into_iter().map(SessionId).collect())
}

/// Lays `history` finished jobs and `future` jobs of tomorrow beside the queue.
pub async fn add_bystanders(conn: &mut PgConnection, history: i64, future: i64) -> Result<(), StoreError> {
    sqlx::query!(
        r#"-- add_bystanders
        WITH finished AS (
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, priority, run_at, attempt, max_attempts, fence,
                finished_at, tags, created_at)
            SELECT gen_random_uuid(), 'join', '{"i": -1, "t": 0}', 'succeeded', 'bulk', 'default', 0, wireroom_now(), 1, 1, 0,
                wireroom_now(), '{}', wireroom_now()
            FROM generate_series(1, $1::bigint)
        )
        INSERT INTO jobs (id, kind, args, state, lane, pool, session_bound, rank, run_at, max_attempts, created_at)
        SELECT gen_random_uuid(), 'join', '{"i": -1, "t": 0}', 'scheduled', 'bulk', 'default', false,
            (extract(epoch FROM wireroom_now() + interval '1 day') * 1000000)::bigint, wireroom_now() + interval '1 day', 1,
            wireroom_now()
        FROM generate_series(1, $2::bigint)"#,
        history,
        future
    )
    .execute(conn)
    .await
    .map_err(failed("add_bystanders"))?;
    Ok(())
}

/// VACUUM, ANALYZE, CHECKPOINT: what was written before the measurement is not paid for in it.
pub async fn settle(conn: &mut PgConnection) -> Result<(), StoreError> {
    for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
        sqlx::query(statement)
            .execute(&mut *conn)
            .await
            .map_err(failed("settle"))?;
    }
    Ok(())
}

/// Whether a job that is not for tomorrow is left.
pub async fn has_work(conn: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- has_work
        SELECT EXISTS (SELECT FROM jobs WHERE state = 'queued') OR EXISTS (SELECT FROM jobs WHERE state = 'running') AS "any!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("has_work"))
}

/// Jobs that succeeded on their only claim.
pub async fn count_done_once(conn: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- count_done_once
        SELECT count(*) AS "done!" FROM finished_jobs WHERE state = 'succeeded' AND fence = 1 AND attempt = 1"#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("count_done_once"))
}

/// Jobs that are stored and wait.
pub async fn count_queued(conn: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- count_queued
        SELECT count(*) AS "queued!" FROM jobs WHERE state = 'queued'"#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("count_queued"))
}
