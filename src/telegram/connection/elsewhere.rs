//! Calls in other data centres than the home one, where files lie: the authorisation is taken along to a key of the session's
//! own there, which is kept, sealed, for the next time.
//!
//! Each data centre has one connection at a time, under the same trust in the lease and through the same proxy as the
//! session's first one. It is closed when nobody has used it for a while, and in any case before the lease may be released.

use std::{collections::HashMap, sync::Arc, time::Duration};

use grammers_mtproto::transport;
use grammers_mtsender::InvocationError;
use grammers_tl_types::{self as tl, RemoteCall};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use super::{CallError, Connection};
use crate::{
    proxy::Proxy,
    telegram::{
        errors::Meaning,
        login::{Exported, Link, LinkError, LoginNet},
    },
};

/// A connection that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// A session's connections to other data centres.
#[derive(Default)]
pub(super) struct Elsewhere {
    /// Held while one is opened or closed: so there are never two of a data centre.
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    open: HashMap<i32, Open>,
    /// The session is given up.
    is_closed: bool,
}

struct Open {
    link: Arc<Link>,
    proxy: Option<Proxy>,
    used_at: Instant,
}

impl Connection {
    /// Whether a data centre's address is known.
    pub fn knows(&self, dc: i32) -> bool {
        dc == self.storage.home_dc() || self.settings.known_dcs.contains(&dc)
    }

    /// Calls once in the data centre `dc`, which is not the home one. Where the session's key there is not good any more, the
    /// authorisation is taken there anew, once.
    pub async fn call_elsewhere<R: RemoteCall>(self: &Arc<Self>, dc: i32, request: &R) -> Result<R::Return, CallError> {
        for is_second in [false, true] {
            let link = self.link_to(dc).await?;
            let error = match link.call(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if is_second || !is_void(&error) {
                return Err(self.call_error(error));
            }
            tracing::info!(session.id = %self.storage.lease().session, dc, "the session's key there is void: it gets another");
            self.forget(dc, &link).await?;
        }
        Err(CallError::Disconnected(None))
    }

    async fn link_to(self: &Arc<Self>, dc: i32) -> Result<Arc<Link>, CallError> {
        let mut links = self.elsewhere.links.lock().await;
        if links.is_closed || self.stop.is_cancelled() || !self.trust.holds() {
            return Err(CallError::LeaseLost);
        }
        let proxy = self.proxy();
        if let Some(open) = links.open.get_mut(&dc) {
            if open.proxy == proxy {
                open.used_at = Instant::now();
                return Ok(Arc::clone(&open.link));
            }
            // The session goes another way now.
            open.link.close().await;
            links.open.remove(&dc);
        }
        let link = Arc::new(self.open_link(dc, proxy.clone()).await?);
        let open = Open {
            link: Arc::clone(&link),
            proxy,
            used_at: Instant::now(),
        };
        links.open.insert(dc, open);
        drop(links);
        tokio::spawn(Arc::clone(self).close_when_idle(dc));
        Ok(link)
    }

    async fn open_link(&self, dc: i32, proxy: Option<Proxy>) -> Result<Link, CallError> {
        let Some(config) = &self.settings.elsewhere else {
            return Err(CallError::Disconnected(None));
        };
        let net = LoginNet::read(config).await.map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "no other data centre can be reached"
            );
            CallError::Disconnected(None)
        })?;
        let known = self.storage.key_of(dc).await.map_err(|error| unstored(&error))?;
        let is_known = known.is_some();
        let (api_id, trust) = (self.settings.api_id, Arc::clone(&self.trust));
        let link = tokio::select! {
            () = self.stopped() => return Err(CallError::LeaseLost),
            opened = Link::open(&net, dc, known, api_id, proxy, trust) => opened.map_err(|error| self.call_error(error))?,
        };
        if is_known {
            return Ok(link);
        }
        let taken_along = tokio::select! {
            () = self.stopped() => Err(CallError::LeaseLost),
            taken_along = self.take_along(&net, &link) => taken_along,
        };
        match taken_along {
            Ok(()) => Ok(link),
            Err(error) => {
                link.close().await;
                Err(error)
            }
        }
    }

    /// Exports the authorisation at home and imports it at the link's data centre.
    async fn take_along(&self, net: &LoginNet, link: &Link) -> Result<(), CallError> {
        let dc = link.dc();
        let request = tl::functions::auth::ExportAuthorization { dc_id: dc };
        let tl::enums::auth::ExportedAuthorization::Authorization(exported) = self.call(&request).await?;
        let imported = link.import_authorization(Exported::from(exported)).await;
        let account = imported.map_err(|error| self.call_error(error))?;
        if account.id != self.storage.account_id() {
            tracing::error!(session.id = %self.storage.lease().session, dc, "the other data centre knows another account");
            return Err(CallError::Unreadable);
        }
        let key = link.key().ok_or(CallError::Unreadable)?;
        let (ipv4, ipv6) = net.address(dc).map_err(|error| self.call_error(error))?;
        self.storage
            .save_key_of(dc, &key, ipv4, ipv6)
            .await
            .map_err(|error| unstored(&error))?;
        tracing::info!(session.id = %self.storage.lease().session, dc, "the session was taken along for its files");
        Ok(())
    }

    /// The session's key there is not used again.
    async fn forget(&self, dc: i32, link: &Arc<Link>) -> Result<(), CallError> {
        let mut links = self.elsewhere.links.lock().await;
        let is_this = links.open.get(&dc).is_some_and(|open| Arc::ptr_eq(&open.link, link));
        if !is_this {
            // Somebody else has seen to it.
            return Ok(());
        }
        links.open.remove(&dc);
        link.close().await;
        self.storage.forget_key_of(dc).await.map_err(|error| unstored(&error))
    }

    async fn close_when_idle(self: Arc<Self>, dc: i32) {
        loop {
            let closes_at = {
                let mut links = self.elsewhere.links.lock().await;
                let Some(open) = links.open.get(&dc) else { return };
                let closes_at = open.used_at + IDLE;
                if closes_at <= Instant::now()
                    && let Some(open) = links.open.remove(&dc)
                {
                    open.link.close().await;
                    return;
                }
                closes_at
            };
            tokio::select! {
                () = self.stopped() => return self.close_elsewhere().await,
                () = sleep_until(closes_at) => {}
            }
        }
    }

    /// Hangs up on all other data centres for good; returns when the sockets are closed.
    pub(super) async fn close_elsewhere(&self) {
        let mut links = self.elsewhere.links.lock().await;
        links.is_closed = true;
        for (_, open) in links.open.drain() {
            open.link.close().await;
        }
    }

    fn call_error(&self, error: LinkError) -> CallError {
        match error {
            LinkError::Rpc(error) => CallError::Rpc(error),
            LinkError::Deadline => CallError::Deadline,
            LinkError::Proxy(fault) => CallError::Proxy { fault, late: false },
            LinkError::Unreadable => CallError::Unreadable,
            _ if !self.trust.holds() => CallError::LeaseLost,
            LinkError::Connection(error) => CallError::Disconnected(Some(error)),
            error => {
                tracing::warn!(session.id = %self.storage.lease().session, error = &error as &dyn std::error::Error,
                    "another data centre was not reached");
                CallError::Disconnected(None)
            }
        }
    }
}

/// The key is dead, not authorised, or the data centre does not know it.
fn is_void(error: &LinkError) -> bool {
    match error {
        LinkError::Rpc(error) => matches!(Meaning::of(error), Meaning::LoggedOut | Meaning::KeyDuplicated),
        LinkError::Connection(
            InvocationError::Authentication(_)
            | InvocationError::Transport(transport::Error::BadStatus { status: 404 }),
        ) => true,
        _ => false,
    }
}

fn unstored(error: &crate::telegram::session_storage::StorageError) -> CallError {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a key for another data centre was not read or stored"
    );
    CallError::Disconnected(None)
}
