//! `wireroom session`: the Telegram sessions there are, and the way to a new one.

use std::process::ExitCode;

use clap::Subcommand;

#[cfg(feature = "sandbox")]
use super::sandbox_accounts;
use super::{process, session_login, stdout};
use crate::store::{
    PgPool,
    session_reads::{self, SessionFilter, SessionRecord},
};

/// Sessions read at once.
const PAGE: i64 = 500;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log an account in: asks for its number, the code and the password, and shows none of them. A worker must be running.
    #[command(after_help = "\
Examples:
  wireroom session login shop-1
  wireroom session login shop-2 --qr
  wireroom session login helper --bot --pool bots

The label is for people; a session of that label that is logged out is logged in again.")]
    Login(session_login::Login),
    /// Log an account of the sandbox in, and store its session. One that is there already gets a new key.
    #[cfg(feature = "sandbox")]
    #[command(after_help = "\
Examples:
  wireroom session import-sandbox alice
  wireroom session import-sandbox bob --pool writers --label writer-1

WIREROOM_TELEGRAM_SERVER and WIREROOM_TELEGRAM_SERVER_KEY name the sandbox, as `wireroom sandbox` prints them.")]
    ImportSandbox(sandbox_accounts::Import),
    /// Every session, with its state and who holds it.
    List,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    match command {
        Command::Login(args) => session_login::login(&config, args).await?,
        #[cfg(feature = "sandbox")]
        Command::ImportSandbox(args) => sandbox_accounts::import(&config, args).await?,
        Command::List => list(&process::connect(&config.database).await?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(pool: &PgPool) -> anyhow::Result<()> {
    stdout::line(format_args!(
        "{:<36} {:<16} {:<12} {:<16} {:<36}",
        "ID", "LABEL", "POOL", "STATE", "HELD BY WORKER"
    ))?;
    let mut after = None;
    loop {
        let page = session_reads::list(pool, &SessionFilter::default(), after, PAGE).await?;
        page.iter().try_for_each(print)?;
        match page.last() {
            Some(last) => after = Some(last.id),
            None => return Ok(()),
        }
    }
}

fn print(session: &SessionRecord) -> anyhow::Result<()> {
    let worker = session
        .worker
        .map_or_else(|| "-".to_owned(), |worker| worker.to_string());
    stdout::line(format_args!(
        "{:<36} {:<16} {:<12} {:<16} {worker:<36}",
        session.id, session.label, session.pool, session.state
    ))
}
