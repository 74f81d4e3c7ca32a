//! The peers of one session in memory: the recently used, and those not stored yet. Both are bounded; a page of 10,000
//! participants does not stay here.

use std::collections::HashMap;

use grammers_session::types::{ChannelKind, PeerAuth, PeerId, PeerInfo};
use lru::LruCache;
use serde_json::{Map, Value};

use crate::store::peers::PeerRow;

/// Recently used peers, and what has to be written behind.
pub(super) struct PeerCache {
    /// Unbounded by its own count: an LRU with a capacity takes the memory for all of it at once.
    recent: LruCache<PeerId, PeerInfo>,
    capacity: usize,
    unsaved: HashMap<PeerId, PeerInfo>,
}

impl PeerCache {
    pub fn new(capacity: usize) -> Self {
        Self {
            recent: LruCache::unbounded(),
            capacity,
            unsaved: HashMap::new(),
        }
    }

    /// A peer that is known without asking the database.
    pub fn get(&mut self, id: PeerId) -> Option<PeerInfo> {
        self.recent.get(&id).or_else(|| self.unsaved.get(&id)).cloned()
    }

    /// Remembers a peer that the database has.
    pub fn remember(&mut self, id: PeerId, info: PeerInfo) {
        self.recent.put(id, info);
        while self.recent.len() > self.capacity {
            self.recent.pop_lru();
        }
    }

    /// Takes in what was learnt of a peer. What is known already causes no write.
    pub fn learn(&mut self, id: PeerId, info: &PeerInfo) {
        let mut merged = self.get(id).unwrap_or_else(|| info.clone());
        let is_new = !self.recent.contains(&id) && !self.unsaved.contains_key(&id);
        let before = merged.clone();
        merged.extend_info(info);
        if is_new || merged != before {
            self.unsaved
                .entry(id)
                .and_modify(|unsaved| {
                    unsaved.extend_info(info);
                })
                .or_insert_with(|| merged.clone());
        }
        self.remember(id, merged);
    }

    pub fn is_unsaved(&self, id: PeerId) -> bool {
        self.unsaved.contains_key(&id)
    }

    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// All that has to be stored. Give it back with [`PeerCache::not_saved`] when that fails.
    pub fn take_unsaved(&mut self) -> HashMap<PeerId, PeerInfo> {
        std::mem::take(&mut self.unsaved)
    }

    pub fn not_saved(&mut self, peers: HashMap<PeerId, PeerInfo>) {
        for (id, older) in peers {
            let newer = self.unsaved.remove(&id);
            let mut merged = older;
            if let Some(newer) = newer {
                merged.extend_info(&newer);
            }
            self.unsaved.insert(id, merged);
        }
    }
}

/// The id of a peer whose number is in Telegram's range. grammers' own accessor asserts it.
pub(super) fn checked_id(info: &PeerInfo) -> Option<PeerId> {
    match info {
        PeerInfo::User { id, .. } => PeerId::user(*id),
        PeerInfo::Chat { id } => PeerId::chat(*id),
        PeerInfo::Channel { id, .. } => PeerId::channel(*id),
    }
}

/// A peer as it is stored; unknown facts are left out.
pub(super) fn to_row(id: PeerId, info: &PeerInfo) -> Option<PeerRow> {
    let mut facts = Map::new();
    let mut note = |name: &str, fact: Option<Value>| {
        if let Some(fact) = fact {
            facts.insert(name.to_owned(), fact);
        }
    };
    match info {
        PeerInfo::User { bot, is_self, .. } => {
            note("bot", bot.map(Value::Bool));
            note("self", is_self.map(Value::Bool));
        }
        PeerInfo::Chat { .. } => {}
        PeerInfo::Channel { kind, .. } => note("kind", kind.map(|kind| Value::from(kind_name(kind)))),
    }
    let access_hash = match info {
        PeerInfo::Chat { .. } => None,
        PeerInfo::User { auth, .. } | PeerInfo::Channel { auth, .. } => auth.map(PeerAuth::hash),
    };
    Some(PeerRow {
        peer_id: id.bot_api_dialog_id()?,
        access_hash,
        info: Value::Object(facts),
    })
}

/// A stored peer; `None` when its id is of no known range.
pub(super) fn from_row(row: &PeerRow) -> Option<(PeerId, PeerInfo)> {
    use grammers_session::types::PeerKind;

    let peer = PeerId::from_bot_api_dialog_id(row.peer_id)?;
    let id = peer.bare_id()?;
    let auth = row.access_hash.map(PeerAuth::from_hash);
    let flag = |name: &str| row.info.get(name).and_then(Value::as_bool);
    let info = match peer.kind() {
        PeerKind::User => PeerInfo::User {
            id,
            auth,
            bot: flag("bot"),
            is_self: flag("self"),
        },
        PeerKind::Chat => PeerInfo::Chat { id },
        PeerKind::Channel => PeerInfo::Channel {
            id,
            auth,
            kind: row.info.get("kind").and_then(Value::as_str).and_then(kind_named),
        },
    };
    Some((peer, info))
}

const fn kind_name(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Broadcast => "broadcast",
        ChannelKind::Megagroup => "megagroup",
        ChannelKind::Gigagroup => "gigagroup",
        ChannelKind::Community => "community",
    }
}

fn kind_named(name: &str) -> Option<ChannelKind> {
    [
        ChannelKind::Broadcast,
        ChannelKind::Megagroup,
        ChannelKind::Gigagroup,
        ChannelKind::Community,
    ]
    .into_iter()
    .find(|kind| kind_name(*kind) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64, hash: Option<i64>) -> (PeerId, PeerInfo) {
        let info = PeerInfo::User {
            id,
            auth: hash.map(PeerAuth::from_hash),
            bot: None,
            is_self: None,
        };
        (PeerId::user(id).unwrap(), info)
    }

    #[test]
    fn the_recent_are_bounded_and_the_unsaved_are_kept() {
        let mut cache = PeerCache::new(2);
        for number in 1..=5 {
            let (id, info) = user(number, Some(number));
            cache.learn(id, &info);
        }
        assert_eq!(cache.recent.len(), 2);
        assert_eq!(cache.unsaved(), 5);
        assert!(
            cache.get(PeerId::user(1).unwrap()).is_some(),
            "not stored yet, so still here"
        );
    }

    #[test]
    fn what_is_known_is_not_written_again() {
        let mut cache = PeerCache::new(10);
        let (id, info) = user(1, Some(7));
        cache.learn(id, &info);
        assert_eq!(cache.take_unsaved().len(), 1);
        cache.learn(id, &info);
        // A mention without its hash does not erase the hash.
        cache.learn(id, &user(1, None).1);
        assert_eq!(cache.unsaved(), 0);
        assert_eq!(cache.get(id).unwrap().auth(), Some(PeerAuth::from_hash(7)));
        cache.learn(id, &user(1, Some(8)).1);
        assert_eq!(cache.unsaved(), 1);
    }

    #[test]
    fn a_failed_write_keeps_what_came_meanwhile() {
        let mut cache = PeerCache::new(10);
        let (id, older) = user(1, Some(7));
        cache.learn(id, &older);
        let taken = cache.take_unsaved();
        cache.learn(id, &user(1, Some(8)).1);
        cache.not_saved(taken);
        assert_eq!(cache.take_unsaved()[&id].auth(), Some(PeerAuth::from_hash(8)));
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        let channel = PeerInfo::Channel {
            id: 1_234_567,
            auth: Some(PeerAuth::from_hash(-5)),
            kind: Some(ChannelKind::Megagroup),
        };
        let myself = PeerInfo::User {
            id: 42,
            auth: None,
            bot: Some(false),
            is_self: Some(true),
        };
        for info in [channel, myself, PeerInfo::Chat { id: 9 }] {
            let id = checked_id(&info).unwrap();
            assert_eq!(from_row(&to_row(id, &info).unwrap()), Some((id, info)));
        }
        assert_eq!(checked_id(&PeerInfo::Chat { id: 0 }), None);
    }
}
