//! The log of deliveries, for people: what became of which event, and what is to be sent once more.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    StoreError,
    event_log::{EventFilter, WINDOW},
    failed,
};
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
    conn: &mut PgConnection,
    id: SubscriptionId,
    state: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<DeliveryRecord>, StoreError> {
    let before = before.unwrap_or(i64::MAX);
    let rows = match state {
        None => every_page(conn, id, before, limit).await,
        Some("pending") => waiting_page(conn, id, before, limit).await,
        Some("failed") => failed_page(conn, id, before, limit).await,
        Some(state) => page_in(conn, id, state, before, limit).await,
    };
    rows.map_err(failed("delivery_page"))
}

/// One statement for each of the states that are rare, since each has an index of its own.
macro_rules! page_of {
    ($name:ident, $sql:literal $(, $state:ident)?) => {
        async fn $name(
            conn: &mut PgConnection,
            id: SubscriptionId,
            $($state: &str,)?
            before: i64,
            limit: i64,
        ) -> Result<Vec<DeliveryRecord>, sqlx::Error> {
            sqlx::query_as!(DeliveryRecord, $sql, id.0, before, limit $(, $state)?).fetch_all(conn).await
        }
    };
}

page_of!(
    every_page,
    "-- delivery_page
    SELECT position, type AS event_type, subject, state, attempts, first_at, last_at, next_at, last_status, last_error, last_millis
    FROM deliveries WHERE subscription_id = $1 AND position < $2 ORDER BY position DESC LIMIT $3"
);
page_of!(
    waiting_page,
    "-- waiting_delivery_page
    SELECT position, type AS event_type, subject, state, attempts, first_at, last_at, next_at, last_status, last_error, last_millis
    FROM deliveries WHERE subscription_id = $1 AND state = 'pending' AND position < $2 ORDER BY position DESC LIMIT $3"
);
page_of!(
    failed_page,
    "-- failed_delivery_page
    SELECT position, type AS event_type, subject, state, attempts, first_at, last_at, next_at, last_status, last_error, last_millis
    FROM deliveries WHERE subscription_id = $1 AND state = 'failed' AND position < $2 ORDER BY position DESC LIMIT $3"
);
page_of!(
    page_in,
    "-- delivery_page_in_state
    SELECT position, type AS event_type, subject, state, attempts, first_at, last_at, next_at, last_status, last_error, last_millis
    FROM deliveries WHERE subscription_id = $1 AND position < $2 AND state = $4 ORDER BY position DESC LIMIT $3",
    state
);

/// What is sent once more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redelivered {
    pub count: i64,
    /// The last of them.
    pub last: Option<i64>,
    /// Where to go on, when not all that was asked for was looked at.
    pub next: Option<i64>,
}

/// Has events sent once more, or for the first time: those of `from` to `to` that fit the subscription and are kept, up to its
/// place, the oldest first: at most `limit`, out of at most `windows` times [`WINDOW`] positions. Those that wait anyhow are
/// left alone.
pub async fn redeliver(
    conn: &mut PgConnection,
    id: SubscriptionId,
    filter: &EventFilter,
    (from, to): (i64, i64),
    limit: i64,
    windows: usize,
) -> Result<Redelivered, StoreError> {
    let mut all = Redelivered {
        next: Some(from),
        ..Redelivered::default()
    };
    for _ in 0..windows {
        let Some(from) = all.next.filter(|_| all.count < limit) else {
            break;
        };
        let step = redeliver_window(conn, id, filter, (from, to), limit - all.count).await?;
        all = Redelivered {
            count: all.count + step.count,
            last: step.last.or(all.last),
            next: step.next,
        };
    }
    Ok(all)
}

async fn redeliver_window(
    conn: &mut PgConnection,
    id: SubscriptionId,
    filter: &EventFilter,
    (from, to): (i64, i64),
    limit: i64,
) -> Result<Redelivered, StoreError> {
    let until = to.min(from.saturating_add(WINDOW - 1));
    let row = sqlx::query!(
        r#"-- redeliver
        WITH wanted AS MATERIALIZED (
            SELECT e.position, e.type, e.subject FROM event_log e
            WHERE e.position BETWEEN $2 AND least($3, (SELECT position FROM subscription_progress WHERE subscription_id = $1))
                AND e.logged_at >= coalesce((SELECT day::timestamp AT TIME ZONE 'UTC' FROM event_days
                    WHERE first_position <= $2 ORDER BY first_position DESC LIMIT 1), '-infinity')
                AND ($4 OR e.type = ANY ($5) OR split_part(e.type, '.', 1) = ANY ($6))
                AND ($7 OR e.subject = ANY ($8))
                AND NOT EXISTS (SELECT FROM deliveries d WHERE d.subscription_id = $1 AND d.position = e.position
                    AND d.state = 'pending')
            ORDER BY e.position LIMIT $9
        ), again AS (
            INSERT INTO deliveries AS d (subscription_id, position, type, subject, state, next_at)
            SELECT $1, position, type, subject, 'pending',
                CASE WHEN row_number() OVER (PARTITION BY subject ORDER BY position) = 1 THEN wireroom_now() END
            FROM wanted
            ON CONFLICT (subscription_id, position) DO UPDATE SET state = 'pending', attempts = 0,
                first_at = wireroom_now(), next_at = excluded.next_at, updated_at = wireroom_now()
            RETURNING position
        )
        SELECT count(*) AS "count!", max(position) AS last,
            coalesce((SELECT position FROM subscription_progress WHERE subscription_id = $1), 0) AS "place!" FROM again"#,
        id.0,
        from,
        until,
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
    let looked_to = if row.count >= limit {
        row.last.unwrap_or(until)
    } else {
        until
    };
    Ok(Redelivered {
        count: row.count,
        last: row.last,
        next: (looked_to < to.min(row.place)).then_some(looked_to + 1),
    })
}

/// Deletes up to `limit` deliveries that ended more than `keep` days ago, and tests of yesterday; returns how many went.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- expire_deliveries
        WITH gone AS (
            -- By where they lie: a plan that joins them with all deliveries reads all of them.
            DELETE FROM deliveries WHERE state <> 'pending' AND ctid = ANY (ARRAY(
                SELECT ctid FROM deliveries
                WHERE state <> 'pending' AND updated_at < (SELECT wireroom_now()) - make_interval(days => $1)
                ORDER BY updated_at LIMIT $2))
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
