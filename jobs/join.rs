//! `join`: the session becomes a member of chats, leaves them, or looks at what joining would come to. What is so already
//! is a success; a chat that asks for approval is looked at again until somebody approves, or nobody did in time.

mod approval;
mod link;
mod list;
mod one;
pub mod port;
mod refusal;
mod report;
mod single;

use std::fmt;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::link::Target;
pub use self::report::{
    Access, Discussion, JoinResult, JoinStatus, JoinedChat, JoinedList, JoinedOne, Standpoint, TargetRow, Topic,
};
use crate::{
    ArgsError, Job, JobContext, JobError, Outcome,
    target::{self, ChatRef},
};

/// Most chats of one job.
pub const MAX_CHATS: usize = 1_000;
/// The longest that an approval is waited for, in seconds.
const LONGEST_WAIT: u32 = 30 * 24 * 60 * 60;

/// Joins groups and channels with the job's session, leaves them, or checks what joining would come to.
///
/// Of one chat (`chat`), the result says all about it; what is in the way fails the job. Of a list (`chats`), each target has
/// an outcome of its own, and the job succeeds when all have one; it is put off, and goes on, while the session's caps are
/// spent. `docs/JOIN.md` lists every outcome.
///
/// When a chat asks for an admin's approval, the request is sent once and the job waits, looking again after 1 to 30 minutes
/// and as soon as Telegram tells, until `approval_timeout` or its deadline is over (7 days after it was made when it has
/// neither); then it fails with `approval_expired`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = JoinArgs { chat: Some("@reading_club".into()), ..JoinArgs::default() })]
#[schemars(example = JoinArgs { chat: Some("https://t.me/+AbCdEfGhIjKlMnOp".into()), ..JoinArgs::default() })]
#[schemars(example = JoinArgs {
    chats: vec!["@reading_club".into(), "https://t.me/+AbCdEfGhIjKlMnOp".into()], action: JoinAction::Check,
    ..JoinArgs::default()
})]
pub struct JoinArgs {
    /// The chat: `@name`, `t.me/name`, a link to a topic or message in it (`t.me/name/12/345`, `t.me/c/1234567890/345`), an
    /// invite link (`t.me/+hash`, `t.me/joinchat/hash`), or the same as `tg://` link. To leave or check: its id, too. Either
    /// this or `chats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub chat: Option<String>,
    /// Up to 1,000 chats, each as in `chat`. One that is named twice is dealt with once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub chats: Vec<String>,
    #[serde(default, skip_serializing_if = "JoinAction::is_join")]
    pub action: JoinAction,
    /// Of a channel, join its discussion group too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub discussion: bool,
    /// Seconds that an admin's approval is waited for, from the request on; the job's deadline ends it earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub approval_timeout: Option<u32>,
}

/// What is done about a chat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinAction {
    #[default]
    Join,
    Leave,
    /// Says what `join` would come to, and joins nothing: no cap is used.
    Check,
}

impl JoinAction {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    fn is_join(&self) -> bool {
        *self == Self::Join
    }
}

/// Shows an invite link without its code, and of a list its length.
impl fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinArgs")
            .field("chat", &self.chat.as_deref().map(target::shape))
            .field("chats", &self.chats.len())
            .field("action", &self.action)
            .field("discussion", &self.discussion)
            .field("approval_timeout", &self.approval_timeout)
            .finish()
    }
}

#[async_trait]
impl Job for JoinArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        match self.approval_timeout {
            Some(_) if self.action != JoinAction::Join => {
                return Err(wrong(
                    "args.approval_timeout",
                    "is of the action join only; leave it out",
                ));
            }
            Some(seconds) if !(1..=LONGEST_WAIT).contains(&seconds) => {
                let message = format!("is {seconds}; give 1 to {LONGEST_WAIT} seconds");
                return Err(wrong("args.approval_timeout", message));
            }
            _ => {}
        }
        if self.discussion && self.action != JoinAction::Join {
            return Err(wrong("args.discussion", "is of the action join only; leave it out"));
        }
        self.targets().map(|_| ())
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

/// The targets of a job, read.
enum Targets {
    One(Target),
    List(Vec<Target>),
}

fn wrong(field: &str, message: impl Into<String>) -> ArgsError {
    ArgsError {
        field: field.to_owned(),
        message: message.into(),
    }
}

impl JoinArgs {
    async fn attempt(&self, context: &JobContext) -> Result<JoinResult, Outcome> {
        // The door has checked them; rows of an older version may still be wrong.
        let targets = self
            .targets()
            .map_err(|error| Outcome::Discard(JobError::permanent("args_invalid", error.to_string())))?;
        match targets {
            Targets::One(target) => {
                let report = Box::pin(single::run(self, context, &target)).await?;
                Ok(JoinResult::One(Box::new(report)))
            }
            Targets::List(targets) => Ok(JoinResult::List(Box::pin(list::run(self, context, &targets)).await?)),
        }
    }

    fn targets(&self) -> Result<Targets, ArgsError> {
        match (&self.chat, self.chats.as_slice()) {
            (Some(_), [_, ..]) => Err(wrong("args.chats", "goes without args.chat; give one of the two")),
            (None, []) => Err(wrong(
                "args.chat",
                "is missing; give a chat, or a list of them in args.chats",
            )),
            (Some(chat), []) => self.target(chat, "args.chat").map(Targets::One),
            (None, chats) if chats.len() > MAX_CHATS => {
                let message = format!("names {} chats; a job takes {MAX_CHATS}", chats.len());
                Err(wrong("args.chats", message))
            }
            (None, chats) => {
                let chats = chats.iter().enumerate();
                let targets = chats.map(|(index, chat)| self.target(chat, &format!("args.chats[{index}]")));
                targets.collect::<Result<_, _>>().map(Targets::List)
            }
        }
    }

    fn target(&self, text: &str, field: &str) -> Result<Target, ArgsError> {
        let target = Target::parse(text, field)?;
        let is_bare_id = text.trim().starts_with('-');
        if self.action == JoinAction::Join && is_bare_id && matches!(target.chat, ChatRef::Id(_)) {
            return Err(wrong(
                field,
                "is an id, which shows no way into a chat; give @name or an invite link",
            ));
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests;
