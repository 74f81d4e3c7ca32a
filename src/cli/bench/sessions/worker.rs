//! The worker process of a run: what `wireroom worker` runs, ending with its parent, who learns from its log how far it is.

use std::{
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin},
    process::{Child, ChildStderr, ChildStdin, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    cli::{
        bench::{site::Site, usage},
        descriptors, process, worker,
    },
    lifecycle::Shutdown,
};

/// How long it has to say that it is ready, and to end.
const BOUND: Duration = Duration::from_mins(2);
/// What it logs: its own way to each session beside the usual.
const FILTER: &str = "info,wireroom::telegram=debug,wireroom::sessions=debug";

/// Works until standard input closes.
pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    descriptors::raise_limit();
    let pool = process::connect(&config.database).await?;
    let shutdown = Shutdown::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        // Its end, of whatever kind, is the parent's.
        let _ = stdin().read(&mut [0]).await;
        told.begin();
    });
    worker::work(&config, pool, &shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// A line of its log, as far as it counts here.
#[derive(Deserialize)]
struct Line {
    timestamp: DateTime<Utc>,
    level: String,
    message: String,
    /// Of a renewal.
    micros: Option<i64>,
    sessions: Option<usize>,
}

/// What its log has told.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub is_ready: bool,
    /// When it dialled, in microseconds since 1970.
    pub dials: Vec<i64>,
    /// When each session first answered.
    pub answers: Vec<i64>,
    /// When each began to read its updates as they come.
    pub reading: Vec<i64>,
    /// How long each renewal of all leases took, in microseconds.
    pub renewals: Vec<i64>,
    /// Warnings and errors.
    pub complaints: usize,
}

impl Seen {
    fn take(&mut self, line: &Line) {
        let at = line.timestamp.timestamp_micros();
        match line.message.as_str() {
            "worker is ready" => self.is_ready = true,
            "dialling" => self.dials.push(at),
            "the session answers" => self.answers.push(at),
            "the session reads its updates" => self.reading.push(at),
            "renewed the leases" if line.sessions.is_some_and(|sessions| sessions > 0) => {
                self.renewals.extend(line.micros);
            }
            _ => {}
        }
    }
}

/// The process, as its parent sees it. It is killed when this is dropped.
pub struct Worker {
    child: Child,
    input: ChildStdin,
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<bool>,
}

impl Worker {
    /// Starts it on the site's schema with these variables, and waits until it says that it is ready. That is before it
    /// holds a session.
    pub async fn start(site: &Site, variables: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe().context("the program's own file is not known")?)
            .args(["bench", "sessions-worker"])
            // Not as arguments: those are there for everyone on the machine to see.
            .env("DATABASE_URL", site.url())
            .env("WIREROOM_LOG", FILTER)
            .env("WIREROOM_LOG_FORMAT", "json")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the worker did not start")?;
        let input = child.stdin.take().context("it has no input")?;
        let output = child.stderr.take().context("it has no error stream")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (telling, changed) = watch::channel(false);
        tokio::spawn(listen(output, Arc::clone(&seen), telling));
        let mut worker = Self {
            child,
            input,
            seen,
            changed,
        };
        worker.until("become ready", BOUND, |seen| seen.is_ready).await?;
        Ok(worker)
    }

    /// What its log has told so far.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Waits until its log has told enough.
    pub async fn until(&mut self, what: &str, bound: Duration, enough: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let waiting = async {
            while !enough(&self.lock()) {
                if self.changed.changed().await.is_err() {
                    bail!("the worker ended before it could {what}; its own words are above");
                }
            }
            Ok(())
        };
        let waited = timeout(bound, waiting).await;
        waited.unwrap_or_else(|_| {
            let seen = self.seen();
            bail!(
                "the worker did not {what} within {} s: {} connections were opened, {} sessions answered, {} read their updates",
                bound.as_secs(),
                seen.dials.len(),
                seen.answers.len(),
                seen.reading.len()
            )
        })
    }

    /// Its user and system time so far in microseconds.
    pub fn cpu_us(&self) -> anyhow::Result<u64> {
        let cpu = self.child.id().and_then(usage::cpu_us_of);
        cpu.context("the worker's CPU time is not known here: this bench needs /proc")
    }

    /// Its resident memory now in bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let resident = self.child.id().and_then(usage::resident_of);
        resident.context("the worker's memory is not known here: this bench needs /proc")
    }

    /// Ends it as SIGTERM would.
    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = timeout(BOUND, self.child.wait())
            .await
            .context("the worker did not end")??;
        if !status.success() {
            bail!("the worker ended with {status}; its own words are above");
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many complaints are passed on: a thousand sessions have the same ones.
const MOST_COMPLAINTS: usize = 20;

/// Takes in what it logs, and passes the first complaints on.
async fn listen(output: ChildStderr, seen: Arc<Mutex<Seen>>, telling: watch::Sender<bool>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        let line = serde_json::from_str::<Line>(&text);
        let complains = line
            .as_ref()
            .map_or(true, |line| line.level == "WARN" || line.level == "ERROR");
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(line) = line {
            seen.take(&line);
        }
        if complains {
            seen.complaints += 1;
            if seen.complaints <= MOST_COMPLAINTS {
                eprintln!("{text}");
            }
        }
        drop(seen);
        telling.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_understood() {
        let mut seen = Seen::default();
        for text in [
            r#"{"timestamp":"2026-01-01T00:00:00.000005Z","level":"DEBUG","message":"dialling","target":"x"}"#,
            r#"{"timestamp":"2026-01-01T00:00:01.0Z","level":"DEBUG","message":"the session answers"}"#,
            r#"{"timestamp":"2026-01-01T00:00:01.0Z","level":"DEBUG","message":"renewed the leases","sessions":3,"micros":70}"#,
            r#"{"timestamp":"2026-01-01T00:00:01.0Z","level":"INFO","message":"something else"}"#,
        ] {
            seen.take(&serde_json::from_str(text).expect("a line"));
        }
        assert_eq!((seen.answers.len(), seen.renewals), (1, vec![70]));
        assert_eq!(seen.dials[0] % 1_000_000, 5);
    }
}
