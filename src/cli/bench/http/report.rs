//! What a run of `http` comes to.

use serde::Serialize;

use super::load::Took;
use crate::cli::bench::figures::{count, micros_to_secs, quantile, rounded};

/// The figures, as the JSON object has them.
#[derive(Debug, Serialize)]
pub struct Report {
    test: &'static str,
    clients: u32,
    /// Finished jobs that lay there.
    history: u32,
    /// Jobs a second of the bare enqueue.
    enqueue_per_s: f64,
    /// Jobs a second over HTTP, as fast as they were answered.
    post_per_s: Option<f64>,
    /// The second to the first.
    post_to_enqueue: Option<f64>,
    pub routes: Vec<Route>,
    /// The API's resident memory at the end.
    pub rss_mb: Option<f64>,
}

/// One route under one load.
#[derive(Debug, Serialize)]
pub struct Route {
    #[serde(rename = "route")]
    name: String,
    /// `closed`: the next request when the last is answered; `half`: at half the rate of that; `open`: at the rate asked for.
    load: &'static str,
    requests: u64,
    pub rate_per_s: f64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// User and system time of the API process.
    api_cpu_us_per_request: Option<f64>,
    /// Its p99 to that of `/readyz`, for routes under the same load.
    p99_to_readyz: Option<f64>,
}

impl Route {
    pub fn new(name: &str, load: &'static str, took: Took, cpu_us: Option<u64>) -> Self {
        let mut latencies = took.latencies;
        latencies.sort_unstable();
        let requests = latencies.len() as u64;
        let at = |per_cent| quantile(&latencies, per_cent).map(|micros| rounded(micros_to_secs(micros) * 1e3, 3));
        Self {
            name: name.to_owned(),
            load,
            requests,
            rate_per_s: rounded(count(requests) / micros_to_secs(took.micros.max(1)), 1),
            p50_ms: at(50),
            p95_ms: at(95),
            p99_ms: at(99),
            api_cpu_us_per_request: cpu_us
                .filter(|_| requests > 0)
                .map(|cpu_us| rounded(count(cpu_us) / count(requests), 1)),
            p99_to_readyz: None,
        }
    }
}

impl Report {
    /// With the bare enqueue's jobs and how long they took.
    pub fn new(clients: u32, history: u32, jobs: u32, enqueue_micros: i64) -> Self {
        Self {
            test: "http",
            clients,
            history,
            enqueue_per_s: rounded(f64::from(jobs) / micros_to_secs(enqueue_micros.max(1)), 1),
            post_per_s: None,
            post_to_enqueue: None,
            routes: Vec::new(),
            rss_mb: None,
        }
    }

    /// Adds the closed loop of posts.
    pub fn posted(&mut self, route: Route) {
        self.post_per_s = Some(route.rate_per_s);
        self.post_to_enqueue = Some(rounded(route.rate_per_s / self.enqueue_per_s, 3));
        self.routes.push(route);
    }

    /// To standard output, for people or as JSON.
    pub fn print(mut self, json: bool) -> anyhow::Result<()> {
        self.compare();
        println!(
            "http: {} connection(s) that post, beside {} finished jobs; the API logs to a file",
            self.clients, self.history
        );
        if json {
            println!("{}", serde_json::to_string(&self)?);
            return Ok(());
        }
        println!("  {:<38}{} jobs/s", "bare enqueue, as many clients", self.enqueue_per_s);
        if let Some(ratio) = self.post_to_enqueue {
            println!("  {:<38}{ratio} of that", "POST /v1/jobs");
        }
        println!(
            "  {:<50}{:<8}{:>9}{:>9}{:>9}{:>9}{:>11}{:>12}",
            "route", "load", "req/s", "p50 ms", "p95 ms", "p99 ms", "CPU µs", "p99/readyz"
        );
        for route in &self.routes {
            println!(
                "  {:<50}{:<8}{:>9}{:>9}{:>9}{:>9}{:>11}{:>12}",
                route.name,
                route.load,
                route.rate_per_s,
                shown(route.p50_ms),
                shown(route.p95_ms),
                shown(route.p99_ms),
                shown(route.api_cpu_us_per_request),
                shown(route.p99_to_readyz),
            );
        }
        println!("  {:<38}{}", "memory of the API, MB", shown(self.rss_mb));
        Ok(())
    }

    fn compare(&mut self) {
        let readyz = self.routes.iter().find(|route| route.name == "GET /readyz");
        let Some(readyz) = readyz.and_then(|route| route.p99_ms).filter(|p99| *p99 > 0.0) else {
            return;
        };
        for route in self.routes.iter_mut().filter(|route| route.load == "open") {
            route.p99_to_readyz = route.p99_ms.map(|p99| rounded(p99 / readyz, 2));
        }
    }
}

/// Bytes as MB, to a tenth.
pub fn megabytes(bytes: u64) -> f64 {
    rounded(count(bytes) / f64::from(1 << 20), 1)
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| figure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, load: &'static str, micros: i64) -> Route {
        let took = Took {
            micros: 1_000_000,
            latencies: vec![micros; 200],
        };
        Route::new(name, load, took, Some(20_000))
    }

    #[test]
    fn a_route_is_what_was_measured() {
        let route = route("GET /x", "open", 2_500);
        assert_eq!((route.requests, route.rate_per_s), (200, 200.0));
        assert_eq!((route.p50_ms, route.p99_ms), (Some(2.5), Some(2.5)));
        assert_eq!(route.api_cpu_us_per_request, Some(100.0));
    }

    #[test]
    fn posts_are_compared_with_the_enqueue_and_reads_with_the_yardstick() {
        let mut report = Report::new(16, 0, 1000, 2_000_000);
        report.posted(route("POST /v1/jobs", "closed", 100));
        report.routes.push(route("GET /readyz", "open", 500));
        report.routes.push(route("GET /v1/jobs", "open", 1_500));
        report.compare();
        assert_eq!((report.enqueue_per_s, report.post_to_enqueue), (500.0, Some(0.4)));
        let ratios: Vec<_> = report.routes.iter().map(|route| route.p99_to_readyz).collect();
        assert_eq!(ratios, [None, Some(1.0), Some(3.0)]);
    }
}
