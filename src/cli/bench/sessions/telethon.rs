//! The same accounts held by Telethon in one Python process, to have something to compare with.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use super::{
    SETTLE,
    telegram::{Account, Telegram},
};
use crate::cli::bench::script::Script;

const SCRIPT: &str = include_str!("telethon.py");
/// How long the interpreter may take to start.
const START: Duration = Duration::from_secs(30);
/// How long all logins may take: its arithmetic is Python's own.
const LOGIN: Duration = Duration::from_mins(10);

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
    let mut script = Script::start(python, SCRIPT, telegram)?;
    script.expect("base", START).await?;
    let base = script.resident()?;
    let phones: Vec<String> = accounts.iter().map(|account| format!("+{}", account.phone)).collect();
    script.tell(&serde_json::to_string(&phones)?).await?;
    script.expect("ready", LOGIN).await?;
    sleep(SETTLE).await;
    let cpu = script.cpu_us()?;
    sleep(Duration::from_secs(secs.into())).await;
    let held = Held {
        accounts: accounts.len(),
        base,
        idle: script.resident()?,
        cpu_us: script.cpu_us()? - cpu,
        secs,
    };
    script.end().await?;
    Ok(held)
}
