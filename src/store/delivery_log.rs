//! The log of deliveries, for people: what became of which event, and what is to be sent once more.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{StoreError, event_log::EventFilter, failed};
use crate::ids::SubscriptionId;

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub position: i64,
    pub event_type: String,
    pub subject: String,
    pub state: String,
    pub attempts: i32,
    pub first_at: DateTime<Utc>,
    pub last_at: Option<DateTime<Utc>>,
    pub next_at: Option<DateTime<Utc>>,
    pub last_status: Option<i16>,
    pub last_error: Option<String>,
    pub last_millis: Option<i32>,
}

/// The deliveries of a subscription before a position, the newest event first.
pub async fn page(
    pool: &PgPool,
    id: SubscriptionId,
    state: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<DeliveryRecord>, StoreError> {
    sqlx::query_as!(
        DeliveryRecord,
        "-- delivery_page
        SELECT position, type AS event_type, subject, state, attempts, first_at, last_at, next_at, last_status, last_error,
            last_millis
        FROM deliveries WHERE subscription_id = $1 AND ($2::text IS NULL OR state = $2) AND position < $3
        ORDER BY position DESC LIMIT $4",
        id.0,
        state,
        before.unwrap_or(i64::MAX),
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("delivery_page"))
}

/// Has events sent once more, or for the first time: those of `from` to `to` that fit the subscription and are kept, up to its
/// place, at most `limit`, the oldest first. Those that wait anyhow are left alone. Returns how many, and the last of them.
pub async fn redeliver(
    conn: &mut PgConnection,
    id: SubscriptionId,
    filter: &EventFilter,
    from: i64,
    to: i64,
    limit: i64,
) -> Result<(i64, Option<i64>), StoreError> {
    let row = sqlx::query!(
        r#"-- redeliver
        WITH wanted AS (
            SELECT e.position, e.type, e.subject FROM event_log e, subscription_progress p
            WHERE p.subscription_id = $1 AND e.position BETWEEN $2 AND least($3, p.position)
                AND ($4 OR e.type = ANY ($5) OR split_part(e.type, '.', 1) = ANY ($6))
                AND ($7 OR e.subject = ANY ($8))
                AND NOT EXISTS (SELECT FROM deliveries d WHERE d.subscription_id = $1 AND d.position = e.position
                    AND d.state = 'pending')
            ORDER BY e.position LIMIT $9
        ), again AS (
            INSERT INTO deliveries AS d (subscription_id, position, type, subject, state, next_at)
            SELECT $1, position, type, subject, 'pending', wireroom_now() FROM wanted
            ON CONFLICT (subscription_id, position) DO UPDATE SET state = 'pending', attempts = 0,
                first_at = wireroom_now(), next_at = wireroom_now(), updated_at = wireroom_now()
            RETURNING position
        )
        SELECT count(*) AS "count!", max(position) AS last FROM again"#,
        id.0,
        from,
        to,
        filter.admits_every_type(),
        filter.types(),
        filter.families(),
        filter.subjects().is_empty(),
        filter.subjects(),
        limit,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("redeliver"))?;
    Ok((row.count, row.last))
}

/// Deletes up to `limit` deliveries that ended more than `keep` days ago, and tests of yesterday; returns how many went.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- expire_deliveries
        WITH gone AS (
            DELETE FROM deliveries WHERE (subscription_id, position) IN (
                SELECT subscription_id, position FROM deliveries
                WHERE state <> 'pending' AND updated_at < wireroom_now() - make_interval(days => $1)
                ORDER BY updated_at LIMIT $2)
            RETURNING 1
        ), tests AS (
            DELETE FROM subscription_tests WHERE id IN (
                SELECT id FROM subscription_tests WHERE asked_at < wireroom_now() - interval '1 day' LIMIT $2)
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM tests) AS "gone!""#,
        keep,
        limit,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("expire_deliveries"))
}
