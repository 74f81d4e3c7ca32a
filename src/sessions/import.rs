//! Logs accounts of a configured server in, and stores them as sessions that are ready to be held.
//!
//! For servers with an RSA key of our configuration, such as the sandbox: the whole login happens here and at once, on a
//! connection of its own that is closed before the session can be taken by anybody. A person's login, which waits for them, is
//! an errand.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::timeout;

use super::proxies;
use crate::{
    config::{Secret, TelegramConfig},
    ids::SessionId,
    proxy::Proxy,
    store::{
        self, StoreError, failed, session_proxies,
        sessions::{self, DcRow, NewSession, Stored},
    },
    telegram::{
        errors::Meaning,
        login::{
            Account, Application, AuthKey, FIRST_DC, Link, LinkError, LoginNet, LoginNetError, NO_APPLICATION, SignedIn,
        },
        session_storage::key_owner,
        trust::{Moment, Trust},
    },
    vault::{Vault, VaultError},
};

/// A login takes no longer than this in all.
const LOGIN: Duration = Duration::from_mins(2);

/// How often a login is sent on to another data centre before that counts as an error.
const MOST_MOVES: usize = 3;

/// An account to log in.
#[derive(Debug, Clone)]
pub struct ImportAccount {
    /// The session's name for people; a session of that label is logged in again. Never a phone number.
    pub label: String,
    pub pool: String,
    pub phone: Secret,
    pub code: Secret,
    /// The second factor, for accounts that have one.
    pub password: Option<Secret>,
}

/// A session that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub id: SessionId,
    pub label: String,
    /// Telegram's user id.
    pub account_id: i64,
    pub username: Option<String>,
}

/// Who signed in, and with which key.
struct SignedInAs {
    account: Account,
    /// Where it lives.
    dc: i32,
    key: AuthKey,
}

/// Why an account was not logged in. Names no phone number and no code.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("WIREROOM_TELEGRAM_SERVER and WIREROOM_TELEGRAM_SERVER_KEY must name the server to log in to")]
    NoServer,
    #[error(transparent)]
    Net(#[from] LoginNetError),
    #[error("the session `{label}` is in use by a worker: stop the worker, or wait until its lease has run out")]
    InUse { label: String },
    #[error("the session `{label}` belongs to another account")]
    OtherAccount { label: String },
    #[error("the login code is wrong, old or missing")]
    Code,
    #[error("the account has a second factor: a password is needed")]
    PasswordNeeded,
    #[error("the password is not that one")]
    Password,
    #[error("the server refused the login: {0}")]
    Refused(String),
    #[error("the server asks for something this version does not know: {0}")]
    Unsupported(&'static str),
    #[error("the connection to the server failed")]
    Connection(#[from] LinkError),
    #[error("the login did not end within {} s", LOGIN.as_secs())]
    Deadline,
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Logs an account in and stores its session as `ready`; one connection, closed before that. A session of that label
/// and account is logged in again, unless a worker holds it.
pub async fn import(
    database: &PgPool,
    vault: &Vault,
    telegram: &TelegramConfig,
    account: &ImportAccount,
) -> Result<Imported, ImportError> {
    if telegram.server.is_none() {
        return Err(ImportError::NoServer);
    }
    let net = LoginNet::read(telegram).await?;
    let mut conn = store::connection(database, "proxy_of_label").await?;
    let proxy = match session_proxies::of_label(&mut conn, &account.label).await? {
        Some((id, sealed)) => proxies::open(vault, id, Some(&sealed))?,
        None => None,
    };
    drop(conn);
    let SignedInAs { account: user, dc, key } = sign_in(&net, telegram, account, proxy.as_ref()).await?;

    let (ipv4, ipv6) = net.address(dc)?;
    let mut transaction = database.begin().await.map_err(failed("import_session"))?;
    sessions::ensure_pool(&mut transaction, &account.pool).await?;
    let label = || account.label.clone();
    let again = match sessions::lock_for_login(&mut transaction, &account.label).await? {
        Stored::New => None,
        Stored::Held => return Err(ImportError::InUse { label: label() }),
        Stored::Free { account_id, .. } if account_id.is_some_and(|known| known != user.id) => {
            return Err(ImportError::OtherAccount { label: label() });
        }
        Stored::Free { id, .. } => Some(id),
    };
    let id = again.unwrap_or_else(SessionId::generate);
    let session = NewSession {
        id,
        label: label(),
        pool: account.pool.clone(),
        account_id: user.id,
        username: user.username.clone(),
        is_bot: user.is_bot,
        home_dc: dc,
        dcs: vec![DcRow {
            dc_id: dc,
            ipv4: ipv4.to_string(),
            ipv6: ipv6.to_string(),
            auth_key: Some(vault.seal(&key_owner(id, dc), key.as_slice())?),
        }],
    };
    if again.is_some() {
        sessions::login_again(&mut transaction, &session).await?;
    } else {
        sessions::insert_ready(&mut transaction, &session).await?;
    }
    transaction.commit().await.map_err(failed("import_session"))?;
    Ok(Imported {
        id,
        label: session.label,
        account_id: user.id,
        username: user.username,
    })
}

/// Signs in on a connection of its own, in the data centre the account lives in; it is closed when this returns.
async fn sign_in(
    net: &LoginNet,
    telegram: &TelegramConfig,
    account: &ImportAccount,
    proxy: Option<&Proxy>,
) -> Result<SignedInAs, ImportError> {
    let application = Application {
        api_id: telegram.api_id.unwrap_or(NO_APPLICATION.0),
        api_hash: telegram
            .api_hash
            .clone()
            .unwrap_or_else(|| Secret::new(NO_APPLICATION.1)),
    };
    let mut dc = FIRST_DC;
    for _ in 0..MOST_MOVES {
        // No lease is needed: nobody else has this key. The trust only bounds the login.
        let trust = Arc::new(Trust::new(Moment::now(), LOGIN));
        let link = Link::open(net, dc, None, application.api_id, proxy.cloned(), trust).await?;
        let signed_in = timeout(LOGIN, enter(&link, &application, account)).await;
        let key = link.key();
        // Whatever came of it, nothing is open when the session can be taken.
        link.close().await;
        match signed_in.map_err(|_| ImportError::Deadline)?? {
            Entered::As(account) => {
                let key = key.ok_or(ImportError::Unsupported("a login without a key"))?;
                return Ok(SignedInAs { account, dc, key });
            }
            Entered::Elsewhere(other) => dc = other,
        }
    }
    Err(ImportError::Unsupported(
        "to be logged in somewhere else, again and again",
    ))
}

/// What became of one data centre's answers.
enum Entered {
    As(Account),
    /// The account lives in that data centre.
    Elsewhere(i32),
}

async fn enter(link: &Link, application: &Application, account: &ImportAccount) -> Result<Entered, ImportError> {
    let sent = match link.send_code(&account.phone, application).await {
        Ok(Ok(sent)) => sent,
        Ok(Err(account)) => return Ok(Entered::As(account)),
        Err(error) => match error.moved_to() {
            Some(dc) => return Ok(Entered::Elsewhere(dc)),
            None => return Err(refusal(error)),
        },
    };
    let entered = link.sign_in(&account.phone, &sent.hash, &account.code).await;
    let signed_in = match entered.map_err(refusal)? {
        SignedIn::PasswordNeeded => {
            let password = account.password.as_ref().ok_or(ImportError::PasswordNeeded)?;
            link.check_password(password).await.map_err(refusal)?
        }
        other => other,
    };
    match signed_in {
        SignedIn::Yes(account) => Ok(Entered::As(account)),
        SignedIn::PasswordNeeded => Err(ImportError::PasswordNeeded),
        SignedIn::Unregistered => Err(ImportError::Refused("there is no account of that number".to_owned())),
    }
}

fn refusal(error: LinkError) -> ImportError {
    match error {
        LinkError::Rpc(error) => match Meaning::of(&error) {
            Meaning::LoginCode => ImportError::Code,
            Meaning::PasswordNeeded => ImportError::PasswordNeeded,
            Meaning::PasswordWrong => ImportError::Password,
            _ => ImportError::Refused(error.name),
        },
        LinkError::Unsupported(what) => ImportError::Unsupported(what),
        other => ImportError::Connection(other),
    }
}
