//! Waiting for an admin's yes: the job is put off from look to look, and keeps nothing busy meanwhile.
//!
//! Telegram tells the account when it is let in, and the worker that reads its updates wakes the job then; the looks are the
//! net below that. It tells nothing when an admin declines: only a ban, or a link that was taken back, shows.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::{JobContext, Outcome, WaitReason};

/// How long an approval is waited for, from its request on, when neither the args nor a deadline say.
const PATIENCE: TimeDelta = TimeDelta::days(7);
/// The pause before the first look at a pending request; each one after it is twice as long.
const FIRST_LOOK: TimeDelta = TimeDelta::minutes(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(30);
/// How long before the deadline the last look happens.
const LAST_LOOK: TimeDelta = TimeDelta::seconds(30);
/// Each request of a list that waits makes the pauses of all that much longer: a look is a request to Telegram.
const PER_REQUEST: TimeDelta = TimeDelta::seconds(5);

/// A request that waits for an admin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub requested_at: DateTime<Utc>,
    /// How often the job has been put off for it.
    pub looks: u32,
}

impl Request {
    pub fn sent(context: &JobContext) -> Self {
        Self {
            requested_at: context.clock.now(),
            looks: 0,
        }
    }

    /// Until when it is waited for: as long as the args say, and not beyond the job's deadline.
    pub fn expires(self, context: &JobContext, timeout: Option<u32>) -> DateTime<Utc> {
        let patience = timeout.map(|seconds| self.requested_at + TimeDelta::seconds(i64::from(seconds)));
        let own = patience.unwrap_or(self.requested_at + PATIENCE);
        match (patience, context.deadline) {
            (Some(_), Some(deadline)) => own.min(deadline),
            (None, Some(deadline)) => deadline,
            (_, None) => own,
        }
    }

    /// When to look again; `None`: there is no time for another look. `others`: how many requests of the job wait besides.
    pub fn next_look(self, now: DateTime<Utc>, expires: DateTime<Utc>, others: usize) -> Option<DateTime<Utc>> {
        // A deadline that was close when the request was sent leaves room for one look all the same.
        let margin = LAST_LOOK.min((expires - self.requested_at) / 10);
        let last = expires - margin;
        let pause = LONGEST_PAUSE.min(FIRST_LOOK * 2_i32.pow(self.looks.min(5)));
        let spread = PER_REQUEST * i32::try_from(others).unwrap_or(i32::MAX / 8);
        (now < last).then(|| last.min(now + pause.max(spread)))
    }
}

pub(super) fn pause(until: DateTime<Utc>, expires: DateTime<Utc>) -> Outcome {
    Outcome::Snooze {
        until,
        reason: WaitReason::new(
            "approval_pending",
            format!(
                "An admin of the chat has to approve the request to join. The job gives up at {}.",
                expires.format("%Y-%m-%d %H:%M:%S UTC")
            ),
        ),
    }
}

/// Nobody said yes in time.
pub(super) fn expired() -> Refusal {
    Refusal::new(
        "approval_expired",
        "No admin of the chat approved the request to join in time. Telegram does not tell when one declines; and it may \
         still be approved: a new join job would then find the session a member.",
    )
}

/// While the request waited, the chat closed itself to the session.
pub(super) fn refused(by: Refusal) -> Refusal {
    Refusal {
        code: "approval_refused".to_owned(),
        message: format!(
            "While the request to join waited, the chat closed itself to this session: it was banned, or the link was taken \
             back or ran out; Telegram shows these alike. Before that: {}",
            by.message
        ),
        telegram_error: by.telegram_error,
    }
}

/// Whether what a look met says that the request will not be granted.
pub(super) fn is_refusal(refusal: &Refusal) -> bool {
    matches!(
        refusal.code.as_str(),
        "invite_link_expired" | "invite_link_invalid" | "chat_inaccessible" | "banned_from_chat"
    )
}
