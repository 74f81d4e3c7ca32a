//! A connection for logging in: one data centre, one auth key that no lease covers yet, and the calls of a login on it.
//!
//! It goes through the same relay as a held session's connection, under a trust of its own: whoever holds the login may send,
//! and after that nobody. `steps` has the calls and what their answers mean.

mod link_session;
mod steps;

use std::{
    net::SocketAddrV4,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use grammers_mtsender::{
    ConnectionParams, InvocationError, NoRetries, RpcError, SenderPool, SenderPoolFatHandle, SenderPoolHandle,
};
use grammers_session::{SessionData, updates::UpdatesLike};
use grammers_tl_types::{Deserializable, RemoteCall};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    task::JoinHandle,
    time::timeout,
};

use self::link_session::LinkSession;
pub use self::steps::{Account, Application, Exported, LoginToken, SentCode, SignedIn};
pub use super::auth_key::AuthKey;
use super::{
    ProxyFault,
    handshake::{HandshakeError, ServerKey, ServerKeyError, generate_auth_key},
    relay::Relay,
    trust::Trust,
};
use crate::{
    config::{ServerConfig, TelegramConfig},
    proxy::Proxy,
};

/// The data centre a login begins in.
pub const FIRST_DC: i32 = 2;
/// Stands for the application where a configured server asks for none.
pub const NO_APPLICATION: (i32, &str) = (1, "none");

/// How data centres are reached for logins.
#[derive(Clone)]
pub struct LoginNet {
    call_deadline: Duration,
    /// A configured server, and the key of all its data centres.
    server: Option<(ServerConfig, ServerKey)>,
}

/// Why [`LoginNet`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LoginNetError {
    #[error("WIREROOM_TELEGRAM_SERVER_KEY cannot be read")]
    KeyFile(#[source] std::io::Error),
    #[error("WIREROOM_TELEGRAM_SERVER_KEY is not a server's public key")]
    Key(#[from] ServerKeyError),
}

/// Why a call of a login gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("Telegram answered {}", .0.name)]
    Rpc(RpcError),
    #[error("Telegram did not answer in time")]
    Deadline,
    #[error("the connection to Telegram failed")]
    Connection(#[source] InvocationError),
    #[error("{0}")]
    Proxy(ProxyFault),
    #[error("no auth key could be made with the server")]
    Handshake(#[from] HandshakeError),
    #[error("the local relay could not be opened")]
    Relay(#[source] std::io::Error),
    #[error("there is no data centre {0}")]
    NoSuchDc(i32),
    #[error("Telegram's answer could not be read")]
    Unreadable,
    #[error("Telegram asks for something this version does not know: {0}")]
    Unsupported(&'static str),
    #[error("the system has no randomness to give")]
    Randomness,
}

impl LinkError {
    /// The data centre that Telegram sends a login on to.
    pub fn moved_to(&self) -> Option<i32> {
        let Self::Rpc(error) = self else { return None };
        let names = ["PHONE_MIGRATE", "NETWORK_MIGRATE", "USER_MIGRATE"];
        let dc = error.value.filter(|_| names.contains(&error.name.as_str()))?;
        i32::try_from(dc).ok()
    }
}

/// The data centres whose addresses are known, so that a session can follow its account there.
pub fn known_dcs(config: &TelegramConfig) -> Arc<[i32]> {
    match &config.server {
        Some(server) => std::iter::once(FIRST_DC)
            .chain(server.other_dcs.keys().copied())
            .collect(),
        None => SessionData::default().dc_options.into_keys().collect(),
    }
}

impl LoginNet {
    /// Reads what the configuration names.
    pub async fn read(config: &TelegramConfig) -> Result<Self, LoginNetError> {
        let server = match &config.server {
            None => None,
            Some(server) => {
                let pem = tokio::fs::read_to_string(&server.key_file)
                    .await
                    .map_err(LoginNetError::KeyFile)?;
                Some((server.clone(), ServerKey::from_pem(&pem)?))
            }
        };
        Ok(Self {
            call_deadline: config.call_deadline,
            server,
        })
    }

    /// Whether it leads to a server of the configuration rather than to Telegram.
    pub fn is_configured_server(&self) -> bool {
        self.server.is_some()
    }

    /// Where a data centre is: IPv4 and IPv6, with their ports.
    pub fn address(&self, dc: i32) -> Result<(SocketAddrV4, std::net::SocketAddrV6), LinkError> {
        if let Some((server, _)) = &self.server {
            let address = server.address_of(dc);
            let ipv6 = std::net::SocketAddrV6::new(address.ip().to_ipv6_mapped(), address.port(), 0, 0);
            return Ok((address, ipv6));
        }
        SessionData::default()
            .dc_options
            .get(&dc)
            .map(|option| (option.ipv4, option.ipv6))
            .ok_or(LinkError::NoSuchDc(dc))
    }
}

/// One connection of one login.
pub struct Link {
    relay: Relay,
    handle: SenderPoolHandle,
    session: Arc<LinkSession>,
    runner: Mutex<Option<JoinHandle<()>>>,
    updates: AsyncMutex<mpsc::Receiver<UpdatesLike>>,
    _keep: SenderPoolFatHandle,
    dc: i32,
    call_deadline: Duration,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("dc", &self.dc).finish_non_exhaustive()
    }
}

impl Link {
    /// Prepares the connection, through `proxy` if there is one; it is dialled with the first call. Without a key a fresh one
    /// is made.
    pub async fn open(
        net: &LoginNet,
        dc: i32,
        key: Option<AuthKey>,
        api_id: i32,
        proxy: Option<Proxy>,
        trust: Arc<Trust>,
    ) -> Result<Self, LinkError> {
        let (address, _) = net.address(dc)?;
        let relay = Relay::open(address, proxy, trust, net.call_deadline).map_err(LinkError::Relay)?;
        let entrance = relay.entrance();
        let key = match (key, &net.server) {
            (Some(key), _) => Some(key),
            // grammers knows Telegram's own RSA keys, and makes the auth key itself there.
            (None, None) => None,
            (None, Some((_, server_key))) => {
                let made = generate_auth_key(entrance.into(), server_key).await.map_err(|error| {
                    relay
                        .proxy_fault()
                        .map_or(LinkError::Handshake(error), LinkError::Proxy)
                })?;
                Some(AuthKey::copy(&made.auth_key))
            }
        };
        let parameters = ConnectionParams {
            app_version: env!("CARGO_PKG_VERSION").to_owned(),
            device_model: "Wireroom".to_owned(),
            retry_policy: Box::new(NoRetries),
            ..ConnectionParams::default()
        };
        let session = Arc::new(LinkSession::new(dc, entrance, key));
        let SenderPool {
            runner,
            handle,
            updates,
        } = SenderPool::with_configuration(Arc::clone(&session), api_id, parameters);
        Ok(Self {
            relay,
            handle: handle.thin.clone(),
            session,
            runner: Mutex::new(Some(tokio::spawn(runner.run()))),
            updates: AsyncMutex::new(updates),
            _keep: handle,
            dc,
            call_deadline: net.call_deadline,
        })
    }

    /// The data centre it leads to.
    pub fn dc(&self) -> i32 {
        self.dc
    }

    /// The auth key, once there is one: with Telegram itself that is after the first call.
    pub fn key(&self) -> Option<AuthKey> {
        self.session.key()
    }

    /// Calls once, within the deadline.
    pub async fn call<R: RemoteCall>(&self, request: &R) -> Result<R::Return, LinkError> {
        let Ok(answer) = timeout(
            self.call_deadline,
            self.handle.raw_invoke_in_dc(self.dc, request.to_bytes()),
        )
        .await
        else {
            self.relay.cut();
            self.handle.disconnect_from_dc(self.dc);
            return Err(self.relay.proxy_fault().map_or(LinkError::Deadline, LinkError::Proxy));
        };
        let body = answer.map_err(|error| match error {
            InvocationError::Rpc(error) => LinkError::Rpc(error),
            InvocationError::Deserialize(_) => LinkError::Unreadable,
            other => match self.relay.proxy_fault() {
                Some(fault) => LinkError::Proxy(fault),
                None => LinkError::Connection(other),
            },
        })?;
        R::Return::from_bytes(&body).map_err(|_| LinkError::Unreadable)
    }

    /// Returns when Telegram says anything by itself, or the connection is lost. Before a login that is only that a QR code was
    /// scanned.
    pub async fn told(&self) {
        let mut updates = self.updates.lock().await;
        loop {
            match updates.recv().await {
                Some(UpdatesLike::Updates(_) | UpdatesLike::ConnectionClosed) => return,
                Some(_) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// Hangs up for good; returns when the socket is closed. After this, and only after this, another may use the key.
    pub async fn close(&self) {
        self.relay.close().await;
        self.handle.quit();
        let runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runner) = runner {
            // Its socket leads to the relay alone, which is closed.
            runner.abort();
            let _ = runner.await;
        }
    }
}
