//! Leases of a worker process of the bench: taken, renewed, trusted and given back as any worker's, with nothing connected
//! behind them.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::SessionsConfig,
    ids::WorkerId,
    queue::{HeldSession, Sessions, Slots},
    store::{
        self, PgPool, StoreError,
        leases::{self, AcquiredLease, LeaseKey},
    },
};

/// Nothing is connected, so no application is needed.
const NO_API_ID: i32 = 0;

/// The sessions this process holds.
pub struct Leases {
    pool: PgPool,
    worker: WorkerId,
    config: SessionsConfig,
    held: Mutex<Vec<HeldSession>>,
    changed: watch::Sender<u64>,
}

impl Leases {
    /// Takes up to `share` leases, and keeps renewing them until this is dropped.
    pub async fn take(
        pool: PgPool,
        worker: WorkerId,
        config: SessionsConfig,
        share: usize,
    ) -> anyhow::Result<Arc<Self>> {
        let begun = Instant::now();
        let mut conn = store::connection(&pool, "acquire_leases").await?;
        let taken = leases::acquire(&mut conn, worker, NO_API_ID, share, config.lease)
            .await
            .context("no leases could be taken")?;
        drop(conn);
        let held = Arc::new(Self {
            pool,
            worker,
            config,
            held: Mutex::new(taken.into_iter().map(held_session).collect()),
            changed: watch::Sender::new(0),
        });
        tokio::spawn(renew_all(Arc::downgrade(&held), begun));
        Ok(held)
    }

    /// Leases that are held.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether every end of a claimed job is stored.
    pub fn is_idle(&self) -> bool {
        self.lock().iter().all(|session| session.in_use.is_empty())
    }

    /// Gives the leases back.
    pub async fn release(&self) -> anyhow::Result<()> {
        let keys = self.keys();
        let mut conn = store::connection(&self.pool, "release_lease").await?;
        for key in keys {
            leases::release(&mut conn, key).await?;
        }
        Ok(())
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let keys = self.keys();
        let mut conn = store::connection(&self.pool, "renew_leases").await?;
        let renewed = leases::renew(&mut conn, self.worker, NO_API_ID, &keys, self.config.lease).await?;
        let renewed: HashSet<LeaseKey> = renewed.into_iter().map(|renewed| renewed.key).collect();
        self.keep(|session| renewed.contains(&self.key(session)));
        Ok(())
    }

    /// Lets go of the sessions that are not to be kept: their jobs stop.
    fn keep(&self, kept: impl Fn(&HeldSession) -> bool) {
        let mut held = self.lock();
        let before = held.len();
        for session in held.iter().filter(|session| !kept(session)) {
            session.lost.cancel();
        }
        held.retain(kept);
        let lost = before - held.len();
        drop(held);
        if lost > 0 {
            tracing::warn!(lost, "leases were lost");
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn key(&self, session: &HeldSession) -> LeaseKey {
        LeaseKey {
            session: session.id,
            owner: self.worker,
            fence: session.fence,
        }
    }

    fn keys(&self) -> Vec<LeaseKey> {
        self.lock().iter().map(|session| self.key(session)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<HeldSession>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions for Leases {
    fn held(&self) -> Vec<HeldSession> {
        self.lock().clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn held_session(lease: AcquiredLease) -> HeldSession {
    HeldSession {
        id: lease.key.session,
        pool: lease.pool,
        fence: lease.key.fence,
        slots: Slots {
            interactive: lease.interactive_slots,
            bulk: lease.bulk_slots,
            watch: lease.watch_slots,
        },
        closed: BTreeSet::new(),
        pooled: true,
        watches: true,
        lost: CancellationToken::new(),
        leaving: CancellationToken::new(),
        in_use: TaskTracker::new(),
        watching: TaskTracker::new(),
    }
}

/// Renews in one statement for all, each `renew`; trust counts from the start of the last renewal that came back.
async fn renew_all(held: std::sync::Weak<Leases>, mut trusted_from: Instant) {
    loop {
        let Some(every) = held.upgrade().map(|leases| leases.config.renew) else {
            return;
        };
        sleep_until(trusted_from + every).await;
        let Some(leases) = held.upgrade() else { return };
        let begun = Instant::now();
        let trusted = leases.config.lease.saturating_sub(leases.config.margin);
        let left = (trusted_from + trusted).saturating_duration_since(begun);
        match timeout(left, leases.renew()).await {
            Ok(Ok(())) => trusted_from = begun,
            Ok(Err(error)) if !left.is_zero() => {
                tracing::warn!(%error, "leases were not renewed");
                tokio::time::sleep(Duration::from_millis(200).min(left)).await;
            }
            Ok(Err(_)) | Err(_) => {
                leases.keep(|_| false);
                return;
            }
        }
    }
}
