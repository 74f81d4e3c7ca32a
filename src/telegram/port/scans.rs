//! What scans read: lists of members, messages, comments, chats by keyword, and pages of people and chats. What a phone
//! number could be in is dropped where it arrives.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use grammers_session::types::{PeerKind, PeerRef};
use grammers_tl_types as tl;
use wireroom_jobs::{
    Action,
    ports::{Chat, Decision, MemberPage, TelegramError},
    scan::ports::{
        ChatProfile, FilePart, LastSeen, MemberList, MessageCut, MessagePage, PersonProfile, RemoteFile, ScanTelegram,
        ScannedMessage,
    },
};

use super::{
    JobTelegram,
    chats::{chat_of, kind_of, peer_number},
    files::file_of,
    own_error,
};
use crate::telegram::message_facts::{self, channel_id, storable};

/// The most messages one request gives.
const PAGE: i32 = 100;
/// The most chats one search gives.
const MOST_FOUND: i32 = 100;

#[async_trait]
impl ScanTelegram for JobTelegram {
    async fn members(
        &self,
        chat: &Chat,
        list: &MemberList,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError> {
        self.page_of_members(chat, list, offset, limit).await
    }

    async fn messages(&self, chat: &Chat, cut: MessageCut) -> Result<MessagePage, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetHistory {
            peer: peer.into(),
            offset_id: cut.before.max(0),
            offset_date: 0,
            add_offset: 0,
            limit: cut.limit.clamp(1, PAGE),
            max_id: 0,
            min_id: 0,
            hash: 0,
        };
        let answer = self.call_about(Action::Read, chat, request).await?;
        self.page_of_messages(answer).await
    }

    async fn posts(&self, channel: &Chat, ids: &[i32]) -> Result<Vec<ScannedMessage>, TelegramError> {
        let id: Vec<tl::enums::InputMessage> = ids
            .iter()
            .map(|id| tl::types::InputMessageId { id: *id }.into())
            .collect();
        let request = |peer: PeerRef| tl::functions::channels::GetMessages {
            channel: peer.into(),
            id: id.clone(),
        };
        let answer = self.call_about(Action::Read, channel, request).await?;
        Ok(self.page_of_messages(answer).await?.messages)
    }

    async fn discussion(&self, channel: &Chat, post: i32) -> Result<Option<Chat>, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetDiscussionMessage {
            peer: peer.into(),
            msg_id: post,
        };
        let tl::enums::messages::DiscussionMessage::Message(found) = match self
            .call_about(Action::Read, channel, request)
            .await
        {
            Ok(found) => found,
            // It was deleted, or its comments were closed, since it was read.
            Err(error) if matches!(error.code.as_str(), "MSG_ID_INVALID" | "MESSAGE_ID_INVALID") => return Ok(None),
            Err(error) => return Err(error),
        };
        self.connection.learn(&found.users, &found.chats).await;
        let group = found.messages.iter().find_map(|message| match message {
            tl::enums::Message::Message(message) => peer_number(&message.peer_id),
            tl::enums::Message::Service(_) | tl::enums::Message::Empty(_) => None,
        });
        let mut chats = found.chats.iter().filter_map(chat_of);
        Ok(chats.find(|chat| Some(chat.id) == group))
    }

    async fn comments(&self, channel: &Chat, post: i32, cut: MessageCut) -> Result<MessagePage, TelegramError> {
        let request = |peer: PeerRef| tl::functions::messages::GetReplies {
            peer: peer.into(),
            msg_id: post,
            offset_id: cut.before.max(0),
            offset_date: 0,
            add_offset: 0,
            limit: cut.limit.clamp(1, PAGE),
            max_id: 0,
            min_id: 0,
            hash: 0,
        };
        let answer = self.call_about(Action::Read, channel, request).await?;
        self.page_of_messages(answer).await
    }

    async fn search_chats(&self, query: &str) -> Result<Vec<Chat>, TelegramError> {
        let request = tl::functions::contacts::Search {
            broadcasts: false,
            bots: false,
            q: query.to_owned(),
            limit: MOST_FOUND,
        };
        let tl::enums::contacts::Found::Found(found) = match self.call(Action::Resolve, None, &request).await {
            Ok(found) => found,
            // What is left of it without its signs is too little to look for.
            Err(error) if matches!(error.code.as_str(), "SEARCH_QUERY_EMPTY" | "QUERY_TOO_SHORT") => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        self.connection.learn(&found.users, &found.chats).await;
        let mut chats: HashMap<i64, Chat> = found
            .chats
            .iter()
            .filter_map(chat_of)
            // The account's own chats that fit come first, private ones too: those are nobody's finds.
            .filter(|chat| chat.username.is_some())
            .map(|chat| (chat.id, chat))
            .collect();
        let order = found.my_results.iter().chain(&found.results).filter_map(peer_number);
        Ok(order
            .filter_map(|id| chats.remove(&id))
            .map(|chat| Chat {
                title: storable(&chat.title),
                ..chat
            })
            .collect())
    }

    async fn person_in_full(&self, person: &Chat) -> Result<PersonProfile, TelegramError> {
        let request = |peer: PeerRef| tl::functions::users::GetFullUser { id: peer.into() };
        let tl::enums::users::UserFull::Full(answer) = self.call_about(Action::Read, person, request).await?;
        self.connection.learn(&answer.users, &answer.chats).await;
        let tl::enums::UserFull::Full(full) = answer.full_user;
        let user = answer.users.into_iter().find_map(|user| match user {
            tl::enums::User::User(user) if user.id == full.id => Some(user),
            tl::enums::User::User(_) | tl::enums::User::Empty(_) => None,
        });
        user.map(|user| person_profile(&user, full)).ok_or_else(not_described)
    }

    async fn chat_in_full(&self, chat: &Chat) -> Result<ChatProfile, TelegramError> {
        let answer = match kind_of(chat)? {
            PeerKind::User => return Err(not_described()),
            PeerKind::Chat => {
                let request = |peer: PeerRef| tl::functions::messages::GetFullChat { chat_id: peer.into() };
                self.call_about(Action::Read, chat, request).await?
            }
            PeerKind::Channel => {
                let request = |peer: PeerRef| tl::functions::channels::GetFullChannel { channel: peer.into() };
                self.call_about(Action::Read, chat, request).await?
            }
        };
        let tl::enums::messages::ChatFull::Full(answer) = answer;
        self.connection.learn(&answer.users, &answer.chats).await;
        let of_this = |found: &&tl::enums::Chat| chat_of(found).is_some_and(|found| found.id == chat.id);
        let found = answer.chats.iter().find(of_this);
        let mut profile = plain_profile(found.and_then(chat_of).unwrap_or_else(|| chat.clone()));
        if let Some(found) = found {
            of_chat(&mut profile, found);
        }
        match answer.full_chat {
            tl::enums::ChatFull::Full(full) => of_group_page(&mut profile, &full),
            tl::enums::ChatFull::ChannelFull(full) => of_channel_page(&mut profile, &full),
            tl::enums::ChatFull::CommunityFull(_) => {}
        }
        Ok(profile)
    }

    async fn message_again(&self, chat: &Chat, id: i32) -> Result<Option<ScannedMessage>, TelegramError> {
        self.read_again(chat, id).await
    }

    async fn file_part(&self, file: &RemoteFile, offset: i64, limit: i32) -> Result<FilePart, TelegramError> {
        Box::pin(self.part_of_file(file, offset, limit)).await
    }
}

impl JobTelegram {
    pub(super) async fn page_of_messages(
        &self,
        answer: tl::enums::messages::Messages,
    ) -> Result<MessagePage, TelegramError> {
        let count = match &answer {
            tl::enums::messages::Messages::Messages(page) => i64::try_from(page.messages.len()).ok(),
            tl::enums::messages::Messages::Slice(page) => Some(page.count.into()),
            tl::enums::messages::Messages::ChannelMessages(page) => Some(page.count.into()),
            tl::enums::messages::Messages::NotModified(_) => None,
        };
        let account = self.connection.storage().account_id();
        let found = self.messages_of(answer).await?;
        Ok(MessagePage {
            count,
            oldest: found.iter().map(tl::enums::Message::id).min().unwrap_or(0),
            messages: found.iter().filter_map(|message| scanned(message, account)).collect(),
        })
    }
}

fn scanned(whole: &tl::enums::Message, account: i64) -> Option<ScannedMessage> {
    let replies = match whole {
        tl::enums::Message::Message(message) => message.replies.as_ref(),
        tl::enums::Message::Service(_) | tl::enums::Message::Empty(_) => None,
    };
    let replies = replies.map(|tl::enums::MessageReplies::Replies(replies)| replies);
    Some(ScannedMessage {
        message: message_facts::message(whole, account)?,
        replies: replies.map(|replies| replies.replies),
        has_comments: replies.is_some_and(|replies| replies.comments),
        file: file_of(whole),
        passed_over: None,
    })
}

fn person_profile(user: &tl::types::User, full: tl::types::UserFull) -> PersonProfile {
    let (last_seen, last_seen_at) = last_seen(user.status.as_ref());
    let (bot_commands, bot_description) = match full.bot_info {
        Some(tl::enums::BotInfo::Info(bot)) => {
            let commands = bot.commands.unwrap_or_default().into_iter();
            let commands = commands.map(|tl::enums::BotCommand::Command(command)| storable(&command.command));
            (commands.collect(), bot.description.as_deref().map(storable))
        }
        None => (Vec::new(), None),
    };
    PersonProfile {
        user_id: user.id,
        usernames: usernames(user.username.as_deref(), user.usernames.as_deref()),
        first_name: user.first_name.as_deref().map(storable),
        last_name: user.last_name.as_deref().map(storable),
        about: full.about.as_deref().map(storable),
        is_bot: user.bot,
        is_deleted: user.deleted,
        is_premium: user.premium,
        is_verified: user.verified,
        is_scam: user.scam,
        is_fake: user.fake,
        is_contact: user.contact,
        common_chats: full.common_chats_count,
        personal_channel_id: full.personal_channel_id.and_then(channel_id),
        last_seen,
        last_seen_at,
        has_photo: full.profile_photo.is_some() || user.photo.is_some(),
        premium_needed_to_write: full.contact_require_premium,
        bot_commands,
        bot_description,
    }
}

fn last_seen(status: Option<&tl::enums::UserStatus>) -> (LastSeen, Option<DateTime<Utc>>) {
    use tl::enums::UserStatus as S;

    match status {
        Some(S::Online(_)) => (LastSeen::Online, None),
        Some(S::Offline(offline)) => (LastSeen::At, moment(offline.was_online)),
        Some(S::Recently(_)) => (LastSeen::Recently, None),
        Some(S::LastWeek(_)) => (LastSeen::WithinWeek, None),
        Some(S::LastMonth(_)) => (LastSeen::WithinMonth, None),
        Some(S::Empty) | None => (LastSeen::Unknown, None),
    }
}

fn moment(seconds: i32) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds.into(), 0)
}

/// The main one, then the other active ones.
fn usernames(main: Option<&str>, several: Option<&[tl::enums::Username]>) -> Vec<String> {
    let active = several
        .unwrap_or_default()
        .iter()
        .filter_map(|tl::enums::Username::Username(name)| name.active.then_some(name.username.as_str()));
    let mut names: Vec<String> = Vec::new();
    for name in main.into_iter().chain(active) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn plain_profile(chat: Chat) -> ChatProfile {
    ChatProfile {
        id: chat.id,
        chat_type: chat.chat_type,
        title: storable(&chat.title),
        usernames: chat.username.into_iter().collect(),
        about: None,
        member_count: chat.member_count,
        member: chat.member,
        admins_count: None,
        banned_count: None,
        online_count: None,
        requests_pending: None,
        linked_chat_id: None,
        slow_mode_seconds: 0,
        participants_hidden: false,
        can_view_participants: false,
        history_hidden: false,
        first_visible_message: None,
        is_forum: false,
        is_verified: false,
        is_scam: false,
        is_fake: false,
        is_protected: false,
        join_request: false,
        pinned_message: None,
        message_ttl_seconds: None,
        migrated_from: None,
        created_at: None,
    }
}

fn of_chat(profile: &mut ChatProfile, chat: &tl::enums::Chat) {
    match chat {
        tl::enums::Chat::Channel(channel) => {
            profile.usernames = usernames(channel.username.as_deref(), channel.usernames.as_deref());
            profile.is_forum = channel.forum;
            profile.is_verified = channel.verified;
            profile.is_scam = channel.scam;
            profile.is_fake = channel.fake;
            profile.is_protected = channel.noforwards;
            profile.join_request = channel.join_request;
            // To a member Telegram tells when it joined instead.
            profile.created_at = moment(channel.date).filter(|_| channel.left);
        }
        tl::enums::Chat::Chat(group) => {
            profile.is_protected = group.noforwards;
            profile.created_at = moment(group.date);
        }
        _ => {}
    }
}

fn about(text: &str) -> Option<String> {
    Some(storable(text)).filter(|text| !text.is_empty())
}

fn of_group_page(profile: &mut ChatProfile, full: &tl::types::ChatFull) {
    profile.about = about(&full.about);
    profile.can_view_participants = matches!(full.participants, tl::enums::ChatParticipants::Participants(_));
    profile.requests_pending = full.requests_pending;
    profile.pinned_message = full.pinned_msg_id;
    profile.message_ttl_seconds = full.ttl_period;
}

fn of_channel_page(profile: &mut ChatProfile, full: &tl::types::ChannelFull) {
    profile.about = about(&full.about);
    profile.member_count = full.participants_count.map(i64::from).or(profile.member_count);
    profile.admins_count = full.admins_count;
    profile.banned_count = full.kicked_count;
    profile.online_count = full.online_count;
    profile.requests_pending = full.requests_pending;
    profile.linked_chat_id = full.linked_chat_id.and_then(channel_id);
    profile.slow_mode_seconds = full.slowmode_seconds.unwrap_or(0);
    profile.participants_hidden = full.participants_hidden;
    profile.can_view_participants = full.can_view_participants;
    profile.history_hidden = full.hidden_prehistory;
    profile.first_visible_message = full.available_min_id.filter(|first| *first > 0);
    profile.pinned_message = full.pinned_msg_id;
    profile.message_ttl_seconds = full.ttl_period;
    profile.migrated_from = full.migrated_from_chat_id.and_then(|chat_id| {
        let group = tl::types::PeerChat { chat_id };
        peer_number(&group.into())
    });
}

fn not_described() -> TelegramError {
    own_error(
        "chat_not_described",
        "Telegram answered without describing whom or what the profile is of.",
        Decision::Target,
    )
}
