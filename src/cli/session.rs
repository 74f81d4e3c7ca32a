//! `wireroom session`: the Telegram sessions there are, and logging accounts of a sandbox in.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::process;
use crate::store::{
    PgPool,
    session_reads::{self, SessionFilter, SessionRecord},
};
#[cfg(feature = "sandbox")]
use crate::{
    cli::worker,
    config::{Config, Secret},
    sandbox::{
        LOGIN_CODE,
        world::{KnownAccount, known_accounts},
    },
    sessions::{self, ImportAccount, Imported},
};

/// Sessions read at once.
const PAGE: i64 = 500;

/// The pool of a session that was not asked to be in another.
#[cfg(feature = "sandbox")]
const POOL: &str = "default";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log an account of the sandbox in, and store its session. One that is there already gets a new key.
    #[cfg(feature = "sandbox")]
    #[command(after_help = "\
Examples:
  wireroom session import-sandbox alice
  wireroom session import-sandbox bob --pool writers --label writer-1

WIREROOM_TELEGRAM_SERVER and WIREROOM_TELEGRAM_SERVER_KEY name the sandbox, as `wireroom sandbox` prints them.")]
    ImportSandbox(Import),
    /// Every session, with its state and who holds it.
    List,
}

#[cfg(feature = "sandbox")]
#[derive(Debug, clap::Args)]
pub struct Import {
    /// The account's username, such as alice.
    account: String,
    /// The pool of sessions it may stand in for.
    #[arg(long, default_value = POOL)]
    pool: String,
    /// The session's name [default: the username].
    #[arg(long)]
    label: Option<String>,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    match command {
        #[cfg(feature = "sandbox")]
        Command::ImportSandbox(args) => import(&config, args).await?,
        Command::List => list(&process::connect(&config.database).await?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "sandbox")]
async fn import(config: &Config, args: Import) -> anyhow::Result<()> {
    let known = known_accounts();
    let Some(account) = known.iter().find(|known| known.username == args.account) else {
        let names: Vec<&str> = known.iter().map(|known| known.username).collect();
        bail!(
            "the sandbox has no account `{}`; it has {}",
            args.account,
            names.join(", ")
        );
    };
    let vault = worker::vault(config)?;
    let pool = process::connect(&config.database).await?;
    sessions::verify_master_keys(&pool, &vault).await?;
    let account = login(account, args.label.as_deref(), &args.pool);
    let imported = sessions::import(&pool, &vault, &config.telegram, &account).await?;
    println!("{}  {}", imported.id, imported.label);
    Ok(())
}

#[cfg(feature = "sandbox")]
fn login(account: &KnownAccount, label: Option<&str>, pool: &str) -> ImportAccount {
    ImportAccount {
        label: label.unwrap_or(account.username).to_owned(),
        pool: pool.to_owned(),
        phone: Secret::new(account.phone.clone()),
        code: Secret::new(LOGIN_CODE),
        password: account.password.map(Secret::new),
    }
}

/// Logs every account of a sandbox in, all at once. Its world is new, so the keys of an earlier one are void, and so
/// are leases on sessions that had them.
#[cfg(feature = "sandbox")]
pub async fn import_world(config: &Config, pool: &PgPool) -> anyhow::Result<Vec<Imported>> {
    let vault = worker::vault(config)?;
    sessions::verify_master_keys(pool, &vault).await?;
    let mut conn = pool.acquire().await.context("the database went away")?;
    crate::store::sandbox_sessions::end_leases(&mut conn).await?;
    drop(conn);
    let accounts: Vec<ImportAccount> = known_accounts()
        .iter()
        .map(|account| login(account, None, POOL))
        .collect();
    let logins = accounts
        .iter()
        .map(|account| sessions::import(pool, &vault, &config.telegram, account));
    futures::future::try_join_all(logins)
        .await
        .context("an account of the sandbox was not logged in")
}

async fn list(pool: &PgPool) -> anyhow::Result<()> {
    println!(
        "{:<36} {:<16} {:<12} {:<16} {:<36}",
        "ID", "LABEL", "POOL", "STATE", "HELD BY WORKER"
    );
    let mut after = None;
    loop {
        let page = session_reads::list(pool, &SessionFilter::default(), after, PAGE).await?;
        page.iter().for_each(print);
        match page.last() {
            Some(last) => after = Some(last.id),
            None => return Ok(()),
        }
    }
}

fn print(session: &SessionRecord) {
    let worker = session
        .worker
        .map_or_else(|| "-".to_owned(), |worker| worker.to_string());
    println!(
        "{:<36} {:<16} {:<12} {:<16} {worker:<36}",
        session.id, session.label, session.pool, session.state
    );
}
