//! The lines of limit keys whose bucket is empty. A claim puts the jobs it met in line; what else is ready of that key
//! follows here, so that a spent key's backlog is looked at once, and not with every claim.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{StoreError, failed};

/// Most jobs that join or leave a line with one statement.
pub const BATCH: i64 = 1000;

/// The `wait_reason` of a job in line.
pub fn in_line() -> Value {
    json!({"code": "rate_limited", "message": "The job's limit key has no start left: it stands in line for its turn."})
}

/// Puts ready jobs of a key at the end of its line, by rank, at most [`BATCH`]; returns how many. Nothing is done for a
/// key whose line is empty.
pub async fn stand_in_line(conn: &mut PgConnection, key: &str) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- stand_in_line
        WITH line AS MATERIALIZED (
            SELECT key, line_until, rate FROM rate_buckets WHERE key = $1 AND line_until > (SELECT wireroom_now()) FOR UPDATE
        ), ready AS MATERIALIZED (
            SELECT j.id, j.rank FROM jobs j
            WHERE j.limit_key = $1 AND j.state <> 'running' AND j.state = 'queued' AND NOT j.limit_turn
                AND EXISTS (SELECT FROM line)
            ORDER BY j.rank, j.id LIMIT $2 FOR UPDATE SKIP LOCKED
        ), moved AS (
            UPDATE jobs j SET state = 'scheduled', limit_turn = true, wait_reason = $3,
                run_at = l.line_until + r.nth / l.rate * interval '1 second'
            FROM line l, (SELECT id, row_number() OVER (ORDER BY rank, id) AS nth FROM ready) r
            WHERE j.id = ANY (ARRAY[r.id]) RETURNING 1
        ), grown AS (
            UPDATE rate_buckets b
            SET line_until = b.line_until + (SELECT count(*) FROM moved) / b.rate * interval '1 second'
            FROM line l WHERE b.key = l.key
        )
        SELECT count(*) AS "moved!" FROM moved"#,
        key,
        BATCH,
        in_line(),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("stand_in_line"))
}

/// Makes jobs in the lines of the keys under `name` (a key or a class) ready again, at most [`BATCH`], because their
/// limit is another one now; returns how many. Their buckets go with the first call, so that the new limit starts afresh.
pub async fn dissolve_line(conn: &mut PgConnection, name: &str) -> Result<i64, StoreError> {
    // Of a class: everything from `name:` up to what follows it.
    let (first, beyond) = (format!("{name}:"), format!("{name};"));
    sqlx::query_scalar!(
        r#"-- dissolve_line
        WITH gone AS (
            DELETE FROM rate_buckets WHERE key = $1 OR (key COLLATE "C" >= $2 AND key COLLATE "C" < $3)
        ), waiting AS MATERIALIZED (
            SELECT id FROM jobs WHERE limit_key IS NOT NULL AND state <> 'running' AND state = 'scheduled' AND limit_turn
                AND (limit_key = $1 OR split_part(limit_key, ':', 1) = $1)
            LIMIT $4 FOR UPDATE SKIP LOCKED
        ), moved AS (
            UPDATE jobs j SET state = 'queued', limit_turn = false, wait_reason = NULL, run_at = wireroom_now()
            FROM waiting w WHERE j.id = ANY (ARRAY[w.id]) RETURNING 1
        )
        SELECT count(*) AS "moved!" FROM moved"#,
        name,
        first,
        beyond,
        BATCH,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("dissolve_line"))
}
