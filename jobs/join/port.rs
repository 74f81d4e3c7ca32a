//! What joining and leaving ask of Telegram, beyond what every kind does.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ports::{Chat, TelegramError};

/// What the session may do in a chat it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each right is given or not, apart from the others"
)]
pub struct Rights {
    /// Write messages: in a channel, publish.
    pub post: bool,
    pub send_media: bool,
    /// Add people, or make invite links.
    pub invite: bool,
    pub pin: bool,
    /// It is an admin, or the creator.
    pub admin: bool,
    pub creator: bool,
}

/// How the session stands to a group or channel, from one extra request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub chat: Chat,
    /// Seconds between two messages of one member; 0 when off.
    pub slow_mode_seconds: i32,
    /// A channel's discussion group, or the channel that a group discusses. Described only as far as Telegram does.
    pub linked_chat_id: Option<i64>,
    pub linked_chat: Option<Chat>,
    /// It has topics.
    pub forum: bool,
    /// Whoever joins by its name asks an admin first.
    pub asks_admins: bool,
    pub rights: Rights,
    /// How many admins it has, the creator included, as far as Telegram tells.
    pub admins: Option<i32>,
    pub joined_at: Option<DateTime<Utc>>,
}

/// How an attempt to leave ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Left,
    /// It was not in the chat.
    NotMember,
}

/// How many supergroups and channels the account is in, and may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelRoom {
    pub used: i32,
    pub limit: i32,
}

impl ChannelRoom {
    pub const fn is_full(self) -> bool {
        self.used >= self.limit
    }
}

/// The calls. Like all of [`Telegram`](crate::ports::Telegram): each has a deadline, and each error a decision.
#[async_trait]
pub trait Joining: Send + Sync {
    /// How the session stands to a group or channel that it can look into.
    async fn standing(&self, chat: &Chat) -> Result<Standing, TelegramError>;
    /// Leaves a group or channel. Not counted by any cap.
    async fn leave_chat(&self, chat: &Chat) -> Result<Left, TelegramError>;
    /// Whether the account has room for one more supergroup or channel. Counted once in a while, and kept up in between.
    async fn channel_room(&self) -> Result<ChannelRoom, TelegramError>;
    /// The title of a forum's topic; `None`: there is none of that number.
    async fn topic_title(&self, chat: &Chat, topic: i32) -> Result<Option<String>, TelegramError>;
    /// The supergroup that a basic group was made into; `None`: it is one still, or gone.
    async fn successor(&self, group: &Chat) -> Result<Option<Chat>, TelegramError>;
}
