//! The loops beside the dispatcher: heartbeats, starts, cancels, rescue, and the housekeeping of finished work. Each takes
//! its rows with SKIP LOCKED, so any number of processes may run them, and none of them leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{broadcast::error::RecvError, watch};

use super::{
    flights::Flights,
    housekeeping::{erase_people, keep_house},
    outage::Outage,
    rounds,
    waker::Waker,
};
use crate::{
    config::QueueConfig,
    ids::JobId,
    store::{
        PgPool, StoreError, claims, completions,
        line::{Line, bounded},
        rescue::{self, RescueLimits},
        watch_moves,
        workers::{self, WorkerFacts, WorkerState},
    },
};

/// An attempt that ends sooner needs no write for its start.
const START_DELAY: Duration = Duration::from_millis(20);
/// Workers that may die under one job.
const MOST_CRASHES: i16 = 3;
/// Most rows of one statement.
const BATCH: i64 = 500;
const LOOK_FOR_UNKNOWN_KINDS_EVERY: Duration = Duration::from_mins(1);
const LOOK_FOR_ERASURES_EVERY: Duration = Duration::from_secs(10);
/// A round may be so much late: what is looked at counts up for hours.
const LOOK_FOR_ROUNDS_EVERY: Duration = Duration::from_secs(10);
const HOUSEKEEPING_EVERY: Duration = Duration::from_hours(1);
const HOUSEKEEPING_AGAIN: Duration = Duration::from_secs(30);

/// What the loops share.
#[derive(Clone)]
pub struct Upkeep {
    pub pool: PgPool,
    pub config: QueueConfig,
    pub worker: Arc<WorkerFacts>,
    pub state: watch::Receiver<WorkerState>,
    pub flights: Arc<Flights>,
    pub waker: Waker,
    pub outage: Outage,
    pub in_doubt: Arc<AtomicBool>,
    /// What the last promotion said: in an idle queue nobody can be rescued, and nothing is asked.
    pub rescue_wanted: Arc<AtomicBool>,
}

impl Upkeep {
    /// Beats, and stops the attempts that a beat says are not wanted any more.
    pub async fn heartbeats(mut self) {
        let mut failures = 0;
        loop {
            match self.beat().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    self.outage.failed(&error, failures).await;
                    failures += 1;
                    continue;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.heartbeat) => {}
                changed = self.state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One beat with the state of the moment.
    pub async fn beat(&mut self) -> Result<(), StoreError> {
        let state = *self.state.borrow_and_update();
        let running = self.flights.keys();
        let mut line = Line::new(self.pool.clone());
        let beat = async {
            bounded(
                "beat",
                workers::beat(line.open("beat").await?, &self.worker, state, &running),
            )
            .await
        };
        let unwanted = beat.await.inspect_err(|_| line.hang_up())?;
        drop(line);
        self.outage.worked();
        for attempt in unwanted {
            if attempt.lost {
                tracing::debug!(job.id = %attempt.id, fence = attempt.fence, "the job is not this attempt's any more");
            }
            self.flights.cancel((attempt.id, attempt.fence));
        }
        Ok(())
    }

    /// Writes the starts of attempts that did not end at once.
    pub async fn starts(self) {
        let mut line = Line::new(self.pool.clone());
        loop {
            let started = self.flights.starts_to_store(START_DELAY).await;
            if started.is_empty() {
                continue;
            }
            let stored = async { bounded("start", claims::start(line.open("start").await?, &started)).await };
            if let Err(error) = stored.await {
                line.hang_up();
                self.flights.starts_not_stored(started);
                self.outage.failed(&error, 0).await;
            }
        }
    }

    /// Stops attempts whose job is being cancelled, as soon as it is announced; the beat finds what is not.
    pub async fn cancels(self) {
        let mut cancels = self.waker.cancels();
        loop {
            match cancels.recv().await {
                Ok(id) => self.flights.cancel_job(id),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Takes orphans back, and fails what is past its deadline or bound to a lost session.
    pub async fn rescues(self) {
        let mut failures = 0;
        loop {
            match self.rescue().await {
                Ok(full) => {
                    failures = 0;
                    if full {
                        continue;
                    }
                }
                Err(error) => {
                    self.outage.failed(&error, failures).await;
                    failures += 1;
                    continue;
                }
            }
            tokio::time::sleep(self.config.heartbeat).await;
        }
    }

    /// One pass; tells whether a batch was full, so that there may be more.
    async fn rescue(&self) -> Result<bool, StoreError> {
        if !self.rescue_wanted.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut line = Line::new(self.pool.clone());
        self.rescue_over(&mut line).await.inspect_err(|_| line.hang_up())
    }

    async fn rescue_over(&self, line: &mut Line) -> Result<bool, StoreError> {
        let limits = RescueLimits {
            worker_dead: self.config.worker_dead,
            crashes: MOST_CRASHES,
            batch: BATCH,
        };
        let conn = line.open("rescue_orphans").await?;
        let mut orphans = bounded("rescue_orphans", rescue::rescue_orphans(conn, limits)).await?;
        if self.in_doubt.load(Ordering::Acquire) {
            let known = self.flights.keys();
            let unknown = rescue::return_unknown(conn, self.worker.id, &known, self.config.worker_dead);
            let (returned, in_doubt) = bounded("return_unknown", unknown).await?;
            self.in_doubt.store(in_doubt, Ordering::Release);
            orphans.extend(returned);
        }
        for orphan in &orphans {
            tracing::warn!(
                job.id = %orphan.id,
                worker.id = orphan.worker.map(tracing::field::display),
                session.id = orphan.session.map(tracing::field::display),
                became = orphan.became,
                "took a job back from a worker that lost it"
            );
        }
        let late = bounded("fail_past_deadline", completions::fail_past_deadline(conn, BATCH)).await?;
        let lost = bounded(
            "fail_jobs_of_lost_sessions",
            rescue::fail_jobs_of_lost_sessions(conn, BATCH),
        )
        .await?;
        let watches = bounded("leave_lost_sessions", watch_moves::leave_lost_sessions(conn, BATCH)).await?;
        let abandoned = rescue::abandon_cancelled(conn, self.config.cancel_wait, BATCH);
        let abandoned = bounded("abandon_cancelled", abandoned).await?;
        for id in &abandoned {
            tracing::warn!(job.id = %id, "a cancelled job did not stop in time; its attempt was abandoned");
        }
        if !orphans.is_empty() || watches.moved > 0 {
            self.waker.ready();
        }
        let ended = orphans.iter().filter(|orphan| orphan.became != "queued");
        let ended: Vec<JobId> = ended.map(|orphan| orphan.id).collect();
        for ids in [&ended, &late, &lost, &watches.ended, &abandoned] {
            self.waker.finished(ids);
        }
        let batch = usize::try_from(BATCH).unwrap_or(usize::MAX);
        Ok([orphans.len(), late.len(), lost.len(), abandoned.len()]
            .into_iter()
            .any(|count| count >= batch))
    }

    /// Reports ready jobs of kinds that this version does not know, whenever their kinds change: they are left to a newer
    /// worker, and if there is none, a person must know.
    pub async fn unknown_kinds(self) {
        let mut reported = Vec::new();
        loop {
            tokio::time::sleep(LOOK_FOR_UNKNOWN_KINDS_EVERY).await;
            let mut line = Line::new(self.pool.clone());
            let look = async {
                bounded(
                    "unknown_kinds",
                    claims::unknown_kinds(line.open("unknown_kinds").await?),
                )
                .await
            };
            // A database that is away is reported by the others.
            let Ok(unknown) = look.await.inspect_err(|_| line.hang_up()) else {
                continue;
            };
            let kinds: Vec<String> = unknown.iter().map(|(kind, _)| kind.clone()).collect();
            if kinds != reported {
                for (kind, jobs) in unknown {
                    tracing::warn!(
                        job.kind = kind,
                        jobs,
                        "ready jobs of an unknown kind wait for a newer worker"
                    );
                }
                reported = kinds;
            }
        }
    }

    /// Erasures of people that were more than a request could do.
    pub async fn erasures(self) {
        loop {
            if let Err(error) = erase_people(&self.pool).await {
                if error.is_closed() {
                    return;
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a person's erasure does not go on; trying again soon"
                );
            }
            tokio::time::sleep(LOOK_FOR_ERASURES_EVERY).await;
        }
    }

    /// Makes the jobs that look at what was published, each time they are due.
    pub async fn statistics(self) {
        loop {
            tokio::time::sleep(LOOK_FOR_ROUNDS_EVERY).await;
            if let Err(error) = rounds::begin_due(&self.pool, self.config.ageing_step, &self.waker).await {
                if error.is_closed() {
                    return;
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "rounds of statistics are not begun; trying again soon"
                );
            }
        }
    }

    /// Partitions ahead, and the removal of what is kept long enough: at the start of a process, then each hour.
    pub async fn housekeeping(self) {
        loop {
            let failures = keep_house(&self.pool, self.config.retention_days).await;
            tokio::time::sleep(if failures == 0 {
                HOUSEKEEPING_EVERY
            } else {
                HOUSEKEEPING_AGAIN
            })
            .await;
        }
    }
}
