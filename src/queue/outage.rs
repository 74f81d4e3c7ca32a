//! Postgres is away: said once when it begins and once when it is over, whichever loop notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::backoff::Random;
use crate::store::StoreError;

/// Shared by the queue's loops.
#[derive(Clone)]
pub struct Outage {
    away: Arc<AtomicBool>,
    random: Arc<dyn Random>,
}

impl Outage {
    pub fn new(random: Arc<dyn Random>) -> Self {
        Self {
            away: Arc::default(),
            random,
        }
    }

    /// Notes a failure and waits before the next try: up to 100 ms doubled per failure in a row, at most two seconds.
    pub async fn failed(&self, error: &StoreError, failures: u32) {
        // A pool that this process has closed is its end, and no failure.
        if !error.is_closed() && !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the database failed; trying again"
            );
        }
        let ceiling = Duration::from_millis(100 << failures.min(5)).min(Duration::from_secs(2));
        tokio::time::sleep(ceiling.mul_f64(0.5 + self.random.unit() / 2.0)).await;
    }

    /// Notes a statement that worked.
    pub fn worked(&self) {
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }
}
