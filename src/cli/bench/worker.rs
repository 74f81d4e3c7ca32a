//! A worker process of the bench: real leases, the real queue, and a function that counts. It is told what to do over its
//! standard input and answers in lines of JSON; when the input closes, it ends, so that none outlives its run.

use std::{io::Write, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin},
    time::{Instant, sleep, timeout},
};

use super::{
    leases::Leases,
    now_us,
    tally::{Handled, Tally},
    usage,
};
use crate::{
    config::{DatabaseConfig, QueueConfig, SessionsConfig, Source, TelemetryConfig},
    ids::WorkerId,
    queue::{Queue, QueueDeps, QueueHandle, SystemRandom, Waker},
    store::{self, workers::WorkerFacts},
    telemetry,
};

/// The word that starts the queue.
pub const GO: &str = "go";

/// How finely the last acknowledgement is timed.
const LOOK: Duration = Duration::from_millis(1);
/// Nothing to do for that long: worth telling.
const SETTLED: Duration = Duration::from_millis(20);
/// How often a process that has something to do tells how far it is.
const TELL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of jobs that there are.
    #[arg(long)]
    jobs: usize,
    /// Most sessions to hold.
    #[arg(long)]
    share: usize,
}

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// So many leases are held.
    Ready { sessions: usize },
    /// How far it is.
    Progress(Progress),
    /// Its last word.
    Ended(Report),
}

/// How far a worker is.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Progress {
    /// Different jobs that were handled.
    pub handled: u64,
    /// The first call; like all times here in microseconds since 1970, and 0 when there is none.
    pub first: i64,
    /// When the end of the last job was stored; 0 while some are not.
    pub stored: i64,
}

/// What a worker did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub handled: Handled,
    pub cpu_us: u64,
    pub peak_memory: u64,
}

pub async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut source = Source::load()?;
    telemetry::init(&TelemetryConfig::read(&mut source)?)?;
    let queue_config = QueueConfig::read(&mut source)?;
    let pool = store::pool(&DatabaseConfig::read(&mut source)?).context("DATABASE_URL is not a Postgres URL")?;
    let mut orders = BufReader::new(stdin()).lines();
    let id = WorkerId::generate();
    let leases = Leases::take(pool.clone(), id, SessionsConfig::read(&mut source)?, args.share).await?;
    tell(&Message::Ready {
        sessions: leases.count(),
    })?;
    match orders.next_line().await? {
        Some(order) if order == GO => {}
        Some(order) => bail!("the order {order:?} is unknown"),
        None => return Ok(ExitCode::SUCCESS),
    }
    let tally = Arc::new(Tally::new(args.jobs));
    let queue = Queue::start(QueueDeps {
        pool: pool.clone(),
        config: queue_config,
        waker: Waker::start(pool.clone()),
        worker: WorkerFacts {
            id,
            host: "bench".into(),
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        sessions: leases.clone(),
        runner: tally.clone(),
        random: Arc::new(SystemRandom),
    })
    .await
    .context("the queue did not start")?;
    tokio::select! {
        told = tell_progress(&tally, &leases) => told?,
        () = input_closed(&mut orders) => {}
    }
    end(queue, &leases, &tally).await?;
    pool.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn end(queue: QueueHandle, leases: &Leases, tally: &Tally) -> anyhow::Result<()> {
    queue.shutdown().await;
    leases.release().await?;
    tell(&Message::Ended(Report {
        handled: tally.report(),
        cpu_us: usage::cpu_us(),
        peak_memory: usage::peak_memory(),
    }))
}

async fn input_closed(orders: &mut Lines<BufReader<Stdin>>) {
    while let Ok(Some(_)) = orders.next_line().await {}
}

/// Tells how far it is whenever all ends are stored, and each second otherwise; silent while nothing happens.
async fn tell_progress(tally: &Tally, leases: &Leases) -> anyhow::Result<()> {
    let mut told = 0;
    loop {
        tally.other_than(told).await;
        let progress = match timeout(TELL, settled(tally, leases)).await {
            Ok((handled, stored)) => {
                told = handled;
                Progress {
                    handled: tally.different(),
                    first: tally.first(),
                    stored,
                }
            }
            Err(_) => Progress {
                handled: tally.different(),
                first: tally.first(),
                stored: 0,
            },
        };
        tell(&Message::Progress(progress))?;
    }
}

/// Waits until every end is stored and stays so for a moment; the calls until then, and when it began to be so.
async fn settled(tally: &Tally, leases: &Leases) -> (u64, i64) {
    loop {
        while !leases.is_idle() {
            sleep(LOOK).await;
        }
        let (handled, stored, since) = (tally.handled(), now_us(), Instant::now());
        while leases.is_idle() && tally.handled() == handled {
            if since.elapsed() >= SETTLED {
                return (handled, stored);
            }
            sleep(LOOK).await;
        }
    }
}

fn tell(message: &Message) -> anyhow::Result<()> {
    let line = serde_json::to_string(message)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}
