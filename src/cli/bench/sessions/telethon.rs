//! The same accounts held by Telethon in one Python process, to have something to compare with.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdout, Command},
    time::{sleep, timeout},
};

use super::{
    SETTLE,
    telegram::{Account, Telegram},
};
use crate::cli::bench::usage;

const SCRIPT: &str = include_str!("telethon.py");
/// How long the interpreter may take to start.
const START: Duration = Duration::from_secs(30);
/// How long all logins may take: its arithmetic is Python's own.
const LOGIN: Duration = Duration::from_mins(10);
const END: Duration = Duration::from_secs(30);

/// What it takes.
pub struct Held {
    pub accounts: usize,
    /// Resident memory in bytes before the first connection, and with all of them after the time asked for.
    pub base: u64,
    pub idle: u64,
    pub cpu_us: u64,
    pub secs: u32,
}

/// `python` has telethon 1.45.0.
pub async fn measure(python: &Path, telegram: &Telegram, accounts: &[Account], secs: u32) -> anyhow::Result<Held> {
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(telegram.key_file())
        .arg(telegram.port().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} did not start", python.display()))?;
    let process = child.id().context("it has ended")?;
    let mut input = child.stdin.take().context("it has no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
    until(&mut lines, "base", START).await?;
    let resident = || usage::resident_of(process).context("its memory is not known here: this bench needs /proc");
    let cpu_us = || usage::cpu_us_of(process).context("its CPU time is not known here: this bench needs /proc");
    let base = resident()?;
    let phones: Vec<String> = accounts.iter().map(|account| format!("+{}", account.phone)).collect();
    input
        .write_all(format!("{}\n", serde_json::to_string(&phones)?).as_bytes())
        .await?;
    input.flush().await?;
    until(&mut lines, "ready", LOGIN).await?;
    sleep(SETTLE).await;
    let cpu = cpu_us()?;
    sleep(Duration::from_secs(secs.into())).await;
    let held = Held {
        accounts: accounts.len(),
        base,
        idle: resident()?,
        cpu_us: cpu_us()? - cpu,
        secs,
    };
    drop(input);
    let status = timeout(END, child.wait()).await.context("Telethon did not end")??;
    if !status.success() {
        bail!("Telethon ended with {status}; its own words are above");
    }
    Ok(held)
}

async fn until(lines: &mut Lines<BufReader<ChildStdout>>, word: &str, bound: Duration) -> anyhow::Result<()> {
    match timeout(bound, lines.next_line()).await {
        Ok(Ok(Some(line))) if line == word => Ok(()),
        Ok(_) => bail!("Telethon did not come to `{word}`; its own words are above"),
        Err(_) => bail!("Telethon did not come to `{word}` within {} s", bound.as_secs()),
    }
}
