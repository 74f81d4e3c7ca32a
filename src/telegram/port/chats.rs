//! Finding, looking at and joining chats.

use grammers_session::types::{PeerId, PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, ChatDetails, ChatType, Decision, Invite, Joined, TelegramError},
};

use super::{JobTelegram, failures, own_error};
use crate::telegram::errors::{KnownError, Meaning};

/// Telegram describes so many channels by one call.
const MOST_AT_ONCE: usize = 100;

impl JobTelegram {
    pub(super) async fn resolve(&self, username: &str) -> Result<Chat, TelegramError> {
        let request = tl::functions::contacts::ResolveUsername {
            username: username.to_owned(),
            referer: None,
        };
        let tl::enums::contacts::ResolvedPeer::Peer(resolved) = self.call(Action::Resolve, None, &request).await?;
        self.connection.learn(&resolved.users, &resolved.chats).await;
        self.rights.note(&resolved.chats);
        let wanted = peer_number(&resolved.peer);
        let chats = resolved.chats.iter().filter_map(chat_of);
        let people = resolved.users.iter().filter_map(person_of);
        chats
            .chain(people)
            .find(|chat| Some(chat.id) == wanted)
            .ok_or_else(not_described)
    }

    pub(super) async fn find_chat(&self, id: i64) -> Result<Chat, TelegramError> {
        let peer = self.known_reference(id).await?.ok_or_else(failures::not_met)?;
        self.look_up(peer).await
    }

    /// A chat's present title and count, by the reference this session has.
    async fn look_up(&self, peer: PeerRef) -> Result<Chat, TelegramError> {
        let id = peer.id.bot_api_dialog_id();
        let chats = match peer.id.kind() {
            PeerKind::User => {
                let request = tl::functions::users::GetUsers { id: vec![peer.into()] };
                let users = self.call(Action::Read, id, &request).await?;
                self.connection.learn(&users, &[]).await;
                return users.iter().find_map(person_of).ok_or_else(not_described);
            }
            PeerKind::Chat => {
                let request = tl::functions::messages::GetChats { id: vec![peer.into()] };
                self.call(Action::Read, id, &request).await?
            }
            PeerKind::Channel => {
                let request = tl::functions::channels::GetChannels { id: vec![peer.into()] };
                self.call(Action::Read, id, &request).await?
            }
        };
        let chats = match chats {
            tl::enums::messages::Chats::Chats(answer) => answer.chats,
            tl::enums::messages::Chats::Slice(answer) => answer.chats,
        };
        self.connection.learn(&[], &chats).await;
        self.rights.note(&chats);
        chats
            .iter()
            .filter_map(chat_of)
            .find(|chat| Some(chat.id) == id)
            .ok_or_else(not_described)
    }

    /// Present facts of supergroups and channels that this session has met, and its rights there, by one call.
    pub(super) async fn look_up_channels(&self, ids: &[i64]) -> Result<Vec<Chat>, TelegramError> {
        let mut peers = Vec::with_capacity(ids.len());
        for id in ids.iter().take(MOST_AT_ONCE) {
            let is_channel = PeerId::from_bot_api_dialog_id(*id).is_some_and(|peer| peer.kind() == PeerKind::Channel);
            if is_channel && let Some(peer) = self.known_reference(*id).await? {
                peers.push(peer.into());
            }
        }
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let request = tl::functions::channels::GetChannels { id: peers };
        let chats = match self.call(Action::Read, None, &request).await? {
            tl::enums::messages::Chats::Chats(answer) => answer.chats,
            tl::enums::messages::Chats::Slice(answer) => answer.chats,
        };
        self.connection.learn(&[], &chats).await;
        self.rights.note(&chats);
        Ok(chats.iter().filter_map(chat_of).collect())
    }

    pub(super) async fn details(&self, chat: &Chat) -> Result<ChatDetails, TelegramError> {
        let full = match kind_of(chat)? {
            PeerKind::User => return Ok(plain_details(chat.clone())),
            PeerKind::Chat => {
                let request = |peer: PeerRef| tl::functions::messages::GetFullChat { chat_id: peer.into() };
                self.call_about(Action::Read, chat, request).await?
            }
            PeerKind::Channel => {
                let request = |peer: PeerRef| tl::functions::channels::GetFullChannel { channel: peer.into() };
                self.call_about(Action::Read, chat, request).await?
            }
        };
        let tl::enums::messages::ChatFull::Full(full) = full;
        self.connection.learn(&full.users, &full.chats).await;
        let seen = full.chats.iter().filter_map(chat_of).find(|seen| seen.id == chat.id);
        let mut details = plain_details(seen.unwrap_or_else(|| chat.clone()));
        match full.full_chat {
            tl::enums::ChatFull::CommunityFull(_) => {}
            tl::enums::ChatFull::Full(group) => {
                details.can_view_participants =
                    matches!(group.participants, tl::enums::ChatParticipants::Participants(_));
            }
            tl::enums::ChatFull::ChannelFull(channel) => {
                details.participants_hidden = channel.participants_hidden;
                details.can_view_participants = channel.can_view_participants;
                details.slow_mode_seconds = channel.slowmode_seconds.unwrap_or(0);
                details.chat.member_count = channel.participants_count.map(i64::from).or(details.chat.member_count);
            }
        }
        Ok(details)
    }

    pub(super) async fn look_at_invite(&self, hash: &str) -> Result<Invite, TelegramError> {
        let request = tl::functions::messages::CheckChatInvite { hash: hash.to_owned() };
        match self.call(Action::Resolve, None, &request).await? {
            tl::enums::ChatInvite::Already(answer) => {
                let chats = std::slice::from_ref(&answer.chat);
                self.connection.learn(&[], chats).await;
                self.rights.note(chats);
                chat_of(&answer.chat).map(Invite::Member).ok_or_else(not_described)
            }
            tl::enums::ChatInvite::Peek(answer) => {
                self.connection.learn(&[], std::slice::from_ref(&answer.chat)).await;
                chat_of(&answer.chat).map(Invite::Peek).ok_or_else(not_described)
            }
            tl::enums::ChatInvite::Invite(answer) => Ok(Invite::Preview {
                chat_type: match (answer.channel, answer.broadcast) {
                    (true, true) => ChatType::Channel,
                    (true, false) => ChatType::Supergroup,
                    (false, _) => ChatType::Group,
                },
                title: answer.title,
                member_count: Some(answer.participants_count.into()),
                request_needed: answer.request_needed,
                subscription: answer.subscription_pricing.is_some(),
            }),
        }
    }

    pub(super) async fn join(&self, chat: &Chat) -> Result<Joined, TelegramError> {
        match kind_of(chat)? {
            PeerKind::Channel => {
                if self.gates.closed(Action::JoinChannel).is_some() {
                    return Err(failures::account_full());
                }
                let request = |peer: PeerRef| tl::functions::channels::JoinChannel { channel: peer.into() };
                let answer = Box::pin(self.call_about(Action::Join, chat, request)).await;
                Box::pin(self.joined(answer, Some(chat.id))).await
            }
            PeerKind::Chat if chat.member => Ok(Joined::AlreadyMember),
            PeerKind::Chat | PeerKind::User => Err(own_error(
                "not_joinable",
                "Only public groups and channels are joined by name; a basic group is joined by an invite link.",
                Decision::Target,
            )),
        }
    }

    pub(super) async fn join_with(&self, hash: &str) -> Result<Joined, TelegramError> {
        let request = tl::functions::messages::ImportChatInvite { hash: hash.to_owned() };
        let answer = Box::pin(self.call(Action::Join, None, &request)).await;
        Box::pin(self.joined(answer, None)).await
    }

    /// The chat that was joined, from the updates that came with the answer.
    async fn joined(
        &self,
        answer: Result<tl::enums::messages::ChatInviteJoinResult, TelegramError>,
        wanted: Option<i64>,
    ) -> Result<Joined, TelegramError> {
        let joined = match answer {
            Ok(joined) => joined,
            Err(error) => {
                if error.code == "CHANNELS_TOO_MUCH" {
                    self.connection.channel_count().forget();
                }
                return already_or_pending(error);
            }
        };
        let updates = match joined {
            tl::enums::messages::ChatInviteJoinResult::Ok(joined) => joined.updates,
            tl::enums::messages::ChatInviteJoinResult::WebView(_) => {
                return Err(own_error(
                    "join_needs_app",
                    "The chat wants a person to answer in a mini app before anybody joins.",
                    Decision::Target,
                ));
            }
        };
        let (users, chats) = described(&updates);
        self.connection.learn(users, chats).await;
        let mut found = chats.iter().filter_map(chat_of);
        let chat = match wanted {
            Some(wanted) => found.find(|chat| chat.id == wanted),
            None => found.next(),
        };
        if chat.as_ref().is_some_and(|chat| chat.chat_type != ChatType::Group) {
            self.connection.channel_count().change(1);
        }
        match (chat, wanted) {
            (Some(chat), _) => Ok(Joined::Joined(Chat { member: true, ..chat })),
            // Joined, and the answer says no more: the chat itself does.
            (None, Some(id)) => self.find_chat(id).await.map(Joined::Joined),
            (None, None) => Err(not_described()),
        }
    }
}

fn already_or_pending(error: TelegramError) -> Result<Joined, TelegramError> {
    match KnownError::parse(&error.code).map(KnownError::meaning) {
        Some(Meaning::AlreadySo) => Ok(Joined::AlreadyMember),
        Some(Meaning::Pending) => Ok(Joined::ApprovalPending),
        _ => Err(error),
    }
}

pub(super) fn kind_of(chat: &Chat) -> Result<PeerKind, TelegramError> {
    PeerId::from_bot_api_dialog_id(chat.id)
        .map(PeerId::kind)
        .ok_or_else(failures::not_met)
}

fn plain_details(chat: Chat) -> ChatDetails {
    ChatDetails {
        chat,
        participants_hidden: false,
        can_view_participants: false,
        slow_mode_seconds: 0,
    }
}

fn not_described() -> TelegramError {
    own_error(
        "chat_not_described",
        "Telegram answered without describing the chat.",
        Decision::Target,
    )
}

/// The users and chats that come with updates.
pub(super) fn described(updates: &tl::enums::Updates) -> (&[tl::enums::User], &[tl::enums::Chat]) {
    match updates {
        tl::enums::Updates::Updates(updates) => (&updates.users, &updates.chats),
        tl::enums::Updates::Combined(updates) => (&updates.users, &updates.chats),
        tl::enums::Updates::TooLong
        | tl::enums::Updates::UpdateShortMessage(_)
        | tl::enums::Updates::UpdateShortChatMessage(_)
        | tl::enums::Updates::UpdateShort(_)
        | tl::enums::Updates::UpdateShortSentMessage(_) => (&[], &[]),
    }
}

/// A peer's number in the Bot API's form.
pub(super) fn peer_number(peer: &tl::enums::Peer) -> Option<i64> {
    let id = match peer {
        tl::enums::Peer::User(user) => PeerId::user(user.user_id),
        tl::enums::Peer::Chat(chat) => PeerId::chat(chat.chat_id),
        tl::enums::Peer::Channel(channel) => PeerId::channel(channel.channel_id),
    };
    id?.bot_api_dialog_id()
}

/// A group or channel as this session sees it; `None` for what is no chat to us.
pub(super) fn chat_of(chat: &tl::enums::Chat) -> Option<Chat> {
    match chat {
        tl::enums::Chat::Chat(group) => Some(Chat {
            id: PeerId::chat(group.id)?.bot_api_dialog_id()?,
            chat_type: ChatType::Group,
            title: group.title.clone(),
            username: None,
            member_count: Some(group.participants_count.into()),
            member: !group.left && !group.deactivated,
        }),
        tl::enums::Chat::Forbidden(group) => Some(Chat {
            id: PeerId::chat(group.id)?.bot_api_dialog_id()?,
            chat_type: ChatType::Group,
            title: group.title.clone(),
            username: None,
            member_count: None,
            member: false,
        }),
        tl::enums::Chat::Channel(channel) => Some(Chat {
            id: PeerId::channel(channel.id)?.bot_api_dialog_id()?,
            chat_type: if channel.broadcast {
                ChatType::Channel
            } else {
                ChatType::Supergroup
            },
            title: channel.title.clone(),
            username: username(channel.username.as_deref(), channel.usernames.as_deref()),
            member_count: channel.participants_count.map(i64::from),
            member: !channel.left,
        }),
        tl::enums::Chat::ChannelForbidden(channel) => Some(Chat {
            id: PeerId::channel(channel.id)?.bot_api_dialog_id()?,
            chat_type: if channel.broadcast {
                ChatType::Channel
            } else {
                ChatType::Supergroup
            },
            title: channel.title.clone(),
            username: None,
            member_count: None,
            member: false,
        }),
        tl::enums::Chat::Empty(_) | tl::enums::Chat::Community(_) | tl::enums::Chat::CommunityForbidden(_) => None,
    }
}

/// A person as the other side of a private chat.
pub(super) fn person_of(user: &tl::enums::User) -> Option<Chat> {
    let tl::enums::User::User(user) = user else {
        return None;
    };
    let names = [user.first_name.as_deref(), user.last_name.as_deref()];
    let names: Vec<&str> = names.into_iter().flatten().filter(|name| !name.is_empty()).collect();
    Some(Chat {
        id: PeerId::user(user.id)?.bot_api_dialog_id()?,
        chat_type: ChatType::Private,
        title: names.join(" "),
        username: username(user.username.as_deref(), user.usernames.as_deref()),
        member_count: None,
        member: true,
    })
}

/// The one name, or the first active of several.
pub(super) fn username(one: Option<&str>, several: Option<&[tl::enums::Username]>) -> Option<String> {
    let active = several
        .unwrap_or_default()
        .iter()
        .find_map(|tl::enums::Username::Username(name)| name.active.then_some(name.username.as_str()));
    one.or(active).map(str::to_owned)
}
