//! `messages.*`: writing, reading, searching.

use grammers_tl_types as tl;
use tl::enums::{InputMessage, InputReplyTo, MessagesFilter};
use tl::functions::messages::{DeleteMessages, EditMessage, GetHistory, GetMessages, ReadHistory, Search, SendMessage};

pub use super::dialogs::get_dialogs;
use crate::sandbox::call::{Answer, Call, RpcError, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::boxes::MessageBox;
use crate::sandbox::world::hearing::{Actor, Named};
use crate::sandbox::world::history::{Page, Window};
use crate::sandbox::world::messages::{Content, Draft, Extras, Message};
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::people::Person;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::text;
use crate::sandbox::world::view::messages::{tl_message, tl_no_message};

/// What is scheduled nearer than this is shown at once.
const SHOWN_AT_ONCE: i32 = 10;

/// Sends a text.
///
/// # Errors
/// `RANDOM_ID_DUPLICATE` (500) comes before any error about rights or text: the message was sent, whatever holds now.
pub fn send_message(call: &mut Call<'_>, request: SendMessage) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let chat = world.input_peer(by.account, &request.peer)?;
    check_random_ids(world, by, &[request.random_id])?;
    let (text, entities) = text::accept(&request.message, request.entities.unwrap_or_default())?;
    let place = Place::of(request.reply_to.as_ref())?;
    let extras = Extras {
        protected: request.noforwards,
        markup: accept_markup(world, by, request.reply_markup),
        topic: place.topic,
        ..Extras::default()
    };
    let draft = Draft {
        content: Content::Text {
            text,
            entities: world.visible_entities(by.account, entities),
        },
        reply_to: place.reply_to,
        silent: request.silent,
        random_id: Some(request.random_id),
        extras: kept(extras),
    };
    put_in(world, by, chat, vec![draft], request.schedule_date)
}

/// Extras where there are any.
pub(super) fn kept(extras: Extras) -> Option<Box<Extras>> {
    let some = extras.protected
        || extras.pinned
        || extras.markup.is_some()
        || extras.media.is_some()
        || extras.group.is_some()
        || extras.topic.is_some()
        || extras.forwarded.is_some();
    some.then(|| Box::new(extras))
}

/// Refuses numbers that were used before, or are none.
pub(super) fn check_random_ids(world: &mut World, by: Actor, ids: &[i64]) -> Answer<()> {
    let now = world.now();
    for id in ids {
        if *id == 0 {
            return Err(bad("RANDOM_ID_EMPTY"));
        }
        if world.random_ids.is_known(by.account, *id, now) {
            return Err(RpcError::new(500, "RANDOM_ID_DUPLICATE"));
        }
    }
    Ok(())
}

/// Buttons are for bots; others lose them without a word, as at Telegram.
fn accept_markup(world: &World, by: Actor, markup: Option<tl::enums::ReplyMarkup>) -> Option<tl::enums::ReplyMarkup> {
    markup.filter(|_| world.person(by.account).is_ok_and(Person::is_bot))
}

/// Puts messages into a chat, or among those that wait, and answers with them.
pub(super) fn put_in(
    world: &mut World,
    by: Actor,
    chat: PeerKey,
    drafts: Vec<Draft>,
    schedule_date: Option<i32>,
) -> Answer<tl::enums::Updates> {
    let now = world.now();
    let mut named = Named::default();
    let mut updates = Vec::new();
    if let Some(date) = schedule_date.filter(|date| *date > now + SHOWN_AT_ONCE) {
        world.may_write(by.account, chat).or_else(|error| {
            // Slow mode is about when it is shown.
            if error.name.starts_with("SLOWMODE") {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        for draft in drafts {
            let random_id = draft.random_id.unwrap_or_default();
            let id = world.schedule(by.account, chat, draft, date)?;
            world.random_ids.remember(by.account, random_id, now);
            updates.push(tl::types::UpdateMessageId { id, random_id }.into());
            let message = world.tl_scheduled(by.account, id);
            updates.extend(message.map(|message| tl::types::UpdateNewScheduledMessage { message }.into()));
        }
        named.peer(chat);
        return Ok(world.container(by.account, updates, &named));
    }
    world.may_write(by.account, chat)?;
    for draft in drafts {
        let random_id = draft.random_id.unwrap_or_default();
        let posted = world.post(by, chat, draft)?;
        world.random_ids.remember(by.account, random_id, now);
        updates.push(
            tl::types::UpdateMessageId {
                id: posted.id,
                random_id,
            }
            .into(),
        );
        updates.extend(world.own_updates(by, chat, &posted.event, &mut named));
    }
    Ok(world.container(by.account, updates, &named))
}

/// Where in a chat a message goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub reply_to: Option<i32>,
    pub topic: Option<i32>,
}

impl Place {
    pub fn of(reply: Option<&InputReplyTo>) -> Answer<Self> {
        match reply {
            None => Ok(Self::default()),
            Some(InputReplyTo::Message(reply)) if reply.reply_to_peer_id.is_none() => Ok(Self {
                reply_to: Some(reply.reply_to_msg_id),
                topic: reply.top_msg_id,
            }),
            Some(_) => Err(bad("REPLY_MESSAGE_ID_INVALID")),
        }
    }
}

/// Replaces a message's text.
pub fn edit_message(call: &mut Call<'_>, request: EditMessage) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let chat = world.input_peer(by.account, &request.peer)?;
    if request.media.is_some() {
        return Err(bad("MEDIA_INVALID"));
    }
    let Some(message) = request.message else {
        return Err(bad("MESSAGE_NOT_MODIFIED"));
    };
    let (text, entities) = text::accept(&message, request.entities.unwrap_or_default())?;
    let entities = world.visible_entities(by.account, entities);
    let event = world.edit_text(by, chat, request.id, Content::Text { text, entities })?;
    let mut named = Named::default();
    let updates = world.own_updates(by, chat, &event, &mut named);
    Ok(world.container(by.account, updates, &named))
}

/// Deletes messages of private chats and basic groups.
pub fn delete_messages(call: &mut Call<'_>, request: DeleteMessages) -> Answer<tl::enums::messages::AffectedMessages> {
    let by = Actor::of(&call.caller)?;
    let event = call.world.delete_in_inbox(by, &request.id, request.revoke);
    let pts_count = event.map_or(0, |event| event.count);
    Ok(tl::types::messages::AffectedMessages {
        pts: inbox(call.world, by.account)?.pts(),
        pts_count,
    }
    .into())
}

/// Marks a private chat or a basic group as read, up to a message; 0 for all of it.
pub fn read_history(call: &mut Call<'_>, request: ReadHistory) -> Answer<tl::enums::messages::AffectedMessages> {
    let by = Actor::of(&call.caller)?;
    let chat = call.world.input_peer(by.account, &request.peer)?;
    if matches!(chat, PeerKey::Channel(_)) {
        return Err(bad("PEER_ID_INVALID"));
    }
    let up_to = if request.max_id <= 0 { i32::MAX } else { request.max_id };
    let (pts, pts_count) = match call.world.read_inbox(by, chat, up_to) {
        Some(event) => (event.pts, event.count),
        None => (inbox(call.world, by.account)?.pts(), 0),
    };
    Ok(tl::types::messages::AffectedMessages { pts, pts_count }.into())
}

/// The common box of an account.
pub(super) fn inbox(world: &World, account: UserId) -> Answer<&MessageBox> {
    let account = world
        .accounts
        .get(&account)
        .ok_or_else(|| RpcError::new(401, "AUTH_KEY_UNREGISTERED"))?;
    Ok(&account.inbox)
}

/// A page of a chat.
pub fn get_history(call: &mut Call<'_>, request: GetHistory) -> Answer<tl::enums::messages::Messages> {
    let me = call.caller.signed_in()?;
    let chat = call.world.input_peer(me, &request.peer)?;
    let window = Window {
        offset_id: request.offset_id,
        offset_date: request.offset_date,
        add_offset: request.add_offset,
        limit: request.limit,
        max_id: request.max_id,
        min_id: request.min_id,
    };
    let messages = call.world.readable_box(me, chat)?.newest_first();
    let world = &*call.world;
    let page = window.cut(messages.filter(|message| message.chat == chat && world.shows(me, message)));
    Ok(answer_page(call.world, me, Some(chat), &page))
}

/// Messages of private chats and basic groups by id, in the order asked for.
pub fn get_messages(call: &mut Call<'_>, request: GetMessages) -> Answer<tl::enums::messages::Messages> {
    let me = call.caller.signed_in()?;
    let mut named = Named::default();
    let messages = pick(me, inbox(call.world, me)?, &request.id, &mut named);
    let count = i32::try_from(messages.len()).unwrap_or(i32::MAX);
    Ok(message_list(call.world, me, PeerKey::User(me), messages, count, &named))
}

/// Searches one chat, or with an empty peer all private chats and basic groups.
///
/// Filters by media find nothing: there is none in the sandbox.
pub fn search(call: &mut Call<'_>, request: Search) -> Answer<tl::enums::messages::Messages> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let chat = match &request.peer {
        tl::enums::InputPeer::Empty => None,
        peer => Some(world.input_peer(me, peer)?),
    };
    let wanted = Wanted {
        chat,
        sender: request
            .from_id
            .as_ref()
            .map(|sender| world.input_peer(me, sender))
            .transpose()?,
        text: request.q.trim().to_lowercase(),
        after: request.min_date,
        before: request.max_date,
        any: matches!(request.filter, MessagesFilter::InputMessagesFilterEmpty),
    };
    let window = Window {
        offset_id: request.offset_id,
        offset_date: 0,
        add_offset: request.add_offset,
        limit: request.limit,
        max_id: request.max_id,
        min_id: request.min_id,
    };
    let messages = world
        .readable_box(me, chat.unwrap_or(PeerKey::User(me)))?
        .newest_first();
    let page = window.cut(messages.filter(|message| wanted.matches(message) && world.shows(me, message)));
    Ok(answer_page(world, me, chat, &page))
}

/// What a search looks for.
struct Wanted {
    chat: Option<PeerKey>,
    sender: Option<PeerKey>,
    /// In lower case; empty for anything.
    text: String,
    /// Unix seconds, left out themselves; 0 for no bound.
    after: i32,
    before: i32,
    /// No filter by media.
    any: bool,
}

impl Wanted {
    fn matches(&self, message: &Message) -> bool {
        self.any
            && self.chat.is_none_or(|chat| message.chat == chat)
            && self.sender.is_none_or(|sender| message.sender == sender)
            && (self.after <= 0 || message.date > self.after)
            && (self.before <= 0 || message.date < self.before)
            && (self.text.is_empty() || message.content.text().to_lowercase().contains(&self.text))
    }
}

/// The messages that a list of references names, each in its place.
pub(super) fn pick(
    me: UserId,
    messages: &MessageBox,
    references: &[InputMessage],
    named: &mut Named,
) -> Vec<tl::enums::Message> {
    let mut find = |reference: &InputMessage| {
        let (asked, found) = match reference {
            InputMessage::Id(reference) => (reference.id, messages.get(reference.id)),
            InputMessage::ReplyTo(reference) => {
                let replied = messages.get(reference.id).and_then(|message| message.reply_to);
                (replied.unwrap_or(reference.id), replied.and_then(|id| messages.get(id)))
            }
            _ => (0, None),
        };
        found.map_or_else(
            || tl_no_message(asked),
            |message| {
                named.message(message);
                tl_message(me, message)
            },
        )
    };
    references.iter().map(&mut find).collect()
}

fn answer_page(world: &World, me: UserId, chat: Option<PeerKey>, page: &Page<'_>) -> tl::enums::messages::Messages {
    let mut named = Named::default();
    named.peer(chat.unwrap_or(PeerKey::User(me)));
    for message in &page.messages {
        named.message(message);
    }
    let messages = page.messages.iter().map(|message| tl_message(me, message)).collect();
    message_list(
        world,
        me,
        chat.unwrap_or(PeerKey::User(me)),
        messages,
        page.count,
        &named,
    )
}

/// A list of messages in the form that its chat's kind and its completeness ask for.
pub(super) fn message_list(
    world: &World,
    me: UserId,
    chat: PeerKey,
    mut messages: Vec<tl::enums::Message>,
    count: i32,
    named: &Named,
) -> tl::enums::messages::Messages {
    let (chats, users) = (world.named_chats(me, named), world.named_users(me, named));
    if let PeerKey::Channel(id) = chat {
        world.marks.show_on(id, &mut messages);
        let pts = world.channels.get(&id).map_or(1, |channel| channel.posts.pts());
        return tl::types::messages::ChannelMessages {
            inexact: false,
            pts,
            count,
            offset_id_offset: None,
            messages,
            topics: Vec::new(),
            chats,
            users,
        }
        .into();
    }
    if usize::try_from(count).is_ok_and(|count| messages.len() >= count) {
        return tl::types::messages::Messages {
            messages,
            topics: Vec::new(),
            chats,
            users,
        }
        .into();
    }
    tl::types::messages::MessagesSlice {
        inexact: false,
        count,
        next_rate: None,
        offset_id_offset: None,
        search_flood: None,
        messages,
        topics: Vec::new(),
        chats,
        users,
    }
    .into()
}
