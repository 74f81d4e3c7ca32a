//! People: who somebody is, whether they are in a chat, and putting them there. A phone number that Telegram shows goes no
//! further than the comparison with the list of those who must not be contacted.

use chrono::{DateTime, Utc};
use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    outreach::{Added, Person, PersonRef, Phone, Presence},
    ports::{Chat, ChatType, Decision, TelegramError},
    scan::ports::MemberList,
};

use super::{
    JobTelegram,
    chats::{described, kind_of, person_of},
    failures,
    messages::date_of,
    own_error,
};
use crate::telegram::errors::{KnownError, Meaning};

/// How many letters of a dialogue are looked through for one of theirs.
const LETTERS: i32 = 100;
/// How many of those who wait to be let in one request gives.
const WAITING: i32 = 100;
/// Pages of what was said since somebody may have been added, before the look is given up.
const PAGES_SINCE: usize = 20;
/// Messages of the group that whoever is put into it sees.
const SHOWN_HISTORY: i32 = 0;

impl JobTelegram {
    pub(super) async fn find_person(&self, person: &PersonRef) -> Result<Person, TelegramError> {
        let users = match person {
            PersonRef::Username(name) => {
                let request = tl::functions::contacts::ResolveUsername {
                    username: name.clone(),
                    referer: None,
                };
                let tl::enums::contacts::ResolvedPeer::Peer(resolved) =
                    self.call(Action::Resolve, None, &request).await?;
                self.connection.learn(&resolved.users, &resolved.chats).await;
                match resolved.peer {
                    tl::enums::Peer::User(user) => of_id(resolved.users, user.user_id),
                    tl::enums::Peer::Chat(_) | tl::enums::Peer::Channel(_) => return Err(not_a_person()),
                }
            }
            PersonRef::Id(id) => {
                let peer = self.known_reference(*id).await?.ok_or_else(failures::not_met)?;
                let request = tl::functions::users::GetUsers { id: vec![peer.into()] };
                let users = self.call(Action::Read, Some(*id), &request).await?;
                self.connection.learn(&users, &[]).await;
                of_id(users, *id)
            }
        };
        users.and_then(|user| described_as(&user)).ok_or_else(not_a_person)
    }

    pub(super) async fn has_letter_of(&self, person: &Person) -> Result<bool, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetHistory {
            peer: peer.into(),
            offset_id: 0,
            offset_date: 0,
            add_offset: 0,
            limit: LETTERS,
            max_id: 0,
            min_id: 0,
            hash: 0,
        };
        let messages = match self.call_about(Action::Read, &person.chat, request).await? {
            tl::enums::messages::Messages::Messages(page) => page.messages,
            tl::enums::messages::Messages::Slice(page) => page.messages,
            tl::enums::messages::Messages::ChannelMessages(page) => page.messages,
            tl::enums::messages::Messages::NotModified(_) => Vec::new(),
        };
        Ok(messages
            .iter()
            .any(|message| matches!(message, tl::enums::Message::Message(message) if !message.out)))
    }

    /// Looks through those who wait to be let in, newest first.
    pub(super) async fn has_asked_to_join(&self, chat: &Chat, person: &Person) -> Result<bool, TelegramError> {
        if kind_of(chat)? == PeerKind::User {
            return Err(not_a_group());
        }
        let mut last = None;
        loop {
            let (offset_date, offset_user) = match last {
                Some((date, user)) => {
                    let user = self.known_reference(user).await?;
                    (date, user.map_or(tl::enums::InputUser::Empty, Into::into))
                }
                None => (0, tl::enums::InputUser::Empty),
            };
            let request = |peer: PeerRef| tl::functions::messages::GetChatInviteImporters {
                requested: true,
                subscription_expired: false,
                peer: peer.into(),
                link: None,
                q: None,
                offset_date,
                offset_user: offset_user.clone(),
                limit: WAITING,
            };
            let tl::enums::messages::ChatInviteImporters::Importers(page) =
                self.call_about(Action::Read, chat, request).await?;
            self.connection.learn(&page.users, &[]).await;
            let mut waiting = page
                .importers
                .iter()
                .map(|tl::enums::ChatInviteImporter::Importer(importer)| (importer.date, importer.user_id));
            if waiting.clone().any(|(_, user)| user == person.user_id) {
                return Ok(true);
            }
            let end = waiting.next_back();
            // The last page; or one that goes no further than the one before, which would never end.
            if end.is_none() || end == last || page.importers.len() < WAITING.unsigned_abs() as usize {
                return Ok(false);
            }
            last = end;
        }
    }

    pub(super) async fn presence_of(&self, chat: &Chat, person: &Person) -> Result<Presence, TelegramError> {
        match kind_of(chat)? {
            PeerKind::Channel => self.presence_in_channel(chat, person).await,
            PeerKind::Chat => self.presence_in_group(chat, person).await,
            PeerKind::User => Err(not_a_group()),
        }
    }

    async fn presence_in_channel(&self, chat: &Chat, person: &Person) -> Result<Presence, TelegramError> {
        use tl::enums::ChannelParticipant as P;

        let participant = self.reference(&person.chat).await?;
        let request = |peer: PeerRef| tl::functions::channels::GetParticipant {
            channel: peer.into(),
            participant: participant.into(),
        };
        match self.call_about(Action::Read, chat, request).await {
            Ok(tl::enums::channels::ChannelParticipant::Participant(answer)) => {
                self.connection.learn(&answer.users, &answer.chats).await;
                Ok(match answer.participant {
                    P::Left(_) => Presence::Gone,
                    P::Banned(banned) if banned.left => Presence::Gone,
                    // Restricted, but in.
                    P::Banned(_) | P::Participant(_) | P::ParticipantSelf(_) | P::Creator(_) | P::Admin(_) => {
                        Presence::Member
                    }
                })
            }
            Err(error) if error.code == "USER_NOT_PARTICIPANT" => Ok(Presence::Absent),
            Err(error) => Err(error),
        }
    }

    async fn presence_in_group(&self, chat: &Chat, person: &Person) -> Result<Presence, TelegramError> {
        let mut offset = 0;
        loop {
            let page = self.page_of_members(chat, &MemberList::Recent, offset, 200).await?;
            if page.members.iter().any(|member| member.user_id == person.user_id) {
                return Ok(Presence::Member);
            }
            offset += page.returned;
            if page.returned == 0 || i64::from(offset) >= page.count {
                return Ok(Presence::Absent);
            }
        }
    }

    /// Looks through what was said in the chat since then for the line that says so. Channels have no such lines.
    pub(super) async fn added_since(
        &self,
        chat: &Chat,
        person: &Person,
        since: DateTime<Utc>,
    ) -> Result<bool, TelegramError> {
        if chat.chat_type == ChatType::Channel {
            return Ok(false);
        }
        // Telegram dates messages in whole seconds.
        let since = i32::try_from(since.timestamp()).unwrap_or(0);
        let mut before = 0;
        for _ in 0..PAGES_SINCE {
            let request = |peer: PeerRef| tl::functions::messages::GetHistory {
                peer: peer.into(),
                offset_id: before,
                offset_date: 0,
                add_offset: 0,
                limit: LETTERS,
                max_id: 0,
                min_id: 0,
                hash: 0,
            };
            let answer = self.call_about(Action::Read, chat, request).await?;
            let page = self.messages_of(answer).await?;
            if page
                .iter()
                .any(|message| is_ours_of_adding(message, person.user_id, since))
            {
                return Ok(true);
            }
            let oldest = page.iter().map(tl::enums::Message::id).min().unwrap_or(0);
            if oldest <= 1 || page.iter().filter_map(date_of).any(|date| date < since) {
                return Ok(false);
            }
            before = oldest;
        }
        Err(own_error(
            "history_too_long",
            "There are more messages since then than can be looked through.",
            Decision::Target,
        ))
    }

    pub(super) async fn add(&self, chat: &Chat, person: &Person) -> Result<Added, TelegramError> {
        let user = self.reference(&person.chat).await?;
        let answer = match kind_of(chat)? {
            PeerKind::Channel => {
                let request = |peer: PeerRef| tl::functions::channels::InviteToChannel {
                    channel: peer.into(),
                    users: vec![user.into()],
                };
                Box::pin(self.call_about(Action::Invite, chat, request)).await
            }
            PeerKind::Chat => {
                let request = |peer: PeerRef| tl::functions::messages::AddChatUser {
                    chat_id: peer.into(),
                    user_id: user.into(),
                    fwd_limit: SHOWN_HISTORY,
                };
                Box::pin(self.call_about(Action::Invite, chat, request)).await
            }
            PeerKind::User => return Err(not_a_group()),
        };
        match answer {
            Ok(tl::enums::messages::InvitedUsers::Users(invited)) => {
                let (users, chats) = described(&invited.updates);
                self.connection.learn(users, chats).await;
                Ok(missing(&invited.missing_invitees, person.user_id).unwrap_or(Added::Added))
            }
            Err(error) if meaning(&error) == Some(Meaning::AlreadySo) => Ok(Added::AlreadyMember),
            Err(error) => Err(error),
        }
    }
}

fn is_ours_of_adding(message: &tl::enums::Message, user: i64, since: i32) -> bool {
    let tl::enums::Message::Service(message) = message else {
        return false;
    };
    let tl::enums::MessageAction::ChatAddUser(added) = &message.action else {
        return false;
    };
    message.out && message.date >= since && added.users.contains(&user)
}

fn meaning(error: &TelegramError) -> Option<Meaning> {
    KnownError::parse(&error.code).map(KnownError::meaning)
}

fn missing(missing: &[tl::enums::MissingInvitee], user: i64) -> Option<Added> {
    let mut missing = missing
        .iter()
        .map(|tl::enums::MissingInvitee::Invitee(missing)| missing);
    missing
        .find(|missing| missing.user_id == user)
        .map(|missing| Added::Missing {
            premium_would_allow_invite: missing.premium_would_allow_invite,
            premium_required_for_pm: missing.premium_required_for_pm,
        })
}

fn of_id(users: Vec<tl::enums::User>, id: i64) -> Option<tl::types::User> {
    users.into_iter().find_map(|user| match user {
        tl::enums::User::User(user) if user.id == id => Some(user),
        tl::enums::User::User(_) | tl::enums::User::Empty(_) => None,
    })
}

fn described_as(user: &tl::types::User) -> Option<Person> {
    let chat = person_of(&tl::enums::User::User(user.clone()))?;
    debug_assert!(chat.chat_type == ChatType::Private);
    let others = user.usernames.iter().flatten();
    let others = others.filter_map(|tl::enums::Username::Username(name)| name.active.then_some(&name.username));
    Some(Person {
        user_id: user.id,
        usernames: user.username.iter().chain(others).cloned().collect(),
        chat,
        phone: user.phone.clone().map(Phone),
        is_contact: user.contact,
        is_bot: user.bot,
        is_deleted: user.deleted,
    })
}

fn not_a_person() -> TelegramError {
    own_error(
        "not_a_person",
        "Telegram shows nobody of that name or id.",
        Decision::Target,
    )
}

fn not_a_group() -> TelegramError {
    own_error(
        "not_a_group",
        "People are invited into groups and channels.",
        Decision::Target,
    )
}
