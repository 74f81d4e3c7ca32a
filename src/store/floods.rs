//! The record of every flood, however short: rows for as long as finished jobs are kept, and totals for ever.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, failed};
use crate::ids::{JobId, SessionId};

/// One time Telegram told a session to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood<'a> {
    pub session: SessionId,
    pub job: Option<JobId>,
    /// The TL method, such as `channels.getParticipants`.
    pub method: &'a str,
    /// Telegram's own name, such as `FLOOD_WAIT`.
    pub error: &'a str,
    pub seconds: i32,
    /// Slept out in place, without a gate.
    pub waited_in_place: bool,
}

pub async fn record(connection: &mut PgConnection, flood: &Flood<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "-- record_flood
        WITH counted AS (
            INSERT INTO flood_totals AS t (method, error, waited_in_place, floods, seconds) VALUES ($3, $4, $6, 1, $5::integer)
            ON CONFLICT (method, error, waited_in_place)
            DO UPDATE SET floods = t.floods + 1, seconds = t.seconds + excluded.seconds
        )
        INSERT INTO floods (session_id, job_id, method, error, seconds, waited_in_place)
        VALUES ($1, $2, $3, $4, $5, $6)",
        flood.session.0,
        flood.job.map(|job| job.0),
        flood.method,
        flood.error,
        flood.seconds,
        flood.waited_in_place,
    )
    .execute(connection)
    .await
    .map_err(failed("record_flood"))?;
    Ok(())
}

/// A flood as it was recorded.
#[derive(Debug, Clone)]
pub struct FloodRecord {
    /// Grows with time.
    pub id: i64,
    pub at: DateTime<Utc>,
    pub session: SessionId,
    /// The job that met it; `None`: a call of no job.
    pub job: Option<JobId>,
    pub method: String,
    pub error: String,
    pub seconds: i32,
    pub waited_in_place: bool,
}

/// Which floods to list; `None` leaves a condition out.
#[derive(Debug, Clone, Default)]
pub struct FloodFilter<'a> {
    pub session: Option<SessionId>,
    pub method: Option<&'a str>,
    pub since: Option<DateTime<Utc>>,
}

/// A page of floods, the latest first, those before `before`.
pub async fn list(
    conn: &mut PgConnection,
    filter: &FloodFilter<'_>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<FloodRecord>, StoreError> {
    sqlx::query_as!(
        FloodRecord,
        r#"-- list_floods
        SELECT id, at, session_id AS "session: SessionId", job_id AS "job: JobId", method, error, seconds, waited_in_place
        FROM floods
        WHERE id < $1 AND ($2::uuid IS NULL OR session_id = $2) AND ($3::text IS NULL OR method = $3)
            AND ($4::timestamptz IS NULL OR at >= $4)
        ORDER BY id DESC LIMIT $5"#,
        before.unwrap_or(i64::MAX),
        filter.session.map(|session| session.0),
        filter.method,
        filter.since,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("list_floods"))
}

/// All floods of one method and error since the beginning.
#[derive(Debug, Clone)]
pub struct FloodTotal {
    pub method: String,
    pub error: String,
    pub waited_in_place: bool,
    pub floods: i64,
    pub seconds: i64,
}

pub async fn totals(conn: &mut PgConnection) -> Result<Vec<FloodTotal>, StoreError> {
    sqlx::query_as!(
        FloodTotal,
        "-- flood_totals
        SELECT method, error, waited_in_place, floods, seconds FROM flood_totals ORDER BY method, error, waited_in_place"
    )
    .fetch_all(conn)
    .await
    .map_err(failed("flood_totals"))
}

/// Deletes floods older than `keep` days, at most `limit`; returns how many. Totals stay.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<u64, StoreError> {
    let gone = sqlx::query!(
        "-- expire_floods
        DELETE FROM floods WHERE id IN (
            SELECT id FROM floods WHERE at < wireroom_now() - make_interval(days => $1) ORDER BY at LIMIT $2)",
        keep,
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("expire_floods"))?;
    Ok(gone.rows_affected())
}
