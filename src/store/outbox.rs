//! The outbox: facts, written in the transaction that makes them true, for those who read them later.

use serde_json::Value;
use sqlx::PgConnection;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed,
};

/// One fact that is about to be true.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_type: EventType,
    pub subject: Subject,
    /// An object. It may hold the text of messages, and no other secret.
    pub data: Value,
}

/// Writes events into the caller's transaction, in this order. Hold a lock that stands for the subject, its row above all,
/// before you call it: that is what keeps the order of two transactions that write of one subject.
pub async fn append(conn: &mut PgConnection, events: &[NewEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let types: Vec<&str> = events.iter().map(|event| event.event_type.name()).collect();
    let subjects: Vec<&str> = events.iter().map(|event| event.subject.as_str()).collect();
    let data: Vec<Value> = events.iter().map(|event| event.data.clone()).collect();
    sqlx::query!(
        "-- append_events
        INSERT INTO events (type, subject, data)
        SELECT type, subject, data
        FROM unnest($1::text[], $2::text[], $3::jsonb[]) WITH ORDINALITY AS new (type, subject, data, place)
        ORDER BY place",
        &types as &[&str],
        &subjects as &[&str],
        &data,
    )
    .execute(conn)
    .await
    .map_err(failed("append_events"))?;
    Ok(())
}
