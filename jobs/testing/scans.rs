//! The fakes of what scans use, and the rows they read.

use std::collections::HashSet;

use async_trait::async_trait;

use super::{FakeTelegram, MemoryStore, chat_message, memory_store::Stored, supergroup};
use crate::{
    LogLevel,
    message::Message,
    ports::{Chat, Member, MemberPage, StoreError, TelegramError},
    scan::ports::{
        ChatProfile, Count, EndPage, FilePart, FoundChat, LastSeen, MemberList, MessageCut, MessagePage, PersonProfile,
        Profile, RemoteFile, ScanStart, ScanStore, ScanTelegram, ScannedMessage, Tally,
    },
};

#[async_trait]
impl ScanTelegram for FakeTelegram {
    async fn members(
        &self,
        _chat: &Chat,
        list: &MemberList,
        offset: i32,
        limit: i32,
    ) -> Result<MemberPage, TelegramError> {
        let call = match list {
            MemberList::Recent => format!("members {offset} {limit}"),
            list => format!("members {list:?} {offset} {limit}"),
        };
        self.answer(call, &self.members)
    }

    async fn messages(&self, _chat: &Chat, cut: MessageCut) -> Result<MessagePage, TelegramError> {
        self.answer(format!("messages {} {}", cut.before, cut.limit), &self.messages)
    }

    async fn posts(&self, _channel: &Chat, ids: &[i32]) -> Result<Vec<ScannedMessage>, TelegramError> {
        self.answer(format!("posts {ids:?}"), &self.posts)
    }

    async fn discussion(&self, _channel: &Chat, post: i32) -> Result<Option<Chat>, TelegramError> {
        self.answer(format!("discussion {post}"), &self.discussion)
    }

    async fn comments(&self, _channel: &Chat, post: i32, cut: MessageCut) -> Result<MessagePage, TelegramError> {
        self.answer(format!("comments {post} {} {}", cut.before, cut.limit), &self.comments)
    }

    async fn search_chats(&self, query: &str) -> Result<Vec<Chat>, TelegramError> {
        self.answer(format!("search_chats {query}"), &self.search_chats)
    }

    async fn person_in_full(&self, person: &Chat) -> Result<PersonProfile, TelegramError> {
        self.answer(format!("person_in_full {}", person.id), &self.person_in_full)
    }

    async fn chat_in_full(&self, _chat: &Chat) -> Result<ChatProfile, TelegramError> {
        self.answer("chat_in_full".into(), &self.chat_in_full)
    }

    async fn message_again(&self, _chat: &Chat, id: i32) -> Result<Option<ScannedMessage>, TelegramError> {
        self.answer(format!("message_again {id}"), &self.message_again)
    }

    async fn file_part(&self, file: &RemoteFile, offset: i64, limit: i32) -> Result<FilePart, TelegramError> {
        self.answer(format!("file_part {} {offset} {limit}", file.id), &self.file_part)
    }
}

/// Everything is new to a store in memory.
fn tally(state: &Stored) -> Tally {
    let rows = state.members.len() + state.messages.len() + state.finds.len() + usize::from(state.profile.is_some());
    let seen = i64::try_from(rows).unwrap_or(i64::MAX);
    Tally {
        seen,
        new: seen,
        left_out: state.left_out,
    }
}

/// As the store does: all of it at once, or nothing.
fn end_page(state: &mut Stored, end: EndPage<'_>) -> Tally {
    let tally = tally(state);
    let page = end(tally);
    state.checkpoint = Some(page.checkpoint);
    state.progress.push(page.progress);
    if !state.failing.contains("log") {
        state.lines.push((LogLevel::Info, page.line));
    }
    tally
}

#[async_trait]
impl ScanStore for MemoryStore {
    async fn begin_scan(&self, scan: &ScanStart) -> Result<(), StoreError> {
        self.open("begin_scan")?.scan = Some(scan.clone());
        Ok(())
    }

    async fn scan_tally(&self) -> Result<Tally, StoreError> {
        Ok(tally(&*self.open("scan_tally")?))
    }

    async fn save_members(&self, _chat_id: i64, members: &[Member], end: EndPage<'_>) -> Result<Tally, StoreError> {
        let mut state = self.open("save_members")?;
        for member in members {
            if state.erased.contains(&member.user_id) {
                state.left_out += 1;
                continue;
            }
            state.members.insert(member.user_id, member.clone());
        }
        Ok(end_page(&mut state, end))
    }

    async fn save_messages(
        &self,
        chat_id: i64,
        _owner: i64,
        post: Option<i32>,
        messages: &[ScannedMessage],
        end: EndPage<'_>,
    ) -> Result<Tally, StoreError> {
        let mut state = self.open("save_messages")?;
        for scanned in messages {
            if scanned.message.sender_id.is_some_and(|id| state.erased.contains(&id)) {
                state.left_out += 1;
                continue;
            }
            state
                .messages
                .insert((chat_id, scanned.message.id), (post, scanned.clone()));
        }
        Ok(end_page(&mut state, end))
    }

    async fn known_finds(&self, chat_ids: &[i64]) -> Result<HashSet<i64>, StoreError> {
        let state = self.open("known_finds")?;
        let is_known = |id: &&i64| state.finds.contains_key(*id) || state.known_finds.contains(*id);
        Ok(chat_ids.iter().filter(is_known).copied().collect())
    }

    async fn save_find(&self, find: &FoundChat, checkpoint: serde_json::Value) -> Result<Tally, StoreError> {
        let mut state = self.open("save_find")?;
        state.finds.insert(find.chat.id, find.clone());
        state.checkpoint = Some(checkpoint);
        Ok(tally(&state))
    }

    async fn save_profile(&self, profile: &Profile) -> Result<bool, StoreError> {
        let mut state = self.open("save_profile")?;
        if state.erased.contains(&profile.id()) {
            return Ok(false);
        }
        state.profile = Some(profile.clone());
        Ok(true)
    }

    async fn save_count(&self, count: &Count) -> Result<(), StoreError> {
        self.open("save_count")?.counts.push(count.clone());
        Ok(())
    }
}

/// A message as a scan reads it.
pub fn scanned(message: Message) -> ScannedMessage {
    ScannedMessage {
        message,
        replies: None,
        has_comments: false,
        file: None,
        passed_over: None,
    }
}

/// Messages with these numbers, the highest first, of `count` in all.
pub fn message_page(ids: std::ops::RangeInclusive<i32>, count: i64) -> MessagePage {
    let messages: Vec<ScannedMessage> = ids.rev().map(|id| scanned(chat_message(id, "Tide at six"))).collect();
    MessagePage {
        oldest: messages.last().map_or(0, |last| last.message.id),
        messages,
        count: Some(count),
    }
}

/// The page of the reading club.
pub fn chat_profile() -> ChatProfile {
    let chat = supergroup(1);
    ChatProfile {
        id: chat.id,
        chat_type: chat.chat_type,
        title: chat.title,
        usernames: Vec::new(),
        about: Some("Books, each Monday".into()),
        member_count: chat.member_count,
        member: chat.member,
        admins_count: None,
        banned_count: None,
        online_count: None,
        requests_pending: None,
        linked_chat_id: None,
        slow_mode_seconds: 0,
        participants_hidden: false,
        can_view_participants: true,
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

/// The page of somebody.
pub fn person_profile(user_id: i64) -> PersonProfile {
    PersonProfile {
        user_id,
        usernames: vec!["ada".into()],
        first_name: Some("Ada".into()),
        last_name: None,
        about: Some("Reads. Call +999 66 12 345 67".into()),
        is_bot: false,
        is_deleted: false,
        is_premium: false,
        is_verified: false,
        is_scam: false,
        is_fake: false,
        is_contact: false,
        common_chats: 1,
        personal_channel_id: None,
        last_seen: LastSeen::Recently,
        last_seen_at: None,
        has_photo: false,
        premium_needed_to_write: false,
        bot_commands: Vec::new(),
        bot_description: None,
    }
}
