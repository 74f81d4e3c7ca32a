//! The fake of what joining asks of Telegram. Apart from leaving, a call without a queued answer says what is usual.

use async_trait::async_trait;

use super::{FakeTelegram, lock};
use crate::ports::{ChannelRoom, Chat, Joining, Left, Rights, Standing, TelegramError};

/// What a supergroup says of itself to an ordinary member.
pub fn standing(chat: &Chat) -> Standing {
    Standing {
        chat: chat.clone(),
        slow_mode_seconds: 0,
        linked_chat_id: None,
        linked_chat: None,
        forum: false,
        asks_admins: false,
        rights: Rights {
            post: true,
            send_media: true,
            invite: true,
            pin: false,
            admin: false,
            creator: false,
        },
        admins: None,
        joined_at: None,
    }
}

#[async_trait]
impl Joining for FakeTelegram {
    async fn standing(&self, chat: &Chat) -> Result<Standing, TelegramError> {
        let queued = lock(&self.standing).pop_front();
        queued.unwrap_or_else(|| Ok(standing(chat)))
    }

    async fn leave_chat(&self, chat: &Chat) -> Result<Left, TelegramError> {
        self.answer(format!("leave_chat {}", chat.id), &self.leave_chat)
    }

    async fn channel_room(&self) -> Result<ChannelRoom, TelegramError> {
        let queued = lock(&self.channel_room).pop_front();
        queued.unwrap_or(Ok(ChannelRoom { used: 0, limit: 500 }))
    }

    async fn topic_title(&self, _chat: &Chat, _topic: i32) -> Result<Option<String>, TelegramError> {
        let queued = lock(&self.topic_title).pop_front();
        queued.unwrap_or(Ok(None))
    }

    async fn successor(&self, _group: &Chat) -> Result<Option<Chat>, TelegramError> {
        let queued = lock(&self.successor).pop_front();
        queued.unwrap_or(Ok(None))
    }
}
