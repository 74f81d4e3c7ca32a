//! What the session may do in a chat, from what Telegram says of the chat whenever it describes it. Only slow mode takes a
//! request of its own.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, ChatType, TelegramError},
    publish::ports::Access,
};

use super::{
    JobTelegram,
    chats::{chat_of, kind_of},
};

/// Most chats whose rights are remembered in one attempt.
const MOST_KNOWN: usize = 2_000;

/// What was said of chats in this attempt.
#[derive(Debug, Default)]
pub(super) struct Rights(Mutex<HashMap<i64, Right>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Right {
    may_write: bool,
    slow_mode: bool,
    /// It is an admin there, who may write in the chat's name.
    runs: bool,
}

impl Rights {
    pub fn note(&self, chats: &[tl::enums::Chat]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > MOST_KNOWN {
            known.clear();
        }
        for chat in chats {
            if let (Some(right), Some(facts)) = (right_of(chat), chat_of(chat)) {
                known.insert(facts.id, right);
            }
        }
    }

    fn get(&self, chat_id: i64) -> Option<Right> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&chat_id).copied()
    }
}

fn forbids(rights: Option<&tl::enums::ChatBannedRights>) -> bool {
    rights.is_some_and(|tl::enums::ChatBannedRights::Rights(rights)| rights.send_messages)
}

/// `None`: nothing is said of it.
fn right_of(chat: &tl::enums::Chat) -> Option<Right> {
    let right = |may_write, slow_mode, runs| {
        Some(Right {
            may_write,
            slow_mode,
            runs,
        })
    };
    match chat {
        tl::enums::Chat::Chat(group) => {
            let runs = group.creator || group.admin_rights.is_some();
            let silenced = forbids(group.default_banned_rights.as_ref()) && !runs;
            right(!group.left && !group.deactivated && !silenced, false, runs)
        }
        tl::enums::Chat::Channel(channel) if channel.min => None,
        tl::enums::Chat::Channel(channel) => {
            let admin = channel
                .admin_rights
                .as_ref()
                .map(|tl::enums::ChatAdminRights::Rights(rights)| rights);
            if channel.broadcast {
                return right(
                    channel.creator || admin.is_some_and(|rights| rights.post_messages),
                    false,
                    channel.creator || admin.is_some(),
                );
            }
            if channel.creator || admin.is_some() {
                return right(true, false, true);
            }
            // Whoever is not in a channel's discussion group may write there all the same, unless it says otherwise.
            let outside = channel.left && (channel.join_to_send || !channel.has_link);
            let silenced = forbids(channel.banned_rights.as_ref()) || forbids(channel.default_banned_rights.as_ref());
            right(!outside && !silenced, channel.slowmode_enabled, false)
        }
        tl::enums::Chat::Forbidden(_) | tl::enums::Chat::ChannelForbidden(_) => right(false, false, false),
        tl::enums::Chat::Empty(_) | tl::enums::Chat::Community(_) | tl::enums::Chat::CommunityForbidden(_) => None,
    }
}

impl JobTelegram {
    pub(super) async fn access_to(&self, chat: &Chat) -> Result<Access, TelegramError> {
        let open = Access {
            may_write: true,
            not_before: None,
        };
        if kind_of(chat)? == PeerKind::User {
            return Ok(open);
        }
        if self.rights.get(chat.id).is_none() {
            self.find_chat(chat.id).await?;
        }
        match self.rights.get(chat.id) {
            Some(right) if !right.may_write => Ok(Access {
                may_write: false,
                not_before: None,
            }),
            Some(right) if right.slow_mode => Ok(Access {
                not_before: self.slow_until(chat).await?,
                ..open
            }),
            // What is not said is found out by trying.
            _ => Ok(open),
        }
    }

    /// When slow mode lets the session write again.
    async fn slow_until(&self, chat: &Chat) -> Result<Option<DateTime<Utc>>, TelegramError> {
        let Some(channel) = self.full_channel(chat).await? else {
            return Ok(None);
        };
        // A second on top: Telegram's seconds are whole.
        let until = channel.slowmode_next_send_date.map(|date| i64::from(date) + 1);
        Ok(until.and_then(|until| DateTime::from_timestamp(until, 0)))
    }

    /// Whether what the session writes there may have another sender than its account: posts are a channel's, anonymous
    /// admins write as their group, and somebody may have chosen to write as a channel of theirs.
    pub(super) async fn may_write_as_another(&self, chat: &Chat) -> Result<bool, TelegramError> {
        match chat.chat_type {
            ChatType::Channel => return Ok(true),
            ChatType::Group | ChatType::Private => return Ok(false),
            ChatType::Supergroup => {}
        }
        if self.rights.get(chat.id).is_none() {
            self.find_chat(chat.id).await?;
        }
        if self.rights.get(chat.id).is_some_and(|right| right.runs) {
            return Ok(true);
        }
        let channel = self.full_channel(chat).await?;
        Ok(channel.is_some_and(|channel| channel.default_send_as.is_some()))
    }

    async fn full_channel(&self, chat: &Chat) -> Result<Option<tl::types::ChannelFull>, TelegramError> {
        let request = |peer: PeerRef| tl::functions::channels::GetFullChannel { channel: peer.into() };
        let tl::enums::messages::ChatFull::Full(full) = self.call_about(Action::Read, chat, request).await?;
        Ok(match full.full_chat {
            tl::enums::ChatFull::ChannelFull(channel) => Some(channel),
            tl::enums::ChatFull::Full(_) | tl::enums::ChatFull::CommunityFull(_) => None,
        })
    }
}
