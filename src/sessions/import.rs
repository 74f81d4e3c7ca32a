//! Logs accounts of a configured server in, and stores them as sessions that are ready to be held.
//!
//! For servers with an RSA key of our configuration, such as the sandbox: the key exchange and the login happen here, on a
//! connection of their own that is closed before the session can be taken by anybody.

use std::{sync::Arc, time::Duration};

use grammers_crypto::two_factor_auth::{calculate_2fa, check_p_and_g};
use grammers_mtsender::{ConnectionParams, InvocationError, NoRetries, RpcError, SenderPool, SenderPoolHandle};
use grammers_session::{SessionData, storages::MemorySession, types::DcOption};
use grammers_tl_types::{self as tl, Deserializable, RemoteCall};
use sqlx::PgPool;
use tokio::time::timeout;

use crate::{
    config::{Secret, TelegramConfig},
    ids::SessionId,
    store::{
        StoreError, failed,
        sessions::{self, DcRow, NewSession, Stored},
    },
    telegram::{
        errors::{KnownError, Meaning},
        handshake::{HandshakeError, ServerKey, ServerKeyError, generate_auth_key},
        relay::Relay,
        session_storage::key_owner,
        trust::{Moment, Trust},
    },
    vault::{Vault, VaultError},
};

/// The data centre that a configured server stands for.
const HOME_DC: i32 = 2;
/// A login takes no longer than this in all.
const LOGIN: Duration = Duration::from_mins(2);
/// Stands for the application where a configured server asks for none.
const NO_APPLICATION: (i32, &str) = (1, "none");

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

/// Why an account was not logged in. Names no phone number and no code.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("WIREROOM_TELEGRAM_SERVER and WIREROOM_TELEGRAM_SERVER_KEY must name the server to log in to")]
    NoServer,
    #[error("WIREROOM_TELEGRAM_SERVER_KEY cannot be read")]
    KeyFile(#[source] std::io::Error),
    #[error("WIREROOM_TELEGRAM_SERVER_KEY is not a server's public key")]
    Key(#[from] ServerKeyError),
    #[error("the session `{label}` is in use by a worker: stop the worker, or wait until its lease has run out")]
    InUse { label: String },
    #[error("the session `{label}` belongs to another account")]
    OtherAccount { label: String },
    #[error("no auth key could be made with the server")]
    Handshake(#[from] HandshakeError),
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
    Connection(#[source] InvocationError),
    #[error("the login did not end within {} s", LOGIN.as_secs())]
    Deadline,
    #[error("the local relay could not be opened")]
    Relay(#[source] std::io::Error),
    #[error("the system has no randomness to give")]
    Randomness,
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
    let server = telegram.server.as_ref().ok_or(ImportError::NoServer)?;
    let pem = tokio::fs::read_to_string(&server.key_file)
        .await
        .map_err(ImportError::KeyFile)?;
    let key = ServerKey::from_pem(&pem)?;
    let exchange = generate_auth_key(server.address.into(), &key).await?;
    let login = Login::open(server.address, exchange.auth_key, telegram).map_err(ImportError::Relay)?;
    let signed_in = timeout(LOGIN, login.sign_in(account)).await;
    // Whatever came of it, nothing is open when the session can be taken.
    login.close().await;
    let user = signed_in.map_err(|_| ImportError::Deadline)??;

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
        is_bot: user.bot,
        home_dc: HOME_DC,
        dcs: vec![DcRow {
            dc_id: HOME_DC,
            ipv4: server.address.to_string(),
            ipv6: format!("[{}]:{}", server.address.ip().to_ipv6_mapped(), server.address.port()),
            auth_key: Some(vault.seal(&key_owner(id, HOME_DC), &exchange.auth_key)?),
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

/// A connection that lives for one login.
struct Login {
    relay: Relay,
    link: SenderPoolHandle,
    runner: std::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    api_id: i32,
    api_hash: Secret,
}

impl Login {
    fn open(address: std::net::SocketAddrV4, auth_key: [u8; 256], telegram: &TelegramConfig) -> std::io::Result<Self> {
        // No lease is needed: nobody else has this key. The trust only bounds the login.
        let trust = Arc::new(Trust::new(Moment::now(), LOGIN));
        let relay = Relay::open(address, trust, telegram.call_deadline)?;
        let entrance = relay.entrance();
        let home = DcOption {
            id: HOME_DC,
            ipv4: entrance,
            ipv6: std::net::SocketAddrV6::new(entrance.ip().to_ipv6_mapped(), entrance.port(), 0, 0),
            auth_key: Some(auth_key),
        };
        let data = SessionData {
            home_dc: HOME_DC,
            dc_options: [(HOME_DC, home)].into(),
            ..SessionData::default()
        };
        let api_id = telegram.api_id.unwrap_or(NO_APPLICATION.0);
        let parameters = ConnectionParams {
            app_version: env!("CARGO_PKG_VERSION").to_owned(),
            device_model: "Wireroom".to_owned(),
            retry_policy: Box::new(NoRetries),
            ..ConnectionParams::default()
        };
        let pool = SenderPool::with_configuration(Arc::new(MemorySession::from(data)), api_id, parameters);
        Ok(Self {
            relay,
            link: pool.handle.thin.clone(),
            runner: std::sync::Mutex::new(Some(tokio::spawn(pool.runner.run()))),
            api_id,
            api_hash: telegram
                .api_hash
                .clone()
                .unwrap_or_else(|| Secret::new(NO_APPLICATION.1)),
        })
    }

    async fn close(&self) {
        self.relay.close().await;
        self.link.quit();
        let runner = self
            .runner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(runner) = runner {
            // Its socket leads to the relay alone, which is closed.
            runner.abort();
            let _ = runner.await;
        }
    }

    async fn call<R: RemoteCall>(&self, request: &R) -> Result<R::Return, InvocationError> {
        let body = self.link.raw_invoke_in_dc(HOME_DC, request.to_bytes()).await?;
        Ok(R::Return::from_bytes(&body)?)
    }

    async fn sign_in(&self, account: &ImportAccount) -> Result<tl::types::User, ImportError> {
        let sent = self.send_code(account).await?;
        let request = tl::functions::auth::SignIn {
            phone_number: account.phone.expose().to_owned(),
            phone_code_hash: sent,
            phone_code: Some(account.code.expose().to_owned()),
            email_verification: None,
        };
        match self.call(&request).await {
            Ok(authorization) => user_of(authorization),
            Err(InvocationError::Rpc(error)) if meaning(&error) == Meaning::PasswordNeeded => {
                let password = account.password.as_ref().ok_or(ImportError::PasswordNeeded)?;
                self.check_password(password).await
            }
            Err(error) => Err(refusal(error)),
        }
    }

    /// Asks for a code; answers with what the code goes by.
    async fn send_code(&self, account: &ImportAccount) -> Result<String, ImportError> {
        let request = tl::functions::auth::SendCode {
            phone_number: account.phone.expose().to_owned(),
            api_id: self.api_id,
            api_hash: self.api_hash.expose().to_owned(),
            settings: tl::enums::CodeSettings::Settings(tl::types::CodeSettings {
                allow_flashcall: false,
                current_number: false,
                allow_app_hash: false,
                allow_missed_call: false,
                allow_firebase: false,
                unknown_number: false,
                logout_tokens: None,
                token: None,
                app_sandbox: None,
            }),
        };
        match self.call(&request).await.map_err(refusal)? {
            tl::enums::auth::SentCode::Code(sent) => Ok(sent.phone_code_hash),
            tl::enums::auth::SentCode::Success(_) => Err(ImportError::Unsupported("a login without a code")),
            tl::enums::auth::SentCode::PaymentRequired(_) => Err(ImportError::Unsupported("a paid login")),
        }
    }

    async fn check_password(&self, password: &Secret) -> Result<tl::types::User, ImportError> {
        let tl::enums::account::Password::Password(asked) = self
            .call(&tl::functions::account::GetPassword {})
            .await
            .map_err(refusal)?;
        let (
            Some(tl::enums::PasswordKdfAlgo::Sha256Sha256Pbkdf2Hmacsha512iter100000Sha256ModPow(algorithm)),
            Some(b),
            Some(srp_id),
        ) = (asked.current_algo, asked.srp_b, asked.srp_id)
        else {
            return Err(ImportError::Unsupported("a password check of another kind"));
        };
        if b.len() > 256 || algorithm.p.len() > 256 {
            return Err(ImportError::Unsupported("password parameters that are too long"));
        }
        let mut secret = vec![0_u8; 256];
        getrandom::fill(&mut secret).map_err(|_| ImportError::Randomness)?;
        let password = password.clone();
        let proof = tokio::task::spawn_blocking(move || {
            let (p, g) = (&algorithm.p, &algorithm.g);
            check_p_and_g(p, g).then(|| {
                calculate_2fa(
                    &algorithm.salt1,
                    &algorithm.salt2,
                    p,
                    g,
                    b,
                    secret,
                    password.expose().as_bytes(),
                )
            })
        });
        let (m1, g_a) = proof
            .await
            .ok()
            .flatten()
            .ok_or(ImportError::Unsupported("password parameters that are not safe"))?;
        let request = tl::functions::auth::CheckPassword {
            password: tl::enums::InputCheckPasswordSrp::Srp(tl::types::InputCheckPasswordSrp {
                srp_id,
                a: g_a.to_vec(),
                m1: m1.to_vec(),
            }),
        };
        self.call(&request).await.map_err(refusal).and_then(user_of)
    }
}

fn user_of(authorization: tl::enums::auth::Authorization) -> Result<tl::types::User, ImportError> {
    match authorization {
        tl::enums::auth::Authorization::Authorization(authorization) => match authorization.user {
            tl::enums::User::User(user) => Ok(user),
            tl::enums::User::Empty(_) => Err(ImportError::Unsupported("an account without a description")),
        },
        tl::enums::auth::Authorization::SignUpRequired(_) => {
            Err(ImportError::Refused("there is no account of that number".to_owned()))
        }
    }
}

fn meaning(error: &RpcError) -> Meaning {
    KnownError::parse(&error.name).map_or(Meaning::UnknownRefusal, KnownError::meaning)
}

fn refusal(error: InvocationError) -> ImportError {
    match error {
        InvocationError::Rpc(error) => match meaning(&error) {
            Meaning::LoginCode => ImportError::Code,
            Meaning::PasswordNeeded => ImportError::PasswordNeeded,
            Meaning::PasswordWrong => ImportError::Password,
            _ => ImportError::Refused(error.name),
        },
        other => ImportError::Connection(other),
    }
}
