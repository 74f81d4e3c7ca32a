//! Messages and events as an account sees them.

use grammers_tl_types as tl;

use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::boxes::{Event, EventKind, MessageBox};
use crate::sandbox::world::hearing::Named;
use crate::sandbox::world::messages::{Content, Message};
use crate::sandbox::world::peers::PeerKey;

/// A message; `viewer` decides whether it is `out`.
pub fn tl_message(viewer: UserId, message: &Message) -> tl::enums::Message {
    match &message.content {
        Content::Text { text, entities } => tl_text_message(viewer, message, text, entities),
        Content::Service(action) => tl::types::MessageService {
            out: message.sender == PeerKey::User(viewer),
            mentioned: false,
            media_unread: false,
            reactions_are_possible: false,
            silent: message.silent,
            post: is_post(message),
            legacy: false,
            id: message.id,
            from_id: shown_sender(message),
            peer_id: message.chat.to_tl(),
            saved_peer_id: None,
            reply_to: message.reply_to.map(tl_reply_header),
            date: message.date,
            action: tl::enums::MessageAction::clone(action),
            reactions: None,
            ttl_period: None,
        }
        .into(),
    }
}

fn tl_text_message(
    viewer: UserId,
    message: &Message,
    text: &str,
    entities: &[tl::enums::MessageEntity],
) -> tl::enums::Message {
    let post = is_post(message);
    let extras = message.extras.as_deref();
    tl::types::Message {
        out: !post && message.sender == PeerKey::User(viewer),
        mentioned: false,
        media_unread: false,
        silent: message.silent,
        post,
        from_scheduled: false,
        legacy: false,
        edit_hide: false,
        pinned: extras.is_some_and(|extras| extras.pinned),
        noforwards: extras.is_some_and(|extras| extras.protected),
        invert_media: false,
        offline: false,
        video_processing_pending: false,
        paid_suggested_post_stars: false,
        paid_suggested_post_ton: false,
        id: message.id,
        from_id: shown_sender(message),
        from_boosts_applied: None,
        from_rank: None,
        peer_id: message.chat.to_tl(),
        saved_peer_id: None,
        fwd_from: extras.and_then(|extras| extras.forwarded.clone()),
        via_bot_id: None,
        via_business_bot_id: None,
        guestchat_via_from: None,
        reply_to: message
            .reply_to
            .map(|id| tl_reply_in(id, extras.and_then(|extras| extras.topic))),
        date: message.date,
        message: text.to_owned(),
        media: extras.and_then(|extras| extras.media.clone()),
        reply_markup: extras.and_then(|extras| extras.markup.clone()),
        entities: (!entities.is_empty()).then(|| entities.to_vec()),
        views: post.then_some(1),
        forwards: post.then_some(0),
        replies: None,
        edit_date: message.edit_date,
        post_author: None,
        grouped_id: extras.and_then(|extras| extras.group),
        reactions: None,
        restriction_reason: None,
        ttl_period: None,
        quick_reply_shortcut_id: None,
        effect: None,
        factcheck: None,
        report_delivery_until_date: None,
        paid_message_stars: None,
        suggested_post: None,
        schedule_repeat_period: None,
        summary_from_language: None,
        rich_message: None,
    }
    .into()
}

/// A place in a list of messages where nothing is.
pub fn tl_no_message(id: i32) -> tl::enums::Message {
    tl::types::MessageEmpty { id, peer_id: None }.into()
}

/// Written by the channel itself.
fn is_post(message: &Message) -> bool {
    matches!(message.sender, PeerKey::Channel(_))
}

/// Telegram leaves the sender out where the chat already says it: posts, and private messages of the other side.
fn shown_sender(message: &Message) -> Option<tl::enums::Peer> {
    (message.sender != message.chat).then(|| message.sender.to_tl())
}

fn tl_reply_header(id: i32) -> tl::enums::MessageReplyHeader {
    tl_reply_in(id, None)
}

fn tl_reply_in(id: i32, topic: Option<i32>) -> tl::enums::MessageReplyHeader {
    tl::types::MessageReplyHeader {
        reply_to_scheduled: false,
        forum_topic: topic.is_some(),
        quote: false,
        reply_to_ephemeral: false,
        reply_to_msg_id: Some(id),
        reply_to_peer_id: None,
        reply_from: None,
        reply_media: None,
        reply_to_top_id: topic.filter(|topic| *topic != id),
        quote_text: None,
        quote_entities: None,
        quote_offset: None,
        todo_item_id: None,
        poll_option: None,
    }
    .into()
}

impl World {
    /// An event of a channel, for one of its members. `None` when the message is gone since, which clients learn
    /// from the later event.
    pub fn tl_channel_event(
        &self,
        viewer: UserId,
        channel_id: i64,
        event: &Event,
        named: &mut Named,
    ) -> Option<tl::enums::Update> {
        let posts = &self.channels.get(&channel_id)?.posts;
        let (pts, pts_count) = (event.pts, event.count);
        match &event.kind {
            EventKind::New(id) => {
                let message = shown(viewer, posts, *id, named)?;
                Some(
                    tl::types::UpdateNewChannelMessage {
                        message,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
            EventKind::Edited(id) => {
                let message = shown(viewer, posts, *id, named)?;
                Some(
                    tl::types::UpdateEditChannelMessage {
                        message,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
            EventKind::Deleted(ids) => {
                named.peer(PeerKey::Channel(channel_id));
                let messages = ids.clone();
                Some(
                    tl::types::UpdateDeleteChannelMessages {
                        channel_id,
                        messages,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
            EventKind::ReadInbox(..) | EventKind::ReadOutbox(..) => None,
        }
    }

    /// An event of an account's own box.
    pub fn tl_inbox_event(&self, owner: UserId, event: &Event, named: &mut Named) -> Option<tl::enums::Update> {
        let inbox = &self.accounts.get(&owner)?.inbox;
        let (pts, pts_count) = (event.pts, event.count);
        match &event.kind {
            EventKind::New(id) => {
                let message = shown(owner, inbox, *id, named)?;
                Some(
                    tl::types::UpdateNewMessage {
                        message,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
            EventKind::Edited(id) => {
                let message = shown(owner, inbox, *id, named)?;
                Some(
                    tl::types::UpdateEditMessage {
                        message,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
            EventKind::Deleted(ids) => Some(
                tl::types::UpdateDeleteMessages {
                    messages: ids.clone(),
                    pts,
                    pts_count,
                }
                .into(),
            ),
            EventKind::ReadInbox(chat, max_id) => {
                named.peer(*chat);
                let peer = chat.to_tl();
                let still_unread_count = self.unread_in_inbox(owner, *chat);
                Some(
                    tl::types::UpdateReadHistoryInbox {
                        folder_id: None,
                        peer,
                        top_msg_id: None,
                        max_id: *max_id,
                        still_unread_count,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
            EventKind::ReadOutbox(chat, max_id) => {
                named.peer(*chat);
                let peer = chat.to_tl();
                Some(
                    tl::types::UpdateReadHistoryOutbox {
                        peer,
                        max_id: *max_id,
                        pts,
                        pts_count,
                    }
                    .into(),
                )
            }
        }
    }
}

fn shown(viewer: UserId, messages: &MessageBox, id: i32, named: &mut Named) -> Option<tl::enums::Message> {
    let message = messages.get(id)?;
    named.message(message);
    Some(tl_message(viewer, message))
}
