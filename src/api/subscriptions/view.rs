//! A subscription as clients see it. Its secret is shown once.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::store::{event_log::Extent, subscriptions::SubscriptionRecord};

/// Where events go by themselves.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Subscription")]
pub struct SubscriptionView {
    pub id: Uuid,
    pub url: String,
    pub description: String,
    /// None: every type.
    pub types: Vec<String>,
    /// None: every subject.
    pub subjects: Vec<String>,
    pub enabled: bool,
    /// Why it was switched off by itself: `failing`, after three days in which every attempt failed, or `gone`, because the
    /// endpoint answered 410.
    pub disabled_reason: Option<String>,
    /// Every event up to here was delivered, or is in the log of deliveries.
    pub position: i64,
    /// How many events there are after it, of whatever type.
    pub lag: i64,
    /// Events after its position were deleted by age before they were delivered, while it was switched off above all.
    pub has_missed: bool,
    /// Deliveries that wait to be tried, for the first time or again; they are counted up to 100,000.
    pub pending: i64,
    /// Attempts that failed since the last that did not.
    pub failures: i32,
    /// Since when every attempt has failed.
    pub failing_since: Option<DateTime<Utc>>,
    /// Nothing is sent until then, since too much failed in a row.
    pub open_until: Option<DateTime<Utc>>,
    pub last_success_at: Option<DateTime<Utc>>,
    /// Until then webhooks carry a signature of the secret before, too.
    pub old_secret_until: Option<DateTime<Utc>>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl SubscriptionView {
    pub fn of(record: SubscriptionRecord, extent: Extent) -> Self {
        Self {
            lag: (extent.head - record.position).max(0),
            has_missed: record.position < extent.oldest - 1,
            id: record.id.0,
            url: record.url,
            description: record.description,
            types: record.types,
            subjects: record.subjects,
            enabled: record.enabled,
            disabled_reason: record.disabled_reason,
            position: record.position,
            pending: record.pending,
            failures: record.failures,
            failing_since: record.failing_since,
            open_until: record.open_until,
            last_success_at: record.last_success_at,
            old_secret_until: record.old_secret_until,
            created_by: record.created_by,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

/// The subscriptions there are, the oldest first.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Subscriptions")]
pub struct SubscriptionsView {
    pub items: Vec<SubscriptionView>,
}

/// A subscription with a fresh secret.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SubscriptionCreated {
    pub subscription: SubscriptionView,
    /// What signs its webhooks, after Standard Webhooks. Shown once: keep it where the endpoint can read it.
    #[schemars(example = &"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: String,
}
