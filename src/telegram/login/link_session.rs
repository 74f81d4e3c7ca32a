//! What grammers asks of a session while somebody logs in: one data centre and its key. Nothing else is remembered, and the
//! key is wiped with it, which grammers' own session in memory does not do.

use std::{
    convert::Infallible,
    net::{SocketAddrV4, SocketAddrV6},
    sync::{Mutex, MutexGuard, PoisonError},
};

use grammers_session::{
    BoxFuture, Session,
    types::{DcOption, PeerId, PeerInfo, UpdateState, UpdatesState},
};

use crate::telegram::auth_key::AuthKey;

pub(super) struct LinkSession {
    dc: i32,
    /// The relay, whatever the server says of its address.
    entrance: SocketAddrV4,
    key: Mutex<Option<AuthKey>>,
}

impl LinkSession {
    pub fn new(dc: i32, entrance: SocketAddrV4, key: Option<AuthKey>) -> Self {
        Self {
            dc,
            entrance,
            key: Mutex::new(key),
        }
    }

    pub fn key(&self) -> Option<AuthKey> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<AuthKey>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, Infallible>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Session for LinkSession {
    type Error = Infallible;

    fn home_dc_id(&self) -> Result<i32, Infallible> {
        Ok(self.dc)
    }

    fn set_home_dc_id(&self, _dc_id: i32) -> BoxFuture<'_, Result<(), Infallible>> {
        ready(())
    }

    fn dc_option(&self, dc_id: i32) -> Result<Option<DcOption>, Infallible> {
        Ok((dc_id == self.dc).then(|| DcOption {
            id: dc_id,
            ipv4: self.entrance,
            ipv6: SocketAddrV6::new(self.entrance.ip().to_ipv6_mapped(), self.entrance.port(), 0, 0),
            auth_key: self.lock().as_deref().copied(),
        }))
    }

    fn set_dc_option(&self, dc_option: &DcOption) -> BoxFuture<'_, Result<(), Infallible>> {
        if let Some(key) = dc_option.auth_key.as_ref().filter(|_| dc_option.id == self.dc) {
            let mut known = self.lock();
            if known.as_deref() != Some(key) {
                *known = Some(AuthKey::copy(key));
            }
        }
        ready(())
    }

    fn peer(&self, _peer: PeerId) -> BoxFuture<'_, Result<Option<PeerInfo>, Infallible>> {
        ready(None)
    }

    fn cache_peer(&self, _peer: PeerInfo) -> BoxFuture<'_, Result<(), Infallible>> {
        ready(())
    }

    fn updates_state(&self) -> BoxFuture<'_, Result<UpdatesState, Infallible>> {
        ready(UpdatesState::default())
    }

    fn set_update_state(&self, _update: UpdateState) -> BoxFuture<'_, Result<(), Infallible>> {
        ready(())
    }
}
