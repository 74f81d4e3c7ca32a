//! `wireroom bench`: how fast the queue is, measured on a queue that does everything it does in production. The functions
//! only count, and every job is told apart: a run in which one was lost or came twice has failed.

mod meter;
mod tests;
mod work;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::store::bench;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// How fast a full queue is worked off.
    Drain,
    /// How fast jobs are stored.
    Enqueue,
    /// From just before the enqueue to the function's start.
    Latency,
    /// Nothing to do, for a while: look at the server from outside.
    Idle,
    /// One worker process of a test.
    #[value(hide = true)]
    Work,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    test: Test,
    /// The server; a database of its own is made there, and dropped at the end.
    #[arg(long)]
    database_url: String,
    /// Jobs to queue; latency makes one per tick instead.
    #[arg(long, default_value_t = 100_000)]
    jobs: u64,
    /// Producers at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// Jobs per call of a producer.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    bulk: u64,
    /// Sessions that jobs are pinned to. One alone has 2,000 slots, several have one each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    sessions: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    workers: u64,
    /// Jobs a second.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Seconds of latency and idle.
    #[arg(long, default_value_t = 20)]
    secs: u64,
    /// Finished jobs that lie about.
    #[arg(long, default_value_t = 0)]
    history: i64,
    /// Jobs of tomorrow that lie about.
    #[arg(long, default_value_t = 0)]
    future: i64,
    /// The last line is one JSON object.
    #[arg(long)]
    json: bool,
    /// The worker that a process of `work` is.
    #[arg(long, hide = true)]
    worker: Option<uuid::Uuid>,
}

impl Args {
    /// Slots of each session.
    const fn slots(&self) -> i32 {
        if self.sessions == 1 { 2000 } else { 1 }
    }
}

/// What a test found; the harness wants exactly these keys.
#[derive(Debug, Default, Serialize)]
struct Report {
    test: &'static str,
    jobs: u64,
    secs: Option<f64>,
    rate_per_s: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    worker_cpu_us_per_job: Option<f64>,
    rss_mb: Option<f64>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.test == Test::Work {
        let Some(worker) = args.worker else {
            bail!("`bench work` is started by the other tests");
        };
        work::run(&args, crate::ids::WorkerId(worker)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (name, url) = bench::create_database(&args.database_url)
        .await
        .context("cannot make a database for the measurement")?;
    let measured = tokio::select! {
        measured = tests::measure(&args, &url) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    bench::drop_database(&args.database_url, &name)
        .await
        .context("the database of the measurement could not be dropped")?;
    let report = measured?;
    eprintln!("slots per session: {}", args.slots());
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report:#?}");
    }
    Ok(ExitCode::SUCCESS)
}
