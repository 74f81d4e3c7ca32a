//! Sending a message, and looking for one that may have been sent.

use chrono::{DateTime, Utc};
use grammers_session::types::PeerRef;
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, Draft, SentMessage, TelegramError},
};

use super::{
    JobTelegram,
    chats::described,
    media, own_error,
    text::{self, Parsed},
};

/// Messages of one request.
const PAGE: i32 = 100;
/// How many requests a look may take. When that is not enough, it has not looked.
const PAGES: usize = 100;

impl JobTelegram {
    pub(super) async fn send(&self, chat: &Chat, random_id: i64, draft: &Draft) -> Result<SentMessage, TelegramError> {
        let parsed = Parsed::of(draft)?;
        let media = media::inputs(&draft.extras.media)?;
        let updates = match media.as_slice() {
            [] => self.send_text(chat, random_id, draft, &parsed).await?,
            [one] => self.send_media(chat, random_id, draft, &parsed, one).await?,
            several => self.send_album(chat, random_id, draft, &parsed, several).await?,
        };
        self.became(&updates, random_id, media.len().max(1)).await
    }

    async fn send_text(
        &self,
        chat: &Chat,
        random_id: i64,
        draft: &Draft,
        parsed: &Parsed,
    ) -> Result<tl::enums::Updates, TelegramError> {
        let extras = &draft.extras;
        let request = |peer: PeerRef| tl::functions::messages::SendMessage {
            no_webpage: !draft.link_preview,
            silent: draft.silent,
            background: false,
            clear_draft: false,
            noforwards: extras.protect,
            update_stickersets_order: false,
            invert_media: false,
            allow_paid_floodskip: false,
            peer: peer.into(),
            reply_to: text::reply(extras.reply_to, extras.topic),
            message: parsed.text.clone(),
            random_id,
            reply_markup: text::markup_of(&extras.buttons),
            entities: parsed.entities(),
            schedule_date: extras.schedule_at.map(text::seconds),
            schedule_repeat_period: None,
            send_as: None,
            quick_reply_shortcut: None,
            effect: None,
            allow_paid_stars: None,
            suggested_post: None,
            rich_message: None,
        };
        Box::pin(self.call_about(Action::Send, chat, request)).await
    }

    /// The message, or messages, that a send became.
    pub(super) async fn became(
        &self,
        updates: &tl::enums::Updates,
        random_id: i64,
        count: usize,
    ) -> Result<SentMessage, TelegramError> {
        let (users, chats) = described(updates);
        self.connection.learn(users, chats).await;
        sent_messages(updates, random_id, count).ok_or_else(|| {
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
        let parsed = Parsed::of(draft)?;
        let media = media::inputs(&draft.extras.media)?;
        let is_like = |message: &tl::types::Message| {
            parsed.says(&message.message) && media::is(message.media.as_ref(), media.first())
        };
        if let Some(at) = draft.extras.schedule_at {
            let waiting = self.own_scheduled(chat, text::seconds(at), &is_like).await?;
            // Shown already, it is among the others.
            if !waiting.is_empty() || at > self.settings.clock.now() {
                return Ok(waiting);
            }
        }
        let found = self.own_messages(chat, since, is_like).await?;
        if media.len() < 2 {
            return Ok(found.iter().map(one).collect());
        }
        // The album's caption is on its first message; the others have the same group.
        let of_group = |message: &tl::types::Message| message.grouped_id.is_some();
        let grouped = self.own_messages(chat, since, of_group).await?;
        let albums = found.iter().map(|first| {
            let rest = grouped
                .iter()
                .filter(|other| other.grouped_id == first.grouped_id && other.id != first.id);
            SentMessage {
                others: rest.map(|other| other.id).collect(),
                ..one(first)
            }
        });
        Ok(albums.collect())
    }

    /// The session's own messages that wait at Telegram for that time.
    async fn own_scheduled(
        &self,
        chat: &Chat,
        at: i32,
        is_like: &(impl Fn(&tl::types::Message) -> bool + Sync),
    ) -> Result<Vec<SentMessage>, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetScheduledHistory {
            peer: peer.into(),
            hash: 0,
        };
        let answer = self.call_about(Action::Read, chat, request).await?;
        let messages = self.messages_of(answer).await?;
        let waiting = messages.iter().filter_map(|message| match message {
            tl::enums::Message::Message(message) => Some(message),
            tl::enums::Message::Empty(_) | tl::enums::Message::Service(_) => None,
        });
        Ok(waiting
            .filter(|message| message.date == at && is_like(message))
            .map(|message| SentMessage {
                message_id: -message.id,
                ..one(message)
            })
            .collect())
    }

    /// The session's own messages since then that are wanted, oldest first.
    pub(super) async fn own_messages(
        &self,
        chat: &Chat,
        since: DateTime<Utc>,
        is_wanted: impl Fn(&tl::types::Message) -> bool + Sync,
    ) -> Result<Vec<tl::types::Message>, TelegramError> {
        // Telegram dates messages in whole seconds.
        let since = i32::try_from(since.timestamp()).unwrap_or(0);
        let any_sender = Box::pin(self.may_write_as_another(chat)).await?;
        let mut found = Vec::new();
        let mut before = 0;
        for _ in 0..PAGES {
            let page = self.page_of_own(chat, any_sender, before, since).await?;
            let Some(oldest) = page.iter().map(tl::enums::Message::id).min() else {
                found.reverse();
                return Ok(found);
            };
            let is_past = page.iter().filter_map(date_of).any(|date| date < since);
            for message in page {
                if let tl::enums::Message::Message(message) = message
                    && message.date >= since
                    && message.out
                    && is_wanted(&message)
                {
                    found.push(message);
                }
            }
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

    /// A page of the session's own messages, newest first, older than the message `before` (0: from the newest); of everybody's
    /// with `any_sender`.
    async fn page_of_own(
        &self,
        chat: &Chat,
        any_sender: bool,
        before: i32,
        since: i32,
    ) -> Result<Vec<tl::enums::Message>, TelegramError> {
        let answer = if any_sender {
            // What was not sent as the account cannot be searched for by it.
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

/// The messages that a send became: by its `random_id` and those after it, whatever form the answer has.
fn sent_messages(updates: &tl::enums::Updates, random_id: i64, count: usize) -> Option<SentMessage> {
    let (list, date) = match updates {
        tl::enums::Updates::Updates(updates) => (updates.updates.as_slice(), updates.date),
        tl::enums::Updates::Combined(updates) => (updates.updates.as_slice(), updates.date),
        tl::enums::Updates::UpdateShort(short) => (std::slice::from_ref(&short.update), short.date),
        tl::enums::Updates::UpdateShortSentMessage(short) => return sent(short.id, short.date),
        tl::enums::Updates::TooLong
        | tl::enums::Updates::UpdateShortMessage(_)
        | tl::enums::Updates::UpdateShortChatMessage(_) => return None,
    };
    let named = |random_id: i64| {
        list.iter().find_map(|update| match update {
            tl::enums::Update::MessageId(named) if named.random_id == random_id => Some(named.id),
            _ => None,
        })
    };
    let id = named(random_id)?;
    let mut is_scheduled = false;
    let dated = list.iter().find_map(|update| {
        let message = match update {
            tl::enums::Update::NewMessage(new) => &new.message,
            tl::enums::Update::NewChannelMessage(new) => &new.message,
            tl::enums::Update::NewScheduledMessage(new) => {
                is_scheduled = true;
                &new.message
            }
            _ => return None,
        };
        (message.id() == id).then(|| date_of(message)).flatten()
    });
    let sent = sent(if is_scheduled { -id } else { id }, dated.unwrap_or(date))?;
    let count = i64::try_from(count).unwrap_or(1);
    let others = (1..count).filter_map(|step| named(random_id.wrapping_add(step)));
    Some(SentMessage {
        others: others.collect(),
        ..sent
    })
}

fn one(message: &tl::types::Message) -> SentMessage {
    SentMessage {
        message_id: message.id,
        date: DateTime::<Utc>::from_timestamp(message.date.into(), 0).unwrap_or_default(),
        others: Vec::new(),
    }
}

pub(super) fn date_of(message: &tl::enums::Message) -> Option<i32> {
    match message {
        tl::enums::Message::Message(message) => Some(message.date),
        tl::enums::Message::Service(message) => Some(message.date),
        tl::enums::Message::Empty(_) => None,
    }
}

fn sent(message_id: i32, date: i32) -> Option<SentMessage> {
    let date = DateTime::<Utc>::from_timestamp(date.into(), 0)?;
    Some(SentMessage {
        message_id,
        date,
        others: Vec::new(),
    })
}
