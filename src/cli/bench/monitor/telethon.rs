//! The messages of the same chats stored by a script of Telethon's, as such scripts do.

use std::{path::Path, time::Duration};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::WARM_UP;
use crate::cli::bench::{
    figures::{count, micros_to_secs, rounded},
    script::Script,
    sessions::{
        report::{Quantiles, megabytes, percent},
        telegram::{Talk, Telegram},
    },
};

const SCRIPT: &str = include_str!("telethon.py");
/// How long all logins may take: its arithmetic is Python's own.
const START: Duration = Duration::from_mins(10);
/// How long it may take to work off what came too fast for it.
const BACKLOG: Duration = Duration::from_mins(5);
/// How many seconds no message may be stored until it is done.
const PATIENCE: u32 = 15;

/// What became of the messages.
#[derive(Debug, Serialize)]
pub struct Heard {
    /// Written, and stored within the time.
    messages: u64,
    stored: usize,
    /// From the first message to the last as it stored them.
    stored_per_s: f64,
    /// From the message to its row's commit.
    arrivals: Quantiles,
    /// Of one core, until the last was stored.
    cpu_percent: f64,
    mb: f64,
}

#[derive(Deserialize)]
struct Arrivals {
    arrivals: Vec<(i64, i64)>,
}

impl Heard {
    pub fn print(&self) {
        println!(
            "  Telethon, one process {}/s, {} of {} stored",
            self.stored_per_s, self.stored, self.messages
        );
        println!("    message to commit   {}", self.arrivals.shown());
        println!(
            "    its process         {} % of a core, {} MB",
            self.cpu_percent, self.mb
        );
    }
}

/// `python` has telethon 1.45.0 and asyncpg; all accounts are signed in anew, in one process. The first messages are there for
/// warmth, and do not count.
pub async fn measure(
    python: &Path,
    telegram: &mut Telegram,
    database: &str,
    rate: u32,
    secs: u32,
) -> anyhow::Result<Heard> {
    let talk = Talk {
        rate,
        secs: secs + WARM_UP,
    };
    let mut script = Script::start(python, SCRIPT, telegram)?;
    let accounts = telegram.accounts.iter();
    let phones: Vec<String> = accounts.map(|account| format!("+{}", account.phone)).collect();
    let wanted = json!({
        "phones": phones, "database": database, "messages": talk.messages(), "patience": PATIENCE,
    });
    script.tell(&wanted.to_string()).await?;
    script.expect("ready", START).await?;
    let cpu = script.cpu_us()?;
    telegram.talk(talk).await?;
    let line = script.hear(BACKLOG + Duration::from_secs(talk.secs.into())).await?;
    let cpu = script.cpu_us()? - cpu;
    let mb = megabytes(script.resident()?);
    script.end().await?;
    let Arrivals { mut arrivals } = serde_json::from_str(&line).context("the script did not say what it stored")?;
    arrivals.sort_unstable();
    let first = arrivals.first().map_or(0, |(written, _)| *written);
    let last = arrivals.iter().map(|(_, stored)| *stored).max().unwrap_or(first);
    let span = (last - first).max(1);
    let warm = usize::try_from(u64::from(rate) * u64::from(WARM_UP))?.min(arrivals.len());
    let seconds = u32::try_from(span.div_euclid(1_000_000)).unwrap_or(u32::MAX).max(1);
    Ok(Heard {
        messages: talk.messages(),
        stored: arrivals.len(),
        stored_per_s: rounded(count(arrivals.len() as u64) / micros_to_secs(span), 1),
        arrivals: Quantiles::of(
            arrivals[warm..]
                .iter()
                .map(|(written, stored)| stored - written)
                .collect(),
        ),
        cpu_percent: percent(cpu, seconds),
        mb,
    })
}
