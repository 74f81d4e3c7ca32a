//! `messages.*` about the discussion of a channel's posts.

use grammers_tl_types as tl;
use tl::functions::messages::{GetDiscussionMessage, GetReplies};

use super::messages::message_list;
use crate::sandbox::call::{Answer, Call, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::hearing::Named;
use crate::sandbox::world::history::Window;
use crate::sandbox::world::messages::Message;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::view::messages::tl_message;

/// Where a post is discussed.
///
/// # Errors
/// `MSG_ID_INVALID` when it is not.
pub fn get_discussion_message(
    call: &mut Call<'_>,
    request: GetDiscussionMessage,
) -> Answer<tl::enums::messages::DiscussionMessage> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let place = Place::of(world, me, &request.peer, request.msg_id)?;
    let posts = &world.channel(place.group)?.posts;
    let top = posts.get(place.top).ok_or_else(|| bad("MSG_ID_INVALID"))?;
    let mut named = Named::default();
    named.peer(PeerKey::Channel(place.group));
    named.message(top);
    Ok(tl::types::messages::DiscussionMessage {
        messages: vec![tl_message(me, top)],
        max_id: place.comments.last().copied(),
        read_inbox_max_id: None,
        read_outbox_max_id: None,
        unread_count: 0,
        chats: world.named_chats(me, &named),
        users: world.named_users(me, &named),
    }
    .into())
}

/// A page of the comments of a post, newest first.
///
/// # Errors
/// `MSG_ID_INVALID` when it is not discussed.
pub fn get_replies(call: &mut Call<'_>, request: GetReplies) -> Answer<tl::enums::messages::Messages> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let place = Place::of(world, me, &request.peer, request.msg_id)?;
    let posts = &world.channel(place.group)?.posts;
    let window = Window {
        offset_id: request.offset_id,
        offset_date: request.offset_date,
        add_offset: request.add_offset,
        limit: request.limit,
        max_id: request.max_id,
        min_id: request.min_id,
    };
    let comments: Vec<&Message> = place.comments.iter().rev().filter_map(|id| posts.get(*id)).collect();
    let page = window.cut(comments.into_iter());
    let mut named = Named::default();
    named.peer(PeerKey::Channel(place.group));
    for message in &page.messages {
        named.message(message);
    }
    let messages = page.messages.iter().map(|message| tl_message(me, message)).collect();
    let chat = PeerKey::Channel(place.group);
    Ok(message_list(world, me, chat, messages, page.count, &named))
}

/// The discussion of one post.
struct Place {
    group: i64,
    top: i32,
    comments: Vec<i32>,
}

impl Place {
    fn of(world: &World, me: UserId, peer: &tl::enums::InputPeer, post: i32) -> Answer<Self> {
        let PeerKey::Channel(channel) = world.input_peer(me, peer)? else {
            return Err(bad("MSG_ID_INVALID"));
        };
        world.open_channel(me, channel)?;
        let group = world.marks.group_of(channel).ok_or_else(|| bad("MSG_ID_INVALID"))?;
        let thread = world.marks.thread(channel, post).ok_or_else(|| bad("MSG_ID_INVALID"))?;
        Ok(Self {
            group,
            top: thread.top,
            comments: thread.comments.clone(),
        })
    }
}
