//! `wireroom bench`: how fast the queue is on a given database, measured with the queue itself. It makes a schema of its own,
//! fills it, starts real worker processes whose function does nothing, and drops the schema, however it ends.

mod api;
mod crew;
mod drain;
mod enqueue;
mod events;
mod figures;
mod http;
mod idle;
mod latency;
mod leases;
#[cfg(feature = "sandbox")]
mod monitor;
#[cfg(feature = "sandbox")]
mod publish;
#[cfg(feature = "sandbox")]
mod scan;
#[cfg(feature = "sandbox")]
mod script;
#[cfg(feature = "sandbox")]
mod sessions;
mod site;
mod soak;
mod tally;
mod usage;
mod worker;

use std::{panic::AssertUnwindSafe, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use futures::FutureExt;

use self::{figures::Figures, site::Site};
use crate::{
    clock::SystemClock,
    config::{Source, TelemetryConfig},
    lifecycle::Signals,
    telemetry,
};

const EXAMPLES: &str = "\
Examples:
  wireroom bench drain --database-url postgres://user@localhost/empty --jobs 100000
  wireroom bench drain --jobs 100000 --sessions 1000 --workers 2 --history 1000000 --future 200000
  wireroom bench enqueue --jobs 16000 --clients 16
  wireroom bench latency --rate 50 --secs 20 --json
  wireroom bench idle --sessions 1000 --secs 60
  wireroom bench http --clients 16 --history 1000000
  wireroom bench events --events 100000
  wireroom bench soak --secs 1200 --kill-every 60
  wireroom bench sessions --accounts 1000 --secs 60
  wireroom bench scan --rounds 5
  wireroom bench scan --answer-after 20 --crowd 100000 --telethon venv/bin/python
  wireroom bench publish --chats 1000
  wireroom bench monitor --chats 1000 --rate 2000 --secs 30

Everything happens in a schema that is made for the run and dropped after it; the role must be allowed to make one. Use
a database that nobody else works in: not because of the data, but because of the figures.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// How fast is a full queue worked off?
    Drain(drain::Args),
    /// How fast does the queue take jobs?
    Enqueue(enqueue::Args),
    /// How long from just before the enqueue to the start of the function?
    Latency(latency::Args),
    /// Nothing to do: for looking at the database and the processes from outside.
    Idle(idle::Args),
    /// How fast is the HTTP API, beside the bare enqueue and a number of finished jobs?
    Http(http::Args),
    /// How soon is an event readable, and how fast are events replayed, read and as webhooks?
    Events(events::Args),
    /// A long run at a steady rate with workers that are killed: is a job lost or doubled, does anything grow?
    Soak(soak::Args),
    /// What do held sessions cost, and how fast do they hear? Against a made-up Telegram.
    #[cfg(feature = "sandbox")]
    Sessions(sessions::Args),
    /// How fast are members read, beside the bare loop of grammers? Against a made-up Telegram.
    #[cfg(feature = "sandbox")]
    Scan(scan::Args),
    /// How much later than its pace does a publish to many chats end? Against a made-up Telegram.
    #[cfg(feature = "sandbox")]
    Publish(publish::Args),
    /// How soon is a message of a watched chat an event, and a webhook? Against a made-up Telegram.
    #[cfg(feature = "sandbox")]
    Monitor(monitor::Args),
    /// One worker process of a bench.
    #[command(hide = true)]
    Worker(worker::Args),
    /// One worker process of a soak.
    #[command(hide = true)]
    SoakWorker,
    /// The API process of a bench.
    #[command(hide = true)]
    Api,
    /// The worker process of `sessions`.
    #[cfg(feature = "sandbox")]
    #[command(hide = true)]
    SessionsWorker,
    /// The made-up Telegram of `sessions`.
    #[cfg(feature = "sandbox")]
    #[command(hide = true)]
    Sandbox(sessions::telegram::Args),
}

/// What a verb found out.
enum Measured {
    Figures(Figures),
    Http(http::Report),
    Events(events::Report),
    Soak(soak::Report),
    #[cfg(feature = "sandbox")]
    Sessions(Box<sessions::Report>),
    #[cfg(feature = "sandbox")]
    Scan(scan::Report),
    #[cfg(feature = "sandbox")]
    Publish(publish::Report),
    #[cfg(feature = "sandbox")]
    Monitor(monitor::Report),
}

impl Measured {
    /// To standard output. Fails when what was found is not good.
    fn print(self, json: bool) -> anyhow::Result<()> {
        match self {
            Self::Figures(figures) => figures.print(json),
            Self::Http(report) => report.print(json),
            Self::Events(report) => report.print(json),
            Self::Soak(report) => report.print(json),
            #[cfg(feature = "sandbox")]
            Self::Sessions(report) => report.print(json),
            #[cfg(feature = "sandbox")]
            Self::Scan(report) => report.print(json),
            #[cfg(feature = "sandbox")]
            Self::Publish(report) => report.print(json),
            #[cfg(feature = "sandbox")]
            Self::Monitor(report) => report.print(json),
        }
    }
}

/// What every verb takes.
#[derive(Debug, Args)]
struct Target {
    /// The database, for example `postgres://user:password@localhost/empty` [default: the variable `DATABASE_URL`].
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// End with one line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Who works, and beside what.
#[derive(Debug, Args)]
struct Surroundings {
    /// Sessions that the jobs are spread over: one has 2,000 slots, more have one each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sessions: u32,
    /// Worker processes; each holds its share of the sessions.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Finished jobs that lie there beforehand.
    #[arg(long, value_name = "N", default_value_t = 0)]
    history: u32,
    /// Jobs for tomorrow that lie there beforehand.
    #[arg(long, value_name = "N", default_value_t = 0)]
    future: u32,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let target = match &command {
        Command::Worker(args) => return worker::run(args).await,
        Command::Api => return api::run().await,
        Command::SoakWorker => return soak::worker::run().await,
        #[cfg(feature = "sandbox")]
        Command::SessionsWorker => return sessions::worker::run().await,
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => return sessions::telegram::run(args).await,
        Command::Drain(args) => &args.target,
        Command::Enqueue(args) => &args.target,
        Command::Latency(args) => &args.target,
        Command::Idle(args) => &args.target,
        Command::Http(args) => &args.target,
        Command::Events(args) => &args.target,
        Command::Soak(args) => &args.target,
        #[cfg(feature = "sandbox")]
        Command::Sessions(args) => &args.target,
        #[cfg(feature = "sandbox")]
        Command::Scan(args) => &args.target,
        #[cfg(feature = "sandbox")]
        Command::Publish(args) => &args.target,
        #[cfg(feature = "sandbox")]
        Command::Monitor(args) => &args.target,
    };
    let json = target.json;
    let mut source = Source::load()?;
    telemetry::init(&TelemetryConfig::read(&mut source)?)?;
    // Taken over before there is a schema to be left behind.
    let mut signals = Signals::listen().context("cannot take over SIGTERM and SIGINT")?;
    if let Some(url) = &target.database_url {
        source.set("DATABASE_URL", url);
    }
    let site = Site::make(source).await?;
    let measured = {
        let measuring = AssertUnwindSafe(measure(&command, &site)).catch_unwind();
        tokio::select! {
            ended = measuring => ended.unwrap_or_else(|_| Err(anyhow!("the measurement panicked"))),
            name = signals.next() => Err(anyhow!("stopped by {name}; nothing was measured")),
        }
    };
    // Its processes went with the measurement.
    let removed = site.remove().await;
    let measured = measured?;
    removed?;
    measured.print(json)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(command: &Command, site: &Site) -> anyhow::Result<Measured> {
    let figures = match command {
        Command::Drain(args) => drain::measure(args, site).await?,
        Command::Enqueue(args) => enqueue::measure(args, site).await?,
        Command::Latency(args) => latency::measure(args, site).await?,
        Command::Idle(args) => idle::measure(args, site).await?,
        Command::Http(args) => return http::measure(args, site).await.map(Measured::Http),
        Command::Events(args) => return events::measure(args, site).await.map(Measured::Events),
        Command::Soak(args) => return soak::measure(args, site).await.map(Measured::Soak),
        #[cfg(feature = "sandbox")]
        Command::Sessions(args) => {
            return sessions::measure(args, site)
                .await
                .map(|report| Measured::Sessions(Box::new(report)));
        }
        #[cfg(feature = "sandbox")]
        Command::Scan(args) => return scan::measure(args, site).await.map(Measured::Scan),
        #[cfg(feature = "sandbox")]
        Command::Publish(args) => return publish::measure(args, site).await.map(Measured::Publish),
        #[cfg(feature = "sandbox")]
        Command::Monitor(args) => return monitor::measure(args, site).await.map(Measured::Monitor),
        #[cfg(feature = "sandbox")]
        Command::SessionsWorker | Command::Sandbox(_) => return Err(no_part()),
        Command::Worker(_) | Command::SoakWorker | Command::Api => {
            return Err(no_part());
        }
    };
    Ok(Measured::Figures(figures))
}

fn no_part() -> anyhow::Error {
    anyhow!("a part of a bench measures nothing by itself")
}

/// Microseconds since 1970 by the machine's clock, which the processes of a run share.
fn now_us() -> i64 {
    use wireroom_jobs::ports::Clock;
    SystemClock.now().timestamp_micros()
}

/// Says something for people, who read standard error while a run lasts.
fn say(what: &str) {
    eprintln!("bench: {what}");
}
