//! Fakes of the ports: a Telegram whose answers a test writes down, a store in memory, a clock that stands still. All
//! three write into one journal, so that a test can assert what happened before what.

mod files;
mod joining;
mod outreach;

mod memory_store;
mod publishing;
mod scans;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::joining::standing;
pub use self::memory_store::{MemoryStore, Stored};
pub use self::outreach::{Campaigned, MemoryOutreach, contact};
pub use self::scans::{chat_profile, message_page, person_profile, scanned};
use crate::{
    JobContext, JobError, Outcome, WaitReason,
    message::Message,
    outreach::{Added, Person, PersonRef, Presence},
    ports::{
        ChannelRoom, Chat, ChatDetails, ChatType, Clock, Decision, Draft, HistoryPage, Invite, Joined, Left, Member,
        MemberPage, PrivateNews, Role, SentMessage, Standing, Telegram, TelegramError,
    },
    publish::{
        ports::{Access, Changed, Look},
        post::Uploaded,
    },
    scan::ports::{ChatProfile, FilePart, MessagePage, PersonProfile, ScannedMessage},
};

/// The `random_id` of every effect in a [`MemoryStore`].
pub const RANDOM_ID: i64 = 4_242;
/// The account of the faked session.
pub const ACCOUNT_ID: i64 = 77;

/// Everything a function needs, faked, with the first attempt of eight.
pub struct Fakes {
    pub telegram: Arc<FakeTelegram>,
    pub store: Arc<MemoryStore>,
    pub outreach: Arc<MemoryOutreach>,
    pub clock: Arc<FixedClock>,
    pub cancellation: CancellationToken,
    pub attempt: i32,
    pub max_attempts: i32,
    pub deadline: Option<DateTime<Utc>>,
    journal: Journal,
}

impl Default for Fakes {
    fn default() -> Self {
        Self::new()
    }
}

impl Fakes {
    pub fn new() -> Self {
        let journal = Journal::default();
        let clock = Arc::new(FixedClock::new(start_of_time()));
        Self {
            telegram: Arc::new(FakeTelegram::new(journal.clone())),
            store: Arc::new(MemoryStore::new(journal.clone(), clock.clone())),
            outreach: Arc::new(MemoryOutreach::new(journal.clone())),
            clock,
            cancellation: CancellationToken::new(),
            attempt: 1,
            max_attempts: 8,
            deadline: None,
            journal,
        }
    }

    /// The next attempt, as the runtime would build it.
    pub fn context(&self) -> JobContext {
        JobContext {
            id: Uuid::nil(),
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            created_at: start_of_time(),
            deadline: self.deadline,
            cancellation: self.cancellation.clone(),
            telegram: self.telegram.clone(),
            store: self.store.clone(),
            outreach: self.outreach.clone(),
            files: self.store.clone(),
            clock: self.clock.clone(),
        }
    }

    /// The codes of the lines the job showed so far, in order.
    pub fn said(&self) -> Vec<&'static str> {
        self.store.state().lines.iter().map(|(_, line)| line.code).collect()
    }

    /// The names of all calls so far, in order; clears them.
    pub fn take_journal(&self) -> Vec<String> {
        std::mem::take(&mut *self.journal.lines())
    }
}

/// When every faked job was made, and where its clock starts.
pub fn start_of_time() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2030, 1, 1, 12, 0, 0)
        .single()
        .expect("a date that exists once")
}

/// What was called, in order.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        lock(&self.0)
    }

    fn add(&self, line: impl Into<String>) {
        self.lines().push(line.into());
    }
}

/// A test that panicked while it held a fake's lock has failed anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that moves when it is told to.
pub struct FixedClock {
    now: Mutex<DateTime<Utc>>,
    step: Mutex<TimeDelta>,
}

impl FixedClock {
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            now: Mutex::new(now),
            step: Mutex::new(TimeDelta::zero()),
        }
    }

    pub fn set(&self, now: DateTime<Utc>) {
        *lock(&self.now) = now;
    }

    pub fn advance(&self, by: TimeDelta) {
        *lock(&self.now) += by;
    }

    /// Moves on by itself after each look at it.
    pub fn step_by(&self, step: TimeDelta) {
        *lock(&self.step) = step;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        let mut now = lock(&self.now);
        let shown = *now;
        *now += *lock(&self.step);
        shown
    }
}

type Answers<T> = Mutex<VecDeque<Result<T, TelegramError>>>;

/// A Telegram that gives the answers a test has queued, per method and in order. A call without an answer panics.
pub struct FakeTelegram {
    journal: Journal,
    resolve_username: Answers<Chat>,
    chat_by_id: Answers<Chat>,
    chat_details: Answers<ChatDetails>,
    check_invite: Answers<Invite>,
    join_chat: Answers<Joined>,
    join_by_invite: Answers<Joined>,
    members: Answers<MemberPage>,
    visible_length: Answers<usize>,
    send_message: Answers<SentMessage>,
    own_messages_like: Answers<Vec<SentMessage>>,
    person: Answers<Person>,
    wrote_before: Answers<bool>,
    asked_to_join: Answers<bool>,
    presence: Answers<Presence>,
    has_added: Answers<bool>,
    add_to_chat: Answers<Added>,
    newest_message: Answers<i32>,
    newest_message_until: Answers<i32>,
    history_after: Answers<HistoryPage>,
    private_news: Answers<PrivateNews>,
    recent_messages: Answers<Vec<i32>>,
    standing: Answers<Standing>,
    leave_chat: Answers<Left>,
    channel_room: Answers<ChannelRoom>,
    topic_title: Answers<Option<String>>,
    successor: Answers<Option<Chat>>,
    messages: Answers<MessagePage>,
    posts: Answers<Vec<ScannedMessage>>,
    discussion: Answers<Option<Chat>>,
    comments: Answers<MessagePage>,
    search_chats: Answers<Vec<Chat>>,
    person_in_full: Answers<PersonProfile>,
    chat_in_full: Answers<ChatProfile>,
    message_again: Answers<Option<ScannedMessage>>,
    file_part: Answers<FilePart>,
    access: Answers<Access>,
    upload: Answers<Uploaded>,
    chats_by_id: Answers<Vec<Chat>>,
    message_counts: Answers<Vec<Look>>,
    edit_message: Answers<Changed>,
    delete_messages: Answers<usize>,
    pin_message: Answers<Changed>,
    forward: Answers<SentMessage>,
    own_forwards_like: Answers<Vec<SentMessage>>,
    noted: Notify,
    is_bot: AtomicBool,
    searched_since: Mutex<Vec<DateTime<Utc>>>,
    cancel_after: Mutex<Option<(usize, CancellationToken)>>,
}

/// Methods that queue the answer of the port's method of the same name.
macro_rules! queue_answers {
    ($($method:ident: $answer:ty),+ $(,)?) => {
        impl FakeTelegram {
            fn new(journal: Journal) -> Self {
                Self {
                    journal,
                    $($method: Mutex::default(),)+
                    noted: Notify::new(),
                    is_bot: AtomicBool::new(false),
                    searched_since: Mutex::default(),
                    cancel_after: Mutex::default(),
                }
            }

            $(
                #[doc = concat!("Queues one answer of `", stringify!($method), "`.")]
                pub fn $method(&self, answer: Result<$answer, TelegramError>) -> &Self {
                    lock(&self.$method).push_back(answer);
                    self
                }
            )+

            /// How many queued answers nobody has asked for.
            pub fn unused_answers(&self) -> usize {
                0 $(+ lock(&self.$method).len())+
            }
        }
    };
}

queue_answers! {
    resolve_username: Chat,
    chat_by_id: Chat,
    chat_details: ChatDetails,
    check_invite: Invite,
    join_chat: Joined,
    join_by_invite: Joined,
    members: MemberPage,
    visible_length: usize,
    send_message: SentMessage,
    own_messages_like: Vec<SentMessage>,
    person: Person,
    wrote_before: bool,
    asked_to_join: bool,
    presence: Presence,
    has_added: bool,
    add_to_chat: Added,
    newest_message: i32,
    newest_message_until: i32,
    history_after: HistoryPage,
    private_news: PrivateNews,
    recent_messages: Vec<i32>,
    standing: Standing,
    leave_chat: Left,
    channel_room: ChannelRoom,
    topic_title: Option<String>,
    successor: Option<Chat>,
    messages: MessagePage,
    posts: Vec<ScannedMessage>,
    discussion: Option<Chat>,
    comments: MessagePage,
    search_chats: Vec<Chat>,
    person_in_full: PersonProfile,
    chat_in_full: ChatProfile,
    message_again: Option<ScannedMessage>,
    file_part: FilePart,
    access: Access,
    upload: Uploaded,
    chats_by_id: Vec<Chat>,
    message_counts: Vec<Look>,
    edit_message: Changed,
    delete_messages: usize,
    pin_message: Changed,
    forward: SentMessage,
    own_forwards_like: Vec<SentMessage>,
}

impl FakeTelegram {
    /// Cancels `token` while the call number `calls` from now is answered.
    pub fn cancel_after(&self, calls: usize, token: CancellationToken) {
        *lock(&self.cancel_after) = Some((calls, token));
    }

    /// The update stream has noted something about a watch.
    pub fn note_watch(&self) {
        self.noted.notify_one();
    }

    /// From here on the account is a bot's.
    pub fn be_bot(&self) {
        self.is_bot.store(true, Ordering::Relaxed);
    }

    /// The `since` of every search for own messages.
    pub fn searched_since(&self) -> Vec<DateTime<Utc>> {
        lock(&self.searched_since).clone()
    }

    fn answer<T>(&self, call: String, queue: &Answers<T>) -> Result<T, TelegramError> {
        let mut cancel = lock(&self.cancel_after);
        if let Some((calls, token)) = cancel.as_mut() {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                token.cancel();
            }
        }
        let Some(answer) = lock(queue).pop_front() else {
            panic!("no answer is queued for {call}");
        };
        self.journal.add(call);
        answer
    }
}

#[async_trait]
impl Telegram for FakeTelegram {
    async fn resolve_username(&self, username: &str) -> Result<Chat, TelegramError> {
        self.answer(format!("resolve_username {username}"), &self.resolve_username)
    }

    async fn chat_by_id(&self, id: i64) -> Result<Chat, TelegramError> {
        self.answer(format!("chat_by_id {id}"), &self.chat_by_id)
    }

    async fn chat_details(&self, _chat: &Chat) -> Result<ChatDetails, TelegramError> {
        self.answer("chat_details".into(), &self.chat_details)
    }

    async fn check_invite(&self, hash: &str) -> Result<Invite, TelegramError> {
        self.answer(format!("check_invite {hash}"), &self.check_invite)
    }

    async fn join_chat(&self, _chat: &Chat) -> Result<Joined, TelegramError> {
        self.answer("join_chat".into(), &self.join_chat)
    }

    async fn join_by_invite(&self, hash: &str) -> Result<Joined, TelegramError> {
        self.answer(format!("join_by_invite {hash}"), &self.join_by_invite)
    }

    /// Without a queued answer: the length of the text as it is.
    fn visible_length(&self, draft: &Draft) -> Result<usize, TelegramError> {
        lock(&self.visible_length)
            .pop_front()
            .unwrap_or_else(|| Ok(draft.text.trim().encode_utf16().count()))
    }

    async fn send_message(&self, chat: &Chat, random_id: i64, _draft: &Draft) -> Result<SentMessage, TelegramError> {
        self.answer(format!("send_message {} {random_id}", chat.id), &self.send_message)
    }

    fn account_id(&self) -> i64 {
        ACCOUNT_ID
    }

    fn is_bot(&self) -> bool {
        self.is_bot.load(Ordering::Relaxed)
    }

    async fn newest_message(&self, _chat: Option<&Chat>) -> Result<i32, TelegramError> {
        self.answer("newest_message".into(), &self.newest_message)
    }

    async fn newest_message_until(&self, _chat: &Chat, _time: DateTime<Utc>) -> Result<i32, TelegramError> {
        self.answer("newest_message_until".into(), &self.newest_message_until)
    }

    /// Without a queued answer: none.
    async fn recent_messages(&self, _chat: &Chat) -> Result<Vec<i32>, TelegramError> {
        lock(&self.recent_messages)
            .pop_front()
            .unwrap_or_else(|| Ok(Vec::new()))
    }

    async fn history_after(&self, _chat: &Chat, after: i32) -> Result<HistoryPage, TelegramError> {
        self.answer(format!("history_after {after}"), &self.history_after)
    }

    async fn private_news(&self, after: i32) -> Result<PrivateNews, TelegramError> {
        self.answer(format!("private_news {after}"), &self.private_news)
    }

    async fn watch_noted(&self) {
        self.noted.notified().await;
    }

    async fn own_messages_like(
        &self,
        _chat: &Chat,
        _draft: &Draft,
        since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError> {
        lock(&self.searched_since).push(since);
        self.answer("own_messages_like".into(), &self.own_messages_like)
    }

    async fn person(&self, _person: &PersonRef) -> Result<Person, TelegramError> {
        self.answer("person".into(), &self.person)
    }

    async fn wrote_before(&self, _person: &Person) -> Result<bool, TelegramError> {
        self.answer("wrote_before".into(), &self.wrote_before)
    }

    async fn asked_to_join(&self, _chat: &Chat, _person: &Person) -> Result<bool, TelegramError> {
        self.answer("asked_to_join".into(), &self.asked_to_join)
    }

    async fn presence(&self, _chat: &Chat, _person: &Person) -> Result<Presence, TelegramError> {
        self.answer("presence".into(), &self.presence)
    }

    async fn has_added(&self, _chat: &Chat, _person: &Person, _since: DateTime<Utc>) -> Result<bool, TelegramError> {
        self.answer("has_added".into(), &self.has_added)
    }

    async fn add_to_chat(&self, _chat: &Chat, person: &Person) -> Result<Added, TelegramError> {
        self.answer(format!("add_to_chat {}", person.user_id), &self.add_to_chat)
    }
}

/// A private supergroup of ten, known by its bare id, that the session is a member of.
pub fn supergroup(bare_id: i64) -> Chat {
    Chat {
        id: -1_000_000_000_000 - bare_id,
        chat_type: ChatType::Supergroup,
        title: "Reading club".into(),
        username: None,
        member_count: Some(10),
        member: true,
    }
}

/// A message of the reading club by a person, with nothing but a text.
pub fn chat_message(id: i32, text: &str) -> Message {
    Message {
        id,
        chat_id: -1_000_000_000_001,
        date: start_of_time(),
        edited_at: None,
        sender_id: Some(11),
        outgoing: false,
        text: text.into(),
        media: None,
        reply_to: None,
        topic: None,
        album: None,
        views: None,
        forwards: None,
        reactions: Vec::new(),
        service: None,
    }
}

/// An invite to a chat that the session is not in.
pub fn preview() -> Invite {
    Invite::Preview {
        title: "Reading club".into(),
        chat_type: ChatType::Supergroup,
        member_count: Some(10),
        request_needed: false,
        subscription: false,
    }
}

/// What a supergroup with an open member list says of itself.
pub fn details(chat: &Chat) -> ChatDetails {
    ChatDetails {
        chat: chat.clone(),
        participants_hidden: false,
        can_view_participants: true,
        slow_mode_seconds: 0,
    }
}

/// A page of the members with these ids, out of `count`.
pub fn page(ids: std::ops::Range<i64>, count: i64) -> MemberPage {
    let members: Vec<Member> = ids.map(member).collect();
    MemberPage {
        returned: i32::try_from(members.len()).unwrap_or(i32::MAX),
        members,
        count,
    }
}

/// An ordinary member.
pub fn member(user_id: i64) -> Member {
    Member {
        user_id,
        username: None,
        first_name: Some("Ada".into()),
        last_name: None,
        is_bot: false,
        is_deleted: false,
        is_premium: false,
        role: Role::Member,
        joined_at: None,
    }
}

/// A message sent some seconds after the start of time.
pub fn message(message_id: i32, seconds: i64) -> SentMessage {
    SentMessage {
        message_id,
        date: start_of_time() + TimeDelta::seconds(seconds),
        others: Vec::new(),
    }
}

/// An error of Telegram's with a decision.
pub fn telegram_error(code: &str, decision: Decision) -> TelegramError {
    TelegramError {
        code: code.into(),
        message: "Telegram refused the call.".into(),
        decision,
    }
}

/// A refusal of this chat.
pub fn target_error(code: &str) -> TelegramError {
    telegram_error(code, Decision::Target)
}

/// A call whose outcome nobody knows.
pub fn unknown_outcome() -> TelegramError {
    telegram_error("call_deadline", Decision::Retry)
}

/// A flood that lasts this many seconds from the start of time.
pub fn flood(seconds: i64) -> TelegramError {
    let until = start_of_time() + TimeDelta::seconds(seconds);
    telegram_error("FLOOD_WAIT", Decision::Gate { until })
}

/// The result of a job that must have succeeded, in its own type.
pub fn result<T: serde::de::DeserializeOwned>(outcome: Outcome) -> T {
    match outcome {
        Outcome::Done(value) => serde_json::from_value(value).expect("the kind's result reads back"),
        other => panic!("expected a result, got {other:?}"),
    }
}

/// The error of a job that must have failed for good.
pub fn discarded(outcome: Outcome) -> JobError {
    match outcome {
        Outcome::Discard(error) => {
            assert!(
                !error.retryable,
                "a job that failed for good says that it is retryable: {error}"
            );
            error
        }
        other => panic!("expected a failed job, got {other:?}"),
    }
}

/// The error of an attempt that must be tried again.
pub fn retried(outcome: Outcome) -> JobError {
    match outcome {
        Outcome::Retry(error) => error,
        other => panic!("expected another try, got {other:?}"),
    }
}

/// The time and reason of an attempt that must have been put off.
pub fn snoozed(outcome: Outcome) -> (DateTime<Utc>, WaitReason) {
    match outcome {
        Outcome::Snooze { until, reason } => (until, reason),
        other => panic!("expected a snooze, got {other:?}"),
    }
}
