//! `messages.*` for basic groups.

use grammers_tl_types as tl;
use tl::functions::messages::{AddChatUser, CreateChat, DeleteChatUser, GetChats, GetFullChat};

use super::channels::{may_be_added, title};
use crate::sandbox::call::{Answer, Call, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::groups::Group;
use crate::sandbox::world::hearing::{Actor, Named};
use crate::sandbox::world::joining::Arrival;
use crate::sandbox::world::members::{Member, Role};
use crate::sandbox::world::messages::Draft;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;

/// Makes a basic group with people in it. Those whose privacy forbids it come back as missing.
pub fn create_chat(call: &mut Call<'_>, request: CreateChat) -> Answer<tl::enums::messages::InvitedUsers> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let title = title(&request.title)?;
    if request.users.is_empty() {
        return Err(bad("USERS_TOO_FEW"));
    }
    let mut users = Vec::new();
    let mut missing_invitees = Vec::new();
    for input in &request.users {
        let user = world.input_user(by.account, input)?;
        match may_be_added(world, by.account, user, false)? {
            None if user != by.account && !users.contains(&user) => users.push(user),
            None => {}
            Some(missing) => missing_invitees.push(missing),
        }
    }
    let id = world.groups.keys().next_back().map_or(1, |last| last + 1);
    let group = found_group(id, &title, by.account, &users, world.now());
    world.groups.insert(id, group);
    users.insert(0, by.account);
    let action = tl::types::MessageActionChatCreate { title, users };
    let event = world.post(by, PeerKey::Group(id), Draft::service(action))?.event;
    let updates = answer(world, by, id, Some(&event));
    Ok(tl::types::messages::InvitedUsers {
        updates,
        missing_invitees,
    }
    .into())
}

fn found_group(id: i64, title: &str, creator: UserId, users: &[UserId], date: i32) -> Group {
    let mut group = Group::new(id, title, date);
    let member = |user, role| Member {
        user,
        inviter: creator,
        date,
        role,
        via_request: false,
    };
    group.members.add(member(creator, Role::Creator));
    for user in users {
        group.members.add(member(*user, Role::Member));
    }
    group
}

fn answer(
    world: &World,
    by: Actor,
    id: i64,
    event: Option<&crate::sandbox::world::boxes::Event>,
) -> tl::enums::Updates {
    let mut named = Named::default();
    named.peer(PeerKey::Group(id));
    let updates = event.map(|event| world.own_updates(by, PeerKey::Group(id), event, &mut named));
    world.container(by.account, updates.unwrap_or_default(), &named)
}

/// Adds somebody to a basic group.
pub fn add_chat_user(call: &mut Call<'_>, request: AddChatUser) -> Answer<tl::enums::messages::InvitedUsers> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let id = request.chat_id;
    if !world.group(id)?.members.contains(by.account) {
        return Err(bad("CHAT_ID_INVALID"));
    }
    let user = world.input_user(by.account, &request.user_id)?;
    if world.group(id)?.members.contains(user) {
        return Err(bad("USER_ALREADY_PARTICIPANT"));
    }
    let (event, missing_invitees) = match may_be_added(world, by.account, user, false)? {
        None => (
            Some(world.add_to_group(by, id, user, Arrival::AddedBy(by.account))?),
            Vec::new(),
        ),
        Some(missing) => (None, vec![missing]),
    };
    let updates = answer(world, by, id, event.as_ref());
    Ok(tl::types::messages::InvitedUsers {
        updates,
        missing_invitees,
    }
    .into())
}

/// Takes somebody out of a basic group, or leaves it.
pub fn delete_chat_user(call: &mut Call<'_>, request: DeleteChatUser) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    if !world.group(request.chat_id)?.members.contains(by.account) {
        return Err(bad("CHAT_ID_INVALID"));
    }
    let user = world.input_user(by.account, &request.user_id)?;
    let event = world.remove_from_group(by, request.chat_id, user)?;
    Ok(answer(world, by, request.chat_id, Some(&event)))
}

/// A basic group's page.
pub fn get_full_chat(call: &mut Call<'_>, request: GetFullChat) -> Answer<tl::enums::messages::ChatFull> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let group = known_group(world, me, request.chat_id)?;
    let mut named = Named::default();
    named.peer(PeerKey::Group(group.id));
    if group.members.contains(me) {
        named
            .users
            .extend(group.members.oldest_first().map(|member| member.user));
    }
    let full_chat = world.tl_group_full(me, group);
    let (chats, users) = (world.named_chats(me, &named), world.named_users(me, &named));
    Ok(tl::types::messages::ChatFull {
        full_chat,
        chats,
        users,
    }
    .into())
}

/// Basic groups by id.
///
/// # Errors
/// `CHAT_ID_INVALID` for one that the caller was never in.
pub fn get_chats(call: &mut Call<'_>, request: GetChats) -> Answer<tl::enums::messages::Chats> {
    let me = call.caller.signed_in()?;
    let mut named = Named::default();
    for id in &request.id {
        named.peer(PeerKey::Group(known_group(call.world, me, *id)?.id));
    }
    Ok(tl::types::messages::Chats {
        chats: call.world.named_chats(me, &named),
    }
    .into())
}

fn known_group(world: &World, me: UserId, id: i64) -> Answer<&Group> {
    let group = world.group(id)?;
    if group.was_member(me) {
        Ok(group)
    } else {
        Err(bad("CHAT_ID_INVALID"))
    }
}
