//! How an attempt ends, and the error a finished job shows. A job's error carries its decision from where it is made.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The job succeeded; the value is its result.
    Done(serde_json::Value),
    /// Not now: run again at `until`. The attempt is refunded.
    Snooze { until: DateTime<Utc>, reason: WaitReason },
    /// Not on this session: at once on another one of the pool, or, when the job is bound to this one, at `until`. Telegram
    /// was not called; the attempt is refunded.
    Elsewhere { until: DateTime<Utc>, reason: WaitReason },
    /// Run again after a back-off while attempts are left, otherwise fail with this error.
    Retry(JobError),
    /// Fail now; trying again would not help.
    Discard(JobError),
    /// The function stopped because it was asked to, at a place where it can go on later.
    Cancelled,
}

/// Why a scheduled job waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitReason {
    /// A stable word: `flood`, `slow_mode`, `cap_reached`, `approval_pending`, `backoff`, `handed_over`, `session_limited`,
    /// `outreach_stopped`, `quiet_hours`, `campaign_cap`, `target_cap`, `trouble`, `batch_done`.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

impl Outcome {
    /// Success with `result`. A result that JSON cannot hold fails the job; the derived structs of the kinds never do.
    pub fn done(result: &impl Serialize) -> Self {
        match serde_json::to_value(result) {
            Ok(value) => Self::Done(value),
            Err(_) => Self::Discard(JobError::permanent(
                "result_unreadable",
                "The job did its work, but its result cannot be stored.",
            )),
        }
    }
}

impl WaitReason {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

/// What went wrong, for the person who reads the job. Never holds a secret, a phone number or a message's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code}: {message}")]
pub struct JobError {
    /// A stable code in snake case, such as `chat_not_found` or `outcome_unknown`.
    pub code: String,
    /// One or two sentences: what happened, and what to do about it.
    pub message: String,
    /// Whether the same job could succeed when it is tried again.
    pub retryable: bool,
}

impl JobError {
    /// An error that another attempt would meet again.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
        }
    }

    /// An error that may be gone the next time.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: true,
        }
    }
}
