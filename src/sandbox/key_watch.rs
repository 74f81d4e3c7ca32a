//! Watches that no auth key is used from two places.
//!
//! Telegram kills such a key, so a test run must notice it even when no harm was done. A quick reconnect is no misuse:
//! when a second connection sends its first byte, the kernel is asked whether the other end of the first has already
//! closed it. What is then still read of the first was sent before.

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use tokio::net::TcpStream;

use super::{
    auth_keys::{KeyId, printed},
    call::UserId,
    clock::Stopwatch,
};

/// How many connections are remembered per key.
const REMEMBERED_USES: usize = 256;

/// A number that names a connection for as long as the sandbox runs.
pub type ConnectionId = u64;

/// How a key was misused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Misuse {
    /// A connection sent its first byte while an older one with the same key was open.
    OpenTwice,
    /// A connection sent a byte after a newer one with the same key had begun to send.
    Interleaved,
}

/// One misuse of a key by a pair of connections. Each pair is recorded once per kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incident {
    pub kind: Misuse,
    /// The key's id, in hexadecimal.
    pub key: String,
    /// Who was signed in with the key at the time.
    pub account: Option<UserId>,
    /// The connection that began to send first.
    pub older: ConnectionId,
    /// The connection that began to send while the older one was open.
    pub newer: ConnectionId,
    /// When, in milliseconds since the sandbox started.
    pub at_ms: u64,
}

/// What one connection did with a key. Times are milliseconds since the sandbox started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyUse {
    pub connection: ConnectionId,
    /// When the first encrypted packet came.
    pub first_ms: u64,
    /// When the last bytes came.
    pub last_ms: u64,
    /// How often bytes came.
    pub reads: u64,
    /// When either end closed it; `None` while it is open.
    pub closed_ms: Option<u64>,
}

/// The record of every key.
pub(super) struct KeyWatch {
    clock: Stopwatch,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    keys: HashMap<KeyId, Vec<Watched>>,
    incidents: Vec<Incident>,
}

struct Watched {
    seen: KeyUse,
    socket: Weak<TcpStream>,
}

impl KeyWatch {
    pub fn new(clock: Stopwatch) -> Self {
        Self {
            clock,
            record: Mutex::default(),
        }
    }

    /// Notes that bytes came from a connection that uses `key`.
    pub fn bytes_came(&self, connection: ConnectionId, key: KeyId, account: Option<UserId>, socket: &Arc<TcpStream>) {
        let now = self.clock.millis();
        let mut record = self.lock();
        let Record { keys, incidents } = &mut *record;
        let uses = keys.entry(key).or_default();
        let mut report = |kind, older, newer| {
            let incident = Incident {
                kind,
                key: printed(key),
                account,
                older,
                newer,
                at_ms: now,
            };
            let known = |other: &Incident| {
                (other.kind, &other.key, other.older, other.newer) == (kind, &incident.key, older, newer)
            };
            if !incidents.iter().any(known) {
                incidents.push(incident);
            }
        };
        if let Some(at) = uses.iter().position(|watched| watched.seen.connection == connection) {
            let seen = &mut uses[at].seen;
            if seen.closed_ms.is_some() {
                return;
            }
            seen.last_ms = now;
            seen.reads += 1;
            for newer in &uses[at + 1..] {
                report(Misuse::Interleaved, connection, newer.seen.connection);
            }
            return;
        }
        for older in uses.iter_mut().filter(|older| older.seen.closed_ms.is_none()) {
            if older.is_closed_by_peer() {
                older.seen.closed_ms = Some(now);
            } else {
                report(Misuse::OpenTwice, older.seen.connection, connection);
            }
        }
        if uses.len() == REMEMBERED_USES {
            uses.remove(0);
        }
        let seen = KeyUse {
            connection,
            first_ms: now,
            last_ms: now,
            reads: 1,
            closed_ms: None,
        };
        uses.push(Watched {
            seen,
            socket: Arc::downgrade(socket),
        });
    }

    /// Notes that a connection ended, from either side.
    pub fn closed(&self, connection: ConnectionId) {
        let now = self.clock.millis();
        for uses in self.lock().keys.values_mut() {
            for watched in uses.iter_mut().filter(|watched| watched.seen.connection == connection) {
                watched.seen.closed_ms.get_or_insert(now);
            }
        }
    }

    /// What was recorded of misuse, oldest first.
    pub fn incidents(&self) -> Vec<Incident> {
        self.lock().incidents.clone()
    }

    /// Forgets the incidents so far, and gives them.
    pub fn take_incidents(&self) -> Vec<Incident> {
        std::mem::take(&mut self.lock().incidents)
    }

    /// Every key that was used, with its connections in the order in which they began to send.
    pub fn all_uses(&self) -> Vec<(KeyId, Vec<KeyUse>)> {
        let record = self.lock();
        record
            .keys
            .iter()
            .map(|(key, uses)| (*key, uses.iter().map(|watched| watched.seen.clone()).collect()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn is_closed_by_peer(&self) -> bool {
        self.socket.upgrade().is_none_or(|socket| is_closed_by_peer(&socket))
    }
}

/// Whether the other end has closed the connection or reset it, also when bytes of it are still to be read.
fn is_closed_by_peer(socket: &TcpStream) -> bool {
    // nix has no name for this flag, and reads an answer with it as `None`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let interest = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    // Other systems report POLLHUP, which needs no asking for, as soon as the other end stops sending.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let interest = PollFlags::empty();
    let mut query = [PollFd::new(socket.as_fd(), interest)];
    match poll(&mut query, PollTimeout::ZERO) {
        Ok(_) => query[0]
            .revents()
            .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    const KEY: KeyId = [1; 8];

    async fn pair(listener: &TcpListener) -> (TcpStream, Arc<TcpStream>) {
        let address = listener.local_addr().expect("bound");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connects"), Arc::new(server.expect("accepts").0))
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("binds")
    }

    fn kinds(watch: &KeyWatch) -> Vec<Misuse> {
        watch.incidents().into_iter().map(|incident| incident.kind).collect()
    }

    #[tokio::test]
    async fn a_quick_reconnect_is_no_misuse_though_old_bytes_are_read_late() {
        let listener = listener().await;
        let watch = KeyWatch::new(Stopwatch::start());
        let (mut old_client, old) = pair(&listener).await;
        watch.bytes_came(1, KEY, None, &old);
        old_client.write_all(b"unread").await.expect("writes");
        drop(old_client);
        let (_client, new) = pair(&listener).await;
        watch.bytes_came(2, KEY, None, &new);
        watch.bytes_came(1, KEY, None, &old);
        watch.bytes_came(2, KEY, None, &new);
        assert_eq!(kinds(&watch), []);
        let uses = &watch.all_uses()[0].1;
        assert!(uses[0].last_ms <= uses[1].first_ms && uses[0].reads == 1 && uses[0].closed_ms.is_some());
    }

    #[tokio::test]
    async fn two_open_connections_and_interleaved_bytes_are_recorded_once_each() {
        let listener = listener().await;
        let watch = KeyWatch::new(Stopwatch::start());
        let (_a, first) = pair(&listener).await;
        let (_b, second) = pair(&listener).await;
        watch.bytes_came(1, KEY, Some(5), &first);
        watch.bytes_came(2, [2; 8], None, &second);
        assert_eq!(kinds(&watch), [], "another key");
        watch.bytes_came(3, KEY, Some(5), &second);
        assert_eq!(kinds(&watch), [Misuse::OpenTwice]);
        watch.bytes_came(1, KEY, Some(5), &first);
        watch.bytes_came(1, KEY, Some(5), &first);
        assert_eq!(kinds(&watch), [Misuse::OpenTwice, Misuse::Interleaved]);
        assert_eq!(watch.take_incidents()[0].account, Some(5));
        assert_eq!(kinds(&watch), []);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_here_may_be_followed() {
        let listener = listener().await;
        let watch = KeyWatch::new(Stopwatch::start());
        let (_a, first) = pair(&listener).await;
        let (_b, second) = pair(&listener).await;
        watch.bytes_came(1, KEY, None, &first);
        watch.closed(1);
        watch.bytes_came(2, KEY, None, &second);
        assert_eq!(kinds(&watch), []);
    }
}
