//! The queue: Postgres holds the jobs (`store`), one dispatcher per process promotes and claims, one apalis worker per
//! process runs, one batcher stores how attempts ended. DESIGN §4 says why; each module says how.
//!
//! The way of a job: `store::jobs::enqueue` → [`Waker`] → `dispatcher` (`plan`, `store::claims`) → `backend` (apalis) →
//! `layers` → [`Runner`] → `endings` → `batcher` (`store::completions`). Beside it `upkeep` beats and rescues, `housekeeping`
//! tidies, `cleaning` vacuums, and `cron` enqueues the jobs of schedules.

mod backend;
mod backoff;
mod batcher;
mod cleaning;
mod control;
mod cron;
mod dispatcher;
mod endings;
mod flights;
mod housekeeping;
mod layers;
mod outage;
mod plan;
mod ports;
mod rounds;
mod upkeep;
mod waker;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

pub use backoff::{Random, SystemRandom};
pub use housekeeping::keep_house;
pub use ports::{Attempt, ClaimedJob, HeldSession, Runner, Sessions, Slots, decode_args};
pub use rounds::begin_due as begin_rounds;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
pub use waker::{FinishedWatch, Waker};
use wireroom_jobs::{JobKind, Lane};

use self::{
    backend::ClaimedJobs,
    batcher::{Batcher, Endings},
    cleaning::clean,
    cron::Ticker,
    dispatcher::Dispatcher,
    flights::Flights,
    housekeeping::DAYS_AHEAD,
    layers::{AttemptTimeoutLayer, Caller, ConcludeLayer, Conclusion, Route},
    upkeep::Upkeep,
};
use crate::{
    config::QueueConfig,
    store::{
        self, PgPool, StoreError,
        line::{Line, queue_pool},
        partitions,
        workers::{WorkerFacts, WorkerState},
    },
};

/// What a queue is made of.
pub struct QueueDeps {
    pub pool: PgPool,
    pub config: QueueConfig,
    /// The process's bell, shared with whoever enqueues in it.
    pub waker: Waker,
    /// This start of this process; the owner of its leases.
    pub worker: WorkerFacts,
    pub sessions: Arc<dyn Sessions>,
    pub runner: Arc<dyn Runner>,
    pub random: Arc<dyn Random>,
}

/// Starts queues.
pub struct Queue;

impl Queue {
    /// Makes the partitions and the worker's row, then starts the loops. Fails when the database does not answer: a
    /// process that is not ready claims nothing.
    pub async fn start(deps: QueueDeps) -> Result<QueueHandle, StoreError> {
        Self::start_with(deps, JobKind::attempt_timeout).await
    }

    /// [`Queue::start`] with other limits for attempts than the kinds' own: for tests, which cannot wait that long.
    pub async fn start_with(
        deps: QueueDeps,
        attempt_timeout: fn(JobKind) -> Duration,
    ) -> Result<QueueHandle, StoreError> {
        let pool = queue_pool(&deps.pool);
        let mut conn = store::connection(&pool, "ensure_ahead").await?;
        partitions::ensure_ahead(&mut conn, DAYS_AHEAD).await?;
        drop(conn);
        let (state, state_seen) = watch::channel(WorkerState::Running);
        let flights = Arc::new(Flights::default());
        let in_doubt = Arc::new(AtomicBool::new(false));
        let rescue_wanted = Arc::new(AtomicBool::new(true));
        let ticks_due = Arc::new(Notify::new());
        let mut upkeep = Upkeep {
            pool: pool.clone(),
            config: deps.config.clone(),
            worker: Arc::new(deps.worker.clone()),
            state: state_seen,
            flights: flights.clone(),
            waker: deps.waker.clone(),
            outage: deps.waker.outage(),
            in_doubt: in_doubt.clone(),
            rescue_wanted: rescue_wanted.clone(),
        };
        upkeep.beat().await?;

        let loops = CancellationToken::new();
        let claims = loops.child_token();
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            tokio::spawn(loops.clone().run_until_cancelled_owned(task));
        };
        spawn(Box::pin(upkeep.clone().heartbeats()));
        spawn(Box::pin(upkeep.clone().starts()));
        spawn(Box::pin(upkeep.clone().cancels()));
        spawn(Box::pin(upkeep.clone().rescues()));
        spawn(Box::pin(upkeep.clone().unknown_kinds()));
        spawn(Box::pin(upkeep.clone().housekeeping()));
        spawn(Box::pin(upkeep.clone().erasures()));
        spawn(Box::pin(upkeep.clone().statistics()));
        let ticker = Ticker {
            pool: pool.clone(),
            poll: deps.config.poll,
            due: ticks_due.clone(),
            ageing_step: deps.config.ageing_step,
            waker: deps.waker.clone(),
            outage: deps.waker.outage(),
        };
        // A process that is stopping leaves ticks to the others, like claims.
        tokio::spawn(claims.clone().run_until_cancelled_owned(ticker.run()));
        let (endings, batcher) = Batcher::new(pool.clone(), deps.waker.clone(), deps.config.ageing_step);
        spawn(Box::pin(batcher.run()));
        spawn(Box::pin(clean(pool.clone(), endings.clone(), deps.config.vacuum_after)));

        let (jobs, claimed) = tokio::sync::mpsc::unbounded_channel();
        let conclude = ConcludeLayer(Arc::new(Conclusion {
            endings: endings.clone(),
            flights: flights.clone(),
            random: deps.random.clone(),
        }));
        let route = Route(Arc::new(Caller {
            pool: pool.clone(),
            runner: deps.runner,
            flights: flights.clone(),
            outage: deps.waker.outage(),
            grace: deps.config.shutdown_hard,
        }));
        let timeout = AttemptTimeoutLayer { limit: attempt_timeout };
        let apalis = backend::run(deps.worker.id, ClaimedJobs::new(claimed), conclude, timeout, route);
        let apalis = tokio::spawn(async move {
            if let Err(error) = apalis.await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the apalis worker ended by itself"
                );
            }
        });
        let dispatcher = Dispatcher {
            line: Line::new(pool.clone()),
            config: deps.config.clone(),
            worker: deps.worker.id,
            sessions: deps.sessions,
            flights: flights.clone(),
            endings: endings.clone(),
            jobs,
            outage: deps.waker.outage(),
            waker: deps.waker,
            random: deps.random,
            in_doubt,
            rescue_wanted,
            ticks_due,
            stop: claims.clone(),
        };
        // It ends by its own stop, between two statements: never in the middle of a claim.
        tokio::spawn(dispatcher.run());
        Ok(QueueHandle {
            config: deps.config,
            claims,
            hurry: CancellationToken::new(),
            state,
            flights,
            endings,
            upkeep,
            apalis,
            pool,
            loops: loops.drop_guard(),
        })
    }
}

/// A running queue. Dropped without [`QueueHandle::shutdown`] its loops end at once, as in a crash.
pub struct QueueHandle {
    config: QueueConfig,
    claims: CancellationToken,
    hurry: CancellationToken,
    state: watch::Sender<WorkerState>,
    flights: Arc<Flights>,
    endings: Endings,
    upkeep: Upkeep,
    apalis: JoinHandle<()>,
    pool: PgPool,
    loops: DropGuard,
}

impl QueueHandle {
    /// Jobs in this process's hands.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// A token that, when cancelled, turns a soft shutdown into a hard one: the second signal.
    pub fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Claims nothing more, from now on.
    pub fn stop_claims(&self) {
        self.claims.cancel();
        self.state.send_replace(WorkerState::Draining);
    }

    /// Stops in two steps. Soft: nothing is claimed, `watch` jobs are handed over, others may finish. Hard, after the
    /// configured time or [`QueueHandle::hurry`]: what still runs is asked to stop and handed over, its attempt refunded.
    /// Then the ends are stored and the worker's row says `stopped`. Call it before leases are released.
    pub async fn shutdown(mut self) {
        self.stop_claims();
        self.flights.cancel_all(Some(Lane::Watch));
        tokio::select! {
            _ = tokio::time::timeout(self.config.shutdown_soft, self.flights.none_left()) => {}
            () = self.hurry.cancelled() => {}
        }
        self.flights.cancel_all(None);
        // A function that ignores the token is dropped after `shutdown_hard`; what follows takes a moment more.
        let hard = self.config.shutdown_hard + Duration::from_millis(500);
        if tokio::time::timeout(hard, self.flights.none_left()).await.is_err() {
            tracing::warn!(
                jobs = self.flights.len(),
                "jobs did not stop; another worker takes them over"
            );
        }
        if tokio::time::timeout(hard, &mut self.apalis).await.is_err() {
            self.apalis.abort();
        }
        if tokio::time::timeout(hard, self.endings.all_stored()).await.is_err() {
            tracing::warn!(
                ends = self.endings.waiting(),
                "not every end could be stored; another worker takes the jobs over"
            );
        }
        self.state.send_replace(WorkerState::Stopped);
        if let Err(error) = self.upkeep.beat().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the worker's row could not be marked as stopped"
            );
        }
        // The loops let go of their connections first.
        drop(self.loops);
        let _ = tokio::time::timeout(hard, self.pool.close()).await;
    }
}
