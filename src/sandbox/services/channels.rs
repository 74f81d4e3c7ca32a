//! `channels.*`, but for member lists, which are in `participants`.

use grammers_tl_types as tl;
use tl::functions::channels::{
    CreateChannel, DeleteMessages, GetChannels, GetFullChannel, GetMessages, InviteToChannel, JoinChannel,
    LeaveChannel, ReadHistory,
};

use super::messages::{message_list, pick};
pub use super::participants::{get_participant, get_participants};
use crate::sandbox::call::{Answer, Call, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::channels::{Channel, ChannelKind};
use crate::sandbox::world::hearing::{Actor, Named};
use crate::sandbox::world::joining::Arrival;
use crate::sandbox::world::members::{Member, Role};
use crate::sandbox::world::messages::Draft;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::people::Nature;
use crate::sandbox::world::refusal::{bad, forbidden};

const LONGEST_TITLE: usize = 128;
/// Telegram takes this many people in one call.
const MOST_INVITED: usize = 100;

/// Makes a supergroup or a broadcast channel; supergroup when neither is asked for.
pub fn create_channel(call: &mut Call<'_>, request: CreateChannel) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let title = title(&request.title)?;
    let kind = if request.broadcast {
        ChannelKind::Broadcast
    } else {
        ChannelKind::Supergroup
    };
    let world = &mut *call.world;
    let date = world.now();
    let id = world.channels.keys().next_back().map_or(1, |last| last + 1);
    let mut channel = Channel::new(id, kind, title.clone(), date);
    channel.about = request.about;
    let creator = by.account;
    channel.members.add(Member {
        user: creator,
        inviter: creator,
        date,
        role: Role::Creator,
        via_request: false,
    });
    channel.read.insert(creator, 0);
    world.channels.insert(id, channel);
    // The first message and the chat itself reach every connection together.
    let pushed = std::mem::take(&mut world.pushes);
    let action = tl::types::MessageActionChannelCreate { title };
    let posted = world.post(by, PeerKey::Channel(id), Draft::service(action));
    world.pushes = pushed;
    let event = posted?.event;
    let mut named = Named::default();
    let updates = world.arrival_updates(creator, id, true, Some(&event), &mut named);
    world.push(creator, updates.clone(), &named, by);
    Ok(world.container(creator, updates, &named))
}

/// A title that Telegram would take.
pub(super) fn title(title: &str) -> Answer<String> {
    let title: String = title.trim().chars().take(LONGEST_TITLE).collect();
    if title.is_empty() {
        Err(bad("CHAT_TITLE_EMPTY"))
    } else {
        Ok(title)
    }
}

/// Joins a public chat, or asks to.
pub fn join_channel(call: &mut Call<'_>, request: JoinChannel) -> Answer<tl::enums::messages::ChatInviteJoinResult> {
    let by = Actor::of(&call.caller)?;
    let id = call.world.input_channel(by.account, &request.channel)?;
    call.world.may_join(by.account, id)?;
    let channel = call.world.open_channel(by.account, id)?;
    if let Some(bot) = channel.settings.join_app {
        return Ok(ask_in_app(call.world, by.account, bot));
    }
    if channel.settings.join_request {
        return call.world.request_join(by.account, id, None);
    }
    joined(call.world, by, id, Arrival::ByUsername)
}

/// What whoever joins is to answer in first.
pub(super) fn ask_in_app(world: &World, account: UserId, bot_id: UserId) -> tl::enums::messages::ChatInviteJoinResult {
    let mut named = Named::default();
    named.peer(PeerKey::User(bot_id));
    tl::types::messages::ChatInviteJoinResultWebView {
        bot_id,
        query_id: 1,
        users: world.named_users(account, &named),
    }
    .into()
}

/// Lets the caller in, and answers with what it needs to show the chat.
pub(super) fn joined(
    world: &mut World,
    by: Actor,
    id: i64,
    arrival: Arrival,
) -> Answer<tl::enums::messages::ChatInviteJoinResult> {
    let event = world.admit(by, id, &[by.account], arrival)?;
    let mut named = Named::default();
    let updates = world.arrival_updates(by.account, id, true, event.as_ref(), &mut named);
    let updates = world.container(by.account, updates, &named);
    Ok(tl::types::messages::ChatInviteJoinResultOk { updates }.into())
}

/// Leaves a chat.
pub fn leave_channel(call: &mut Call<'_>, request: LeaveChannel) -> Answer<tl::enums::Updates> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let id = world.input_channel(by.account, &request.channel)?;
    world.remove_from_channel(by, id, by.account, false)?;
    let mut named = Named::default();
    let updates = world.arrival_updates(by.account, id, true, None, &mut named);
    Ok(world.container(by.account, updates, &named))
}

/// Chats by reference.
///
/// # Errors
/// `CHANNEL_INVALID` when one of them cannot be named.
pub fn get_channels(call: &mut Call<'_>, request: GetChannels) -> Answer<tl::enums::messages::Chats> {
    let me = call.caller.signed_in()?;
    let mut named = Named::default();
    for input in &request.id {
        named.peer(PeerKey::Channel(call.world.input_channel(me, input)?));
    }
    Ok(tl::types::messages::Chats {
        chats: call.world.named_chats(me, &named),
    }
    .into())
}

/// A chat's page.
pub fn get_full_channel(call: &mut Call<'_>, request: GetFullChannel) -> Answer<tl::enums::messages::ChatFull> {
    let me = call.caller.signed_in()?;
    let id = call.world.input_channel(me, &request.channel)?;
    let channel = call.world.open_channel(me, id)?;
    let full_chat = call.world.tl_channel_full(me, channel);
    let mut named = Named::default();
    named.peer(PeerKey::Channel(id));
    if let tl::enums::ChatFull::ChannelFull(full) = &full_chat {
        full.linked_chat_id
            .into_iter()
            .for_each(|id| named.peer(PeerKey::Channel(id)));
        named.users.extend(full.recent_requesters.iter().flatten());
        named.users.extend(
            full.bot_info
                .iter()
                .filter_map(|tl::enums::BotInfo::Info(info)| info.user_id),
        );
    }
    let users = call.world.named_users(me, &named);
    Ok(tl::types::messages::ChatFull {
        full_chat,
        chats: call.world.named_chats(me, &named),
        users,
    }
    .into())
}

/// Adds people to a chat. Those whose privacy forbids it come back as missing; anything worse fails the whole call.
pub fn invite_to_channel(call: &mut Call<'_>, request: InviteToChannel) -> Answer<tl::enums::messages::InvitedUsers> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let id = world.input_channel(by.account, &request.channel)?;
    world.may_invite(by.account, id)?;
    if request.users.is_empty() {
        return Err(bad("USERS_TOO_FEW"));
    }
    if request.users.len() > MOST_INVITED {
        return Err(bad("USERS_TOO_MUCH"));
    }
    let mut willing = Vec::new();
    let mut missing_invitees = Vec::new();
    for input in &request.users {
        let user = world.input_user(by.account, input)?;
        let channel = world.channel(id)?;
        if channel.members.contains(user) || willing.contains(&user) {
            continue;
        }
        if channel.banned.contains(&user) && !channel.members.is_admin(by.account) {
            return Err(bad("USER_KICKED"));
        }
        match may_be_added(world, by.account, user, channel.is_broadcast())? {
            None => willing.push(user),
            Some(missing) => missing_invitees.push(missing),
        }
    }
    if willing.is_empty() && missing_invitees.is_empty() {
        return Err(bad("USER_ALREADY_PARTICIPANT"));
    }
    let mut named = Named::default();
    let mut updates = Vec::new();
    if !willing.is_empty() {
        let event = world.admit(by, id, &willing, Arrival::AddedBy(by.account))?;
        named.peer(PeerKey::Channel(id));
        updates = world.arrival_updates(by.account, id, false, event.as_ref(), &mut named);
    }
    let updates = world.container(by.account, updates, &named);
    Ok(tl::types::messages::InvitedUsers {
        updates,
        missing_invitees,
    }
    .into())
}

/// Whether somebody can be added to a chat: `None`, or how their privacy refuses.
///
/// # Errors
/// `INPUT_USER_DEACTIVATED`, `USER_CHANNELS_TOO_MUCH`, `USER_BOT`.
pub(super) fn may_be_added(
    world: &World,
    me: UserId,
    user: UserId,
    broadcast: bool,
) -> Answer<Option<tl::enums::MissingInvitee>> {
    let missing = |premium_would_allow_invite, premium_required_for_pm| {
        let missing = tl::types::MissingInvitee {
            premium_would_allow_invite,
            premium_required_for_pm,
            user_id: user,
        };
        Some(missing.into())
    };
    let knows = world.is_contact(me, user);
    match world.person(user)?.nature {
        Nature::Deleted => Err(bad("INPUT_USER_DEACTIVATED")),
        Nature::TooManyChannels => Err(forbidden("USER_CHANNELS_TOO_MUCH")),
        Nature::Bot if broadcast => Err(bad("USER_BOT")),
        Nature::RefusesInvites | Nature::BlocksStrangers if !knows => Ok(missing(false, false)),
        Nature::PremiumOnly if !knows => Ok(missing(true, true)),
        Nature::AddedByPremium if !knows => Ok(missing(true, false)),
        _ => Ok(None),
    }
}

/// Messages of a chat by id, in the order asked for.
pub fn get_messages(call: &mut Call<'_>, request: GetMessages) -> Answer<tl::enums::messages::Messages> {
    let me = call.caller.signed_in()?;
    let id = call.world.input_channel(me, &request.channel)?;
    let channel = call.world.open_channel(me, id)?;
    let mut named = Named::default();
    named.peer(PeerKey::Channel(id));
    let messages = pick(me, &channel.posts, &request.id, &mut named);
    let count = i32::try_from(messages.len()).unwrap_or(i32::MAX);
    Ok(message_list(
        call.world,
        me,
        PeerKey::Channel(id),
        messages,
        count,
        &named,
    ))
}

/// Deletes messages for everyone.
pub fn delete_messages(call: &mut Call<'_>, request: DeleteMessages) -> Answer<tl::enums::messages::AffectedMessages> {
    let by = Actor::of(&call.caller)?;
    let id = call.world.input_channel(by.account, &request.channel)?;
    let event = call.world.delete_in_channel(by, id, &request.id)?;
    let pts = call.world.channel(id)?.posts.pts();
    let pts_count = event.map_or(0, |event| event.count);
    Ok(tl::types::messages::AffectedMessages { pts, pts_count }.into())
}

/// Marks a chat as read, up to a message; 0 for all of it.
pub fn read_history(call: &mut Call<'_>, request: ReadHistory) -> Answer<bool> {
    let by = Actor::of(&call.caller)?;
    let world = &mut *call.world;
    let id = world.input_channel(by.account, &request.channel)?;
    let channel = world.channel_mut(id)?;
    if !channel.members.contains(by.account) {
        return Err(bad("CHANNEL_PRIVATE"));
    }
    let top = channel.top_message();
    let max_id = if request.max_id <= 0 {
        top
    } else {
        request.max_id.min(top)
    };
    let read = channel.read.entry(by.account).or_insert(0);
    if *read >= max_id {
        return Ok(true);
    }
    *read = max_id;
    let pts = channel.posts.pts();
    let still_unread_count = world.unread_in_channel(by.account, world.channel(id)?);
    let update = tl::types::UpdateReadChannelInbox {
        folder_id: None,
        channel_id: id,
        max_id,
        still_unread_count,
        pts,
    };
    let mut named = Named::default();
    named.peer(PeerKey::Channel(id));
    world.push(by.account, vec![update.into()], &named, by);
    Ok(true)
}
