//! A worker of a test: a queue with held sessions and the counting function, in this process or in one of its own.

use std::{collections::BTreeSet, process::Stdio, sync::Arc};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Args,
    meter::{Meter, cpu_us, max_rss_kb},
};
use crate::{
    config::{DatabaseConfig, QueueConfig, Secret, Source},
    ids::{SessionId, WorkerId},
    queue::{HeldSession, Queue, QueueDeps, QueueHandle, Sessions, Slots, SystemRandom, Waker},
    store::{self, PgPool, bench, workers::WorkerFacts},
};

/// What a worker process says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub struct Worked {
    pub handled: u64,
    pub twice: u64,
    pub first_us: u64,
    pub cpu_us: u64,
    pub rss_kb: u64,
}

struct Fixed(Vec<HeldSession>, watch::Sender<u64>);

impl Sessions for Fixed {
    fn held(&self) -> Vec<HeldSession> {
        self.0.clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.1.subscribe()
    }
}

/// The defaults of every setting.
pub fn settings() -> anyhow::Result<QueueConfig> {
    Ok(QueueConfig::read(&mut Source::from_values([]))?)
}

pub fn pool(url: &str) -> anyhow::Result<PgPool> {
    let values = [("DATABASE_URL".to_owned(), url.to_owned())];
    let config = DatabaseConfig {
        url: Secret::new(url),
        ..DatabaseConfig::read(&mut Source::from_values(values))?
    };
    Ok(store::pool(&config)?)
}

/// Starts a queue over the sessions that are leased to `worker`.
pub async fn start(
    pool: &PgPool,
    waker: Waker,
    worker: WorkerId,
    slots: i32,
    meter: Arc<Meter>,
) -> anyhow::Result<QueueHandle> {
    let mut conn = store::connection(pool, "sessions_of").await?;
    let sessions = bench::sessions_of(&mut conn, worker).await?;
    drop(conn);
    let held = sessions.into_iter().map(|id| held(id, slots)).collect();
    let deps = QueueDeps {
        pool: pool.clone(),
        config: settings()?,
        waker,
        worker: WorkerFacts {
            id: worker,
            host: "bench".to_owned(),
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        sessions: Arc::new(Fixed(held, watch::channel(0).0)),
        runner: meter,
        random: Arc::new(SystemRandom),
    };
    Ok(Queue::start(deps).await?)
}

fn held(id: SessionId, slots: i32) -> HeldSession {
    HeldSession {
        id,
        pool: "default".to_owned(),
        fence: 1,
        slots: Slots {
            bulk: slots,
            ..Slots::default()
        },
        closed: BTreeSet::new(),
        lost: CancellationToken::new(),
        in_use: TaskTracker::new(),
    }
}

/// A worker process: works until its standard input ends.
pub async fn run(args: &Args, worker: WorkerId) -> anyhow::Result<()> {
    let pool = pool(&args.database_url)?;
    let meter = Arc::new(Meter::new(args.jobs));
    let waker = Waker::start(pool.clone());
    let before = cpu_us()?;
    let queue = start(&pool, waker, worker, args.slots(), Arc::clone(&meter)).await?;
    println!("ready");
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    let used = cpu_us()? - before;
    queue.shutdown().await;
    let worked = Worked {
        handled: meter.handled(),
        twice: meter.twice(),
        first_us: meter.first_us(),
        cpu_us: used,
        rss_kb: max_rss_kb()?,
    };
    println!("{}", serde_json::to_string(&worked)?);
    Ok(())
}

/// A worker process, seen from the test.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one and waits until it is ready.
    pub async fn start(args: &Args, url: &str, worker: WorkerId) -> anyhow::Result<Self> {
        let numbers = [("--jobs", args.jobs), ("--sessions", args.sessions)];
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "work", "--database-url", url, "--worker", &worker.to_string()]);
        for (flag, number) in numbers {
            command.args([flag, &number.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a worker process")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a worker process has no pipes");
        };
        let mut process = Self {
            child,
            stdin: Some(stdin),
            lines: BufReader::new(stdout).lines(),
        };
        match process.lines.next_line().await? {
            Some(line) if line == "ready" => Ok(process),
            _ => bail!("a worker process ended before it was ready"),
        }
    }

    /// Ends it and returns what it says.
    pub async fn end(mut self) -> anyhow::Result<Worked> {
        if let Some(mut stdin) = self.stdin.take() {
            stdin.shutdown().await?;
        }
        let line = self.lines.next_line().await?.context("a worker process said nothing")?;
        let worked = serde_json::from_str(&line).context("a worker process said something else")?;
        self.child.wait().await?;
        Ok(worked)
    }
}
