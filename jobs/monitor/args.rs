//! What a client says of a watch.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::MessageFilter;
use crate::{
    ArgsError,
    target::{self, ChatRef, ChatRefError},
};

/// `args.chat` of a watch over all private chats of a session.
pub const PRIVATE: &str = "private";
const MAX_BACKUPS: usize = 20;
const MAX_SESSION_BYTES: usize = 100;
const MAX_RETENTION_DAYS: i32 = 365;
const MAX_DELAY_SECONDS: u32 = 3_600;
const MAX_TRIES: i32 = 10;

/// Watches a chat, or all private chats of the session, until it is stopped.
///
/// The job runs for as long as the chat is watched. What happens is told as events of the types in `events`, each message
/// once, in the chat's order, however many sessions are in it and whatever breaks meanwhile; after a break the hole is read
/// from the chat's history. A chat has one watch: a second job for it succeeds at once and names the first. The session has
/// to be a member, and no bot. When it cannot see the chat any more, the next one of `backups` goes on.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = MonitorArgs::of("@reading_club"))]
#[schemars(example = MonitorArgs {
    backups: vec!["second".into()],
    events: vec![WatchEvent::MessageNew, WatchEvent::MessageEdited],
    filter: MessageFilter { keywords: vec!["book".into()], ..MessageFilter::default() },
    ..MonitorArgs::of("-1001234567890")
})]
#[schemars(example = MonitorArgs::of(PRIVATE))]
pub struct MonitorArgs {
    /// The chat: `@name`, `t.me/name`, an invite link that the session has joined by, or an id such as `-1001234567890`
    /// of a chat that the session knows; `private` for all chats with people that the session's account has.
    #[schemars(length(min = 1, max = 256))]
    pub chat: String,
    /// The sessions that go on, in this order, when the job's own cannot see the chat any more: ids or labels, at most 20.
    #[serde(default)]
    #[schemars(length(max = 20))]
    pub backups: Vec<String>,
    /// What is told.
    #[serde(default = "all_events")]
    #[schemars(length(min = 1))]
    pub events: Vec<WatchEvent>,
    /// Which messages are told; does not apply to members and the chat itself.
    #[serde(default)]
    pub filter: MessageFilter,
    /// Days until a message's row is deleted.
    #[serde(default = "default_retention")]
    #[schemars(range(min = 1, max = 365))]
    pub retention_days: i32,
    /// What happens when a session cannot see the chat any more.
    #[serde(default)]
    pub failover: FailoverArgs,
}

/// How patient a watch is with a session that cannot see its chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverArgs {
    /// Seconds before the next try, whichever session makes it; 0 to 3,600.
    #[schemars(range(max = 3600))]
    pub delay_seconds: u32,
    /// How often in a row a session is tried before the next one is; 1 to 10.
    #[schemars(range(min = 1, max = 10))]
    pub tries: i32,
}

impl Default for FailoverArgs {
    fn default() -> Self {
        Self {
            delay_seconds: 5,
            tries: 1,
        }
    }
}

/// What can be told of a watched chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WatchEvent {
    #[serde(rename = "message.new")]
    MessageNew,
    #[serde(rename = "message.edited")]
    MessageEdited,
    #[serde(rename = "message.deleted")]
    MessageDeleted,
    #[serde(rename = "message.reactions")]
    MessageReactions,
    #[serde(rename = "member.joined")]
    MemberJoined,
    #[serde(rename = "member.left")]
    MemberLeft,
    /// Its title, its picture, a pinned message.
    #[serde(rename = "chat.changed")]
    ChatChanged,
}

impl WatchEvent {
    pub const ALL: [Self; 7] = [
        Self::MessageNew,
        Self::MessageEdited,
        Self::MessageDeleted,
        Self::MessageReactions,
        Self::MemberJoined,
        Self::MemberLeft,
        Self::ChatChanged,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessageNew => "message.new",
            Self::MessageEdited => "message.edited",
            Self::MessageDeleted => "message.deleted",
            Self::MessageReactions => "message.reactions",
            Self::MemberJoined => "member.joined",
            Self::MemberLeft => "member.left",
            Self::ChatChanged => "chat.changed",
        }
    }
}

fn all_events() -> Vec<WatchEvent> {
    WatchEvent::ALL.to_vec()
}

const fn default_retention() -> i32 {
    30
}

/// Shows an invite link without its code, and a filter without what it looks for.
impl fmt::Debug for MonitorArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorArgs")
            .field("chat", &target::shape(&self.chat))
            .field("backups", &self.backups.len())
            .field("events", &self.events)
            .field("filter", &self.filter)
            .field("retention_days", &self.retention_days)
            .field("failover", &self.failover)
            .finish()
    }
}

impl MonitorArgs {
    /// Everything else as by default.
    pub fn of(chat: impl Into<String>) -> Self {
        Self {
            chat: chat.into(),
            backups: Vec::new(),
            events: all_events(),
            filter: MessageFilter::default(),
            retention_days: default_retention(),
            failover: FailoverArgs::default(),
        }
    }

    /// All private chats of the session.
    pub fn is_private(&self) -> bool {
        self.chat.trim() == PRIVATE
    }

    pub(super) fn check(&self) -> Result<(), ArgsError> {
        if !self.is_private() {
            ChatRef::parse(&self.chat).map_err(|error| wrong("chat", said_of(error)))?;
        }
        self.check_backups()?;
        if self.events.is_empty() {
            return Err(wrong(
                "events",
                "is empty; name what is to be told, or leave it out for all".into(),
            ));
        }
        self.filter.compile()?;
        if !(1..=MAX_RETENTION_DAYS).contains(&self.retention_days) {
            let message = format!("is {}; give 1 to {MAX_RETENTION_DAYS} days", self.retention_days);
            return Err(wrong("retention_days", message));
        }
        let FailoverArgs { delay_seconds, tries } = self.failover;
        if delay_seconds > MAX_DELAY_SECONDS {
            let message = format!("is {delay_seconds}; give 0 to {MAX_DELAY_SECONDS} seconds");
            return Err(wrong("failover.delay_seconds", message));
        }
        if !(1..=MAX_TRIES).contains(&tries) {
            return Err(wrong("failover.tries", format!("is {tries}; give 1 to {MAX_TRIES}")));
        }
        Ok(())
    }

    fn check_backups(&self) -> Result<(), ArgsError> {
        if self.is_private() && !self.backups.is_empty() {
            let message = "is not for private chats, which only their own session sees; leave it out";
            return Err(wrong("backups", message.into()));
        }
        if self.backups.len() > MAX_BACKUPS {
            let message = format!("has {} entries; at most {MAX_BACKUPS} are taken", self.backups.len());
            return Err(wrong("backups", message));
        }
        for (index, backup) in self.backups.iter().enumerate() {
            if backup.trim().is_empty() || backup.len() > MAX_SESSION_BYTES {
                let message =
                    format!("is empty or longer than {MAX_SESSION_BYTES} bytes; give a session's id or label");
                return Err(wrong(&format!("backups[{index}]"), message));
            }
            if self.backups[..index].contains(backup) {
                return Err(wrong(
                    &format!("backups[{index}]"),
                    "is there twice; name each session once".into(),
                ));
            }
        }
        Ok(())
    }
}

/// What is wrong with `args.chat`, for somebody who may have meant people.
fn said_of(error: ChatRefError) -> String {
    match error {
        ChatRefError::Empty | ChatRefError::BareWord | ChatRefError::PersonId => {
            format!("{error}; `{PRIVATE}` is for the chats with people")
        }
        error => error.to_string(),
    }
}

fn wrong(field: &str, message: String) -> ArgsError {
    ArgsError {
        field: format!("args.{field}"),
        message,
    }
}
