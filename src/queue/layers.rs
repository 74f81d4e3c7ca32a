//! The layers and the service that an attempt passes through.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis::prelude::Task;
use apalis_core::error::BoxDynError;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::value::RawValue;
use tower::{Layer, Service};
use wireroom_jobs::{JobError, JobKind, Lane, Outcome};

use super::{
    backend::Dispatched,
    backoff::Random,
    batcher::{Ended, Endings},
    endings::{self, AttemptFacts},
    flights::Flights,
    outage::Outage,
    ports::{Attempt, Runner},
};
use crate::store::{
    PgPool, claims,
    line::{Line, bounded},
};

/// A function panicked. The panic's own message stays out: it may hold content.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the function panicked")]
pub struct FunctionPanicked;

/// Makes [`Conclude`]. Shared: each attempt keeps it to its end.
pub struct Conclusion {
    pub endings: Endings,
    pub flights: Arc<Flights>,
    pub random: Arc<dyn Random>,
}

/// [`Conclusion`] as a layer.
#[derive(Clone)]
pub struct ConcludeLayer(pub Arc<Conclusion>);

impl<S> Layer<S> for ConcludeLayer {
    type Service = Conclude<S>;

    fn layer(&self, inner: S) -> Conclude<S> {
        Conclude {
            inner,
            parts: self.0.clone(),
        }
    }
}

/// Turns whatever the inner service answered into the end of the attempt, and answers `Ok`: an attempt that went wrong is
/// the job's affair, not the worker's.
pub struct Conclude<S> {
    inner: S,
    parts: Arc<Conclusion>,
}

impl<S> Service<Task<Dispatched>> for Conclude<S>
where
    S: Service<Task<Dispatched>, Response = Outcome, Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut task: Task<Dispatched>) -> Self::Future {
        let in_use = task.args.in_use.take();
        let job = &task.args.job;
        let facts = AttemptFacts {
            id: job.id,
            fence: job.fence,
            kind: job.kind,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
        };
        let cancellation = task.args.cancellation.clone();
        let parts = self.parts.clone();
        let attempt = self.inner.call(task);
        Box::pin(async move {
            let outcome = attempt.await.unwrap_or_else(|error| {
                let panicked = error.downcast_ref::<FunctionPanicked>().is_some();
                let code = if panicked { "panicked" } else { "internal" };
                tracing::error!(job.id = %facts.id, job.kind = facts.kind.as_str(), fence = facts.fence, code,
                    "an attempt ended in a fault of ours");
                Outcome::Retry(JobError::transient(
                    code,
                    "The function failed in a way it must not: a fault of Wireroom's.",
                ))
            });
            log_outcome(facts, &outcome);
            let ending = endings::of(facts, outcome, cancellation.is_cancelled(), parts.random.as_ref());
            parts.endings.push(Ended { ending, in_use });
            parts.flights.end((facts.id, facts.fence));
            Ok(())
        })
    }
}

fn log_outcome(facts: AttemptFacts, outcome: &Outcome) {
    let (outcome, code) = match outcome {
        Outcome::Done(_) => ("done", ""),
        Outcome::Snooze { reason, .. } => ("snooze", reason.code.as_str()),
        Outcome::Elsewhere { reason, .. } => ("elsewhere", reason.code.as_str()),
        Outcome::Retry(error) => ("retry", error.code.as_str()),
        Outcome::Discard(error) => ("discard", error.code.as_str()),
        Outcome::Cancelled => ("cancelled", ""),
    };
    tracing::debug!(job.id = %facts.id, job.kind = facts.kind.as_str(), job.attempt = facts.attempt, fence = facts.fence,
        outcome, code, "an attempt ended");
}

/// What an attempt with files may take beside the kind's own time.
const FOR_MEDIA: Duration = Duration::from_mins(20);

/// Makes [`AttemptTimeout`].
#[derive(Debug, Clone, Copy)]
pub struct AttemptTimeoutLayer {
    /// How long an attempt of a kind may take.
    pub limit: fn(JobKind) -> Duration,
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = AttemptTimeout<S>;

    fn layer(&self, inner: S) -> AttemptTimeout<S> {
        AttemptTimeout {
            inner,
            limit: self.limit,
        }
    }
}

/// Ends an attempt that takes longer than its kind allows. `watch` jobs may take for ever.
pub struct AttemptTimeout<S> {
    inner: S,
    limit: fn(JobKind) -> Duration,
}

impl<S> Service<Task<Dispatched>> for AttemptTimeout<S>
where
    S: Service<Task<Dispatched>, Response = Outcome>,
    S::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Outcome, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, task: Task<Dispatched>) -> Self::Future {
        let job = &task.args.job;
        if job.lane == Lane::Watch {
            return Box::pin(self.inner.call(task));
        }
        let limit = (self.limit)(job.kind) + more_time(job.kind, job.args.get());
        let attempt = self.inner.call(task);
        Box::pin(async move {
            tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
                Ok(Outcome::Retry(JobError::transient(
                    "attempt_timeout",
                    format!("The attempt took longer than {} s.", limit.as_secs()),
                )))
            })
        })
    }
}

/// How much longer an attempt may take for what its args have it carry: files, of which the largest takes minutes to fetch and
/// minutes to put into Telegram, and neither is resumed.
fn more_time(kind: JobKind, args: &str) -> Duration {
    #[derive(Deserialize)]
    struct Media<'a> {
        #[serde(borrow, default)]
        media: Vec<&'a RawValue>,
    }
    let has_media =
        kind == JobKind::Publish && serde_json::from_str::<Media<'_>>(args).is_ok_and(|args| !args.media.is_empty());
    if has_media { FOR_MEDIA } else { Duration::ZERO }
}

/// What it takes to call a function.
pub struct Caller {
    pub pool: PgPool,
    pub runner: Arc<dyn Runner>,
    pub flights: Arc<Flights>,
    pub outage: Outage,
    /// How long a function that was asked to stop has for it.
    pub grace: Duration,
}

/// The innermost service: notes the start and calls the function.
#[derive(Clone)]
pub struct Route(pub Arc<Caller>);

impl Service<Task<Dispatched>> for Route {
    type Response = Outcome;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<Outcome, BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Dispatched>) -> Self::Future {
        let caller = self.0.clone();
        Box::pin(async move { Ok(caller.attempt(task.args).await) })
    }
}

impl Caller {
    async fn attempt(&self, dispatched: Dispatched) -> Outcome {
        let Dispatched {
            job,
            session,
            cancellation,
            ..
        } = dispatched;
        if cancellation.is_cancelled() {
            return Outcome::Cancelled;
        }
        if job.suspect {
            if !self.store_start(&job).await {
                return Outcome::Cancelled;
            }
        } else {
            self.flights.started((job.id, job.fence));
        }
        let stopped = cancellation.clone();
        let attempt = self.runner.run(Attempt {
            job,
            session,
            cancellation,
        });
        tokio::select! {
            // Most functions end, or wait for Telegram, before anybody asks them to stop.
            biased;
            outcome = attempt => outcome,
            () = async { stopped.cancelled().await; tokio::time::sleep(self.grace).await } => {
                tracing::warn!("the function did not stop when it was asked to, and was dropped");
                Outcome::Cancelled
            }
        }
    }

    /// Whether the start is stored: the job killed a worker once, and if it does again it must be known that it ran.
    async fn store_start(&self, job: &claims::ClaimedJob) -> bool {
        let mut line = Line::new(self.pool.clone());
        let attempt = [(job.id, job.fence)];
        let stored = async { bounded("start", claims::start(line.open("start").await?, &attempt)).await };
        match stored.await {
            Ok(current) => !current.is_empty(),
            Err(error) => {
                line.hang_up();
                self.outage.failed(&error, 0).await;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MOST_FETCH_SECONDS, MOST_FILE_MB};

    #[test]
    fn the_largest_file_fits_into_an_attempt() {
        let with_media = r#"{"chat":"@reading_club","media":[{"type":"video","url":"https://example.com/a.mp4"}]}"#;
        let limit = JobKind::Publish.attempt_timeout() + more_time(JobKind::Publish, with_media);
        // Parts of half a megabyte, a tenth of a second apart, over a line that carries 2 MB a second.
        let putting = Duration::from_millis(MOST_FILE_MB * 2 * 100).max(Duration::from_secs(MOST_FILE_MB / 2));
        assert!(limit >= Duration::from_secs(MOST_FETCH_SECONDS) + putting, "{limit:?}");
        for (kind, args) in [
            (JobKind::Publish, r#"{"chat":"@reading_club","text":"media"}"#),
            (JobKind::Publish, r#"{"chat":"@reading_club","media":[]}"#),
            (JobKind::Scan, with_media),
        ] {
            assert_eq!(more_time(kind, args), Duration::ZERO, "{args}");
        }
    }
}
