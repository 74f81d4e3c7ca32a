//! Pages of participant lists. Phone numbers are dropped where they arrive.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, Member, MemberPage, Role, TelegramError},
};

use super::{
    JobTelegram,
    chats::{kind_of, username},
    own_error,
};

/// The most one request gives.
const PAGE: i32 = 200;

impl JobTelegram {
    pub(super) async fn page_of_members(
        &self,
        chat: &Chat,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError> {
        let (offset, limit) = (offset.max(0), limit.clamp(1, PAGE));
        match kind_of(chat)? {
            PeerKind::Channel => self.page_of_channel(chat, offset, limit).await,
            PeerKind::Chat => self.page_of_group(chat, offset, limit).await,
            PeerKind::User => Err(own_error(
                "not_a_group",
                "Only groups and channels have members.",
                Decision::Target,
            )),
        }
    }

    async fn page_of_channel(&self, chat: &Chat, offset: i32, limit: i32) -> Result<MemberPage, TelegramError> {
        let request = |peer: PeerRef| tl::functions::channels::GetParticipants {
            channel: peer.into(),
            filter: tl::enums::ChannelParticipantsFilter::ChannelParticipantsRecent,
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

    /// A basic group gives its whole list at once; it is cut into pages here.
    async fn page_of_group(&self, chat: &Chat, offset: i32, limit: i32) -> Result<MemberPage, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetFullChat { chat_id: peer.into() };
        let tl::enums::messages::ChatFull::Full(full) = self.call_about(Action::Read, chat, request).await?;
        self.connection.learn(&full.users, &full.chats).await;
        let participants = match full.full_chat {
            tl::enums::ChatFull::Full(group) => group.participants,
            tl::enums::ChatFull::ChannelFull(_) | tl::enums::ChatFull::CommunityFull(_) => return Err(not_shown()),
        };
        let tl::enums::ChatParticipants::Participants(list) = participants else {
            return Err(not_shown());
        };
        let people = by_id(&full.users);
        let from = usize::try_from(offset).unwrap_or(0).min(list.participants.len());
        let count = usize::try_from(limit).unwrap_or(0);
        let page = &list.participants[from..(from + count).min(list.participants.len())];
        let members = page.iter().filter_map(|participant| {
            let (id, role, joined) = of_group(participant);
            people.get(&id).map(|user| member(user, role, joined))
        });
        Ok(MemberPage {
            members: members.collect(),
            count: i64::try_from(list.participants.len()).unwrap_or(i64::MAX),
            returned: i32::try_from(page.len()).unwrap_or(i32::MAX),
        })
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
        first_name: user.first_name.clone(),
        last_name: user.last_name.clone(),
        is_bot: user.bot,
        is_deleted: user.deleted,
        is_premium: user.premium,
        role,
        joined_at: joined.and_then(|seconds| DateTime::<Utc>::from_timestamp(seconds.into(), 0)),
    }
}
