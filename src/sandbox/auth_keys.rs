//! The auth keys that were made here: who is signed in with each, and which messages it has already sent.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grammers_crypto::AuthKey;

use super::{call::UserId, clock, encryption, salts::Salts};

/// How many message ids are remembered per session.
const REMEMBERED_MESSAGES: usize = 2_048;
/// How many sessions are remembered per key; a client makes one per connection.
const REMEMBERED_SESSIONS: usize = 32;

pub(super) type KeyId = [u8; 8];

/// The id of a key as it is printed.
pub(super) fn printed(key_id: KeyId) -> String {
    format!("{:016x}", u64::from_be_bytes(key_id))
}

/// All auth keys.
#[derive(Default)]
pub(super) struct AuthKeys {
    keys: Mutex<HashMap<KeyId, Entry>>,
}

struct Entry {
    key: Arc<AuthKey>,
    /// The data centre it was made with, and no other knows it.
    dc: i32,
    salts: Salts,
    account: Option<UserId>,
    layer: Option<i32>,
    api_id: Option<i32>,
    sessions: VecDeque<(i64, Received)>,
}

/// What a connection needs of a key to read a packet.
#[derive(Clone)]
pub(super) struct KnownKey {
    pub key: Arc<AuthKey>,
    pub salts: Salts,
}

/// The message ids of a session so far.
#[derive(Default)]
struct Received {
    ids: BTreeSet<i64>,
    /// Everything up to here may have been seen and forgotten.
    forgotten_to: i64,
}

/// What is known of a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not before; it is remembered now.
    New,
    /// It was received before, and is not to be run again.
    Before,
    /// Too old to tell.
    Unknown,
}

impl AuthKeys {
    /// Adds a key that was just made.
    pub fn add(&self, key: AuthKey, first_salt: i64, dc: i32) -> KeyId {
        let id = encryption::key_id(&key);
        let salts = Salts::new(&key, first_salt, clock::unix_seconds());
        let entry = Entry {
            key: Arc::new(key),
            dc,
            salts,
            account: None,
            layer: None,
            api_id: None,
            sessions: VecDeque::new(),
        };
        self.lock().insert(id, entry);
        id
    }

    /// A key as that data centre knows it.
    pub fn find(&self, id: KeyId, dc: i32) -> Option<KnownKey> {
        self.lock()
            .get(&id)
            .filter(|entry| entry.dc == dc)
            .map(|entry| KnownKey {
                key: Arc::clone(&entry.key),
                salts: entry.salts,
            })
    }

    /// Forgets a key: its next packet is answered by transport error 404. Whether it was known.
    pub fn forget(&self, id: KeyId) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// Who is signed in with a key.
    pub fn account(&self, id: KeyId) -> Option<UserId> {
        self.lock().get(&id)?.account
    }

    pub fn sign_in(&self, id: KeyId, account: UserId) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.account = Some(account);
        }
    }

    /// Signs a key out: its calls are answered by `AUTH_KEY_UNREGISTERED`. Who was signed in.
    pub fn sign_out(&self, id: KeyId) -> Option<UserId> {
        self.lock().get_mut(&id)?.account.take()
    }

    /// The keys an account is signed in with.
    pub fn of_account(&self, account: UserId) -> Vec<KeyId> {
        self.lock()
            .iter()
            .filter(|(_, entry)| entry.account == Some(account))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Remembers the layer a client named, and gives the one to use.
    pub fn layer(&self, id: KeyId, named: Option<i32>) -> Option<i32> {
        let mut keys = self.lock();
        let entry = keys.get_mut(&id)?;
        entry.layer = named.or(entry.layer);
        entry.layer
    }

    /// Remembers the application a client named.
    pub fn named_application(&self, id: KeyId, api_id: i32) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.api_id = Some(api_id);
        }
    }

    /// The application that was named last with a key.
    pub fn application(&self, id: KeyId) -> Option<i32> {
        self.lock().get(&id)?.api_id
    }

    /// Opens a session of a key. Whether it is new.
    pub fn open_session(&self, id: KeyId, session_id: i64) -> bool {
        let mut keys = self.lock();
        let Some(entry) = keys.get_mut(&id) else { return false };
        if entry.sessions.iter().any(|(known, _)| *known == session_id) {
            return false;
        }
        if entry.sessions.len() == REMEMBERED_SESSIONS {
            entry.sessions.pop_front();
        }
        entry.sessions.push_back((session_id, Received::default()));
        true
    }

    /// Closes a session of a key. Whether there was one.
    pub fn destroy_session(&self, id: KeyId, session_id: i64) -> bool {
        let mut keys = self.lock();
        let Some(entry) = keys.get_mut(&id) else { return false };
        let before = entry.sessions.len();
        entry.sessions.retain(|(known, _)| *known != session_id);
        entry.sessions.len() < before
    }

    /// Notes that a message came in, and tells whether it had come before.
    pub fn receive(&self, id: KeyId, session_id: i64, msg_id: i64) -> Seen {
        self.with_session(id, session_id, |received| received.receive(msg_id))
            .unwrap_or(Seen::Unknown)
    }

    /// Whether a message of a session has come in, without noting it.
    pub fn was_received(&self, id: KeyId, session_id: i64, msg_id: i64) -> bool {
        self.with_session(id, session_id, |received| received.ids.contains(&msg_id))
            .unwrap_or(false)
    }

    fn with_session<T>(&self, id: KeyId, session_id: i64, act: impl FnOnce(&mut Received) -> T) -> Option<T> {
        let mut keys = self.lock();
        let sessions = &mut keys.get_mut(&id)?.sessions;
        sessions
            .iter_mut()
            .find(|(known, _)| *known == session_id)
            .map(|(_, received)| act(received))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Entry>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    fn receive(&mut self, msg_id: i64) -> Seen {
        if self.ids.contains(&msg_id) {
            return Seen::Before;
        }
        if msg_id <= self.forgotten_to {
            return Seen::Unknown;
        }
        self.ids.insert(msg_id);
        if self.ids.len() > REMEMBERED_MESSAGES
            && let Some(oldest) = self.ids.pop_first()
        {
            self.forgotten_to = oldest;
        }
        Seen::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_once_and_a_forgotten_one_not_at_all() {
        let mut received = Received::default();
        assert_eq!(received.receive(8), Seen::New);
        assert_eq!(received.receive(8), Seen::Before);
        assert_eq!(received.receive(4), Seen::New, "messages may overtake each other");
        let many = i64::try_from(REMEMBERED_MESSAGES).expect("fits");
        for number in 0..many {
            assert_eq!(received.receive(100 + 4 * number), Seen::New);
        }
        assert_eq!(received.receive(8), Seen::Unknown);
        assert_eq!(received.receive(104), Seen::Before);
    }
}
