//! Telegram's updates, as far as they are about what happens in chats.

use grammers_session::{types::UpdatesState, updates::MessageBox};
use grammers_tl_types as tl;
use wireroom_jobs::message::{Message, ServiceMessage};

use crate::{
    store::{intake::Incoming, update_states::ACCOUNT_BOX},
    telegram::message_facts,
};

/// What an update says, for the account that got it; `chats` are those that came along.
pub(super) fn sort(
    update: &tl::enums::Update,
    chats: &[tl::enums::Chat],
    account_id: i64,
    incoming: &mut Vec<Incoming>,
) {
    use tl::enums::Update as U;

    match update {
        U::NewMessage(new) => came_in(&new.message, account_id, incoming),
        U::NewChannelMessage(new) => came_in(&new.message, account_id, incoming),
        U::EditMessage(edit) => edited(&edit.message, account_id, incoming),
        U::EditChannelMessage(edit) => edited(&edit.message, account_id, incoming),
        U::DeleteMessages(gone) => incoming.push(Incoming::Deleted {
            chat: None,
            message_ids: gone.messages.clone(),
        }),
        U::DeleteChannelMessages(gone) => {
            if let Some(chat) = message_facts::channel_id(gone.channel_id) {
                incoming.push(Incoming::Deleted {
                    chat: Some(chat),
                    message_ids: gone.messages.clone(),
                });
            }
        }
        U::MessageReactions(told) => {
            if let Some(chat) = message_facts::peer_id(&told.peer) {
                incoming.push(Incoming::Reactions {
                    chat,
                    message_id: told.msg_id,
                    reactions: message_facts::reactions(&told.reactions),
                });
            }
        }
        U::BotMessageReactions(told) => {
            if let Some(chat) = message_facts::peer_id(&told.peer) {
                incoming.push(Incoming::Reactions {
                    chat,
                    message_id: told.msg_id,
                    reactions: message_facts::counted(&told.reactions),
                });
            }
        }
        U::ChannelParticipant(told) => incoming.extend(came_or_went(told, chats)),
        U::Channel(changed) => lost(message_facts::channel_id(changed.channel_id), chats, incoming),
        U::Chat(changed) => lost(Some(-changed.chat_id), chats, incoming),
        U::ChatParticipants(told) => {
            if let tl::enums::ChatParticipants::Forbidden(group) = &told.participants {
                lost(Some(-group.chat_id), chats, incoming);
            }
        }
        _ => {}
    }
}

/// Somebody who came into a channel or went. Groups write a message about that, which says it: here it would be told again.
fn came_or_went(told: &tl::types::UpdateChannelParticipant, chats: &[tl::enums::Chat]) -> Option<Incoming> {
    let is_silent = chats.iter().any(
        |chat| matches!(chat, tl::enums::Chat::Channel(channel) if channel.id == told.channel_id && channel.broadcast),
    );
    let (before, now) = (
        is_in(told.prev_participant.as_ref()),
        is_in(told.new_participant.as_ref()),
    );
    if !is_silent || before == now {
        return None;
    }
    Some(Incoming::Member {
        chat: message_facts::channel_id(told.channel_id)?,
        user_id: told.user_id,
        joined: now,
        by: Some(told.actor_id).filter(|by| *by != told.user_id),
        date: message_facts::moment(told.date)?,
    })
}

fn is_in(participant: Option<&tl::enums::ChannelParticipant>) -> bool {
    use tl::enums::ChannelParticipant as P;

    match participant {
        None | Some(P::Left(_)) => false,
        Some(P::Banned(banned)) => !banned.left,
        Some(P::Participant(_) | P::ParticipantSelf(_) | P::Creator(_) | P::Admin(_)) => true,
    }
}

/// A message that has come in.
pub(super) fn came_in(message: &tl::enums::Message, account_id: i64, incoming: &mut Vec<Incoming>) {
    let Some(message) = message_facts::message(message, account_id) else {
        return;
    };
    let reason = end_of_chat(&message, account_id);
    let chat = message.chat_id;
    incoming.push(Incoming::New(message));
    if let Some(reason) = reason {
        incoming.push(Incoming::Lost {
            chat,
            reason: reason.to_owned(),
        });
    }
}

fn edited(message: &tl::enums::Message, account_id: i64, incoming: &mut Vec<Incoming>) {
    incoming.extend(message_facts::message(message, account_id).map(Incoming::Edited));
}

/// Why the account sees no more of a chat than this message.
fn end_of_chat(message: &Message, account_id: i64) -> Option<&'static str> {
    match message.service {
        Some(ServiceMessage::Left { user_id, by }) if user_id == account_id => {
            Some(if by.is_some() { "removed" } else { "left" })
        }
        // What a supergroup was made of is named in it too; there the chat goes on.
        Some(ServiceMessage::Migrated { chat_id }) if chat_id < message.chat_id => Some("migrated"),
        _ => None,
    }
}

/// Whether the update says that the account is in a supergroup or channel, where it may not have been before.
pub(super) fn tells_of_entry(update: &tl::enums::Update, chats: &[tl::enums::Chat]) -> bool {
    let tl::enums::Update::Channel(changed) = update else {
        return false;
    };
    chats.iter().any(
        |chat| matches!(chat, tl::enums::Chat::Channel(channel) if channel.id == changed.channel_id && !channel.left),
    )
}

/// Whether the account is in a chat that has changed is in the chat itself.
fn lost(chat: Option<i64>, chats: &[tl::enums::Chat], incoming: &mut Vec<Incoming>) {
    let Some(chat) = chat else { return };
    let reason = chats.iter().find_map(|seen| {
        let (id, reason) = match seen {
            tl::enums::Chat::Channel(channel) => {
                (message_facts::channel_id(channel.id)?, channel.left.then_some("left"))
            }
            tl::enums::Chat::ChannelForbidden(channel) => (message_facts::channel_id(channel.id)?, Some("forbidden")),
            tl::enums::Chat::Chat(group) => (-group.id, (group.left || group.deactivated).then_some("left")),
            tl::enums::Chat::Forbidden(group) => (-group.id, Some("forbidden")),
            _ => return None,
        };
        (id == chat).then_some(reason)?
    });
    if let Some(reason) = reason {
        incoming.push(Incoming::Lost {
            chat,
            reason: reason.to_owned(),
        });
    }
}

/// Which box a place is in, and how far it is.
pub(super) fn place_of(message_box: MessageBox) -> (Sequence, i32) {
    match message_box {
        MessageBox::Common { pts } => (Sequence::Common, pts),
        MessageBox::Secondary { qts } => (Sequence::Secondary, qts),
        MessageBox::Channel { channel_id, pts } => (Sequence::Channel(channel_id), pts),
    }
}

/// A sequence of updates that is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sequence {
    Common,
    Secondary,
    Channel(i64),
}

impl Sequence {
    /// The box that it is stored in.
    pub fn stored_in(self) -> i64 {
        match self {
            Self::Common | Self::Secondary => ACCOUNT_BOX,
            Self::Channel(id) => id,
        }
    }

    /// How far it is; `None`: nobody knows.
    pub fn place_in(self, state: &UpdatesState) -> Option<i32> {
        let pts = match self {
            Self::Common => state.pts,
            Self::Secondary => state.qts,
            // The boxes keep them sorted.
            Self::Channel(id) => {
                let at = state.channels.binary_search_by_key(&id, |channel| channel.id).ok()?;
                state.channels[at].pts
            }
        };
        (pts != 0).then_some(pts)
    }

    /// The channel whose sequence an update belongs to; `None` for the account's own, and for what is not counted.
    pub fn channel_of(update: &tl::enums::Update) -> Option<i64> {
        use tl::enums::Update as U;

        match update {
            U::NewChannelMessage(new) => channel_of_message(&new.message),
            U::EditChannelMessage(edit) => channel_of_message(&edit.message),
            U::DeleteChannelMessages(gone) => Some(gone.channel_id),
            U::ReadChannelInbox(read) => Some(read.channel_id),
            U::ChannelWebPage(page) => Some(page.channel_id),
            U::PinnedChannelMessages(pinned) => Some(pinned.channel_id),
            U::ChannelTooLong(told) => Some(told.channel_id),
            _ => None,
        }
    }
}

fn channel_of_message(message: &tl::enums::Message) -> Option<i64> {
    let peer = match message {
        tl::enums::Message::Empty(message) => message.peer_id.as_ref()?,
        tl::enums::Message::Message(message) => &message.peer_id,
        tl::enums::Message::Service(message) => &message.peer_id,
    };
    match peer {
        tl::enums::Peer::Channel(channel) => Some(channel.channel_id),
        tl::enums::Peer::User(_) | tl::enums::Peer::Chat(_) => None,
    }
}
