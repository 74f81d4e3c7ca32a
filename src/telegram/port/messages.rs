//! Sending a message, and looking for one that may have been sent.

use chrono::{DateTime, Utc};
use grammers_session::types::PeerRef;
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, ChatType, Decision, Draft, SentMessage, TelegramError},
};

use super::{JobTelegram, chats::described, own_error, text::Parsed};

/// Messages of one request.
const PAGE: i32 = 100;
/// How many requests a look may take. When that is not enough, it has not looked.
const PAGES: usize = 100;

impl JobTelegram {
    pub(super) async fn send(&self, chat: &Chat, random_id: i64, draft: &Draft) -> Result<SentMessage, TelegramError> {
        let parsed = Parsed::of(draft);
        let request = |peer: PeerRef| tl::functions::messages::SendMessage {
            no_webpage: !draft.link_preview,
            silent: draft.silent,
            background: false,
            clear_draft: false,
            noforwards: false,
            update_stickersets_order: false,
            invert_media: false,
            allow_paid_floodskip: false,
            peer: peer.into(),
            reply_to: None,
            message: parsed.text.clone(),
            random_id,
            reply_markup: None,
            entities: Some(parsed.entities.clone()).filter(|entities| !entities.is_empty()),
            schedule_date: None,
            schedule_repeat_period: None,
            send_as: None,
            quick_reply_shortcut: None,
            effect: None,
            allow_paid_stars: None,
            suggested_post: None,
            rich_message: None,
        };
        let updates = Box::pin(self.call_about(Action::Send, chat, request)).await?;
        let (users, chats) = described(&updates);
        self.connection.learn(users, chats).await;
        sent_message(&updates, random_id).ok_or_else(|| {
            own_error(
                "sent_without_id",
                "Telegram took the message and did not say which one it became.",
                Decision::Retry,
            )
        })
    }

    pub(super) async fn own_like(
        &self,
        chat: &Chat,
        draft: &Draft,
        since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError> {
        let parsed = Parsed::of(draft);
        // Telegram dates messages in whole seconds.
        let since = i32::try_from(since.timestamp()).unwrap_or(0);
        let mut found = Vec::new();
        let mut before = 0;
        for _ in 0..PAGES {
            let page = self.page_of_own(chat, before, since).await?;
            let Some(oldest) = page.iter().map(tl::enums::Message::id).min() else {
                found.reverse();
                return Ok(found);
            };
            let messages = page.iter().filter_map(|message| match message {
                tl::enums::Message::Message(message) => Some(message),
                tl::enums::Message::Empty(_) | tl::enums::Message::Service(_) => None,
            });
            for message in messages {
                if message.date >= since && message.out && parsed.says(&message.message) {
                    found.extend(sent(message.id, message.date));
                }
            }
            let is_past = page.iter().filter_map(date_of).any(|date| date < since);
            if is_past || oldest <= 1 {
                found.reverse();
                return Ok(found);
            }
            before = oldest;
        }
        Err(own_error(
            "history_too_long",
            "There are more messages since then than can be looked through.",
            Decision::Target,
        ))
    }

    /// A page of the session's own messages, newest first, older than the message `before` (0: from the newest).
    async fn page_of_own(
        &self,
        chat: &Chat,
        before: i32,
        since: i32,
    ) -> Result<Vec<tl::enums::Message>, TelegramError> {
        let answer = if chat.chat_type == ChatType::Channel {
            // A post is the channel's: it has no sender to search by.
            let request = |peer: PeerRef| tl::functions::messages::GetHistory {
                peer: peer.into(),
                offset_id: before,
                offset_date: 0,
                add_offset: 0,
                limit: PAGE,
                max_id: 0,
                min_id: 0,
                hash: 0,
            };
            self.call_about(Action::Read, chat, request).await?
        } else {
            let request = |peer: PeerRef| tl::functions::messages::Search {
                peer: peer.into(),
                q: String::new(),
                from_id: Some(tl::enums::InputPeer::PeerSelf),
                saved_peer_id: None,
                saved_reaction: None,
                top_msg_id: None,
                filter: tl::enums::MessagesFilter::InputMessagesFilterEmpty,
                // Messages of that very second are left out by Telegram.
                min_date: since.saturating_sub(1),
                max_date: 0,
                offset_id: before,
                add_offset: 0,
                limit: PAGE,
                max_id: 0,
                min_id: 0,
                hash: 0,
            };
            self.call_about(Action::Read, chat, request).await?
        };
        self.messages_of(answer).await
    }

    /// The messages of an answer, whose people and chats are remembered.
    pub(super) async fn messages_of(
        &self,
        answer: tl::enums::messages::Messages,
    ) -> Result<Vec<tl::enums::Message>, TelegramError> {
        let (messages, users, chats) = match answer {
            tl::enums::messages::Messages::Messages(page) => (page.messages, page.users, page.chats),
            tl::enums::messages::Messages::Slice(page) => (page.messages, page.users, page.chats),
            tl::enums::messages::Messages::ChannelMessages(page) => (page.messages, page.users, page.chats),
            tl::enums::messages::Messages::NotModified(_) => {
                return Err(own_error(
                    "history_not_given",
                    "Telegram did not give the chat's messages.",
                    Decision::Retry,
                ));
            }
        };
        self.connection.learn(&users, &chats).await;
        Ok(messages)
    }
}

/// The message that a send became: by its `random_id`, whatever form the answer has.
fn sent_message(updates: &tl::enums::Updates, random_id: i64) -> Option<SentMessage> {
    let (list, date) = match updates {
        tl::enums::Updates::Updates(updates) => (updates.updates.as_slice(), updates.date),
        tl::enums::Updates::Combined(updates) => (updates.updates.as_slice(), updates.date),
        tl::enums::Updates::UpdateShort(short) => (std::slice::from_ref(&short.update), short.date),
        tl::enums::Updates::UpdateShortSentMessage(short) => return sent(short.id, short.date),
        tl::enums::Updates::TooLong
        | tl::enums::Updates::UpdateShortMessage(_)
        | tl::enums::Updates::UpdateShortChatMessage(_) => return None,
    };
    let id = list.iter().find_map(|update| match update {
        tl::enums::Update::MessageId(named) if named.random_id == random_id => Some(named.id),
        _ => None,
    })?;
    let dated = list.iter().find_map(|update| {
        let message = match update {
            tl::enums::Update::NewMessage(new) => &new.message,
            tl::enums::Update::NewChannelMessage(new) => &new.message,
            _ => return None,
        };
        (message.id() == id).then(|| date_of(message)).flatten()
    });
    sent(id, dated.unwrap_or(date))
}

fn date_of(message: &tl::enums::Message) -> Option<i32> {
    match message {
        tl::enums::Message::Message(message) => Some(message.date),
        tl::enums::Message::Service(message) => Some(message.date),
        tl::enums::Message::Empty(_) => None,
    }
}

fn sent(message_id: i32, date: i32) -> Option<SentMessage> {
    let date = DateTime::<Utc>::from_timestamp(date.into(), 0)?;
    Some(SentMessage { message_id, date })
}
