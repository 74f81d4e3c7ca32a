//! Accounts: the people somebody can sign in as, with what only they have: a message box, contacts, reading marks.

use std::collections::{BTreeMap, BTreeSet};

use super::boxes::MessageBox;
use super::peers::PeerKey;
use crate::sandbox::call::UserId;

/// One account. Its name and username are in its [`Person`](super::people::Person).
pub struct Account {
    pub id: UserId,
    /// Digits only.
    pub phone: String,
    /// Two-factor password; `None` when off.
    pub password: Option<String>,
    /// The data centre it lives in; `None`: the main one.
    pub home_dc: Option<i32>,
    pub contacts: BTreeSet<UserId>,
    /// The common box: private chats and basic groups, under one `pts`.
    pub inbox: MessageBox,
    /// The newest message read, by chat of the common box.
    pub read_inbox: BTreeMap<PeerKey, i32>,
    /// The newest of the account's own messages that the other side has read.
    pub read_outbox: BTreeMap<PeerKey, i32>,
    /// When the account was let into or put out of a channel: such updates have no `pts`, and a difference must
    /// still tell them. (date, channel), oldest first.
    pub membership_changes: Vec<(i32, i64)>,
}

/// Older ones are dropped: a client that was away for longer asks for its dialogs.
const MEMBERSHIP_CHANGES_KEPT: usize = 200;

impl Account {
    pub fn new(id: UserId, phone: String, password: Option<String>) -> Self {
        Self {
            id,
            phone,
            password,
            home_dc: None,
            contacts: BTreeSet::new(),
            inbox: MessageBox::new(),
            read_inbox: BTreeMap::new(),
            read_outbox: BTreeMap::new(),
            membership_changes: Vec::new(),
        }
    }

    pub fn note_membership_change(&mut self, date: i32, channel: i64) {
        self.membership_changes.push((date, channel));
        if self.membership_changes.len() > MEMBERSHIP_CHANGES_KEPT {
            self.membership_changes.remove(0);
        }
    }
}
