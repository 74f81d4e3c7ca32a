//! The one way from a session to Telegram: an in-process relay between grammers' socket and the real one.
//!
//! grammers has no hook before a write, hangs on a connection that died silently, and cannot say when its socket is
//! closed. The relay gives all three:
//!
//! - before each write to Telegram it looks at the [`Trust`], so a process that was stopped past its lease sends nothing
//!   when it wakes. What remains is the time between that look and the system call after it: microseconds, unless the
//!   process is stopped exactly there.
//! - a server that leaves bytes unanswered for too long is hung up on;
//! - [`Relay::close`] returns when the socket is closed, and only then may the lease be released.
//!
//! The outgoing connection is made here and nowhere else, so this is where a session's proxy is: [`dial`](super::dial).
//!
//! A session has one connection at a time: a second one is dialled when the first is closed. It costs one local hop, 20 to
//! 50 µs per round trip as measured, and three more descriptors per session (the listener and both ends of the local
//! connection); no buffer while idle.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dial::{DialError, ProxyFault, dial},
    trust::Trust,
};
use crate::proxy::Proxy;

const CHUNK: usize = 16 * 1024;
/// How long a closed connection may take until the server has hung up too.
const FAREWELL: Duration = Duration::from_millis(500);

/// One session's way to its home data centre.
#[derive(Debug)]
pub struct Relay {
    inner: Arc<Inner>,
    entrance: SocketAddrV4,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Inner {
    trust: Arc<Trust>,
    silence: Duration,
    target: Mutex<SocketAddrV4>,
    proxy: Mutex<Option<Proxy>>,
    /// Why the proxy gave no connection when it was last asked for one; `None` when it did.
    fault: Mutex<Option<ProxyFault>>,
    /// Ends the present connection; replaced for the next.
    cut: Mutex<CancellationToken>,
    closed: CancellationToken,
}

impl Relay {
    /// Opens an entrance on the loopback address that leads to `target`, through `proxy` if there is one. A server that
    /// leaves bytes unanswered for `silence` is hung up on; the same bounds dialling.
    pub fn open(target: SocketAddrV4, proxy: Option<Proxy>, trust: Arc<Trust>, silence: Duration) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let entrance = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        let listener = TcpListener::from_std(listener)?;
        let inner = Arc::new(Inner {
            trust,
            silence,
            target: Mutex::new(target),
            proxy: Mutex::new(proxy),
            fault: Mutex::new(None),
            cut: Mutex::new(CancellationToken::new()),
            closed: CancellationToken::new(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(Arc::clone(&inner).serve(listener));
        tasks.close();
        Ok(Self { inner, entrance, tasks })
    }

    /// Where grammers connects to.
    pub fn entrance(&self) -> SocketAddrV4 {
        self.entrance
    }

    /// Where the next connection goes.
    pub fn set_target(&self, target: SocketAddrV4) {
        *self.inner.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Sends the next connection another way, and hangs up on the present one; `false`: it is the way it takes already.
    pub fn set_proxy(&self, proxy: Option<Proxy>) -> bool {
        let mut known = self.inner.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == proxy {
            return false;
        }
        *known = proxy;
        drop(known);
        self.inner.note_fault(None);
        self.cut();
        true
    }

    /// Why the proxy gave no connection when it was last asked for one; `None` when it did, or there is none.
    pub fn proxy_fault(&self) -> Option<ProxyFault> {
        *self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hangs up; the next connection is dialled anew.
    pub fn cut(&self) {
        let mut cut = self.inner.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }

    /// Stops for good without waiting: not a byte is forwarded from here on.
    pub fn stop(&self) {
        self.inner.closed.cancel();
    }

    /// Stops for good; returns when every socket is closed.
    pub async fn close(&self) {
        self.stop();
        self.tasks.wait().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why a connection ended.
enum End {
    /// A newer local connection takes its place.
    Superseded(TcpStream),
    /// One side hung up, failed or fell silent, or it was cut.
    Over,
    /// The relay closes, or the lease is not trusted any more.
    Stopped,
}

impl Inner {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut next: Option<TcpStream> = None;
        loop {
            let local = if let Some(local) = next.take() {
                local
            } else {
                tokio::select! {
                    () = self.closed.cancelled() => return,
                    accepted = listener.accept() => match accepted {
                        Ok((local, _)) => local,
                        Err(error) => {
                            tracing::warn!(%error, "the relay could not accept a connection");
                            sleep(Duration::from_millis(100)).await;
                            continue;
                        }
                    },
                }
            };
            match self.connection(&listener, local).await {
                End::Superseded(newer) => next = Some(newer),
                End::Over => {}
                End::Stopped => return,
            }
        }
    }

    async fn connection(&self, listener: &TcpListener, local: TcpStream) -> End {
        // First: whoever changes the way afterwards ends this connection.
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let proxy = self.proxy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !self.trust.holds() {
            return End::Stopped;
        }
        let dialled = tokio::select! {
            biased;
            () = self.closed.cancelled() => return End::Stopped,
            () = self.trust.ended() => return End::Stopped,
            () = cut.cancelled() => return End::Over,
            dialled = dial(target, proxy.as_ref(), self.silence) => dialled,
        };
        drop(proxy);
        let remote = match dialled {
            Ok(remote) => remote,
            Err(DialError::Direct) => return End::Over,
            Err(DialError::Proxy(fault)) => {
                tracing::debug!(%fault, "no connection was made");
                // Before the local side learns of it, and asks why.
                self.note_fault(Some(fault));
                return End::Over;
            }
        };
        self.note_fault(None);
        // Latency matters more than the number of packets; without these options it still works.
        let _ = local.set_nodelay(true);
        let _ = remote.set_nodelay(true);
        let end = tokio::select! {
            biased;
            () = self.closed.cancelled() => End::Stopped,
            () = self.trust.ended() => return End::Stopped,
            () = cut.cancelled() => End::Over,
            () = self.forward(&local, &remote) => End::Over,
            accepted = listener.accept() => accepted.map_or(End::Over, |(newer, _)| End::Superseded(newer)),
        };
        drop(local);
        farewell(remote).await;
        end
    }

    fn note_fault(&self, fault: Option<ProxyFault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Forwards both ways until one of them ends.
    async fn forward(&self, local: &TcpStream, remote: &TcpStream) {
        let unanswered = Unanswered::default();
        let up = async {
            while let Some(bytes) = receive(local).await {
                if !self.send(remote, &bytes).await {
                    break;
                }
                unanswered.sent();
            }
        };
        let down = async {
            while let Some(bytes) = receive(remote).await {
                unanswered.answered();
                if !send_all(local, &bytes).await {
                    break;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            () = unanswered.for_longer_than(self.silence) => tracing::debug!("the server fell silent: hanging up"),
        }
    }

    /// Writes to Telegram, with a look at the trust before every system call.
    async fn send(&self, remote: &TcpStream, bytes: &[u8]) -> bool {
        let mut sent = 0;
        while sent < bytes.len() {
            if remote.writable().await.is_err() || !self.trust.holds() {
                return false;
            }
            match remote.try_write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Since when bytes of ours have had no answer.
#[derive(Default)]
struct Unanswered(Mutex<Option<Instant>>);

impl Unanswered {
    fn sent(&self) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now);
    }

    fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn for_longer_than(&self, bound: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let left = since.map_or(bound, |since| bound.saturating_sub(since.elapsed()));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// The next bytes; `None` when the other side hung up. Takes no memory while it waits.
async fn receive(from: &TcpStream) -> Option<Vec<u8>> {
    loop {
        from.readable().await.ok()?;
        let mut bytes = Vec::with_capacity(CHUNK);
        match from.try_read_buf(&mut bytes) {
            Ok(0) => return None,
            Ok(_) => return Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

async fn send_all(to: &TcpStream, bytes: &[u8]) -> bool {
    let mut sent = 0;
    while sent < bytes.len() {
        if to.writable().await.is_err() {
            return false;
        }
        match to.try_write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}

/// Hangs up and waits a moment for the server to do so too: it then knows that this connection is over before it can
/// see another one of the same key.
async fn farewell(mut remote: TcpStream) {
    if tokio::io::AsyncWriteExt::shutdown(&mut remote).await.is_ok() {
        let _ = timeout(FAREWELL, async { while receive(&remote).await.is_some() {} }).await;
    }
}

#[cfg(test)]
mod tests;
