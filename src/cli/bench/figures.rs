//! What a run comes to.

use serde::Serialize;

/// The figures, as the JSON object has them: a stable contract. `null` where a figure does not apply.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    pub test: &'static str,
    pub jobs: u64,
    pub secs: f64,
    pub rate_per_s: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// User and system time of the workers, or of the producers of an `enqueue`.
    pub worker_cpu_us_per_job: Option<f64>,
    /// The highest resident memory of one of those processes.
    pub rss_mb: Option<f64>,
    /// What was measured, for people: the sessions and their slots, the jobs around.
    #[serde(skip)]
    pub setting: String,
}

impl Figures {
    /// To standard output: the setting, then the figures for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        println!("{}: {}", self.test, self.setting);
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("  {:<24}{} in {:.3} s", "jobs", self.jobs, self.secs);
        for (name, figure) in [
            ("jobs a second", self.rate_per_s),
            ("p50, ms", self.p50_ms),
            ("p95, ms", self.p95_ms),
            ("p99, ms", self.p99_ms),
            ("CPU a job, µs", self.worker_cpu_us_per_job),
            ("most memory, MB", self.rss_mb),
        ] {
            if let Some(figure) = figure {
                println!("  {name:<24}{figure}");
            }
        }
        Ok(())
    }

    /// Sets `secs` and the rate that follows.
    pub fn took(mut self, micros: i64) -> Self {
        let secs = micros_to_secs(micros.max(1));
        self.secs = rounded(secs, 4);
        self.rate_per_s = Some(rounded(count(self.jobs) / secs, 1));
        self
    }

    /// Sets the quantiles of latencies in microseconds.
    pub fn with_latencies(mut self, mut micros: Vec<i64>) -> Self {
        micros.sort_unstable();
        let quantile = |per_cent| quantile(&micros, per_cent).map(|micros| rounded(micros_to_secs(micros) * 1e3, 3));
        (self.p50_ms, self.p95_ms, self.p99_ms) = (quantile(50), quantile(95), quantile(99));
        self
    }

    /// Sets the processes' CPU per job, from microseconds of all of them, and the highest memory, from bytes of one.
    pub fn with_cost(mut self, cpu_us: u64, rss_bytes: u64) -> Self {
        if self.jobs > 0 {
            self.worker_cpu_us_per_job = Some(rounded(count(cpu_us) / count(self.jobs), 2));
        }
        self.rss_mb = Some(rounded(count(rss_bytes) / f64::from(1 << 20), 1));
        self
    }
}

/// The nearest-rank quantile of sorted values.
pub(super) fn quantile(sorted: &[i64], per_cent: usize) -> Option<i64> {
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

#[expect(clippy::cast_precision_loss, reason = "counts and microseconds are far below 2^52")]
pub(super) fn count(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "a run's microseconds are far below 2^52")]
pub(super) fn micros_to_secs(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<i64> = (1..=200).collect();
        assert_eq!(quantile(&values, 50), Some(100));
        assert_eq!(quantile(&values, 99), Some(198));
        assert_eq!(quantile(&values[..1], 50), Some(1));
        assert_eq!(quantile(&[], 50), None);
    }

    #[test]
    fn the_object_has_the_contracts_keys_in_order_and_null_for_the_rest() {
        let figures = Figures {
            test: "drain",
            jobs: 100_000,
            ..Figures::default()
        };
        let text = serde_json::to_string(&figures.took(1_250_000).with_cost(910_000, 21 << 20)).expect("plain values");
        assert_eq!(
            text,
            r#"{"test":"drain","jobs":100000,"secs":1.25,"rate_per_s":80000.0,"p50_ms":null,"p95_ms":null,"p99_ms":null,"worker_cpu_us_per_job":9.1,"rss_mb":21.0}"#
        );
    }
}
