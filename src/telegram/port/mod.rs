//! The functions' Telegram port: one attempt of one job on one held session.
//!
//! Before each call it asks whether the lease is trusted and the action's gate open; a refusal costs no request. What is
//! capped is counted first, and given back when the call has certainly not left. Before the attempt's first call it lets the
//! queue bind the job to the session; a job that may not begin here goes to another session of its pool. Every flood is
//! recorded; a short one is waited out in place, a longer one closes a gate. Calls of one session keep a distance. What the
//! table in [`super::errors`] says of an error is done here.

mod access;
mod caps;
mod chats;
mod failures;
mod files;
mod forwards;
mod history;
mod joining;
mod media;
mod media_facts;
mod members;
mod messages;
mod people;
mod posting;
mod scans;
mod text;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use grammers_session::types::{PeerAuth, PeerId, PeerKind, PeerRef};
use grammers_tl_types::{self as tl, Identifiable, RemoteCall};
use sqlx::PgPool;
use tokio::sync::{Mutex, OnceCell, watch};
use uuid::Uuid;
use wireroom_jobs::{
    Action,
    outreach::{Added, Person, PersonRef, Presence},
    ports::{
        Chat, ChatDetails, Clock, Decision, Draft, HistoryPage, Invite, Joined, PrivateNews, SentMessage, Telegram,
        TelegramError,
    },
};

pub use self::media::{MediaError, MediaSource, OpenMedia};
use super::{
    connection::{CallError, Connection},
    errors::{KnownError, Meaning},
    gates::{Closed, Gates},
    pace::Pace,
    trouble::Trouble,
};
use crate::{ids::JobId, store::contact::Contact};

/// Floods waited out in place by one call, before the gate closes.
const WAITS_IN_PLACE: u32 = 3;

/// Asked before the first Telegram call of an attempt.
#[async_trait]
pub trait CallGuard: Send + Sync {
    /// Binds the job to its session, durably. The call is made only when this succeeds.
    async fn before_first_call(&self) -> Result<(), GuardError>;
}

/// Why an attempt may not call Telegram.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("the attempt has lost its job")]
    Fenced,
    #[error("the job could not be bound to its session")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the port needs to know of the attempt.
#[derive(Clone)]
pub struct AttemptHooks {
    pub job: JobId,
    /// The action of its kind: while that is closed, no job of the kind is claimed for the session.
    pub action: Action,
    /// Any session of its pool may run it, until its first call.
    pub is_pooled: bool,
    /// No attempt follows this one when it fails.
    pub is_last: bool,
    pub guard: Arc<dyn CallGuard>,
}

/// What all attempts on one session share.
#[derive(Clone)]
pub struct PortSettings {
    pub database: PgPool,
    pub clock: Arc<dyn Clock>,
    /// Floods up to this long are waited out in place.
    pub wait_in_place: Duration,
    /// How long one call may take.
    pub call_deadline: Duration,
}

/// Telegram, as one attempt of one job sees it.
pub struct JobTelegram {
    connection: Arc<Connection>,
    gates: Arc<Gates>,
    pace: Arc<Pace>,
    trouble: Arc<Trouble>,
    settings: PortSettings,
    hooks: AttemptHooks,
    bound: OnceCell<()>,
    /// Where the media of messages come from, if there is such a place.
    media: Option<Arc<dyn MediaSource>>,
    /// What Telegram said of the session's rights in the chats it described.
    rights: access::Rights,
    /// Whom the attempt has leave to call.
    contact: Contact,
    /// What the update stream noted since the attempt began.
    watch_troubles: Mutex<watch::Receiver<u64>>,
    /// The file that Telegram sent on last, and where to.
    moved_file: Mutex<Option<(i64, i32)>>,
}

impl JobTelegram {
    pub fn new(
        connection: Arc<Connection>,
        gates: Arc<Gates>,
        pace: Arc<Pace>,
        trouble: Arc<Trouble>,
        settings: PortSettings,
        hooks: AttemptHooks,
    ) -> Self {
        let watch_troubles = Mutex::new(connection.watch_troubles());
        Self {
            connection,
            gates,
            pace,
            trouble,
            settings,
            hooks,
            bound: OnceCell::new(),
            media: None,
            contact: Contact::default(),
            rights: access::Rights::default(),
            watch_troubles,
            moved_file: Mutex::new(None),
        }
    }

    /// The same, with media for its messages.
    #[must_use]
    pub fn with_media(self, media: Arc<dyn MediaSource>) -> Self {
        Self {
            media: Some(media),
            ..self
        }
    }

    /// The same, which asks about that person before it calls them.
    #[must_use]
    pub fn asking(self, contact: Contact) -> Self {
        Self { contact, ..self }
    }

    /// One call: admitted, counted, bound, made, and its failure turned into a decision. `chat_id` is what slow mode is
    /// about.
    async fn call<R>(&self, action: Action, chat_id: Option<i64>, request: &R) -> Result<R::Return, TelegramError>
    where
        R: RemoteCall + Identifiable + Sync,
    {
        self.call_of(1, action, chat_id, request).await
    }

    /// The same, of a call that does so much at once as `units` others.
    async fn call_of<R>(
        &self,
        units: i32,
        action: Action,
        chat_id: Option<i64>,
        request: &R,
    ) -> Result<R::Return, TelegramError>
    where
        R: RemoteCall + Identifiable + Sync,
    {
        let mut let_through = None;
        let answer = self
            .call_once((action, units), chat_id, request, &mut let_through)
            .await;
        if let Some(id) = let_through {
            // Apart: calls of outreach are few, and every other one should not carry the room for this around.
            Box::pin(self.answered(id)).await;
        }
        answer
    }

    /// `let_through` gets what is to be noted when the call is over.
    async fn call_once<R>(
        &self,
        (action, units): (Action, i32),
        chat_id: Option<i64>,
        request: &R,
        let_through: &mut Option<Uuid>,
    ) -> Result<R::Return, TelegramError>
    where
        R: RemoteCall + Identifiable + Sync,
    {
        self.admit(action, chat_id)?;
        self.pace.turn().await;
        // The gate may have closed while this call waited for its turn.
        self.admit(action, chat_id)?;
        let counted = self.spend(action, chat_id, units, let_through).await?;
        if let Err(error) = self.bind().await {
            counted.give_back().await;
            return Err(error);
        }
        let sent = self.connection.sent();
        let mut waits = 0;
        loop {
            let error = match self.connection.call_noting(request, &counted.handed_in).await {
                Ok(answer) => return Ok(answer),
                Err(CallError::Rpc(error)) => error,
                Err(other) => {
                    // After an answer there is nothing to give back: that call was made. One that is too late may still be
                    // in grammers' hands, and leave with its next connection.
                    if other.is_late() {
                        // Whoever stops outreach is not told that it is over.
                        *let_through = None;
                    } else if waits == 0 {
                        self.give_back_unless_it_left(counted, sent).await;
                    }
                    return Err(failures::without_answer(&other));
                }
            };
            let call = failures::Call {
                action,
                chat_id,
                method: tl::name_for_id(R::CONSTRUCTOR_ID),
            };
            match self.on_refusal(call, &error, waits).await {
                Some(error) => return Err(error),
                None => waits += 1,
            }
            // Counted already: its own use may have closed the gate.
            self.admit_again(action, chat_id)?;
            if let_through.is_some() {
                Box::pin(self.ask_again()).await?;
            }
        }
    }

    /// Refuses what would be refused, without a call.
    fn admit(&self, action: Action, chat_id: Option<i64>) -> Result<(), TelegramError> {
        self.admit_session(action)?;
        match self.gates.closed(action) {
            Some(Closed::Gate { until }) => return Err(self.not_here(action, failures::gated("flood", until))),
            Some(Closed::Cap(spent)) => return Err(self.not_here(action, caps::reached(&spent))),
            None => {}
        }
        self.admit_in(action, chat_id)
    }

    /// A refusal for the whole action: before the first call the job is not this session's yet, and another one may begin
    /// it. What one chat or one person is about is left to wait here: of that, a claim cannot be told.
    fn not_here(&self, action: Action, mut refusal: TelegramError) -> TelegramError {
        if let (true, None, Decision::Gate { until }) = (self.hooks.is_pooled, self.bound.get(), refusal.decision) {
            if action != self.hooks.action {
                self.gates.turn_down(action);
            }
            refusal.decision = Decision::Elsewhere { until };
        }
        refusal
    }

    /// The same for a call that is counted already and waited out a flood: a cap is no reason any more.
    fn admit_again(&self, action: Action, chat_id: Option<i64>) -> Result<(), TelegramError> {
        self.admit_session(action)?;
        if let Some(Closed::Gate { until }) = self.gates.closed(action) {
            return Err(failures::gated("flood", until));
        }
        self.admit_in(action, chat_id)
    }

    fn admit_session(&self, action: Action) -> Result<(), TelegramError> {
        if !self.connection.trust().holds() {
            return Err(failures::without_answer(&CallError::LeaseLost));
        }
        if matches!(action, Action::Send | Action::Invite) && self.gates.is_limited() {
            return Err(failures::limited());
        }
        Ok(())
    }

    fn admit_in(&self, action: Action, chat_id: Option<i64>) -> Result<(), TelegramError> {
        match chat_id.and_then(|chat| self.gates.closed_in(action, chat)) {
            Some(Closed::Gate { until }) => Err(failures::gated("slow_mode", until)),
            Some(Closed::Cap(_)) | None => Ok(()),
        }
    }

    async fn bind(&self) -> Result<(), TelegramError> {
        match self
            .bound
            .get_or_try_init(|| self.hooks.guard.before_first_call())
            .await
        {
            Ok(()) => Ok(()),
            Err(error) => Err(failures::not_bound(&error)),
        }
    }

    /// One call about a chat. When Telegram does not know the chat by the reference this session has, it is resolved
    /// again with this session, once.
    async fn call_about<R>(
        &self,
        action: Action,
        chat: &Chat,
        request: impl Fn(PeerRef) -> R,
    ) -> Result<R::Return, TelegramError>
    where
        R: RemoteCall + Identifiable + Sync,
    {
        self.call_of_about(1, action, chat, request).await
    }

    /// The same, of a call that does so much at once as `units` others.
    async fn call_of_about<R>(
        &self,
        units: i32,
        action: Action,
        chat: &Chat,
        request: impl Fn(PeerRef) -> R,
    ) -> Result<R::Return, TelegramError>
    where
        R: RemoteCall + Identifiable + Sync,
    {
        let peer = self.reference(chat).await?;
        let refused = match self.call_of(units, action, Some(chat.id), &request(peer)).await {
            Err(error) if is_stale(&error) => error,
            answer => return answer,
        };
        match self.resolve_again(chat).await? {
            Some(fresh) if fresh != peer => self.call_of(units, action, Some(chat.id), &request(fresh)).await,
            _ => Err(refused),
        }
    }

    /// How this session refers to a chat; resolved by name when it has not met it.
    async fn reference(&self, chat: &Chat) -> Result<PeerRef, TelegramError> {
        if let Some(known) = self.known_reference(chat.id).await? {
            return Ok(known);
        }
        self.resolve_again(chat).await?.ok_or_else(failures::not_met)
    }

    /// Asks Telegram for the reference of a public chat. `None` when it has no name, or the name is another's now.
    async fn resolve_again(&self, chat: &Chat) -> Result<Option<PeerRef>, TelegramError> {
        let Some(username) = &chat.username else {
            return Ok(None);
        };
        let now_named = self.resolve(username).await?;
        if now_named.id != chat.id {
            return Ok(None);
        }
        self.known_reference(chat.id).await
    }

    async fn known_reference(&self, chat_id: i64) -> Result<Option<PeerRef>, TelegramError> {
        let Some(id) = PeerId::from_bot_api_dialog_id(chat_id) else {
            return Err(failures::not_met());
        };
        if id.kind() == PeerKind::Chat {
            // A basic group goes by its id alone; whether the account is in it, Telegram knows.
            let auth = PeerAuth::default();
            return Ok(Some(PeerRef { id, auth }));
        }
        let storage = self.connection.storage();
        let known = storage.find_peer(id).await.map_err(|error| failures::storage(&error))?;
        Ok(known.and_then(|info| info.auth()).map(|auth| PeerRef { id, auth }))
    }
}

fn is_stale(error: &TelegramError) -> bool {
    KnownError::parse(&error.code).is_some_and(|known| known.meaning() == Meaning::StalePeer)
}

#[async_trait]
impl Telegram for JobTelegram {
    async fn resolve_username(&self, username: &str) -> Result<Chat, TelegramError> {
        self.resolve(username).await
    }

    async fn chat_by_id(&self, id: i64) -> Result<Chat, TelegramError> {
        self.find_chat(id).await
    }

    async fn chat_details(&self, chat: &Chat) -> Result<ChatDetails, TelegramError> {
        self.details(chat).await
    }

    async fn check_invite(&self, hash: &str) -> Result<Invite, TelegramError> {
        self.look_at_invite(hash).await
    }

    async fn join_chat(&self, chat: &Chat) -> Result<Joined, TelegramError> {
        Box::pin(self.join(chat)).await
    }

    async fn join_by_invite(&self, hash: &str) -> Result<Joined, TelegramError> {
        Box::pin(self.join_with(hash)).await
    }

    fn visible_length(&self, draft: &Draft) -> Result<usize, TelegramError> {
        Ok(text::Parsed::of(draft)?.visible_length())
    }

    async fn send_message(&self, chat: &Chat, random_id: i64, draft: &Draft) -> Result<SentMessage, TelegramError> {
        self.send(chat, random_id, draft).await
    }

    fn account_id(&self) -> i64 {
        self.connection.storage().account_id()
    }

    fn is_bot(&self) -> bool {
        self.connection.storage().is_bot()
    }

    async fn newest_message(&self, chat: Option<&Chat>) -> Result<i32, TelegramError> {
        self.newest(chat).await
    }

    async fn newest_message_until(&self, chat: &Chat, time: DateTime<Utc>) -> Result<i32, TelegramError> {
        self.newest_until(chat, time).await
    }

    async fn recent_messages(&self, chat: &Chat) -> Result<Vec<i32>, TelegramError> {
        self.recent(chat).await
    }

    async fn history_after(&self, chat: &Chat, after: i32) -> Result<HistoryPage, TelegramError> {
        Box::pin(self.page_after(chat, after)).await
    }

    async fn private_news(&self, after: i32) -> Result<PrivateNews, TelegramError> {
        Box::pin(self.private_chats_after(after)).await
    }

    async fn watch_noted(&self) {
        if self.watch_troubles.lock().await.changed().await.is_err() {
            // The connection is gone: so is the session, and the attempt is told to stop.
            std::future::pending::<()>().await;
        }
    }

    async fn own_messages_like(
        &self,
        chat: &Chat,
        draft: &Draft,
        since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError> {
        self.own_like(chat, draft, since).await
    }

    async fn person(&self, person: &PersonRef) -> Result<Person, TelegramError> {
        self.find_person(person).await
    }

    async fn wrote_before(&self, person: &Person) -> Result<bool, TelegramError> {
        self.has_letter_of(person).await
    }

    async fn asked_to_join(&self, chat: &Chat, person: &Person) -> Result<bool, TelegramError> {
        Box::pin(self.has_asked_to_join(chat, person)).await
    }

    async fn presence(&self, chat: &Chat, person: &Person) -> Result<Presence, TelegramError> {
        self.presence_of(chat, person).await
    }

    async fn has_added(&self, chat: &Chat, person: &Person, since: DateTime<Utc>) -> Result<bool, TelegramError> {
        Box::pin(self.added_since(chat, person, since)).await
    }

    async fn add_to_chat(&self, chat: &Chat, person: &Person) -> Result<Added, TelegramError> {
        Box::pin(self.add(chat, person)).await
    }
}

/// An error of ours: `code` in snake case.
fn own_error(code: &str, message: &str, decision: Decision) -> TelegramError {
    TelegramError {
        code: code.to_owned(),
        message: message.to_owned(),
        decision,
    }
}
