//! `join`: the session becomes a member of a chat. Being one already is a success; a chat that asks for approval is
//! looked at again until the job's deadline.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ArgsError, Job, JobContext, JobError, LogLevel, LogLine, Outcome, WaitReason,
    chat::ChatFacts,
    ports::{Chat, Decision, Invite, Joined, TelegramError},
    target::{self, ChatRef},
};

/// How long an approval is waited for when the job has no deadline.
const PATIENCE: TimeDelta = TimeDelta::days(7);
/// The pause before the first look at a pending request; each one after it is twice as long.
const FIRST_LOOK: TimeDelta = TimeDelta::minutes(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(30);
/// How long before the deadline the last look happens.
const LAST_LOOK: TimeDelta = TimeDelta::seconds(30);
/// Said before Telegram is asked.
const ASKING: LogLine = LogLine::new("joining", "The session is not in the chat yet, and asks to join it.");

/// Joins a group or channel with the job's session.
///
/// Succeeds as `already_member` when the session is in the chat. When the chat asks for an admin's approval, the request
/// is sent once and the job waits, looking again after 1 to 30 minutes, until its deadline (7 days after it was made when
/// it has none); then it fails with `approval_expired`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = JoinArgs { chat: "@reading_club".into() })]
#[schemars(example = JoinArgs { chat: "https://t.me/+AbCdEfGhIjKlMnOp".into() })]
pub struct JoinArgs {
    /// The chat: `@name`, `t.me/name`, an invite link (`t.me/+hash`, `t.me/joinchat/hash`), or the same as `tg://` link.
    #[schemars(length(min = 1, max = 256))]
    pub chat: String,
}

/// What a finished `join` reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinResult {
    pub status: JoinStatus,
    pub chat: ChatFacts,
    /// When the approval was asked for; null when none was needed.
    pub requested_at: Option<DateTime<Utc>>,
}

/// How the session came to be a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinStatus {
    /// This job made it a member.
    Joined,
    /// It was one before.
    AlreadyMember,
}

/// A request that waits for an admin.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Request {
    requested_at: DateTime<Utc>,
    /// How often the job has been put off for it.
    looks: u32,
}

/// What asking to join came to.
enum Asked {
    Member(JoinStatus, Chat),
    Waiting,
}

/// Shows an invite link without its code.
impl fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinArgs")
            .field("chat", &target::shape(&self.chat))
            .finish()
    }
}

#[async_trait]
impl Job for JoinArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        match ChatRef::of_args(&self.chat)? {
            ChatRef::Username(_) | ChatRef::Invite(_) => Ok(()),
            ChatRef::Id(_) => Err(ArgsError {
                field: "args.chat".into(),
                message: "is an id, which shows no way into a chat; give @name or an invite link".into(),
            }),
        }
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        match self.attempt(context).await {
            Ok(result) => Outcome::done(&result),
            Err(outcome) => {
                context.log_stop(&outcome).await;
                outcome
            }
        }
    }
}

impl JoinArgs {
    async fn attempt(&self, context: &JobContext) -> Result<JoinResult, Outcome> {
        let reference = target::parse_for_run(&self.chat)?;
        let request: Option<Request> = context.read_checkpoint().await?;
        context.stop_if_cancelled()?;
        let asked = match &reference {
            ChatRef::Invite(hash) => by_invite(context, hash, request.is_some()).await?,
            ChatRef::Username(_) | ChatRef::Id(_) => by_name(context, &reference, request.is_some()).await?,
        };
        match asked {
            Asked::Member(status, chat) => finish(context, status, chat, request).await,
            Asked::Waiting => Err(wait(context, request).await),
        }
    }
}

async fn by_name(context: &JobContext, reference: &ChatRef, requested: bool) -> Result<Asked, Outcome> {
    let chat = target::resolve(context, reference).await?;
    target::refuse_person(&chat)?;
    if chat.member {
        return Ok(Asked::Member(JoinStatus::AlreadyMember, chat));
    }
    if requested {
        return Ok(Asked::Waiting);
    }
    context.stop_if_cancelled()?;
    context.log(LogLevel::Info, ASKING).await;
    match answer(context.telegram.join_chat(&chat).await)? {
        Joined::Joined(chat) => Ok(Asked::Member(JoinStatus::Joined, chat)),
        Joined::AlreadyMember => Ok(Asked::Member(JoinStatus::AlreadyMember, chat)),
        Joined::ApprovalPending => Ok(Asked::Waiting),
    }
}

async fn by_invite(context: &JobContext, hash: &str, requested: bool) -> Result<Asked, Outcome> {
    if let Invite::Member(chat) = context.telegram.check_invite(hash).await? {
        return Ok(Asked::Member(JoinStatus::AlreadyMember, chat));
    }
    if requested {
        return Ok(Asked::Waiting);
    }
    context.stop_if_cancelled()?;
    context.log(LogLevel::Info, ASKING).await;
    match answer(context.telegram.join_by_invite(hash).await)? {
        Joined::Joined(chat) => Ok(Asked::Member(JoinStatus::Joined, chat)),
        Joined::ApprovalPending => Ok(Asked::Waiting),
        // The answer names no chat; the link does, now that Telegram says that the session is in.
        Joined::AlreadyMember => match context.telegram.check_invite(hash).await? {
            Invite::Member(chat) | Invite::Peek(chat) => Ok(Asked::Member(JoinStatus::AlreadyMember, chat)),
            Invite::Preview { .. } => Err(Outcome::Retry(JobError::transient(
                "chat_unknown",
                "Telegram says that the session is a member already, and does not say of which chat.",
            ))),
        },
    }
}

/// An implementation may leave "already there" and "request sent" as the errors they are in Telegram.
fn answer(joined: Result<Joined, TelegramError>) -> Result<Joined, Outcome> {
    joined.or_else(|error| match error.decision {
        Decision::Done => Ok(Joined::AlreadyMember),
        Decision::Pending => Ok(Joined::ApprovalPending),
        _ => Err(error.into()),
    })
}

async fn finish(
    context: &JobContext,
    status: JoinStatus,
    mut chat: Chat,
    request: Option<Request>,
) -> Result<JoinResult, Outcome> {
    chat.member = true;
    if chat.member_count.is_none() {
        // The session is in: a count that cannot be had now is no reason to run the job again.
        chat.member_count = match context.telegram.chat_details(&chat).await {
            Ok(details) => details.chat.member_count,
            Err(_) => None,
        };
    }
    context.store.save_chat(&chat).await?;
    context
        .log(
            LogLevel::Info,
            LogLine::new("member", "The session is a member of the chat."),
        )
        .await;
    Ok(JoinResult {
        // Found to be a member after this job's request: the request made it one.
        status: if request.is_some() { JoinStatus::Joined } else { status },
        chat: ChatFacts::from(&chat),
        requested_at: request.map(|request| request.requested_at),
    })
}

/// Puts the job off to the next look at its request, or ends it when there is no time for another.
async fn wait(context: &JobContext, request: Option<Request>) -> Outcome {
    let now = context.clock.now();
    let request = request.unwrap_or(Request {
        requested_at: now,
        looks: 0,
    });
    let expires = context.deadline.unwrap_or(context.created_at + PATIENCE);
    let Some(until) = next_look(request, now, expires) else {
        return Outcome::Discard(JobError::permanent(
            "approval_expired",
            "No admin of the chat approved the request to join in time. It may still be approved; a new join job would \
             then find the session a member.",
        ));
    };
    let next = Request {
        looks: request.looks.saturating_add(1),
        ..request
    };
    if let Err(outcome) = context.write_checkpoint(&next).await {
        return outcome;
    }
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

fn next_look(request: Request, now: DateTime<Utc>, expires: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // A deadline that was close when the request was sent leaves room for one look all the same.
    let margin = LAST_LOOK.min((expires - request.requested_at) / 10);
    let last = expires - margin;
    let pause = LONGEST_PAUSE.min(FIRST_LOOK * 2_i32.pow(request.looks.min(5)));
    (now < last).then(|| last.min(now + pause))
}

#[cfg(test)]
mod tests;
