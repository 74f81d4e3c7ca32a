//! Coming and going: joining, being added, asking to be let in, leaving, being put out.

use std::collections::BTreeSet;

use grammers_tl_types as tl;
use tl::enums::Update;

use super::World;
use super::boxes::Event;
use super::channels::JoinRequest;
use super::hearing::{Actor, Named};
use super::members::{Member, Role};
use super::messages::Draft;
use super::peers::PeerKey;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

/// How many channels and supergroups one account may be in, unless it is arranged otherwise.
pub(super) const MOST_CHANNELS: usize = 500;

/// How somebody came into a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    ByUsername,
    /// By the link of this user.
    ByLink(UserId),
    /// This admin said yes.
    ByRequest(UserId),
    AddedBy(UserId),
}

impl Arrival {
    fn inviter(self, user: UserId) -> UserId {
        match self {
            Self::ByUsername => user,
            Self::ByLink(inviter) | Self::ByRequest(inviter) | Self::AddedBy(inviter) => inviter,
        }
    }

    /// Who the service message is from, and what it says.
    fn told_by(self, users: &[UserId]) -> (UserId, tl::enums::MessageAction) {
        let first = users.first().copied().unwrap_or_default();
        match self {
            Self::ByUsername => (
                first,
                tl::types::MessageActionChatAddUser { users: users.to_vec() }.into(),
            ),
            Self::ByLink(inviter_id) => (first, tl::types::MessageActionChatJoinedByLink { inviter_id }.into()),
            Self::ByRequest(_) => (first, tl::enums::MessageAction::ChatJoinedByRequest),
            Self::AddedBy(by) => (by, tl::types::MessageActionChatAddUser { users: users.to_vec() }.into()),
        }
    }
}

impl World {
    /// Whether `user` may come into a channel by itself.
    ///
    /// # Errors
    /// `USER_ALREADY_PARTICIPANT`, `CHANNEL_PRIVATE` for the banned, `CHANNELS_TOO_MUCH`.
    pub fn may_join(&self, user: UserId, id: i64) -> Answer<()> {
        let channel = self.channel(id)?;
        if channel.members.contains(user) {
            return Err(bad("USER_ALREADY_PARTICIPANT"));
        }
        if channel.banned.contains(&user) {
            return Err(bad("CHANNEL_PRIVATE"));
        }
        if self
            .channels
            .values()
            .filter(|channel| channel.members.contains(user))
            .count()
            >= self.channels_limit * (1 + usize::from(self.premium.contains(&user)))
        {
            return Err(bad("CHANNELS_TOO_MUCH"));
        }
        Ok(())
    }

    /// Makes `users` members of a channel, writes the service message of supergroups, and tells every account in it.
    ///
    /// Returns the service message's event.
    pub fn admit(&mut self, by: Actor, id: i64, users: &[UserId], arrival: Arrival) -> Answer<Option<Event>> {
        let date = self.now();
        let via_request = matches!(arrival, Arrival::ByRequest(_));
        let channel = self.channel_mut(id)?;
        for user in users {
            let inviter = arrival.inviter(*user);
            channel.members.add(Member {
                user: *user,
                inviter,
                date,
                role: Role::Member,
                via_request,
            });
            channel.banned.remove(user);
            channel.requests.retain(|request| request.user != *user);
        }
        let broadcast = channel.is_broadcast();
        let before = channel.top_message();
        for user in users {
            if let Some(account) = self.accounts.get_mut(user) {
                account.note_membership_change(date, id);
                self.channel_mut(id)?.read.insert(*user, before);
            }
        }
        let event = if broadcast {
            None
        } else {
            Some(self.tell_arrival(id, users, arrival)?)
        };
        self.announce_arrival(by, id, users, event.as_ref());
        for user in users {
            self.announce_participant(by, id, *user, true);
        }
        Ok(event)
    }

    /// Tells the admins of a channel who came into it or went: in no sequence, so who is not connected misses it.
    fn announce_participant(&mut self, by: Actor, id: i64, user: UserId, joined: bool) {
        let date = self.now();
        let Some(channel) = self.channels.get(&id) else { return };
        let admins: Vec<UserId> = channel.members.admins().map(|admin| admin.user).collect();
        let member = || {
            let member = tl::types::ChannelParticipant {
                user_id: user,
                date,
                subscription_until_date: None,
                rank: None,
            };
            tl::enums::ChannelParticipant::from(member)
        };
        for admin in admins {
            let mut named = Named::default();
            named.peer(PeerKey::Channel(id));
            named.users.insert(user);
            let update = tl::types::UpdateChannelParticipant {
                via_chatlist: false,
                channel_id: id,
                date,
                actor_id: by.account,
                user_id: user,
                prev_participant: (!joined).then(member),
                new_participant: joined.then(member),
                invite: None,
                qts: 0,
            };
            self.push(admin, vec![update.into()], &named, by);
        }
    }

    /// Writes the service message without telling anyone yet: the newcomers hear of the chat in the same breath.
    fn tell_arrival(&mut self, id: i64, users: &[UserId], arrival: Arrival) -> Answer<Event> {
        let (author, action) = arrival.told_by(users);
        let quiet = std::mem::take(&mut self.pushes);
        let posted = self.post(Actor::offstage(author), PeerKey::Channel(id), Draft::service(action));
        self.pushes = quiet;
        Ok(posted?.event)
    }

    fn announce_arrival(&mut self, by: Actor, id: i64, users: &[UserId], event: Option<&Event>) {
        let Some(channel) = self.channels.get(&id) else { return };
        let newcomers: BTreeSet<UserId> = users.iter().copied().collect();
        for account in self.listeners(channel) {
            let mut named = Named::default();
            let updates = self.arrival_updates(account, id, newcomers.contains(&account), event, &mut named);
            self.push(account, updates, &named, by);
        }
    }

    /// What `viewer` hears when people came in: as one of them first the chat itself, then the service message.
    pub fn arrival_updates(
        &self,
        viewer: UserId,
        id: i64,
        newcomer: bool,
        event: Option<&Event>,
        named: &mut Named,
    ) -> Vec<Update> {
        let mut updates = Vec::new();
        if newcomer {
            named.peer(PeerKey::Channel(id));
            updates.push(tl::types::UpdateChannel { channel_id: id }.into());
        }
        updates.extend(event.and_then(|event| self.tl_channel_event(viewer, id, event, named)));
        updates
    }

    /// Takes `user` out of a channel: by themselves, or put out by `by`, and then they may not come back.
    ///
    /// Returns the service message's event, which `user` no longer hears of.
    ///
    /// # Errors
    /// `USER_NOT_PARTICIPANT`, `USER_CREATOR`.
    pub fn remove_from_channel(&mut self, by: Actor, id: i64, user: UserId, ban: bool) -> Answer<Option<Event>> {
        let date = self.now();
        let channel = self.channel_mut(id)?;
        match channel.members.get(user).map(|member| member.role) {
            None => return Err(bad("USER_NOT_PARTICIPANT")),
            Some(Role::Creator) => return Err(bad("USER_CREATOR")),
            Some(Role::Admin | Role::Member) => {}
        }
        channel.members.remove(user);
        channel.read.remove(&user);
        if ban {
            channel.banned.insert(user);
        }
        let broadcast = channel.is_broadcast();
        let mut event = None;
        if !broadcast {
            let action = tl::types::MessageActionChatDeleteUser { user_id: user };
            event = Some(self.post(by, PeerKey::Channel(id), Draft::service(action))?.event);
        }
        if let Some(account) = self.accounts.get_mut(&user) {
            account.note_membership_change(date, id);
        }
        let mut named = Named::default();
        let updates = self.arrival_updates(user, id, true, None, &mut named);
        self.push(user, updates, &named, by);
        self.announce_participant(by, id, user, false);
        Ok(event)
    }

    /// Asks the admins of a channel to let `user` in. Asking again changes nothing.
    ///
    /// # Errors
    /// Always `INVITE_REQUEST_SENT`, which is how Telegram says that it worked.
    pub fn request_join<T>(&mut self, user: UserId, id: i64, link: Option<String>) -> Answer<T> {
        let date = self.now();
        let channel = self.channel_mut(id)?;
        if !channel.requests.iter().any(|request| request.user == user) {
            channel.requests.push(JoinRequest { user, date, link });
            self.announce_requests(Actor::offstage(user), id);
        }
        Err(bad("INVITE_REQUEST_SENT"))
    }

    /// Lets a waiting person in, or turns them away. Returns the service message's event.
    ///
    /// # Errors
    /// `HIDE_REQUESTER_MISSING` when nobody waits, `USER_ALREADY_PARTICIPANT`.
    pub fn settle_request(&mut self, by: Actor, id: i64, user: UserId, approve: bool) -> Answer<Option<Event>> {
        let channel = self.channel_mut(id)?;
        if channel.members.contains(user) {
            return Err(bad("USER_ALREADY_PARTICIPANT"));
        }
        let waiting = channel.requests.iter().position(|request| request.user == user);
        let request = channel
            .requests
            .remove(waiting.ok_or_else(|| bad("HIDE_REQUESTER_MISSING"))?);
        let mut event = None;
        if approve {
            if let Some(invite) = request.link.and_then(|hash| self.invites.get_mut(&hash)) {
                invite.usage += 1;
            }
            event = self.admit(by, id, &[user], Arrival::ByRequest(by.account))?;
        }
        self.announce_requests(by, id);
        Ok(event)
    }

    /// Tells the accounts that run a channel who is waiting.
    fn announce_requests(&mut self, by: Actor, id: i64) {
        let Some(channel) = self.channels.get(&id) else { return };
        let admins: Vec<UserId> = channel.members.admins().map(|admin| admin.user).collect();
        for admin in admins {
            let mut named = Named::default();
            let update = self.pending_requests_update(id, &mut named);
            self.push(admin, update.into_iter().collect(), &named, by);
        }
    }

    /// How many people wait to be let into a channel, and the latest of them.
    pub fn pending_requests_update(&self, id: i64, named: &mut Named) -> Option<Update> {
        let channel = self.channels.get(&id)?;
        let recent_requesters: Vec<UserId> = channel.requests.iter().rev().take(9).map(|r| r.user).collect();
        named.peer(PeerKey::Channel(id));
        named.users.extend(&recent_requesters);
        let requests_pending = i32::try_from(channel.requests.len()).unwrap_or(i32::MAX);
        let peer = PeerKey::Channel(id).to_tl();
        Some(
            tl::types::UpdatePendingJoinRequests {
                peer,
                requests_pending,
                recent_requesters,
            }
            .into(),
        )
    }

    /// Puts somebody into a basic group and writes the service message. Returns its event in the actor's box.
    ///
    /// # Errors
    /// `USER_ALREADY_PARTICIPANT`, `USERS_TOO_MUCH`.
    pub fn add_to_group(&mut self, by: Actor, id: i64, user: UserId, arrival: Arrival) -> Answer<Event> {
        let date = self.now();
        let group = self.group_mut(id)?;
        if group.members.contains(user) {
            return Err(bad("USER_ALREADY_PARTICIPANT"));
        }
        if group.members.len() >= super::groups::MOST_MEMBERS {
            return Err(bad("USERS_TOO_MUCH"));
        }
        let inviter = arrival.inviter(user);
        group.members.add(Member {
            user,
            inviter,
            date,
            role: Role::Member,
            via_request: false,
        });
        group.former.remove(&user);
        group.version += 1;
        let (_, action) = arrival.told_by(&[user]);
        Ok(self.post(by, PeerKey::Group(id), Draft::service(action))?.event)
    }

    /// Takes somebody out of a basic group; they still get the service message. Returns its event in the actor's box.
    ///
    /// # Errors
    /// `USER_NOT_PARTICIPANT`, `CHAT_ADMIN_REQUIRED`.
    pub fn remove_from_group(&mut self, by: Actor, id: i64, user: UserId) -> Answer<Event> {
        let group = self.group(id)?;
        let Some(member) = group.members.get(user) else {
            return Err(bad("USER_NOT_PARTICIPANT"));
        };
        let may = user == by.account || group.members.is_admin(by.account) || member.inviter == by.account;
        if !may {
            return Err(bad("CHAT_ADMIN_REQUIRED"));
        }
        let action = tl::types::MessageActionChatDeleteUser { user_id: user };
        let readers: Vec<UserId> = group.members.oldest_first().map(|member| member.user).collect();
        let group = self.group_mut(id)?;
        group.members.remove(user);
        group.former.insert(user);
        group.version += 1;
        Ok(self
            .post_copies(by, &readers, |_| PeerKey::Group(id), &Draft::service(action))?
            .event)
    }
}
