//! `messages.*` for what a supergroup has beyond a basic group: topics, and having been one.

use grammers_tl_types as tl;
use tl::functions::messages::{GetForumTopicsById, MigrateChat};

use crate::sandbox::call::{Answer, Call};
use crate::sandbox::world::hearing::{Actor, Named};
use crate::sandbox::world::members::Role;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::view::users::tl_notify_settings;

/// The topic that every forum has.
const GENERAL: i32 = 1;

/// Topics of a forum by number; one that it does not have is deleted.
///
/// # Errors
/// `CHANNEL_FORUM_MISSING` for what is no forum, `CHANNEL_PRIVATE`.
pub fn get_forum_topics_by_id(
    call: &mut Call<'_>,
    request: GetForumTopicsById,
) -> Answer<tl::enums::messages::ForumTopics> {
    let me = call.caller.signed_in()?;
    let PeerKey::Channel(id) = call.world.input_peer(me, &request.peer)? else {
        return Err(bad("CHANNEL_FORUM_MISSING"));
    };
    let channel = call.world.open_channel(me, id)?;
    if channel.settings.topics.is_empty() {
        return Err(bad("CHANNEL_FORUM_MISSING"));
    }
    let topics: Vec<tl::enums::ForumTopic> = request
        .topics
        .iter()
        .map(|topic| match channel.settings.topics.get(topic) {
            Some(title) => tl_topic(id, channel.created, *topic, title),
            None if *topic == GENERAL => tl_topic(id, channel.created, GENERAL, "General"),
            None => tl::types::ForumTopicDeleted { id: *topic }.into(),
        })
        .collect();
    let pts = channel.posts.pts();
    let mut named = Named::default();
    named.peer(PeerKey::Channel(id));
    Ok(tl::types::messages::ForumTopics {
        order_by_create_date: false,
        count: i32::try_from(topics.len()).unwrap_or(i32::MAX),
        topics,
        messages: Vec::new(),
        chats: call.world.named_chats(me, &named),
        users: Vec::new(),
        pts,
    }
    .into())
}

fn tl_topic(channel: i64, date: i32, id: i32, title: &str) -> tl::enums::ForumTopic {
    tl::types::ForumTopic {
        my: false,
        closed: false,
        pinned: false,
        short: false,
        hidden: false,
        title_missing: false,
        id,
        date,
        peer: PeerKey::Channel(channel).to_tl(),
        title: title.to_owned(),
        icon_color: 0,
        icon_emoji_id: None,
        top_message: id,
        read_inbox_max_id: 0,
        read_outbox_max_id: 0,
        unread_count: 0,
        unread_mentions_count: 0,
        unread_reactions_count: 0,
        unread_poll_votes_count: 0,
        from_id: PeerKey::Channel(channel).to_tl(),
        notify_settings: tl_notify_settings(),
        draft: None,
    }
    .into()
}

/// Makes a basic group into a supergroup.
///
/// # Errors
/// `CHAT_ADMIN_REQUIRED` for anybody but its creator, `CHAT_ID_INVALID`.
pub fn migrate_chat(call: &mut Call<'_>, request: MigrateChat) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let group = world.group(request.chat_id)?;
    let member = group.members.get(by.account).ok_or_else(|| bad("CHAT_ID_INVALID"))?;
    if member.role != Role::Creator {
        return Err(bad("CHAT_ADMIN_REQUIRED"));
    }
    let id = world.migrate_group(request.chat_id)?;
    let mut named = Named::default();
    named.peer(PeerKey::Group(request.chat_id));
    let updates = world.arrival_updates(by.account, id, true, None, &mut named);
    Ok(world.container(by.account, updates, &named))
}
