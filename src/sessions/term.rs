//! The life of one term of one lease: load, connect, be used, and end in the one safe order. Whatever ends it, the
//! connection is closed first; then the jobs are told; then what happened is written down; then the lease is released.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::Connection as _;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    held::{HeldSession, Slots},
    holder::Holder,
    proxies, relocation,
};
use crate::{
    config::SessionsConfig,
    store::{
        StoreError, applications,
        breakers::{self, Rests},
        caps, failed, gates,
        leases::{self, AcquiredLease, LeaseKey, Renewed},
        pools,
        sessions::{self, SessionState, StateChange},
    },
    telegram::{
        connection::{Connection, ConnectionSettings, Failing, Loss},
        gates::Gates,
        pace::Pace,
        port::PortSettings,
        session_storage::{PgSession, StorageError, StorageSettings},
        trouble::Trouble,
        trust::{Moment, Trust},
    },
    vault::VaultError,
};

/// How long a session that is offered to others waits for its jobs before it stays after all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a session that cannot be loaded is kept, so that it is not taken and dropped in a loop.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long the queue has to see that a session takes no more jobs.
const NOTICE: Duration = Duration::from_millis(50);
const RELEASE: Duration = Duration::from_secs(2);
/// How long at most until a write that failed is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Term {
    pub key: LeaseKey,
    pub trust: Arc<Trust>,
    session: OnceLock<Arc<HeldSession>>,
    /// Give it up when its jobs have ended; for good.
    given_up: CancellationToken,
    /// End it now.
    taken_away: CancellationToken,
    /// Somebody else may have it, if its jobs end soon.
    offered: AtomicBool,
    offer: Notify,
    /// It is to be taken again in another pool, when its jobs have ended.
    moving: CancellationToken,
    /// The settings that were looked at last.
    pub settings_version: AtomicI64,
}

/// What ended a term.
enum Ending {
    /// Trust, or whoever holds the session.
    Over,
    /// Something happened to the session, or to its application.
    Lost(Loss),
    /// It does not answer, and is left alone for a while.
    Tired(Failing),
    /// It goes to another pool.
    Moves,
}

/// What is written under the lease, again and again until it is.
#[derive(Clone, Copy)]
enum Note<'a> {
    State(&'a StateChange),
    /// The session answers: its half-open breaker closes.
    Answers,
    /// Telegram does not take its application.
    Refused {
        api_id: i32,
        reason: &'a str,
    },
}

/// Why a session could not be loaded.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the relay could not be opened")]
    Relay(#[source] std::io::Error),
    #[error("the session's proxy could not be opened")]
    Proxy(#[source] VaultError),
    #[error("the session was never logged in")]
    NoAccount,
}

impl Term {
    /// A term that began with the statement that started at `start`.
    pub fn new(lease: &AcquiredLease, start: Moment, trusted: Duration) -> Self {
        Self {
            key: lease.key,
            moving: CancellationToken::new(),
            settings_version: AtomicI64::new(lease.settings_version),
            trust: Arc::new(Trust::new(start, trusted)),
            session: OnceLock::new(),
            given_up: CancellationToken::new(),
            taken_away: CancellationToken::new(),
            offered: AtomicBool::new(false),
            offer: Notify::new(),
        }
    }

    /// The session, once it is loaded.
    pub fn session(&self) -> Option<Arc<HeldSession>> {
        self.session.get().cloned()
    }

    pub fn is_leaving(&self) -> bool {
        self.offered.load(Ordering::Acquire) || self.given_up.is_cancelled() || self.moving.is_cancelled()
    }

    pub fn is_idle(&self) -> bool {
        self.session.get().is_none_or(|session| session.in_use.is_empty())
    }

    pub fn give_up(&self) {
        self.given_up.cancel();
    }

    pub fn take_away(&self) {
        self.taken_away.cancel();
    }

    /// Offers the session to other workers: it goes when its jobs end soon, and stays otherwise.
    pub fn offer(&self) {
        self.offered.store(true, Ordering::Release);
        self.offer.notify_one();
    }

    /// Lets the session go to another pool when its jobs have ended.
    pub fn move_on(&self) {
        self.moving.cancel();
    }

    /// Takes in what a renewal told of the session.
    pub fn heard(&self, renewed: Renewed) {
        if !renewed.holdable {
            tracing::info!(session.id = %self.key.session, "the session may not be held any more");
            self.take_away();
        }
        if let Some(session) = self.session.get() {
            session.gates.sync_limited(renewed.limited, renewed.settings_version);
        }
    }

    /// Lives the term to its end.
    pub async fn live(self: Arc<Self>, holder: Arc<Holder>, lease: AcquiredLease) {
        let on_probation = lease.on_probation;
        let opened = tokio::select! {
            biased;
            () = self.over_before_it_began() => None,
            // Apart: an idle session should not carry the room for its beginning around, nor that for its end.
            () = holder.stagger.turn() => Some(Box::pin(self.open(&holder, lease)).await),
        };
        match opened {
            None => {}
            Some(Ok(session)) => {
                let ending = self.serve(&holder, &session, on_probation).await;
                Box::pin(self.end(&holder, &session, ending)).await;
            }
            Some(Err(error)) => {
                tracing::error!(
                    session.id = %self.key.session, error = &error as &dyn std::error::Error,
                    "the session could not be loaded"
                );
                Box::pin(self.could_not_open(&holder, &error)).await;
            }
        }
        holder.forget(&self);
        Box::pin(self.release(&holder)).await;
        holder.note_change();
    }

    /// Returns when the session is not to be connected any more. Nothing was.
    async fn over_before_it_began(&self) {
        tokio::select! {
            () = self.trust.ended() => {}
            () = self.taken_away.cancelled() => {}
            () = self.given_up.cancelled() => {}
            () = self.offer.notified() => {}
        }
    }

    async fn open(&self, holder: &Holder, lease: AcquiredLease) -> Result<Arc<HeldSession>, OpenError> {
        let pool = if lease.moves {
            self.settle_pool(holder).await?
        } else {
            lease.pool
        };
        let mut connection = holder.acquire("closed_gates").await?;
        let closed = gates::closed(&mut connection, self.key.session).await?;
        let spent = caps::spent(&mut connection, &[self.key.session]).await?;
        drop(connection);
        let proxy = proxies::open(&holder.vault, self.key.session, lease.proxy.as_ref()).map_err(OpenError::Proxy)?;
        let settings = StorageSettings {
            lease: self.key,
            home_dc: lease.home_dc,
            account_id: lease.account_id.ok_or(OpenError::NoAccount)?,
            username: lease.username,
            is_bot: lease.is_bot,
            pinned: holder.pinned(lease.home_dc),
            peer_cache: holder.settings.sessions.peer_cache,
        };
        let storage = PgSession::load(holder.database.clone(), holder.vault.clone(), settings).await?;
        let telegram = &holder.settings.telegram;
        let settings = ConnectionSettings {
            api_id: lease.api_id.unwrap_or(holder.api_id),
            known_dcs: Arc::clone(&holder.known_dcs),
            call_deadline: telegram.call_deadline,
            catch_up: Arc::clone(&holder.catch_up),
            health_call: holder.settings.sessions.health_call(),
            probe_after: telegram.probe_after,
            silence: telegram.silence,
            recorder: Arc::clone(&holder.recorder),
            elsewhere: Some(Arc::new(telegram.clone())),
        };
        let connection =
            Connection::open(Arc::new(storage), proxy, Arc::clone(&self.trust), settings).map_err(OpenError::Relay)?;
        let lost = CancellationToken::new();
        let session = Arc::new(HeldSession {
            id: self.key.session,
            pool,
            fence: self.key.fence,
            slots: Slots {
                interactive: lease.interactive_slots,
                bulk: lease.bulk_slots,
                watch: lease.watch_slots,
            },
            departure: Mutex::new(lost.child_token()),
            lost,
            in_use: TaskTracker::new(),
            watching: TaskTracker::new(),
            connection,
            gates: Arc::new(Gates::new(
                closed,
                spent.into_iter().map(|(_, spent)| spent).collect(),
                lease.limited,
                holder.changed.clone(),
            )),
            pace: Arc::new(Pace::new(holder.settings.sessions.pace)),
            trouble: Arc::new(Trouble::new(lease.degraded)),
            port: PortSettings {
                database: holder.database.clone(),
                clock: Arc::clone(&holder.clock),
                wait_in_place: telegram.wait_in_place,
                call_deadline: telegram.call_deadline,
            },
            answers: AtomicBool::new(false),
            last_check: Mutex::new(None),
            leaving: AtomicBool::new(false),
        });
        Ok(Arc::clone(self.session.get_or_init(|| session)))
    }

    /// Keeps the session in use until something ends the term. `on_probation`: its breaker is half-open, so that its
    /// first answer closes it and its first failure opens it again.
    async fn serve(&self, holder: &Holder, session: &HeldSession, on_probation: bool) -> Ending {
        let mut ready = session.connection.ready();
        let mut failing = session.connection.failing();
        let on_probation = AtomicBool::new(on_probation);
        // Beside the loop: no write of theirs may hold up the end of trust.
        let mut duties = Box::pin(async {
            tokio::join!(
                self.end_probation(holder, session, &on_probation),
                self.see_through_troubles(holder, session)
            )
        });
        loop {
            let answers = *ready.borrow_and_update();
            if session.answers.swap(answers, Ordering::AcqRel) != answers {
                holder.note_change();
            }
            let times = failing.borrow_and_update().times;
            let most = holder.settings.sessions.breaker_failures;
            if times >= most || (times > 0 && on_probation.load(Ordering::Acquire)) {
                return Ending::Tired(failing.borrow().clone());
            }
            tokio::select! {
                biased;
                () = self.trust.ended() => {
                    tracing::warn!(session.id = %self.key.session, "trust in the lease has ended");
                    return Ending::Over;
                }
                loss = session.connection.lost() => return Ending::Lost(loss),
                () = self.taken_away.cancelled() => return Ending::Over,
                () = self.given_up.cancelled() => {
                    self.drain(holder, session).await;
                    return after_draining(session, Ending::Over);
                }
                () = self.moving.cancelled() => {
                    self.drain(holder, session).await;
                    return after_draining(session, Ending::Moves);
                }
                () = self.offer.notified() => {
                    if timeout(PATIENCE, self.drain(holder, session)).await.is_ok() {
                        return after_draining(session, Ending::Over);
                    }
                    self.stay(holder, session);
                }
                // Troubles have no end that would be reached here.
                _ = &mut duties => return Ending::Over,
                changed = ready.changed() => if changed.is_err() { return Ending::Over },
                changed = failing.changed() => if changed.is_err() { return Ending::Over },
            }
        }
    }

    /// Takes no more jobs, and returns when those it has have ended, or cannot go on.
    async fn drain(&self, holder: &Holder, session: &HeldSession) {
        session.leave();
        holder.note_change();
        // A claim that was being made while this was told still finds the session.
        sleep(NOTICE).await;
        tokio::select! {
            () = session.empty() => {}
            () = self.trust.ended() => {}
            _ = session.connection.lost() => {}
            () = self.taken_away.cancelled() => {}
        }
    }

    fn stay(&self, holder: &Holder, session: &HeldSession) {
        session.stay();
        self.offered.store(false, Ordering::Release);
        holder.note_change();
    }

    async fn end(&self, holder: &Holder, session: &HeldSession, ending: Ending) {
        session.connection.cut_off();
        session.lost.cancel();
        holder.note_change();
        session.connection.close().await;
        match ending {
            Ending::Over => {}
            Ending::Lost(Loss::Session(change)) => {
                self.write_down(holder, &change).await;
            }
            Ending::Lost(Loss::Application { api_id, reason }) => {
                let reason = &reason;
                self.insist(holder, Note::Refused { api_id, reason }).await;
            }
            Ending::Lost(Loss::Moved { dc }) => {
                if let Err(error) = Box::pin(relocation::follow(self, holder, session, dc)).await {
                    let reason =
                        format!("the account lives in data centre {dc} now, and the session could not follow: {error}");
                    self.rest(holder, &reason).await;
                }
            }
            Ending::Tired(failing) => self.rest(holder, &failing.error).await,
            Ending::Moves => {
                if let Err(error) = self.settle_pool(holder).await {
                    // The next holder moves it before it uses it.
                    tracing::warn!(session.id = %self.key.session, %error, "a session was not moved to its pool yet");
                }
            }
        }
    }

    async fn settle_pool(&self, holder: &Holder) -> Result<String, StoreError> {
        const OPERATION: &str = "settle_pool";
        let mut connection = holder.acquire(OPERATION).await?;
        let mut transaction = connection.begin().await.map_err(failed(OPERATION))?;
        let pool = pools::settle(&mut transaction, self.key).await?;
        transaction.commit().await.map_err(failed(OPERATION))?;
        tracing::info!(session.id = %self.key.session, pool, "the session is in its pool");
        Ok(pool)
    }

    /// Leaves the session alone, for longer each time: nobody takes its lease until then.
    async fn rest(&self, holder: &Holder, error: &str) {
        const OPERATION: &str = "trip_breaker";
        let rests = Rests {
            first: holder.settings.sessions.breaker_rest,
            longest: SessionsConfig::LONGEST_REST,
        };
        let stored = async {
            let mut connection = holder.acquire(OPERATION).await?;
            let mut transaction = connection.begin().await.map_err(failed(OPERATION))?;
            let until = breakers::trip(&mut transaction, self.key, rests, fraction(), error).await?;
            transaction.commit().await.map_err(failed(OPERATION))?;
            Ok::<_, StoreError>(until)
        };
        match stored.await {
            Ok(until) => tracing::warn!(session.id = %self.key.session, %until, error, "the session rests"),
            Err(failure) => {
                tracing::warn!(session.id = %self.key.session, error = %failure, "a breaker was not opened");
            }
        }
    }

    /// Closes the half-open breaker of a session once it has answered.
    async fn end_probation(&self, holder: &Holder, session: &HeldSession, on_probation: &AtomicBool) {
        if !on_probation.load(Ordering::Acquire) {
            return;
        }
        let mut ready = session.connection.ready();
        let answers = ready.wait_for(|answers| *answers).await.is_ok();
        if answers && self.insist(holder, Note::Answers).await.is_some() {
            on_probation.store(false, Ordering::Release);
        }
    }

    /// Stores what happened to the session, for as long as the lease lets it. When that fails, the next holder meets the
    /// same answer of Telegram and writes it down. `false`: it is not in that state now.
    pub(super) async fn write_down(&self, holder: &Holder, change: &StateChange) -> bool {
        let written = self.insist(holder, Note::State(change)).await;
        if written.is_none() {
            tracing::error!(
                session.id = %self.key.session, state = change.to.as_str(), reason = %change.reason,
                "the session's new state could not be stored under its lease"
            );
        }
        written == Some(true)
    }

    /// Writes again and again, for as long as the lease lets it, whether that changed anything; `None`: it was not written.
    async fn insist(&self, holder: &Holder, note: Note<'_>) -> Option<bool> {
        let mut pause = Duration::from_millis(100);
        loop {
            // Apart: an idle session should not carry the room for a write around.
            match Box::pin(self.try_note(holder, note)).await {
                Ok(changed) => return Some(changed),
                Err(StoreError::Fenced { .. }) => return None,
                Err(error) => tracing::warn!(
                    session.id = %self.key.session, error = &error as &dyn std::error::Error,
                    "what became of a session is not stored yet"
                ),
            }
            tokio::select! {
                () = self.trust.ended() => return None,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_note(&self, holder: &Holder, note: Note<'_>) -> Result<bool, StoreError> {
        let operation = match note {
            Note::State(_) => "change_session_state",
            Note::Answers => "close_breaker",
            Note::Refused { .. } => "refuse_application",
        };
        let mut connection = holder.acquire(operation).await?;
        let mut transaction = connection.begin().await.map_err(failed(operation))?;
        let changed = match note {
            Note::State(change) => sessions::change_state(&mut transaction, self.key, change).await?,
            Note::Answers => breakers::close(&mut transaction, self.key).await?,
            Note::Refused { api_id, reason } => {
                applications::refuse(&mut transaction, self.key, api_id, reason).await?
            }
        };
        transaction.commit().await.map_err(failed(operation))?;
        Ok(changed)
    }

    async fn could_not_open(&self, holder: &Holder, error: &OpenError) {
        let broken = match error {
            OpenError::NoAccount | OpenError::Storage(StorageError::NoKey) => Some("NO_AUTH_KEY"),
            OpenError::Storage(StorageError::Address) => Some("BAD_ADDRESS"),
            OpenError::Store(_) | OpenError::Storage(_) | OpenError::Relay(_) | OpenError::Proxy(_) => None,
        };
        if let Some(reason) = broken {
            let change = StateChange {
                to: SessionState::Quarantined,
                reason: reason.to_owned(),
                incident: None,
            };
            self.write_down(holder, &change).await;
        } else if let OpenError::Storage(StorageError::Vault(error)) | OpenError::Proxy(error) = error {
            // It names the key that is missing; no other worker has it either, or one has, and takes it after the rest.
            self.rest(holder, &error.to_string()).await;
        } else {
            tokio::select! {
                () = sleep(AFTER_FAILURE) => {}
                () = self.trust.ended() => {}
                () = self.given_up.cancelled() => {}
                () = self.taken_away.cancelled() => {}
            }
        }
    }

    /// The socket is closed: whoever wants it may have it.
    async fn release(&self, holder: &Holder) {
        let released = async {
            let mut connection = holder.acquire("release_lease").await?;
            leases::release(&mut connection, self.key).await
        };
        match timeout(RELEASE, released).await {
            Ok(Ok(true)) => tracing::info!(session.id = %self.key.session, "released a lease"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a lease was not released: it runs out by itself"),
            Err(_) => tracing::warn!("the database took too long to release a lease: it runs out by itself"),
        }
    }
}

/// How a term ends whose session has no job any more.
fn after_draining(session: &HeldSession, ending: Ending) -> Ending {
    session.connection.incident().map_or(ending, Ending::Lost)
}

/// From 0 to 1; in the middle when the system has no randomness to give.
fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
