//! An in-process `MTProto` server with made-up users and chats, for development, tests and the first run.
//!
//! The same client code runs against it and against Telegram; only the address and the server's RSA key differ. What it
//! does not implement it refuses and counts. It watches that no auth key is used from two places.
//!
//! From the socket inwards: `transport` and `framing` (packets), `connection` and `writer`, `handshake` and
//! `encryption`, `envelope` (containers, compression, wrappers), `service_messages`, `dispatcher`, `services`, `world`.

mod auth_keys;
pub mod call;
mod clock;
mod connection;
mod connections;
mod control;
mod controls;
mod dispatcher;
mod encryption;
mod envelope;
mod faults;
mod framing;
mod handshake;
mod key_watch;
mod leniency;
mod nesting;
mod random;
mod rate_limits;
mod salts;
mod server;
mod server_key;
mod service_messages;
mod services;
mod srp;
mod stats;
#[cfg(test)]
mod tests;
mod transport;
pub mod world;
mod writer;

use std::{collections::BTreeMap, fmt::Write as _, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::sleep};

use self::{
    clock::Stopwatch,
    key_watch::KeyWatch,
    server::{MAIN_DC, Server},
    server_key::ServerKey,
    world::World,
};
pub use self::{
    controls::{Controls, KeyRecord, OpenConnection, Revocation},
    faults::{Effect, Fault, ListedFault},
    key_watch::{ConnectionId, Incident, KeyUse, Misuse},
    rate_limits::RateLimit,
    server_key::ServerKeyError,
    services::auth::{EXPIRED_CODE, LOGIN_CODE, NUMBERS, PASSWORD_HINT},
    stats::{Calls, Counts},
};

/// How a sandbox is to be started.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Where Telegram clients connect: data centre 2. Loopback only; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The other data centres and where they listen, in the same way.
    pub other_dcs: Vec<(i32, SocketAddr)>,
    /// Where the control interface listens. Loopback only; port 0 takes a free one.
    pub control: SocketAddr,
    /// What the world is made from: the same seed makes the same world.
    pub seed: u64,
    /// Where the RSA key is kept; without it each start makes a new one.
    pub key_file: Option<PathBuf>,
    /// How long a `random_id` is remembered, so that a message sent again with it is not stored twice.
    pub random_id_window: Duration,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: loopback,
            other_dcs: vec![(4, loopback)],
            control: loopback,
            seed: 1,
            key_file: None,
            random_id_window: Duration::from_mins(5),
        }
    }
}

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the sandbox listens on loopback addresses only, and {0} is none")]
    NotLoopback(SocketAddr),
    #[error("data centres have numbers from 1 to 1000, each once, and {0} is not so")]
    DcNumber(i32),
    #[error("could not listen on {addr}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Key(#[from] ServerKeyError),
    #[error("making the RSA key broke down")]
    Crashed,
}

/// The way to start a sandbox.
pub struct Sandbox;

impl Sandbox {
    /// Starts a sandbox in the current runtime. It runs until its handle is shut down or dropped.
    pub async fn start(config: SandboxConfig) -> Result<SandboxHandle, SandboxError> {
        let mut listeners = Vec::new();
        let mut dcs = BTreeMap::new();
        for (dc, wanted) in [(MAIN_DC, config.listen)].into_iter().chain(config.other_dcs) {
            let listener = listen(wanted).await?;
            let addr = local_addr(&listener, wanted)?;
            if !(1..=1_000).contains(&dc) || dcs.insert(dc, addr).is_some() {
                return Err(SandboxError::DcNumber(dc));
            }
            listeners.push((dc, listener));
        }
        let control = listen(config.control).await?;
        let control_addr = local_addr(&control, config.control)?;
        let (key_file, seed) = (config.key_file.clone(), config.seed);
        // Both take up to seconds of arithmetic.
        let (rsa_key, world) = tokio::task::spawn_blocking(move || {
            let key = match key_file {
                Some(path) => ServerKey::load_or_create(&path),
                None => ServerKey::generate(),
            };
            let mut world = World::new(seed);
            world.set_random_id_window(config.random_id_window);
            (key, world)
        })
        .await
        .map_err(|_| SandboxError::Crashed)?;
        let server = Arc::new(Server::new(dcs, rsa_key?, world, KeyWatch::new(Stopwatch::start())));
        for (dc, listener) in listeners {
            server.tasks.spawn(accept(listener, dc, Arc::clone(&server)));
        }
        let serving = control::serve(control, Arc::clone(&server));
        server.tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the sandbox's control interface ended");
            }
        });
        Ok(SandboxHandle {
            controls: Controls { server },
            control_addr,
        })
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, SandboxError> {
    if !addr.ip().is_loopback() {
        return Err(SandboxError::NotLoopback(addr));
    }
    TcpListener::bind(addr)
        .await
        .map_err(|source| SandboxError::Listen { addr, source })
}

fn local_addr(listener: &TcpListener, addr: SocketAddr) -> Result<SocketAddr, SandboxError> {
    listener
        .local_addr()
        .map_err(|source| SandboxError::Listen { addr, source })
}

async fn accept(listener: TcpListener, dc: i32, server: Arc<Server>) {
    /// After a failure to accept, such as too many open files, which trying again at once would not mend.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(server.tasks.spawn(connection::serve(Arc::clone(&server), dc, stream))),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

/// A running sandbox. Dropping it closes all its sockets and ends all its tasks.
pub struct SandboxHandle {
    controls: Controls,
    control_addr: SocketAddr,
}

impl SandboxHandle {
    /// Where Telegram clients connect: data centre 2.
    pub fn addr(&self) -> SocketAddr {
        self.controls.server.dcs[&MAIN_DC]
    }

    /// Where a data centre listens.
    pub fn dc_addr(&self, dc: i32) -> Option<SocketAddr> {
        self.controls.server.dcs.get(&dc).copied()
    }

    /// The other data centres, as `WIREROOM_TELEGRAM_SERVER_DCS` names them: `4=127.0.0.1:4434`.
    pub fn other_dcs(&self) -> String {
        let mut text = String::new();
        for (dc, addr) in self.controls.server.dcs.iter().filter(|(dc, _)| **dc != MAIN_DC) {
            let comma = if text.is_empty() { "" } else { "," };
            // A string takes anything.
            let _ = write!(text, "{comma}{dc}={addr}");
        }
        text
    }

    /// Where the control interface answers.
    pub fn control_addr(&self) -> SocketAddr {
        self.control_addr
    }

    /// The server's RSA key, as PKCS#1 in PEM.
    pub fn public_key_pem(&self) -> &str {
        self.controls.server.rsa_key.public_pem()
    }

    /// The code with which every account signs in.
    pub fn login_code(&self) -> &'static str {
        services::auth::LOGIN_CODE
    }

    /// The same controls that the control interface gives.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// What was recorded of keys used from two places, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.controls.incidents()
    }

    /// Ends everything: all sockets are closed and all tasks have ended when it returns.
    pub async fn shutdown(self) {
        let server = &self.controls.server;
        server.stop.cancel();
        server.tasks.close();
        server.tasks.wait().await;
    }
}

impl Drop for SandboxHandle {
    fn drop(&mut self) {
        self.controls.server.stop.cancel();
    }
}
