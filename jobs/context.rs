//! What a function may see while it runs.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    JobError, LogLevel, LogLine, Outcome,
    outreach::Outreach,
    ports::{Clock, Store, Telegram},
    scan::ports::FileKeeper,
};

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
    pub outreach: Arc<dyn Outreach>,
    pub files: Arc<dyn FileKeeper>,
    pub clock: Arc<dyn Clock>,
}

impl JobContext {
    /// Whether a failure of this attempt is the job's end.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// A safe place: ends the attempt here when it was asked to stop.
    pub fn stop_if_cancelled(&self) -> Result<(), Outcome> {
        if self.cancellation.is_cancelled() {
            Err(Outcome::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Shows a line to whoever follows the job. One that cannot be stored is no reason to fail: whatever is wrong with the
    /// store or the attempt, the next write that matters tells.
    pub async fn log(&self, level: LogLevel, line: LogLine) {
        let _shown = self.store.log(level, line).await;
    }

    /// Tells those who follow the job why this attempt ends without a result, where that says more than its outcome.
    pub(crate) async fn log_stop(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Elsewhere { .. }) {
            let message = "This session may not do that now. Another one of the pool goes on, or this one when it may.";
            self.log(LogLevel::Info, LogLine::new("not_on_this_session", message))
                .await;
            return;
        }
        let Outcome::Snooze { until, reason } = outcome else {
            return;
        };
        let (code, message) = match reason.code.as_str() {
            "flood" => (
                "flood_met",
                "Telegram asks this session to wait. The job goes on where it is.",
            ),
            "slow_mode" => (
                "slow_mode_met",
                "The chat is in slow mode. The job goes on when it may write.",
            ),
            "cap_reached" => (
                "cap_met",
                "The session has done this as often as it may for now. The job goes on when it may again.",
            ),
            "outreach_stopped" => (
                "outreach_stop_met",
                "All outreach is stopped. The job goes on when somebody lets it.",
            ),
            "quiet_hours" => (
                "quiet_hours_met",
                "Where the people are it is a quiet hour. The job goes on after it.",
            ),
            "campaign_cap" | "target_cap" => (
                "outreach_cap_met",
                "As many people were contacted as may be for now. The job goes on when more may be.",
            ),
            "approval_pending" => (
                "approval_awaited",
                "An admin of the chat has to approve the request to join. The job looks again later.",
            ),
            _ => ("postponed", "The job goes on later."),
        };
        let seconds = (*until - self.clock.now()).num_seconds().max(0);
        self.log(LogLevel::Warn, LogLine::new(code, message).with("seconds", seconds))
            .await;
    }

    /// The checkpoint in the kind's own type. One that does not read is left to a worker of the version that wrote it.
    pub(crate) async fn read_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, Outcome> {
        let Some(kept) = self.store.checkpoint().await? else {
            return Ok(None);
        };
        serde_json::from_value(kept).map(Some).map_err(|_| {
            Outcome::Retry(JobError::transient(
                "checkpoint_unreadable",
                "The job's checkpoint was written by another version of Wireroom.",
            ))
        })
    }

    pub(crate) async fn write_checkpoint<T: Serialize>(&self, checkpoint: &T) -> Result<(), Outcome> {
        Ok(self.store.save_checkpoint(checkpoint_value(checkpoint)?).await?)
    }
}

/// A checkpoint as the store takes it.
pub(crate) fn checkpoint_value<T: Serialize>(checkpoint: &T) -> Result<serde_json::Value, Outcome> {
    serde_json::to_value(checkpoint).map_err(|_| {
        Outcome::Discard(JobError::permanent(
            "checkpoint_unwritable",
            "The job's checkpoint cannot be stored.",
        ))
    })
}
