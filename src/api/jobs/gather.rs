//! Jobs that come in at the same time are stored together: what arrives while a transaction is on its way goes into the next
//! one, with whatever else has arrived by then. So a lone job waits for nobody, and many at once cost few statements and few
//! commits. Each is answered after the commit, with its own result: when one cannot be stored, all of its transaction are
//! tried again one by one.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    admission,
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        problem::{Code, Problem},
    },
    ids::JobId,
    store::{
        self, PgConnection, PgPool, StoreError, audit, failed, job_reads,
        jobs::{self, NewJob},
        line::{Line, queue_pool},
        notifications::Ring,
    },
};

/// Transactions at a time: while one waits for its commit, another one is filled.
const FLIGHTS: usize = 2;

/// Most jobs of a transaction.
const MOST_JOBS: usize = 256;

/// Bytes of bodies after which a transaction is full, however few they are: 4 MiB.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// How long a transaction may take before its connection counts as dead: less than a request may, and a thousand times what
/// a live database needs.
const LIMIT: Duration = Duration::from_secs(8);

/// Jobs of this process that wait for a transaction.
pub struct Gather {
    /// As the queue's connections: they plan each statement once, and never scan a table for the rows just stored.
    pool: PgPool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<Entry>,
    flights: usize,
    /// Connections that no flight has at the moment.
    lines: Vec<Line>,
}

/// A job on its way in.
struct Entry {
    job: NewJob,
    /// The length of its body.
    size: usize,
    request_id: String,
    answer: oneshot::Sender<Result<JobView, Problem>>,
}

impl Gather {
    /// Over connections of its own to the database of `pool`.
    pub fn new(pool: &PgPool) -> Self {
        Self {
            pool: queue_pool(pool),
            inner: Mutex::default(),
        }
    }

    /// Stores a job whose body had `size` bytes, audits it, tells the queue, and returns it as it is stored.
    pub async fn store(state: &Arc<State>, job: NewJob, size: usize, request_id: &str) -> Result<JobView, Problem> {
        let (answer, stored) = oneshot::channel();
        let entry = Entry {
            job,
            size,
            request_id: request_id.to_owned(),
            answer,
        };
        let is_flight_wanted = {
            let mut inner = state.gather.lock();
            inner.waiting.push(entry);
            let is_wanted = inner.flights < FLIGHTS;
            inner.flights += usize::from(is_wanted);
            is_wanted
        };
        if is_flight_wanted {
            // A task of its own: a client that goes must not take the others' jobs along.
            tokio::spawn(fly(Arc::clone(state)));
        }
        stored.await.unwrap_or_else(|_| {
            Err(Problem::internal(
                "the transaction that a job was to be stored in panicked",
            ))
        })
    }

    /// What the next transaction stores; `None` when nothing waits, and then there is one flight less.
    fn next(&self) -> Option<Vec<Entry>> {
        let mut inner = self.lock();
        // Whoever has gone was told to look before it repeats, and must not find the job there later.
        inner.waiting.retain(|entry| !entry.answer.is_closed());
        if inner.waiting.is_empty() {
            inner.flights -= 1;
            return None;
        }
        let mut bytes = 0;
        let fit = inner.waiting.iter().take(MOST_JOBS).take_while(|entry| {
            let has_room = bytes < MOST_BYTES;
            bytes += entry.size;
            has_room
        });
        let count = fit.count();
        Some(inner.waiting.drain(..count).collect())
    }

    fn line(&self) -> Line {
        let kept = self.lock().lines.pop();
        kept.unwrap_or_else(|| Line::new(self.pool.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores what waits, transaction by transaction, until nothing does.
async fn fly(state: Arc<State>) {
    let mut line = state.gather.line();
    // It may have died since it was used last, and no job need fail for that.
    line.refresh().await;
    while let Some(entries) = state.gather.next() {
        let stored = AssertUnwindSafe(store_all(&state, &mut line, entries)).catch_unwind();
        if stored.await.is_err() {
            // Those whose transaction panicked know it, since their senders are gone; the next ones are stored.
            line.hang_up();
        }
    }
    state.gather.lock().lines.push(line);
}

/// Why a transaction came to nothing.
enum Failed {
    /// One of its jobs cannot be stored; the others might.
    Refused(Problem),
    /// None can be stored now.
    Unable(Problem),
}

async fn store_all(state: &State, line: &mut Line, entries: Vec<Entry>) {
    let alone = entries.len() == 1;
    match commit(state, line, &entries).await {
        Ok(views) => {
            for (entry, view) in entries.into_iter().zip(views) {
                // A client that has gone does not want it.
                let _ = entry.answer.send(Ok(view));
            }
        }
        Err(Failed::Refused(_)) if !alone => {
            for entry in entries {
                if entry.answer.is_closed() {
                    continue;
                }
                let stored = commit(state, line, std::slice::from_ref(&entry)).await;
                let stored = stored.and_then(|mut views| {
                    let missing = || Failed::Unable(Problem::internal("nothing became of a job"));
                    views.pop().ok_or_else(missing)
                });
                let _ = entry.answer.send(stored.map_err(Failed::into_problem));
            }
        }
        Err(failed) => {
            let (problem, mut entries) = (failed.into_problem(), entries);
            if problem.code() == Code::DatabaseUnavailable {
                // Whoever has come meanwhile need not find that out again.
                entries.append(&mut state.gather.lock().waiting);
            }
            fail_all(entries, problem);
        }
    }
}

/// The first gets the problem itself, which is logged once; the others one like it.
fn fail_all(entries: Vec<Entry>, problem: Problem) {
    let (code, detail) = (problem.code(), problem.detail().to_owned());
    let mut first = Some(problem);
    for entry in entries {
        let problem = first.take().unwrap_or_else(|| {
            let like = Problem::new(code, detail.clone());
            like.source("another request, whose job was to be stored in the same transaction, was told why")
        });
        let _ = entry.answer.send(Err(problem));
    }
}

/// Stores the jobs in one transaction, all or none, and tells the queue.
async fn commit(state: &State, line: &mut Line, entries: &[Entry]) -> Result<Vec<JobView>, Failed> {
    let jobs: Vec<NewJob> = entries.iter().map(|entry| entry.job.clone()).collect();
    let ring = state.signals.ring(&jobs);
    let done = tokio::time::timeout(LIMIT, transact(state, line, entries, &jobs, ring.as_ref())).await;
    let done = done.unwrap_or_else(|_| Err(Failed::Unable(hung())));
    if matches!(done, Err(Failed::Unable(_))) {
        line.hang_up();
    }
    let views = done?;
    state.signals.enqueued(&jobs, ring.as_ref());
    Ok(views)
}

async fn transact(
    state: &State,
    line: &mut Line,
    entries: &[Entry],
    jobs: &[NewJob],
    ring: Option<&Ring>,
) -> Result<Vec<JobView>, Failed> {
    const OPERATION: &str = "begin_create_jobs";
    let mut transaction = store::begin(line.open(OPERATION).await?, OPERATION).await?;
    jobs::enqueue_ringing(&mut transaction, jobs, state.config.queue.ageing_step, ring)
        .await
        .map_err(|error| match error {
            jobs::EnqueueError::Store(error) => Failed::from(error),
            error => Failed::Refused(admission::refused(error)),
        })?;
    audit_all(&mut transaction, entries).await?;
    let views = views(&mut transaction, jobs).await?;
    // A connection that is lost now does not tell whether it is done.
    let committed = transaction.commit().await.map_err(failed("commit_create_jobs"));
    committed.map_err(|error| {
        if error.is_unavailable() {
            Failed::Unable(hung())
        } else {
            error.into()
        }
    })?;
    Ok(views)
}

fn hung() -> Problem {
    let detail =
        "The database does not answer for the moment. What was asked for may have happened: look before you repeat it.";
    Problem::new(Code::DatabaseUnavailable, detail).source("a transaction took longer than any should")
}

async fn audit_all(conn: &mut PgConnection, entries: &[Entry]) -> Result<(), Failed> {
    let subjects: Vec<String> = entries.iter().map(|entry| format!("job:{}", entry.job.id)).collect();
    let rows: Vec<_> = entries
        .iter()
        .zip(&subjects)
        .map(|(Entry { job, request_id, .. }, subject)| audit::Entry {
            actor: job.created_by.as_deref().unwrap_or_default(),
            action: "job.created",
            subject,
            request_id: Some(request_id),
            details: json!({ "kind": job.kind.as_str(), "pool": job.pool, "session": job.session }),
        })
        .collect();
    Ok(audit::record_all(conn, &rows).await?)
}

/// The jobs as the transaction has stored them, in their order.
async fn views(conn: &mut PgConnection, jobs: &[NewJob]) -> Result<Vec<JobView>, Failed> {
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let stored = job_reads::live(&mut *conn, &ids).await?;
    if stored.len() != jobs.len() {
        return Err(Failed::Unable(Problem::internal(
            "a job that was just stored is not there",
        )));
    }
    let with_reasons = view::all_within(conn, stored).await.map_err(Failed::Unable)?;
    let views = with_reasons.into_iter().map(|(job, reason)| JobView::of(job, reason));
    Ok(views.collect())
}

impl Failed {
    fn into_problem(self) -> Problem {
        match self {
            Self::Refused(problem) | Self::Unable(problem) => problem,
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        if error.is_refusal() {
            Self::Refused(error.into())
        } else {
            Self::Unable(error.into())
        }
    }
}
