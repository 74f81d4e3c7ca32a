//! What a run comes to, each figure beside what is wanted of it.

use serde::Serialize;

use super::{hook, telethon};
use crate::cli::bench::figures::{count, micros_to_secs, quantile, rounded};

/// The figures, as the JSON object has them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub test: &'static str,
    pub accounts: u32,
    /// From the worker's start until every session answers.
    pub start_secs: f64,
    /// The same until each has fetched what it missed and reads its updates as they come.
    pub reading_secs: f64,
    /// The most connections that were opened within a second.
    pub most_connects_per_s: usize,
    /// Of a worker without sessions.
    pub base_mb: f64,
    /// Of each session beyond that, once all have answered, and after the idle time.
    pub session_kb: f64,
    pub idle_session_kb: f64,
    pub idle_secs: u32,
    /// Of a session that has got so many messages since it connected.
    pub received_session_kb: f64,
    pub received_each: usize,
    /// Of one core.
    pub idle_cpu_percent: f64,
    pub idle_statements_per_s: f64,
    pub statements_by: &'static str,
    /// The worker's own renewals of all leases.
    pub own_renewals: Quantiles,
    /// The same statement from another process, many times.
    pub renewals: Quantiles,
    /// What of those the commit took.
    pub renewal_commits: Quantiles,
    pub arrivals: Quantiles,
    /// Messages a second, and how much of the time a job ran on the sessions that got them.
    pub arrival_rate: u32,
    pub arrival_sessions: usize,
    pub busy_percent: f64,
    pub hook: Hook,
    pub telethon: Option<Telethon>,
    /// Warnings and errors in the worker's log.
    pub complaints: usize,
}

/// Of times in milliseconds.
#[derive(Debug, Default, Serialize, PartialEq)]
pub struct Quantiles {
    pub count: usize,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

impl Quantiles {
    /// From microseconds.
    pub fn of(mut micros: Vec<i64>) -> Self {
        micros.sort_unstable();
        let at = |per_cent| quantile(&micros, per_cent).map(|micros| rounded(micros_to_secs(micros) * 1e3, 2));
        Self {
            count: micros.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }

    pub fn shown(&self) -> String {
        let shown = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| ms.to_string());
        format!(
            "p50 {} ms, p99 {} ms, longest {} ms of {}",
            shown(self.p50_ms),
            shown(self.p99_ms),
            shown(self.max_ms),
            self.count
        )
    }
}

/// What the look before each write costs, and the relay that makes it possible.
#[derive(Debug, Default, Serialize)]
pub struct Hook {
    pub connections: usize,
    pub look_ns: f64,
    pub plain_us: Option<i64>,
    pub relayed_us: Option<i64>,
    pub plain_p99_us: Option<i64>,
    pub relayed_p99_us: Option<i64>,
    pub plain_cpu_us: f64,
    pub relayed_cpu_us: f64,
}

impl Hook {
    pub fn of(connections: usize, cost: &hook::Cost) -> Self {
        Self {
            connections,
            look_ns: rounded(cost.look_ns, 1),
            plain_us: cost.plain.p50_us(),
            relayed_us: cost.relayed.p50_us(),
            plain_p99_us: cost.plain.p99_us(),
            relayed_p99_us: cost.relayed.p99_us(),
            plain_cpu_us: rounded(cost.plain.cpu_us(), 1),
            relayed_cpu_us: rounded(cost.relayed.cpu_us(), 1),
        }
    }

    /// Of a core, for so many sessions that each send a packet a minute.
    fn idle_percent(&self, sessions: u32) -> f64 {
        const PACKETS_PER_S: f64 = 1.0 / 60.0;
        (self.relayed_cpu_us - self.plain_cpu_us) * PACKETS_PER_S * f64::from(sessions) / 1e4
    }
}

/// The same accounts, or the first of them, in one Python process.
#[derive(Debug, Default, Serialize)]
pub struct Telethon {
    pub accounts: usize,
    pub base_mb: f64,
    pub session_kb: f64,
    pub rss_mb: f64,
    pub idle_cpu_percent: f64,
}

impl Telethon {
    pub fn of(held: &telethon::Held) -> Self {
        Self {
            accounts: held.accounts,
            base_mb: megabytes(held.base),
            session_kb: kilobytes_each(held.idle, held.base, held.accounts),
            rss_mb: megabytes(held.idle),
            idle_cpu_percent: percent(held.cpu_us, held.secs),
        }
    }
}

pub fn megabytes(bytes: u64) -> f64 {
    rounded(count(bytes) / f64::from(1 << 20), 1)
}

/// Thousands of bytes.
pub fn kilobytes_each(bytes: u64, base: u64, sessions: usize) -> f64 {
    rounded(
        count(bytes.saturating_sub(base)) / 1e3 / count(sessions.max(1) as u64),
        1,
    )
}

/// Of one core.
pub fn percent(cpu_us: u64, secs: u32) -> f64 {
    rounded(count(cpu_us) / 1e4 / f64::from(secs.max(1)), 2)
}

/// The most of these times, in microseconds, that lie within a second.
pub fn most_within_a_second(times: &[i64]) -> usize {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (nth, time) in sorted.iter().enumerate() {
        while *time - sorted[first] >= 1_000_000 {
            first += 1;
        }
        most = most.max(nth + 1 - first);
    }
    most
}

/// A line for people: what, how much, and the bound with the figure that has to stay under it.
type Row = (&'static str, String, Option<(f64, f64, &'static str)>);

impl Report {
    /// To standard output, for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        println!(
            "sessions: {} accounts of a made-up Telegram, held by one worker process",
            self.accounts
        );
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        for (name, value, goal) in self.rows() {
            let verdict = goal.map_or_else(String::new, |(figure, bound, unit)| {
                let met = if figure < bound { "met" } else { "MISSED" };
                format!("  (under {bound} {unit}: {met})")
            });
            println!("  {name:<30}{value}{verdict}");
        }
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let under = |figure: Option<f64>, bound, unit| Some((figure.unwrap_or(f64::INFINITY), bound, unit));
        let mut rows = vec![
            (
                "start until all answer",
                format!("{} s", self.start_secs),
                under(Some(self.start_secs), 60.0, "s"),
            ),
            (
                "start until all read updates",
                format!("{} s", self.reading_secs),
                under(Some(self.reading_secs), 60.0, "s"),
            ),
            ("most connects in a second", self.most_connects_per_s.to_string(), None),
            ("worker without sessions", format!("{} MB", self.base_mb), None),
            (
                "each session, just connected",
                format!("{} kB", self.session_kb),
                under(Some(self.session_kb), 100.0, "kB"),
            ),
            (
                "each session, after idling",
                format!("{} kB after {} s", self.idle_session_kb, self.idle_secs),
                under(Some(self.idle_session_kb), 100.0, "kB"),
            ),
            (
                "… that has got messages",
                format!("{} kB after {} each", self.received_session_kb, self.received_each),
                None,
            ),
            (
                "idle CPU",
                format!("{} % of a core", self.idle_cpu_percent),
                under(Some(self.idle_cpu_percent), 2.0, "%"),
            ),
            (
                "idle statements",
                format!("{} a second, by {}", self.idle_statements_per_s, self.statements_by),
                under(Some(self.idle_statements_per_s), 3.0, "a second"),
            ),
            ("renewal of all, the worker's", self.own_renewals.shown(), None),
            (
                "renewal of all, repeated",
                self.renewals.shown(),
                under(self.renewals.p99_ms, 10.0, "ms"),
            ),
            ("… of which the commit", self.renewal_commits.shown(), None),
            (
                "message to its commit",
                format!(
                    "{}; {} a second to {} sessions, of which {} % had a job running",
                    self.arrivals.shown(),
                    self.arrival_rate,
                    self.arrival_sessions,
                    self.busy_percent
                ),
                under(self.arrivals.p99_ms, 25.0, "ms"),
            ),
        ];
        rows.extend(self.hook_rows());
        rows.extend(self.telethon_rows());
        rows.push(("warnings of the worker", self.complaints.to_string(), None));
        rows
    }

    fn hook_rows(&self) -> [Row; 4] {
        let hook = &self.hook;
        let way = |p50: Option<i64>, p99: Option<i64>, cpu: f64| {
            format!(
                "p50 {} µs, p99 {} µs, CPU {cpu} µs a round trip",
                p50.unwrap_or(0),
                p99.unwrap_or(0)
            )
        };
        [
            ("a look at the trust", format!("{} ns", hook.look_ns), None),
            (
                "round trip without the relay",
                way(hook.plain_us, hook.plain_p99_us, hook.plain_cpu_us),
                None,
            ),
            (
                "… through it",
                format!(
                    "{}, over {} connections",
                    way(hook.relayed_us, hook.relayed_p99_us, hook.relayed_cpu_us),
                    hook.connections
                ),
                None,
            ),
            (
                "… of an idle worker's CPU",
                format!(
                    "{} % of a core, at a packet a minute",
                    rounded(hook.idle_percent(self.accounts), 3)
                ),
                None,
            ),
        ]
    }

    fn telethon_rows(&self) -> Vec<Row> {
        let Some(telethon) = &self.telethon else {
            return Vec::new();
        };
        vec![
            (
                "Telethon, each session",
                format!(
                    "{} kB, of {} accounts ({} MB, {} MB before the first)",
                    telethon.session_kb, telethon.accounts, telethon.rss_mb, telethon.base_mb
                ),
                None,
            ),
            (
                "Telethon, idle CPU",
                format!("{} % of a core", telethon.idle_cpu_percent),
                None,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_any_second() {
        assert_eq!(most_within_a_second(&[]), 0);
        let times = [0, 900_000, 1_000_000, 1_100_000, 1_899_999, 5_000_000];
        assert_eq!(most_within_a_second(&times), 4);
    }

    #[test]
    fn what_misses_its_bound_is_told_from_what_meets_it() {
        let report = Report {
            start_secs: 61.0,
            idle_cpu_percent: 1.9,
            ..Report::default()
        };
        let met = |name: &str| {
            let rows = report.rows();
            let row = rows.iter().find(|row| row.0 == name).expect("a row");
            row.2.is_some_and(|(figure, bound, _)| figure < bound)
        };
        assert!(!met("start until all answer") && met("idle CPU"));
        assert!(!met("message to its commit"), "what was not measured is not met");
    }

    #[test]
    fn figures_are_in_their_units() {
        assert!((kilobytes_each(120_000_000, 20_000_000, 1_000) - 100.0).abs() < 0.01);
        assert!((percent(600_000, 60) - 1.0).abs() < 0.01);
        let quantiles = Quantiles::of((1..=100).map(|ms| ms * 1_000).collect());
        assert_eq!(
            (quantiles.p50_ms, quantiles.p99_ms, quantiles.max_ms),
            (Some(50.0), Some(99.0), Some(100.0))
        );
    }
}
