//! Day partitions of finished work and of events, and the removal of what is older than it is kept.

use sqlx::PgConnection;

use super::{StoreError, failed};

/// Makes the day partitions from today to `days` ahead; returns how many were missing.
pub async fn ensure_ahead(conn: &mut PgConnection, days: i32) -> Result<i32, StoreError> {
    sqlx::query_scalar!(
        r#"-- ensure_ahead
        SELECT ensure_day_partitions($1) AS "made!""#,
        days
    )
    .fetch_one(conn)
    .await
    .map_err(failed("ensure_ahead"))
}

/// Rows that found no partition of their day: more than none is a fault to look into.
pub async fn in_default(conn: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- in_default
        SELECT EXISTS (SELECT FROM finished_jobs_default) OR EXISTS (SELECT FROM job_attempts_default)
            OR EXISTS (SELECT FROM event_log_default) AS "any!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("in_default"))
}

/// Detaches one partition older than `keep` days, or drops one that was detached before; `None` when there is none, or
/// another process is at it. Call it again until then. Fails after 200 ms when a query is in its way.
pub async fn retire_one(conn: &mut PgConnection, keep: i32) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!(
        "-- retire_one
        SELECT retire_day_partition($1)",
        keep
    )
    .fetch_one(conn)
    .await
    .map_err(failed("retire_one"))
}

/// Deletes up to `limit` rows of each table whose rows expire after `keep` days, and workers gone for a day; returns how
/// many went. Call it again while that is not zero.
pub async fn expire_rows(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- expire_rows
        WITH clock AS MATERIALIZED (
            SELECT wireroom_now() - make_interval(days => $1) AS oldest, wireroom_now() - interval '1 day' AS gone
        ), old_floods AS (
            DELETE FROM floods WHERE id IN (SELECT id FROM floods WHERE at < (SELECT oldest FROM clock) ORDER BY at LIMIT $2)
            RETURNING 1
        ), old_effects AS (
            DELETE FROM job_effects WHERE (job_id, chat_id) IN (
                SELECT e.job_id, e.chat_id FROM job_effects e
                WHERE e.prepared_at < (SELECT oldest FROM clock) AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = e.job_id)
                ORDER BY e.prepared_at LIMIT $2)
            RETURNING 1
        ), old_targets AS (
            DELETE FROM publish_targets WHERE (job_id, position) IN (
                SELECT t.job_id, t.position FROM publish_targets t
                WHERE t.updated_at < (SELECT oldest FROM clock) AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = t.job_id)
                    -- As long as their job can be retried.
                    AND NOT EXISTS (SELECT FROM finished_jobs f WHERE f.id = t.job_id)
                ORDER BY t.updated_at LIMIT $2)
            RETURNING 1
        ), old_origins AS (
            DELETE FROM job_origins WHERE job_id IN (
                SELECT o.job_id FROM job_origins o WHERE o.made_at < (SELECT oldest FROM clock)
                    AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = o.job_id)
                    AND NOT EXISTS (SELECT FROM finished_jobs f WHERE f.id = o.job_id)
                ORDER BY o.made_at LIMIT $2)
            RETURNING 1
        ), old_workers AS (
            DELETE FROM workers w WHERE id IN (
                SELECT id FROM workers WHERE heartbeat_at < (SELECT gone FROM clock) LIMIT $2)
                AND NOT EXISTS (SELECT FROM jobs j WHERE j.worker_id = w.id AND j.state = 'running')
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM old_floods) + (SELECT count(*) FROM old_effects)
            + (SELECT count(*) FROM old_targets) + (SELECT count(*) FROM old_origins) + (SELECT count(*) FROM old_workers) AS "gone!""#,
        keep,
        limit
    )
    .fetch_one(conn)
    .await
    .map_err(failed("expire_rows"))
}
