//! Accounts of a sandbox, logged in and stored as sessions: one for `session import-sandbox`, all of them for `dev`.

use anyhow::{Context, bail};

use super::{process, worker};
use crate::{
    config::{Config, Secret},
    sandbox::{
        Controls, LOGIN_CODE,
        call::UserId,
        world::{KnownAccount, PeerKey, World, known_accounts},
    },
    sessions::{self, ImportAccount, ImportError, Imported},
    store::{self, PgPool, sandbox_sessions},
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

/// The chats that every world's accounts are in, for examples to be sent as they are.
const OF_EVERYBODY: &str = "reading_club";

/// Puts accounts into the chats that they were in; a chat that the new world has not is left out.
fn put_back(world: &mut World, joined: &[(i64, i64)]) {
    let everybody: Vec<UserId> = world.accounts().into_iter().map(|account| account.id).collect();
    let club = world.find_peer(OF_EVERYBODY);
    let members = everybody.iter().filter_map(|account| Some((*account, club?)));
    let again = joined
        .iter()
        .filter_map(|(account, chat)| Some((*account, world.find_peer(&chat.to_string())?)));
    let places: Vec<(UserId, PeerKey)> = members.chain(again).collect();
    for (account, chat) in places {
        // Such as a basic group, which has its members from the start.
        let _ = world.put_in(chat, account);
    }
}

/// The accounts of a sandbox, as far as they could be logged in.
#[derive(Debug, Default)]
pub struct Accounts {
    pub imported: Vec<Imported>,
    /// Sessions whose proxy gave no connection, by label, and why.
    pub left_out: Vec<(String, ProxyFault)>,
    /// The database has sessions of an earlier world.
    pub again: bool,
    /// Sessions of that world whose accounts nobody can log in but who did, such as bots, by label.
    pub lost: Vec<String>,
}

/// Logs every account of a sandbox in, all at once, and then whatever other sessions of them were in use. Its world is new, so the keys
/// of an earlier one are void, and so are leases on sessions that had them; who was in which chat is put there again. A dead
/// proxy of one of them stops nobody else.
pub async fn import_all(config: &Config, pool: &PgPool, world: &Controls) -> anyhow::Result<Accounts> {
    let vault = worker::vault(config)?;
    sessions::verify_master_keys(pool, &vault).await?;
    let mut conn = store::connection(pool, "end_sandbox_leases").await?;
    sandbox_sessions::end_leases(&mut conn).await?;
    sandbox_sessions::forget_messages(&mut conn).await?;
    let joined = sandbox_sessions::joined(&mut conn).await?;
    let in_use = sandbox_sessions::in_use(&mut conn).await?;
    drop(conn);
    world.with_world(|world| put_back(world, &joined));
    let known = known_accounts();
    let mut accounts: Vec<ImportAccount> = known.iter().map(|account| login(account, None, POOL)).collect();
    // Those that people logged in themselves, under labels of their own.
    let mut lost = Vec::new();
    for used in in_use
        .iter()
        .filter(|used| known.iter().all(|known| known.username != used.label))
    {
        match known
            .iter()
            .find(|known| world.account(&known.phone) == Some(used.account_id))
        {
            Some(account) => accounts.push(login(account, Some(&used.label), &used.pool)),
            None => lost.push(used.label.clone()),
        }
    }
    let log_in = async |account| sessions::import(pool, &vault, &config.telegram, account).await;
    let (of_the_world, of_people) = accounts.split_at(known.len());
    let mut outcomes = futures::future::join_all(of_the_world.iter().map(log_in)).await;
    // One by one: a code that is sent voids the one that was sent to the same account before.
    for account in of_people {
        outcomes.push(log_in(account).await);
    }
    let mut all = Accounts {
        again: !in_use.is_empty(),
        lost,
        ..Accounts::default()
    };
    for (account, imported) in accounts.iter().zip(outcomes) {
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
