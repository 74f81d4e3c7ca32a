//! The same list read by a script of Telethon's, which stores it as such scripts do.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::json;

use crate::cli::bench::{
    script::Script,
    sessions::telegram::{Account, Telegram},
};

const SCRIPT: &str = include_str!("telethon.py");
/// How long it may take to sign in: its arithmetic is Python's own.
const START: Duration = Duration::from_mins(1);
/// How long one reading may take.
const BOUND: Duration = Duration::from_mins(5);

/// The script, signed in.
pub struct Telethon(Script);

#[derive(Deserialize)]
struct Read {
    people: i64,
    micros: i64,
}

impl Telethon {
    /// `python` has telethon 1.45.0 and asyncpg; the database is that of the run.
    pub async fn start(python: &Path, telegram: &Telegram, account: &Account, database: &str) -> anyhow::Result<Self> {
        let mut script = Script::start(python, SCRIPT, telegram)?;
        let wanted = json!({ "phone": format!("+{}", account.phone), "database": database });
        script.tell(&wanted.to_string()).await?;
        script.expect("ready", START).await?;
        Ok(Self(script))
    }

    /// Reads the members of a chat, who are as many as this; how many microseconds it took.
    pub async fn read(&mut self, chat: &str, people: i64) -> anyhow::Result<i64> {
        self.ask("read", chat, people).await
    }

    /// The same, and stores them.
    pub async fn store(&mut self, chat: &str, people: i64) -> anyhow::Result<i64> {
        self.ask("store", chat, people).await
    }

    async fn ask(&mut self, verb: &str, chat: &str, people: i64) -> anyhow::Result<i64> {
        self.0.tell(&format!("{verb} {chat}")).await?;
        let line = self.0.hear(BOUND).await?;
        let read: Read = serde_json::from_str(&line).context("the script did not say how long it took")?;
        if read.people != people {
            bail!("Telethon saw {} people, the bare loop {people}", read.people);
        }
        Ok(read.micros)
    }

    pub async fn end(self) -> anyhow::Result<()> {
        self.0.end().await
    }
}
