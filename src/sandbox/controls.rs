//! What a test or an operator does with a running sandbox from outside: look, script faults, cut connections.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    auth_keys::{KeyId, printed},
    call::{Answer, RpcError, UserId},
    connections::Connection,
    dispatcher,
    faults::{Fault, ListedFault},
    key_watch::{ConnectionId, Incident, KeyUse},
    rate_limits::RateLimit,
    server::Server,
    services,
    stats::Calls,
    world::World,
};

/// A connection that is open now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenConnection {
    pub connection: ConnectionId,
    /// The data centre it leads to.
    pub dc: i32,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// The id of the key it speaks with, in hexadecimal; `None` before its first encrypted packet.
    pub key: Option<String>,
    /// Who is signed in with that key.
    pub account: Option<UserId>,
    /// Whether it is a black hole.
    pub silent: bool,
}

/// What was seen of one auth key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// The key's id, in hexadecimal.
    pub key: String,
    /// Who is signed in with it now.
    pub account: Option<UserId>,
    /// The application that was named last with it.
    pub api_id: Option<i32>,
    /// Its connections, in the order in which they began to send.
    pub uses: Vec<KeyUse>,
}

/// How an auth key is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revocation {
    /// The account is signed out: calls are answered by `AUTH_KEY_UNREGISTERED`.
    SignOut,
    /// The key is forgotten: packets are answered by transport error 404.
    Forget,
}

/// The controls of a running sandbox. Cloning gives another handle on the same sandbox; none keeps it running.
#[derive(Clone)]
pub struct Controls {
    pub(super) server: Arc<Server>,
}

impl Controls {
    /// The account that signs in with a phone number.
    pub fn account(&self, phone: &str) -> Option<UserId> {
        services::auth::account_of_phone(&self.server.world(), phone)
    }

    /// Looks at the world or changes it, while no call runs. Updates that it causes are sent out.
    /// `act` must not use the controls: it would wait for itself.
    pub fn with_world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        dispatcher::with_world(&self.server, act)
    }

    /// Adds a fault, and gives the id to remove it by.
    pub fn add_fault(&self, fault: Fault) -> u64 {
        self.server.faults.add(fault)
    }

    /// The faults that have not been used up, in the order in which they are tried.
    pub fn faults(&self) -> Vec<ListedFault> {
        self.server.faults.list()
    }

    /// Removes one fault. Whether it was still there.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.server.faults.remove(id)
    }

    pub fn clear_faults(&self) {
        self.server.faults.clear();
    }

    /// Limits how often each account may call a method, or changes the limit of that method.
    pub fn set_rate_limit(&self, limit: RateLimit) {
        self.server.limits.set(limit);
    }

    pub fn rate_limits(&self) -> Vec<RateLimit> {
        self.server.limits.list()
    }

    /// Forgets the limits, and who is to wait because of them.
    pub fn clear_rate_limits(&self) {
        self.server.limits.clear();
    }

    /// What clients asked for since the start.
    pub fn calls(&self) -> Calls {
        self.server.stats.calls()
    }

    /// The connections that are open now, oldest first.
    pub fn connections(&self) -> Vec<OpenConnection> {
        self.server
            .connections
            .list()
            .iter()
            .map(|connection| self.describe(connection))
            .collect()
    }

    /// How many connections were made since the start.
    pub fn connections_made(&self) -> u64 {
        self.server.connections.made()
    }

    /// What was recorded of keys used from two places, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.server.watch.incidents()
    }

    /// Forgets the incidents so far, and gives them: for a test that provokes some.
    pub fn take_incidents(&self) -> Vec<Incident> {
        self.server.watch.take_incidents()
    }

    /// What was seen of every key that was used, or of those an account is signed in with.
    pub fn keys(&self, account: Option<UserId>) -> Vec<KeyRecord> {
        let mut records: Vec<_> = self
            .server
            .watch
            .all_uses()
            .into_iter()
            .map(|(key, uses)| KeyRecord {
                key: printed(key),
                account: self.server.keys.account(key),
                api_id: self.server.keys.application(key),
                uses,
            })
            .filter(|record| account.is_none() || record.account == account)
            .collect();
        records.sort_by_key(|record| record.uses.first().map(|first| first.connection));
        records
    }

    /// Closes the connections of an account, or all. How many there were.
    pub fn drop_connections(&self, account: Option<UserId>) -> usize {
        self.each_connection(account, Connection::end)
    }

    /// Makes the connections of an account, or all, fall silent: they stay open, and nothing comes of what is sent on
    /// them. What is sent is still read off the wire, so that the watch over keys sees it. How many there were.
    pub fn silence_connections(&self, account: Option<UserId>) -> usize {
        self.each_connection(account, Connection::fall_silent)
    }

    /// Revokes every key an account is signed in with. How many there were.
    pub fn revoke_keys(&self, account: UserId, how: Revocation) -> usize {
        let keys = self.server.keys.of_account(account);
        for key in &keys {
            match how {
                Revocation::SignOut => drop(self.server.keys.sign_out(*key)),
                Revocation::Forget => drop(self.server.keys.forget(*key)),
            }
        }
        keys.len()
    }

    /// Moves an account to another data centre: whoever is signed in elsewhere is told so from the next call on. The number must
    /// be one of the sandbox's.
    pub fn move_account(&self, account: UserId, dc: i32) -> Answer<()> {
        if !self.server.dcs.contains_key(&dc) {
            return Err(RpcError::new(400, "DC_ID_INVALID"));
        }
        self.with_world(|world| world.set_home_dc(account, dc))
    }

    /// Makes the login codes sent so far expire: those of a phone number, or all.
    pub fn expire_codes(&self, phone: Option<&str>) {
        self.server.logins.expire_codes(phone);
    }

    /// Lets the login of a QR code in, as if the account had scanned it; `url` is `tg://login?token=…`.
    pub fn accept_login(&self, url: &str, account: UserId) -> Answer<()> {
        let token = url
            .strip_prefix("tg://login?token=")
            .and_then(|token| URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok())
            .ok_or_else(|| RpcError::new(400, "AUTH_TOKEN_INVALID"))?;
        services::tokens::accept(&self.server, &token, account)
    }

    fn describe(&self, connection: &Connection) -> OpenConnection {
        let key = key_of(connection);
        OpenConnection {
            connection: connection.id,
            dc: connection.dc,
            peer: connection.peer,
            key: key.map(printed),
            account: key.and_then(|key| self.server.keys.account(key)),
            silent: connection.is_silent(),
        }
    }

    fn each_connection(&self, account: Option<UserId>, act: impl Fn(&Connection)) -> usize {
        let list = self.server.connections.list();
        let of_account = |connection: &&Arc<Connection>| {
            account.is_none() || key_of(connection).and_then(|key| self.server.keys.account(key)) == account
        };
        list.iter().filter(of_account).map(|connection| act(connection)).count()
    }
}

fn key_of(connection: &Connection) -> Option<KeyId> {
    connection.recipient().map(|recipient| recipient.key_id)
}
