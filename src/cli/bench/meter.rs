//! The function that only counts, and what a process used.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use async_trait::async_trait;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;
use wireroom_jobs::Outcome;

use crate::queue::{Attempt, Runner};

/// Microseconds since 1970: processes of one machine compare them.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement between processes, on one machine"
)]
pub fn now_us() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Counts every job by its number, `i`, and its latency since `t` when that is not 0.
pub struct Meter {
    seen: Vec<AtomicU8>,
    handled: AtomicU64,
    twice: AtomicU64,
    first_us: AtomicU64,
    latencies_us: Mutex<Vec<u64>>,
}

impl Meter {
    /// For jobs numbered from 0; higher numbers are a warm-up and do not count.
    pub fn new(jobs: u64) -> Self {
        let jobs = usize::try_from(jobs).unwrap_or(0);
        Self {
            seen: std::iter::repeat_with(AtomicU8::default).take(jobs).collect(),
            handled: AtomicU64::new(0),
            twice: AtomicU64::new(0),
            first_us: AtomicU64::new(0),
            latencies_us: Mutex::default(),
        }
    }

    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Jobs that came more than once.
    pub fn twice(&self) -> u64 {
        self.twice.load(Ordering::Relaxed)
    }

    /// When the first function started; 0 when none did.
    pub fn first_us(&self) -> u64 {
        self.first_us.load(Ordering::Relaxed)
    }

    /// Latencies, sorted.
    pub fn latencies_us(&self) -> Vec<u64> {
        let mut latencies = std::mem::take(&mut *self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner));
        latencies.sort_unstable();
        latencies
    }

    fn count(&self, args: &Value) {
        let Some(seen) = args["i"].as_u64().and_then(|i| self.seen.get(usize::try_from(i).ok()?)) else {
            return;
        };
        let sent_us = args["t"].as_u64().unwrap_or(0);
        if sent_us > 0 {
            let latency = now_us().saturating_sub(sent_us);
            self.latencies_us
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(latency);
        }
        if self.first_us.load(Ordering::Relaxed) == 0 {
            let _ = self
                .first_us
                .compare_exchange(0, now_us(), Ordering::Relaxed, Ordering::Relaxed);
        }
        if seen.fetch_add(1, Ordering::Relaxed) > 0 {
            self.twice.fetch_add(1, Ordering::Relaxed);
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Runner for Meter {
    async fn run(&self, attempt: Attempt) -> Outcome {
        self.count(&attempt.job.args);
        Outcome::Done(Value::Null)
    }
}

/// The value at a share (0 to 1) of sorted microseconds, in milliseconds.
pub fn percentile_ms(sorted_us: &[u64], share: f64) -> Option<f64> {
    let last = sorted_us.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length, and times far below 2^52"
    )]
    Some(sorted_us[(last as f64 * share).round() as usize] as f64 / 1000.0)
}

/// CPU time of this process so far, user and system, in microseconds.
pub fn cpu_us() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let of = |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0);
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

/// The most resident memory of this process so far, in kilobytes.
pub fn max_rss_kb() -> anyhow::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(u64::try_from(usage.max_rss()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_comes_twice_is_noticed_and_a_warm_up_is_not_counted() {
        let meter = Meter::new(2);
        for i in [0, 1, 1, 7] {
            meter.count(&serde_json::json!({"i": i, "t": 0}));
        }
        assert_eq!((meter.handled(), meter.twice()), (3, 1));
        assert!(meter.latencies_us().is_empty());
    }

    #[test]
    fn percentiles_are_of_the_values_there_are() {
        assert_eq!(percentile_ms(&[], 0.5), None);
        assert_eq!(percentile_ms(&[1000, 2000, 3000], 0.5), Some(2.0));
        assert_eq!(percentile_ms(&[1000, 2000, 3000], 1.0), Some(3.0));
    }
}
