//! The announcement of finished jobs to those who wait for them: NOTIFY on one channel, ids separated by commas, and only
//! for jobs that somebody waits for.

use std::time::Duration;

use sqlx::{
    PgConnection, PgPool,
    postgres::{PgListener, types::PgInterval},
};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::JobId;

/// The channel that completions are announced on.
pub const CHANNEL: &str = "wireroom_finished";

/// Notes that somebody waits up to `limit` for the job, in the transaction that stores it.
pub async fn expect(conn: &mut PgConnection, job: JobId, limit: Duration) -> Result<(), StoreError> {
    let limit = PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(limit.as_micros()).unwrap_or(i64::MAX),
    };
    sqlx::query!(
        "-- expect_finished
        INSERT INTO job_waiters (job_id, waits_until) VALUES ($1, wireroom_now() + $2::interval)
        ON CONFLICT (job_id) DO UPDATE SET waits_until = greatest(job_waiters.waits_until, excluded.waits_until)",
        job.0,
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("expect_finished"))?;
    Ok(())
}

/// Announces those of the finished jobs that somebody waits for. Called after the statement that finished them, best
/// outside its transaction; costs one look at an almost empty table when nobody waits. Who hears nothing polls.
pub async fn announce(conn: &mut PgConnection, jobs: &[JobId]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = jobs.iter().map(|id| id.0).collect();
    sqlx::query!(
        // A payload has less than 8,000 bytes: 200 ids of 37.
        "-- announce_finished
        WITH waited_for AS (DELETE FROM job_waiters WHERE job_id = ANY ($1) RETURNING job_id),
        numbered AS (SELECT job_id, (row_number() OVER () - 1) / 200 AS part FROM waited_for)
        SELECT pg_notify($2, string_agg(job_id::text, ',')) FROM numbered GROUP BY part",
        &ids,
        CHANNEL,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("announce_finished"))?;
    Ok(())
}

/// Forgets those who have stopped waiting.
pub async fn sweep(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query!(
        "-- sweep_job_waiters
        DELETE FROM job_waiters WHERE waits_until < wireroom_now()"
    )
    .execute(pool)
    .await
    .map_err(failed("sweep_job_waiters"))?;
    Ok(())
}

/// Hears of finished jobs. Holds one connection of the pool for as long as it lives.
pub struct FinishedListener(PgListener);

impl FinishedListener {
    pub async fn listen(pool: &PgPool) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(pool)
            .await
            .map_err(failed("listen_finished"))?;
        listener.listen(CHANNEL).await.map_err(failed("listen_finished"))?;
        Ok(Self(listener))
    }

    /// The ids of the next announcement; what is not an id is skipped.
    pub async fn next(&mut self) -> Result<Vec<Uuid>, StoreError> {
        let notification = self.0.recv().await.map_err(failed("listen_finished"))?;
        Ok(notification
            .payload()
            .split(',')
            .filter_map(|id| id.parse().ok())
            .collect())
    }
}
