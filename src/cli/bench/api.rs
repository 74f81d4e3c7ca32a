//! The API process of a run: what `wireroom api` runs, on a port that the system chose, ending with its parent.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin},
    process::{Child, ChildStdin, Command},
    time::timeout,
};
use uuid::Uuid;

use super::{site::Site, usage};
use crate::{
    cli::{api, process},
    clock::SystemClock,
    lifecycle::Shutdown,
    queue::Waker,
};

/// How long it has to start, and to end.
const BOUND: Duration = Duration::from_secs(30);
/// How much of its log is shown when it fails, in bytes.
const TAIL: i64 = 4_000;

/// What it tells: where it is.
#[derive(Serialize, Deserialize)]
struct Listening {
    listening: SocketAddr,
}

/// Serves until standard input closes.
pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    let listener = api::listen(config.api.listen).await?;
    let pool = process::connect(&config.database).await?;
    let shutdown = Shutdown::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        // Its end, of whatever kind, is the parent's.
        let _ = stdin().read(&mut [0]).await;
        told.begin();
    });
    let listening = listener.local_addr().context("the listener has no address")?;
    println!("{}", serde_json::to_string(&Listening { listening })?);
    let waker = Waker::start(pool.clone());
    api::serve(&config, pool, waker, Arc::new(SystemClock), listener, &shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// The process, as its parent sees it. It is killed when this is dropped.
pub struct ApiProcess {
    pub address: SocketAddr,
    child: Child,
    input: ChildStdin,
    log: File,
}

impl ApiProcess {
    /// Starts it on the site's schema. It logs as it always does, to a file that goes with the run.
    pub async fn start(site: &Site) -> anyhow::Result<Self> {
        let log = nameless_file().context("no file for the API's log")?;
        let mut child = Command::new(std::env::current_exe().context("the program's own file is not known")?)
            .args(["bench", "api"])
            .env("DATABASE_URL", site.url())
            .env("WIREROOM_API_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .context("the API process did not start")?;
        let input = child.stdin.take().context("it has no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        let line = timeout(BOUND, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            bail!("the API process did not start; it wrote: {}", tail(log));
        };
        let Listening { listening } = serde_json::from_str(&line).context("the API process did not say where it is")?;
        Ok(Self {
            address: listening,
            child,
            input,
            log,
        })
    }

    /// Its user and system time so far in microseconds, where the system tells.
    pub fn cpu_us(&self) -> Option<u64> {
        usage::cpu_us_of(self.child.id()?)
    }

    /// Its resident memory now in bytes, where the system tells.
    pub fn resident(&self) -> Option<u64> {
        usage::resident_of(self.child.id()?)
    }

    /// Ends it as SIGTERM would.
    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = timeout(BOUND, self.child.wait())
            .await
            .context("the API did not end")??;
        if !status.success() {
            bail!("the API ended with {status}; it wrote: {}", tail(self.log));
        }
        Ok(())
    }
}

/// A file that nobody finds, and that is gone when it is closed.
fn nameless_file() -> std::io::Result<File> {
    let path = std::env::temp_dir().join(format!("wireroom-bench-{}.log", Uuid::new_v4().simple()));
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// The end of a log.
fn tail(mut log: File) -> String {
    let mut bytes = Vec::new();
    let end = log.seek(SeekFrom::End(0)).unwrap_or(0).cast_signed();
    let read = log
        .seek(SeekFrom::Start((end - TAIL).max(0).unsigned_abs()))
        .and_then(|_| log.read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(its log cannot be read: {error})"),
    }
}
