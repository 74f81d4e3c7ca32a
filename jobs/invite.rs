//! `invite`: people of a campaign's list, one after the other, each of them once.
//!
//! The ledger has a row per campaign and person before anything is sent, and says durably that a call may be made before it
//! is. After an attempt that nobody saw end, the chat or the dialogue is looked at before anything is repeated; where that
//! cannot be, the person ends `outcome_unknown`, and nobody asks them again. Whom to contact, and whether now, is decided
//! where the rows are: suppressions, the switch, caps and quiet hours bind every job alike, whatever its args say.

mod person;
mod verdict;

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::person::Invitation;
use crate::{
    ArgsError, Job, JobContext, JobError, LogLevel, LogLine, Outcome, WaitReason,
    outreach::{Campaign, Over, PersonRef, Turn},
    ports::{Chat, ChatType, Progress},
    target,
};

/// Most people a job names itself.
pub const MAX_PEOPLE: usize = 1000;
/// An attempt that has come this far makes room for others: everything is in the ledger.
const PER_ATTEMPT: i64 = 100;
/// The pause after passing trouble that came after progress: such an attempt is no failure of the job.
const AFTER_TROUBLE: TimeDelta = TimeDelta::seconds(30);

/// Invites the people of a campaign, one after the other, as its caps and quiet hours allow.
///
/// A campaign makes this job when it is started, and one job works through its whole list. Made by hand, it may be bound to
/// some people of the list. It waits, and says why, while nobody may be contacted; it ends when nobody is left, and when the
/// campaign is paused or stopped.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = InviteArgs {
    campaign: Uuid::from_u128(0x0198_c0de_7000_7000_8000_0000_0000_0001), people: Vec::new(), limit: None,
})]
#[schemars(example = InviteArgs {
    campaign: Uuid::from_u128(0x0198_c0de_7000_7000_8000_0000_0000_0001),
    people: vec!["@harbour_friend".into(), "7100000005".into()],
    limit: Some(2),
})]
pub struct InviteArgs {
    /// The campaign's id. It must be running.
    pub campaign: Uuid,
    /// Only these people of the campaign's list, each by `@name` or user id as the list names them; empty: everybody on it.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 33)))]
    pub people: Vec<String>,
    /// The job ends when it has dealt with so many; null: when nobody is left.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: Option<u32>,
}

/// What a finished `invite` reports. Who is behind the figures: `GET /v1/campaigns/{id}/people`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InviteResult {
    pub campaign: Uuid,
    pub ended: InviteEnd,
    /// Why the campaign is paused or stopped: a stable word.
    pub code: Option<String>,
    /// How many people this job dealt with, by outcome.
    pub outcomes: BTreeMap<String, i64>,
}

/// Why a job of a campaign ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InviteEnd {
    /// Nobody is left.
    Exhausted,
    /// `limit` is reached.
    Limit,
    /// The campaign was paused, or stopped by itself: `code` says why.
    Halted,
}

/// Leaves the people out.
impl fmt::Debug for InviteArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InviteArgs")
            .field("campaign", &self.campaign)
            .field("people", &self.people.len())
            .field("limit", &self.limit)
            .finish()
    }
}

#[async_trait]
impl Job for InviteArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        if self.people.len() > MAX_PEOPLE {
            return Err(wrong("args.people", &format!("names more than {MAX_PEOPLE} people")));
        }
        if self.limit.is_some_and(|limit| !(1..=1_000_000).contains(&limit)) {
            return Err(wrong("args.limit", "must be from 1 to 1000000"));
        }
        self.chosen().map(|_| ())
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        let mut decided = 0;
        match self.attempt(context, &mut decided).await {
            Ok(result) => Outcome::done(&result),
            Err(outcome) => {
                let outcome = forgive(context, outcome, decided);
                context.log_stop(&outcome).await;
                outcome
            }
        }
    }
}

/// Trouble after progress costs no attempt: a campaign runs for weeks, and meets more of it than a job has attempts.
fn forgive(context: &JobContext, outcome: Outcome, decided: i64) -> Outcome {
    match outcome {
        Outcome::Retry(error) if decided > 0 && error.code != "fenced" => Outcome::Snooze {
            until: context.clock.now() + AFTER_TROUBLE,
            reason: WaitReason::new("trouble", error.message),
        },
        outcome => outcome,
    }
}

fn wrong(field: &str, message: &str) -> ArgsError {
    ArgsError {
        field: field.into(),
        message: message.into(),
    }
}

/// A person as a list names them: `@name` or a user id.
pub fn parse_person(text: &str) -> Option<PersonRef> {
    let text = text.trim();
    if let Some(name) = text.strip_prefix('@') {
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        let clean = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        return (first && clean && (4..=32).contains(&name.len()))
            .then(|| PersonRef::Username(name.to_ascii_lowercase()));
    }
    // A number with a plus sign is a phone's.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let id: i64 = text.parse().ok().filter(|_| digits)?;
    (id > 0 && id < 1 << 52).then_some(PersonRef::Id(id))
}

impl InviteArgs {
    fn chosen(&self) -> Result<Vec<PersonRef>, ArgsError> {
        let people = self.people.iter().enumerate();
        people
            .map(|(index, text)| {
                let field = format!("args.people[{index}]");
                parse_person(text).ok_or_else(|| wrong(&field, "must be @name or a Telegram user id"))
            })
            .collect()
    }

    async fn attempt(&self, context: &JobContext, decided: &mut i64) -> Result<InviteResult, Outcome> {
        let chosen = self
            .chosen()
            .map_err(|error| Outcome::Discard(JobError::permanent("args_invalid", error.to_string())))?;
        let outreach = &context.outreach;
        let Some(campaign) = outreach.campaign(self.campaign).await? else {
            return Err(Outcome::Discard(JobError::permanent(
                "campaign_not_found",
                "There is no campaign of the id in args.campaign.",
            )));
        };
        let mut chat = None;
        let mut tally = outreach.tally(campaign.id).await?;
        loop {
            context.stop_if_cancelled()?;
            if self.limit.is_some_and(|limit| tally.done() >= i64::from(limit)) {
                return Ok(self.report(InviteEnd::Limit, None, tally.outcomes));
            }
            if *decided >= PER_ATTEMPT {
                return Err(make_room(context));
            }
            let listed = match outreach.turn(campaign.id, &chosen).await? {
                Turn::Person(listed) => listed,
                Turn::Wait { until, reason } => return Err(Outcome::Snooze { until, reason }),
                Turn::Over(Over::Exhausted) => return Ok(self.report(InviteEnd::Exhausted, None, tally.outcomes)),
                Turn::Over(Over::Halted { code }) => {
                    return Ok(self.report(InviteEnd::Halted, Some(code), tally.outcomes));
                }
            };
            let chat = match &chat {
                Some(chat) => chat,
                None => chat.insert(find_chat(context, &campaign).await?),
            };
            let invitation = Invitation::new(context, &campaign, chat, &listed);
            if let Some(outcome) = Box::pin(invitation.attempt()).await? {
                *tally.outcomes.entry(outcome.to_owned()).or_default() += 1;
                *decided += 1;
            }
            self.show(context, &tally).await?;
        }
    }

    async fn show(&self, context: &JobContext, tally: &Tally) -> Result<(), Outcome> {
        let of = tally.waiting + tally.begun;
        let progress = Progress {
            done: tally.done(),
            of: Some(self.limit.map_or(of, |limit| of.min(i64::from(limit)))),
            // Caps and quiet hours say how fast it goes, not this machine.
            per_second: 0.0,
        };
        Ok(context.store.progress(progress).await?)
    }

    fn report(&self, ended: InviteEnd, code: Option<String>, outcomes: BTreeMap<String, i64>) -> InviteResult {
        InviteResult {
            campaign: self.campaign,
            ended,
            code,
            outcomes,
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// People this job has dealt with, by outcome.
    pub outcomes: BTreeMap<String, i64>,
    /// How many it had dealt with when this was read.
    pub begun: i64,
    /// How many of the list waited then.
    pub waiting: i64,
}

impl Tally {
    fn done(&self) -> i64 {
        self.outcomes.values().sum()
    }
}

fn make_room(context: &JobContext) -> Outcome {
    Outcome::Snooze {
        until: context.clock.now(),
        reason: WaitReason::new(
            "batch_done",
            "The job makes room for others, and goes on when it is its turn.",
        ),
    }
}

/// The campaign's chat, the same over all jobs: its name may have moved to another one meanwhile.
async fn find_chat(context: &JobContext, campaign: &Campaign) -> Result<Chat, Outcome> {
    let reference = target::parse_for_run(&campaign.chat)?;
    let found = match campaign.chat_id {
        Some(id) => target::resolve_again(context, &reference, id).await,
        None => target::resolve(context, &reference).await,
    };
    let chat = match found {
        Ok(chat) => chat,
        Err(outcome) => return Err(halt_for(context, campaign, outcome).await),
    };
    if let Err(outcome) = target::refuse_person(&chat) {
        return Err(halt_for(context, campaign, outcome).await);
    }
    debug_assert!(chat.chat_type != ChatType::Private);
    context.store.save_chat(&chat).await?;
    if !context.outreach.settle_chat(campaign.id, chat.id).await? {
        let other = JobError::permanent(
            "chat_changed",
            "The name in the campaign's chat leads to another chat than before. Make a new campaign for that one.",
        );
        return Err(halt_for(context, campaign, Outcome::Discard(other)).await);
    }
    context
        .log(
            LogLevel::Info,
            LogLine::new("chat_found", "The campaign's chat was found."),
        )
        .await;
    Ok(chat)
}

/// What fails the job for good keeps its campaign from going on, until a person has looked at it.
async fn halt_for(context: &JobContext, campaign: &Campaign, outcome: Outcome) -> Outcome {
    let Outcome::Discard(error) = &outcome else {
        return outcome;
    };
    match context.outreach.halt(campaign.id, &error.code, &error.message).await {
        Ok(()) => outcome,
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
