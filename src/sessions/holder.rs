//! The lease holder of one process: takes free leases up to its fair share, renews all it has in one statement, and gives
//! surplus up when other workers come.
//!
//! Renewing and balancing are apart, so that a slow balance never costs a lease; and each term watches its own trust, so
//! that a database that does not answer never keeps a connection open past its lease.

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use sqlx::PgPool;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wireroom_jobs::{ports::Clock, stop::StopWords};

use super::{held::HeldSession, settings, stagger::Stagger, term::Term};
use crate::{
    config::{SessionsConfig, TelegramConfig},
    ids::{SessionId, WorkerId},
    person_key::PersonKey,
    store::{
        self, StoreError, leases,
        line::{Line, lease_pool},
        sessions, vault_keys,
    },
    telegram::{
        login::{NO_APPLICATION, known_dcs},
        trust::Moment,
        updates::recorder::Recorder,
    },
    vault::Vault,
};

/// How often the share is looked at.
const BALANCE: Duration = Duration::from_secs(1);
/// How often, at most, by a process that holds every session and shares with no other: nobody can give or take.
const BALANCE_ALONE: Duration = Duration::from_secs(3);
/// How long leases that become free are gathered before any is taken.
const GATHER: Duration = Duration::from_millis(50);
/// How many sessions of a process catch up on missed updates at a time.
const CATCH_UPS: usize = 8;

/// What a holder is made from.
#[derive(Clone)]
pub struct HolderSettings {
    pub worker: WorkerId,
    pub sessions: SessionsConfig,
    pub telegram: TelegramConfig,
    /// A worker whose heartbeat is older does not count when sessions are shared.
    pub worker_fresh: Duration,
    /// With these words people ask to be left alone.
    pub stop_words: Arc<StopWords>,
    /// Tells people who were erased.
    pub person_key: Option<PersonKey>,
}

/// Why a process cannot hold sessions.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    #[error("TELEGRAM_API_ID is needed to connect to Telegram: my.telegram.org shows it")]
    NoApplication,
}

/// The sessions of this process.
pub struct Holder {
    pub(super) database: PgPool,
    pub(super) vault: Vault,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: HolderSettings,
    pub(super) api_id: i32,
    /// The data centres whose addresses are known.
    pub(super) known_dcs: Arc<[i32]>,
    pub(super) catch_up: Arc<Semaphore>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) stagger: Stagger,
    pub(super) changed: watch::Sender<u64>,
    terms: Mutex<HashMap<SessionId, Arc<Term>>>,
    /// Somebody has something to tell that comes with a renewal.
    told: Notify,
    /// Held while changed settings are taken in: what one look has read is never put over what a later one has.
    pub(super) taking_in: tokio::sync::Mutex<()>,
    /// A lease may have become free.
    freed: Notify,
    /// No more leases are taken.
    closing: CancellationToken,
    /// All terms are over.
    over: CancellationToken,
    tasks: TaskTracker,
}

impl Holder {
    /// Starts holding sessions. The vault must have been verified.
    pub fn start(
        database: PgPool,
        vault: Vault,
        clock: Arc<dyn Clock>,
        settings: HolderSettings,
    ) -> Result<Arc<Self>, HolderError> {
        let api_id = match (settings.telegram.api_id, &settings.telegram.server) {
            (Some(api_id), _) => api_id,
            (None, Some(_)) => NO_APPLICATION.0,
            (None, None) => return Err(HolderError::NoApplication),
        };
        let known_dcs = known_dcs(&settings.telegram);
        let stagger = Stagger::new(settings.sessions.connects_per_second);
        let holder = Arc::new(Self {
            stagger,
            recorder: Recorder::start(
                database.clone(),
                Arc::clone(&settings.stop_words),
                settings.person_key.clone(),
            ),
            database,
            vault,
            clock,
            settings,
            api_id,
            known_dcs,
            catch_up: Arc::new(Semaphore::new(CATCH_UPS)),
            changed: watch::Sender::new(0),
            terms: Mutex::default(),
            told: Notify::new(),
            taking_in: tokio::sync::Mutex::default(),
            freed: Notify::new(),
            closing: CancellationToken::new(),
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        tokio::spawn(Arc::clone(&holder).renew_all());
        tokio::spawn(Arc::clone(&holder).balance());
        tokio::spawn(Arc::clone(&holder).announce_openings());
        Ok(holder)
    }

    /// Who holds them.
    pub fn worker(&self) -> WorkerId {
        self.settings.worker
    }

    /// The sessions that may get jobs now: they answer, their lease is trusted, and they are not to be given up.
    pub fn held(&self) -> Vec<Arc<HeldSession>> {
        let held = self.terms().into_iter().filter_map(|term| term.session());
        held.filter(|session| session.takes_jobs()).collect()
    }

    /// The session under that lease, also while it is to be given up: what was claimed on it may still run.
    pub fn session(&self, id: SessionId, fence: i64) -> Option<Arc<HeldSession>> {
        let term = self.lock().get(&id).cloned()?;
        term.session().filter(|session| session.fence == fence)
    }

    /// Changes whenever [`Holder::held`] or the closed actions of a session would answer something else.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Looks at the settings of its sessions and for free leases now, and not in a while: call it when a cap was changed, a
    /// check or a move was asked for, or a lease was given back. Nothing is lost when it is not called.
    pub fn look_again(&self) {
        self.told.notify_one();
        self.freed.notify_one();
    }

    /// How many leases this process has, whether the sessions answer or not.
    pub fn leases(&self) -> usize {
        self.lock().len()
    }

    /// Takes no more leases; those it has are kept and renewed while jobs finish.
    pub fn stop_acquiring(&self) {
        self.closing.cancel();
    }

    /// Gives everything up: each session as soon as no job is on it, and all of them after `grace`. Returns when all
    /// sockets are closed and the leases are released.
    pub async fn shutdown(&self, grace: Duration) {
        self.stop_acquiring();
        for term in self.terms() {
            term.give_up();
        }
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            for term in self.terms() {
                term.take_away();
            }
            self.tasks.wait().await;
        }
        self.over.cancel();
    }

    pub(super) fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn forget(&self, term: &Arc<Term>) {
        let mut terms = self.lock();
        if terms
            .get(&term.key.session)
            .is_some_and(|known| Arc::ptr_eq(known, term))
        {
            terms.remove(&term.key.session);
        }
    }

    /// How long trust lasts after the start of a renewal.
    pub(super) fn trusted_span(&self) -> Duration {
        self.settings
            .sessions
            .lease
            .saturating_sub(self.settings.sessions.margin)
    }

    /// Where a data centre of a configured server is: that stays, whatever it says of itself.
    pub(super) fn pinned(&self, dc: i32) -> Option<SocketAddrV4> {
        let server = self.settings.telegram.server.as_ref();
        server.map(|server| server.address_of(dc))
    }

    async fn renew_all(self: Arc<Self>) {
        if let Err(error) = self.note_keys().await {
            // Until it is noted, nobody can seal anything under a new key: that is safe.
            tracing::warn!(%error, "which master keys this worker has was not noted");
        }
        let mut next = Instant::now() + self.settings.sessions.renew;
        let mut line = Line::new(lease_pool(&self.database));
        loop {
            tokio::select! {
                () = self.over.cancelled() => return,
                () = sleep_until(next) => next += self.settings.sessions.renew,
                () = self.told.notified() => sleep(GATHER).await,
            }
            let renewed = timeout(self.settings.sessions.renew, self.renew(&mut line)).await;
            if !matches!(renewed, Ok(Ok(()))) {
                line.hang_up();
            }
            match renewed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "leases were not renewed"),
                Err(_) => tracing::warn!("the database took too long to renew the leases"),
            }
            // After a pause there is one renewal to catch up with, not as many as were missed.
            next = next.max(Instant::now().checked_sub(self.settings.sessions.renew).unwrap_or(next));
        }
    }

    async fn note_keys(&self) -> Result<(), StoreError> {
        let ids: Vec<String> = self.vault.key_ids().map(str::to_owned).collect();
        let mut connection = self.acquire("note_worker_keys").await?;
        vault_keys::note_worker(&mut connection, self.settings.worker, &ids).await
    }

    async fn renew(self: &Arc<Self>, line: &mut Line) -> Result<(), StoreError> {
        let terms = self.terms();
        if terms.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = terms.iter().map(|term| term.key).collect();
        line.refresh().await;
        let connection = line.open("renew_leases").await?;
        let start = Moment::now();
        let lease = self.settings.sessions.lease;
        let renewed = leases::renew(connection, self.settings.worker, self.api_id, &keys, lease).await?;
        let micros = u64::try_from(start.passed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(sessions = keys.len(), micros, "renewed the leases");
        let renewed: HashMap<_, _> = renewed.into_iter().map(|renewed| (renewed.key, renewed)).collect();
        let mut signs = Vec::new();
        let mut changed = Vec::new();
        for term in &terms {
            match renewed.get(&term.key) {
                Some(renewed) => {
                    term.trust.extend(start, self.trusted_span());
                    term.heard(*renewed);
                    if term.settings_version.load(Ordering::Relaxed) != renewed.settings_version {
                        changed.push((Arc::clone(term), renewed.settings_version));
                    }
                }
                // It had expired, or is another's: nobody may use it here.
                None => term.trust.end(),
            }
            signs.extend(term.session().and_then(|session| session.take_sign()));
        }
        if !changed.is_empty() {
            // Not here: nothing may hold up the next renewal.
            tokio::spawn(settings::take_in(Arc::clone(self), changed));
        }
        if !signs.is_empty() {
            sessions::note_signs(connection, &signs).await?;
        }
        Ok(())
    }

    async fn balance(self: Arc<Self>) {
        while !self.closing.is_cancelled() {
            let pause = match timeout(self.settings.sessions.lease, self.balance_once()).await {
                Ok(Ok(Standing::HasAll)) => BALANCE_ALONE,
                Ok(Ok(Standing::Shares)) => BALANCE,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "sessions were not shared");
                    BALANCE
                }
                Err(_) => {
                    tracing::warn!("the database took too long to share sessions");
                    BALANCE
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = sleep(pause.min(self.settings.sessions.renew)) => {}
                // A worker that stops gives its sessions back one by one.
                () = self.freed.notified() => sleep(GATHER).await,
            }
        }
    }

    async fn balance_once(self: &Arc<Self>) -> Result<Standing, StoreError> {
        let mut connection = self.acquire("lease_census").await?;
        let settings = &self.settings;
        let census = leases::census(&mut connection, settings.worker, self.api_id, settings.worker_fresh).await?;
        let share = census.fair_share().min(settings.sessions.max);
        let holding = self.leases();
        if holding > share {
            self.give_up(holding - share);
        } else if holding < share {
            let start = Moment::now();
            let lease = settings.sessions.lease;
            let taken = leases::acquire(&mut connection, settings.worker, self.api_id, share - holding, lease).await?;
            drop(connection);
            for lease in taken {
                self.adopt(lease, start);
            }
        } else if census.workers <= 1 && usize::try_from(census.sessions) == Ok(holding) && holding > 0 {
            return Ok(Standing::HasAll);
        }
        Ok(Standing::Shares)
    }

    fn adopt(self: &Arc<Self>, lease: leases::AcquiredLease, start: Moment) {
        let term = Arc::new(Term::new(&lease, start, self.trusted_span()));
        tracing::info!(session.id = %lease.key.session, fence = lease.key.fence, "took a lease");
        self.lock().insert(lease.key.session, Arc::clone(&term));
        // Whatever was taken after the shutdown began goes straight back.
        if self.closing.is_cancelled() {
            term.give_up();
        }
        self.tasks.spawn(term.live(Arc::clone(self), lease));
    }

    /// Gives up `surplus` sessions, idle ones first, less those on their way out already.
    fn give_up(&self, surplus: usize) {
        let terms = self.terms();
        let leaving = terms.iter().filter(|term| term.is_leaving()).count();
        let mut staying: Vec<_> = terms.into_iter().filter(|term| !term.is_leaving()).collect();
        staying.sort_by_key(|term| !term.is_idle());
        for term in staying.into_iter().take(surplus.saturating_sub(leaving)) {
            tracing::info!(session.id = %term.key.session, "giving a session up to another worker");
            term.offer();
        }
    }

    /// Counts a change when a gate opens by time, which nothing else would tell.
    async fn announce_openings(self: Arc<Self>) {
        let mut changed = self.changed();
        loop {
            let sessions = self.terms().into_iter().filter_map(|term| term.session());
            let next = sessions.filter_map(|session| session.gates.next_opening()).min();
            tokio::select! {
                () = self.over.cancelled() => return,
                changed = changed.changed() => if changed.is_err() { return },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.note_change(),
            }
        }
    }

    pub(super) async fn acquire(
        &self,
        operation: &'static str,
    ) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, StoreError> {
        self.database.acquire().await.map_err(store::failed(operation))
    }

    fn terms(&self) -> Vec<Arc<Term>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Term>>> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a process stands to the others.
enum Standing {
    /// It holds every session that may be held, and is the only worker.
    HasAll,
    Shares,
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder")
            .field("worker", &self.settings.worker)
            .finish_non_exhaustive()
    }
}
