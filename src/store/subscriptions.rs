//! Subscriptions as the API makes, changes and shows them. What delivers is in [`deliveries`](super::deliveries).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{StoreError, event_log::EventFilter, failed, leases::interval};
use crate::{ids::SubscriptionId, letterbox::Sealed};

/// Whose a sealed secret is. The same for the old one and the new: each is a letter of its own.
pub fn secret_owner(id: SubscriptionId) -> String {
    format!("subscription:{id}:secret")
}

/// Deliveries of a subscription that are counted when it is shown.
pub const MOST_COUNTED: i64 = 100_000;

/// What a client says of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub url: String,
    pub description: String,
    /// Empty: every type.
    pub types: Vec<String>,
    /// Empty: every subject.
    pub subjects: Vec<String>,
    pub enabled: bool,
}

impl Settings {
    fn wants_jobs(&self) -> bool {
        EventFilter::new(&self.types, &self.subjects).admits_jobs()
    }
}

/// What a subscription is set to; nobody else changes it until the transaction ends. `None`: there is no such subscription.
pub async fn lock(conn: &mut PgConnection, id: SubscriptionId) -> Result<Option<Settings>, StoreError> {
    sqlx::query_as!(
        Settings,
        "-- lock_subscription
        SELECT url, description, types, subjects, enabled FROM subscriptions WHERE id = $1 FOR NO KEY UPDATE",
        id.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("lock_subscription"))
}

/// A subscription, without its secret.
#[derive(Debug, Clone)]
pub struct SubscriptionRecord {
    pub id: SubscriptionId,
    pub url: String,
    pub description: String,
    pub types: Vec<String>,
    pub subjects: Vec<String>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    /// Until then the secret before signs, too.
    pub old_secret_until: Option<DateTime<Utc>>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub position: i64,
    pub failures: i32,
    pub failing_since: Option<DateTime<Utc>>,
    pub open_until: Option<DateTime<Utc>>,
    pub last_success_at: Option<DateTime<Utc>>,
    /// Up to [`MOST_COUNTED`].
    pub pending: i64,
}

/// Stores a subscription that begins after `position`.
pub async fn insert(
    conn: &mut PgConnection,
    id: SubscriptionId,
    settings: &Settings,
    secret: &Sealed,
    position: i64,
    actor: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- insert_subscription
        WITH made AS (
            INSERT INTO subscriptions (id, url, description, types, subjects, wants_jobs, enabled, secret_sealed, sealed_with,
                created_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id
        )
        INSERT INTO subscription_progress (subscription_id, position) SELECT id, $11 FROM made",
        id.0,
        settings.url,
        settings.description,
        &settings.types,
        &settings.subjects,
        settings.wants_jobs(),
        settings.enabled,
        secret.bytes,
        secret.key_id,
        actor,
        position,
    )
    .execute(conn)
    .await
    .map_err(failed("insert_subscription"))?;
    Ok(())
}

/// Changes a subscription; `None`: there is none. One that is enabled again begins anew to count what fails, and its waiting
/// deliveries have their three days again, beginning at once: who delivers it sees to that, so that nothing of theirs is
/// written here, however many there are.
pub async fn update(
    conn: &mut PgConnection,
    id: SubscriptionId,
    settings: &Settings,
) -> Result<Option<()>, StoreError> {
    let was_enabled = sqlx::query_scalar!(
        "-- update_subscription
        UPDATE subscriptions s SET url = $2, description = $3, types = $4, subjects = $5, wants_jobs = $6, enabled = $7,
            disabled_reason = CASE WHEN $7 THEN NULL ELSE s.disabled_reason END, version = s.version + 1,
            updated_at = wireroom_now()
        FROM (SELECT id, enabled FROM subscriptions WHERE id = $1 FOR NO KEY UPDATE) was
        WHERE s.id = was.id RETURNING was.enabled",
        id.0,
        settings.url,
        settings.description,
        &settings.types,
        &settings.subjects,
        settings.wants_jobs(),
        settings.enabled,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("update_subscription"))?;
    let Some(was_enabled) = was_enabled else {
        return Ok(None);
    };
    if settings.enabled && !was_enabled {
        sqlx::query!(
            "-- reopen_subscription
            UPDATE subscription_progress SET failures = 0, failing_since = NULL, open_until = NULL, reopened_at = wireroom_now()
            WHERE subscription_id = $1",
            id.0,
        )
        .execute(conn)
        .await
        .map_err(failed("reopen_subscription"))?;
    }
    Ok(Some(()))
}

/// Gives a subscription another secret; the one before signs beside it for `overlap`. `false`: there is no such subscription.
pub async fn rotate(
    conn: &mut PgConnection,
    id: SubscriptionId,
    secret: &Sealed,
    overlap: Duration,
) -> Result<bool, StoreError> {
    let rotated = sqlx::query!(
        "-- rotate_subscription_secret
        UPDATE subscriptions SET old_secret_sealed = secret_sealed, old_sealed_with = sealed_with,
            old_secret_until = wireroom_now() + $4::interval, secret_sealed = $2, sealed_with = $3,
            version = version + 1, updated_at = wireroom_now()
        WHERE id = $1",
        id.0,
        secret.bytes,
        secret.key_id,
        interval(overlap),
    )
    .execute(conn)
    .await
    .map_err(failed("rotate_subscription_secret"))?;
    Ok(rotated.rows_affected() == 1)
}

/// Deletes a subscription with its deliveries; `false`: there was none.
pub async fn delete(conn: &mut PgConnection, id: SubscriptionId) -> Result<bool, StoreError> {
    let gone = sqlx::query!(
        "-- delete_subscription
        DELETE FROM subscriptions WHERE id = $1",
        id.0
    )
    .execute(conn)
    .await
    .map_err(failed("delete_subscription"))?;
    Ok(gone.rows_affected() == 1)
}

/// Every subscription, the oldest first; or the one.
pub async fn list(pool: &PgPool, id: Option<SubscriptionId>) -> Result<Vec<SubscriptionRecord>, StoreError> {
    sqlx::query_as!(
        SubscriptionRecord,
        r#"-- list_subscriptions
        SELECT s.id AS "id: SubscriptionId", s.url, s.description, s.types, s.subjects, s.enabled, s.disabled_reason,
            CASE WHEN s.old_secret_until > wireroom_now() THEN s.old_secret_until END AS old_secret_until, s.created_by,
            s.created_at, s.updated_at, p.position, p.failures, p.failing_since,
            CASE WHEN p.open_until > wireroom_now() THEN p.open_until END AS open_until, p.last_success_at,
            (SELECT count(*) FROM (SELECT FROM deliveries d WHERE d.subscription_id = s.id AND d.state = 'pending'
                LIMIT $2) counted) AS "pending!"
        FROM subscriptions s JOIN subscription_progress p ON p.subscription_id = s.id
        WHERE $1::uuid IS NULL OR s.id = $1 ORDER BY s.id"#,
        id.map(|id| id.0),
        MOST_COUNTED,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("list_subscriptions"))
}

/// A secret under another key than the one that seals now.
#[derive(Debug)]
pub struct SealedSecret {
    pub id: SubscriptionId,
    /// Of the two, whether it is the one before.
    pub is_old: bool,
    pub sealed: Sealed,
}

/// Secrets that are sealed under another key than `key_id`.
pub async fn sealed_otherwise(conn: &mut PgConnection, key_id: &str) -> Result<Vec<SealedSecret>, StoreError> {
    let rows = sqlx::query!(
        r#"-- subscriptions_sealed_otherwise
        SELECT id AS "id!: SubscriptionId", false AS "is_old!", secret_sealed AS "sealed!", sealed_with AS "key!"
        FROM subscriptions WHERE sealed_with <> $1
        UNION ALL
        SELECT id, true, old_secret_sealed, old_sealed_with FROM subscriptions WHERE old_sealed_with <> $1"#,
        key_id,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("subscriptions_sealed_otherwise"))?;
    Ok(rows
        .into_iter()
        .map(|row| SealedSecret {
            id: row.id,
            is_old: row.is_old,
            sealed: Sealed {
                key_id: row.key,
                bytes: row.sealed,
            },
        })
        .collect())
}

/// Puts the same secret there under another seal. `false`: it was changed meanwhile, and nothing was written.
pub async fn reseal(conn: &mut PgConnection, was: &SealedSecret, fresh: &Sealed) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "-- reseal_subscription
        UPDATE subscriptions SET version = version + 1,
            secret_sealed = CASE WHEN $2 THEN secret_sealed ELSE $4 END,
            sealed_with = CASE WHEN $2 THEN sealed_with ELSE $5 END,
            old_secret_sealed = CASE WHEN $2 THEN $4 ELSE old_secret_sealed END,
            old_sealed_with = CASE WHEN $2 THEN $5 ELSE old_sealed_with END
        WHERE id = $1 AND CASE WHEN $2 THEN old_secret_sealed ELSE secret_sealed END = $3",
        was.id.0,
        was.is_old,
        was.sealed.bytes,
        fresh.bytes,
        fresh.key_id,
    )
    .execute(conn)
    .await
    .map_err(failed("reseal_subscription"))?;
    Ok(changed.rows_affected() == 1)
}
