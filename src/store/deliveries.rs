//! What a process needs to deliver the events of subscriptions: which of them are its own for now, and what came of it. One
//! process at a time has a subscription; each write names it, and changes nothing when that is over. What waits is in
//! [`waiting_deliveries`](super::waiting_deliveries).

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed,
    jobs::micros,
    leases::interval,
    outbox::{self, NewEvent},
};
use crate::{ids::SubscriptionId, letterbox::Sealed};

/// A subscription that a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub id: SubscriptionId,
    /// Grows with each change.
    pub version: i32,
}

/// Keeps the enabled subscriptions that `owner` has for another `lease`, and takes up to `more` that nobody has. What is not
/// in the answer is not the owner's any more.
pub async fn hold(conn: &mut PgConnection, owner: Uuid, lease: Duration, more: i64) -> Result<Vec<Held>, StoreError> {
    sqlx::query_as!(
        Held,
        r#"-- hold_subscriptions
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        free AS MATERIALIZED (
            SELECT p.subscription_id FROM subscription_progress p JOIN subscriptions s ON s.id = p.subscription_id
            WHERE s.enabled AND (p.owned_until IS NULL OR p.owned_until <= (SELECT t FROM clock))
            ORDER BY p.subscription_id LIMIT $3 FOR UPDATE OF p SKIP LOCKED
        )
        UPDATE subscription_progress p SET owner = $1, owned_until = (SELECT t FROM clock) + $2::interval
        FROM subscriptions s
        WHERE s.id = p.subscription_id AND s.enabled
            AND (p.subscription_id IN (SELECT subscription_id FROM free)
                OR (p.owner = $1 AND p.owned_until > (SELECT t FROM clock)))
        RETURNING s.id AS "id: SubscriptionId", s.version"#,
        owner,
        interval(lease),
        more,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("hold_subscriptions"))
}

/// Lets go of everything that `owner` has: others may take it at once.
pub async fn release(conn: &mut PgConnection, owner: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "-- release_subscriptions
        UPDATE subscription_progress SET owner = NULL, owned_until = NULL WHERE owner = $1",
        owner,
    )
    .execute(conn)
    .await
    .map_err(failed("release_subscriptions"))?;
    Ok(())
}

/// Where a subscription's events go, and how they are signed.
#[derive(Debug, Clone)]
pub struct Target {
    pub id: SubscriptionId,
    pub url: String,
    pub types: Vec<String>,
    pub subjects: Vec<String>,
    pub secret: Sealed,
    /// The one before, and for how long it still signs.
    pub old_secret: Option<(Sealed, Duration)>,
    pub position: i64,
    pub failures: i32,
}

/// The subscription as it is now; `None` when it is gone.
pub async fn target(conn: &mut PgConnection, id: SubscriptionId) -> Result<Option<Target>, StoreError> {
    let row = sqlx::query!(
        r#"-- delivery_target
        SELECT s.url, s.types, s.subjects, s.secret_sealed, s.sealed_with, s.old_secret_sealed, s.old_sealed_with,
            extract(epoch FROM s.old_secret_until - wireroom_now())::double precision AS old_seconds, p.position, p.failures
        FROM subscriptions s JOIN subscription_progress p ON p.subscription_id = s.id WHERE s.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("delivery_target"))?;
    Ok(row.map(|row| Target {
        id,
        url: row.url,
        types: row.types,
        subjects: row.subjects,
        secret: Sealed {
            key_id: row.sealed_with,
            bytes: row.secret_sealed,
        },
        old_secret: row
            .old_secret_sealed
            .zip(row.old_sealed_with)
            .zip(row.old_seconds.filter(|seconds| *seconds > 0.0))
            .map(|((bytes, key_id), seconds)| (Sealed { key_id, bytes }, Duration::from_secs_f64(seconds))),
        position: row.position,
        failures: row.failures,
    }))
}

/// Which of the events after a subscription's place have been dealt with: a process that was killed had come so far with
/// some of them.
pub async fn settled_after(conn: &mut PgConnection, id: SubscriptionId, position: i64) -> Result<Vec<i64>, StoreError> {
    sqlx::query_scalar!(
        "-- deliveries_settled_after
        SELECT position FROM deliveries WHERE subscription_id = $1 AND position > $2 ORDER BY position",
        id.0,
        position,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("deliveries_settled_after"))
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is tried again after this long; none: it waits for the one before of its subject.
    Pending(Option<Duration>),
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending(_) => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// An event that was sent, or that waits behind one.
#[derive(Debug, Clone)]
pub struct Settled {
    pub position: i64,
    pub event_type: String,
    pub subject: String,
    pub state: DeliveryState,
    pub attempts: i32,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub took: Option<Duration>,
}

/// How a subscription fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fortune {
    /// Attempts that failed since the last that did not.
    pub failures: i32,
    /// Something was delivered since the last word.
    pub succeeded: bool,
    /// Nothing is to be sent for this long.
    pub open_for: Option<Duration>,
}

/// Notes what became of events, how far the subscription is, and how it fares. `Fenced`: another process has it by now, and
/// nothing was written. Answers with how long every attempt has failed.
pub async fn settle(
    conn: &mut PgConnection,
    owner: Uuid,
    id: SubscriptionId,
    settled: &[Settled],
    position: i64,
    fortune: Fortune,
) -> Result<Option<Duration>, StoreError> {
    let failing = sqlx::query_scalar!(
        r#"-- settle_deliveries
        WITH clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        mine AS (
            UPDATE subscription_progress p SET position = greatest(p.position, $3), failures = $4,
                failing_since = CASE WHEN $4 = 0 THEN NULL
                    WHEN $5 THEN c.t ELSE coalesce(p.failing_since, c.t) END,
                last_success_at = CASE WHEN $5 THEN c.t ELSE p.last_success_at END,
                open_until = CASE WHEN $6::bigint IS NOT NULL THEN c.t + $6 * interval '1 microsecond'
                    WHEN $4 = 0 THEN NULL ELSE p.open_until END
            FROM clock c WHERE p.subscription_id = $2 AND p.owner = $1 AND p.owned_until > c.t
            RETURNING c.t, extract(epoch FROM c.t - p.failing_since)::double precision AS failing
        ), noted AS (
            INSERT INTO deliveries AS d (subscription_id, position, type, subject, state, attempts, first_at, last_at, next_at,
                last_status, last_error, last_millis, updated_at)
            SELECT $2, s.position, s.type, s.subject, s.state, s.attempts, m.t, CASE WHEN s.tried THEN m.t END,
                m.t + s.delay * interval '1 microsecond', s.status, s.error, s.millis, m.t
            FROM mine m, unnest($7::bigint[], $8::text[], $9::text[], $10::text[], $11::int[], $12::bigint[], $13::smallint[],
                $14::text[], $15::int[], $16::bool[])
                AS s (position, type, subject, state, attempts, delay, status, error, millis, tried)
            ON CONFLICT (subscription_id, position) DO UPDATE SET state = excluded.state, attempts = excluded.attempts,
                last_at = coalesce(excluded.last_at, d.last_at), next_at = excluded.next_at,
                last_status = excluded.last_status, last_error = excluded.last_error, last_millis = excluded.last_millis,
                updated_at = excluded.updated_at
            WHERE excluded.last_at IS NOT NULL
        )
        SELECT coalesce(failing, 0) AS "failing!" FROM mine"#,
        owner,
        id.0,
        position,
        fortune.failures,
        fortune.succeeded,
        fortune.open_for.map(micros),
        &settled.iter().map(|one| one.position).collect::<Vec<_>>(),
        &settled.iter().map(|one| one.event_type.clone()).collect::<Vec<_>>(),
        &settled.iter().map(|one| one.subject.clone()).collect::<Vec<_>>(),
        &settled.iter().map(|one| one.state.as_str()).collect::<Vec<_>>() as &[&str],
        &settled.iter().map(|one| one.attempts).collect::<Vec<_>>(),
        &settled.iter().map(delay).collect::<Vec<_>>() as &[Option<i64>],
        &settled.iter().map(|one| one.status.map(u16::cast_signed)).collect::<Vec<_>>() as &[Option<i16>],
        &settled.iter().map(|one| one.error.clone()).collect::<Vec<_>>() as &[Option<String>],
        &settled.iter().map(millis).collect::<Vec<_>>() as &[Option<i32>],
        &settled.iter().map(|one| one.took.is_some() || one.error.is_some()).collect::<Vec<_>>(),
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("settle_deliveries"))?;
    let failing = failing.ok_or(StoreError::Fenced {
        operation: "settle_deliveries",
    })?;
    Ok((fortune.failures > 0).then(|| Duration::from_secs_f64(failing.max(0.0))))
}

fn delay(settled: &Settled) -> Option<i64> {
    match settled.state {
        DeliveryState::Pending(delay) => delay.map(micros),
        DeliveryState::Delivered | DeliveryState::Failed => None,
    }
}

fn millis(settled: &Settled) -> Option<i32> {
    settled
        .took
        .map(|took| i32::try_from(took.as_millis()).unwrap_or(i32::MAX))
}

/// Why a subscription is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisableReason {
    /// Every attempt has failed for days.
    Failing,
    /// The endpoint said 410: it is gone for good.
    Gone,
}

impl DisableReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Gone => "gone",
        }
    }
}

/// Switches a subscription off that its owner has, with the event of it; in the caller's transaction.
pub async fn disable(
    conn: &mut PgConnection,
    owner: Uuid,
    id: SubscriptionId,
    reason: DisableReason,
    last_status: Option<u16>,
) -> Result<(), StoreError> {
    let disabled = sqlx::query!(
        r#"-- disable_subscription
        UPDATE subscriptions s SET enabled = false, disabled_reason = $3, version = s.version + 1, updated_at = wireroom_now()
        FROM subscription_progress p
        WHERE s.id = $2 AND p.subscription_id = s.id AND p.owner = $1 AND s.enabled
        RETURNING p.failures, p.failing_since AS "failing_since: DateTime<Utc>""#,
        owner,
        id.0,
        reason.as_str(),
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("disable_subscription"))?;
    let Some(disabled) = disabled else { return Ok(()) };
    let event = NewEvent {
        event_type: EventType::SubscriptionDisabled,
        subject: Subject::subscription(id),
        data: json!({
            "subscription": id, "reason": reason.as_str(), "failures": disabled.failures,
            "failing_since": disabled.failing_since, "last_status": last_status,
        }),
    };
    outbox::append(conn, &[event]).await
}
