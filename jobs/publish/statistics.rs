//! Statistics: what was published is looked at again, and how often it was seen, forwarded, answered and reacted to is kept.
//!
//! A round is a job of its own, made by whoever wants one or, for jobs with a plan, each time one is due. It sends nothing and
//! may be repeated: each message is looked at once per round, in batches of one chat, and what was found is kept batch by
//! batch. So a round that is killed or meets a flood goes on where it was.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    PublishArgs, PublishResult, PublishStatus,
    args::wrong,
    ports::{Counts, Found, Look, Published},
};
use crate::{
    ArgsError, JobContext, Outcome, WaitReason,
    ports::{Decision, TelegramError},
};

/// Most jobs of one round.
pub const MOST_JOBS: usize = 100;
/// Telegram gives so many messages at once.
pub const MOST_MESSAGES: usize = 100;
/// An attempt that takes longer makes room for others.
const LONGEST_ATTEMPT: TimeDelta = TimeDelta::seconds(150);

/// How often, and for how long, the messages of a job are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = StatisticsPlan { every_minutes: 60, for_days: 7 })]
pub struct StatisticsPlan {
    /// Minutes between two looks.
    #[serde(default = "hourly")]
    #[schemars(range(min = 15, max = 10080))]
    pub every_minutes: i32,
    /// Days from the first send to the last look.
    #[serde(default = "a_week")]
    #[schemars(range(min = 1, max = 90))]
    pub for_days: i32,
}

impl StatisticsPlan {
    pub(super) fn check(self) -> Result<(), ArgsError> {
        if !(15..=10_080).contains(&self.every_minutes) {
            return Err(wrong("args.statistics.every_minutes", "must be from 15 to 10080"));
        }
        if !(1..=90).contains(&self.for_days) {
            return Err(wrong("args.statistics.for_days", "must be from 1 to 90"));
        }
        Ok(())
    }
}

const fn hourly() -> i32 {
    60
}

const fn a_week() -> i32 {
    7
}

pub(super) async fn run(args: &PublishArgs, context: &JobContext) -> Outcome {
    match attempt(args, context).await {
        Ok(result) => Outcome::done(&result),
        Err(outcome) => {
            context.log_stop(&outcome).await;
            outcome
        }
    }
}

async fn attempt(args: &PublishArgs, context: &JobContext) -> Result<PublishResult, Outcome> {
    let begun_at = context.clock.now();
    let store = &context.store;
    store.begin_round(&args.of_jobs).await?;
    loop {
        context.stop_if_cancelled()?;
        let now = context.clock.now();
        if now - begun_at > LONGEST_ATTEMPT {
            let reason = "The round makes room for others, and goes on when it is its turn.";
            return Err(Outcome::Snooze {
                until: now,
                reason: WaitReason::new("batch_done", reason),
            });
        }
        let Some(batch) = store.next_published(&args.of_jobs, context.created_at).await? else {
            break;
        };
        let looks = look_at(context, &batch).await?;
        store.keep_looks(&args.of_jobs, batch.chat.id, &looks).await?;
    }
    let tally = store.looked_at(&args.of_jobs, context.created_at).await?;
    let counts = [
        ("looked_at", tally.there),
        ("deleted", tally.deleted),
        ("unreadable", tally.unreadable),
    ];
    let counts: BTreeMap<String, i64> = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    Ok(PublishResult {
        status: PublishStatus::Counted,
        chat: None,
        message_id: None,
        date: None,
        link: None,
        message_ids: Vec::new(),
        deleted: None,
        targets: Vec::new(),
        counts,
    })
}

/// What became of a batch. A chat that cannot be looked into is no reason to leave the others out.
async fn look_at(context: &JobContext, batch: &Published) -> Result<Vec<Look>, Outcome> {
    match context.telegram.message_counts(&batch.chat, &batch.message_ids).await {
        Ok(mut looks) => {
            let unanswered: Vec<i32> = batch
                .message_ids
                .iter()
                .copied()
                .filter(|id| looks.iter().all(|look| look.message_id != *id))
                .collect();
            looks.extend(unreadable(&unanswered, "not_answered"));
            Ok(looks)
        }
        Err(error) if is_the_chats(&error) => {
            let code = match Outcome::from(error) {
                Outcome::Discard(error) => error.code,
                outcome => return Err(outcome),
            };
            Ok(unreadable(&batch.message_ids, &code).collect())
        }
        Err(error) => Err(error.into()),
    }
}

fn is_the_chats(error: &TelegramError) -> bool {
    matches!(
        error.decision,
        Decision::Target | Decision::Person { .. } | Decision::Content | Decision::Bug
    )
}

fn unreadable(message_ids: &[i32], code: &str) -> impl Iterator<Item = Look> {
    message_ids.iter().map(move |id| Look {
        message_id: *id,
        found: Found::Unreadable(code.to_owned()),
    })
}

impl Counts {
    /// All reactions together.
    pub fn reactions(&self) -> i64 {
        self.by_reaction.values().map(|count| i64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests;
