//! Waiting for a job's result as for a function's. The waiters of a process share one listener and one statement, hold no
//! connection, and are bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::problem::{Code, Problem};
use crate::{
    ids::JobId,
    store::{
        PgPool, StoreError,
        finished::{self, FinishedListener},
        job_reads::{self, JobRecord},
    },
};

/// How often the database is asked when few wait: the net under announcements that do not come.
const POLL: Duration = Duration::from_millis(20);

/// Each further waiter makes the statement dearer, so it runs less often.
const POLL_PER_WAITER: Duration = Duration::from_micros(250);

const MAX_POLL: Duration = Duration::from_millis(250);

/// How often those who have stopped waiting are forgotten in the database.
const SWEEP: Duration = Duration::from_secs(60);

/// How long to wait before the listener is tried again.
const LISTENER_RETRY: Duration = Duration::from_secs(1);

/// Announcements that may wait to be looked at; when they are more, polling finds the jobs.
const ANNOUNCEMENTS: usize = 1024;

/// Those who wait for jobs in this process.
pub struct Waiters {
    seats: Arc<Semaphore>,
    waiting: Mutex<HashMap<Uuid, Vec<oneshot::Sender<JobRecord>>>>,
    arrived: Notify,
}

/// The right to wait, taken before the job is stored: whoever cannot wait leaves no job behind.
pub struct Seat {
    waiters: Arc<Waiters>,
    _permit: OwnedSemaphorePermit,
}

/// One who waits for one job.
pub struct Waiting {
    seat: Seat,
    id: JobId,
    result: oneshot::Receiver<JobRecord>,
}

impl Waiters {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            seats: Arc::new(Semaphore::new(max)),
            waiting: Mutex::default(),
            arrived: Notify::new(),
        })
    }

    /// A seat, or the problem that none is free.
    pub fn seat(self: &Arc<Self>) -> Result<Seat, Problem> {
        let permit = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let detail = "Try again, or leave Prefer: wait out and look at the job later. No job was made.";
            Problem::new(Code::TooManyWaiters, detail)
        })?;
        Ok(Seat {
            waiters: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Brings results to those who wait, until `shutdown`; then nobody waits any longer.
    pub async fn run(self: Arc<Self>, pool: PgPool, shutdown: CancellationToken) {
        let mut announcements = Announcements::default();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waited_for = self.ids();
            if !waited_for.is_empty() {
                announcements.open(&pool);
                self.bring(&pool, &waited_for).await;
            }
            // Asked again: who arrived meanwhile has left a permit in `arrived`.
            let pause = poll_pause(self.ids().len());
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.arrived.notified() => {}
                () = until(pause) => {}
                _ = sweep.tick() => {
                    if let Err(error) = finished::sweep(&pool).await {
                        log_failure(&error);
                    }
                }
                ids = announcements.next() => {
                    let ids = self.only_waited_for(ids);
                    if !ids.is_empty() {
                        self.bring(&pool, &ids).await;
                    }
                }
            }
        }
        self.lock().clear();
        self.seats.close();
    }

    async fn bring(&self, pool: &PgPool, ids: &[Uuid]) {
        match job_reads::finished(pool, ids).await {
            Ok(jobs) => jobs.into_iter().for_each(|job| self.deliver(&job)),
            // Those who wait lose nothing: the next poll asks again.
            Err(error) => log_failure(&error),
        }
    }

    fn deliver(&self, job: &JobRecord) {
        for waiter in self.lock().remove(&job.id.0).unwrap_or_default() {
            // A waiter that has gone does not want it.
            let _ = waiter.send(job.clone());
        }
    }

    fn ids(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    fn only_waited_for(&self, mut ids: Vec<Uuid>) -> Vec<Uuid> {
        let waiting = self.lock();
        ids.retain(|id| waiting.contains_key(id));
        ids
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<oneshot::Sender<JobRecord>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Begins to wait. Called before the job's transaction commits, so that no announcement is missed.
    pub fn wait_for(self, id: JobId) -> Waiting {
        let (sender, result) = oneshot::channel();
        self.waiters.lock().entry(id.0).or_default().push(sender);
        Waiting { seat: self, id, result }
    }
}

impl Waiting {
    /// The finished job, or `None` when the time or the process ends first.
    pub async fn result(mut self, limit: Duration) -> Option<JobRecord> {
        // Now the job is committed: look at once.
        self.seat.waiters.arrived.notify_one();
        tokio::time::timeout(limit, &mut self.result).await.ok()?.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.result.close();
        let mut waiting = self.seat.waiters.lock();
        if let Some(others) = waiting.get_mut(&self.id.0) {
            others.retain(|other| !other.is_closed());
            if others.is_empty() {
                waiting.remove(&self.id.0);
            }
        }
    }
}

fn poll_pause(waiters: usize) -> Option<Duration> {
    let waiters = u32::try_from(waiters).unwrap_or(u32::MAX);
    (waiters > 0).then(|| (POLL + POLL_PER_WAITER.saturating_mul(waiters)).min(MAX_POLL))
}

async fn until(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn log_failure(error: &StoreError) {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::debug!(error, "the jobs that are waited for could not be looked at");
}

fn log_deafness(error: &StoreError) {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(error, "no announcements of finished jobs: results come by polling");
}

/// The listener, in a task of its own: reading from it must not be cut off half-way.
#[derive(Default)]
struct Announcements {
    ids: Option<mpsc::Receiver<Vec<Uuid>>>,
}

impl Announcements {
    /// Starts the listener unless it runs.
    fn open(&mut self, pool: &PgPool) {
        if self.ids.is_none() {
            let (sender, receiver) = mpsc::channel(ANNOUNCEMENTS);
            tokio::spawn(listen(pool.clone(), sender));
            self.ids = Some(receiver);
        }
    }

    async fn next(&mut self) -> Vec<Uuid> {
        let Some(ids) = &mut self.ids else {
            return std::future::pending().await;
        };
        // The task ends with its receiver only; without it polling goes on.
        ids.recv().await.unwrap_or_default()
    }
}

async fn listen(pool: PgPool, announcements: mpsc::Sender<Vec<Uuid>>) {
    loop {
        let heard = tokio::select! {
            () = announcements.closed() => return,
            heard = listen_once(&pool, &announcements) => heard,
        };
        let Err(error) = heard;
        log_deafness(&error);
        tokio::select! {
            () = announcements.closed() => return,
            () = tokio::time::sleep(LISTENER_RETRY) => {}
        }
    }
}

async fn listen_once(
    pool: &PgPool,
    announcements: &mpsc::Sender<Vec<Uuid>>,
) -> Result<std::convert::Infallible, StoreError> {
    let mut listener = FinishedListener::listen(pool).await?;
    loop {
        let ids = listener.next().await?;
        // Full: polling finds them.
        let _ = announcements.try_send(ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_slows_down_with_the_number_of_waiters() {
        assert_eq!(poll_pause(0), None);
        assert!(poll_pause(1).expect("somebody waits") < Duration::from_millis(25));
        assert_eq!(poll_pause(100_000), Some(MAX_POLL));
    }

    #[tokio::test]
    async fn seats_are_bounded_and_given_back() {
        let waiters = Waiters::new(1);
        let seat = waiters.seat().expect("the first");
        assert_eq!(
            waiters.seat().err().map(|problem| problem.code()),
            Some(Code::TooManyWaiters)
        );
        let waiting = seat.wait_for(JobId::generate());
        assert_eq!(waiters.ids().len(), 1);
        drop(waiting);
        assert!(waiters.ids().is_empty());
        assert!(waiters.seat().is_ok());
    }
}
