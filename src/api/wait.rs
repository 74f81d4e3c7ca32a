//! Waiting for a job's result as for a function's. The waiters of a process share one listener and one statement, hold no
//! connection, and are bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    FinishedJobs, JobSignals,
    problem::{Code, Problem},
};
use crate::{
    ids::JobId,
    store::{
        PgPool,
        job_reads::{self, JobRecord},
    },
};

/// How often the database is asked when few wait: the net under announcements that do not come.
const POLL: Duration = Duration::from_millis(20);

/// Each further waiter makes the statement dearer, so it runs less often.
const POLL_PER_WAITER: Duration = Duration::from_micros(250);

const MAX_POLL: Duration = Duration::from_millis(250);

/// Those who wait for jobs in this process.
pub struct Waiters {
    seats: Arc<Semaphore>,
    waiting: Mutex<HashMap<Uuid, Vec<oneshot::Sender<JobRecord>>>>,
    arrived: Notify,
    poll: Duration,
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
    /// At most `max` who wait at a time.
    pub fn new(max: usize) -> Arc<Self> {
        Self::polling(max, POLL)
    }

    fn polling(max: usize, poll: Duration) -> Arc<Self> {
        Arc::new(Self {
            seats: Arc::new(Semaphore::new(max)),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            poll,
        })
    }

    /// A seat, or the problem that none is free.
    pub fn seat(self: &Arc<Self>) -> Result<Seat, Problem> {
        self.seat_or("Try again, or leave Prefer: wait out and look at the job later. No job was made.")
    }

    /// A seat, or the problem that none is free, with what to do then.
    pub fn seat_or(self: &Arc<Self>, detail: &str) -> Result<Seat, Problem> {
        let permit = Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| Problem::new(Code::TooManyWaiters, detail))?;
        Ok(Seat {
            waiters: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Nobody waits any longer: the process ends.
    pub fn is_over(&self) -> bool {
        self.seats.is_closed()
    }

    /// Brings results to those who wait, until `shutdown`; then nobody waits any longer.
    pub async fn run(self: Arc<Self>, pool: PgPool, signals: Arc<dyn JobSignals>, shutdown: CancellationToken) {
        let mut watch = None;
        loop {
            let waited_for = self.ids();
            if waited_for.is_empty() {
                watch = None;
            } else {
                // Before the look, so that nothing falls between the two.
                watch.get_or_insert_with(|| signals.watch_finished());
                self.bring(&pool, &waited_for).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.arrived.notified() => {}
                () = until(poll_pause(self.poll, waited_for.len())) => {}
                jobs = announced(&mut watch) => {
                    let jobs = self.only_waited_for(&jobs);
                    self.bring(&pool, &jobs).await;
                }
            }
        }
        self.lock().clear();
        self.seats.close();
    }

    async fn bring(&self, pool: &PgPool, ids: &[Uuid]) {
        if ids.is_empty() {
            return;
        }
        match job_reads::finished(pool, ids).await {
            Ok(jobs) => jobs.into_iter().for_each(|job| self.deliver(&job)),
            // Those who wait lose nothing: the next poll asks again.
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(error, "the jobs that are waited for could not be looked at");
            }
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

    fn only_waited_for(&self, jobs: &[JobId]) -> Vec<Uuid> {
        let waiting = self.lock();
        let ids = jobs.iter().map(|job| job.0);
        ids.filter(|id| waiting.contains_key(id)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<oneshot::Sender<JobRecord>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Begins to wait: before the job's transaction commits, so that an announcement is heard.
    pub fn wait_for(self, id: JobId) -> Waiting {
        let (sender, result) = oneshot::channel();
        self.waiters.lock().entry(id.0).or_default().push(sender);
        self.waiters.arrived.notify_one();
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
                // So that nobody is listened for any longer.
                self.seat.waiters.arrived.notify_one();
            }
        }
    }
}

fn poll_pause(least: Duration, waiters: usize) -> Option<Duration> {
    let waiters = u32::try_from(waiters).unwrap_or(u32::MAX);
    (waiters > 0).then(|| least.max(POLL_PER_WAITER.saturating_mul(waiters).min(MAX_POLL)))
}

async fn until(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The next announcement of jobs that are waited for, as far as anybody listens.
async fn announced(watch: &mut Option<Box<dyn FinishedJobs>>) -> Vec<JobId> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::bed::TestApi;

    #[test]
    fn polling_slows_down_with_the_number_of_waiters() {
        assert_eq!(poll_pause(POLL, 0), None);
        assert_eq!(poll_pause(POLL, 1), Some(POLL));
        assert!(poll_pause(POLL, 400) > Some(POLL));
        assert_eq!(poll_pause(POLL, 100_000), Some(MAX_POLL));
    }

    #[tokio::test]
    async fn an_announcement_brings_the_result_without_a_poll() {
        let api = TestApi::new().await;
        let waiters = Waiters::polling(10, Duration::from_hours(1));
        let signals = Arc::clone(&api.signals);
        let shutdown = CancellationToken::new();
        let _stop = shutdown.clone().drop_guard();
        tokio::spawn(Arc::clone(&waiters).run(
            api.pool().clone(),
            Arc::clone(&signals) as Arc<dyn JobSignals>,
            shutdown,
        ));
        // Several, since the first look of one may come late enough to find its job.
        for _ in 0..10 {
            let id = api.stored_job().await;
            let waiting = waiters.seat().expect("a seat").wait_for(id);
            let worker = async {
                while signals.finished.receiver_count() == 0 {
                    tokio::task::yield_now().await;
                }
                api.finish(id).await;
                signals.finished(&[JobId::generate(), id]);
            };
            let (result, ()) = tokio::join!(waiting.result(Duration::from_secs(10)), worker);
            assert_eq!(result.expect("a result in time").id, id);
        }
        let unheard = async {
            while signals.finished.receiver_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        // With nobody waiting, workers need announce nothing.
        waiters.arrived.notify_one();
        tokio::time::timeout(Duration::from_secs(10), unheard)
            .await
            .expect("the watch is given up");
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
