//! Publishing beyond a new message: changes of messages that are there, forwards, and what is asked before.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, Draft, SentMessage, TelegramError},
    publish::{
        ports::{Access, Changed, Counts, Forward, Found, Look, Posting},
        post::{Attachment, Uploaded},
    },
};

use super::{
    JobTelegram,
    chats::{described, kind_of},
    forwards, own_error,
    text::{self, Parsed},
};
use crate::telegram::message_facts;

#[async_trait]
impl Posting for JobTelegram {
    async fn access(&self, chat: &Chat) -> Result<Access, TelegramError> {
        Box::pin(self.access_to(chat)).await
    }

    async fn chats_by_id(&self, ids: &[i64]) -> Result<Vec<Chat>, TelegramError> {
        Box::pin(self.look_up_channels(ids)).await
    }

    async fn message_counts(&self, chat: &Chat, message_ids: &[i32]) -> Result<Vec<Look>, TelegramError> {
        let messages = Box::pin(self.messages_by_id(chat, message_ids)).await?;
        Ok(messages.iter().map(look_of).collect())
    }

    async fn upload(&self, _chat: &Chat, item: &Attachment) -> Result<Uploaded, TelegramError> {
        Box::pin(self.put_in(item)).await
    }

    async fn edit_message(&self, chat: &Chat, message_id: i32, draft: &Draft) -> Result<Changed, TelegramError> {
        let parsed = Parsed::of(draft)?;
        let request = |peer: PeerRef| tl::functions::messages::EditMessage {
            no_webpage: !draft.link_preview,
            invert_media: false,
            peer: peer.into(),
            id: message_id,
            message: Some(parsed.text.clone()),
            media: None,
            reply_markup: text::markup_of(&draft.extras.buttons),
            entities: parsed.entities(),
            schedule_date: None,
            schedule_repeat_period: None,
            quick_reply_shortcut_id: None,
            rich_message: None,
        };
        let updates = Box::pin(self.call_about(Action::Other, chat, request)).await?;
        let (users, chats) = described(&updates);
        self.connection.learn(users, chats).await;
        Ok(Changed::Changed)
    }

    async fn delete_messages(&self, chat: &Chat, message_ids: &[i32]) -> Result<usize, TelegramError> {
        let answer = if kind_of(chat)? == PeerKind::Channel {
            let request = |peer: PeerRef| tl::functions::channels::DeleteMessages {
                channel: peer.into(),
                id: message_ids.to_vec(),
            };
            Box::pin(self.call_about(Action::Other, chat, request)).await?
        } else {
            // The call names no chat: a number of another chat would be deleted there.
            let there = Box::pin(self.messages_there(chat, message_ids)).await?;
            let there: Vec<i32> = there.iter().map(tl::enums::Message::id).collect();
            if there.is_empty() {
                return Ok(0);
            }
            let request = |_: PeerRef| tl::functions::messages::DeleteMessages {
                revoke: true,
                id: there.clone(),
            };
            Box::pin(self.call_about(Action::Other, chat, request)).await?
        };
        let tl::enums::messages::AffectedMessages::Messages(affected) = answer;
        Ok(usize::try_from(affected.pts_count).unwrap_or(0))
    }

    async fn pin_message(
        &self,
        chat: &Chat,
        message_id: i32,
        pinned: bool,
        silent: bool,
    ) -> Result<Changed, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::UpdatePinnedMessage {
            silent,
            unpin: !pinned,
            pm_oneside: false,
            peer: peer.into(),
            id: message_id,
        };
        Box::pin(self.call_about(Action::Other, chat, request)).await?;
        Ok(Changed::Changed)
    }

    async fn forward(&self, chat: &Chat, random_id: i64, forward: &Forward) -> Result<SentMessage, TelegramError> {
        let from = self.reference(&forward.from).await?;
        let count = forward.message_ids.len();
        let random_ids: Vec<i64> = (0..i64::try_from(count).unwrap_or(1))
            .map(|step| random_id.wrapping_add(step))
            .collect();
        let request = |peer: PeerRef| tl::functions::messages::ForwardMessages {
            silent: forward.silent,
            background: false,
            with_my_score: false,
            drop_author: forward.hide_sender,
            drop_media_captions: false,
            noforwards: forward.protect,
            allow_paid_floodskip: false,
            from_ephemeral: false,
            from_peer: from.into(),
            id: forward.message_ids.clone(),
            random_id: random_ids.clone(),
            to_peer: peer.into(),
            top_msg_id: forward.topic,
            reply_to: None,
            schedule_date: None,
            schedule_repeat_period: None,
            send_as: None,
            quick_reply_shortcut: None,
            effect: None,
            video_timestamp: None,
            allow_paid_stars: None,
            suggested_post: None,
        };
        let units = i32::try_from(count).unwrap_or(i32::MAX);
        let updates = Box::pin(self.call_of_about(units, Action::Send, chat, request)).await?;
        self.became(&updates, random_id, count).await
    }

    async fn own_forwards_like(
        &self,
        chat: &Chat,
        forward: &Forward,
        since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError> {
        let sources = forwards::in_order(
            self.messages_there(&forward.from, &forward.message_ids).await?,
            &forward.message_ids,
        );
        // Without its source nobody can tell a forward: that is no look that found none.
        let Some(sources) = sources else {
            return Err(own_error(
                "source_gone",
                "What was to be forwarded is not there any more, so the forward cannot be recognised.",
                Decision::Target,
            ));
        };
        let is_one = |message: &tl::types::Message| {
            let mut sources = sources.iter();
            sources.any(|source| forwards::is_of(message, source, forward.hide_sender))
        };
        let found = self.own_messages(chat, since, is_one).await?;
        Ok(forwards::of_all(&found, &sources, forward.hide_sender))
    }
}

impl JobTelegram {
    /// The messages of a chat that have these numbers; those that are not there, and other chats' of those numbers, are left
    /// out.
    async fn messages_there(&self, chat: &Chat, message_ids: &[i32]) -> Result<Vec<tl::enums::Message>, TelegramError> {
        let mut messages = self.messages_by_id(chat, message_ids).await?;
        messages.retain(|message| {
            let peer = match message {
                tl::enums::Message::Message(message) => &message.peer_id,
                tl::enums::Message::Service(message) => &message.peer_id,
                tl::enums::Message::Empty(_) => return false,
            };
            message_facts::peer_id(peer) == Some(chat.id)
        });
        Ok(messages)
    }

    /// Messages by their ids; one that is not there comes back empty.
    async fn messages_by_id(&self, chat: &Chat, message_ids: &[i32]) -> Result<Vec<tl::enums::Message>, TelegramError> {
        let ids = || {
            let ids = message_ids
                .iter()
                .map(|id| tl::types::InputMessageId { id: *id }.into());
            ids.collect::<Vec<tl::enums::InputMessage>>()
        };
        let answer = if kind_of(chat)? == PeerKind::Channel {
            let request = |peer: PeerRef| tl::functions::channels::GetMessages {
                channel: peer.into(),
                id: ids(),
            };
            self.call_about(Action::Read, chat, request).await?
        } else {
            let request = |_: PeerRef| tl::functions::messages::GetMessages { id: ids() };
            self.call_about(Action::Read, chat, request).await?
        };
        self.messages_of(answer).await
    }
}

fn look_of(message: &tl::enums::Message) -> Look {
    let found = match message {
        tl::enums::Message::Empty(_) => Found::Deleted,
        tl::enums::Message::Service(_) => Found::There(Counts::default()),
        tl::enums::Message::Message(message) => Found::There(Counts {
            views: message.views,
            forwards: message.forwards,
            replies: message
                .replies
                .as_ref()
                .map(|tl::enums::MessageReplies::Replies(replies)| replies.replies),
            by_reaction: message.reactions.as_ref().map(reactions).unwrap_or_default(),
        }),
    };
    Look {
        message_id: message.id(),
        found,
    }
}

/// How many there are of each; who reacted is left out.
fn reactions(reactions: &tl::enums::MessageReactions) -> BTreeMap<String, i32> {
    let tl::enums::MessageReactions::Reactions(reactions) = reactions;
    let each = reactions
        .results
        .iter()
        .filter_map(|tl::enums::ReactionCount::Count(one)| {
            let name = match &one.reaction {
                tl::enums::Reaction::Emoji(emoji) => emoji.emoticon.clone(),
                tl::enums::Reaction::CustomEmoji(emoji) => format!("custom:{}", emoji.document_id),
                tl::enums::Reaction::Paid => "paid".to_owned(),
                tl::enums::Reaction::Empty => return None,
            };
            Some((name, one.count))
        });
    each.collect()
}
