//! Vacuuming the live table, when its owner is the one who asks.

use sqlx::{ConnectOptions as _, Connection as _, PgPool, postgres::PgConnectOptions};

use super::{StoreError, failed};

/// What became of [`vacuum_jobs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vacuumed {
    /// It was done, or somebody else, autovacuum for one, is at it.
    Done,
    /// `jobs` belongs to another role, and only its owner may.
    NotOwner,
}

/// Jobs that the planner believes to be in the live table, as of the last vacuum or ANALYZE.
pub async fn estimated_jobs(pool: &PgPool) -> Result<u64, StoreError> {
    let estimate = sqlx::query_scalar!(
        r#"-- estimated_jobs
        SELECT greatest(reltuples, 0)::bigint AS "jobs!" FROM pg_class WHERE oid = 'jobs'::regclass"#
    )
    .fetch_one(pool)
    .await
    .map_err(failed("estimated_jobs"))?;
    Ok(estimate.unsigned_abs())
}

/// Vacuums `jobs` over a connection of its own, which ends with it: no statement limit of the queue's, and no warning when
/// the table is being vacuumed already, in which case this does nothing. The table is not cut short: that would lock
/// it, and the room is needed again.
pub async fn vacuum_jobs(pool: &PgPool) -> Result<Vacuumed, StoreError> {
    let options: PgConnectOptions = pool.connect_options().as_ref().clone();
    let options = options.options([("client_min_messages", "error"), ("statement_timeout", "0")]);
    let mut conn = options.connect().await.map_err(failed("vacuum_jobs"))?;
    let is_owner = sqlx::query_scalar!(
        r#"-- owns_jobs
        SELECT pg_has_role(relowner, 'USAGE') AS "is_owner!" FROM pg_class WHERE oid = 'jobs'::regclass"#
    )
    .fetch_one(&mut conn)
    .await
    .map_err(failed("owns_jobs"))?;
    if is_owner {
        // By the simple protocol: a vacuum is in no transaction, and is not worth preparing.
        sqlx::raw_sql("-- vacuum_jobs\nVACUUM (SKIP_LOCKED, TRUNCATE off, PARALLEL 0) jobs")
            .execute(&mut conn)
            .await
            .map_err(failed("vacuum_jobs"))?;
    }
    conn.close().await.map_err(failed("vacuum_jobs"))?;
    Ok(if is_owner { Vacuumed::Done } else { Vacuumed::NotOwner })
}
