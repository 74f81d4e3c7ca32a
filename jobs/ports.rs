//! What a function may use of the outside world. The runtime implements these ports on grammers and Postgres;
//! `testing` has fakes. Every call of [`Store`] is fenced by the runtime: when the attempt has lost its job, it answers
//! [`StoreError::Fenced`] and changes nothing.

use std::{collections::HashSet, fmt};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use uuid::Uuid;

pub use crate::join::port::{ChannelRoom, Joining, Left, Rights, Standing};
use crate::{
    log::{LogLevel, LogLine},
    message::Message,
    monitor::{FailoverArgs, MessageFilter, WatchEvent},
    outcome::JobError,
    outreach::{Added, Person, PersonRef, Presence},
    publish::{
        ports::{Posting, PublishStore},
        post::Extras,
    },
    scan::ports::{ScanStore, ScanTelegram},
};

/// The time, injected so that tests decide it.
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

/// What a chat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatType {
    Group,
    Supergroup,
    Channel,
    Private,
}

/// A chat as the calling session sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Chat {
    /// The chat's id in the Bot API's form: negative for groups, `-100…` for supergroups and channels.
    pub id: i64,
    #[serde(rename = "type")]
    pub chat_type: ChatType,
    pub title: String,
    /// Without `@`.
    pub username: Option<String>,
    /// As Telegram counts them; absent when it does not say.
    pub member_count: Option<i64>,
    /// Whether the calling session is a member.
    pub member: bool,
}

/// More about a chat, from one extra request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatDetails {
    pub chat: Chat,
    /// The group hides its members from non-admins.
    pub participants_hidden: bool,
    pub can_view_participants: bool,
    /// Seconds between two messages of one member; 0 when off.
    pub slow_mode_seconds: i32,
}

/// What an invite link leads to, before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invite {
    /// The session is a member already.
    Member(Chat),
    /// The session may look at the chat for a while without joining.
    Peek(Chat),
    /// Not a member; Telegram shows these facts only.
    Preview {
        title: String,
        chat_type: ChatType,
        member_count: Option<i64>,
        request_needed: bool,
        /// Members pay for a subscription.
        subscription: bool,
    },
}

/// How an attempt to join ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    Joined(Chat),
    AlreadyMember,
    /// An admin of the chat has to approve.
    ApprovalPending,
}

/// A member's role in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Creator,
    Admin,
    Member,
    Restricted,
    Banned,
    Left,
}

/// One member as a page of a participant list shows it. Phone numbers are left out on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// Telegram's user id.
    pub user_id: i64,
    /// Without `@`.
    pub username: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub is_bot: bool,
    pub is_deleted: bool,
    pub is_premium: bool,
    pub role: Role,
    pub joined_at: Option<DateTime<Utc>>,
}

/// One page of a participant list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPage {
    pub members: Vec<Member>,
    /// How many Telegram says there are in all.
    pub count: i64,
    /// How many rows Telegram returned, people it did not describe included: the step to the next offset.
    pub returned: i32,
}

/// A part of a chat's history, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    pub messages: Vec<Message>,
    /// The newest number this page accounts for: what is not in `messages` up to it, or was before, does not exist (any more).
    pub reaches: i32,
    /// Nothing newer is there.
    pub is_last: bool,
}

/// Private chats of an account that have something new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateNews {
    pub chats: Vec<Chat>,
    /// The newest message of the account before the chats were looked through.
    pub reaches: i32,
}

/// What a monitor job records of a chat, or of its session's private messages.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchStart {
    /// `None`: private messages.
    pub chat_id: Option<i64>,
    /// Whose the message numbers are: 0 when everybody's, else the account's id.
    pub owner: i64,
    pub events: Vec<WatchEvent>,
    pub filter: MessageFilter,
    pub retention_days: i32,
    /// The newest message there is, for a watch that begins now: only later ones are recorded.
    pub newest: i32,
}

/// How beginning a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchBegun {
    /// This job watches.
    Watching(WatchState),
    /// Another job watches the chat already.
    Other { watch: Uuid },
    /// It was stopped meanwhile.
    Stopped,
}

/// What is stored of a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchState {
    /// The history has to be read, from after `last_message_id`.
    pub filling: bool,
    pub last_message_id: i32,
    /// When that message was sent; without one, when the watch began.
    pub last_message_at: Option<DateTime<Utc>>,
    /// The numbers are another account's than before: `last_message_id` says nothing.
    pub renumbered: bool,
    /// The newest message that the update stream has left to the history.
    pub left_to_history: i32,
    /// How many gaps the update stream has found, for [`Store::finish_filling`].
    pub gaps: i32,
    /// Why the session cannot see the chat any more, when the update stream saw that.
    pub lost_reason: Option<String>,
}

/// Where a watch goes on whose session lost its access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// On the same session, which may try again.
    Again,
    /// On the next session of the list: the job is its now.
    Next,
    /// No session is left.
    Exhausted,
    /// On the session that it was given meanwhile: nothing is noted.
    Moved,
}

/// How the text of a message is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    #[default]
    Plain,
    Markdown,
    Html,
}

/// A message about to be sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Draft {
    pub text: String,
    pub format: TextFormat,
    pub silent: bool,
    pub link_preview: bool,
    pub extras: Extras,
}

/// Leaves the text out: it must not reach a log.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("text_bytes", &self.text.len())
            .field("format", &self.format)
            .field("silent", &self.silent)
            .field("link_preview", &self.link_preview)
            .finish_non_exhaustive()
    }
}

/// A message that is in the chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SentMessage {
    /// Below zero: the number of a message that Telegram keeps for later, in a count of its own.
    pub message_id: i32,
    pub date: DateTime<Utc>,
    /// The other messages of an album or a forward.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<i32>,
}

/// Telegram, through the one session the job runs on. Implementations put a deadline on every call, wait out short
/// floods, record every flood, and turn each RPC error into a [`TelegramError`] with a decision.
#[async_trait]
pub trait Telegram: Joining + Posting + ScanTelegram {
    /// The public chat of that name (without `@`).
    async fn resolve_username(&self, username: &str) -> Result<Chat, TelegramError>;
    /// A chat this session has met before, by its Bot API id.
    async fn chat_by_id(&self, id: i64) -> Result<Chat, TelegramError>;
    async fn chat_details(&self, chat: &Chat) -> Result<ChatDetails, TelegramError>;
    async fn check_invite(&self, hash: &str) -> Result<Invite, TelegramError>;
    async fn join_chat(&self, chat: &Chat) -> Result<Joined, TelegramError>;
    async fn join_by_invite(&self, hash: &str) -> Result<Joined, TelegramError>;
    /// Checks and counts the text as Telegram would (entities parsed, UTF-16 units): the visible length.
    fn visible_length(&self, draft: &Draft) -> Result<usize, TelegramError>;
    /// Sends a message under a `random_id` of the caller's.
    async fn send_message(&self, chat: &Chat, random_id: i64, draft: &Draft) -> Result<SentMessage, TelegramError>;
    /// The account's id.
    fn account_id(&self) -> i64;
    /// The account is a bot's: Telegram refuses it what reads chats.
    fn is_bot(&self) -> bool;
    /// The number of the newest message: of `chat`, or of the account's private chats and basic groups. 0: there is none.
    async fn newest_message(&self, chat: Option<&Chat>) -> Result<i32, TelegramError>;
    /// The number of the newest message of `chat` that was sent at `time` or before; 0: there is none.
    async fn newest_message_until(&self, chat: &Chat, time: DateTime<Utc>) -> Result<i32, TelegramError>;
    /// The numbers of the newest messages of `chat` that people wrote, at most 100.
    async fn recent_messages(&self, chat: &Chat) -> Result<Vec<i32>, TelegramError>;
    /// The messages of `chat` after number `after`, oldest first.
    async fn history_after(&self, chat: &Chat, after: i32) -> Result<HistoryPage, TelegramError>;
    /// The account's private chats that have something newer than number `after`.
    async fn private_news(&self, after: i32) -> Result<PrivateNews, TelegramError>;
    /// Returns when the update stream has noted something about a watch of this session since the last time.
    async fn watch_noted(&self);
    /// This session's own messages in `chat` that say the same as `draft`, sent at or after `since`, oldest first. An
    /// error means that it could not look; an empty list that it looked and there is none.
    async fn own_messages_like(
        &self,
        chat: &Chat,
        draft: &Draft,
        since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError>;
    /// Who somebody is, as this session sees them.
    async fn person(&self, person: &PersonRef) -> Result<Person, TelegramError>;
    /// Whether they have ever written to this session.
    async fn wrote_before(&self, person: &Person) -> Result<bool, TelegramError>;
    /// Whether they have asked to be let into a group or channel, and nobody has answered yet. Only an admin is shown that.
    async fn asked_to_join(&self, chat: &Chat, person: &Person) -> Result<bool, TelegramError>;
    /// What they are in a group or channel.
    async fn presence(&self, chat: &Chat, person: &Person) -> Result<Presence, TelegramError>;
    /// Whether the chat's own record says that this session has put them into it since then, also when they have left. An
    /// error means that it could not look.
    async fn has_added(&self, chat: &Chat, person: &Person, since: DateTime<Utc>) -> Result<bool, TelegramError>;
    /// Puts one person into a group or channel.
    async fn add_to_chat(&self, chat: &Chat, person: &Person) -> Result<Added, TelegramError>;
}

/// A failed call, with what it means for the job. One RPC error, one decision: the table is `telegram::errors`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct TelegramError {
    /// Telegram's own name of the error (`CHANNEL_PRIVATE`), or ours in snake case (`call_deadline`).
    pub code: String,
    /// One sentence for a person, without any content.
    pub message: String,
    pub decision: Decision,
}

/// What a Telegram error means for the job that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It was so already: treat as success.
    Done,
    /// A join request waits for an admin.
    Pending,
    /// This session may not do this until then; the attempt is refunded.
    Gate { until: DateTime<Utc> },
    /// The same, of an attempt that has not called Telegram yet: a job that any session of its pool may run goes to another
    /// one at once, and only a job that is bound to this one waits until then.
    Elsewhere { until: DateTime<Utc> },
    /// This recipient never; `suppress` when they refused us.
    Person { suppress: bool },
    /// This chat never, or not with this session.
    Target,
    /// The session is lost to us (logged out, banned, frozen, or its lease is gone).
    Session,
    /// `PEER_FLOOD`: outreach stops for the session and the campaign.
    Campaign,
    /// The outcome is unknown or the trouble is passing: try again with the same effect key.
    Retry,
    /// The job's own content is wrong.
    Content,
    /// Telegram wants a file again that was put in before. Nothing was sent.
    StaleMedia,
    /// A client error we do not know: fail and alert.
    Bug,
}

/// What is kept of an effect before it happens, so that it happens once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The key Telegram deduplicates by.
    pub random_id: i64,
    /// When it was first stored: nothing of this effect can be older.
    pub prepared_at: DateTime<Utc>,
    /// When a send was last begun and not seen to end; `None` when none ever was.
    pub attempted_at: Option<DateTime<Utc>>,
    /// Set once the effect is known to have happened.
    pub sent: Option<SentMessage>,
}

/// Numbers a running job shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    pub done: i64,
    /// How many there will be, when that is known.
    pub of: Option<i64>,
    pub per_second: f64,
}

/// The database, as one attempt of one job sees it.
#[async_trait]
pub trait Store: PublishStore + ScanStore {
    /// What [`Store::save_checkpoint`] kept last, over all attempts.
    async fn checkpoint(&self) -> Result<Option<serde_json::Value>, StoreError>;
    async fn save_checkpoint(&self, checkpoint: serde_json::Value) -> Result<(), StoreError>;
    /// Shows progress; may be merged with later reports and written behind.
    async fn progress(&self, progress: Progress) -> Result<(), StoreError>;
    /// Shows a line to whoever follows the job. Of each job the newest lines are kept, for some days.
    async fn log(&self, level: LogLevel, line: LogLine) -> Result<(), StoreError>;
    /// Remembers a chat that was seen, for `GET /v1/chats`.
    async fn save_chat(&self, chat: &Chat) -> Result<(), StoreError>;
    /// The effect of this job on `target`; made with a fresh `random_id` the first time.
    async fn prepare_effect(&self, chat_id: i64) -> Result<Effect, StoreError>;
    /// Durable before the send begins.
    async fn effect_attempted(&self, chat_id: i64) -> Result<(), StoreError>;
    /// Stores that the effect happened. `false`: another job has claimed that message.
    async fn effect_sent(&self, chat_id: i64, sent: &SentMessage) -> Result<bool, StoreError>;
    /// Makes this job the chat's watch, or goes on with it on this session.
    async fn begin_watch(&self, start: &WatchStart) -> Result<WatchBegun, StoreError>;
    /// The watch as it is now; `None`: it was stopped, or is another session's.
    async fn watch(&self) -> Result<Option<WatchState>, StoreError>;
    /// Stores a part of the history, in order, and that the watch is that far.
    async fn record_history(&self, page: &HistoryPage) -> Result<(), StoreError>;
    /// Looks for messages that exist among those that were seen, for the watch's completeness.
    async fn check_watch(&self, message_ids: &[i32]) -> Result<(), StoreError>;
    /// Where the history is to be read on from, by this account's numbers.
    async fn renumber_watch(&self, last_message_id: i32) -> Result<(), StoreError>;
    /// Lets the update stream go on from here. `false`: it left messages to the history that were not read yet, or has found
    /// more gaps than `gaps`.
    async fn finish_filling(&self, gaps: i32) -> Result<bool, StoreError>;
    /// Notes that the session lost the chat, and finds the session that goes on.
    async fn lose_watch(&self, reason: &str, failover: FailoverArgs) -> Result<Failover, StoreError>;
    /// Which of these messages of `chat_id` belong to another job of this session.
    async fn claimed_messages(&self, chat_id: i64, message_ids: &[i32]) -> Result<HashSet<i32>, StoreError>;
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The attempt is not the job's current one any more: stop, write nothing.
    #[error("this attempt has lost its job")]
    Fenced,
    /// The database failed; the attempt may be repeated.
    #[error("the database failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced => Self::transient("fenced", "Another attempt has taken this job over."),
            StoreError::Failed(_) => {
                Self::transient("store_failed", "The database did not answer; the job tries again.")
            }
        }
    }
}
