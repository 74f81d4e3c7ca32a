//! How a process ends: softly on the first SIGTERM or SIGINT (nothing new is begun, short work finishes), hard when
//! that takes too long (work is cancelled and handed back), at once on a second signal.

use std::{future::Future, io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What is left for sockets and leases when somebody insists.
const IMMEDIATE: Duration = Duration::from_secs(1);

/// The two steps of ending, shared by everything that runs in the process.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when nothing new may be begun.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when what still runs has to stop. Never before [`Shutdown::soft`].
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Begins the soft step, as a first signal does.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Begins the hard step.
    pub fn force(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub soft: Duration,
    pub hard: Duration,
}

/// Why the work is over.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// It ended by itself, or within the bounds after it was asked to.
    Finished(T),
    /// It was dropped because it outlived both bounds.
    Late,
    /// It was dropped because of a second signal.
    Immediate,
}

/// SIGTERM and SIGINT of this process. Made before anything is started, so that no signal finds the default action.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over; fails outside a runtime, or when the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and says which it was.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs `work` until it ends or the process was told to. Dropping `work` must stop what it owns.
pub async fn supervise<T>(
    shutdown: &Shutdown,
    bounds: Bounds,
    signals: &mut Signals,
    work: impl Future<Output = T>,
) -> Ended<T> {
    let mut work = std::pin::pin!(work);
    let mut signalled = false;
    tokio::select! {
        ended = &mut work => return Ended::Finished(ended),
        () = shutdown.soft.cancelled() => {}
        name = signals.next() => {
            signalled = true;
            tracing::info!(signal = name, "shutting down; a second signal ends at once");
            shutdown.begin();
        }
    }
    let bounded = finish(shutdown, bounds, &mut work);
    let mut bounded = std::pin::pin!(bounded);
    loop {
        tokio::select! {
            ended = &mut bounded => return ended.map_or(Ended::Late, Ended::Finished),
            name = signals.next() => {
                // A shutdown begun from inside (a failed part) still owes the first signal its soft step.
                if signalled {
                    tracing::warn!(signal = name, "ending at once");
                    break;
                }
                signalled = true;
            }
        }
    }
    shutdown.force();
    match tokio::time::timeout(IMMEDIATE, bounded).await {
        Ok(Some(ended)) => Ended::Finished(ended),
        Ok(None) | Err(_) => Ended::Immediate,
    }
}

/// The soft bound, then the hard one. `None` when both ran out.
async fn finish<T>(shutdown: &Shutdown, bounds: Bounds, work: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    tokio::select! {
        ended = &mut *work => return Some(ended),
        () = tokio::time::sleep(bounds.soft) => tracing::info!("cancelling what still runs"),
        () = shutdown.hard.cancelled() => {}
    }
    shutdown.force();
    tokio::time::timeout(bounds.hard, work).await.ok()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        soft: Duration::from_millis(60),
        hard: Duration::from_millis(40),
    };

    async fn run<T>(shutdown: &Shutdown, work: impl Future<Output = T>) -> Ended<T> {
        let mut signals = Signals::listen().expect("the test runs in a runtime");
        supervise(shutdown, BOUNDS, &mut signals, work).await
    }

    #[tokio::test]
    async fn work_that_heeds_the_soft_step_finishes_before_the_hard_one() {
        let shutdown = Shutdown::new();
        shutdown.begin();
        let soft = shutdown.soft().clone();
        let ended = run(&shutdown, async move { soft.cancelled().await }).await;
        assert_eq!(ended, Ended::Finished(()));
        assert!(!shutdown.hard().is_cancelled());
    }

    #[tokio::test]
    async fn the_hard_step_comes_when_the_soft_bound_is_over() {
        let shutdown = Shutdown::new();
        shutdown.begin();
        let hard = shutdown.hard().clone();
        let begun = tokio::time::Instant::now();
        let ended = run(&shutdown, async move { hard.cancelled().await }).await;
        assert_eq!(ended, Ended::Finished(()));
        assert!(begun.elapsed() >= BOUNDS.soft);
    }

    #[tokio::test]
    async fn work_that_heeds_nothing_is_dropped_after_both_bounds() {
        let shutdown = Shutdown::new();
        shutdown.begin();
        let begun = tokio::time::Instant::now();
        assert_eq!(run(&shutdown, pending::<()>()).await, Ended::Late);
        assert!(begun.elapsed() >= BOUNDS.soft + BOUNDS.hard);
    }

    #[tokio::test]
    async fn work_that_ends_by_itself_needs_no_signal() {
        assert_eq!(run(&Shutdown::new(), async { 7 }).await, Ended::Finished(7));
    }
}
