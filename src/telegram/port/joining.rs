//! Leaving chats, how the session stands to them, and whether the account has room for more.

use std::collections::HashSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use grammers_session::types::{PeerId, PeerKind, PeerRef};
use grammers_tl_types as tl;
use tokio::time::Instant;
use wireroom_jobs::{
    Action,
    ports::{ChannelRoom, Chat, Decision, Joining, Left, Rights, Standing, TelegramError},
};

use super::{
    JobTelegram,
    chats::{chat_of, described, kind_of, peer_number},
    failures, own_error,
};

/// The most chats one request gives.
const PAGE: i32 = 100;
/// Most pages of chats that are counted: who has more of them than that is asked for no count.
const MOST_PAGES: usize = 30;
/// The limits as they are published, for when Telegram's configuration does not say.
const USUAL_LIMIT: i32 = 500;
const PREMIUM_LIMIT: i32 = 1_000;

#[async_trait]
impl Joining for JobTelegram {
    async fn standing(&self, chat: &Chat) -> Result<Standing, TelegramError> {
        match kind_of(chat)? {
            PeerKind::Channel => Box::pin(self.standing_in_channel(chat)).await,
            PeerKind::Chat => Box::pin(self.standing_in_group(chat)).await,
            PeerKind::User => Err(no_group()),
        }
    }

    async fn leave_chat(&self, chat: &Chat) -> Result<Left, TelegramError> {
        let answer = match kind_of(chat)? {
            PeerKind::Channel => {
                let request = |peer: PeerRef| tl::functions::channels::LeaveChannel { channel: peer.into() };
                Box::pin(self.call_about(Action::Other, chat, request)).await
            }
            PeerKind::Chat => {
                let request = |peer: PeerRef| tl::functions::messages::DeleteChatUser {
                    revoke_history: false,
                    chat_id: peer.into(),
                    user_id: tl::enums::InputUser::UserSelf,
                };
                Box::pin(self.call_about(Action::Other, chat, request)).await
            }
            PeerKind::User => return Err(no_group()),
        };
        match answer {
            Ok(updates) => {
                let (users, chats) = described(&updates);
                self.connection.learn(users, chats).await;
                if kind_of(chat)? == PeerKind::Channel {
                    self.connection.channel_count().change(-1);
                    self.open_for_channels().await;
                }
                Ok(Left::Left)
            }
            // Put out, or left elsewhere, since it was looked at.
            Err(error) if matches!(error.code.as_str(), "USER_NOT_PARTICIPANT" | "CHANNEL_PRIVATE") => {
                Ok(Left::NotMember)
            }
            Err(error) => Err(error),
        }
    }

    async fn channel_room(&self) -> Result<ChannelRoom, TelegramError> {
        if self.gates.closed(Action::JoinChannel).is_some() {
            return Err(failures::account_full());
        }
        let count = self.connection.channel_count();
        if let Some(room) = count.get(Instant::now()) {
            return Ok(room);
        }
        let limit = Box::pin(self.channel_limit()).await?;
        let (used, exact) = Box::pin(self.count_channels(limit)).await?;
        let room = ChannelRoom { used, limit };
        count.set(room, exact, Instant::now());
        Ok(room)
    }

    async fn topic_title(&self, chat: &Chat, topic: i32) -> Result<Option<String>, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetForumTopicsById {
            peer: peer.into(),
            topics: vec![topic],
        };
        let answer = Box::pin(self.call_about(Action::Read, chat, request)).await?;
        let tl::enums::messages::ForumTopics::Topics(answer) = answer;
        Ok(answer.topics.into_iter().find_map(|found| match found {
            tl::enums::ForumTopic::Topic(found) if found.id == topic => Some(found.title),
            tl::enums::ForumTopic::Topic(_) | tl::enums::ForumTopic::Deleted(_) => None,
        }))
    }

    async fn successor(&self, group: &Chat) -> Result<Option<Chat>, TelegramError> {
        if kind_of(group)? != PeerKind::Chat {
            return Ok(None);
        }
        let request = |peer: PeerRef| tl::functions::messages::GetChats { id: vec![peer.into()] };
        let answer = Box::pin(self.call_about(Action::Read, group, request)).await?;
        let moved_to = chats_in(&answer).iter().find_map(|chat| match chat {
            tl::enums::Chat::Chat(group) => group.migrated_to.clone(),
            _ => None,
        });
        let Some(channel) = moved_to else {
            return Ok(None);
        };
        let request = tl::functions::channels::GetChannels { id: vec![channel] };
        let answer = Box::pin(self.call(Action::Read, None, &request)).await?;
        self.connection.learn(&[], chats_in(&answer)).await;
        Ok(chats_in(&answer).iter().find_map(chat_of))
    }
}

impl JobTelegram {
    async fn standing_in_channel(&self, chat: &Chat) -> Result<Standing, TelegramError> {
        let request = |peer: PeerRef| tl::functions::channels::GetFullChannel { channel: peer.into() };
        let tl::enums::messages::ChatFull::Full(full) = self.call_about(Action::Read, chat, request).await?;
        self.connection.learn(&full.users, &full.chats).await;
        let mut standing = plain(chat, &full.chats);
        let seen = full.chats.iter().find_map(|seen| match seen {
            tl::enums::Chat::Channel(channel) if numbered(PeerId::channel(channel.id)) == Some(chat.id) => {
                Some(channel)
            }
            _ => None,
        });
        if let Some(channel) = seen {
            standing.forum = channel.forum;
            standing.asks_admins = channel.join_request;
            standing.rights = rights_in_channel(channel);
            standing.joined_at = time(channel.date).filter(|_| !channel.left);
        }
        if let tl::enums::ChatFull::ChannelFull(told) = full.full_chat {
            standing.slow_mode_seconds = told.slowmode_seconds.unwrap_or(0);
            standing.admins = told.admins_count;
            standing.chat.member_count = told.participants_count.map(i64::from).or(standing.chat.member_count);
            standing.linked_chat_id = told.linked_chat_id.and_then(|id| numbered(PeerId::channel(id)));
        }
        let linked = standing.linked_chat_id;
        standing.linked_chat = full
            .chats
            .iter()
            .filter_map(chat_of)
            .find(|seen| Some(seen.id) == linked);
        Ok(standing)
    }

    async fn standing_in_group(&self, chat: &Chat) -> Result<Standing, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetFullChat { chat_id: peer.into() };
        let tl::enums::messages::ChatFull::Full(full) = self.call_about(Action::Read, chat, request).await?;
        self.connection.learn(&full.users, &full.chats).await;
        let mut standing = plain(chat, &full.chats);
        for seen in &full.chats {
            if let tl::enums::Chat::Chat(group) = seen
                && numbered(PeerId::chat(group.id)) == Some(chat.id)
            {
                standing.rights = rights_in_group(group);
            }
        }
        if let tl::enums::ChatFull::Full(told) = full.full_chat
            && let tl::enums::ChatParticipants::Participants(people) = told.participants
        {
            self.count_people(&people.participants, &mut standing);
        }
        Ok(standing)
    }

    fn count_people(&self, people: &[tl::enums::ChatParticipant], standing: &mut Standing) {
        use tl::enums::ChatParticipant as P;

        let me = self.connection.storage().account_id();
        let mut admins = 0;
        for person in people {
            let (user, joined_at) = match person {
                P::Participant(person) => (person.user_id, time(person.date)),
                P::Admin(person) => {
                    admins += 1;
                    (person.user_id, time(person.date))
                }
                P::Creator(person) => {
                    admins += 1;
                    (person.user_id, None)
                }
            };
            if user == me {
                standing.joined_at = joined_at;
            }
        }
        standing.admins = Some(admins);
    }

    /// How many supergroups and channels the account may be in.
    async fn channel_limit(&self) -> Result<i32, TelegramError> {
        let me = tl::functions::users::GetUsers {
            id: vec![tl::enums::InputUser::UserSelf],
        };
        let users = self.call(Action::Read, None, &me).await?;
        let premium = users
            .iter()
            .any(|user| matches!(user, tl::enums::User::User(user) if user.premium));
        let (key, usual) = if premium {
            ("channels_limit_premium", PREMIUM_LIMIT)
        } else {
            ("channels_limit_default", USUAL_LIMIT)
        };
        let request = tl::functions::help::GetAppConfig { hash: 0 };
        let told = match self.call(Action::Read, None, &request).await {
            Ok(tl::enums::help::AppConfig::Config(answer)) => number_in(&answer.config, key),
            Ok(tl::enums::help::AppConfig::NotModified) => None,
            Err(error) if refuses_for_good(error.decision) => None,
            Err(error) => return Err(error),
        };
        Ok(told.filter(|limit| *limit > 0).unwrap_or(usual))
    }

    /// How many supergroups and channels the account is in, and whether that is the number itself or a bound above it that
    /// is below `limit` anyway; 0 for an account that has too many chats to count.
    async fn count_channels(&self, limit: i32) -> Result<(i32, bool), TelegramError> {
        let mut counted = HashSet::new();
        let mut seen = 0_i32;
        let mut from = Place::start();
        for _ in 0..MOST_PAGES {
            let page = self.dialogs(from).await?;
            seen = seen.saturating_add(page.rows);
            counted.extend(page.channels);
            let used = i32::try_from(counted.len()).unwrap_or(i32::MAX);
            let Some((total, next)) = page.more.filter(|_| page.rows > 0) else {
                return Ok((used, true));
            };
            let bound = used.saturating_add((total - seen).max(0));
            if bound < limit {
                return Ok((bound, false));
            }
            from = next;
        }
        // Not worth more requests: Telegram decides.
        Ok((0, false))
    }

    async fn dialogs(&self, from: Place) -> Result<Page, TelegramError> {
        let request = tl::functions::messages::GetDialogs {
            exclude_pinned: false,
            // Of all folders.
            folder_id: None,
            offset_date: from.date,
            offset_id: from.id,
            offset_peer: from.peer,
            limit: PAGE,
            hash: 0,
        };
        let (dialogs, messages, total) = match self.call(Action::Read, None, &request).await? {
            tl::enums::messages::Dialogs::Dialogs(all) => {
                self.connection.learn(&all.users, &all.chats).await;
                (all.dialogs, all.messages, None)
            }
            tl::enums::messages::Dialogs::Slice(part) => {
                self.connection.learn(&part.users, &part.chats).await;
                (part.dialogs, part.messages, Some(part.count))
            }
            tl::enums::messages::Dialogs::NotModified(_) => (Vec::new(), Vec::new(), None),
        };
        let rows: Vec<_> = dialogs
            .iter()
            .filter_map(|dialog| match dialog {
                tl::enums::Dialog::Dialog(dialog) => Some(dialog),
                tl::enums::Dialog::Folder(_) | tl::enums::Dialog::Community(_) => None,
            })
            .collect();
        let channels = rows.iter().filter_map(|row| match &row.peer {
            tl::enums::Peer::Channel(channel) => Some(channel.channel_id),
            tl::enums::Peer::User(_) | tl::enums::Peer::Chat(_) => None,
        });
        let more = match (total, rows.last()) {
            (Some(total), Some(last)) => Some((total, self.place_after(last, &messages).await?)),
            _ => None,
        };
        Ok(Page {
            rows: i32::try_from(rows.len()).unwrap_or(i32::MAX),
            channels: channels.collect(),
            more,
        })
    }

    async fn place_after(
        &self,
        last: &tl::types::Dialog,
        messages: &[tl::enums::Message],
    ) -> Result<Place, TelegramError> {
        let date = messages.iter().find_map(|message| match message {
            tl::enums::Message::Message(message) => {
                (message.id == last.top_message && message.peer_id == last.peer).then_some(message.date)
            }
            tl::enums::Message::Service(message) => {
                (message.id == last.top_message && message.peer_id == last.peer).then_some(message.date)
            }
            tl::enums::Message::Empty(_) => None,
        });
        let peer = match peer_number(&last.peer) {
            Some(id) => self.known_reference(id).await?,
            None => None,
        };
        Ok(Place {
            date: date.unwrap_or(0),
            id: last.top_message,
            peer: peer.map_or(tl::enums::InputPeer::Empty, Into::into),
        })
    }
}

/// Where a page of chats begins.
struct Place {
    date: i32,
    id: i32,
    peer: tl::enums::InputPeer,
}

impl Place {
    const fn start() -> Self {
        Self {
            date: 0,
            id: 0,
            peer: tl::enums::InputPeer::Empty,
        }
    }
}

/// A page of the account's chats.
struct Page {
    rows: i32,
    /// Bare ids.
    channels: Vec<i64>,
    /// How many chats there are in all, and where the next page begins; `None`: these were the last.
    more: Option<(i32, Place)>,
}

fn refuses_for_good(decision: Decision) -> bool {
    matches!(
        decision,
        Decision::Bug | Decision::Target | Decision::Content | Decision::Person { .. }
    )
}

fn no_group() -> TelegramError {
    own_error(
        "chat_is_person",
        "The target names a person or a bot; only groups and channels are joined and left.",
        Decision::Target,
    )
}

fn chats_in(answer: &tl::enums::messages::Chats) -> &[tl::enums::Chat] {
    match answer {
        tl::enums::messages::Chats::Chats(answer) => &answer.chats,
        tl::enums::messages::Chats::Slice(answer) => &answer.chats,
    }
}

fn numbered(peer: Option<PeerId>) -> Option<i64> {
    peer?.bot_api_dialog_id()
}

fn time(seconds: i32) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds.into(), 0)
}

fn plain(chat: &Chat, chats: &[tl::enums::Chat]) -> Standing {
    let seen = chats.iter().filter_map(chat_of).find(|seen| seen.id == chat.id);
    Standing {
        chat: seen.unwrap_or_else(|| chat.clone()),
        slow_mode_seconds: 0,
        linked_chat_id: None,
        linked_chat: None,
        forum: false,
        asks_admins: false,
        rights: NO_RIGHTS,
        admins: None,
        joined_at: None,
    }
}

const NO_RIGHTS: Rights = Rights {
    post: false,
    send_media: false,
    invite: false,
    pin: false,
    admin: false,
    creator: false,
};

fn rights_in_channel(channel: &tl::types::Channel) -> Rights {
    let bans = [channel.banned_rights.as_ref(), channel.default_banned_rights.as_ref()];
    if !channel.broadcast {
        return rights(channel.creator, channel.admin_rights.as_ref(), bans);
    }
    // Nobody but admins does anything in a channel.
    let given = |asked: fn(&tl::types::ChatAdminRights) -> bool| {
        let admin = channel.admin_rights.as_ref();
        channel.creator || admin.is_some_and(|tl::enums::ChatAdminRights::Rights(rights)| asked(rights))
    };
    Rights {
        post: given(|rights| rights.post_messages),
        send_media: given(|rights| rights.post_messages),
        invite: given(|rights| rights.invite_users),
        pin: given(|rights| rights.pin_messages || rights.edit_messages),
        admin: channel.creator || channel.admin_rights.is_some(),
        creator: channel.creator,
    }
}

fn rights_in_group(group: &tl::types::Chat) -> Rights {
    if group.left || group.deactivated {
        return NO_RIGHTS;
    }
    let bans = [group.default_banned_rights.as_ref(), None];
    rights(group.creator, group.admin_rights.as_ref(), bans)
}

/// What a member of a group may do: all that neither the group nor an admin has taken, and what it was given.
fn rights(
    creator: bool,
    given: Option<&tl::enums::ChatAdminRights>,
    taken: [Option<&tl::enums::ChatBannedRights>; 2],
) -> Rights {
    let admin = creator || given.is_some();
    let may = |ban: fn(&tl::types::ChatBannedRights) -> bool| {
        !taken
            .iter()
            .flatten()
            .any(|tl::enums::ChatBannedRights::Rights(rights)| ban(rights))
    };
    let has = |asked: fn(&tl::types::ChatAdminRights) -> bool| {
        creator || given.is_some_and(|tl::enums::ChatAdminRights::Rights(rights)| asked(rights))
    };
    let sees = may(|rights| rights.view_messages);
    Rights {
        post: admin || (sees && may(|rights| rights.send_messages || rights.send_plain)),
        send_media: admin || (sees && may(|rights| rights.send_messages || rights.send_media)),
        invite: has(|rights| rights.invite_users) || may(|rights| rights.invite_users),
        pin: has(|rights| rights.pin_messages) || may(|rights| rights.pin_messages),
        admin,
        creator,
    }
}

/// A whole number of a JSON object of Telegram's.
fn number_in(config: &tl::enums::Jsonvalue, key: &str) -> Option<i32> {
    let tl::enums::Jsonvalue::JsonObject(object) = config else {
        return None;
    };
    object.value.iter().find_map(|entry| {
        let tl::enums::JsonobjectValue::JsonObjectValue(entry) = entry;
        match &entry.value {
            tl::enums::Jsonvalue::JsonNumber(number) if entry.key == key => whole(number.value),
            _ => None,
        }
    })
}

fn whole(value: f64) -> Option<i32> {
    let in_range = value.is_finite() && value >= 0.0 && value <= f64::from(i32::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is in range, and a fraction of a chat is none"
    )]
    in_range.then_some(value as i32)
}
