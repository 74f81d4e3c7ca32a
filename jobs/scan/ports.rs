//! What scans use of the outside world: the parts of the ports that no other kind needs, so that each stays small. The
//! runtime implements them on grammers and Postgres; `testing` has fakes.

use std::{collections::HashSet, fmt};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FilesReport, Incomplete, ScanWhat};
use crate::{
    LogLine,
    message::Message,
    ports::{Chat, ChatType, Member, MemberPage, Progress, StoreError, TelegramError},
};

/// One of Telegram's lists of a chat's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberList {
    Recent,
    Admins,
    Bots,
    /// Names that begin so.
    Search(String),
    /// The session's contacts whose names begin so; empty: all of them.
    Contacts(String),
}

/// What to cut out of a chat's messages, which are given newest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageCut {
    /// Only messages below this number; 0: from the newest on.
    pub before: i32,
    /// At most so many, and at most 100.
    pub limit: i32,
}

/// A message and how many answered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedMessage {
    pub message: Message,
    /// Where Telegram counts them: comments of a post, answers in a thread.
    pub replies: Option<i32>,
    /// Of a channel's post: whether it can be commented.
    pub has_comments: bool,
    /// The file it carries, as far as Telegram shows it.
    pub file: Option<RemoteFile>,
    /// Why its file is not to be downloaded, where that is known before it is asked for.
    pub passed_over: Option<PassedOver>,
}

/// Telegram's two kinds of stored files, each with ids of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Medium {
    Photo,
    Document,
}

/// A file as Telegram refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    pub medium: Medium,
    /// Telegram's id: the same in every message that carries the file.
    pub id: i64,
    /// Of a photo, its largest size.
    pub size_bytes: i64,
    pub content_type: String,
    pub name: Option<String>,
    /// The data centre it is said to be in.
    pub dc: i32,
    /// What only the session that read the message can ask with, and not for ever.
    pub location: Vec<u8>,
}

/// Why a file is not downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedOver {
    /// It is of none of the kinds that are wanted.
    Kind,
    /// It has more bytes than one file may have.
    TooLarge,
    /// The job may not download so much more.
    TotalBound,
    /// Telegram does not take its reference, nor a fresh one, or the message is gone.
    ReferenceExpired,
    /// Telegram does not give it: it deletes itself, or is none that clients download so.
    NotDownloadable,
}

/// A file of a stored message that is to be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingFile {
    pub chat_id: i64,
    pub owner: i64,
    pub message_id: i32,
    pub remote: RemoteFile,
}

/// What came of asking for a part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePart {
    Bytes(Vec<u8>),
    /// Telegram gives it by another way alone.
    Elsewhere,
}

/// A part of a chat's messages, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessagePage {
    pub messages: Vec<ScannedMessage>,
    /// How many there are in all, as Telegram counts them.
    pub count: Option<i64>,
    /// The lowest number of the page, whether or not the message can be read; 0: the page was empty, and nothing is older.
    pub oldest: i32,
}

/// A public chat that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundChat {
    pub chat: Chat,
    pub language: Option<Language>,
    pub last_post_at: Option<DateTime<Utc>>,
}

/// The language that a chat seems to be in.
#[derive(Debug, Clone, PartialEq)]
pub struct Language {
    /// ISO 639-3, such as `eng`.
    pub code: String,
    /// From 0 to 1.
    pub confidence: f32,
}

/// One person or chat in full.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Profile {
    Person(PersonProfile),
    Chat(ChatProfile),
}

/// A person as Telegram's page of them shows it. Phone numbers are left out on purpose, also those in the text about them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, as Telegram tells it"
)]
pub struct PersonProfile {
    /// Telegram's user id.
    pub user_id: i64,
    /// Without `@`; the first one is the main one.
    pub usernames: Vec<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    /// What they write about themselves.
    pub about: Option<String>,
    pub is_bot: bool,
    pub is_deleted: bool,
    pub is_premium: bool,
    pub is_verified: bool,
    pub is_scam: bool,
    pub is_fake: bool,
    /// Whether they are among the session's contacts.
    pub is_contact: bool,
    /// How many groups the session has in common with them.
    pub common_chats: i32,
    /// The channel they show on their page.
    pub personal_channel_id: Option<i64>,
    /// When they were there last, as far as they show it.
    pub last_seen: LastSeen,
    /// When exactly, where they show that.
    pub last_seen_at: Option<DateTime<Utc>>,
    pub has_photo: bool,
    /// Only premium accounts may write to them.
    pub premium_needed_to_write: bool,
    /// Of a bot: the commands it lists, without `/`.
    pub bot_commands: Vec<String>,
    /// Of a bot: what it says it can do.
    pub bot_description: Option<String>,
}

/// When somebody was there last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LastSeen {
    Online,
    At,
    Recently,
    WithinWeek,
    WithinMonth,
    Unknown,
}

/// A group or channel as its page shows it. Phone numbers in the text about it are left out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, as Telegram tells it"
)]
pub struct ChatProfile {
    /// In the Bot API's form.
    pub id: i64,
    pub chat_type: ChatType,
    pub title: String,
    /// Without `@`; the first one is the main one.
    pub usernames: Vec<String>,
    pub about: Option<String>,
    pub member_count: Option<i64>,
    /// Whether the session is a member.
    pub member: bool,
    /// What admins are shown.
    pub admins_count: Option<i32>,
    pub banned_count: Option<i32>,
    pub online_count: Option<i32>,
    pub requests_pending: Option<i32>,
    /// The discussion group of a channel, or the channel of a discussion group.
    pub linked_chat_id: Option<i64>,
    /// Seconds between two messages of one member; 0 when off.
    pub slow_mode_seconds: i32,
    pub participants_hidden: bool,
    pub can_view_participants: bool,
    /// New members do not see what was written before they came.
    pub history_hidden: bool,
    /// The session sees no message below this number.
    pub first_visible_message: Option<i32>,
    pub is_forum: bool,
    pub is_verified: bool,
    pub is_scam: bool,
    pub is_fake: bool,
    /// Nobody may forward or save what is written here.
    pub is_protected: bool,
    /// An admin has to let people in.
    pub join_request: bool,
    pub pinned_message: Option<i32>,
    /// Messages delete themselves after so many seconds.
    pub message_ttl_seconds: Option<i32>,
    /// The basic group it was made of.
    pub migrated_from: Option<i64>,
    /// When it was made, as far as the session can know.
    pub created_at: Option<DateTime<Utc>>,
}

/// What a scan knows of itself when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanStart {
    pub what: ScanWhat,
    /// `None`: a search.
    pub chat_id: Option<i64>,
    pub purpose: String,
    /// Days the rows are kept.
    pub retention_days: i32,
    /// What a standing search goes by.
    pub search_key: Option<String>,
}

/// How many rows a scan has by now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different rows, over all attempts.
    pub seen: i64,
    /// How many of them no earlier scan had seen.
    pub new: i64,
    /// How many were met and not stored: they are about people who were erased here.
    pub left_out: i64,
}

impl Tally {
    /// Why there are fewer than `counted` when nothing else explains it.
    pub(super) fn short_of(self, counted: Option<i64>) -> Incomplete {
        if self.left_out > 0 && counted.is_some_and(|counted| self.seen + self.left_out >= counted) {
            Incomplete::PersonErased
        } else {
            Incomplete::ListChanged
        }
    }
}

/// What a finished scan of a chat counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub chat_id: i64,
    pub what: ScanWhat,
    /// Of members: which list.
    pub list: Option<&'static str>,
    pub counted: Option<i64>,
    pub tally: Tally,
    pub reason: Option<Incomplete>,
}

/// Leaves out who it is.
impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(_) => f.write_str("Profile::Person"),
            Self::Chat(chat) => f.debug_tuple("Profile::Chat").field(&chat.id).finish(),
        }
    }
}

impl fmt::Debug for ChatProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatProfile")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Medium {
    /// The word for it in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Photo => "photo",
            Self::Document => "document",
        }
    }
}

impl RemoteFile {
    /// Whether it is the same file, however it is referred to.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.medium, self.id, self.size_bytes) == (other.medium, other.id, other.size_bytes)
    }
}

impl PassedOver {
    /// The word for it in results and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::TooLarge => "too_large",
            Self::TotalBound => "total_bound",
            Self::ReferenceExpired => "reference_expired",
            Self::NotDownloadable => "not_downloadable",
        }
    }
}

impl Profile {
    /// The person's or the chat's id, in the Bot API's form.
    pub const fn id(&self) -> i64 {
        match self {
            Self::Person(person) => person.user_id,
            Self::Chat(chat) => chat.id,
        }
    }
}

/// What scans ask of Telegram.
#[async_trait]
pub trait ScanTelegram: Send + Sync {
    /// A page of a list of a group's or channel's members from `offset`, at most 200.
    async fn members(
        &self,
        chat: &Chat,
        list: &MemberList,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError>;
    /// A part of a chat's messages, newest first.
    async fn messages(&self, chat: &Chat, cut: MessageCut) -> Result<MessagePage, TelegramError>;
    /// The channel's posts with these numbers, as far as they are there.
    async fn posts(&self, channel: &Chat, ids: &[i32]) -> Result<Vec<ScannedMessage>, TelegramError>;
    /// The group in which a channel's post is discussed; `None`: it cannot be commented.
    async fn discussion(&self, channel: &Chat, post: i32) -> Result<Option<Chat>, TelegramError>;
    /// A part of the comments of a channel's post, newest first.
    async fn comments(&self, channel: &Chat, post: i32, cut: MessageCut) -> Result<MessagePage, TelegramError>;
    /// The public groups and channels that Telegram finds for a keyword, and the session's own ones.
    async fn search_chats(&self, query: &str) -> Result<Vec<Chat>, TelegramError>;
    async fn person_in_full(&self, person: &Chat) -> Result<PersonProfile, TelegramError>;
    async fn chat_in_full(&self, chat: &Chat) -> Result<ChatProfile, TelegramError>;
    /// A message of a chat, with a fresh reference to its file; `None`: it is gone.
    async fn message_again(&self, chat: &Chat, id: i32) -> Result<Option<ScannedMessage>, TelegramError>;
    /// Up to `limit` bytes of a file from `offset` on, a multiple of `limit`, from whichever data centre it lies in.
    async fn file_part(&self, file: &RemoteFile, offset: i64, limit: i32) -> Result<FilePart, TelegramError>;
}

/// Where downloaded files are kept.
#[async_trait]
pub trait FileKeeper: Send + Sync {
    /// The most bytes a file may have.
    fn max_bytes(&self) -> i64;
    /// What became of the files of this scan so far.
    async fn report(&self) -> Result<FilesReport, StoreError>;
    /// Files of this scan's messages that nothing has become of yet, in the order of their messages.
    async fn waiting(&self, limit: i64) -> Result<Vec<WaitingFile>, StoreError>;
    /// Takes the file that is kept already under Telegram's id; `false`: none is.
    async fn take_known(&self, file: &WaitingFile) -> Result<bool, StoreError>;
    /// Notes that a file is not downloaded.
    async fn pass_over(&self, file: &WaitingFile, why: PassedOver) -> Result<(), StoreError>;
    /// Begins to keep a file, or goes on where an earlier attempt stopped.
    async fn open(&self, file: &WaitingFile) -> Result<Box<dyn OpenFile>, StoreError>;
}

/// A file that comes in.
#[async_trait]
pub trait OpenFile: Send {
    /// How many bytes it has; after an earlier attempt, those that are kept for good.
    fn offset(&self) -> i64;
    /// Takes its next bytes, in whole parts. They are kept for good from time to time, and at the end.
    async fn write(&mut self, bytes: Vec<u8>) -> Result<(), StoreError>;
    /// It is whole: it becomes a file of the store, or one with equal bytes does in its place.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
    /// Forgets what there is of it.
    async fn discard(self: Box<Self>) -> Result<(), StoreError>;
}

/// What is written with a page of rows, in their transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct PageEnd {
    /// Where the next attempt goes on.
    pub checkpoint: serde_json::Value,
    pub progress: Progress,
    /// For whoever follows the job.
    pub line: LogLine,
}

/// What to write with a page, once it is known how many rows the scan has with it. Called in the page's transaction: it may not wait.
pub type EndPage<'a> = &'a (dyn Fn(Tally) -> PageEnd + Send + Sync);

/// Where scans keep their rows. Every write takes the checkpoint that follows it into its own transaction.
///
/// A page that was stored may be lost in a crash of the database, with its checkpoint and with all that was stored after it,
/// until something else of the job is durable: what a scan read, it can read again. The job's end never is durable before
/// its pages.
#[async_trait]
pub trait ScanStore: Send + Sync {
    /// Opens the scan's record; idempotent.
    async fn begin_scan(&self, scan: &ScanStart) -> Result<(), StoreError>;
    /// How many rows this scan has.
    async fn scan_tally(&self) -> Result<Tally, StoreError>;
    /// Stores a page of members; a row seen before by this job is updated.
    async fn save_members(&self, chat_id: i64, members: &[Member], end: EndPage<'_>) -> Result<Tally, StoreError>;
    /// Stores a page of messages of `chat_id`, under one numbering (`owner`: 0 where it is everybody's, else the account).
    /// `post`: they are comments of that post. Their files wait to be downloaded from then on.
    async fn save_messages(
        &self,
        chat_id: i64,
        owner: i64,
        post: Option<i32>,
        messages: &[ScannedMessage],
        end: EndPage<'_>,
    ) -> Result<Tally, StoreError>;
    /// Which of these chats this search need not look at: it has them, or an earlier run of a standing search had.
    async fn known_finds(&self, chat_ids: &[i64]) -> Result<HashSet<i64>, StoreError>;
    /// Stores a chat that a search found.
    async fn save_find(&self, find: &FoundChat, checkpoint: serde_json::Value) -> Result<Tally, StoreError>;
    /// Stores a profile. `false`: it is of a person who was erased, and nothing was stored.
    async fn save_profile(&self, profile: &Profile) -> Result<bool, StoreError>;
    /// Notes what a finished scan of a chat counted, for its history of counts.
    async fn save_count(&self, count: &Count) -> Result<(), StoreError>;
}
