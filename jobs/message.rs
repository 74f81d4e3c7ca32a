//! A message as Wireroom stores and tells it: the same shape in histories, events and exports.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A message of a chat, as the session that read it sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Telegram's number of the message: everybody's in supergroups and channels, the account's own elsewhere.
    pub id: i32,
    /// The chat's id in the Bot API's form.
    pub chat_id: i64,
    pub date: DateTime<Utc>,
    /// When it was edited last, as far as Telegram shows it.
    pub edited_at: Option<DateTime<Utc>>,
    /// Who sent it, in the Bot API's form: a person, or a chat that posts under its own name.
    pub sender_id: Option<i64>,
    /// The reading session's account sent it.
    pub outgoing: bool,
    /// The text, or a medium's caption; empty when there is none.
    pub text: String,
    pub media: Option<MediaKind>,
    /// The message of the same chat that it answers.
    pub reply_to: Option<i32>,
    /// The forum topic it is in, by its first message.
    pub topic: Option<i32>,
    /// Messages that were sent as one album share this.
    pub album: Option<i64>,
    pub views: Option<i32>,
    pub forwards: Option<i32>,
    /// How many times each reaction was given; empty when there are none or Telegram did not say.
    #[serde(default)]
    pub reactions: Vec<Reaction>,
    /// What happened, when Telegram wrote the message to say so.
    pub service: Option<ServiceMessage>,
}

/// One reaction and how many gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reaction {
    /// The emoji; `custom:<id>` for a custom one, `paid` for a paid one.
    pub reaction: String,
    pub count: i32,
}

/// What a message carries beside its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    Photo,
    Video,
    /// A round video.
    VideoNote,
    Voice,
    Audio,
    Animation,
    Sticker,
    Document,
    Contact,
    Location,
    Poll,
    Dice,
    Game,
    Invoice,
    Story,
    /// A preview of a link in the text.
    WebPage,
    Other,
}

/// What Telegram says has happened in a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServiceMessage {
    /// People came in; `by` added them when that was somebody else.
    Joined {
        user_ids: Vec<i64>,
        by: Option<i64>,
    },
    /// A person left, or `by` removed them.
    Left {
        user_id: i64,
        by: Option<i64>,
    },
    Created {
        title: String,
    },
    TitleChanged {
        title: String,
    },
    PhotoChanged,
    PhotoRemoved,
    Pinned {
        message_id: Option<i32>,
    },
    /// The basic group became a supergroup, or this supergroup was made of one.
    Migrated {
        chat_id: i64,
    },
    /// Anything else, under the name of Telegram's constructor.
    Other {
        name: String,
    },
}

impl MediaKind {
    pub const ALL: [Self; 17] = [
        Self::Photo,
        Self::Video,
        Self::VideoNote,
        Self::Voice,
        Self::Audio,
        Self::Animation,
        Self::Sticker,
        Self::Document,
        Self::Contact,
        Self::Location,
        Self::Poll,
        Self::Dice,
        Self::Game,
        Self::Invoice,
        Self::Story,
        Self::WebPage,
        Self::Other,
    ];
}

/// Leaves the content out: it must not reach a log.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("chat_id", &self.chat_id)
            .field("text_bytes", &self.text.len())
            .field("media", &self.media)
            .finish_non_exhaustive()
    }
}
