//! The one clock of a simulation: the system's and an offset, in Rust, in the database and in the sandbox.
//!
//! Time that is leapt over is time in which every process went on: renewals and heartbeats keep their distance to the
//! present. Timers are the libraries' and stay real, so what sleeps until a moment that was leapt over finds it at its next
//! poll.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use wireroom::{clock::SystemClock, sandbox::Controls};
use wireroom_jobs::ports::Clock;

/// The clock that all are given.
#[derive(Clone, Default)]
pub struct SimClock(Arc<AtomicI64>);

impl SimClock {
    fn offset(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for SimClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + TimeDelta::seconds(self.offset())
    }
}

/// Moves all three clocks ahead. `keeps_house`: a worker is there to make partitions, as it does each hour.
///
/// The sandbox goes first: Telegram's clock may be ahead of ours by any time, and behind by a minute.
pub async fn advance(clock: &SimClock, pool: &PgPool, sandbox: &Controls, seconds: i64, keeps_house: bool) {
    let offset = clock.offset() + seconds;
    sandbox.with_world(|world| world.set_clock_offset(offset));
    while let Err(error) = move_database(pool, seconds, offset, keeps_house).await {
        let deadlock = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        assert_eq!(deadlock.as_deref(), Some("40P01"), "the clock moves: {error}");
    }
    clock.0.store(offset, Ordering::SeqCst);
}

/// The body of the function is replaced, since a constant costs a statement nothing: one that has begun keeps the old body,
/// and one that begins afterwards finds the leases moved along.
async fn move_database(pool: &PgPool, seconds: i64, offset: i64, keeps_house: bool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let house = if keeps_house {
        "SELECT ensure_day_partitions(7);"
    } else {
        ""
    };
    let sql = format!(
        "LOCK TABLE session_leases, workers, jobs IN SHARE ROW EXCLUSIVE MODE;
         UPDATE session_leases SET expires_at = expires_at + interval '{seconds} seconds' WHERE owner IS NOT NULL;
         UPDATE workers SET heartbeat_at = heartbeat_at + interval '{seconds} seconds';
         UPDATE outreach_calls SET until = until + interval '{seconds} seconds';
         UPDATE jobs SET claimed_at = claimed_at + interval '{seconds} seconds' WHERE state = 'running';
         CREATE OR REPLACE FUNCTION wireroom_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
             AS 'SELECT clock_timestamp() + interval ''{offset} seconds''';
         {house}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
