//! The connections that are open now: how to send to them, and how to make them fail.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    auth_keys::{KeyId, KnownKey},
    key_watch::ConnectionId,
};

/// How many messages wait for a client that does not read before its connection is closed.
const BACKLOG: usize = 4_096;

/// Whom a message is encrypted for.
pub(super) struct Recipient {
    pub key_id: KeyId,
    pub known: KnownKey,
    pub session_id: i64,
}

/// Something to send on a connection.
pub(super) enum Outgoing {
    /// A message of a key exchange.
    Plain(Vec<u8>),
    Message(OutgoingMessage),
    /// A transport error. It ends the connection.
    Status(i32),
}

pub(super) struct OutgoingMessage {
    pub to: Arc<Recipient>,
    pub kind: MessageKind,
    pub body: Vec<u8>,
}

/// What the message id and the sequence number tell the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    /// An answer that the client acknowledges.
    Result,
    /// An answer about messages and salts, which nobody acknowledges.
    Service,
    /// Sent of the server's own accord, and acknowledged.
    Notice,
}

/// One open connection.
pub(super) struct Connection {
    pub id: ConnectionId,
    /// The data centre it leads to.
    pub dc: i32,
    /// Where the client is.
    pub peer: Option<SocketAddr>,
    outgoing: mpsc::Sender<Outgoing>,
    end: CancellationToken,
    silent: AtomicBool,
    wants_updates: AtomicBool,
    recipient: Mutex<Option<Arc<Recipient>>>,
}

impl Connection {
    /// Waits for room, and queues something to send.
    pub async fn send(&self, outgoing: Outgoing) {
        // Nobody receives any more when the connection is ending, and then nothing needs sending.
        let _ = self.outgoing.send(outgoing).await;
    }

    /// Waits for room for one message. `None` when the connection is ending.
    pub async fn reserve(&self) -> Option<mpsc::OwnedPermit<Outgoing>> {
        self.outgoing.clone().reserve_owned().await.ok()
    }

    /// Queues an update, or ends the connection of a client that has not read for too long.
    pub fn push(&self, to: &Arc<Recipient>, body: &[u8]) {
        let message = OutgoingMessage {
            to: Arc::clone(to),
            kind: MessageKind::Notice,
            body: body.to_vec(),
        };
        if self.outgoing.try_send(Outgoing::Message(message)).is_err() {
            self.end();
        }
    }

    /// Closes the connection without another word.
    pub fn end(&self) {
        self.end.cancel();
    }

    pub fn is_ending(&self) -> bool {
        self.end.is_cancelled()
    }

    /// Waits until the connection is to be closed.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Sends nothing more and heeds nothing more, but leaves the connection open.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }

    /// Whom updates go to: the key and session that spoke last.
    pub fn recipient(&self) -> Option<Arc<Recipient>> {
        self.lock_recipient().clone()
    }

    pub fn set_recipient(&self, recipient: &Arc<Recipient>) {
        *self.lock_recipient() = Some(Arc::clone(recipient));
    }

    pub fn wants_updates(&self) -> bool {
        self.wants_updates.load(Ordering::Relaxed)
    }

    pub fn set_wants_updates(&self) {
        self.wants_updates.store(true, Ordering::Relaxed);
    }

    fn lock_recipient(&self) -> MutexGuard<'_, Option<Arc<Recipient>>> {
        self.recipient.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All open connections.
#[derive(Default)]
pub(super) struct Connections {
    last_id: AtomicU64,
    live: Mutex<HashMap<ConnectionId, Arc<Connection>>>,
}

impl Connections {
    /// Adds a connection that ends with `stop`, and gives the queue of what it is to send.
    pub fn open(
        &self,
        dc: i32,
        peer: Option<SocketAddr>,
        stop: &CancellationToken,
    ) -> (Arc<Connection>, mpsc::Receiver<Outgoing>) {
        let (outgoing, queue) = mpsc::channel(BACKLOG);
        let connection = Arc::new(Connection {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            dc,
            peer,
            outgoing,
            end: stop.child_token(),
            silent: AtomicBool::new(false),
            wants_updates: AtomicBool::new(false),
            recipient: Mutex::default(),
        });
        self.lock().insert(connection.id, Arc::clone(&connection));
        (connection, queue)
    }

    /// How many were opened since the start.
    pub fn made(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    pub fn remove(&self, id: ConnectionId) {
        self.lock().remove(&id);
    }

    /// The connections that are open now, in the order in which they were opened.
    pub fn list(&self) -> Vec<Arc<Connection>> {
        let mut list: Vec<_> = self.lock().values().cloned().collect();
        list.sort_by_key(|connection| connection.id);
        list
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Arc<Connection>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
