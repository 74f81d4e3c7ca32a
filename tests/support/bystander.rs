//! How long the machine keeps somebody waiting who has no part in a test: what a promise in seconds is allowed on top, so that
//! it is kept to on a machine with nothing else to do, and not broken by one that is busy with other tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::PgPool;
use tokio::{task::JoinHandle, time::Instant};

/// How often the bystander asks.
const PAUSE: Duration = Duration::from_millis(10);
/// How many turns like the bystander's there are between what happens and what a test sees of it: processes that wake up, and
/// statements that are answered.
const TURNS: u32 = 8;

/// Asks the database something that costs nothing, again and again, until it is dropped.
pub struct Bystander {
    worst_micros: Arc<AtomicU64>,
    asking: JoinHandle<()>,
}

impl Bystander {
    pub fn beside(pool: &PgPool) -> Self {
        let worst_micros = Arc::new(AtomicU64::new(0));
        let (pool, worst) = (pool.clone(), Arc::clone(&worst_micros));
        let asking = tokio::spawn(async move {
            loop {
                let began = Instant::now();
                tokio::time::sleep(PAUSE).await;
                // A test may take the database away; whoever waits for it is kept waiting all the same.
                let _answer = sqlx::query("SELECT 1").execute(&pool).await;
                let late = began.elapsed().saturating_sub(PAUSE);
                worst.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { worst_micros, asking }
    }

    /// What a promise is allowed on top, after what was seen so far.
    pub fn allows(&self) -> Duration {
        Duration::from_micros(self.worst_micros.load(Ordering::Relaxed)) * TURNS
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

#[tokio::test]
async fn a_machine_that_stands_still_is_noticed() {
    let database = wireroom::cluster::testing::TestDatabase::new().await;
    let bystander = Bystander::beside(database.pool());
    super::wait::eventually(Duration::from_secs(20), async || match bystander.allows() {
        Duration::ZERO => Err("it has not asked yet"),
        _ => Ok(()),
    })
    .await;
    let stood = Duration::from_millis(200);
    // This runtime's one thread.
    let (_nobody, says) = std::sync::mpsc::channel::<()>();
    assert!(says.recv_timeout(stood).is_err());
    super::wait::eventually(Duration::from_secs(20), async || match bystander.allows() {
        allowed if allowed > stood / 2 * TURNS => Ok(()),
        allowed => Err(allowed),
    })
    .await;
}
