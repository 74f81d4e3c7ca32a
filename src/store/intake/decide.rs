//! What is to be stored and told of what came in: no database here, only what was read from it under the watches' locks.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use wireroom_jobs::{
    message::{Message, Reaction, ServiceMessage},
    monitor::Matcher,
};

use super::{
    Incoming, Key, Move, Row, Rows,
    erased::Erased,
    left::{Change, Changes},
    owner_of,
};
use crate::{
    ids::SessionId,
    store::{
        event_types::{EventType, Subject},
        outbox::NewEvent,
    },
};

/// An active watch, locked.
pub(super) struct Watch {
    pub id: Uuid,
    /// `None`: the session's private messages.
    pub chat_id: Option<i64>,
    pub session: SessionId,
    pub owner: i64,
    pub events: Vec<String>,
    pub retention_days: i32,
    pub filling: bool,
    pub left_to_history: i32,
    pub last_message_id: i32,
    /// What was stored of a message from before this may have expired.
    pub expired_before: DateTime<Utc>,
    /// Messages up to this one are from before the watch.
    pub begun_after: i32,
    /// The numbers of the place are another account's: it says nothing.
    pub renumbered: bool,
    /// `None` when this release does not understand the filter: then nothing is held back.
    pub filter: Option<std::sync::Arc<Matcher>>,
}

impl Watch {
    fn takes(&self, message: &Message) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.takes(message))
    }

    fn tells(&self, event: EventType) -> bool {
        self.events.iter().any(|name| name == event.name())
    }

    fn subject(&self, chat: i64) -> Subject {
        if chat > 0 {
            Subject::private_chat(self.session, chat)
        } else {
            Subject::chat(chat)
        }
    }

    /// Whether a message that is not known was dealt with. In one chat numbers grow in the order in which messages come, so
    /// what is up to the last one was told and has expired, or was gone when the history was read. Of many chats one may
    /// be ahead of another, where the release before read them: there only the message's age says so.
    fn accounts_for(&self, message: &Message) -> bool {
        message.id <= self.last_message_id && (self.chat_id.is_some() || message.date < self.expired_before)
    }

    /// Whether the history is to bring the message of that number, if it is not known.
    fn leaves_to_history(&self, id: i32) -> bool {
        self.filling && (self.renumbered || id > self.last_message_id)
    }

    fn row(&self, message: &Message, content: Option<Message>, from_history: bool) -> Row {
        Row {
            watch: self.id,
            session: self.session,
            retention_days: self.retention_days,
            date: message.date,
            sender_id: message.sender_id,
            edited_at: message.edited_at,
            deleted: false,
            content,
            digest: digest(message),
            from_history,
        }
    }

    /// The row of a message whose sender must not be known.
    fn nobodys_row(&self, message: &Message, from_history: bool) -> Row {
        Row {
            sender_id: None,
            edited_at: None,
            digest: 0,
            ..self.row(message, None, from_history)
        }
    }
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Decided {
    pub inserts: Vec<(Key, Row)>,
    pub changes: Vec<(Key, Row)>,
    pub moves: Vec<Move>,
    pub events: Vec<NewEvent>,
    /// Of messages that are left to the history.
    pub left: Changes,
    pub troubled: HashSet<SessionId>,
}

/// A watch and what has come of it.
struct Account {
    watch: Watch,
    touched: bool,
    last_message_at: Option<DateTime<Utc>>,
    seen: i64,
    from_history: i64,
    gaps: i32,
    lost_reason: Option<String>,
}

/// The stored messages concerned, the watches concerned, and what becomes of both.
pub(super) struct Ledger {
    accounts: Vec<Account>,
    by_chat: HashMap<(SessionId, Option<i64>), usize>,
    rows: Rows,
    /// The chats of the messages whose ids are an account's own.
    own: HashMap<(i64, i32), i64>,
    /// In the order of their keys, so that two transactions write alike.
    written: BTreeMap<Key, bool>,
    events: Vec<NewEvent>,
    left: Changes,
    troubled: HashSet<SessionId>,
    erased: Erased,
}

impl Ledger {
    pub fn new(watches: Vec<Watch>, rows: Rows, erased: Erased) -> Self {
        let by_chat = watches
            .iter()
            .enumerate()
            .map(|(at, watch)| ((watch.session, watch.chat_id), at))
            .collect();
        let accounts = watches.into_iter().map(|watch| Account {
            watch,
            touched: false,
            last_message_at: None,
            seen: 0,
            from_history: 0,
            gaps: 0,
            lost_reason: None,
        });
        let own = rows.keys().map(|(chat, owner, id)| ((*owner, *id), *chat)).collect();
        Self {
            accounts: accounts.collect(),
            by_chat,
            rows,
            own,
            written: BTreeMap::new(),
            events: Vec::new(),
            left: Changes::new(),
            troubled: HashSet::new(),
            erased,
        }
    }

    /// Takes in what a session has read.
    pub fn take(&mut self, session: SessionId, account_id: i64, incoming: &Incoming) {
        match incoming {
            Incoming::New(message) => {
                if let Some(at) = self.watch_of(session, message.chat_id) {
                    self.take_new(at, message);
                }
            }
            Incoming::Edited(message) => {
                if let Some(at) = self.watch_of(session, message.chat_id) {
                    self.take_edit(at, message);
                }
            }
            Incoming::Deleted { chat, message_ids } => {
                for id in message_ids {
                    self.take_deletion(session, account_id, *chat, *id);
                }
            }
            Incoming::Reactions {
                chat,
                message_id,
                reactions,
            } => {
                if let Some(at) = self.watch_of(session, *chat) {
                    let key = (*chat, owner_of(*chat, account_id), *message_id);
                    self.take_reactions(at, key, reactions);
                }
            }
            Incoming::Member {
                chat,
                user_id,
                joined,
                by,
                date,
            } => {
                if let Some(at) = self.watch_of(session, *chat)
                    && !self.erased.has(*user_id)
                {
                    let told = if *joined {
                        EventType::MemberJoined
                    } else {
                        EventType::MemberLeft
                    };
                    let by = by.filter(|by| !self.erased.has(*by));
                    let data = json!({ "user_id": user_id, "by": by, "message_id": null, "date": date });
                    self.tell(at, told, *chat, data);
                }
            }
            Incoming::Gap {
                chat,
                from_pts,
                to_pts,
                newest,
                reason,
            } => {
                let data = json!({ "from_pts": from_pts, "to_pts": to_pts, "reason": reason });
                self.take_gap(session, *chat, *newest, &data);
            }
            Incoming::Lost { chat, reason } => {
                if let Some(at) = self.watch_of(session, *chat) {
                    let account = &mut self.accounts[at];
                    account.lost_reason = Some(reason.clone());
                    account.touched = true;
                    self.troubled.insert(session);
                }
            }
        }
    }

    /// Takes in a page of the history of the only watch there is, and what has become since of the messages in it; answers
    /// how many were new.
    pub fn take_history(&mut self, messages: &[Message], changes: &BTreeMap<i32, Change>, read_to: Option<i32>) -> u64 {
        let mut stored = 0;
        // What is stored does not move the watch: older messages may not be read yet.
        let place = self.accounts[0].watch.last_message_id;
        for read in messages {
            let changed = changes.get(&read.id).map(|change| change.apply(read));
            let is_new = match &changed {
                Some(None) => false,
                Some(Some(message)) => self.store_new(0, message, true),
                None => self.store_new(0, read, true),
            };
            stored += u64::from(is_new);
        }
        let account = &mut self.accounts[0];
        account.touched = true;
        let newest = read_to
            .or_else(|| messages.iter().map(|message| message.id).max())
            .unwrap_or(0);
        account.watch.last_message_id = place.max(newest);
        stored
    }

    pub fn decided(mut self) -> Decided {
        let mut decided = Decided {
            events: self.events,
            left: self.left,
            troubled: self.troubled,
            ..Decided::default()
        };
        for (key, is_new) in self.written {
            let Some(row) = self.rows.remove(&key) else { continue };
            if is_new {
                decided.inserts.push((key, row));
            } else {
                decided.changes.push((key, row));
            }
        }
        let touched = self.accounts.into_iter().filter(|account| account.touched);
        decided.moves = touched
            .map(|account| Move {
                watch: account.watch.id,
                filling: account.watch.filling,
                left_to_history: account.watch.left_to_history,
                last_message_id: account.watch.last_message_id,
                last_message_at: account.last_message_at,
                seen: account.seen,
                from_history: account.from_history,
                gaps: account.gaps,
                lost_reason: account.lost_reason,
            })
            .collect();
        decided
    }

    /// The watch of that chat, or that of all private messages.
    fn watch_of(&self, session: SessionId, chat: i64) -> Option<usize> {
        let of_chat = self.by_chat.get(&(session, Some(chat)));
        let found = of_chat.or_else(|| (chat > 0).then(|| self.by_chat.get(&(session, None))).flatten());
        found.copied()
    }

    fn take_new(&mut self, at: usize, message: &Message) {
        let account = &mut self.accounts[at];
        if message.id <= account.watch.begun_after {
            return;
        }
        if !account.watch.filling {
            if !account.watch.accounts_for(message) {
                self.store_new(at, message, false);
            }
            return;
        }
        // The history will bring it, in its order.
        let key = (self.erased.chat(message.chat_id), account.watch.owner, message.id);
        if self.rows.contains_key(&key) || account.watch.accounts_for(message) {
            return;
        }
        account.watch.left_to_history = account.watch.left_to_history.max(message.id);
        account.touched = true;
        self.troubled.insert(account.watch.session);
    }

    /// Stores a message unless it is known, and tells of it. Whether it was new.
    fn store_new(&mut self, at: usize, message: &Message, from_history: bool) -> bool {
        let account = &mut self.accounts[at];
        let key = (self.erased.chat(message.chat_id), account.watch.owner, message.id);
        if self.rows.contains_key(&key) {
            return false;
        }
        account.touched = true;
        account.seen += 1;
        account.from_history += i64::from(from_history);
        account.watch.last_message_id = account.watch.last_message_id.max(message.id);
        account.last_message_at = account.last_message_at.max(Some(message.date));
        let watch = &account.watch;
        let Some(message) = self.erased.leave_out(message) else {
            // It counts, and says no more than that there was one.
            let row = watch.nobodys_row(message, from_history);
            self.insert(key, row);
            return true;
        };
        let message = message.as_ref();
        let told = told_as(message);
        let is_taken = told != EventType::MessageNew || watch.takes(message);
        let row = watch.row(message, is_taken.then(|| message.clone()), from_history);
        if is_taken && watch.tells(told) {
            let subject = watch.subject(message.chat_id);
            let facts = facts_of(watch, message, from_history);
            self.events.extend(facts.into_iter().map(|data| NewEvent {
                event_type: told,
                subject: subject.clone(),
                data,
            }));
        }
        self.insert(key, row);
        true
    }

    fn take_edit(&mut self, at: usize, message: &Message) {
        let Some(message) = self.erased.leave_out(message) else {
            return;
        };
        let message = message.as_ref();
        let watch = &self.accounts[at].watch;
        let key = (message.chat_id, watch.owner, message.id);
        let Some(known) = self.rows.get(&key) else {
            self.take_edit_of_unknown(at, key, message);
            return;
        };
        // A session that is behind tells of edits that were told, and have been edited since.
        let is_past = known
            .edited_at
            .zip(message.edited_at)
            .is_some_and(|(known, told)| told < known);
        if known.deleted || is_past {
            return;
        }
        let is_edit = known.digest != digest(message) || message.edited_at > known.edited_at;
        let reactions_differ = known
            .content
            .as_ref()
            .is_some_and(|content| content.reactions != message.reactions);
        if !is_edit && !reactions_differ {
            return;
        }
        let is_taken = watch.takes(message);
        let row = Row {
            // What was told before stays, as it is now.
            content: (is_taken || known.content.is_some()).then(|| message.clone()),
            edited_at: message.edited_at.or(known.edited_at),
            digest: digest(message),
            // Kept from here on for as long as one that is new: while the row is there, the edit is not told again.
            retention_days: if is_edit { watch.retention_days } else { 0 },
            ..known.clone()
        };
        if is_edit && is_taken {
            self.tell(
                at,
                EventType::MessageEdited,
                message.chat_id,
                json!({ "message": message }),
            );
        }
        if reactions_differ {
            let data = json!({ "message_id": message.id, "reactions": message.reactions });
            self.tell(at, EventType::MessageReactions, message.chat_id, data);
        }
        self.change(key, row);
    }

    /// An edit of a message from before the watch: it is kept, so that the same edit is told once.
    fn take_edit_of_unknown(&mut self, at: usize, key: Key, message: &Message) {
        let watch = &self.accounts[at].watch;
        if watch.leaves_to_history(message.id) {
            self.leave(at, message.id, Change::edited(message));
            return;
        }
        if message.id > watch.last_message_id {
            // It has not come in yet: it will come as it is by then.
            return;
        }
        // What was told of an edit is kept for as long as rows are: of an older one nobody knows whether it was.
        if message.edited_at.is_some_and(|at| at < watch.expired_before) {
            return;
        }
        let is_taken = watch.takes(message);
        let row = watch.row(message, is_taken.then(|| message.clone()), false);
        // Without a date of the edit it is a reaction or the like that has changed the message.
        if is_taken && message.edited_at.is_some() {
            self.tell(
                at,
                EventType::MessageEdited,
                message.chat_id,
                json!({ "message": message }),
            );
        }
        self.insert(key, row);
    }

    fn take_deletion(&mut self, session: SessionId, account_id: i64, chat: Option<i64>, id: i32) {
        let owner = chat.map_or(account_id, |chat| owner_of(chat, account_id));
        let Some(chat) = chat.or_else(|| self.own.get(&(owner, id)).copied()) else {
            // Of any of the account's own chats: its number is that of no other message of theirs.
            for at in 0..self.accounts.len() {
                let watch = &self.accounts[at].watch;
                if watch.session == session && watch.owner == owner && watch.leaves_to_history(id) {
                    self.leave(at, id, Change::deleted());
                }
            }
            return;
        };
        let Some(at) = self.watch_of(session, chat) else {
            return;
        };
        let Some(known) = self.rows.get(&(chat, owner, id)) else {
            if self.accounts[at].watch.leaves_to_history(id) {
                self.leave(at, id, Change::deleted());
            }
            return;
        };
        if known.deleted {
            return;
        }
        let was_told = known.content.is_some();
        let row = Row {
            deleted: true,
            content: None,
            ..known.clone()
        };
        if was_told {
            self.tell(at, EventType::MessageDeleted, chat, json!({ "message_id": id }));
        }
        self.change((chat, owner, id), row);
    }

    fn take_reactions(&mut self, at: usize, key: Key, reactions: &[Reaction]) {
        let Some(known) = self.rows.get(&key) else {
            if self.accounts[at].watch.leaves_to_history(key.2) {
                self.leave(at, key.2, Change::reacted(reactions));
            }
            return;
        };
        let Some(content) = known.content.as_ref().filter(|content| content.reactions != reactions) else {
            return;
        };
        let content = Message {
            reactions: reactions.to_vec(),
            ..content.clone()
        };
        let row = Row {
            content: Some(content),
            ..known.clone()
        };
        let data = json!({ "message_id": key.2, "reactions": reactions });
        self.tell(at, EventType::MessageReactions, key.0, data);
        self.change(key, row);
    }

    /// Keeps what has become of a message for when the history brings it, which may have been read already.
    fn leave(&mut self, at: usize, id: i32, change: Change) {
        self.left
            .entry((self.accounts[at].watch.id, id))
            .or_default()
            .then(change);
    }

    /// What was missed is read from the history; until then the stream leaves everything to it.
    fn take_gap(&mut self, session: SessionId, chat: Option<i64>, newest: Option<i32>, data: &Value) {
        for at in 0..self.accounts.len() {
            let watch = &mut self.accounts[at].watch;
            let is_meant = match chat {
                Some(chat) => watch.chat_id == Some(chat),
                None => watch.owner != 0,
            };
            if watch.session != session || !is_meant {
                continue;
            }
            watch.filling = true;
            watch.left_to_history = watch.left_to_history.max(newest.unwrap_or(0));
            let subject = watch.chat_id.map_or_else(|| Subject::session(session), Subject::chat);
            let mut facts = json!({ "watch": watch.id, "session": session.0, "chat": watch.chat_id });
            merge(&mut facts, data.clone());
            self.events.push(NewEvent {
                event_type: EventType::WatchGap,
                subject,
                data: facts,
            });
            self.accounts[at].gaps += 1;
            self.accounts[at].touched = true;
            self.troubled.insert(session);
        }
    }

    /// Raises an event of a chat, if the watch's owner wants to hear of such.
    fn tell(&mut self, at: usize, event_type: EventType, chat: i64, data: Value) {
        let watch = &self.accounts[at].watch;
        if !watch.tells(event_type) {
            return;
        }
        let mut facts = head(watch, chat);
        merge(&mut facts, data);
        self.events.push(NewEvent {
            event_type,
            subject: watch.subject(chat),
            data: facts,
        });
    }

    fn insert(&mut self, key: Key, row: Row) {
        if key.1 != 0 {
            self.own.insert((key.1, key.2), key.0);
        }
        self.rows.insert(key, row);
        self.written.insert(key, true);
    }

    fn change(&mut self, key: Key, row: Row) {
        self.rows.insert(key, row);
        self.written.entry(key).or_insert(false);
    }
}

/// Which event says that a message has come in.
fn told_as(message: &Message) -> EventType {
    match &message.service {
        Some(ServiceMessage::Joined { .. }) => EventType::MemberJoined,
        Some(ServiceMessage::Left { .. }) => EventType::MemberLeft,
        Some(
            ServiceMessage::TitleChanged { .. }
            | ServiceMessage::PhotoChanged
            | ServiceMessage::PhotoRemoved
            | ServiceMessage::Pinned { .. }
            | ServiceMessage::Migrated { .. },
        ) => EventType::ChatChanged,
        Some(ServiceMessage::Created { .. } | ServiceMessage::Other { .. }) | None => EventType::MessageNew,
    }
}

/// What is told of a message that has come in: once for each person when people came or went.
fn facts_of(watch: &Watch, message: &Message, from_history: bool) -> Vec<Value> {
    let person = |user_id: i64, by: Option<i64>| json!({ "user_id": user_id, "by": by, "message_id": message.id, "date": message.date });
    let told = match &message.service {
        Some(ServiceMessage::Joined { user_ids, by }) => user_ids.iter().map(|user| person(*user, *by)).collect(),
        Some(ServiceMessage::Left { user_id, by }) => vec![person(*user_id, *by)],
        _ => vec![json!({ "message": message })],
    };
    let whole = told.into_iter().map(|data| {
        let mut facts = head(watch, message.chat_id);
        merge(&mut facts, data);
        if from_history {
            merge(&mut facts, json!({ "from_history": true }));
        }
        facts
    });
    whole.collect()
}

fn head(watch: &Watch, chat: i64) -> Value {
    json!({ "watch": watch.id, "session": watch.session.0, "chat": chat })
}

fn merge(facts: &mut Value, more: Value) {
    if let (Value::Object(facts), Value::Object(more)) = (facts, more) {
        facts.extend(more);
    }
}

/// Of what the writer can change; not of counts, which change by themselves, nor of what differs by who reads it.
fn digest(message: &Message) -> i64 {
    let content = json!([message.text, message.media, message.service]);
    let hash = Sha256::digest(content.to_string().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(first)
}
