//! Shares the subscriptions among processes: each is one process's at a time, by a lease on its row, and has a task of its own
//! there, so that no endpoint waits for another. Test events are sent by whoever takes them first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use url::Url;
use uuid::Uuid;
use wireroom_jobs::ports::Clock;

use super::{
    addresses::Guard,
    runner::{Endpoint, Keys, Over, Runner, Shared},
    sender::Sender,
    signature::SigningKey,
};
use crate::{
    config::EventsConfig,
    ids::SubscriptionId,
    store::{
        self, PgPool, StoreError,
        deliveries::{self, Held, Target},
        event_log::{self, EventFilter, EventRecord},
        event_types::Subject,
        line::bounded,
        subscription_tests::{self, Asked},
        subscriptions,
    },
    vault::{Sealed, Vault, VaultError},
};

/// How often leases are renewed, and what others left is looked for.
const TICK: Duration = Duration::from_secs(1);
/// Subscriptions taken at a time, so that other processes get some; and how soon it takes more when it has got so many.
const MORE: u16 = 4;
const MORE_AFTER: Duration = Duration::from_millis(100);
/// Tests taken at a time.
const TESTS: i64 = 8;
/// What a lease is longer than two attempts.
const SPARE: Duration = Duration::from_secs(10);
/// How long a runner that failed is left alone.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What delivering stands on.
pub struct DelivererDeps {
    pub pool: PgPool,
    pub vault: Vault,
    pub clock: Arc<dyn Clock>,
    /// How far the log of events goes.
    pub logged: watch::Receiver<i64>,
    /// Whether anybody subscribes: while nobody does, nothing is asked.
    pub has_subscriptions: watch::Receiver<bool>,
    pub config: EventsConfig,
}

/// Why a subscription cannot be delivered here.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the subscription's secret cannot be opened")]
    Vault(#[from] VaultError),
    #[error("the subscription's secret is none")]
    Secret,
    #[error("the subscription's URL cannot be read")]
    Url,
}

/// The process's deliverer.
pub struct Deliverer {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Deliverer {
    /// Starts delivering, until `stop`. Fails only when the machine has no way to check certificates.
    pub fn start(deps: DelivererDeps, stop: CancellationToken) -> Result<Self, reqwest::Error> {
        let guard = Guard {
            allows_private: deps.config.allow_private,
        };
        let sender = Sender::new(guard, deps.config.timeout, Arc::clone(&deps.clock))?;
        let delivering = Delivering::new(deps, sender, stop.clone());
        Ok(Self {
            task: tokio::spawn(delivering.run()),
            stop,
        })
    }

    /// Lets what is on its way come to its end, then lets go of the subscriptions.
    pub async fn shutdown(self) {
        self.stop.cancel();
        // A panic was logged by its task.
        let _ = self.task.await;
    }
}

#[cfg(test)]
impl Deliverer {
    /// Ends as if the process had been killed: nothing is noted, and nothing let go.
    pub fn abort(self) {
        self.task.abort();
    }
}

/// A subscription that this process has.
struct Running {
    version: watch::Sender<i32>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

struct Delivering {
    shared: Shared,
    vault: Vault,
    clock: Arc<dyn Clock>,
    lease: Duration,
    /// Before the lease runs out so much must be left for an attempt.
    attempt: Duration,
    trust: watch::Sender<Instant>,
    running: HashMap<SubscriptionId, Running>,
    tests: TaskTracker,
    has_subscriptions: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Delivering {
    fn new(deps: DelivererDeps, sender: Sender, stop: CancellationToken) -> Self {
        let trust = watch::Sender::new(Instant::now());
        Self {
            shared: Shared {
                pool: deps.pool,
                owner: Uuid::new_v4(),
                sender,
                concurrency: deps.config.concurrency,
                logged: deps.logged,
                trusted_until: trust.subscribe(),
                jitter,
            },
            vault: deps.vault,
            clock: deps.clock,
            lease: deps.config.timeout * 2 + SPARE,
            attempt: deps.config.timeout + SPARE / 2,
            trust,
            running: HashMap::new(),
            tests: TaskTracker::new(),
            has_subscriptions: deps.has_subscriptions,
            stop,
        }
    }

    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            match self.turn().await {
                Ok(taken) => {
                    if taken >= usize::from(MORE) {
                        tick.reset_after(MORE_AFTER);
                    }
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("subscriptions are looked after again");
                    }
                }
                Err(error) => {
                    if !error.is_closed() && !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "subscriptions could not be looked after; trying again"
                        );
                    }
                }
            }
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
        for (_, running) in self.running.drain() {
            let _ = running.task.await;
        }
        self.tests.close();
        self.tests.wait().await;
        if let Ok(mut conn) = store::connection(&self.shared.pool, "release_subscriptions").await
            && let Err(error) = bounded(
                "release_subscriptions",
                deliveries::release(&mut conn, self.shared.owner),
            )
            .await
        {
            // Others take them when the lease is over.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "subscriptions were not let go"
            );
        }
    }

    /// Answers with how many subscriptions are begun.
    async fn turn(&mut self) -> Result<usize, StoreError> {
        if !*self.has_subscriptions.borrow() && self.running.is_empty() {
            return Ok(0);
        }
        let asked_at = Instant::now();
        let held = bounded("hold_subscriptions", async {
            let mut conn = store::connection(&self.shared.pool, "hold_subscriptions").await?;
            deliveries::hold(&mut conn, self.shared.owner, self.lease, MORE.into()).await
        })
        .await?;
        // By this process's clock from before the statement: never longer than the database's.
        self.trust
            .send_replace(asked_at + (self.lease.saturating_sub(self.attempt)));
        self.running.retain(|id, running| {
            if !held.iter().any(|held| held.id == *id) {
                running.stop.cancel();
            }
            !running.task.is_finished()
        });
        let mut begun = 0;
        for held in held {
            if let Some(running) = self.running.get(&held.id) {
                running.version.send_if_modified(|version| {
                    let changed = *version != held.version;
                    *version = held.version;
                    changed
                });
            } else {
                begun += 1;
                self.start(held);
            }
        }
        let asked = bounded("take_subscription_tests", async {
            let mut conn = store::connection(&self.shared.pool, "take_subscription_tests").await?;
            subscription_tests::take(&mut conn, TESTS).await
        })
        .await?;
        for asked in asked {
            self.test(asked);
        }
        Ok(begun)
    }

    fn start(&mut self, held: Held) {
        let (version, versions) = watch::channel(held.version);
        let stop = self.stop.child_token();
        let (shared, vault) = (self.shared.clone(), self.vault.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(deliver(shared, vault, held, stop.clone(), versions)));
        self.running.insert(held.id, Running { version, stop, task });
    }

    fn test(&self, asked: Asked) {
        let (shared, vault, clock) = (self.shared.clone(), self.vault.clone(), Arc::clone(&self.clock));
        self.tests.spawn(async move {
            if let Err(error) = send_test(&shared, &vault, clock.as_ref(), asked).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    subscription.id = %asked.subscription,
                    "a test event could not be sent"
                );
            }
        });
    }
}

/// Delivers one subscription for as long as this process has it.
async fn deliver(shared: Shared, vault: Vault, held: Held, stop: CancellationToken, versions: watch::Receiver<i32>) {
    loop {
        match deliver_until_changed(&shared, &vault, held, &stop, versions.clone()).await {
            Ok(Some(Over::Changed)) => {}
            Ok(Some(Over::Stopped | Over::Disabled) | None) => return,
            Err(DeliverError::Store(StoreError::Fenced { .. })) => {
                tracing::debug!(subscription.id = %held.id, "another process has the subscription");
                return;
            }
            Err(error) => {
                if !matches!(&error, DeliverError::Store(error) if error.is_closed()) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        subscription.id = %held.id,
                        "a subscription could not be delivered; trying again"
                    );
                }
                let _ = tokio::time::timeout(AFTER_FAILURE, stop.cancelled()).await;
                return;
            }
        }
    }
}

async fn deliver_until_changed(
    shared: &Shared,
    vault: &Vault,
    held: Held,
    stop: &CancellationToken,
    mut versions: watch::Receiver<i32>,
) -> Result<Option<Over>, DeliverError> {
    // Before the row is read, so that a change after it is seen.
    versions.mark_unchanged();
    let Some(target) = load(shared, held.id).await? else {
        return Ok(None);
    };
    let (position, failures) = (target.position, target.failures);
    let first = event_log::extent(&shared.pool).await?.oldest - 1;
    if position < first {
        tracing::warn!(
            subscription.id = %held.id,
            after = position,
            up_to = first,
            "events of a subscription were deleted by age before they were delivered"
        );
    }
    let endpoint = endpoint(vault, &target)?;
    let runner = Runner::new(shared.clone(), held, endpoint, position, failures).await?;
    Ok(Some(runner.run(stop, versions).await?))
}

async fn load(shared: &Shared, id: SubscriptionId) -> Result<Option<Target>, StoreError> {
    let mut conn = store::connection(&shared.pool, "delivery_target").await?;
    deliveries::target(&mut conn, id).await
}

fn endpoint(vault: &Vault, target: &Target) -> Result<Endpoint, DeliverError> {
    let key = |sealed: &Sealed| -> Result<SigningKey, DeliverError> {
        let secret = vault.open_letter(&subscriptions::secret_owner(target.id), sealed)?;
        SigningKey::of(&secret).ok_or(DeliverError::Secret)
    };
    let old = target.old_secret.as_ref();
    Ok(Endpoint {
        url: Url::parse(&target.url).map_err(|_| DeliverError::Url)?,
        filter: EventFilter::new(&target.types, &target.subjects),
        keys: Arc::new(Keys {
            key: key(&target.secret)?,
            old: old.map(|(sealed, _)| key(sealed)).transpose()?,
        }),
        until: old.map(|(_, left)| Instant::now() + *left),
    })
}

async fn send_test(shared: &Shared, vault: &Vault, clock: &dyn Clock, asked: Asked) -> Result<(), DeliverError> {
    let Some(target) = load(shared, asked.subscription).await? else {
        return Ok(());
    };
    let endpoint = endpoint(vault, &target)?;
    let event = EventRecord {
        position: 0,
        event_type: "subscription.test".to_owned(),
        version: 1,
        at: clock.now(),
        subject: Subject::subscription(asked.subscription).to_string(),
        data: json!({ "subscription": asked.subscription }),
    };
    let body = serde_json::to_vec(&event).unwrap_or_default();
    let id = format!("test_{}", asked.id.simple());
    let attempt = shared.sender.send(&endpoint.url, &endpoint.keys.all(), &id, body).await;
    let mut conn = store::connection(&shared.pool, "subscription_test_done").await?;
    subscription_tests::done(
        &mut conn,
        asked.id,
        attempt.status,
        attempt.error.as_deref(),
        attempt.took,
    )
    .await?;
    Ok(())
}

/// From 0 to 1; 0 where the system has no randomness to give.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return 0.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
