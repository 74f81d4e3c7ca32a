//! The list of an account's chats, with what is unread in each.

use grammers_tl_types as tl;

use super::users::tl_notify_settings;
use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::channels::Channel;
use crate::sandbox::world::messages::Message;
use crate::sandbox::world::peers::PeerKey;

/// A chat with its newest message.
#[derive(Debug, Clone, Copy)]
pub struct DialogRow {
    pub chat: PeerKey,
    pub top_message: i32,
    pub date: i32,
}

impl World {
    /// The chats of an account, newest message first.
    pub fn dialog_rows(&self, me: UserId) -> Vec<DialogRow> {
        let mut rows: Vec<DialogRow> = self
            .channels
            .values()
            .filter(|channel| channel.members.contains(me))
            .map(|channel| DialogRow {
                chat: PeerKey::Channel(channel.id),
                top_message: channel.top_message(),
                date: channel
                    .posts
                    .newest_first()
                    .next()
                    .map_or(channel.created, |message| message.date),
            })
            .collect();
        if let Some(account) = self.accounts.get(&me) {
            let mut seen = std::collections::BTreeSet::new();
            rows.extend(
                account
                    .inbox
                    .newest_first()
                    .filter(|message| seen.insert(message.chat))
                    .map(|message| DialogRow {
                        chat: message.chat,
                        top_message: message.id,
                        date: message.date,
                    }),
            );
        }
        rows.sort_by_key(|row| std::cmp::Reverse((row.date, row.top_message, row.chat)));
        rows
    }

    /// One line of the list.
    pub fn tl_dialog(&self, me: UserId, row: &DialogRow) -> tl::types::Dialog {
        let marks = self.marks(me, row.chat);
        tl::types::Dialog {
            pinned: false,
            unread_mark: false,
            view_forum_as_messages: false,
            peer: row.chat.to_tl(),
            top_message: row.top_message,
            read_inbox_max_id: marks.read_inbox,
            read_outbox_max_id: marks.read_outbox,
            unread_count: marks.unread,
            unread_mentions_count: 0,
            unread_reactions_count: 0,
            unread_poll_votes_count: 0,
            notify_settings: tl_notify_settings(),
            pts: marks.pts,
            draft: None,
            folder_id: None,
            ttl_period: None,
        }
    }

    /// The newest message of a line.
    pub fn dialog_message(&self, me: UserId, row: &DialogRow) -> Option<&Message> {
        self.readable_box(me, row.chat).ok()?.get(row.top_message)
    }

    /// How many messages of others `me` has not read in a chat of its own box.
    pub fn unread_in_inbox(&self, me: UserId, chat: PeerKey) -> i32 {
        let Some(account) = self.accounts.get(&me) else {
            return 0;
        };
        let read = account.read_inbox.get(&chat).copied().unwrap_or(0);
        let later = account.inbox.range(read + 1..).filter(|message| message.chat == chat);
        count(later.filter(|message| message.sender != PeerKey::User(me)))
    }

    /// The same for a channel; nothing is unread for those who are not in it.
    pub fn unread_in_channel(&self, me: UserId, channel: &Channel) -> i32 {
        let Some(read) = channel.read.get(&me) else { return 0 };
        count(
            channel
                .posts
                .range(read + 1..)
                .filter(|message| message.sender != PeerKey::User(me)),
        )
    }

    /// The newest message that any other account has read.
    pub fn channel_read_by_others(&self, me: UserId, channel: &Channel) -> i32 {
        channel
            .read
            .iter()
            .filter(|(reader, _)| **reader != me)
            .map(|(_, read)| *read)
            .max()
            .unwrap_or(0)
    }

    fn marks(&self, me: UserId, chat: PeerKey) -> Marks {
        if let PeerKey::Channel(id) = chat {
            return self.channels.get(&id).map_or_else(Marks::default, |channel| Marks {
                read_inbox: channel.read.get(&me).copied().unwrap_or(0),
                read_outbox: self.channel_read_by_others(me, channel),
                unread: self.unread_in_channel(me, channel),
                pts: Some(channel.posts.pts()),
            });
        }
        self.accounts.get(&me).map_or_else(Marks::default, |account| Marks {
            read_inbox: account.read_inbox.get(&chat).copied().unwrap_or(0),
            read_outbox: account.read_outbox.get(&chat).copied().unwrap_or(0),
            unread: self.unread_in_inbox(me, chat),
            pts: None,
        })
    }
}

#[derive(Default)]
struct Marks {
    read_inbox: i32,
    read_outbox: i32,
    unread: i32,
    pts: Option<i32>,
}

fn count<'a>(messages: impl Iterator<Item = &'a Message>) -> i32 {
    i32::try_from(messages.count()).unwrap_or(i32::MAX)
}
