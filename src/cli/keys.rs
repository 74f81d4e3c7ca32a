//! `wireroom keys`: who may call the API; the database is all it needs, so that it works before anything runs. And what
//! secrets are sealed under: `rotate-master`.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::{process, stdout, worker};
use crate::{
    config::{Config, Secret},
    sessions,
    store::{
        PgPool,
        api_keys::{self, KeyMaterial, Revoked, Scope},
    },
};

/// Who did it, in the audit log.
const ACTOR: &str = "cli";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key and print it: the only time it is shown.
    #[command(after_help = "Example:\n  wireroom keys create --label reports --scope viewer")]
    Create(Create),
    /// Every key, without its secret.
    List,
    /// Seal every stored secret under the first key of `WIREROOM_MASTER_KEYS`, while workers run.
    #[command(after_help = "\
To change the master key:
  1. put the new key first and keep the old one: WIREROOM_MASTER_KEYS=new:…,old:…
  2. restart every worker with it
  3. run this command with it
  4. take the old key out of the workers' configuration; keep it for as long as you keep backups of the database")]
    RotateMaster,
    /// End a key. API processes notice within 5 seconds.
    #[command(after_help = "Example:\n  wireroom keys revoke 3f0c9a5be2d17840")]
    Revoke {
        /// The key's id, as `keys list` shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// What the key is for, 1 to 100 characters.
    #[arg(long)]
    label: String,
    /// What it may do.
    #[arg(long, value_enum, default_value = "operator")]
    scope: ScopeArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ScopeArg {
    /// Read.
    Viewer,
    /// Read, create and cancel jobs.
    Operator,
    /// All of it.
    Admin,
}

impl From<ScopeArg> for Scope {
    fn from(arg: ScopeArg) -> Self {
        match arg {
            ScopeArg::Viewer => Self::Viewer,
            ScopeArg::Operator => Self::Operator,
            ScopeArg::Admin => Self::Admin,
        }
    }
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    let pool = process::connect(&config.database).await?;
    match command {
        Command::Create(args) => {
            let key = create(&pool, &args.label, args.scope.into()).await?;
            stdout::line(format_args!("{}", key.expose()))?;
        }
        Command::List => list(&pool).await?,
        Command::Revoke { id } => revoke(&pool, &id).await?,
        Command::RotateMaster => rotate_master(&config, &pool).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a key, stores what recognises it, and returns its text.
pub async fn create(pool: &PgPool, label: &str, scope: Scope) -> anyhow::Result<Secret> {
    if label.is_empty() || label.chars().count() > 100 {
        bail!("the label must have 1 to 100 characters");
    }
    let key = KeyMaterial::generate()?;
    let mut transaction = pool.begin().await.context("the database went away")?;
    api_keys::create(&mut transaction, &key, label, scope, ACTOR).await?;
    transaction.commit().await.context("the key was not stored")?;
    Ok(key.text().clone())
}

async fn list(pool: &PgPool) -> anyhow::Result<()> {
    stdout::line(format_args!(
        "{:<18} {:<9} {:<9} {:<17} LABEL",
        "ID", "SCOPE", "STATE", "CREATED"
    ))?;
    for key in api_keys::list(pool).await? {
        stdout::line(format_args!(
            "{:<18} {:<9} {:<9} {:<17} {}",
            key.id,
            key.scope.as_str(),
            if key.revoked_at.is_some() { "revoked" } else { "valid" },
            key.created_at.format("%Y-%m-%d %H:%M"),
            key.label,
        ))?;
    }
    Ok(())
}

async fn rotate_master(config: &Config, pool: &PgPool) -> anyhow::Result<()> {
    let vault = worker::vault(config)?;
    let rotated = sessions::rotate_master_keys(pool, &vault, config.queue.worker_dead).await?;
    stdout::line(format_args!(
        "Sealed {} values anew under the key `{}`.",
        rotated.resealed, rotated.to
    ))?;
    if !rotated.still_used.is_empty() {
        stdout::line(format_args!(
            "Something is still sealed under {}: keep it in WIREROOM_MASTER_KEYS.",
            rotated.still_used.join(", ")
        ))?;
    }
    if !rotated.used_for_now.is_empty() {
        stdout::line(format_args!(
            "Logins, or other work on sessions, that are not over need {}: keep it in WIREROOM_MASTER_KEYS, and run this again \
             in ten minutes.",
            rotated.used_for_now.join(", ")
        ))?;
    }
    if rotated.still_used.is_empty() && rotated.used_for_now.is_empty() {
        stdout::line(format_args!("Nothing in the database needs another key any more."))?;
    }
    Ok(())
}

async fn revoke(pool: &PgPool, id: &str) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await.context("the database went away")?;
    let revoked = api_keys::revoke(&mut transaction, id, ACTOR).await?;
    transaction.commit().await.context("the key was not revoked")?;
    match revoked {
        Revoked::Now => stdout::line(format_args!("Revoked.")),
        Revoked::Before => stdout::line(format_args!("It was revoked before.")),
        Revoked::Unknown => bail!("there is no key with that id; `wireroom keys list` shows them"),
    }
}
