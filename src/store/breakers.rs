//! The breaker of each session, shared by all workers: a session that keeps failing to connect rests, each time twice as
//! long, and nobody takes its lease meanwhile. When the rest is over, one attempt decides. Floods are no failures.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError,
    event_types::EventType,
    failed,
    leases::{self, LeaseKey, interval},
    sessions,
};

/// How long rests are.
#[derive(Debug, Clone, Copy)]
pub struct Rests {
    pub first: Duration,
    pub longest: Duration,
}

/// Opens a session's breaker under its lease, with the event of it; answers with when it closes half.
/// `jitter` is added, from 0 to 1 tenths of the rest, so that sessions that failed together do not come back together.
pub async fn trip(
    conn: &mut PgConnection,
    lease: LeaseKey,
    rests: Rests,
    jitter: f64,
    error: &str,
) -> Result<DateTime<Utc>, StoreError> {
    leases::hold(conn, lease, "trip_breaker").await?;
    let row = sqlx::query!(
        "-- trip_breaker
        INSERT INTO session_breakers AS b (session_id, trips, open_until, error)
        VALUES ($1, 1, wireroom_now() + least($2::interval, $3::interval) * (1 + $4::double precision / 10), $5)
        ON CONFLICT (session_id) DO UPDATE SET trips = b.trips + 1, opened_at = wireroom_now(),
            open_until = wireroom_now() + least($2::interval * 2 ^ least(b.trips, 30), $3::interval) * (1 + $4::double precision / 10),
            error = excluded.error
        RETURNING trips, open_until",
        lease.session.0,
        interval(rests.first),
        interval(rests.longest),
        jitter,
        error,
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(failed("trip_breaker"))?;
    let data = json!({ "session": lease.session, "breaker": "open", "trips": row.trips, "until": row.open_until,
        "error": error });
    sessions::emit(conn, EventType::SessionBreakerChanged, lease.session, data).await?;
    Ok(row.open_until)
}

/// Closes a session's breaker under its lease, with the event of it; `false`: it was closed.
pub async fn close(conn: &mut PgConnection, lease: LeaseKey) -> Result<bool, StoreError> {
    leases::hold(conn, lease, "close_breaker").await?;
    let closed = sqlx::query!(
        "-- close_breaker
        DELETE FROM session_breakers WHERE session_id = $1",
        lease.session.0,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("close_breaker"))?
    .rows_affected()
        == 1;
    if closed {
        let data = json!({ "session": lease.session, "breaker": "closed" });
        sessions::emit(conn, EventType::SessionBreakerChanged, lease.session, data).await?;
    }
    Ok(closed)
}
