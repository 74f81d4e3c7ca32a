//! What grows, looked at again and again, and whether it does: the last third of the run against the middle one. The first
//! third does not count, since caches, tables and pools reach their size in it.

use serde::Serialize;

use crate::{
    cli::bench::figures::{count, micros_to_secs, rounded},
    store::soak::Sizes,
};

/// Growth up to this part of what it was, and this many MB, is none: a table's size moves in steps, and so does memory.
const TOLERANCE: f64 = 0.2;
const TOLERANCE_MB: f64 = 16.0;

/// Fewer samples say nothing of growth.
const FEWEST: usize = 12;

/// One look.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Microseconds since the run began.
    pub at: i64,
    pub sizes: Sizes,
    /// Calls of the function so far, as far as the workers told.
    pub calls: u64,
    /// Of the worker that is never killed, in bytes.
    pub worker: Option<u64>,
    /// Of the API.
    pub api: Option<u64>,
    /// Workers that are ready.
    pub ready: usize,
}

/// How something went on: its mean in the middle and in the last third.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Trend {
    pub middle_mb: f64,
    pub last_mb: f64,
    pub grows: bool,
}

/// The trend of a figure in bytes; `None` when there were too few looks.
pub fn trend(samples: &[Sample], of: impl Fn(&Sample) -> Option<u64>) -> Option<Trend> {
    let values: Vec<f64> = samples
        .iter()
        .filter_map(of)
        .map(|bytes| count(bytes) / f64::from(1 << 20))
        .collect();
    if values.len() < FEWEST {
        return None;
    }
    let third = values.len() / 3;
    let (before, last) = values.split_at(values.len() - third);
    let (_, middle) = before.split_at(before.len() - third);
    let (middle, last) = (mean(middle), mean(last));
    Some(Trend {
        middle_mb: rounded(middle, 1),
        last_mb: rounded(last, 1),
        grows: last > middle * (1.0 + TOLERANCE) + TOLERANCE_MB,
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / count(values.len() as u64).max(1.0)
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:>7} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8}",
        "s", "jobs", "jobs/s", "backlog", "live MB", "dead", "hist. MB", "worker MB", "API MB", "workers"
    )
}

/// A line of the table: a look, and the rate since the one that the line before shows.
pub fn line(now: &Sample, before: Option<&Sample>) -> String {
    let (at, calls) = before.map_or((0, 0), |before| (before.at, before.calls));
    let rate = count(now.calls.saturating_sub(calls)) / micros_to_secs((now.at - at).max(1));
    let megabytes = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), |bytes| (bytes >> 20).to_string());
    format!(
        "{:>7.0} {:>10} {:>9.0} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>8}",
        micros_to_secs(now.at),
        now.calls,
        rate,
        now.sizes.live,
        now.sizes.live_bytes >> 20,
        now.sizes.dead,
        now.sizes.history_bytes >> 20,
        megabytes(now.worker),
        megabytes(now.api),
        now.ready,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(megabytes: &[u64]) -> Vec<Sample> {
        let sample = |(nth, mb): (usize, &u64)| Sample {
            at: i64::try_from(nth).expect("few") * 10_000_000,
            sizes: Sizes {
                live: 0,
                live_bytes: 0,
                dead: 0,
                history_bytes: 0,
            },
            calls: nth as u64 * 1000,
            worker: Some(mb << 20),
            api: None,
            ready: 2,
        };
        megabytes.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn the_start_does_not_count_and_steps_are_no_growth() {
        let flat = [10, 60, 90, 100, 100, 100, 100, 100, 110, 105, 100, 110];
        let trend = trend(&samples(&flat), |sample| sample.worker).expect("enough");
        assert_eq!((trend.middle_mb, trend.grows), (100.0, false));
    }

    #[test]
    fn what_grows_on_is_seen() {
        let growing: Vec<u64> = (1..=30).map(|n| n * 20).collect();
        assert!(trend(&samples(&growing), |sample| sample.worker).expect("enough").grows);
        assert_eq!(trend(&samples(&growing[..11]), |sample| sample.worker), None);
        assert_eq!(trend(&samples(&growing), |sample| sample.api), None);
    }

    #[test]
    fn a_line_tells_the_rate_since_the_line_before() {
        let samples = samples(&[1, 2]);
        let text = line(&samples[1], Some(&samples[0]));
        assert_eq!(text.split_whitespace().nth(2), Some("100"), "{text}");
        assert_eq!(
            text.split_whitespace().count(),
            head().split_whitespace().count() - 4,
            "{text}"
        );
    }
}
