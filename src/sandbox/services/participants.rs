//! Member lists: `channels.getParticipants` and `channels.getParticipant`.

use grammers_tl_types as tl;
use tl::enums::ChannelParticipantsFilter as Filter;
use tl::functions::channels::{GetParticipant, GetParticipants};

use crate::sandbox::call::{Answer, Call, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::channels::Channel;
use crate::sandbox::world::hearing::Named;
use crate::sandbox::world::members::{Member, Role};
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::people::Person;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::view::participants::{tl_banned_participant, tl_participant};

/// The longest page.
const LONGEST_PAGE: i32 = 200;
/// Where lists of supergroups stop, whatever their `count` says.
const LISTED_IN_GROUP: usize = 10_000;
/// Where the lists of broadcast channels stop, for their admins; nobody else sees any.
const LISTED_IN_BROADCAST: usize = 200;

/// A page of members, newest first.
///
/// # Errors
/// `CHAT_ADMIN_REQUIRED` for the members of broadcast channels and for lists of the banned.
pub fn get_participants(
    call: &mut Call<'_>,
    request: GetParticipants,
) -> Answer<tl::enums::channels::ChannelParticipants> {
    let me = call.caller.signed_in()?;
    let id = call.world.input_channel(me, &request.channel)?;
    let world = &*call.world;
    let channel = world.open_channel(me, id)?;
    let admin = channel.members.is_admin(me);
    let about_banned = matches!(
        request.filter,
        Filter::ChannelParticipantsKicked(_) | Filter::ChannelParticipantsBanned(_)
    );
    if !admin && (channel.is_broadcast() || about_banned) {
        return Err(bad("CHAT_ADMIN_REQUIRED"));
    }
    let page = Page::new(channel, request.offset, request.limit);
    let mut named = Named::default();
    named.peer(PeerKey::Channel(id));
    let (count, participants) = match &request.filter {
        Filter::ChannelParticipantsKicked(_) => page.banned(channel, &mut named),
        Filter::ChannelParticipantsBanned(_) => (0, Vec::new()),
        filter => {
            let listed = Listed::of(filter);
            let shown = channel
                .members
                .newest_first()
                .filter(|member| listed.includes(world, me, channel, member));
            page.members(me, channel, shown, &mut named)
        }
    };
    let (chats, users) = (world.named_chats(me, &named), world.named_users(me, &named));
    Ok(tl::types::channels::ChannelParticipants {
        count,
        participants,
        chats,
        users,
    }
    .into())
}

/// Which members a filter asks for.
enum Listed {
    All,
    Matching(String),
    Admins,
    Bots,
    Contacts(String),
}

impl Listed {
    fn of(filter: &Filter) -> Self {
        let matching = |query: &str| {
            let query = query.trim().to_lowercase();
            if query.is_empty() {
                Self::All
            } else {
                Self::Matching(query)
            }
        };
        match filter {
            Filter::ChannelParticipantsAdmins => Self::Admins,
            Filter::ChannelParticipantsBots => Self::Bots,
            Filter::ChannelParticipantsContacts(filter) => Self::Contacts(filter.q.trim().to_lowercase()),
            Filter::ChannelParticipantsSearch(filter) => matching(&filter.q),
            Filter::ChannelParticipantsMentions(filter) => matching(filter.q.as_deref().unwrap_or_default()),
            _ => Self::All,
        }
    }

    fn includes(&self, world: &World, me: UserId, channel: &Channel, member: &Member) -> bool {
        let Some(person) = world.people.get(&member.user) else {
            return false;
        };
        let runs = channel.members.is_admin(member.user);
        // Of a hidden list, members see those who run the chat, its bots and themselves.
        if !(channel.shows_members_to(me) || runs || person.is_bot() || member.user == me) {
            return false;
        }
        let matches = |person: &Person, query: &str| query.is_empty() || person.matches(query);
        match self {
            Self::All => true,
            Self::Matching(query) => matches(person, query),
            Self::Admins => runs,
            Self::Bots => person.is_bot(),
            Self::Contacts(query) => world.is_contact(me, member.user) && matches(person, query),
        }
    }
}

/// The part of a list that one answer holds.
struct Page {
    offset: usize,
    limit: usize,
}

type Participants = (i32, Vec<tl::enums::ChannelParticipant>);

impl Page {
    /// A page that ends where Telegram's lists end.
    fn new(channel: &Channel, offset: i32, limit: i32) -> Self {
        let usual = if channel.is_broadcast() {
            LISTED_IN_BROADCAST
        } else {
            LISTED_IN_GROUP
        };
        let listed = channel.settings.listed.unwrap_or(usual);
        let offset = usize::try_from(offset).unwrap_or(0).min(listed);
        let limit = usize::try_from(limit.clamp(0, LONGEST_PAGE))
            .unwrap_or(0)
            .min(listed - offset);
        Self { offset, limit }
    }

    fn members<'a>(
        &self,
        me: UserId,
        channel: &Channel,
        members: impl Iterator<Item = &'a Member>,
        named: &mut Named,
    ) -> Participants {
        let mut count = 0;
        let mut shown = Vec::with_capacity(self.limit);
        for (at, member) in members.enumerate() {
            count += 1;
            if at >= self.offset && shown.len() < self.limit {
                named.users.insert(member.user);
                // Only admins and the viewer are shown with who brought them in.
                if member.role != Role::Member || member.user == me {
                    named.users.insert(member.inviter);
                }
                shown.push(tl_participant(me, channel, member));
            }
        }
        (count, shown)
    }

    fn banned(&self, channel: &Channel, named: &mut Named) -> Participants {
        let banned = channel.banned.iter().skip(self.offset).take(self.limit);
        let shown: Vec<_> = banned.map(|user| tl_banned_participant(*user, channel)).collect();
        named
            .users
            .extend(channel.banned.iter().skip(self.offset).take(self.limit));
        named
            .users
            .extend(channel.members.admins().next().map(|admin| admin.user));
        (i32::try_from(channel.banned.len()).unwrap_or(i32::MAX), shown)
    }
}

/// One member.
///
/// # Errors
/// `USER_NOT_PARTICIPANT`; `CHAT_ADMIN_REQUIRED` for others than oneself where the list is hidden.
pub fn get_participant(
    call: &mut Call<'_>,
    request: GetParticipant,
) -> Answer<tl::enums::channels::ChannelParticipant> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let id = world.input_channel(me, &request.channel)?;
    let channel = world.open_channel(me, id)?;
    let PeerKey::User(user) = world.input_peer(me, &request.participant)? else {
        return Err(bad("PARTICIPANT_ID_INVALID"));
    };
    if user != me && !channel.shows_members_to(me) && !channel.members.is_admin(user) {
        return Err(bad("CHAT_ADMIN_REQUIRED"));
    }
    let participant = match channel.members.get(user) {
        Some(member) => tl_participant(me, channel, member),
        None if channel.banned.contains(&user) && channel.members.is_admin(me) => tl_banned_participant(user, channel),
        None => return Err(bad("USER_NOT_PARTICIPANT")),
    };
    let mut named = Named::default();
    named.peer(PeerKey::Channel(id));
    named.users.insert(user);
    let (chats, users) = (world.named_chats(me, &named), world.named_users(me, &named));
    Ok(tl::types::channels::ChannelParticipant {
        participant,
        chats,
        users,
    }
    .into())
}
