//! What a soak comes to, and whether that is good.

use anyhow::bail;
use serde::Serialize;

use super::{account::Balance, samples::Trend};
use crate::cli::bench::figures::rounded;

/// The figures, as the JSON object has them.
#[derive(Debug, Serialize)]
pub struct Report {
    test: &'static str,
    /// Nothing in `why`.
    pub ok: bool,
    /// What went wrong.
    pub why: Vec<String>,
    pub secs: f64,
    /// Jobs that were enqueued, and how many a second.
    pub jobs: u64,
    pub rate_per_s: f64,
    /// The rate that was asked for, or found.
    pub wanted_per_s: u32,
    pub workers: u32,
    pub kills: u32,
    lost: u64,
    twice: u64,
    doubled: u64,
    rescued: u64,
    taken: u64,
    /// Jobs that the API accepted.
    pub posted: u64,
    /// Of the history, its indexes included.
    pub bytes_per_finished_job: Option<f64>,
    pub live: Option<Trend>,
    pub worker_memory: Option<Trend>,
    pub api_memory: Option<Trend>,
}

/// What is known beside the account.
pub struct Facts {
    pub secs: f64,
    pub jobs: u64,
    pub wanted_per_s: u32,
    pub workers: u32,
    pub kills: u32,
    pub posted: u64,
    pub bytes_per_finished_job: Option<f64>,
    pub live: Option<Trend>,
    pub worker_memory: Option<Trend>,
    pub api_memory: Option<Trend>,
}

impl Report {
    pub fn of(facts: Facts, balance: &Balance) -> Self {
        let mut why = Vec::new();
        let mut wrong = |count: u64, what: &str| {
            if count > 0 {
                why.push(format!("{count} {what}"));
            }
        };
        wrong(balance.lost, "job(s) were lost");
        wrong(balance.twice, "job(s) have two results");
        wrong(
            balance.doubled,
            "job(s) were run more than once, or finished without being run, and no worker was killed under them",
        );
        wrong(balance.strange, "finished job(s) have a number that was not given out");
        wrong(balance.otherwise, "job(s) did not succeed");
        wrong(
            facts.posted.abs_diff(balance.posted),
            "job(s) that the API accepted were lost or doubled",
        );
        for (trend, what) in [
            (&facts.live, "the table of live jobs"),
            (&facts.worker_memory, "the memory of a worker"),
            (&facts.api_memory, "the memory of the API"),
        ] {
            if let Some(Trend {
                middle_mb,
                last_mb,
                grows: true,
            }) = trend
            {
                why.push(format!(
                    "{what} grows: {middle_mb} MB in the middle of the run, {last_mb} MB in its last third"
                ));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a number of jobs is far below 2^52")]
        let rate = facts.jobs as f64 / facts.secs.max(0.001);
        Self {
            test: "soak",
            ok: why.is_empty(),
            why,
            secs: rounded(facts.secs, 1),
            jobs: facts.jobs,
            rate_per_s: rounded(rate, 1),
            wanted_per_s: facts.wanted_per_s,
            workers: facts.workers,
            kills: facts.kills,
            lost: balance.lost,
            twice: balance.twice,
            doubled: balance.doubled,
            rescued: balance.rescued,
            taken: balance.taken,
            posted: facts.posted,
            bytes_per_finished_job: facts.bytes_per_finished_job.map(|bytes| rounded(bytes, 0)),
            live: facts.live,
            worker_memory: facts.worker_memory,
            api_memory: facts.api_memory,
        }
    }

    /// To standard output, for people or as JSON. Fails when the run was not good.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        println!(
            "soak: {} jobs in {} s, {} a second of {} wanted; {} worker(s), {} kill(s)",
            self.jobs, self.secs, self.rate_per_s, self.wanted_per_s, self.workers, self.kills
        );
        if json {
            println!("{}", serde_json::to_string(self)?);
        } else {
            self.print_for_people();
        }
        if self.ok {
            return Ok(());
        }
        bail!("the soak is not good: {}", self.why.join("; "))
    }

    fn print_for_people(&self) {
        for (name, value) in [
            ("lost", self.lost),
            ("with two results", self.twice),
            ("run twice without a kill", self.doubled),
            ("run again after a kill", self.rescued),
            ("taken from a live worker", self.taken),
            ("accepted over HTTP", self.posted),
        ] {
            println!("  {name:<28}{value}");
        }
        if let Some(bytes) = self.bytes_per_finished_job {
            println!("  {:<28}{bytes} bytes a job, indexes included", "history");
        }
        for (name, trend) in [
            ("live table", &self.live),
            ("memory of a worker", &self.worker_memory),
            ("memory of the API", &self.api_memory),
        ] {
            match trend {
                None => println!("  {name:<28}too short a run to tell"),
                Some(trend) => println!(
                    "  {name:<28}{} MB in the middle third, {} MB in the last: {}",
                    trend.middle_mb,
                    trend.last_mb,
                    if trend.grows { "GROWS" } else { "flat" }
                ),
            }
        }
        println!("  {:<28}{}", "verdict", if self.ok { "good" } else { "NOT GOOD" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            secs: 10.0,
            jobs: 100,
            wanted_per_s: 10,
            workers: 2,
            kills: 1,
            posted: 5,
            bytes_per_finished_job: None,
            live: None,
            worker_memory: None,
            api_memory: None,
        }
    }

    #[test]
    fn a_good_run_is_one_that_nothing_is_wrong_with() {
        let rescued = Balance {
            rescued: 7,
            posted: 5,
            ..Balance::default()
        };
        let report = Report::of(facts(), &rescued);
        assert!(report.ok, "{:?}", report.why);
        assert!((report.rate_per_s - 10.0).abs() < 0.01);
    }

    #[test]
    fn each_thing_that_is_wrong_is_said() {
        let balance = Balance {
            lost: 1,
            twice: 1,
            doubled: 1,
            strange: 1,
            otherwise: 1,
            ..Balance::default()
        };
        let grows = Some(Trend {
            middle_mb: 10.0,
            last_mb: 100.0,
            grows: true,
        });
        let facts = Facts {
            live: grows.clone(),
            worker_memory: grows.clone(),
            api_memory: grows,
            ..facts()
        };
        let report = Report::of(facts, &balance);
        assert!(!report.ok);
        assert_eq!(report.why.len(), 9, "{:?}", report.why);
    }
}
