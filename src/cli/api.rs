//! `wireroom api`: the HTTP API as a role. It reads and writes the database, and holds no Telegram connection.

use std::{io, net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::Context;
use async_trait::async_trait;
use tokio::{net::TcpListener, sync::watch};
use wireroom_jobs::ports::Clock;

use super::{events, process};
use crate::{
    api::{self, ApiDeps, FinishedJobs, JobSignals},
    clock::SystemClock,
    config::Config,
    ids::JobId,
    lifecycle::{Shutdown, Signals, supervise},
    queue::{FinishedWatch, Waker},
    store::{PgPool, jobs::NewJob, notifications::Ring},
};

/// The API's word to the dispatchers, and theirs to it: of this process at once, of the others by a notification.
struct Bell(Waker);

impl JobSignals for Bell {
    fn ring(&self, jobs: &[NewJob]) -> Option<Ring> {
        self.0.ring(jobs)
    }

    fn enqueued(&self, jobs: &[NewJob], ring: Option<&Ring>) {
        self.0.enqueued(jobs, ring);
    }

    fn cancelled(&self, job: JobId) {
        self.0.cancelled(job);
    }

    fn changed(&self) {
        self.0.scheduled();
    }

    fn control_changed(&self) {
        self.0.control_changed();
    }

    fn sessions_changed(&self) {
        self.0.sessions_changed();
    }

    fn errand_asked(&self) {
        self.0.errand_asked();
    }

    fn events_asked(&self) {
        self.0.events_asked();
    }

    fn finished(&self, jobs: &[JobId]) {
        self.0.finished(jobs);
    }

    fn watch_finished(&self) -> Box<dyn FinishedJobs> {
        Box::new(Watch(self.0.watch_finished()))
    }

    fn logged_events(&self) -> watch::Receiver<i64> {
        self.0.logged_events()
    }
}

struct Watch(FinishedWatch);

#[async_trait]
impl FinishedJobs for Watch {
    async fn next(&mut self) -> Vec<JobId> {
        self.0.next().await.to_vec()
    }
}

pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    let mut signals = Signals::listen().context("cannot take over SIGTERM and SIGINT")?;
    let shutdown = Shutdown::new();
    let work = process::until_told(&shutdown, async {
        let listener = listen(config.api.listen).await?;
        let pool = process::connect(&config.database).await?;
        Ok((listener, pool))
    });
    let work = async {
        match work.await? {
            None => Ok(()),
            Some((listener, pool)) => {
                let waker = Waker::start(pool.clone());
                let _sequencer = events::sequencer(&pool, &waker);
                serve(&config, pool, waker, Arc::new(SystemClock), listener, &shutdown).await
            }
        }
    };
    process::ended(supervise(&shutdown, process::bounds(&config.queue), &mut signals, Box::pin(work)).await)?;
    Ok(ExitCode::SUCCESS)
}

/// Binds the API's address, or says what is in the way and what to do.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let context = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "{address} is taken by another program: stop that one, or choose another address \
                 (WIREROOM_API_LISTEN, or `dev --listen`)"
            ),
            _ => format!("cannot listen on {address} (WIREROOM_API_LISTEN, or `dev --listen`)"),
        };
        anyhow::Error::new(error).context(context)
    })
}

/// Serves until the soft step, then lets requests in progress finish.
pub async fn serve(
    config: &Config,
    pool: PgPool,
    waker: Waker,
    clock: Arc<dyn Clock>,
    listener: TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the listener has no address")?;
    let deps = ApiDeps {
        pool,
        config: config.clone(),
        signals: Arc::new(Bell(waker)),
        clock,
    };
    tracing::info!(url = %format_args!("http://{address}"), "the API is listening");
    api::serve(deps, listener, shutdown.soft().clone())
        .await
        .context("serving HTTP failed")?;
    tracing::info!("the API has stopped");
    Ok(())
}
