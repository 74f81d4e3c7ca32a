//! The HTTP side: routes, keys, errors, the document. It holds no Telegram connection, so nothing on that side can take it
//! down. One file per resource, with its errors and its tests.

mod applications;
mod audit;
mod auth;
mod batches;
mod campaigns;
mod chat_scans;
mod chats;
mod docs;
mod document;
mod events;
mod files;
mod floods;
mod follow;
mod health;
mod home;
mod idempotency;
mod jobs;
mod limits;
mod logins;
mod outreach;
mod page;
mod pauses;
mod people;
mod pools;
mod prefer;
mod problem;
mod routes;
mod rows;
mod schedules;
mod sent;
mod session_caps;
mod session_health;
mod sessions;
mod shape;
mod shell;
mod subscriptions;
mod table;
mod templates;
#[cfg(test)]
mod tests;
mod typed;
mod wait;
mod watches;
mod workers;

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt};
use poem::{Endpoint, EndpointExt, Request, Response, Route, Server, listener::TcpAcceptor};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use wireroom_jobs::ports::Clock;

pub use self::document::{document, document_text};
use self::{
    auth::Authenticator,
    follow::Followers,
    jobs::{Gather, PACE, Pace},
    problem::Problem,
    routes::Routes,
    shell::Shell,
    wait::Waiters,
};
use crate::{
    config::Config,
    files::Files,
    ids::JobId,
    store::{PgPool, jobs::NewJob, notifications::Ring},
};

/// How long a connection may be silent: longer than the longest wait, so that only dead ones are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a client may leave unread what was sent to it.
const STALLED: Duration = Duration::from_mins(1);

/// What the API tells the queue, and hears from it. No call may block. Each may be lost: the queue polls, and so do waiters.
pub trait JobSignals: Send + Sync {
    /// A notification for the transaction that is about to store these jobs, if one is to go along.
    fn ring(&self, jobs: &[NewJob]) -> Option<Ring>;
    /// Jobs were stored, and that is committed, with the ring that went along.
    fn enqueued(&self, jobs: &[NewJob], ring: Option<&Ring>);
    /// A running job is to stop, and that is committed.
    fn cancelled(&self, job: JobId);
    /// Jobs that wait were made or changed otherwise than by an enqueue, and that is committed.
    fn changed(&self);
    /// A pause or a limit was changed, and that is committed.
    fn control_changed(&self);
    /// A session was changed in a way that its holder must know of, and that is committed.
    fn sessions_changed(&self);
    /// Something was asked of the workers for a session, and that is committed.
    fn errand_asked(&self);
    /// A subscription was made, and that is committed: workers begin to look after subscriptions with the first.
    fn events_asked(&self);
    /// Jobs were finished by the API: cancelled while they waited.
    fn finished(&self, jobs: &[JobId]);
    /// Begins to hear of finished jobs; held only while somebody waits for one.
    fn watch_finished(&self) -> Box<dyn FinishedJobs>;
    /// How far the log of events goes, as far as this process has heard: mostly at once, within seconds if a notification was lost.
    fn logged_events(&self) -> watch::Receiver<i64>;
}

/// Announcements of finished jobs.
#[async_trait]
pub trait FinishedJobs: Send {
    /// The jobs of the next announcement; none when announcements were missed. May be dropped half-way without losing one.
    async fn next(&mut self) -> Vec<JobId>;
}

/// What the API stands on.
#[derive(Clone)]
pub struct ApiDeps {
    pub pool: PgPool,
    pub config: Config,
    pub signals: Arc<dyn JobSignals>,
    pub clock: Arc<dyn Clock>,
}

/// What handlers share.
struct State {
    pool: PgPool,
    config: Config,
    signals: Arc<dyn JobSignals>,
    clock: Arc<dyn Clock>,
    authenticator: Authenticator,
    waiters: Arc<Waiters>,
    gather: Gather,
    /// Batches that may come in at a time.
    batches: Semaphore,
    followers: Arc<Followers>,
    pace: Pace,
    routes: Routes,
    files: Files,
}

impl State {
    fn new(deps: ApiDeps) -> Arc<Self> {
        Arc::new(Self {
            authenticator: Authenticator::new(deps.pool.clone(), Arc::clone(&deps.clock)),
            waiters: Waiters::new(deps.config.api.max_waiters),
            gather: Gather::new(&deps.pool),
            batches: Semaphore::new(jobs::batches::AT_A_TIME),
            followers: Followers::new(deps.config.api.max_streams),
            pace: PACE,
            routes: Routes::of(&document()),
            files: Files::new(deps.config.files.clone(), deps.pool.clone()),
            pool: deps.pool,
            config: deps.config,
            signals: deps.signals,
            clock: deps.clock,
        })
    }

    fn of(request: &Request) -> Result<&Arc<Self>, Problem> {
        request
            .data::<Arc<Self>>()
            .ok_or_else(|| Problem::internal("a request came past the shell"))
    }
}

/// Serves the API on `listener` until `shutdown`; then no connection is taken, waits end with what is known, and requests
/// in progress have `WIREROOM_SHUTDOWN_SOFT_SECONDS` to finish.
pub async fn serve(deps: ApiDeps, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    give_up_on_the_silent(&listener, STALLED)?;
    let state = State::new(deps);
    let grace = state.config.queue.shutdown_soft;
    let waiters =
        tokio::spawn(Arc::clone(&state.waiters).run(state.pool.clone(), Arc::clone(&state.signals), shutdown.clone()));
    let followers = tokio::spawn(Arc::clone(&state.followers).run(
        state.pool.clone(),
        Arc::clone(&state.signals),
        shutdown.clone(),
    ));
    let sweeper = {
        let state = Arc::clone(&state);
        tokio::spawn(async move { tokio::join!(state.files.keep_sweeping(), state.files.keep_erasing()) })
    };
    let served = Server::new_with_acceptor(TcpAcceptor::from_tokio(listener)?)
        .idle_timeout(IDLE_TIMEOUT)
        .run_with_graceful_shutdown(app(state), shutdown.cancelled(), Some(grace))
        .await;
    sweeper.abort();
    waiters.abort();
    followers.abort();
    served
}

/// Connections whose client takes nothing for `bound` are ended by the kernel: one that neither reads nor goes would be kept
/// for ever, since hyper has no timeout for writing. Accepted connections have it from their listener.
#[cfg(target_os = "linux")]
fn give_up_on_the_silent(listener: &TcpListener, bound: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(bound.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(listener, sockopt::TcpUserTimeout, &milliseconds)?)
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn give_up_on_the_silent(_: &TcpListener, _: Duration) -> io::Result<()> {
    Ok(())
}

fn app(state: Arc<State>) -> impl Endpoint<Output = Response> {
    let service = document::service();
    let routes = Route::new()
        .at("/docs", poem::get(docs::page(&service)))
        .at("/openapi.json", poem::get(docs::endpoint()))
        .nest("/", home::before(service));
    Shell::new(routes.map_to_response(), state)
}
