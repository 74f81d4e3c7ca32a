//! A worker in this process as `wireroom worker` runs it, in a runtime of its own: so it can be dropped all at once, as by
//! SIGKILL, or stopped with all its threads, as by SIGSTOP. A killed one has its tasks dropped where they wait; what a
//! thread is in the middle of goes on to its next wait. Its database is behind a proxy.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time::{Instant, timeout},
};
use wireroom::{
    cli::worker::{Identity, serve},
    config::{Config, Secret},
    ids::WorkerId,
    lifecycle::Shutdown,
    queue::Waker,
    store,
};
use wireroom_jobs::ports::Clock;

use super::watch::WRITER;
use crate::support::{proxy::TcpProxy, wait::eventually};

const THREADS: usize = 2;
/// Both steps of a shutdown, and what is left for sockets and leases.
const STOP: Duration = Duration::from_secs(8);
const FREEZE: Duration = Duration::from_secs(10);

pub struct Worker {
    pub id: WorkerId,
    pub proxy: TcpProxy,
    /// When it was frozen, or its database fell silent.
    pub silent_since: Option<Instant>,
    runtime: Option<Runtime>,
    shutdown: Shutdown,
    work: JoinHandle<anyhow::Result<()>>,
    gate: Arc<Gate>,
}

impl Worker {
    /// Starts one with that configuration; its database is reached through a proxy.
    pub async fn start(config: &Config, clock: Arc<dyn Clock>) -> Self {
        let url = config.database.url.expose();
        let proxy = TcpProxy::to_url(url).await;
        let mut config = config.clone();
        let identity = Identity {
            id: WorkerId::generate(),
            clock,
        };
        let named = format!("{}?options[{WRITER}]={}", proxy.rewrite(url), identity.id);
        config.database.url = Secret::new(named);
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("simulated-worker")
            .enable_all()
            .build()
            .expect("a runtime");
        let (id, shutdown) = (identity.id, Shutdown::new());
        let told = shutdown.clone();
        let work = runtime.spawn(async move {
            let pool = store::pool(&config.database)?;
            let waker = Waker::start(pool.clone());
            serve(&config, pool, waker, identity, &told).await
        });
        Self {
            id,
            proxy,
            silent_since: None,
            runtime: Some(runtime),
            shutdown,
            work,
            gate: Arc::default(),
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.work.is_finished()
    }

    /// What it ended with.
    pub async fn end(mut self) -> String {
        let end = (&mut self.work).await;
        self.kill();
        format!("{end:?}")
    }

    /// Drops all of it.
    pub fn kill(mut self) {
        self.drop_runtime();
    }

    /// Stops it as a deploy does. `Err`: it did not stop in time, and was dropped.
    pub async fn stop(mut self) -> Result<(), String> {
        self.shutdown.begin();
        let ended = timeout(STOP, &mut self.work).await;
        self.drop_runtime();
        match ended {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(other) => Err(format!("{other:?}")),
            Err(_) => Err(format!("it did not stop within {STOP:?}")),
        }
    }

    /// Stops all its threads; returns when none runs.
    pub async fn freeze(&mut self) {
        self.gate.lock().closed = true;
        let runtime = self.runtime.as_ref().expect("it runs");
        let gate = &self.gate;
        eventually(FREEZE, async || {
            let waiting = gate.lock().waiting;
            if waiting == THREADS {
                return Ok(());
            }
            // More than enough of them: a thread may take two into its own queue.
            let entering = Arc::clone(gate);
            runtime.spawn(async move { entering.wait() });
            Err(waiting)
        })
        .await;
        self.silent_since = Some(Instant::now());
    }

    pub fn thaw(&mut self) {
        self.gate.open();
        self.silent_since = None;
    }

    fn drop_runtime(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // First the end, then the thaw: a frozen worker that is killed never runs again.
            runtime.shutdown_background();
            self.gate.open();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.drop_runtime();
    }
}

/// What a frozen worker's threads wait at.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    /// Blocks the thread for as long as the gate is closed.
    fn wait(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        while state.closed {
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    fn open(&self) {
        self.lock().closed = false;
        self.opened.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
