//! A message of Telegram's as Wireroom stores and tells it. Pure: what came in over the wire is all that is looked at.

use chrono::{DateTime, Utc};
use grammers_session::types::PeerId;
use grammers_tl_types::{self as tl, Serializable};
use wireroom_jobs::message::{MediaKind, Message, Reaction, ServiceMessage};

/// The message, as the account `account_id` sees it; `None` for an empty one, and for a chat whose id is none.
pub fn message(message: &tl::enums::Message, account_id: i64) -> Option<Message> {
    match message {
        tl::enums::Message::Empty(_) => None,
        tl::enums::Message::Message(message) => written(message, account_id),
        tl::enums::Message::Service(message) => by_telegram(message, account_id),
    }
}

/// A peer's id in the Bot API's form.
pub fn peer_id(peer: &tl::enums::Peer) -> Option<i64> {
    match peer {
        tl::enums::Peer::User(user) => PeerId::user(user.user_id),
        tl::enums::Peer::Chat(chat) => PeerId::chat(chat.chat_id),
        tl::enums::Peer::Channel(channel) => PeerId::channel(channel.channel_id),
    }?
    .bot_api_dialog_id()
}

/// A channel's or supergroup's id in the Bot API's form.
pub fn channel_id(bare: i64) -> Option<i64> {
    PeerId::channel(bare)?.bot_api_dialog_id()
}

/// How many times each reaction was given, the most frequent first.
pub fn reactions(reactions: &tl::enums::MessageReactions) -> Vec<Reaction> {
    let tl::enums::MessageReactions::Reactions(reactions) = reactions;
    counted(&reactions.results)
}

/// [`reactions`], from the counts alone.
pub fn counted(counts: &[tl::enums::ReactionCount]) -> Vec<Reaction> {
    let mut counted: Vec<Reaction> = counts.iter().filter_map(named).collect();
    counted.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reaction.cmp(&b.reaction)));
    counted
}

fn named(count: &tl::enums::ReactionCount) -> Option<Reaction> {
    let tl::enums::ReactionCount::Count(count) = count;
    let reaction = match &count.reaction {
        tl::enums::Reaction::Empty => return None,
        tl::enums::Reaction::Emoji(emoji) => emoji.emoticon.clone(),
        tl::enums::Reaction::CustomEmoji(custom) => format!("custom:{}", custom.document_id),
        tl::enums::Reaction::Paid => "paid".to_owned(),
    };
    Some(Reaction {
        reaction,
        count: count.count,
    })
}

fn written(message: &tl::types::Message, account_id: i64) -> Option<Message> {
    let thread = Thread::of(message.reply_to.as_ref());
    Some(Message {
        id: message.id,
        chat_id: peer_id(&message.peer_id)?,
        date: moment(message.date)?,
        // Hidden: a reaction or the like has changed it, and not who wrote it.
        edited_at: message.edit_date.filter(|_| !message.edit_hide).and_then(moment),
        sender_id: sender(message.from_id.as_ref(), &message.peer_id, message.out, account_id),
        outgoing: message.out,
        text: storable(&message.message),
        media: message.media.as_ref().and_then(media),
        reply_to: thread.reply_to,
        topic: thread.topic,
        album: message.grouped_id,
        views: message.views,
        forwards: message.forwards,
        reactions: message.reactions.as_ref().map(reactions).unwrap_or_default(),
        service: None,
    })
}

fn by_telegram(message: &tl::types::MessageService, account_id: i64) -> Option<Message> {
    let thread = Thread::of(message.reply_to.as_ref());
    let sender_id = sender(message.from_id.as_ref(), &message.peer_id, message.out, account_id);
    // A pin says what was pinned as if it answered it.
    let is_pin = matches!(message.action, tl::enums::MessageAction::PinMessage);
    Some(Message {
        id: message.id,
        chat_id: peer_id(&message.peer_id)?,
        date: moment(message.date)?,
        edited_at: None,
        sender_id,
        outgoing: message.out,
        text: String::new(),
        media: None,
        reply_to: thread.reply_to.filter(|_| !is_pin),
        topic: thread.topic,
        album: None,
        views: None,
        forwards: None,
        reactions: message.reactions.as_ref().map(reactions).unwrap_or_default(),
        service: Some(action(&message.action, sender_id, thread.named)),
    })
}

/// Telegram leaves the sender out where the chat says it: posts, anonymous admins, private messages.
fn sender(from: Option<&tl::enums::Peer>, chat: &tl::enums::Peer, outgoing: bool, account_id: i64) -> Option<i64> {
    match (from, chat) {
        (Some(from), _) => peer_id(from),
        (None, tl::enums::Peer::User(_)) if outgoing => Some(account_id),
        (None, _) => peer_id(chat),
    }
}

/// Without zero characters, which Postgres does not store.
pub fn storable(text: &str) -> String {
    text.replace('\0', "")
}

/// A time of Telegram's.
pub fn moment(seconds: i32) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds.into(), 0)
}

/// Where in its chat a message stands.
#[derive(Default)]
struct Thread {
    /// The message that the header names, whatever it means by that.
    named: Option<i32>,
    reply_to: Option<i32>,
    topic: Option<i32>,
}

impl Thread {
    fn of(header: Option<&tl::enums::MessageReplyHeader>) -> Self {
        let Some(tl::enums::MessageReplyHeader::Header(header)) = header else {
            return Self::default();
        };
        // It may answer what was said in another chat, or what is yet to be sent.
        let is_here = header.reply_to_peer_id.is_none() && !header.reply_to_scheduled && !header.reply_to_ephemeral;
        let named = header.reply_to_msg_id.filter(|_| is_here);
        if !header.forum_topic {
            return Self {
                named,
                reply_to: named,
                topic: None,
            };
        }
        // Without a top, the message answers nothing but is in the topic that begins there.
        match header.reply_to_top_id {
            Some(top) => Self {
                named,
                reply_to: named,
                topic: Some(top),
            },
            None => Self {
                named,
                reply_to: None,
                topic: header.reply_to_msg_id,
            },
        }
    }
}

fn media(media: &tl::enums::MessageMedia) -> Option<MediaKind> {
    use tl::enums::MessageMedia as M;

    Some(match media {
        M::Empty => return None,
        M::Photo(_) => MediaKind::Photo,
        M::Document(document) => of_document(document),
        M::Geo(_) | M::GeoLive(_) | M::Venue(_) => MediaKind::Location,
        M::Contact(_) => MediaKind::Contact,
        M::WebPage(_) => MediaKind::WebPage,
        M::Game(_) => MediaKind::Game,
        M::Invoice(_) => MediaKind::Invoice,
        M::Poll(_) => MediaKind::Poll,
        M::Dice(_) => MediaKind::Dice,
        M::Story(_) => MediaKind::Story,
        M::Unsupported | M::Giveaway(_) | M::GiveawayResults(_) | M::PaidMedia(_) | M::ToDo(_) | M::VideoStream(_) => {
            MediaKind::Other
        }
    })
}

/// A document's attributes say what it is; of one that has expired, only the medium's own flags are left.
fn of_document(media: &tl::types::MessageMediaDocument) -> MediaKind {
    use tl::enums::DocumentAttribute as A;

    let attributes = match &media.document {
        Some(tl::enums::Document::Document(document)) => document.attributes.as_slice(),
        Some(tl::enums::Document::Empty(_)) | None => &[],
    };
    let any = |is: fn(&A) -> bool| attributes.iter().any(is);
    if any(|attribute| matches!(attribute, A::Sticker(_))) {
        MediaKind::Sticker
    } else if media.round || any(|attribute| matches!(attribute, A::Video(video) if video.round_message)) {
        MediaKind::VideoNote
    } else if any(|attribute| matches!(attribute, A::Animated)) {
        MediaKind::Animation
    } else if media.voice || any(|attribute| matches!(attribute, A::Audio(audio) if audio.voice)) {
        MediaKind::Voice
    } else if media.video || any(|attribute| matches!(attribute, A::Video(_))) {
        MediaKind::Video
    } else if any(|attribute| matches!(attribute, A::Audio(_))) {
        MediaKind::Audio
    } else {
        MediaKind::Document
    }
}

fn action(action: &tl::enums::MessageAction, sender: Option<i64>, named: Option<i32>) -> ServiceMessage {
    use tl::enums::MessageAction as A;

    let joined_alone = || ServiceMessage::Joined {
        user_ids: sender.into_iter().collect(),
        by: None,
    };
    match action {
        A::ChatAddUser(added) => ServiceMessage::Joined {
            user_ids: added.users.clone(),
            by: sender.filter(|sender| added.users != [*sender]),
        },
        A::ChatJoinedByLink(_) | A::ChatJoinedByRequest | A::ChatJoinedViaCommunity(_) => joined_alone(),
        A::ChatDeleteUser(gone) => ServiceMessage::Left {
            user_id: gone.user_id,
            by: sender.filter(|sender| *sender != gone.user_id),
        },
        A::ChatCreate(made) => ServiceMessage::Created {
            title: storable(&made.title),
        },
        A::ChannelCreate(made) => ServiceMessage::Created {
            title: storable(&made.title),
        },
        A::ChatEditTitle(edited) => ServiceMessage::TitleChanged {
            title: storable(&edited.title),
        },
        A::ChatEditPhoto(_) => ServiceMessage::PhotoChanged,
        A::ChatDeletePhoto => ServiceMessage::PhotoRemoved,
        A::PinMessage => ServiceMessage::Pinned { message_id: named },
        A::ChatMigrateTo(to) => migrated(action, channel_id(to.channel_id)),
        A::ChannelMigrateFrom(from) => {
            let group = tl::types::PeerChat { chat_id: from.chat_id };
            migrated(action, peer_id(&group.into()))
        }
        _ => other(action),
    }
}

fn migrated(action: &tl::enums::MessageAction, chat_id: Option<i64>) -> ServiceMessage {
    chat_id.map_or_else(|| other(action), |chat_id| ServiceMessage::Migrated { chat_id })
}

fn other(action: &tl::enums::MessageAction) -> ServiceMessage {
    let bytes = action.to_bytes();
    let constructor = bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    ServiceMessage::Other {
        name: constructor.map_or("", tl::name_for_id).to_owned(),
    }
}

#[cfg(test)]
mod tests;
