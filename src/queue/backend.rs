//! apalis' view of the queue: a `Backend` whose stream is a channel that the dispatcher feeds, and the worker around it.
//!
//! From the outside in: `parallelize` spawns each attempt and lets it go; [`Conclude`] hands its outcome to the batcher and
//! always answers `Ok`; the kind's timeout; apalis' tracing and catch-panic; [`Route`] calls the function.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use apalis::{
    layers::{catch_panic::CatchPanicLayer, tracing::TraceLayer},
    prelude::{ParallelizeExt, Task, TaskBuilder, TaskId, WorkerBuilder, WorkerContext},
};
use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    error::{BoxDynError, WorkerError},
};
use futures::{
    FutureExt, TryStreamExt,
    future::{BoxFuture, Ready, ready},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tower::layer::util::Identity;
use uuid::Uuid;

use super::{
    layers::{AttemptTimeoutLayer, ConcludeLayer, FunctionPanicked, Route},
    ports::HeldSession,
};
use crate::{ids::WorkerId, store::claims::ClaimedJob};

/// A claimed job on its way to apalis.
#[derive(Clone)]
pub struct Dispatched {
    pub job: Box<ClaimedJob>,
    pub session: Arc<HeldSession>,
    pub cancellation: CancellationToken,
    /// Taken by the layer that keeps it until the attempt's end is stored.
    pub in_use: Option<TaskTrackerToken>,
}

/// The stream of claimed jobs. It ends when the dispatcher drops its end; then the worker runs out.
pub struct ClaimedJobs {
    jobs: mpsc::UnboundedReceiver<Dispatched>,
}

impl ClaimedJobs {
    pub fn new(jobs: mpsc::UnboundedReceiver<Dispatched>) -> Self {
        Self { jobs }
    }
}

impl Backend for ClaimedJobs {
    type Task = Task<Dispatched>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Dispatched>, Infallible>>> {
        self.jobs.poll_recv(cx).map(|dispatched| {
            dispatched.map(|dispatched| {
                let id = TaskId::from_uuid(dispatched.job.id.0);
                Ok(TaskBuilder::new(dispatched).task_id(id).build())
            })
        })
    }

    /// Nothing is held here: the dispatcher owns the claims, the batcher their ends. A worker whose stream has ended waits
    /// for its stop all the same.
    fn poll_close(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        if !worker.is_shutting_down() {
            // It fails for a worker that was never started only.
            let _ = worker.stop();
        }
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for ClaimedJobs {
    type Args = Dispatched;
    type Id = Uuid;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// Spawns an attempt. Nobody waits for it: its end goes to the batcher, `Flights` counts those under way, and the worker would
/// only be woken once more for every job.
fn detached<F>(attempt: F) -> Ready<Result<Result<(), BoxDynError>, Infallible>>
where
    F: Future<Output = Result<(), BoxDynError>> + Send + 'static,
{
    tokio::spawn(attempt);
    ready(Ok(Ok(())))
}

/// Starts claimed jobs until the stream ends.
pub fn run(
    worker: WorkerId,
    jobs: ClaimedJobs,
    conclude: ConcludeLayer,
    timeout: AttemptTimeoutLayer,
    route: Route,
) -> BoxFuture<'static, Result<(), WorkerError>> {
    let span = move |task: &Task<Dispatched>| {
        let job = &task.args.job;
        tracing::info_span!(
            "job",
            job.id = %job.id,
            job.kind = job.kind.as_str(),
            job.attempt = job.attempt,
            worker.id = %worker,
            session.id = %job.session,
            fence = job.fence,
        )
    };
    WorkerBuilder::new(worker.to_string().as_str())
        .backend(jobs)
        .parallelize(detached)
        .layer(conclude)
        .layer(timeout)
        .layer(
            // Results and panics may hold content; what is worth a line is logged where the outcome is handled.
            TraceLayer::new()
                .make_span_with(span)
                .on_request(|_: &Task<Dispatched>, _: &tracing::Span| {})
                .on_response(())
                .on_failure(()),
        )
        .layer(CatchPanicLayer::with_panic_handler(
            |_: &Box<dyn std::any::Any + Send>| FunctionPanicked,
        ))
        .build(route)
        // What `Worker::run` does, without its async block: the compiler cannot prove that one `Send` around a panic handler.
        .stream()
        .try_for_each(|_| ready(Ok(())))
        .boxed()
}
