//! Pages of participant lists. Phone numbers are dropped where they arrive.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, Member, MemberPage, Role, TelegramError},
    scan::ports::MemberList,
};

use super::{
    JobTelegram,
    chats::{kind_of, username},
    own_error,
};
use crate::telegram::message_facts::storable;

/// The most one request gives.
const PAGE: i32 = 200;

impl JobTelegram {
    pub(super) async fn page_of_members(
        &self,
        chat: &Chat,
        list: &MemberList,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError> {
        let (offset, limit) = (offset.max(0), limit.clamp(1, PAGE));
        match kind_of(chat)? {
            PeerKind::Channel => self.page_of_channel(chat, list, offset, limit).await,
            PeerKind::Chat => self.page_of_group(chat, list, offset, limit).await,
            PeerKind::User => Err(own_error(
                "not_a_group",
                "Only groups and channels have members.",
                Decision::Target,
            )),
        }
    }

    async fn page_of_channel(
        &self,
        chat: &Chat,
        list: &MemberList,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError> {
        let request = |peer: PeerRef| tl::functions::channels::GetParticipants {
            channel: peer.into(),
            filter: filter_of(list),
            offset,
            limit,
            hash: 0,
        };
        let answer = match self.call_about(Action::Read, chat, request).await? {
            tl::enums::channels::ChannelParticipants::Participants(answer) => answer,
            tl::enums::channels::ChannelParticipants::NotModified => {
                return Err(own_error(
                    "list_not_given",
                    "Telegram says that a list which was never given is unchanged.",
                    Decision::Retry,
                ));
            }
        };
        self.connection.learn(&answer.users, &answer.chats).await;
        let people = by_id(&answer.users);
        let members = answer.participants.iter().filter_map(|participant| {
            let (id, role, joined) = of_channel(participant)?;
            people.get(&id).map(|user| member(user, role, joined))
        });
        Ok(MemberPage {
            members: members.collect(),
            count: answer.count.into(),
            returned: i32::try_from(answer.participants.len()).unwrap_or(i32::MAX),
        })
    }

    /// A basic group gives its whole list at once; it is filtered and cut into pages here.
    async fn page_of_group(
        &self,
        chat: &Chat,
        list: &MemberList,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetFullChat { chat_id: peer.into() };
        let tl::enums::messages::ChatFull::Full(full) = self.call_about(Action::Read, chat, request).await?;
        self.connection.learn(&full.users, &full.chats).await;
        let participants = match full.full_chat {
            tl::enums::ChatFull::Full(group) => group.participants,
            tl::enums::ChatFull::ChannelFull(_) | tl::enums::ChatFull::CommunityFull(_) => return Err(not_shown()),
        };
        let tl::enums::ChatParticipants::Participants(all) = participants else {
            return Err(not_shown());
        };
        let people = by_id(&full.users);
        let listed: Vec<(i64, Role, Option<i32>)> = all
            .participants
            .iter()
            .map(of_group)
            .filter(|(id, role, _)| is_listed(list, people.get(id).copied(), *role))
            .collect();
        let from = usize::try_from(offset).unwrap_or(0).min(listed.len());
        let count = usize::try_from(limit).unwrap_or(0);
        let page = &listed[from..(from + count).min(listed.len())];
        let members = page
            .iter()
            .filter_map(|(id, role, joined)| people.get(id).map(|user| member(user, *role, *joined)));
        Ok(MemberPage {
            members: members.collect(),
            count: i64::try_from(listed.len()).unwrap_or(i64::MAX),
            returned: i32::try_from(page.len()).unwrap_or(i32::MAX),
        })
    }
}

fn filter_of(list: &MemberList) -> tl::enums::ChannelParticipantsFilter {
    match list {
        MemberList::Recent => tl::enums::ChannelParticipantsFilter::ChannelParticipantsRecent,
        MemberList::Admins => tl::enums::ChannelParticipantsFilter::ChannelParticipantsAdmins,
        MemberList::Bots => tl::enums::ChannelParticipantsFilter::ChannelParticipantsBots,
        MemberList::Search(query) => tl::types::ChannelParticipantsSearch { q: query.clone() }.into(),
        MemberList::Contacts(query) => tl::types::ChannelParticipantsContacts { q: query.clone() }.into(),
    }
}

/// Whether a member of a basic group is in a list; whom Telegram does not describe, only in the whole one.
fn is_listed(list: &MemberList, user: Option<&tl::types::User>, role: Role) -> bool {
    let is_named = |query: &str| {
        let query = query.to_lowercase();
        let names = user.into_iter().flat_map(|user| {
            let full = [user.first_name.as_deref(), user.last_name.as_deref()];
            let full: Vec<&str> = full.into_iter().flatten().collect();
            let parts = [user.first_name.clone(), user.last_name.clone(), user.username.clone()];
            parts.into_iter().flatten().chain([full.join(" ")])
        });
        query.is_empty() || names.into_iter().any(|name| name.to_lowercase().starts_with(&query))
    };
    match list {
        MemberList::Recent => true,
        MemberList::Admins => matches!(role, Role::Creator | Role::Admin),
        MemberList::Bots => user.is_some_and(|user| user.bot),
        MemberList::Search(query) => is_named(query),
        MemberList::Contacts(query) => user.is_some_and(|user| user.contact) && is_named(query),
    }
}

fn not_shown() -> TelegramError {
    TelegramError {
        code: "CHAT_ADMIN_REQUIRED".to_owned(),
        message: "The group does not show its members to this session.".to_owned(),
        decision: Decision::Target,
    }
}

fn by_id(users: &[tl::enums::User]) -> HashMap<i64, &tl::types::User> {
    users
        .iter()
        .filter_map(|user| match user {
            tl::enums::User::User(user) => Some((user.id, user)),
            tl::enums::User::Empty(_) => None,
        })
        .collect()
}

fn of_channel(participant: &tl::enums::ChannelParticipant) -> Option<(i64, Role, Option<i32>)> {
    use tl::enums::ChannelParticipant as P;

    Some(match participant {
        P::Participant(p) => (p.user_id, Role::Member, Some(p.date)),
        P::ParticipantSelf(p) => (p.user_id, Role::Member, Some(p.date)),
        P::Creator(p) => (p.user_id, Role::Creator, None),
        P::Admin(p) => (p.user_id, Role::Admin, Some(p.date)),
        P::Banned(p) => {
            let tl::enums::ChatBannedRights::Rights(rights) = &p.banned_rights;
            let role = if rights.view_messages {
                Role::Banned
            } else {
                Role::Restricted
            };
            (user_id(&p.peer)?, role, Some(p.date))
        }
        P::Left(p) => (user_id(&p.peer)?, Role::Left, None),
    })
}

fn of_group(participant: &tl::enums::ChatParticipant) -> (i64, Role, Option<i32>) {
    match participant {
        tl::enums::ChatParticipant::Participant(p) => (p.user_id, Role::Member, Some(p.date)),
        tl::enums::ChatParticipant::Creator(p) => (p.user_id, Role::Creator, None),
        tl::enums::ChatParticipant::Admin(p) => (p.user_id, Role::Admin, Some(p.date)),
    }
}

fn user_id(peer: &tl::enums::Peer) -> Option<i64> {
    match peer {
        tl::enums::Peer::User(user) => Some(user.user_id),
        tl::enums::Peer::Chat(_) | tl::enums::Peer::Channel(_) => None,
    }
}

fn member(user: &tl::types::User, role: Role, joined: Option<i32>) -> Member {
    Member {
        user_id: user.id,
        username: username(user.username.as_deref(), user.usernames.as_deref()),
        first_name: user.first_name.as_deref().map(storable),
        last_name: user.last_name.as_deref().map(storable),
        is_bot: user.bot,
        is_deleted: user.deleted,
        is_premium: user.premium,
        role,
        joined_at: joined.and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds.into(), 0)),
    }
}
