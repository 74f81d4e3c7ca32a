//! The facts about a chat that results show, and the links to its messages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ports::{Chat, ChatType};

/// Supergroup and channel ids in the Bot API's form are this minus Telegram's bare id.
const CHANNEL_ID_BASE: i64 = -1_000_000_000_000;

/// A chat in a job's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChatFacts {
    /// The chat's id in the Bot API's form: negative for groups, `-100…` for supergroups and channels.
    pub id: i64,
    #[serde(rename = "type")]
    pub chat_type: ChatType,
    pub title: String,
    /// Without `@`; null for a private chat.
    pub username: Option<String>,
    /// As Telegram counts them; null when it does not say.
    pub member_count: Option<i64>,
}

impl From<&Chat> for ChatFacts {
    fn from(chat: &Chat) -> Self {
        Self {
            id: chat.id,
            chat_type: chat.chat_type,
            title: chat.title.clone(),
            username: chat.username.clone(),
            member_count: chat.member_count,
        }
    }
}

/// The link that opens a message; `None` in basic groups and with people, whose messages have none.
pub fn message_link(chat: &Chat, message_id: i32) -> Option<String> {
    match chat.chat_type {
        ChatType::Group | ChatType::Private => None,
        ChatType::Supergroup | ChatType::Channel => Some(match &chat.username {
            Some(name) => format!("https://t.me/{name}/{message_id}"),
            // Opens for members only.
            None => format!("https://t.me/c/{}/{message_id}", CHANNEL_ID_BASE - chat.id),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn links_are_public_private_or_absent() {
        let mut chat = testing::supergroup(1_234_567);
        chat.username = Some("reading_club".into());
        assert_eq!(message_link(&chat, 7).as_deref(), Some("https://t.me/reading_club/7"));
        chat.username = None;
        assert_eq!(chat.id, -1_000_001_234_567);
        assert_eq!(message_link(&chat, 7).as_deref(), Some("https://t.me/c/1234567/7"));
        chat.chat_type = ChatType::Group;
        assert_eq!(message_link(&chat, 7), None);
    }
}
