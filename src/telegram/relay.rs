//! The one way from a session to Telegram: an in-process relay between grammers' socket and the real one.
//!
//! grammers has no hook before a write, hangs on a connection that died silently, and cannot say whether a request has left
//! or when its socket is closed. The relay gives all four:
//!
//! - before each write to Telegram it looks at the [`Trust`], so a process that was stopped past its lease sends nothing
//!   when it wakes. What remains is the time between that look and the system call after it: microseconds, unless the
//!   process is stopped exactly there.
//! - a server that leaves bytes unanswered for too long is hung up on;
//! - [`Relay::settled`] says whether what was handed in can still leave;
//! - [`Relay::close`] returns when the socket is closed, and only then may the lease be released.
//!
//! The outgoing connection is made here and nowhere else, so this is where a session's proxy is: [`dial`](super::dial).
//!
//! A relay has one connection at a time: a second one is dialled when the first is closed. It costs one local hop, 12 to
//! 15 µs of time and of CPU per round trip over a thousand connections (`wireroom bench sessions`; the look at the trust is
//! 0.06 µs of that), and three more descriptors per session (the listener and both ends of the local connection); no buffer
//! while idle.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
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
    /// Bytes that went to Telegram over all connections.
    sent: AtomicU64,
    /// When something came from Telegram last, or a connection was begun.
    heard: Mutex<Instant>,
    /// Who waits for everything that was handed in to be gone, one way or the other.
    asks: Mutex<Vec<oneshot::Sender<bool>>>,
    asked: Notify,
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
            sent: AtomicU64::new(0),
            heard: Mutex::new(Instant::now()),
            asks: Mutex::default(),
            asked: Notify::new(),
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

    /// What connections are made through.
    pub fn proxy(&self) -> Option<Proxy> {
        self.inner.proxy.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// How many bytes went to Telegram so far.
    pub fn sent(&self) -> u64 {
        self.inner.sent.load(Ordering::Acquire)
    }

    /// When something came from Telegram last, or a connection was begun.
    pub fn heard(&self) -> Instant {
        *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hangs up, and drops what was handed in and not forwarded yet; then answers like [`Relay::sent`]. From here on nothing
    /// leaves of what was handed in before. `None`: that is not certain.
    pub async fn settled(&self) -> Option<u64> {
        let (answer, settled) = oneshot::channel();
        self.inner.ask(answer);
        let is_certain = tokio::select! {
            is_certain = settled => is_certain.unwrap_or(false),
            // A relay that is over forwards nothing.
            () = self.tasks.wait() => true,
        };
        is_certain.then(|| self.sent())
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
            self.settle(&listener, &mut next);
            let local = if let Some(local) = next.take() {
                local
            } else {
                tokio::select! {
                    () = self.closed.cancelled() => return,
                    () = self.asked_to_settle() => continue,
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

    fn ask(&self, answer: oneshot::Sender<bool>) {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.asked.notify_one();
    }

    /// Drops the connections that wait here when somebody asks to, and says whether that were all.
    fn settle(&self, listener: &TcpListener, next: &mut Option<TcpStream>) {
        let asks = std::mem::take(&mut *self.asks.lock().unwrap_or_else(PoisonError::into_inner));
        if asks.is_empty() {
            return;
        }
        *next = None;
        let is_certain = drop_waiting(listener).is_ok();
        for ask in asks {
            // Whoever does not wait any more need not know.
            let _ = ask.send(is_certain);
        }
    }

    /// Returns when somebody waits for [`Inner::settle`].
    async fn asked_to_settle(&self) {
        loop {
            if !self.asks.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            self.asked.notified().await;
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
        tracing::debug!(%target, "dialling");
        let dialled = tokio::select! {
            biased;
            () = self.closed.cancelled() => return End::Stopped,
            () = self.trust.ended() => return End::Stopped,
            () = cut.cancelled() => return End::Over,
            () = self.asked_to_settle() => return End::Over,
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
            () = self.asked_to_settle() => End::Over,
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
        self.note_heard();
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
                self.note_heard();
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

    fn note_heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Writes to Telegram, with a look at the trust before every system call.
    async fn send(&self, remote: &TcpStream, bytes: &[u8]) -> bool {
        let mut sent = 0;
        while sent < bytes.len() {
            if remote.writable().await.is_err() || !self.trust.holds() {
                return false;
            }
            match remote.try_write(&bytes[sent..]) {
                Ok(count) => {
                    sent += count;
                    self.sent.fetch_add(count as u64, Ordering::AcqRel);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Drops every connection that waits to be accepted. The kernel is asked itself: tokio knows of some only later.
fn drop_waiting(listener: &TcpListener) -> io::Result<()> {
    let door = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    loop {
        match door.accept() {
            Ok((waiting, _)) => drop(waiting),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
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
