//! What `wireroom bench` needs of the database: a schema of its own, which it fills, counts and drops. The jobs that are
//! measured go through the same statements as anybody's; here are only their surroundings.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{StoreError, failed};
use crate::{
    config::DatabaseConfig,
    ids::{JobId, SessionId},
};

/// Rows of one filling statement: short enough that giving up in the middle takes no more than a moment.
const CHUNK: i64 = 50_000;

/// Makes the schema `name`, which must be new.
pub async fn create_schema(config: &DatabaseConfig, name: &str) -> Result<(), StoreError> {
    on_its_own(config, "create_bench_schema", format!("CREATE SCHEMA {}", quoted(name))).await
}

/// Drops the schema `name` with all that is in it; waits for statements that still run in it.
pub async fn drop_schema(config: &DatabaseConfig, name: &str) -> Result<(), StoreError> {
    let statement = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(name));
    on_its_own(config, "drop_bench_schema", statement).await
}

/// Over a connection of its own: there is no pool before the schema, and none after it.
async fn on_its_own(config: &DatabaseConfig, operation: &'static str, statement: String) -> Result<(), StoreError> {
    let mut conn = PgConnection::connect(config.url.expose())
        .await
        .map_err(failed(operation))?;
    run(&mut conn, operation, statement).await?;
    conn.close().await.map_err(failed(operation))
}

async fn run(conn: &mut PgConnection, operation: &'static str, statement: String) -> Result<(), StoreError> {
    // A name, and commands that take no parameters: nothing here comes from outside.
    let statement = format!("-- {operation}\n{statement}");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(conn)
        .await
        .map_err(failed(operation))?;
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Adds ready sessions of the pool `default` with so many `bulk` slots each, and returns them.
pub async fn add_sessions(conn: &mut PgConnection, count: usize, slots: i32) -> Result<Vec<SessionId>, StoreError> {
    let sessions: Vec<SessionId> = (0..count).map(|_| SessionId::generate()).collect();
    let ids: Vec<uuid::Uuid> = sessions.iter().map(|id| id.0).collect();
    sqlx::query!(
        "-- add_bench_sessions
        INSERT INTO sessions (id, label, pool, state, home_dc, bulk_slots)
        SELECT id, 'bench ' || n, 'default', 'ready', 2, $2 FROM unnest($1::uuid[]) WITH ORDINALITY AS s (id, n)",
        &ids,
        slots,
    )
    .execute(conn)
    .await
    .map_err(failed("add_bench_sessions"))?;
    Ok(sessions)
}

/// Adds jobs that finished today, without a number `i`, spread over `sessions`.
pub async fn add_finished(conn: &mut PgConnection, count: i64, sessions: &[SessionId]) -> Result<(), StoreError> {
    let ids: Vec<uuid::Uuid> = sessions.iter().map(|id| id.0).collect();
    for (from, to) in chunks(count) {
        sqlx::query!(
            r#"-- add_bench_finished
            WITH day AS MATERIALIZED (
                SELECT d.start, wireroom_now() - d.start AS passed
                FROM (SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS start) d
            )
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, attempt, max_attempts,
                fence, started_at, finished_at, result, tags, created_at)
            SELECT (lpad(to_hex((extract(epoch FROM t.at) * 1000)::bigint), 12, '0') || '7' || substr(t.noise, 1, 3) || '8'
                    || substr(t.noise, 4, 15))::uuid,
                'join', '{"t": 0}', 'succeeded', 'bulk', 'default', ($1::uuid[])[1 + t.n % cardinality($1::uuid[])], 0,
                t.at, 1, 5, 1, t.at, t.at, 'null', '{}', t.at
            FROM (SELECT n, md5(n::text) AS noise, day.start + day.passed * (n::float8 / $4::float8) AS at
                FROM day, generate_series($2::bigint, $3::bigint) AS n) t"#,
            &ids,
            from,
            to,
            to_f64(count),
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("add_bench_finished"))?;
    }
    Ok(())
}

/// Adds jobs that finished today, of several kinds, ends and tags, spread over `sessions`: most joined and succeeded, 3 % failed,
/// 0.1 % were cancelled, and 0.05 % have the tag `rare`.
pub async fn add_mixed_finished(conn: &mut PgConnection, count: i64, sessions: &[SessionId]) -> Result<(), StoreError> {
    let ids: Vec<uuid::Uuid> = sessions.iter().map(|id| id.0).collect();
    for (from, to) in chunks(count) {
        sqlx::query!(
            r#"-- add_bench_mixed_finished
            WITH day AS MATERIALIZED (
                SELECT d.start, wireroom_now() - d.start AS passed
                FROM (SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS start) d
            )
            INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, attempt, max_attempts,
                fence, started_at, finished_at, result, error, tags, created_by, created_at)
            SELECT (lpad(to_hex((extract(epoch FROM t.at) * 1000)::bigint), 12, '0') || '7' || substr(t.noise, 1, 3) || '8'
                    || substr(t.noise, 4, 15))::uuid,
                (ARRAY['join', 'join', 'join', 'join', 'join', 'scan', 'scan', 'scan', 'publish', 'invite'])[1 + t.n / 7 % 10],
                '{"chat": "@example"}', e.state, 'bulk', 'default', ($1::uuid[])[1 + t.n % cardinality($1::uuid[])], 0,
                t.at, 1, 5, 1, t.at, t.at, CASE WHEN e.state = 'succeeded' THEN '{"status": "joined"}'::jsonb END,
                CASE WHEN e.state = 'failed' THEN '{"code": "bench", "message": "As the bench says.", "retryable": false}'::jsonb END,
                CASE WHEN t.n % 2000 = 0 THEN '{rare}' ELSE '{}' END::text[], 'key:bench', t.at
            FROM (SELECT n, md5(n::text) AS noise, day.start + day.passed * (n::float8 / $4::float8) AS at
                FROM day, generate_series($2::bigint, $3::bigint) AS n) t
            CROSS JOIN LATERAL (SELECT CASE WHEN t.n % 1000 < 970 - 1 THEN 'succeeded' WHEN t.n % 1000 < 999 THEN 'failed'
                ELSE 'cancelled' END AS state) e"#,
            &ids,
            from,
            to,
            to_f64(count),
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("add_bench_mixed_finished"))?;
    }
    Ok(())
}

/// Ids of up to `count` finished jobs, in no order.
pub async fn sample_finished(conn: &mut PgConnection, count: i64) -> Result<Vec<JobId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "-- sample_bench_finished
        SELECT id FROM finished_jobs ORDER BY random() LIMIT $1",
        count
    )
    .fetch_all(conn)
    .await
    .map_err(failed("sample_bench_finished"))?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Jobs that wait or run.
pub async fn count_live(conn: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- count_bench_live
        SELECT count(*) AS "live!" FROM jobs"#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("count_bench_live"))
}

/// Forgets all jobs that wait or run.
pub async fn clear_live(conn: &mut PgConnection) -> Result<(), StoreError> {
    run(conn, "clear_bench_live", "TRUNCATE jobs".to_owned()).await
}

/// Adds jobs that are due tomorrow, spread over `sessions`.
pub async fn add_future(conn: &mut PgConnection, count: i64, sessions: &[SessionId]) -> Result<(), StoreError> {
    let ids: Vec<uuid::Uuid> = sessions.iter().map(|id| id.0).collect();
    for (from, to) in chunks(count) {
        sqlx::query!(
            r#"-- add_bench_future
            INSERT INTO jobs (id, kind, args, state, lane, pool, session_id, session_bound, rank, run_at, max_attempts,
                created_at)
            SELECT gen_random_uuid(), 'join', '{"t": 0}', 'scheduled', 'bulk', 'default',
                ($1::uuid[])[1 + f.n % cardinality($1::uuid[])], true, (extract(epoch FROM f.at) * 1000000)::bigint, f.at, 5,
                now()
            FROM (SELECT n, now() + interval '1 day' + n % 86400 * interval '1 second' AS at
                FROM generate_series($2::bigint, $3::bigint) AS n) f"#,
            &ids,
            from,
            to,
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("add_bench_future"))?;
    }
    Ok(())
}

/// First and last number of each chunk of `1..=count`.
fn chunks(count: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..count.max(0))
        .step_by(usize::try_from(CHUNK).expect("a small constant"))
        .map(move |done| (done + 1, (done + CHUNK).min(count)))
}

#[expect(clippy::cast_precision_loss, reason = "a number of rows is far below 2^52")]
fn to_f64(count: i64) -> f64 {
    count as f64
}

/// Leaves the filled tables as autovacuum would, given time. `false`: the role may not ask for a checkpoint, so the server
/// may still be writing the filling back.
pub async fn settle(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let tables = "VACUUM (ANALYZE) jobs, finished_jobs, sessions, session_leases, pools";
    run(conn, "settle_bench", tables.to_owned()).await?;
    match run(conn, "bench_checkpoint", "CHECKPOINT".to_owned()).await {
        Ok(()) => Ok(true),
        Err(error) if is_denied(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::Query { source: sqlx::Error::Database(error), .. } if error.code().as_deref() == Some("42501"))
}

/// The measured jobs (those with a number `i`) as the tables have them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Different numbers among the jobs that wait or run.
    pub live: i64,
    /// Rows of those.
    pub rows: i64,
    /// Rows of jobs that succeeded, in their first attempt and under their first fence.
    pub succeeded: i64,
    /// Different numbers among those.
    pub distinct: i64,
    /// Rows of finished jobs in any other case.
    pub otherwise: i64,
}

/// Counts the measured jobs.
pub async fn tally(conn: &mut PgConnection) -> Result<Tally, StoreError> {
    sqlx::query_as!(
        Tally,
        r#"-- bench_tally
        SELECT (SELECT count(DISTINCT args -> 'i') FROM jobs WHERE args ? 'i') AS "live!",
            (SELECT count(*) FROM jobs WHERE args ? 'i') AS "rows!",
            count(*) FILTER (WHERE clean) AS "succeeded!", count(DISTINCT i) FILTER (WHERE clean) AS "distinct!",
            count(*) FILTER (WHERE NOT clean) AS "otherwise!"
        FROM (SELECT args -> 'i' AS i, state = 'succeeded' AND attempt = 1 AND fence = 1 AS clean
            FROM finished_jobs WHERE args ? 'i') f"#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("bench_tally"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_each_row_once() {
        assert_eq!(chunks(0).count(), 0);
        let all: Vec<_> = chunks(CHUNK * 2 + 1).collect();
        assert_eq!(
            all,
            [(1, CHUNK), (CHUNK + 1, CHUNK * 2), (CHUNK * 2 + 1, CHUNK * 2 + 1)]
        );
    }
}
