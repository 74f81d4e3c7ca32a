//! The record of every flood, however short.

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
