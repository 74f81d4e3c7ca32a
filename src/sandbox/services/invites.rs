//! `messages.*` for invite links and requests to join.

use grammers_tl_types as tl;
use tl::functions::messages::{
    CheckChatInvite, ExportChatInvite, GetChatInviteImporters, HideChatJoinRequest, ImportChatInvite,
};

use super::channels::{ask_in_app, joined};
use crate::sandbox::call::{Answer, Call, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::hearing::{Actor, Named};
use crate::sandbox::world::invites::InviteTerms;
use crate::sandbox::world::joining::Arrival;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::view::chat_full::tl_invite;

/// What a link leads to: the chat for its members, a preview for everyone else.
///
/// # Errors
/// `INVITE_HASH_EMPTY`, `INVITE_HASH_INVALID`, `INVITE_HASH_EXPIRED`.
pub fn check_chat_invite(call: &mut Call<'_>, request: CheckChatInvite) -> Answer<tl::enums::ChatInvite> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let invite = world.live_invite(&request.hash)?;
    turn_away_banned(world, me, invite.chat)?;
    if is_member(world, me, invite.chat) {
        let chat = world
            .tl_chat(me, invite.chat)
            .ok_or_else(|| bad("INVITE_HASH_INVALID"))?;
        return Ok(tl::types::ChatInviteAlready { chat }.into());
    }
    match invite.chat {
        PeerKey::Channel(id) => Ok(world.tl_invite_preview(world.channel(id)?, invite)),
        PeerKey::Group(id) => Ok(world.tl_group_invite_preview(world.group(id)?, invite)),
        PeerKey::User(_) => Err(bad("INVITE_HASH_INVALID")),
    }
}

fn is_member(world: &World, me: UserId, chat: PeerKey) -> bool {
    match chat {
        PeerKey::Channel(id) => world
            .channels
            .get(&id)
            .is_some_and(|channel| channel.members.contains(me)),
        PeerKey::Group(id) => world.groups.get(&id).is_some_and(|group| group.members.contains(me)),
        PeerKey::User(_) => false,
    }
}

/// To those whom a chat banned, its links look expired.
fn turn_away_banned(world: &World, me: UserId, chat: PeerKey) -> Answer<()> {
    match chat {
        PeerKey::Channel(id) if world.channel(id)?.banned.contains(&me) => Err(bad("INVITE_HASH_EXPIRED")),
        _ => Ok(()),
    }
}

/// Follows a link.
///
/// # Errors
/// `INVITE_REQUEST_SENT` when an admin must say yes first, as often as it is asked; `USER_ALREADY_PARTICIPANT`.
pub fn import_chat_invite(
    call: &mut Call<'_>,
    request: ImportChatInvite,
) -> Answer<tl::enums::messages::ChatInviteJoinResult> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let invite = world.live_invite(&request.hash)?.clone();
    turn_away_banned(world, by.account, invite.chat)?;
    if is_member(world, by.account, invite.chat) {
        return Err(bad("USER_ALREADY_PARTICIPANT"));
    }
    if invite.subscription.is_some() {
        return Err(bad("STARS_PAYMENT_REQUIRED"));
    }
    if let PeerKey::Channel(id) = invite.chat
        && let Some(bot) = world.channel(id)?.settings.join_app
    {
        return Ok(ask_in_app(world, by.account, bot));
    }
    if let (PeerKey::Channel(id), true) = (invite.chat, invite.request_needed) {
        world.may_join(by.account, id)?;
        return world.request_join(by.account, id, Some(invite.hash));
    }
    let arrival = Arrival::ByLink(invite.creator);
    let result = match invite.chat {
        PeerKey::Channel(id) => {
            world.may_join(by.account, id)?;
            joined(world, by, id, arrival)?
        }
        PeerKey::Group(id) => {
            let event = world.add_to_group(by, id, by.account, arrival)?;
            let mut named = Named::default();
            let updates = world.own_updates(by, invite.chat, &event, &mut named);
            let updates = world.container(by.account, updates, &named);
            tl::types::messages::ChatInviteJoinResultOk { updates }.into()
        }
        PeerKey::User(_) => return Err(bad("INVITE_HASH_INVALID")),
    };
    if let Some(invite) = world.invites.get_mut(&invite.hash) {
        invite.usage += 1;
    }
    Ok(result)
}

/// Makes a link.
pub fn export_chat_invite(call: &mut Call<'_>, request: ExportChatInvite) -> Answer<tl::enums::ExportedChatInvite> {
    let me = call.caller.signed_in()?;
    let chat = call.world.input_peer(me, &request.peer)?;
    call.world.must_be_admin(me, chat)?;
    if request.expire_date.is_some_and(|at| at <= call.world.now()) {
        return Err(bad("EXPIRE_DATE_INVALID"));
    }
    if request
        .usage_limit
        .is_some_and(|limit| limit <= 0 || request.request_needed)
    {
        return Err(bad("USAGE_LIMIT_INVALID"));
    }
    let terms = InviteTerms {
        expires: request.expire_date,
        usage_limit: request.usage_limit,
        request_needed: request.request_needed,
        subscription: None,
        title: request.title,
    };
    Ok(tl_invite(&call.world.create_invite(me, chat, terms)))
}

/// Lets somebody in who asked, or turns them away.
pub fn hide_chat_join_request(call: &mut Call<'_>, request: HideChatJoinRequest) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let chat = world.input_peer(by.account, &request.peer)?;
    world.must_be_admin(by.account, chat)?;
    let PeerKey::Channel(id) = chat else {
        return Err(bad("HIDE_REQUESTER_MISSING"));
    };
    let user = world.input_user(by.account, &request.user_id)?;
    let event = world.settle_request(by, id, user, request.approved)?;
    let mut named = Named::default();
    let mut updates = world.arrival_updates(by.account, id, false, event.as_ref(), &mut named);
    updates.extend(world.pending_requests_update(id, &mut named));
    Ok(world.container(by.account, updates, &named))
}

/// Who waits to be let in; with `requested` unset, who came by a link, of which no list is kept.
pub fn get_chat_invite_importers(
    call: &mut Call<'_>,
    request: GetChatInviteImporters,
) -> Answer<tl::enums::messages::ChatInviteImporters> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let chat = world.input_peer(me, &request.peer)?;
    world.must_be_admin(me, chat)?;
    let waiting = match chat {
        PeerKey::Channel(id) if request.requested => world.channel(id)?.requests.as_slice(),
        _ => &[],
    };
    let hash = request
        .link
        .as_deref()
        .map(|link| link.rsplit(['/', '+']).next().unwrap_or(link));
    let offset_user = world.input_user(me, &request.offset_user).ok();
    let listed = waiting
        .iter()
        .rev()
        .filter(|request| hash.is_none() || request.link.as_deref() == hash);
    let listed: Vec<_> = listed.collect();
    let start = listed
        .iter()
        .position(|row| Some(row.user) == offset_user)
        .map_or(0, |at| at + 1);
    let limit = usize::try_from(request.limit.clamp(0, 100)).unwrap_or(0);
    let page = listed.iter().skip(start).take(limit);
    let importer = |row: &&&crate::sandbox::world::channels::JoinRequest| {
        tl::types::ChatInviteImporter {
            requested: true,
            via_chatlist: false,
            user_id: row.user,
            date: row.date,
            about: None,
            approved_by: None,
        }
        .into()
    };
    Ok(tl::types::messages::ChatInviteImporters {
        count: i32::try_from(listed.len()).unwrap_or(i32::MAX),
        importers: page.clone().map(|row| importer(&row)).collect(),
        users: world.tl_users(me, page.map(|row| row.user)),
    }
    .into())
}
