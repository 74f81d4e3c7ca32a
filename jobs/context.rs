//! What a function may see while it runs.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ports::{Clock, Store, Telegram};

/// One attempt of one job.
#[derive(Clone)]
pub struct JobContext {
    pub id: Uuid,
    /// From 1; a snoozed attempt is refunded and does not count.
    pub attempt: i32,
    pub max_attempts: i32,
    pub created_at: DateTime<Utc>,
    /// The job is of no use after this.
    pub deadline: Option<DateTime<Utc>>,
    /// Cancelled when the job is cancelled, the process shuts down hard, or the session is lost. A function returns
    /// [`Outcome::Cancelled`](crate::outcome::Outcome::Cancelled) at the next safe place.
    pub cancellation: CancellationToken,
    pub telegram: Arc<dyn Telegram>,
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
}
