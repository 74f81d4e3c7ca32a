//! Reading a chat's messages in the order in which they were written.

use chrono::{DateTime, Utc};
use grammers_session::types::{PeerId, PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    message::Message,
    ports::{Chat, ChatType, Decision, HistoryPage, PrivateNews, TelegramError},
};

use super::{JobTelegram, chats::peer_number, own_error};
use crate::telegram::message_facts;

/// The most messages, and the most chats, one request gives.
const PAGE: i32 = 100;
/// Most pages of chats that are looked through for private ones with something new.
const DIALOG_PAGES: usize = 50;

/// What to cut out of a history.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    offset_id: i32,
    offset_date: i32,
    add_offset: i32,
    limit: i32,
}

impl JobTelegram {
    pub(super) async fn newest(&self, chat: Option<&Chat>) -> Result<i32, TelegramError> {
        let Some(chat) = chat else {
            return self.newest_own().await;
        };
        let newest = Cut {
            limit: 1,
            ..Cut::default()
        };
        Ok(highest(&self.cut(chat, newest).await?))
    }

    /// Of the account's private chats and basic groups.
    async fn newest_own(&self) -> Result<i32, TelegramError> {
        let mut newest = 0;
        let mut from = None;
        for _ in 0..DIALOG_PAGES {
            let page = self.page_of_dialogs(from).await?;
            newest = page.own.iter().map(|dialog| dialog.top_message).fold(newest, i32::max);
            // Pinned ones come first, whatever their age; after them each is older than the one before.
            match page.next {
                Some(next) if page.own.iter().all(|dialog| dialog.is_pinned) => from = Some(next),
                _ => break,
            }
        }
        Ok(newest)
    }

    pub(super) async fn recent(&self, chat: &Chat) -> Result<Vec<i32>, TelegramError> {
        let recent = Cut {
            limit: PAGE,
            ..Cut::default()
        };
        let found = self.cut(chat, recent).await?;
        let written = found.iter().filter_map(|message| match message {
            tl::enums::Message::Message(message) => Some(message.id),
            tl::enums::Message::Service(_) | tl::enums::Message::Empty(_) => None,
        });
        Ok(written.collect())
    }

    pub(super) async fn newest_until(&self, chat: &Chat, time: DateTime<Utc>) -> Result<i32, TelegramError> {
        let until = Cut {
            // Messages of that very second are taken too.
            offset_date: i32::try_from(time.timestamp()).unwrap_or(i32::MAX).saturating_add(1),
            limit: 1,
            ..Cut::default()
        };
        Ok(highest(&self.cut(chat, until).await?))
    }

    /// The oldest messages that are newer than `after`.
    pub(super) async fn page_after(&self, chat: &Chat, after: i32) -> Result<HistoryPage, TelegramError> {
        let cut = Cut {
            offset_id: after.saturating_add(1),
            add_offset: -PAGE,
            limit: PAGE,
            ..Cut::default()
        };
        let mut found = self.cut(chat, cut).await?;
        found.retain(|message| message.id() > after);
        found.sort_unstable_by_key(tl::enums::Message::id);
        Ok(HistoryPage {
            reaches: highest(&found).max(after),
            is_last: found.len() < usize::try_from(PAGE).unwrap_or(usize::MAX),
            messages: self.read(&found),
        })
    }

    /// The private chats with something newer than `after`, and what was the newest of all before they were looked for.
    pub(super) async fn private_chats_after(&self, after: i32) -> Result<PrivateNews, TelegramError> {
        let reaches = self.newest_own().await?.max(after);
        let chats = self.private_dialogs_after(after).await?;
        Ok(PrivateNews { chats, reaches })
    }

    /// The private chats with something newer than `after`.
    async fn private_dialogs_after(&self, after: i32) -> Result<Vec<Chat>, TelegramError> {
        let (mut found, is_one_page) = self.look_through_dialogs(after).await?;
        if !is_one_page {
            // A chat to which something came meanwhile has moved to a page that was read before.
            for chat in self.look_through_dialogs(after).await?.0 {
                if found.iter().all(|known| known.id != chat.id) {
                    found.push(chat);
                }
            }
        }
        Ok(found)
    }

    /// As [`Self::private_dialogs_after`], in one go; and whether that took one page.
    async fn look_through_dialogs(&self, after: i32) -> Result<(Vec<Chat>, bool), TelegramError> {
        let mut found = Vec::new();
        let mut from = None;
        for pages in 1..=DIALOG_PAGES {
            let page = self.page_of_dialogs(from).await?;
            let fresh = page.own.iter().filter(|dialog| dialog.top_message > after);
            found.extend(fresh.filter_map(|dialog| dialog.person.clone()));
            // Pinned ones come first, whatever their age; after them each is older than the one before, channels among them:
            // the first of the account's own that has nothing new is the end of it.
            let is_past = page
                .own
                .iter()
                .any(|dialog| !dialog.is_pinned && dialog.top_message <= after);
            match page.next {
                Some(next) if !is_past => from = Some(next),
                _ => return Ok((found, pages == 1)),
            }
        }
        Err(own_error(
            "too_many_chats",
            "More private chats have something new than can be looked through.",
            Decision::Retry,
        ))
    }

    async fn page_of_dialogs(&self, from: Option<Place>) -> Result<Dialogs, TelegramError> {
        let place = from.unwrap_or(Place {
            date: 0,
            id: 0,
            peer: tl::enums::InputPeer::Empty,
        });
        let request = tl::functions::messages::GetDialogs {
            exclude_pinned: false,
            folder_id: None,
            offset_date: place.date,
            offset_id: place.id,
            offset_peer: place.peer,
            limit: PAGE,
            hash: 0,
        };
        let (dialogs, messages, chats, users, is_part) = match self.call(Action::Read, None, &request).await? {
            tl::enums::messages::Dialogs::Dialogs(all) => (all.dialogs, all.messages, all.chats, all.users, false),
            tl::enums::messages::Dialogs::Slice(part) => (part.dialogs, part.messages, part.chats, part.users, true),
            tl::enums::messages::Dialogs::NotModified(_) => {
                return Err(own_error(
                    "dialogs_not_given",
                    "Telegram did not give the account's chats.",
                    Decision::Retry,
                ));
            }
        };
        self.connection.learn(&users, &chats).await;
        let rows: Vec<&tl::types::Dialog> = dialogs
            .iter()
            .filter_map(|dialog| match dialog {
                tl::enums::Dialog::Dialog(dialog) => Some(dialog),
                tl::enums::Dialog::Folder(_) | tl::enums::Dialog::Community(_) => None,
            })
            .collect();
        let next = match rows.last() {
            Some(last) if is_part => self.place_of(last, &messages).await?,
            _ => None,
        };
        let own = rows.iter().filter_map(|row| own_dialog(row)).collect();
        Ok(Dialogs { own, next })
    }

    async fn place_of(
        &self,
        dialog: &tl::types::Dialog,
        messages: &[tl::enums::Message],
    ) -> Result<Option<Place>, TelegramError> {
        let date = messages.iter().find_map(|message| match message {
            tl::enums::Message::Message(message) => {
                (message.id == dialog.top_message && message.peer_id == dialog.peer).then_some(message.date)
            }
            tl::enums::Message::Service(message) => {
                (message.id == dialog.top_message && message.peer_id == dialog.peer).then_some(message.date)
            }
            tl::enums::Message::Empty(_) => None,
        });
        let peer = match peer_number(&dialog.peer) {
            Some(id) => self.known_reference(id).await?,
            None => None,
        };
        Ok(date.map(|date| Place {
            date,
            id: dialog.top_message,
            // By the date alone, when nothing is known of the peer.
            peer: peer.map_or(tl::enums::InputPeer::Empty, Into::into),
        }))
    }

    async fn cut(&self, chat: &Chat, cut: Cut) -> Result<Vec<tl::enums::Message>, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetHistory {
            peer: peer.into(),
            offset_id: cut.offset_id,
            offset_date: cut.offset_date,
            add_offset: cut.add_offset,
            limit: cut.limit,
            max_id: 0,
            min_id: 0,
            hash: 0,
        };
        let answer = self.call_about(Action::Read, chat, request).await?;
        self.begin_updates(chat, &answer);
        self.messages_of(answer).await
    }

    /// A channel that has told nothing yet has no place in the updates: without one, nobody would notice that the first
    /// ones were lost.
    fn begin_updates(&self, chat: &Chat, answer: &tl::enums::messages::Messages) {
        let peer = PeerId::from_bot_api_dialog_id(chat.id).filter(|peer| peer.kind() == PeerKind::Channel);
        let channel = peer.and_then(PeerId::bare_id);
        if let (Some(channel), tl::enums::messages::Messages::ChannelMessages(page)) = (channel, answer) {
            self.connection.begin_channel(channel, page.pts);
        }
    }

    fn read(&self, messages: &[tl::enums::Message]) -> Vec<Message> {
        let account = self.connection.storage().account_id();
        messages
            .iter()
            .filter_map(|message| message_facts::message(message, account))
            .collect()
    }
}

/// A page of the account's chats.
struct Dialogs {
    /// Private chats and basic groups, whose messages are numbered by account.
    own: Vec<OwnDialog>,
    /// Where the next page begins; `None`: this was the last.
    next: Option<Place>,
}

struct OwnDialog {
    top_message: i32,
    /// `None`: a basic group.
    person: Option<Chat>,
    is_pinned: bool,
}

struct Place {
    date: i32,
    id: i32,
    peer: tl::enums::InputPeer,
}

fn own_dialog(dialog: &tl::types::Dialog) -> Option<OwnDialog> {
    let person = match &dialog.peer {
        tl::enums::Peer::User(_) => Some(Chat {
            id: peer_number(&dialog.peer)?,
            chat_type: ChatType::Private,
            title: String::new(),
            username: None,
            member_count: None,
            member: true,
        }),
        tl::enums::Peer::Chat(_) => None,
        tl::enums::Peer::Channel(_) => return None,
    };
    Some(OwnDialog {
        top_message: dialog.top_message,
        person,
        is_pinned: dialog.pinned,
    })
}

fn highest(messages: &[tl::enums::Message]) -> i32 {
    messages.iter().map(tl::enums::Message::id).max().unwrap_or(0)
}
