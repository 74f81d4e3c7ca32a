//! What publishing needs of the outside world beyond what all kinds do.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    post::{Attachment, Uploaded},
    statistics::StatisticsPlan,
};
use crate::ports::{Chat, Draft, Effect, SentMessage, StoreError, TelegramError};

/// What the session may do in a chat, before anything is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub may_write: bool,
    /// Slow mode lets it write again then.
    pub not_before: Option<DateTime<Utc>>,
}

/// How a change of a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Changed,
    /// It was so already.
    Unchanged,
}

/// A forward about to be made: messages of another chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub from: Chat,
    pub message_ids: Vec<i32>,
    pub topic: Option<i32>,
    pub silent: bool,
    pub protect: bool,
    pub hide_sender: bool,
}

/// Telegram, as far as publishing alone uses it.
#[async_trait]
pub trait Posting: Send + Sync {
    /// Whether this session may write there now, without trying.
    async fn access(&self, chat: &Chat) -> Result<Access, TelegramError>;
    /// What several chats are, of those that this session has met: at most 100, by one call, which also tells what the session
    /// may do there. Those that cannot be told that way are left out.
    async fn chats_by_id(&self, ids: &[i64]) -> Result<Vec<Chat>, TelegramError>;
    /// Puts a file into Telegram, as something that messages to `chat` can have. Sends nothing; may be repeated.
    async fn upload(&self, chat: &Chat, item: &Attachment) -> Result<Uploaded, TelegramError>;
    /// Replaces a message's text and buttons.
    async fn edit_message(&self, chat: &Chat, message_id: i32, draft: &Draft) -> Result<Changed, TelegramError>;
    /// Takes messages out for everybody; returns how many were there.
    async fn delete_messages(&self, chat: &Chat, message_ids: &[i32]) -> Result<usize, TelegramError>;
    /// Pins a message, or takes its pin away.
    async fn pin_message(
        &self,
        chat: &Chat,
        message_id: i32,
        pinned: bool,
        silent: bool,
    ) -> Result<Changed, TelegramError>;
    /// Forwards messages, under `random_id` and the numbers that follow it.
    async fn forward(&self, chat: &Chat, random_id: i64, forward: &Forward) -> Result<SentMessage, TelegramError>;
    /// This session's own messages in `chat` since then that are such a forward, oldest first. An error means that it
    /// could not look.
    async fn own_forwards_like(
        &self,
        chat: &Chat,
        forward: &Forward,
        since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError>;
    /// How often messages of `chat` were seen and so on; at most 100 of them.
    async fn message_counts(&self, chat: &Chat, message_ids: &[i32]) -> Result<Vec<Look>, TelegramError>;
}

/// Messages of one chat that are to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// As far as it is known here.
    pub chat: Chat,
    pub message_ids: Vec<i32>,
}

/// What a look at a message found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub message_id: i32,
    pub found: Found,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    There(Counts),
    /// It is there no more.
    Deleted,
    /// The session could not look; a stable word for why.
    Unreadable(String),
}

/// The counters of a message. `None`: Telegram keeps no such counter there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub views: Option<i32>,
    pub forwards: Option<i32>,
    pub replies: Option<i32>,
    /// By emoji; `custom:<id>` and `paid` for those that are none.
    pub by_reaction: BTreeMap<String, i32>,
}

/// How many messages a round has looked at, by what became of the look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundTally {
    pub there: i64,
    pub deleted: i64,
    pub unreadable: i64,
}

/// One of several chats of a job, as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Its place among the job's chats, from 0.
    pub position: i32,
    /// Known once the chat was found.
    pub chat_id: Option<i64>,
    /// How often trouble ended its turn: a send that was not seen to end, or a look-up that had no answer.
    pub tries: i32,
    /// A send to it was begun, and nobody has seen how it ended. Told by the store alone.
    pub begun: bool,
    /// Not to be tried before then.
    pub not_before: Option<DateTime<Utc>>,
    pub decided: Option<Decided>,
}

/// What became of one of several chats, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// A stable word: `sent`, or the code of what kept it from being sent.
    pub outcome: String,
    /// One sentence for a person; without one when it was sent.
    pub error: Option<String>,
    pub sent: Option<SentMessage>,
}

/// The database, as far as publishing alone uses it. Fenced, as all of [`Store`](crate::ports::Store) is.
#[async_trait]
pub trait PublishStore: Send + Sync {
    /// The job's chats that have come anywhere, by position.
    async fn targets(&self) -> Result<Vec<Target>, StoreError>;
    /// Keeps how far an undecided target is.
    async fn keep_target(&self, target: &Target) -> Result<(), StoreError>;
    /// Keeps the target's chat and that a send to it is about to begin, durably. Returns the effect as it was before.
    async fn begin_target(&self, target: &Target, chat_id: i64) -> Result<Effect, StoreError>;
    /// What was begun was refused by name: nothing of it is in the chat.
    async fn refuse_target(&self, target: &Target, chat_id: i64) -> Result<(), StoreError>;
    /// Keeps what became of a target, for good; what was in doubt of it no longer is.
    async fn decide_target(&self, target: &Target) -> Result<(), StoreError>;
    /// The same for a message that was found in the chat. `false`: another job has claimed that message, and nothing is kept.
    async fn claim_target(&self, target: &Target) -> Result<bool, StoreError>;
    /// Which of these public names (without `@`) this session has met, as chats of which id. By the name in lower case.
    async fn met_by_name(&self, names: &[String]) -> Result<HashMap<String, i64>, StoreError>;
    /// Has the job's messages looked at from now on; the plan that was told first stays.
    async fn follow(&self, plan: StatisticsPlan) -> Result<(), StoreError>;
    /// Takes in which messages these jobs have published.
    async fn begin_round(&self, jobs: &[Uuid]) -> Result<(), StoreError>;
    /// Messages of one chat, at most 100, that nobody has looked at since then and that this session can see; `None`: no more.
    async fn next_published(&self, jobs: &[Uuid], since: DateTime<Utc>) -> Result<Option<Published>, StoreError>;
    /// Keeps what looks found. Counters that are as they were take no room.
    async fn keep_looks(&self, jobs: &[Uuid], chat_id: i64, looks: &[Look]) -> Result<(), StoreError>;
    /// How many messages of these jobs were looked at since then.
    async fn looked_at(&self, jobs: &[Uuid], since: DateTime<Utc>) -> Result<RoundTally, StoreError>;
}
