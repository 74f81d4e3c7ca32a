//! One session's connection: grammers' sender pool behind the relay, a supervised runner, and a deadline on every call.
//!
//! The runner may panic (grammers asserts on unexpected answers); it is started again after a pause that grows, and the
//! process goes on. A call that does not come back in time hangs up on the server: its outcome is unknown, and the next
//! call dials anew. An answer that says the session is lost stops everything for good: nobody connects again.

mod elsewhere;
mod health;

use std::{
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use grammers_mtproto::transport;
use grammers_mtsender::{
    ConnectionParams, InvocationError, NoRetries, RpcError, SenderPool, SenderPoolFatHandle, SenderPoolHandle,
};
use grammers_session::types::PeerInfo;
use grammers_tl_types::{self as tl, Deserializable, RemoteCall};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::health::Failing;
use super::{
    ProxyFault,
    channel_count::ChannelCount,
    errors::Meaning,
    relay::Relay,
    session_storage::PgSession,
    trust::Trust,
    updates::{self, recorder::Recorder},
};
use crate::{
    config::TelegramConfig,
    proxy::Proxy,
    store::sessions::{SessionState, StateChange},
};

/// Updates that wait to be read. When more come they are dropped and fetched again as a difference.
const UPDATES: usize = 10_000;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A runner that lived this long had no trouble starting.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// How long learnt peers are gathered before they are stored.
const FLUSH: Duration = Duration::from_secs(1);
/// How long grammers' runner may take to end by itself.
const RUNNER_END: Duration = Duration::from_secs(1);

/// How a session is connected.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    pub api_id: i32,
    /// The data centres that it could follow its account to.
    pub known_dcs: Arc<[i32]>,
    /// Of one call, connecting included.
    pub call_deadline: Duration,
    /// How many sessions of this process catch up on missed updates at a time.
    pub catch_up: Arc<Semaphore>,
    /// A session that was silent for about this long is called, to see whether it answers.
    pub health_call: Duration,
    /// A connection on which nothing came for so long is probed. More than the 60 s between two pings, whose answers come on
    /// any connection that works.
    pub probe_after: Duration,
    /// The difference is asked for when no update came for so long.
    pub silence: Duration,
    /// Where the process stores what its sessions read.
    pub recorder: Arc<Recorder>,
    /// How other data centres are reached for files; `None`: not at all.
    pub elsewhere: Option<Arc<TelegramConfig>>,
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("Telegram answered {}", .0.name)]
    Rpc(RpcError),
    #[error("Telegram did not answer in time")]
    Deadline,
    #[error("the connection to Telegram was lost")]
    Disconnected(#[source] Option<InvocationError>),
    /// There is no connection, for a reason that lies before Telegram. What became of a call that was on its way is not known.
    #[error("{fault}")]
    Proxy {
        fault: ProxyFault,
        /// The deadline had passed: the call may still be in grammers' hands.
        late: bool,
    },
    #[error("Telegram's answer could not be read")]
    Unreadable,
    #[error("the lease of the session is not trusted any more")]
    LeaseLost,
    #[error("the session is lost: {0}")]
    SessionLost(String),
}

impl CallError {
    /// The call was given up on, and may leave yet: with the next connection.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Deadline | Self::Proxy { late: true, .. })
    }
}

/// What ends a connection for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Something happened to the session.
    Session(StateChange),
    /// Telegram does not take the application that it connects with.
    Application {
        api_id: i32,
        /// Telegram's name of the error.
        reason: String,
    },
    /// The account lives in another data centre now.
    Moved { dc: i32 },
}

impl Loss {
    fn reason(&self) -> &str {
        match self {
            Self::Session(change) => &change.reason,
            Self::Application { reason, .. } => reason,
            Self::Moved { .. } => "USER_MIGRATE",
        }
    }
}

/// The one connection of a held session.
pub struct Connection {
    storage: Arc<PgSession>,
    trust: Arc<Trust>,
    relay: Relay,
    settings: ConnectionSettings,
    /// The running pool; `None` while there is none.
    link: watch::Sender<Option<SenderPoolHandle>>,
    /// A cheap call came back since the runner started.
    ready: watch::Sender<bool>,
    /// How often in a row the session failed to answer at all, and what the last failure was.
    failing: watch::Sender<Failing>,
    incident: watch::Sender<Option<Loss>>,
    /// Counts what the update stream noted about watches of the session, for the jobs behind them.
    watch_troubles: watch::Sender<u64>,
    channel_count: ChannelCount,
    stop: CancellationToken,
    /// Ends the present life of the runner, once it has answered; another one begins after a pause.
    restart: Notify,
    called: AtomicBool,
    /// When a call last came back.
    answered_at: Mutex<Instant>,
    updated: AtomicBool,
    /// Channels whose place was found out apart from the updates.
    begun_channels: Mutex<Vec<(i64, i32)>>,
    /// The connection was hung up on, so nothing more is pushed until somebody calls.
    hung_up: AtomicBool,
    nudge: Notify,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    elsewhere: elsewhere::Elsewhere,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("lease", &self.storage.lease())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens the relay and starts the supervised runner, which connects and keeps the updates flowing. With a proxy, every
    /// connection goes through it.
    pub fn open(
        storage: Arc<PgSession>,
        proxy: Option<Proxy>,
        trust: Arc<Trust>,
        settings: ConnectionSettings,
    ) -> std::io::Result<Arc<Self>> {
        let relay = Relay::open(
            storage.home_address(),
            proxy,
            Arc::clone(&trust),
            settings.call_deadline,
        )?;
        storage.set_entrance(relay.entrance());
        let connection = Arc::new(Self {
            storage,
            trust,
            relay,
            settings,
            link: watch::Sender::new(None),
            ready: watch::Sender::new(false),
            failing: watch::Sender::new(Failing::default()),
            incident: watch::Sender::new(None),
            watch_troubles: watch::Sender::new(0),
            channel_count: ChannelCount::default(),
            stop: CancellationToken::new(),
            restart: Notify::new(),
            called: AtomicBool::new(false),
            answered_at: Mutex::new(Instant::now()),
            updated: AtomicBool::new(false),
            begun_channels: Mutex::default(),
            hung_up: AtomicBool::new(false),
            nudge: Notify::new(),
            supervisor: Mutex::new(None),
            elsewhere: elsewhere::Elsewhere::default(),
        });
        let supervisor = tokio::spawn(Arc::clone(&connection).supervise());
        *connection.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
        Ok(connection)
    }

    /// The application it connects with.
    pub fn api_id(&self) -> i32 {
        self.settings.api_id
    }

    /// What it connects through.
    pub fn proxy(&self) -> Option<Proxy> {
        self.relay.proxy()
    }

    pub fn storage(&self) -> &Arc<PgSession> {
        &self.storage
    }

    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Whether the session answers: a cheap call came back since the runner started.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Changes when the update stream has noted something about a watch of this session.
    pub fn watch_troubles(&self) -> watch::Receiver<u64> {
        self.watch_troubles.subscribe()
    }

    /// How many supergroups and channels the account is in.
    pub fn channel_count(&self) -> &ChannelCount {
        &self.channel_count
    }

    /// What happened, once the session is lost.
    pub fn incident(&self) -> Option<Loss> {
        self.incident.borrow().clone()
    }

    /// Returns when the session is lost.
    pub async fn lost(&self) -> Loss {
        let mut incident = self.incident.subscribe();
        loop {
            if let Some(loss) = incident.borrow_and_update().clone() {
                return loss;
            }
            if incident.changed().await.is_err() {
                // The sender is in `self`, so this does not happen.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a call has come back since this was asked last.
    pub fn take_called(&self) -> bool {
        self.called.swap(false, Ordering::Relaxed)
    }

    /// Whether an update has come in since this was asked last.
    pub fn take_updated(&self) -> bool {
        self.updated.swap(false, Ordering::Relaxed)
    }

    pub(super) fn note_update(&self) {
        self.updated.store(true, Ordering::Relaxed);
    }

    /// Tells the jobs behind this session's watches to look at them.
    pub(super) fn note_trouble(&self) {
        self.watch_troubles.send_modify(|count| *count += 1);
    }

    /// Reads a channel's updates from this place on, unless its place is known. `channel` is its bare id. Find the place out
    /// before its history is read: then nothing falls between the two.
    pub fn begin_channel(&self, channel: i64, pts: i32) {
        self.begun_channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((channel, pts));
        self.nudge.notify_one();
    }

    pub(super) fn take_begun_channels(&self) -> Vec<(i64, i32)> {
        std::mem::take(&mut *self.begun_channels.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn take_hung_up(&self) -> bool {
        self.hung_up.swap(false, Ordering::AcqRel)
    }

    /// Returns when the reader of the updates has something to do that did not come with an update.
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.settings.recorder
    }

    pub(super) fn silence(&self) -> Duration {
        self.settings.silence
    }

    /// Calls Telegram once, in the home data centre, within the deadline. No answer but [`CallError::Rpc`] and
    /// [`CallError::LeaseLost`] says that nothing happened.
    pub async fn call<R: RemoteCall>(&self, request: &R) -> Result<R::Return, CallError> {
        self.call_noting(request, &AtomicBool::new(false)).await
    }

    /// [`Connection::call`] that notes when the request is handed in: until then it certainly has not left.
    pub async fn call_noting<R: RemoteCall>(
        &self,
        request: &R,
        handed_in: &AtomicBool,
    ) -> Result<R::Return, CallError> {
        self.call_within(request, handed_in, self.settings.call_deadline).await
    }

    async fn call_within<R: RemoteCall>(
        &self,
        request: &R,
        handed_in: &AtomicBool,
        deadline: Duration,
    ) -> Result<R::Return, CallError> {
        if let Some(incident) = self.incident.borrow().as_ref() {
            return Err(CallError::SessionLost(incident.reason().to_owned()));
        }
        if self.stop.is_cancelled() || !self.trust.holds() {
            return Err(CallError::LeaseLost);
        }
        let Some(link) = self.link.borrow().clone() else {
            return Err(match self.relay.proxy_fault() {
                Some(fault) => CallError::Proxy { fault, late: false },
                None => CallError::Disconnected(None),
            });
        };
        let dc = self.storage.home_dc();
        handed_in.store(true, Ordering::Release);
        let Ok(answer) = timeout(deadline, link.raw_invoke_in_dc(dc, request.to_bytes())).await else {
            self.hang_up(&link);
            return Err(match self.relay.proxy_fault() {
                Some(fault) => CallError::Proxy { fault, late: true },
                None => CallError::Deadline,
            });
        };
        let body = answer.map_err(|error| self.judge(error))?;
        self.note_answer();
        R::Return::from_bytes(&body).map_err(|_| CallError::Unreadable)
    }

    /// How many bytes have gone to Telegram so far.
    pub fn sent(&self) -> u64 {
        self.relay.sent()
    }

    /// Whether a call that was handed in after [`Connection::sent`] said `before`, and that grammers has given up, certainly
    /// has not left, and never will. To be certain it hangs up when nothing was sent meanwhile.
    pub async fn has_not_left(&self, before: u64) -> bool {
        self.relay.sent() == before && self.relay.settled().await == Some(before)
    }

    /// Connects another way from now on, and leaves the present one at once.
    pub fn set_proxy(&self, proxy: Option<Proxy>) {
        if self.relay.set_proxy(proxy) {
            tracing::info!(session.id = %self.storage.lease().session, "the session is connected another way");
            self.restart.notify_waiters();
        }
    }

    /// Drops the connection; the next call dials anew.
    fn hang_up(&self, link: &SenderPoolHandle) {
        tracing::warn!(session.id = %self.storage.lease().session, "no answer in time: hanging up");
        self.relay.cut();
        link.disconnect_from_dc(self.storage.home_dc());
        // grammers tells nobody, and dials again when somebody calls: whoever reads the updates does.
        self.hung_up.store(true, Ordering::Release);
        self.nudge.notify_one();
    }

    /// Turns grammers' error into ours, and notices when it says that the session is lost.
    pub(super) fn judge(&self, error: InvocationError) -> CallError {
        if let Some(loss) = self.incident_of(&error) {
            let reason = loss.reason().to_owned();
            self.condemn(loss);
            return CallError::SessionLost(reason);
        }
        match error {
            InvocationError::Rpc(error) => {
                self.note_answer();
                CallError::Rpc(error)
            }
            InvocationError::Deserialize(_) => CallError::Unreadable,
            _ if !self.trust.holds() => CallError::LeaseLost,
            other => match self.relay.proxy_fault() {
                Some(fault) => {
                    // So that it gets no jobs, and its failures are counted, until it answers again.
                    self.restart.notify_waiters();
                    CallError::Proxy { fault, late: false }
                }
                None => CallError::Disconnected(Some(other)),
            },
        }
    }

    fn incident_of(&self, error: &InvocationError) -> Option<Loss> {
        let key_is_dead = self.storage.key_was_refused()
            || matches!(
                error,
                // The session has a key, so an exchange for a new one only follows a -404; the exchange itself fails
                // on a server whose RSA key grammers does not know.
                InvocationError::Authentication(_)
                    | InvocationError::Transport(transport::Error::BadStatus { status: 404 })
            );
        if key_is_dead {
            return Some(Loss::Session(StateChange {
                to: SessionState::LoggedOut,
                reason: "AUTH_KEY_UNKNOWN".to_owned(),
                incident: None,
            }));
        }
        let InvocationError::Rpc(error) = error else {
            return None;
        };
        let (to, incident) = match Meaning::of(error) {
            Meaning::LoggedOut => (SessionState::LoggedOut, None),
            // Dead like a revoked one, but somebody must find out who used it.
            Meaning::KeyDuplicated => (SessionState::Quarantined, Some("session.auth_key_duplicated")),
            Meaning::Banned => (SessionState::Banned, None),
            Meaning::Frozen => (SessionState::Frozen, None),
            Meaning::WrongApplication => {
                return Some(Loss::Application {
                    api_id: self.settings.api_id,
                    reason: error.name.clone(),
                });
            }
            Meaning::OtherDc if error.name == "USER_MIGRATE" => return self.moved(error.value),
            _ => return None,
        };
        Some(Loss::Session(StateChange {
            to,
            reason: error.name.clone(),
            incident,
        }))
    }

    /// Where the account lives now, if that is a place that can be followed to.
    fn moved(&self, dc: Option<u32>) -> Option<Loss> {
        let dc = i32::try_from(dc?).ok()?;
        let is_elsewhere = dc != self.storage.home_dc() && self.settings.known_dcs.contains(&dc);
        is_elsewhere.then_some(Loss::Moved { dc })
    }

    /// The session is lost: hang up for good, and let the holder write down why. The first reason stays.
    fn condemn(&self, loss: Loss) {
        match &loss {
            Loss::Session(change) => tracing::error!(
                session.id = %self.storage.lease().session, state = change.to.as_str(), reason = %change.reason,
                "the session is lost"
            ),
            Loss::Application { api_id, reason } => tracing::error!(
                session.id = %self.storage.lease().session, api_id, reason,
                "Telegram does not take the application: its sessions stop until a person resumes it"
            ),
            Loss::Moved { dc } => tracing::warn!(
                session.id = %self.storage.lease().session, dc, "the account lives in another data centre now"
            ),
        }
        self.relay.stop();
        self.stop.cancel();
        self.incident.send_if_modified(|incident| {
            let first = incident.is_none();
            if first {
                *incident = Some(loss);
            }
            first
        });
    }

    /// Hangs up at once and for good, without waiting.
    pub fn cut_off(&self) {
        self.relay.stop();
        self.stop.cancel();
    }

    /// Hangs up for good; returns when the socket is closed and the learnt peers are stored. After this, and only after
    /// this, the lease may be released.
    pub async fn close(&self) {
        self.cut_off();
        tokio::join!(self.relay.close(), self.close_elsewhere());
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            // It only ends; it returns nothing to look at, and a panic in it was logged by the runtime's hook.
            let _ = supervisor.await;
        }
        if self.trust.holds()
            && let Err(error) = self.storage.flush().await
        {
            tracing::warn!(session.id = %self.storage.lease().session, %error, "learnt peers were not stored");
        }
    }

    async fn supervise(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            self.run_once().await;
            self.ready.send_replace(false);
            self.link.send_replace(None);
            self.relay.cut();
            if started.elapsed() > HEALTHY_AFTER {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = self.stopped() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn stopped(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.trust.ended() => {}
        }
    }

    /// One life of grammers' runner and of the update stream on it.
    async fn run_once(&self) {
        let pool = SenderPool::with_configuration(Arc::clone(&self.storage), self.settings.api_id, parameters());
        let SenderPool {
            runner,
            handle,
            updates,
        } = pool;
        let mut running = tokio::spawn(runner.run());
        self.link.send_replace(Some(handle.thin.clone()));
        // Apart: what is moved, as this is, would have its room in the idle session twice.
        let work = AssertUnwindSafe(Box::pin(async {
            self.check().await;
            tokio::select! {
                () = self.flush_peers() => {}
                () = Box::pin(self.stay_healthy()) => {}
                () = Box::pin(updates::read(self, updates)) => {}
                () = self.restart.notified() => {}
            }
        }));
        tokio::select! {
            () = self.stopped() => {}
            ended = &mut running => {
                if ended.is_err_and(|error| error.is_panic()) {
                    tracing::error!(session.id = %self.storage.lease().session, "grammers' runner panicked");
                }
                return;
            }
            ended = work.catch_unwind() => {
                if ended.is_err() {
                    tracing::error!(session.id = %self.storage.lease().session, "the update stream panicked");
                }
            }
        }
        end_runner(&handle, running).await;
    }

    /// Stores learnt peers behind, a second after there are any, or as soon as there are many.
    async fn flush_peers(&self) {
        loop {
            self.storage.has_unsaved().await;
            tokio::select! {
                () = tokio::time::sleep(FLUSH) => {}
                () = self.storage.is_crowded() => {}
            }
            // Apart: an idle session should not carry the room for statements around.
            if let Err(error) = Box::pin(self.storage.flush()).await {
                tracing::warn!(session.id = %self.storage.lease().session, %error, "learnt peers were not stored");
            }
        }
    }

    /// Remembers the peers of a response.
    pub async fn learn(&self, users: &[tl::enums::User], chats: &[tl::enums::Chat]) {
        let infos = users.iter().map(PeerInfo::from).chain(chats.iter().map(PeerInfo::from));
        if let Err(error) = self.storage.learn(infos).await {
            // They stay in memory and are written with the next batch.
            tracing::warn!(session.id = %self.storage.lease().session, %error, "learnt peers were not stored");
        }
    }

    pub(super) fn catch_up(&self) -> &Arc<Semaphore> {
        &self.settings.catch_up
    }
}

async fn end_runner(handle: &SenderPoolFatHandle, mut running: JoinHandle<()>) {
    handle.quit();
    if timeout(RUNNER_END, &mut running).await.is_err() {
        // It waits for a connection that the relay has closed or will never make.
        running.abort();
        let _ = running.await;
    }
}

fn parameters() -> ConnectionParams {
    ConnectionParams {
        app_version: env!("CARGO_PKG_VERSION").to_owned(),
        device_model: "Wireroom".to_owned(),
        retry_policy: Box::new(NoRetries),
        updates_channel_capacity: NonZeroUsize::new(UPDATES).expect("it is not zero"),
        ..ConnectionParams::default()
    }
}

#[cfg(test)]
mod tests;
