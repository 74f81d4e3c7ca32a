//! Accounts of a sandbox, logged in and stored as sessions: one for `session import-sandbox`, all of them for `dev`.

use anyhow::{Context, bail};

use super::{process, worker};
use crate::{
    config::{Config, Secret},
    sandbox::{
        LOGIN_CODE,
        world::{KnownAccount, known_accounts},
    },
    sessions::{self, ImportAccount, ImportError, Imported},
    store::{PgPool, sandbox_sessions},
    telegram::{ProxyFault, login::LinkError},
};

/// The pool of a session that was not asked to be in another.
const POOL: &str = "default";

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

/// Logs one account in.
pub async fn import(config: &Config, args: Import) -> anyhow::Result<()> {
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

fn login(account: &KnownAccount, label: Option<&str>, pool: &str) -> ImportAccount {
    ImportAccount {
        label: label.unwrap_or(account.username).to_owned(),
        pool: pool.to_owned(),
        phone: Secret::new(account.phone.clone()),
        code: Secret::new(LOGIN_CODE),
        password: account.password.map(Secret::new),
    }
}

/// The accounts of a sandbox, as far as they could be logged in.
#[derive(Debug, Default)]
pub struct Accounts {
    pub imported: Vec<Imported>,
    /// Sessions whose proxy gave no connection, by label, and why.
    pub left_out: Vec<(String, ProxyFault)>,
}

/// Logs every account of a sandbox in, all at once. Its world is new, so the keys of an earlier one are void, and so
/// are leases on sessions that had them. A dead proxy of one of them stops nobody else.
pub async fn import_all(config: &Config, pool: &PgPool) -> anyhow::Result<Accounts> {
    let vault = worker::vault(config)?;
    sessions::verify_master_keys(pool, &vault).await?;
    let mut conn = pool.acquire().await.context("the database went away")?;
    sandbox_sessions::end_leases(&mut conn).await?;
    drop(conn);
    let accounts: Vec<ImportAccount> = known_accounts()
        .iter()
        .map(|account| login(account, None, POOL))
        .collect();
    let logins = accounts
        .iter()
        .map(|account| sessions::import(pool, &vault, &config.telegram, account));
    let mut all = Accounts::default();
    for (account, imported) in accounts.iter().zip(futures::future::join_all(logins).await) {
        match imported {
            Ok(imported) => all.imported.push(imported),
            Err(ImportError::Connection(LinkError::Proxy(fault))) => all.left_out.push((account.label.clone(), fault)),
            Err(error) => {
                return Err(error).with_context(|| format!("the sandbox's `{}` was not logged in", account.label));
            }
        }
    }
    Ok(all)
}
