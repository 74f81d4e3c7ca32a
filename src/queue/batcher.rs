//! Stores the ends of attempts, many in one statement. While one batch is being stored the next one gathers, so a lone end
//! never waits and a flood of them costs few statements. What cannot be stored because the database is away is kept and
//! tried again; meanwhile nothing is claimed, so that is bounded by the slots.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    endings::{self, Ending},
    outage::Outage,
    waker::Waker,
};
use crate::store::{
    PgPool, StoreError,
    completions::{self, Finish, GoBack},
    line::{Line, bounded},
};

/// Most ends of one statement.
const BATCH: usize = 1000;

/// An end and the session's token, which is held until the end is stored.
pub struct Ended {
    pub ending: Ending,
    pub in_use: Option<TaskTrackerToken>,
}

/// Where ends are handed in.
#[derive(Clone)]
pub struct Endings {
    queue: mpsc::UnboundedSender<Ended>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    waiting: AtomicUsize,
    in_all: AtomicU64,
    stored: Notify,
}

impl Endings {
    pub fn push(&self, ended: Ended) {
        self.state.waiting.fetch_add(1, Ordering::AcqRel);
        // The batcher goes last; an end that comes even later is rescued by another worker.
        let _ = self.queue.send(ended);
    }

    /// Ends that are not stored yet.
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::Acquire)
    }

    /// Ends that this process has stored so far.
    pub fn stored(&self) -> u64 {
        self.state.in_all.load(Ordering::Relaxed)
    }

    /// Resolves when every end that was handed in is stored.
    pub async fn all_stored(&self) {
        self.at_most(0).await;
    }

    /// Resolves when no more than `most` ends are not stored yet.
    pub async fn at_most(&self, most: usize) {
        loop {
            let stored = self.state.stored.notified();
            tokio::pin!(stored);
            stored.as_mut().enable();
            if self.waiting() <= most {
                return;
            }
            stored.await;
        }
    }
}

/// The ends of one batch, by the statement that stores them.
#[derive(Default)]
struct Ends {
    finished: Vec<Finish>,
    returned: Vec<GoBack>,
}

impl Ends {
    fn of(ending: Ending) -> Self {
        let mut ends = Self::default();
        ends.add(ending);
        ends
    }

    fn add(&mut self, ending: Ending) {
        match ending {
            Ending::Finish(end) => self.finished.push(end),
            Ending::Back(end) => self.returned.push(end),
        }
    }

    fn each(self) -> impl Iterator<Item = Ending> {
        let finished = self.finished.into_iter().map(Ending::Finish);
        finished.chain(self.returned.into_iter().map(Ending::Back))
    }
}

/// The task that stores.
pub struct Batcher {
    line: Line,
    waker: Waker,
    outage: Outage,
    ageing_step: Duration,
    queue: mpsc::UnboundedReceiver<Ended>,
    state: Arc<State>,
}

impl Batcher {
    pub fn new(pool: PgPool, waker: Waker, ageing_step: Duration) -> (Endings, Self) {
        let (sender, queue) = mpsc::unbounded_channel();
        let state = Arc::new(State::default());
        let endings = Endings {
            queue: sender,
            state: state.clone(),
        };
        let batcher = Self {
            line: Line::new(pool),
            outage: waker.outage(),
            waker,
            ageing_step,
            queue,
            state,
        };
        (endings, batcher)
    }

    /// Runs until every [`Endings`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let count = batch.len();
            let mut tokens = Vec::with_capacity(count);
            let mut ends = Ends::default();
            for ended in batch.drain(..) {
                tokens.push(ended.in_use);
                ends.add(ended.ending);
            }
            self.store(ends).await;
            drop(tokens);
            self.state.waiting.fetch_sub(count, Ordering::AcqRel);
            self.state.in_all.fetch_add(count as u64, Ordering::Relaxed);
            self.state.stored.notify_waiters();
        }
    }

    async fn store(&mut self, ends: Ends) {
        let mut failures = 0;
        loop {
            match self.try_store(&ends).await {
                Ok(()) => {
                    self.outage.worked();
                    return;
                }
                Err(error) if refused(&error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the database refuses the end of an attempt"
                    );
                    return self.store_one_by_one(ends).await;
                }
                Err(error) => {
                    self.line.hang_up();
                    self.outage.failed(&error, failures).await;
                    failures += 1;
                }
            }
        }
    }

    /// Finds the end that spoils the batch, and fails its job instead.
    async fn store_one_by_one(&mut self, ends: Ends) {
        for ending in ends.each() {
            let mut end = Ends::of(ending.clone());
            let mut failures = 0;
            while let Err(error) = self.try_store(&end).await {
                if refused(&error) {
                    end = Ends::of(endings::not_storable(&ending));
                } else {
                    self.line.hang_up();
                }
                self.outage.failed(&error, failures).await;
                failures += 1;
            }
        }
    }

    async fn try_store(&mut self, ends: &Ends) -> Result<(), StoreError> {
        let mut over = Vec::new();
        if !ends.finished.is_empty() {
            let conn = self.line.open("finish").await?;
            over = bounded("finish", completions::finish(conn, &ends.finished)).await?;
        }
        let mut stored = over.len();
        if !ends.returned.is_empty() {
            let conn = self.line.open("go_back").await?;
            let back = completions::go_back(conn, &ends.returned, self.ageing_step);
            let back = bounded("go_back", back).await?;
            stored += back.len();
            over.extend(back.iter().filter(|back| back.cancelled).map(|back| back.id));
            self.waker.scheduled();
        }
        self.waker.finished(&over);
        let handed_in = ends.finished.len() + ends.returned.len();
        if stored < handed_in {
            // Rescued meanwhile, or stored before and only the answer was lost.
            let stale = handed_in - stored;
            tracing::debug!(stale, "ends of attempts came too late and changed nothing");
        }
        Ok(())
    }
}

/// The database understood and said no: the same values will be refused again.
fn refused(error: &StoreError) -> bool {
    error.is_refusal()
}
