//! What `wireroom bench soak` asks of the database: history in slices of a minute instead of a day, so that retention by
//! dropping partitions happens within the run; what a slice holds; how large the tables are.

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::WorkerId;

/// A part of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The day's partition, which the slice is a part of.
    parent: String,
    table: String,
    /// Jobs that finished at this time or later …
    pub from: DateTime<Utc>,
    /// … and before this one.
    pub to: DateTime<Utc>,
}

/// The database's time.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query_scalar!(
        r#"-- soak_now
        SELECT wireroom_now() AS "now!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("soak_now"))
}

/// Forgets every job, finished or not.
pub async fn clear(conn: &mut PgConnection) -> Result<(), StoreError> {
    run(conn, "soak_clear", "TRUNCATE jobs, finished_jobs, job_attempts").await
}

/// Cuts the days of the next `span`, which are empty, into slices of `length`. What finishes outside of them is kept in a rest
/// of each day.
pub async fn cut(conn: &mut PgConnection, span: TimeDelta, length: TimeDelta) -> Result<Vec<Slice>, StoreError> {
    let begin = now(conn).await?;
    let slices = plan(begin, begin + span, length);
    let mut transaction = conn.begin().await.map_err(failed("soak_cut"))?;
    let mut parent = "";
    for slice in &slices {
        if slice.parent != parent {
            parent = &slice.parent;
            let day = slice.from.date_naive();
            let next = day.checked_add_days(Days::new(1)).unwrap_or(day);
            let statement = format!(
                "DROP TABLE IF EXISTS {parent};
                 CREATE TABLE {parent} PARTITION OF finished_jobs FOR VALUES FROM ('{day} 00:00+00') TO ('{next} 00:00+00')
                    PARTITION BY RANGE (finished_at);
                 CREATE TABLE {parent}_rest PARTITION OF {parent} DEFAULT"
            );
            run(&mut transaction, "soak_cut", &statement).await?;
        }
        let statement = format!(
            "CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ('{}') TO ('{}')",
            slice.table,
            slice.parent,
            slice.from.to_rfc3339(),
            slice.to.to_rfc3339()
        );
        run(&mut transaction, "soak_cut", &statement).await?;
    }
    transaction.commit().await.map_err(failed("soak_cut"))?;
    Ok(slices)
}

/// The slices from `begin` to `end`; none goes over midnight.
fn plan(begin: DateTime<Utc>, end: DateTime<Utc>, length: TimeDelta) -> Vec<Slice> {
    let mut slices = Vec::new();
    let mut from = begin;
    while from < end {
        let day = from.date_naive();
        let midnight = day
            .checked_add_days(Days::new(1))
            .map_or(end, |next| next.and_time(NaiveTime::MIN).and_utc());
        let to = (from + length).min(midnight);
        let parent = format!("finished_jobs_{}", day.format("%Y%m%d"));
        slices.push(Slice {
            table: format!("{parent}_{}", slices.len()),
            parent,
            from,
            to,
        });
        from = to;
    }
    slices
}

/// Drops a slice with what is in it, as retention drops a day. `false`: a query is in the way; try again later.
pub async fn drop_slice(conn: &mut PgConnection, slice: &Slice) -> Result<bool, StoreError> {
    let mut transaction = conn.begin().await.map_err(failed("soak_drop_slice"))?;
    let statement = format!(
        "SET LOCAL lock_timeout = '500ms'; ALTER TABLE {} DETACH PARTITION {}; DROP TABLE {}",
        slice.parent, slice.table, slice.table
    );
    match run(&mut transaction, "soak_drop_slice", &statement).await {
        Ok(()) => {
            transaction.commit().await.map_err(failed("soak_drop_slice"))?;
            Ok(true)
        }
        Err(error) if is_in_the_way(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_in_the_way(error: &StoreError) -> bool {
    // 55P03: the lock was not to be had in time; 40P01: a deadlock was found.
    matches!(error, StoreError::Query { source: sqlx::Error::Database(error), .. }
        if matches!(error.code().as_deref(), Some("55P03" | "40P01")))
}

async fn run(conn: &mut PgConnection, operation: &'static str, statement: &str) -> Result<(), StoreError> {
    // Names and times that were made here, in statements that take no parameters: nothing comes from outside.
    sqlx::raw_sql(AssertSqlSafe(format!("-- {operation}\n{statement}")))
        .execute(conn)
        .await
        .map_err(failed(operation))?;
    Ok(())
}

/// What one worker has finished in a slice.
#[derive(Debug)]
pub struct Share {
    pub worker: Option<WorkerId>,
    /// The jobs' numbers.
    pub numbers: Vec<i32>,
}

/// What finished from `from` on and before `to`.
#[derive(Debug)]
pub struct Found {
    /// Jobs with a number that succeeded.
    pub shares: Vec<Share>,
    /// Jobs with a number that ended otherwise.
    pub otherwise: i64,
    /// Jobs without a number, which came over HTTP.
    pub posted: i64,
    /// Numbers of jobs that were taken back from a worker, with that worker.
    pub rescued: Vec<(i32, Option<WorkerId>)>,
}

/// Reads what finished in a time.
pub async fn found(conn: &mut PgConnection, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Found, StoreError> {
    let shares = sqlx::query!(
        r#"-- soak_shares
        SELECT worker_id, array_agg((args ->> 'i')::int) AS "numbers!" FROM finished_jobs
        WHERE finished_at >= $1 AND finished_at < $2 AND state = 'succeeded' AND args ? 'i' GROUP BY worker_id"#,
        from,
        to
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("soak_shares"))?;
    let others = sqlx::query!(
        r#"-- soak_others
        SELECT count(*) FILTER (WHERE args ? 'i' AND state <> 'succeeded') AS "otherwise!",
            count(*) FILTER (WHERE NOT args ? 'i') AS "posted!"
        FROM finished_jobs WHERE finished_at >= $1 AND finished_at < $2"#,
        from,
        to
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(failed("soak_others"))?;
    let rescued = sqlx::query!(
        r#"-- soak_rescued
        SELECT (f.args ->> 'i')::int AS "number!", a.worker_id
        FROM finished_jobs f JOIN job_attempts a ON a.job_id = f.id AND a.outcome = 'orphaned'
        WHERE f.finished_at >= $1 AND f.finished_at < $2 AND f.fence > 1 AND f.args ? 'i'"#,
        from,
        to
    )
    .fetch_all(conn)
    .await
    .map_err(failed("soak_rescued"))?;
    let worker = |id: Option<Uuid>| id.map(WorkerId);
    Ok(Found {
        shares: shares
            .into_iter()
            .map(|row| Share {
                worker: worker(row.worker_id),
                numbers: row.numbers,
            })
            .collect(),
        otherwise: others.otherwise,
        posted: others.posted,
        rescued: rescued
            .into_iter()
            .map(|row| (row.number, worker(row.worker_id)))
            .collect(),
    })
}

/// How large things are.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Jobs that wait or run.
    pub live: i64,
    /// Their table, its indexes included, in bytes.
    pub live_bytes: i64,
    /// Versions of their rows that vacuum has still to remove.
    pub dead: i64,
    /// The history with its indexes in bytes, without partitions that are empty.
    pub history_bytes: i64,
}

/// What a slice takes, its indexes included, in bytes.
pub async fn slice_bytes(conn: &mut PgConnection, slice: &Slice) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- soak_slice_bytes
        SELECT pg_total_relation_size($1::text::regclass) AS "bytes!""#,
        slice.table
    )
    .fetch_one(conn)
    .await
    .map_err(failed("soak_slice_bytes"))
}

/// Looks how large things are.
pub async fn sizes(conn: &mut PgConnection) -> Result<Sizes, StoreError> {
    sqlx::query_as!(
        Sizes,
        r#"-- soak_sizes
        SELECT (SELECT count(*) FROM jobs) AS "live!", pg_total_relation_size('jobs') AS "live_bytes!",
            coalesce(pg_stat_get_dead_tuples('jobs'::regclass), 0) AS "dead!",
            (SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint FROM pg_partition_tree('finished_jobs') t
                WHERE t.isleaf AND pg_relation_size(t.relid) > 0) AS "history_bytes!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("soak_sizes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::TestDatabase;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn slices_follow_each_other_and_end_at_midnight() {
        let slices = plan(
            time("2030-01-01T23:58:30Z"),
            time("2030-01-02T00:00:30Z"),
            TimeDelta::minutes(1),
        );
        let bounds: Vec<_> = slices.iter().map(|slice| (slice.from, slice.to)).collect();
        assert_eq!(
            bounds,
            [
                (time("2030-01-01T23:58:30Z"), time("2030-01-01T23:59:30Z")),
                (time("2030-01-01T23:59:30Z"), time("2030-01-02T00:00:00Z")),
                (time("2030-01-02T00:00:00Z"), time("2030-01-02T00:01:00Z")),
            ]
        );
        assert_eq!(slices[1].table, "finished_jobs_20300101_1");
        assert_eq!(slices[2].parent, "finished_jobs_20300102");
    }

    #[tokio::test]
    async fn what_finished_is_found_in_its_slice_and_goes_with_it() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.expect("a connection");
        let slices = cut(&mut conn, TimeDelta::minutes(2), TimeDelta::minutes(1))
            .await
            .expect("cut");
        // The hourly making of partitions finds the cut days made.
        let made: i32 = sqlx::query_scalar("SELECT ensure_day_partitions(7)")
            .fetch_one(&mut *conn)
            .await
            .expect("nothing is in the way");
        assert_eq!(made, 0);
        for (number, state) in [(1, "succeeded"), (2, "succeeded"), (3, "failed")] {
            sqlx::query(
                "INSERT INTO finished_jobs (id, kind, args, state, lane, pool, priority, run_at, attempt, max_attempts, fence,
                    finished_at, tags, created_at)
                 SELECT gen_random_uuid(), 'join', jsonb_build_object('i', $1), $2, 'bulk', 'default', 0, now(), 1, 5, 1,
                    wireroom_now(), '{}', now()",
            )
            .bind(number)
            .bind(state)
            .execute(&mut *conn)
            .await
            .expect("a finished job");
        }
        let first = &slices[0];
        let seen = found(&mut conn, first.from, first.to).await.expect("read");
        assert_eq!(
            (seen.shares[0].numbers.as_slice(), seen.otherwise, seen.posted),
            (&[1, 2][..], 1, 0)
        );
        assert!(sizes(&mut conn).await.expect("looked").history_bytes > 0);
        assert!(drop_slice(&mut conn, first).await.expect("dropped"));
        let seen = found(&mut conn, first.from, first.to).await.expect("read");
        assert!(seen.shares.is_empty() && seen.otherwise == 0);
    }
}
