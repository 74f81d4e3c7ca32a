//! A message as it is kept: once per channel, and once per account for private chats and basic groups.

use grammers_tl_types as tl;

use super::peers::PeerKey;

#[derive(Debug, Clone)]
pub enum Content {
    Text {
        text: String,
        entities: Vec<tl::enums::MessageEntity>,
    },
    /// Boxed, because it is many times the size of a text.
    Service(Box<tl::enums::MessageAction>),
}

impl Content {
    /// The text; empty for a service message.
    pub fn text(&self) -> &str {
        match self {
            Self::Text { text, .. } => text,
            Self::Service(_) => "",
        }
    }
}

/// What few messages have.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Members may not forward it.
    pub protected: bool,
    pub pinned: bool,
    pub markup: Option<tl::enums::ReplyMarkup>,
    pub media: Option<tl::enums::MessageMedia>,
    /// The same for all messages of an album.
    pub group: Option<i64>,
    /// The first message of the topic it is in.
    pub topic: Option<i32>,
    pub forwarded: Option<tl::enums::MessageFwdHeader>,
}

#[derive(Debug, Clone)]
pub struct Message {
    /// Its id in the box that it is kept in.
    pub id: i32,
    /// The same for every copy of one message.
    pub origin: u64,
    /// The chat, as the box's owner names it: the other person, the group, the channel.
    pub chat: PeerKey,
    /// A user, or the channel itself for its posts.
    pub sender: PeerKey,
    pub date: i32,
    pub edit_date: Option<i32>,
    pub reply_to: Option<i32>,
    pub silent: bool,
    /// What the client sent it under.
    pub random_id: Option<i64>,
    pub content: Content,
    pub extras: Option<Box<Extras>>,
}

/// A message before it has an id.
#[derive(Debug, Clone)]
pub struct Draft {
    pub content: Content,
    /// An id in the sender's box.
    pub reply_to: Option<i32>,
    pub silent: bool,
    pub random_id: Option<i64>,
    pub extras: Option<Box<Extras>>,
}

impl Draft {
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content: Content::Text {
                text: text.into(),
                entities: Vec::new(),
            },
            reply_to: None,
            silent: false,
            random_id: None,
            extras: None,
        }
    }

    pub fn service(action: impl Into<tl::enums::MessageAction>) -> Self {
        Self {
            content: Content::Service(Box::new(action.into())),
            reply_to: None,
            silent: false,
            random_id: None,
            extras: None,
        }
    }
}
