//! How fast is the API, and what does it add to the queue? A real API process over real sockets: jobs posted as fast as they
//! are answered, beside the bare enqueue by as many clients in the same run; then at half that rate; then jobs and filtered
//! lists read, beside a number of finished jobs. `/readyz`, which asks the database two trivial things, is the yardstick.

pub mod client;
mod load;
mod report;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, bail};
use serde_json::Value;

pub use self::report::Report;
use self::{
    client::{Client, request},
    load::{Load, Requests, Took},
    report::Route,
};
use super::{Surroundings, Target, api::ApiProcess, enqueue, say, site::Site};
use crate::ids::JobId;

/// Sessions that the finished jobs belong to.
const SESSIONS: u32 = 100;
/// Jobs that are read one by one, in turn.
const SAMPLE: i64 = 10_000;
/// Connections that read.
const READERS: u32 = 4;
/// Jobs of the pages that are turned to get to the later page.
const LEAFED: u32 = 1_000;
/// How many of those.
const LEAVES: usize = 3;
/// What a client posts. No worker runs, so that nothing joins.
const BODY: &str = r#"{"kind":"join","args":{"chat":"@example"}}"#;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Connections that post at once, and producers of the bare enqueue.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=500))]
    clients: u32,
    /// Jobs to be posted as fast as possible, and to be enqueued.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..))]
    jobs: u32,
    /// Finished jobs to read among.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..))]
    history: u32,
    /// How many seconds at each steady rate.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Reads a second.
    #[arg(long, value_name = "R", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// The API while it is measured.
struct Bench<'a> {
    args: &'a Args,
    site: &'a Site,
    api: ApiProcess,
    key: String,
    /// Jobs that the API has accepted since the table was empty.
    accepted: AtomicU64,
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    let filled = site
        .surround(&Surroundings {
            sessions: SESSIONS,
            workers: 0,
            history: 0,
            future: 0,
        })
        .await?;
    say("filling in finished jobs");
    let jobs = site.fill_history(args.history, &filled.sessions, SAMPLE).await?;
    site.settle().await?;
    let key = site.key().await?;
    say("enqueueing without the API");
    let (micros, _) = enqueue::rate(site, &filled.sessions, args.jobs.into(), args.clients, 1).await?;
    site.clear().await?;
    let bench = Bench {
        args,
        site,
        api: ApiProcess::start(site).await?,
        key,
        accepted: AtomicU64::new(0),
    };
    let mut report = Report::new(args.clients, args.history, args.jobs, micros);
    bench.posts(&mut report).await?;
    bench.reads(&mut report, &jobs, &filled.sessions[0].to_string()).await?;
    report.rss_mb = bench.api.resident().map(report::megabytes);
    bench.api.end().await?;
    Ok(report)
}

impl Bench<'_> {
    /// Posts as fast as they are answered, then at half that rate.
    async fn posts(&self, report: &mut Report) -> anyhow::Result<()> {
        let body = request("POST", "/v1/jobs", &self.key, Some(BODY));
        let load = self.load(self.args.clients, 202, Arc::new(move |_| body.clone()));
        let jobs = u64::from(self.args.jobs);
        // What the first requests of a process find missing (connections, plans, caches) is not what is asked.
        self.post(&load.closed(jobs / 10).await?);
        say("posting as fast as answers come");
        let cpu = self.api.cpu_us();
        let took = load.closed(jobs).await?;
        self.post(&took);
        let closed = Route::new("POST /v1/jobs", "closed", took, self.cpu_since(cpu));
        let half = closed.rate_per_s / 2.0;
        report.posted(closed);
        self.site.require_live(self.accepted.swap(0, Ordering::Relaxed)).await?;
        self.site.clear().await?;
        self.site.settle().await?;
        say("posting at half that rate");
        let route = self.steady("POST /v1/jobs", "half", &load, half).await?;
        report.routes.push(route);
        self.site.require_live(self.accepted.load(Ordering::Relaxed)).await?;
        self.site.clear().await?;
        self.site.settle().await
    }

    fn post(&self, took: &Took) {
        self.accepted.fetch_add(took.latencies.len() as u64, Ordering::Relaxed);
    }

    /// Reads jobs and lists at a modest rate.
    async fn reads(&self, report: &mut Report, jobs: &[JobId], session: &str) -> anyhow::Result<()> {
        say("reading");
        let rate = f64::from(self.args.rate);
        let ready = self.load(READERS, 200, self.get("/readyz"));
        report
            .routes
            .push(self.steady("GET /readyz", "open", &ready, rate).await?);
        let targets: Vec<_> = jobs
            .iter()
            .map(|id| request("GET", &format!("/v1/jobs/{id}"), &self.key, None))
            .collect();
        let one = self.load(
            READERS,
            200,
            Arc::new(move |nth| targets[usize::try_from(nth).unwrap_or(0) % targets.len()].clone()),
        );
        report
            .routes
            .push(self.steady("GET /v1/jobs/{id}", "open", &one, rate).await?);
        let by_session = format!("session={session}");
        for filter in [
            "",
            "kind=scan",
            "state=failed",
            &by_session,
            "kind=publish&state=failed",
            "tag=rare",
        ] {
            let shown = if filter.starts_with("session") {
                "session=…"
            } else {
                filter
            };
            let mark = if filter.is_empty() { "" } else { "?" };
            let first = self.load(READERS, 200, self.get(&format!("/v1/jobs?{filter}")));
            let name = format!("GET /v1/jobs{mark}{shown}");
            report.routes.push(self.steady(&name, "open", &first, rate).await?);
            let Some(cursor) = self.later_cursor(filter).await? else {
                continue;
            };
            let later = self.load(READERS, 200, self.get(&format!("/v1/jobs?{filter}&cursor={cursor}")));
            report.routes.push(
                self.steady(&format!("{name}, a later page"), "open", &later, rate)
                    .await?,
            );
        }
        Ok(())
    }

    /// The cursor after some large pages; of a list that ends before, the last there is.
    async fn later_cursor(&self, filter: &str) -> anyhow::Result<Option<String>> {
        let mut client = Client::connect(self.api.address)
            .await
            .context("the API takes no connection")?;
        let mut cursor: Option<String> = None;
        for _ in 0..LEAVES {
            let from = cursor
                .as_ref()
                .map(|cursor| format!("&cursor={cursor}"))
                .unwrap_or_default();
            let target = format!("/v1/jobs?{filter}&limit={LEAFED}{from}");
            let reply = client.send(&request("GET", &target, &self.key, None)).await?;
            if reply.status != 200 {
                bail!("the API answered {} to a list", reply.status);
            }
            let page: Value = serde_json::from_slice(reply.body).context("the API answered a list that is no JSON")?;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        Ok(cursor)
    }

    /// A moment of the same that does not count, then the time asked for.
    async fn steady(&self, name: &str, kind: &'static str, load: &Load, rate: f64) -> anyhow::Result<Route> {
        let secs = f64::from(self.args.secs);
        let warm_up = load.open(rate, (secs / 5.0).min(1.0), 0).await?;
        let cpu = self.api.cpu_us();
        let took = load
            .open(rate, f64::from(self.args.secs), warm_up.latencies.len() as u64)
            .await?;
        if load.wanted == 202 {
            self.post(&warm_up);
            self.post(&took);
        }
        Ok(Route::new(name, kind, took, self.cpu_since(cpu)))
    }

    fn load(&self, connections: u32, wanted: u16, requests: Requests) -> Load {
        Load {
            address: self.api.address,
            connections,
            requests,
            wanted,
        }
    }

    fn get(&self, target: &str) -> Requests {
        let bytes = request("GET", target, &self.key, None);
        Arc::new(move |_| bytes.clone())
    }

    fn cpu_since(&self, before: Option<u64>) -> Option<u64> {
        Some(self.api.cpu_us()?.saturating_sub(before?))
    }
}
