//! What all connections of a sandbox share.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    auth_keys::AuthKeys,
    connections::Connections,
    faults::Faults,
    key_watch::KeyWatch,
    rate_limits::RateLimits,
    server_key::ServerKey,
    services::{auth::Logins, exports::Exports, tokens::LoginTokens},
    stats::Stats,
    world::World,
};

/// The data centre that clients begin in, and where accounts live that were not moved.
pub(super) const MAIN_DC: i32 = 2;

pub(super) struct Server {
    /// Where each data centre listens: one world and one RSA key, but auth keys of their own.
    pub dcs: BTreeMap<i32, SocketAddr>,
    pub rsa_key: ServerKey,
    pub keys: AuthKeys,
    pub logins: Logins,
    pub tokens: LoginTokens,
    pub exports: Exports,
    pub faults: Faults,
    pub limits: RateLimits,
    pub watch: KeyWatch,
    pub stats: Stats,
    pub connections: Connections,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    world: Mutex<World>,
}

impl Server {
    pub fn new(dcs: BTreeMap<i32, SocketAddr>, rsa_key: ServerKey, world: World, watch: KeyWatch) -> Self {
        Self {
            dcs,
            rsa_key,
            keys: AuthKeys::default(),
            logins: Logins::default(),
            tokens: LoginTokens::default(),
            exports: Exports::default(),
            faults: Faults::default(),
            limits: RateLimits::default(),
            watch,
            stats: Stats::default(),
            connections: Connections::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            world: Mutex::new(world),
        }
    }

    /// The world, locked. A service that panicked leaves it as it was at that moment.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
