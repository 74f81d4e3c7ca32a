//! The life of one term of one lease: load, connect, be used, and end in the one safe order. Whatever ends it, the
//! connection is closed first; then the jobs are told; then what happened is written down; then the lease is released.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
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
};
use crate::{
    store::{
        StoreError, failed, gates,
        leases::{self, AcquiredLease, LeaseKey, Renewed},
        sessions::{self, SessionState, StateChange},
    },
    telegram::{
        connection::{Connection, ConnectionSettings},
        gates::Gates,
        port::PortSettings,
        session_storage::{PgSession, StorageError, StorageSettings},
        trust::{Moment, Trust},
    },
};

/// How long a session that is offered to others waits for its jobs before it stays after all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a session that cannot be loaded is kept, so that it is not taken and dropped in a loop.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long the queue has to see that a session takes no more jobs.
const NOTICE: Duration = Duration::from_millis(50);
const RELEASE: Duration = Duration::from_secs(2);

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
    #[error("the session was never logged in")]
    NoAccount,
}

impl Term {
    /// A term that began with the statement that started at `start`.
    pub fn new(key: LeaseKey, start: Moment, trusted: Duration) -> Self {
        Self {
            key,
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
        self.offered.load(Ordering::Acquire) || self.given_up.is_cancelled()
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

    /// Takes in what a renewal told of the session.
    pub fn heard(&self, renewed: Renewed) {
        if !renewed.holdable {
            tracing::info!(session.id = %self.key.session, "the session may not be held any more");
            self.take_away();
        }
        if let Some(session) = self.session.get() {
            session.gates.sync_limited(renewed.limited);
        }
    }

    /// Lives the term to its end.
    pub async fn live(self: Arc<Self>, holder: Arc<Holder>, lease: AcquiredLease) {
        match self.open(&holder, lease).await {
            Ok(session) => {
                let incident = self.serve(&holder, &session).await;
                self.end(&holder, &session, incident).await;
            }
            Err(error) => {
                tracing::error!(
                    session.id = %self.key.session, error = &error as &dyn std::error::Error,
                    "the session could not be loaded"
                );
                self.could_not_open(&holder, &error).await;
            }
        }
        holder.forget(&self);
        self.release(&holder).await;
        holder.note_change();
    }

    async fn open(&self, holder: &Holder, lease: AcquiredLease) -> Result<Arc<HeldSession>, OpenError> {
        let mut connection = holder.acquire("closed_gates").await?;
        let closed = gates::closed(&mut connection, self.key.session).await?;
        drop(connection);
        let settings = StorageSettings {
            lease: self.key,
            home_dc: lease.home_dc,
            account_id: lease.account_id.ok_or(OpenError::NoAccount)?,
            is_bot: lease.is_bot,
            pinned: holder.pinned(),
            peer_cache: holder.settings.sessions.peer_cache,
        };
        let storage = PgSession::load(holder.database.clone(), holder.vault.clone(), settings).await?;
        let telegram = &holder.settings.telegram;
        let settings = ConnectionSettings {
            api_id: lease.api_id.unwrap_or(holder.api_id),
            call_deadline: telegram.call_deadline,
            catch_up: Arc::clone(&holder.catch_up),
        };
        let connection =
            Connection::open(Arc::new(storage), Arc::clone(&self.trust), settings).map_err(OpenError::Relay)?;
        let session = Arc::new(HeldSession {
            id: self.key.session,
            pool: lease.pool,
            fence: self.key.fence,
            slots: Slots {
                interactive: lease.interactive_slots,
                bulk: lease.bulk_slots,
                watch: lease.watch_slots,
            },
            lost: CancellationToken::new(),
            in_use: TaskTracker::new(),
            connection,
            gates: Arc::new(Gates::new(closed, lease.limited, holder.changed.clone())),
            port: PortSettings {
                database: holder.database.clone(),
                clock: Arc::clone(&holder.clock),
                wait_in_place: telegram.wait_in_place,
            },
            answers: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        });
        Ok(Arc::clone(self.session.get_or_init(|| session)))
    }

    /// Keeps the session in use until something ends the term; answers with what happened to the session, if that did.
    async fn serve(&self, holder: &Holder, session: &HeldSession) -> Option<StateChange> {
        let mut ready = session.connection.ready();
        loop {
            let answers = *ready.borrow_and_update();
            if session.answers.swap(answers, Ordering::AcqRel) != answers {
                holder.note_change();
            }
            tokio::select! {
                biased;
                () = self.trust.ended() => {
                    tracing::warn!(session.id = %self.key.session, "trust in the lease has ended");
                    return None;
                }
                change = session.connection.lost() => return Some(change),
                () = self.taken_away.cancelled() => return None,
                () = self.given_up.cancelled() => {
                    self.drain(holder, session).await;
                    return session.connection.incident();
                }
                () = self.offer.notified() => {
                    if timeout(PATIENCE, self.drain(holder, session)).await.is_ok() {
                        return session.connection.incident();
                    }
                    self.stay(holder, session);
                }
                changed = ready.changed() => if changed.is_err() { return None },
            }
        }
    }

    /// Takes no more jobs, and returns when those it has have ended, or cannot go on.
    async fn drain(&self, holder: &Holder, session: &HeldSession) {
        session.leaving.store(true, Ordering::Release);
        holder.note_change();
        // A claim that was being made while this was told still finds the session.
        sleep(NOTICE).await;
        session.in_use.close();
        tokio::select! {
            () = session.in_use.wait() => {}
            () = self.trust.ended() => {}
            _ = session.connection.lost() => {}
            () = self.taken_away.cancelled() => {}
        }
    }

    fn stay(&self, holder: &Holder, session: &HeldSession) {
        session.in_use.reopen();
        session.leaving.store(false, Ordering::Release);
        self.offered.store(false, Ordering::Release);
        holder.note_change();
    }

    async fn end(&self, holder: &Holder, session: &HeldSession, incident: Option<StateChange>) {
        session.connection.cut_off();
        session.lost.cancel();
        holder.note_change();
        session.connection.close().await;
        if let Some(change) = incident {
            self.write_down(holder, &change).await;
        }
    }

    /// Stores what happened to the session, for as long as the lease lets it. When that fails, the next holder meets the
    /// same answer of Telegram and writes it down.
    async fn write_down(&self, holder: &Holder, change: &StateChange) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.try_write_down(holder, change).await {
                Ok(()) => return,
                Err(StoreError::Fenced { .. }) => break,
                Err(error) => tracing::warn!(session.id = %self.key.session, %error, "a state was not stored"),
            }
            tokio::select! {
                () = self.trust.ended() => break,
                () = sleep(pause) => {}
            }
            pause *= 2;
        }
        tracing::error!(
            session.id = %self.key.session, state = change.to.as_str(), reason = %change.reason,
            "the session's new state could not be stored under its lease"
        );
    }

    async fn try_write_down(&self, holder: &Holder, change: &StateChange) -> Result<(), StoreError> {
        const OPERATION: &str = "change_session_state";
        let mut connection = holder.acquire(OPERATION).await?;
        let mut transaction = connection.begin().await.map_err(failed(OPERATION))?;
        sessions::change_state(&mut transaction, self.key, change).await?;
        transaction.commit().await.map_err(failed(OPERATION))
    }

    async fn could_not_open(&self, holder: &Holder, error: &OpenError) {
        let broken = match error {
            OpenError::NoAccount | OpenError::Storage(StorageError::NoKey) => Some("NO_AUTH_KEY"),
            OpenError::Storage(StorageError::Address) => Some("BAD_ADDRESS"),
            OpenError::Store(_) | OpenError::Storage(_) | OpenError::Relay(_) => None,
        };
        if let Some(reason) = broken {
            let change = StateChange {
                to: SessionState::Quarantined,
                reason: reason.to_owned(),
                incident: None,
            };
            self.write_down(holder, &change).await;
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
