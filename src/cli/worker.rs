//! `wireroom worker`: the queue, the sessions and the functions, which know nothing of each other, put together.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use wireroom_jobs::{JobContext, Outcome, ports::Clock, stop::StopWords};

use super::{descriptors, events, media::Media, process};
use crate::{
    clock::SystemClock,
    config::{Config, ConfigError},
    files::{Files, downloads::Keeper},
    ids::WorkerId,
    lifecycle::{Shutdown, Signals, supervise},
    person_key::PersonKey,
    queue::{self, Attempt, Queue, QueueDeps, QueueHandle, SystemRandom, Waker, decode_args},
    sessions::{self, Desk, DeskSettings, Holder, HolderSettings},
    store::{
        self, PgPool, StoreError,
        attempt_data::{self, AttemptKey},
        contact::Contact,
        downloads::Downloads,
        job_outreach::JobOutreach,
        job_store::JobStore,
        leases::LeaseKey,
        workers::WorkerFacts,
    },
    telegram::port::{AttemptHooks, CallGuard, GuardError},
    vault::Vault,
};

pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    descriptors::raise_limit();
    // Before the database is reached: what can be refused without it is refused at once.
    vault(&config)?;
    let mut signals = Signals::listen().context("cannot take over SIGTERM and SIGINT")?;
    let shutdown = Shutdown::new();
    let working = async {
        match process::until_told(&shutdown, process::connect(&config.database)).await? {
            None => Ok(()),
            Some(pool) => work(&config, pool, &shutdown).await,
        }
    };
    process::ended(
        supervise(
            &shutdown,
            process::bounds(&config.queue),
            &mut signals,
            Box::pin(working),
        )
        .await,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// All that a worker process does, until `shutdown`.
pub async fn work(config: &Config, pool: PgPool, shutdown: &Shutdown) -> anyhow::Result<()> {
    let waker = Waker::start(pool.clone());
    let sequencer = events::sequencer(&pool, &waker);
    let deliverer = events::deliverer(config, &pool, &waker, &sequencer, Arc::new(SystemClock), shutdown)?;
    let served = serve(config, pool, waker, Identity::generate(), shutdown).await;
    deliverer.shutdown().await;
    served
}

/// The vault a worker needs; refuses its absence by the variable's name.
pub fn vault(config: &Config) -> anyhow::Result<Vault> {
    let keys = config.vault.master_keys.as_ref().ok_or(ConfigError::Missing {
        variable: "WIREROOM_MASTER_KEYS",
        needed_for: "the keys that seal sessions at rest, id:base64 of 32 bytes each",
    })?;
    Ok(Vault::parse(keys)?)
}

/// Who a worker is, and by which clock it goes.
pub struct Identity {
    /// Fresh for every start.
    pub id: WorkerId,
    pub clock: Arc<dyn Clock>,
}

impl Identity {
    /// A new one, by the system's clock.
    pub fn generate() -> Self {
        Self {
            id: WorkerId::generate(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// Runs jobs until the soft step; then short ones finish, the rest is handed back, and the leases are released last.
pub async fn serve(
    config: &Config,
    pool: PgPool,
    waker: Waker,
    identity: Identity,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let vault = vault(config)?;
    sessions::verify_master_keys(&pool, &vault).await?;
    process::verify_person_key(config, &pool).await?;
    let id = identity.id;
    let desk = desk(config, &pool, &waker, vault.clone(), &identity).await?;
    let (holder, queue) = start(config, &pool, waker.clone(), vault, identity).await?;
    let telling = AbortOnDropHandle::new(tokio::spawn(tell(Arc::clone(&holder), waker)));
    tracing::info!(worker.id = %id, "worker is ready");
    shutdown.soft().cancelled().await;
    holder.stop_acquiring();
    // Beside the queue: a login that waits for a person has no end to wait for.
    tokio::join!(stop_queue(queue, shutdown), desk.shutdown(config.queue.shutdown_hard));
    holder.shutdown(config.queue.shutdown_hard).await;
    drop(telling);
    tracing::info!(worker.id = %id, "the worker has stopped");
    Ok(())
}

/// What is asked of this worker for sessions: logins above all.
async fn desk(
    config: &Config,
    pool: &PgPool,
    waker: &Waker,
    vault: Vault,
    identity: &Identity,
) -> anyhow::Result<Arc<Desk>> {
    let settings = DeskSettings {
        worker: identity.id,
        sessions: config.sessions.clone(),
        telegram: config.telegram.clone(),
    };
    Ok(Desk::start(
        pool.clone(),
        vault,
        Arc::clone(&identity.clock),
        settings,
        waker.errands(),
    )
    .await?)
}

async fn start(
    config: &Config,
    pool: &PgPool,
    waker: Waker,
    vault: Vault,
    identity: Identity,
) -> anyhow::Result<(Arc<Holder>, QueueHandle)> {
    let Identity { id, clock } = identity;
    let stop_words = config.outreach.stop_words();
    let person_key = process::person_key(config)?;
    let settings = HolderSettings {
        worker: id,
        sessions: config.sessions.clone(),
        telegram: config.telegram.clone(),
        worker_fresh: config.queue.worker_dead,
        stop_words: Arc::clone(&stop_words),
        person_key: person_key.clone(),
    };
    let holder = Holder::start(pool.clone(), vault, Arc::clone(&clock), settings)?;
    let sessions = Arc::new(Held(Arc::clone(&holder)));
    let files = Arc::new(Files::new(config.files.clone(), pool.clone()));
    let runner = Arc::new(Functions {
        holder: Arc::clone(&holder),
        pool: pool.clone(),
        clock,
        person_key,
        stop_words,
        media: Arc::new(Media(Arc::clone(&files))),
        files,
    });
    let queue = Queue::start(QueueDeps {
        pool: pool.clone(),
        config: config.queue.clone(),
        waker,
        worker: facts(id),
        sessions,
        runner,
        random: Arc::new(SystemRandom),
    })
    .await
    .context("the queue did not start")?;
    Ok((holder, queue))
}

/// Lets the holder know at once what it would see with its next renewal.
async fn tell(holder: Arc<Holder>, waker: Waker) {
    loop {
        waker.sessions_told().await;
        holder.look_again();
    }
}

/// The queue has the same two steps; ours tell it when the second signal comes.
async fn stop_queue(queue: QueueHandle, shutdown: &Shutdown) {
    let hurry = queue.hurry();
    let hard = shutdown.hard().clone();
    let hurrying = tokio::spawn(async move {
        hard.cancelled().await;
        hurry.cancel();
    });
    queue.shutdown().await;
    hurrying.abort();
}

/// Who this start of this process is, for people; nothing goes by it but the id.
fn facts(id: WorkerId) -> WorkerFacts {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".into());
    WorkerFacts {
        id,
        host,
        pid: std::process::id().cast_signed(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// The sessions of this process, as the queue asks for them.
struct Held(Arc<Holder>);

impl queue::Sessions for Held {
    fn held(&self) -> Vec<queue::HeldSession> {
        let held = self.0.held().into_iter();
        held.map(|session| queue::HeldSession {
            id: session.id,
            pool: session.pool.clone(),
            fence: session.fence,
            slots: queue::Slots {
                interactive: session.slots.interactive,
                bulk: session.slots.bulk,
                watch: session.slots.watch,
            },
            closed: session.closed_actions().into_iter().collect(),
            pooled: session.takes_pooled(),
            watches: !session.is_bot(),
            lost: session.lost.clone(),
            leaving: session.leaving(),
            in_use: session.in_use.clone(),
            watching: session.watching.clone(),
        })
        .collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed()
    }
}

/// The functions, with the ports they run on.
struct Functions {
    holder: Arc<Holder>,
    pool: PgPool,
    clock: Arc<dyn Clock>,
    person_key: Option<PersonKey>,
    stop_words: Arc<StopWords>,
    media: Arc<Media>,
    files: Arc<Files>,
}

#[async_trait]
impl queue::Runner for Functions {
    async fn run(&self, attempt: Attempt) -> Outcome {
        let args = match decode_args(&attempt.job) {
            Ok(args) => args,
            Err(error) => return Outcome::Discard(error),
        };
        match self.context(attempt) {
            Some(context) => args.job().run(&context).await,
            // Given up between the claim and now: nothing was begun, another holder takes it.
            None => Outcome::Cancelled,
        }
    }
}

impl Functions {
    fn context(&self, attempt: Attempt) -> Option<JobContext> {
        let job = attempt.job;
        let lease = LeaseKey {
            session: job.session,
            owner: self.holder.worker(),
            fence: job.session_fence,
        };
        let held = self.holder.session(lease.session, lease.fence)?;
        let key = AttemptKey {
            job: job.id,
            fence: job.fence,
        };
        let guard = Binding {
            pool: self.pool.clone(),
            attempt: key,
        };
        let telegram = held.telegram_for(AttemptHooks {
            job: job.id,
            action: job.kind.action(),
            is_pooled: job.pooled,
            is_last: job.attempt >= job.max_attempts,
            guard: Arc::new(guard),
        });
        let contact = Contact::default();
        Some(JobContext {
            id: job.id.0,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            created_at: job.created_at,
            deadline: job.deadline,
            cancellation: attempt.cancellation,
            telegram: Arc::new(telegram.with_media(self.media.clone()).asking(contact.clone())),
            store: Arc::new(
                JobStore::new(self.pool.clone(), key, lease)
                    .knowing(self.person_key.clone())
                    .hearing(Arc::clone(&self.stop_words)),
            ),
            outreach: Arc::new(
                JobOutreach::new(self.pool.clone(), key, lease.session, self.person_key.clone()).telling(contact),
            ),
            files: Arc::new(Keeper::new(
                Arc::clone(&self.files),
                Downloads::new(self.pool.clone(), key),
            )),
            clock: Arc::clone(&self.clock),
        })
    }
}

/// Ties a pooled job to its session before its first call.
struct Binding {
    pool: PgPool,
    attempt: AttemptKey,
}

impl Binding {
    async fn bind(&self) -> Result<(), StoreError> {
        let mut conn = store::connection(&self.pool, "bind").await?;
        attempt_data::bind_session(&mut conn, self.attempt).await
    }
}

#[async_trait]
impl CallGuard for Binding {
    async fn before_first_call(&self) -> Result<(), GuardError> {
        self.bind().await.map_err(|error| match error {
            StoreError::Fenced { .. } => GuardError::Fenced,
            other => GuardError::Failed(Box::new(other)),
        })
    }
}
