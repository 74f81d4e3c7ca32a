//! Forwards, pins, and messages that wait for their time.

use grammers_tl_types as tl;
use tl::functions::messages::{ForwardMessages, GetScheduledHistory, UpdatePinnedMessage};

use super::messages::{check_random_ids, kept, message_list, put_in};
use crate::sandbox::call::{Answer, Call};
use crate::sandbox::world::World;
use crate::sandbox::world::hearing::{Actor, Named};
use crate::sandbox::world::messages::{Content, Draft, Extras, Message};
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::view::messages::tl_message;

/// Telegram forwards this many at once.
const MOST_FORWARDED: usize = 100;

/// Forwards messages.
///
/// # Errors
/// `MESSAGE_ID_INVALID`, `CHAT_FORWARDS_RESTRICTED`, and those of sending.
pub fn forward_messages(call: &mut Call<'_>, request: ForwardMessages) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let from = world.input_peer(by.account, &request.from_peer)?;
    let chat = world.input_peer(by.account, &request.to_peer)?;
    if request.id.is_empty() || request.id.len() != request.random_id.len() || request.id.len() > MOST_FORWARDED {
        return Err(bad("RANDOM_ID_INVALID"));
    }
    check_random_ids(world, by, &request.random_id)?;
    let mut drafts = Vec::with_capacity(request.id.len());
    for (id, random_id) in request.id.iter().zip(&request.random_id) {
        let message = world
            .readable_box(by.account, from)?
            .get(*id)
            .filter(|message| message.chat == from)
            .ok_or_else(|| bad("MESSAGE_ID_INVALID"))?;
        if message.extras.as_ref().is_some_and(|extras| extras.protected) {
            return Err(bad("CHAT_FORWARDS_RESTRICTED"));
        }
        if matches!(message.content, Content::Service(_)) {
            return Err(bad("MESSAGE_ID_INVALID"));
        }
        let extras = Extras {
            protected: request.noforwards,
            media: message.extras.as_ref().and_then(|extras| extras.media.clone()),
            topic: request.top_msg_id,
            forwarded: (!request.drop_author).then(|| header(message)),
            ..Extras::default()
        };
        drafts.push(Draft {
            content: message.content.clone(),
            reply_to: request.top_msg_id,
            silent: request.silent,
            random_id: Some(*random_id),
            extras: kept(extras),
        });
    }
    put_in(world, by, chat, drafts, request.schedule_date)
}

fn header(message: &Message) -> tl::enums::MessageFwdHeader {
    let is_post = matches!(message.sender, PeerKey::Channel(_));
    tl::types::MessageFwdHeader {
        imported: false,
        saved_out: false,
        from_id: Some(message.sender.to_tl()),
        from_name: None,
        date: message.date,
        channel_post: is_post.then_some(message.id),
        post_author: None,
        saved_from_peer: None,
        saved_from_msg_id: None,
        saved_from_id: None,
        saved_from_name: None,
        saved_date: None,
        psa_type: None,
    }
    .into()
}

/// Pins a message, or takes its pin away. Nobody is told: there is no event of it.
///
/// # Errors
/// `CHAT_ADMIN_REQUIRED`, `MESSAGE_ID_INVALID`, `CHAT_NOT_MODIFIED` when it was so already.
pub fn update_pinned_message(call: &mut Call<'_>, request: UpdatePinnedMessage) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let chat = world.input_peer(by.account, &request.peer)?;
    if !matches!(chat, PeerKey::User(_)) {
        world.must_be_admin(by.account, chat)?;
    }
    let pinned = !request.unpin;
    let message = world
        .readable_box(by.account, chat)?
        .get(request.id)
        .filter(|message| message.chat == chat)
        .ok_or_else(|| bad("MESSAGE_ID_INVALID"))?;
    let was = message.extras.as_ref().is_some_and(|extras| extras.pinned);
    let origin = message.origin;
    if was == pinned {
        return Err(bad("CHAT_NOT_MODIFIED"));
    }
    pin(world, chat, request.id, origin, pinned)?;
    Ok(world.container(by.account, Vec::new(), &Named::default()))
}

fn pin(world: &mut World, chat: PeerKey, id: i32, origin: u64, pinned: bool) -> Answer<()> {
    if let PeerKey::Channel(channel) = chat {
        let posts = &mut world.channel_mut(channel)?.posts;
        return posts
            .change(id, |extras| extras.pinned = pinned)
            .ok_or_else(|| bad("MESSAGE_ID_INVALID"));
    }
    for account in world.accounts.values_mut() {
        if let Some(copy) = account.inbox.id_of(origin) {
            account.inbox.change(copy, |extras| extras.pinned = pinned);
        }
    }
    Ok(())
}

/// The account's messages that wait in a chat.
pub fn get_scheduled_history(
    call: &mut Call<'_>,
    request: GetScheduledHistory,
) -> Answer<tl::enums::messages::Messages> {
    let me = call.caller.signed_in()?;
    let chat = call.world.input_peer(me, &request.peer)?;
    let mut named = Named::default();
    named.peer(chat);
    let waiting = call.world.waiting_in(me, chat);
    let messages: Vec<_> = waiting.iter().map(|message| tl_message(me, message)).collect();
    let count = i32::try_from(messages.len()).unwrap_or(i32::MAX);
    Ok(message_list(call.world, me, chat, messages, count, &named))
}
