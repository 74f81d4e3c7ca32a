//! Following jobs while they run. The followers of a process share one loop: it asks for all followed jobs in one statement,
//! and hears from the queue when one has finished. What a follower gets is the latest look, never a backlog: one that is
//! slow costs one look, and no connection.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    FinishedJobs, JobSignals,
    problem::{Code, Problem},
};
use crate::{
    ids::JobId,
    store::{
        PgPool, StoreError,
        attempt_reads::{self, LiveRecord},
        job_reads::{self, JobRecord},
    },
};

/// How often followed jobs are looked at.
const POLL: Duration = Duration::from_millis(250);

/// How a followed job is.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// Nobody has looked yet.
    Unseen,
    Live(Arc<LiveRecord>),
    Finished(Box<Ended>),
    /// It is not there: its retention is over.
    Gone,
}

/// A finished job; it changes no more, so two of one id are the same.
#[derive(Debug, Clone)]
pub struct Ended(pub Arc<JobRecord>);

impl PartialEq for Ended {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

/// Those who follow jobs in this process.
pub struct Followers {
    seats: Arc<Semaphore>,
    followed: Mutex<HashMap<Uuid, watch::Sender<Look>>>,
    arrived: Notify,
    closed: CancellationToken,
    poll: Duration,
}

/// One who follows one job.
pub struct Following {
    followers: Arc<Followers>,
    id: JobId,
    looks: watch::Receiver<Look>,
    _permit: OwnedSemaphorePermit,
}

impl Followers {
    /// At most `max` at a time.
    pub fn new(max: usize) -> Arc<Self> {
        Self::polling(max, POLL)
    }

    pub fn polling(max: usize, poll: Duration) -> Arc<Self> {
        Arc::new(Self {
            seats: Arc::new(Semaphore::new(max)),
            followed: Mutex::default(),
            arrived: Notify::new(),
            closed: CancellationToken::new(),
            poll,
        })
    }

    /// The right to a stream of something else than a job, or the problem that too many are open.
    pub fn seat(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let detail = "Try again later, or look from time to time instead.";
            Problem::new(Code::TooManyStreams, detail)
        })
    }

    /// Cancelled when every stream ends, since the process does.
    pub fn closing(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Every stream ends: the process does.
    pub fn is_over(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Begins to follow a job, or says that too many follow already.
    pub fn follow(self: &Arc<Self>, id: JobId) -> Result<Following, Problem> {
        let permit = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let detail = "Try again later, or look at the job from time to time instead.";
            Problem::new(Code::TooManyStreams, detail)
        })?;
        let looks = self
            .lock()
            .entry(id.0)
            .or_insert_with(|| watch::Sender::new(Look::Unseen))
            .subscribe();
        self.arrived.notify_one();
        Ok(Following {
            followers: Arc::clone(self),
            id,
            looks,
            _permit: permit,
        })
    }

    /// Looks at followed jobs until `shutdown`; then every stream ends.
    pub async fn run(self: Arc<Self>, pool: PgPool, signals: Arc<dyn JobSignals>, shutdown: CancellationToken) {
        let _closed = self.closed.clone().drop_guard();
        let mut watch = None;
        loop {
            if self.lock().is_empty() {
                watch = None;
            } else {
                // Before the look, so that nothing falls between the two.
                watch.get_or_insert_with(|| signals.watch_finished());
            }
            let ids = tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.arrived.notified() => self.ids(|look| *look == Look::Unseen),
                () = pause(self.poll, watch.is_some()) => self.ids(|look| matches!(look, Look::Unseen | Look::Live(_))),
                finished = announced(&mut watch) => {
                    let finished: HashSet<Uuid> = finished.into_iter().map(|job| job.0).collect();
                    let mut ids = self.ids(|_| true);
                    ids.retain(|id| finished.contains(id));
                    ids
                }
            };
            if let Err(error) = self.look(&pool, &ids).await {
                // Those who follow lose nothing: the next look comes soon.
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(error, "the jobs that are followed could not be looked at");
            }
        }
        self.seats.close();
        self.lock().clear();
    }

    async fn look(&self, pool: &PgPool, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let live = attempt_reads::live(pool, ids).await?;
        // What is live no more has been finished since, or before; never the other way round.
        let mut left: HashSet<Uuid> = ids.iter().copied().collect();
        for job in live {
            left.remove(&job.id.0);
            self.show(job.id.0, Look::Live(Arc::new(job)));
        }
        let rest: Vec<Uuid> = left.iter().copied().collect();
        if !rest.is_empty() {
            for job in job_reads::finished(pool, &rest).await? {
                left.remove(&job.id.0);
                self.show(job.id.0, Look::Finished(Box::new(Ended(Arc::new(job)))));
            }
        }
        for id in left {
            self.show(id, Look::Gone);
        }
        Ok(())
    }

    fn show(&self, id: Uuid, look: Look) {
        if let Some(followed) = self.lock().get(&id) {
            followed.send_if_modified(|shown| {
                let changed = *shown != look;
                *shown = look;
                changed
            });
        }
    }

    fn ids(&self, wanted: impl Fn(&Look) -> bool) -> Vec<Uuid> {
        let followed = self.lock();
        let ids = followed.iter().filter(|(_, looks)| wanted(&looks.borrow()));
        ids.map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Look>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Following {
    /// The job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The latest look.
    pub fn look(&mut self) -> Look {
        self.looks.borrow_and_update().clone()
    }

    /// Resolves when there is another look; `false` when the process ends.
    pub async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.looks.changed() => changed.is_ok(),
            () = self.followers.closed.cancelled() => false,
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followed = self.followers.lock();
        // This one still counts.
        if followed
            .get(&self.id.0)
            .is_some_and(|looks| looks.receiver_count() <= 1)
        {
            followed.remove(&self.id.0);
            // So that nobody is listened for any longer.
            self.followers.arrived.notify_one();
        }
    }
}

async fn pause(poll: Duration, anybody: bool) {
    if anybody {
        tokio::time::sleep(poll).await;
    } else {
        std::future::pending::<()>().await;
    }
}

/// The next announcement of finished jobs, as far as anybody listens.
async fn announced(watch: &mut Option<Box<dyn FinishedJobs>>) -> Vec<JobId> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}
