//! The function that does nothing but count, job by job: what was lost or handled twice must show.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering},
};

use anyhow::bail;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use wireroom_jobs::Outcome;

use super::now_us;
use crate::queue::{Attempt, Runner};

/// Counts the jobs of one process by their number `i`.
pub struct Tally {
    runs: Vec<AtomicU8>,
    handled: AtomicU64,
    different: AtomicU64,
    /// Jobs with a number that was not given out, or without one.
    strange: AtomicU64,
    /// When the first one's function was called, in microseconds since 1970; 0 before.
    first: AtomicI64,
    /// From sending to the call of the function in microseconds, by job, for jobs that say when they were sent.
    latencies: Mutex<Vec<(u64, i64)>>,
    watched: AtomicBool,
    changed: Notify,
}

/// The args of a measured job.
#[derive(Default, Deserialize)]
struct Numbers {
    i: Option<u64>,
    #[serde(default)]
    t: i64,
}

/// What one process has handled.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Handled {
    /// One bit per number, base64.
    pub seen: String,
    /// Numbers that this process handled more than once, and jobs without a number of the run.
    pub too_many: u64,
    pub latencies: Vec<(u64, i64)>,
}

impl Tally {
    /// For the numbers below `jobs`.
    pub fn new(jobs: usize) -> Self {
        Self {
            runs: (0..jobs).map(|_| AtomicU8::new(0)).collect(),
            handled: AtomicU64::new(0),
            different: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            first: AtomicI64::new(0),
            latencies: Mutex::default(),
            watched: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// Calls of the function so far.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Acquire)
    }

    /// Different jobs among them.
    pub fn different(&self) -> u64 {
        self.different.load(Ordering::Acquire)
    }

    /// When the first call began, in microseconds since 1970.
    pub fn first(&self) -> i64 {
        self.first.load(Ordering::Acquire)
    }

    /// Resolves when there were other than `known` calls.
    pub async fn other_than(&self, known: u64) {
        loop {
            self.watched.store(true, Ordering::SeqCst);
            if self.handled.load(Ordering::SeqCst) != known {
                self.watched.store(false, Ordering::SeqCst);
                return;
            }
            self.changed.notified().await;
        }
    }

    /// All that was handled.
    pub fn report(&self) -> Handled {
        let count = |index: usize| self.runs[index].load(Ordering::Acquire);
        let mut bits = vec![0_u8; self.runs.len().div_ceil(8)];
        let mut too_many = self.strange.load(Ordering::Acquire);
        for index in 0..self.runs.len() {
            bits[index / 8] |= u8::from(count(index) > 0) << (index % 8);
            too_many += u64::from(count(index).saturating_sub(1));
        }
        Handled {
            seen: STANDARD.encode(bits),
            too_many,
            latencies: self.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn note(&self, i: Option<u64>, sent: i64) {
        let now = now_us();
        let runs = i
            .and_then(|i| usize::try_from(i).ok())
            .and_then(|index| self.runs.get(index));
        match runs {
            // It stays at its highest instead of wrapping round to none.
            Some(runs) if runs.load(Ordering::Relaxed) < u8::MAX => {
                let before = runs.fetch_add(1, Ordering::AcqRel);
                self.different.fetch_add(u64::from(before == 0), Ordering::AcqRel);
            }
            Some(_) => {}
            None => {
                self.strange.fetch_add(1, Ordering::AcqRel);
            }
        }
        if let (Some(i), true) = (i, sent > 0) {
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.push((i, now - sent));
        }
        if self.first.load(Ordering::Acquire) == 0 {
            // Another call may have been first by a few microseconds.
            let _ = self.first.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        }
        self.handled.fetch_add(1, Ordering::SeqCst);
        if self.watched.load(Ordering::SeqCst) && self.watched.swap(false, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}

#[async_trait]
impl Runner for Tally {
    async fn run(&self, attempt: Attempt) -> Outcome {
        // One that cannot be read is one without a number.
        let numbers: Numbers = serde_json::from_str(attempt.job.args.get()).unwrap_or_default();
        self.note(numbers.i, numbers.t);
        Outcome::Done(serde_json::Value::Null)
    }
}

/// Fails unless the processes together handled each number below `jobs` exactly once.
pub fn require_each_once<'a>(jobs: usize, all: impl Iterator<Item = &'a Handled>) -> anyhow::Result<()> {
    let mut seen = vec![0_u8; jobs.div_ceil(8)];
    let mut twice = 0;
    for handled in all {
        let bits = STANDARD.decode(&handled.seen)?;
        if bits.len() != seen.len() {
            bail!("a worker answered for {} numbers instead of {jobs}", bits.len() * 8);
        }
        twice += handled.too_many;
        for (seen, bits) in seen.iter_mut().zip(bits) {
            twice += u64::from((*seen & bits).count_ones());
            *seen |= bits;
        }
    }
    let different: usize = seen.iter().map(|bits| bits.count_ones() as usize).sum();
    if different < jobs || twice > 0 {
        bail!(
            "of {jobs} jobs, {} were lost and {twice} handled more than once",
            jobs - different
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(jobs: usize, handled: &[u64]) -> Handled {
        let tally = Tally::new(jobs);
        for i in handled {
            tally.note(Some(*i), 0);
        }
        tally.report()
    }

    fn verdict(jobs: usize, parts: &[&[u64]]) -> String {
        let all: Vec<Handled> = parts.iter().map(|handled| tally(jobs, handled)).collect();
        match require_each_once(jobs, all.iter()) {
            Ok(()) => "fine".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_job_is_told_apart() {
        assert_eq!(verdict(10, &[&[0, 2, 4, 6, 8, 9], &[1, 3, 5, 7]]), "fine");
        assert_eq!(
            verdict(10, &[&[0, 2, 4, 6, 8], &[1, 3, 5, 7]]),
            "of 10 jobs, 1 were lost and 0 handled more than once"
        );
        // As many calls as jobs, and yet one lost.
        assert_eq!(
            verdict(3, &[&[0, 1, 1]]),
            "of 3 jobs, 1 were lost and 1 handled more than once"
        );
        assert_eq!(
            verdict(3, &[&[0, 1], &[1, 2]]),
            "of 3 jobs, 0 were lost and 1 handled more than once"
        );
        assert_eq!(
            verdict(3, &[&[0, 1, 2, 3]]),
            "of 3 jobs, 0 were lost and 1 handled more than once"
        );
    }

    #[tokio::test]
    async fn a_call_is_noticed() {
        let tally = Tally::new(1);
        tokio::join!(tally.other_than(0), async { tally.note(Some(0), now_us() - 5) });
        assert_eq!(tally.handled(), 1);
        assert!(tally.report().latencies[0].1 >= 5 && tally.first() > 0);
    }
}
