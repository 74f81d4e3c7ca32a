//! A worker process of a soak: real leases and the real queue, and a function that says which job it was called for. What it
//! says is on its way to the parent within moments, so that little is unknown of a worker that is killed.

use std::{
    io::Write,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, stdin},
    time::{interval, sleep},
};
use wireroom_jobs::Outcome;

use crate::{
    cli::bench::{leases::Leases, usage},
    config::{DatabaseConfig, QueueConfig, SessionsConfig, Source, TelemetryConfig},
    ids::WorkerId,
    queue::{Attempt, Queue, QueueDeps, Runner, SystemRandom, Waker},
    store::{self, PgPool, workers::WorkerFacts},
    telemetry,
};

/// How often it tells what it was called for.
const TELL: Duration = Duration::from_millis(50);
/// How often it asks for a session that another worker may still hold.
const ASK: Duration = Duration::from_millis(200);

/// What a worker tells.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// It holds a session, and its queue runs.
    Ready { worker: WorkerId },
    /// Numbers of jobs whose function was called: four bytes each, base64.
    Ran(String),
    /// Its last word.
    Ended { cpu_us: u64 },
}

/// The numbers in a [`Message::Ran`].
pub fn numbers(text: &str) -> anyhow::Result<Vec<u32>> {
    let bytes = STANDARD.decode(text).context("a worker told numbers that are none")?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    anyhow::ensure!(rest.is_empty(), "a worker told half a number");
    Ok(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

/// Works until standard input closes.
pub async fn run() -> anyhow::Result<ExitCode> {
    let mut source = Source::load()?;
    telemetry::init(&TelemetryConfig::read(&mut source)?)?;
    let config = QueueConfig::read(&mut source)?;
    let sessions = SessionsConfig::read(&mut source)?;
    let pool = store::pool(&DatabaseConfig::read(&mut source)?).context("DATABASE_URL is not a Postgres URL")?;
    let worker = WorkerId::generate();
    let ended = async {
        // Its end, of whatever kind, is the parent's.
        let _ = stdin().read(&mut [0]).await;
    };
    let mut ended = std::pin::pin!(ended);
    let leases = tokio::select! {
        leases = one_session(&pool, worker, &sessions) => leases?,
        () = &mut ended => return Ok(ExitCode::SUCCESS),
    };
    let calls = Arc::new(Calls::default());
    let queue = Queue::start(QueueDeps {
        pool: pool.clone(),
        config,
        waker: Waker::start(pool.clone()),
        worker: WorkerFacts {
            id: worker,
            host: "bench".into(),
            pid: std::process::id().cast_signed(),
            version: env!("CARGO_PKG_VERSION").into(),
        },
        sessions: leases.clone(),
        runner: calls.clone(),
        random: Arc::new(SystemRandom),
    })
    .await
    .context("the queue did not start")?;
    tell(&Message::Ready { worker })?;
    tokio::select! {
        told = tell_calls(&calls) => told?,
        () = &mut ended => {}
    }
    queue.shutdown().await;
    leases.release().await?;
    calls.tell()?;
    tell(&Message::Ended {
        cpu_us: usage::cpu_us(),
    })?;
    pool.close().await;
    Ok(ExitCode::SUCCESS)
}

/// A session, as soon as one is free: that of a worker that was killed is when its lease has run out.
async fn one_session(pool: &PgPool, worker: WorkerId, config: &SessionsConfig) -> anyhow::Result<Arc<Leases>> {
    loop {
        let leases = Leases::take(pool.clone(), worker, config.clone(), 1).await?;
        if leases.count() > 0 {
            return Ok(leases);
        }
        drop(leases);
        sleep(ASK).await;
    }
}

/// Calls of the function that were not told yet.
#[derive(Default)]
struct Calls(Mutex<Vec<u8>>);

impl Calls {
    fn tell(&self) -> anyhow::Result<()> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if bytes.is_empty() {
            return Ok(());
        }
        tell(&Message::Ran(STANDARD.encode(bytes)))
    }
}

/// The part of a job's args that counts.
#[derive(Default, Deserialize)]
struct Numbered {
    i: Option<u32>,
}

#[async_trait]
impl Runner for Calls {
    async fn run(&self, attempt: Attempt) -> Outcome {
        // Jobs that came over HTTP have no number, and are counted by the API's answers.
        let args: Numbered = serde_json::from_str(attempt.job.args.get()).unwrap_or_default();
        if let Some(number) = args.i {
            let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Outcome::Done(serde_json::Value::Null)
    }
}

async fn tell_calls(calls: &Calls) -> anyhow::Result<()> {
    let mut tick = interval(TELL);
    loop {
        tick.tick().await;
        calls.tell()?;
    }
}

fn tell(message: &Message) -> anyhow::Result<()> {
    let line = serde_json::to_string(message)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were_told() {
        let bytes: Vec<u8> = [0_u32, 7, u32::MAX]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        assert_eq!(numbers(&STANDARD.encode(&bytes)).expect("numbers"), [0, 7, u32::MAX]);
        numbers(&STANDARD.encode(&bytes[..5])).expect_err("half a number");
    }
}
