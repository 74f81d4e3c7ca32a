//! Readers of events with a name: what they read, and how far they say that they have come. Reading moves nobody.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{StoreError, event_log::EventFilter, failed};

/// A reader with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    pub name: String,
    /// Empty: every type.
    pub types: Vec<String>,
    /// The last event that it has done with.
    pub position: i64,
    pub created_at: DateTime<Utc>,
    pub acked_at: Option<DateTime<Utc>>,
}

/// Makes a consumer, or changes what one reads; `position` is where a new one begins. `true`: it was made.
pub async fn put(conn: &mut PgConnection, name: &str, types: &[String], position: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- put_consumer
        INSERT INTO event_consumers (name, types, wants_jobs, position) VALUES ($1, $2, $3, $4)
        ON CONFLICT (name) DO UPDATE SET types = excluded.types, wants_jobs = excluded.wants_jobs
        RETURNING xmax = 0 AS "made!""#,
        name,
        types,
        EventFilter::new(types, &[]).admits_jobs(),
        position,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("put_consumer"))
}

/// Notes how far a consumer has come; it goes back only if it is told to. Answers with where it is now, `None`: there is no
/// such consumer.
pub async fn ack(conn: &mut PgConnection, name: &str, position: i64, back: bool) -> Result<Option<i64>, StoreError> {
    sqlx::query_scalar!(
        "-- ack_events
        UPDATE event_consumers SET acked_at = wireroom_now(),
            position = CASE WHEN $3 THEN $2 ELSE greatest(position, $2) END
        WHERE name = $1 RETURNING position",
        name,
        position,
        back,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("ack_events"))
}

/// As [`ack`]; makes a consumer of every type that is not there.
pub async fn ack_or_make(conn: &mut PgConnection, name: &str, position: i64, back: bool) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "-- ack_or_make_consumer
        INSERT INTO event_consumers AS c (name, wants_jobs, position, acked_at) VALUES ($1, false, $2, wireroom_now())
        ON CONFLICT (name) DO UPDATE SET acked_at = wireroom_now(),
            position = CASE WHEN $3 THEN excluded.position ELSE greatest(c.position, excluded.position) END
        RETURNING position",
        name,
        position,
        back,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("ack_or_make_consumer"))
}

/// The consumer of that name.
pub async fn get(pool: &PgPool, name: &str) -> Result<Option<ConsumerRecord>, StoreError> {
    sqlx::query_as!(
        ConsumerRecord,
        "-- get_consumer
        SELECT name, types, position, created_at, acked_at FROM event_consumers WHERE name = $1",
        name,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("get_consumer"))
}

/// Every consumer, by name.
pub async fn list(pool: &PgPool) -> Result<Vec<ConsumerRecord>, StoreError> {
    sqlx::query_as!(
        ConsumerRecord,
        "-- list_consumers
        SELECT name, types, position, created_at, acked_at FROM event_consumers ORDER BY name"
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list_consumers"))
}

/// Forgets a consumer; `false`: there was none.
pub async fn delete(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let gone = sqlx::query!(
        "-- delete_consumer
        DELETE FROM event_consumers WHERE name = $1",
        name,
    )
    .execute(conn)
    .await
    .map_err(failed("delete_consumer"))?;
    Ok(gone.rows_affected() == 1)
}
