//! A message box: messages under one counter of events (`pts`), with the log that differences are answered from.
//!
//! Each channel has one, and each account one for its private chats and basic groups.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeBounds;

use super::messages::{Content, Extras, Message};
use super::peers::PeerKey;

/// How many events a box remembers. A client further behind is told "too long".
const EVENTS_KEPT: usize = 2000;

/// What happened to a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    New(i32),
    Edited(i32),
    Deleted(Vec<i32>),
    /// The owner read a chat up to a message.
    ReadInbox(PeerKey, i32),
    /// The other side read the owner's messages up to one.
    ReadOutbox(PeerKey, i32),
}

/// One event: it moved the box's counter by `count` to `pts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub pts: i32,
    pub count: i32,
    pub date: i32,
    pub kind: EventKind,
}

/// The answer to "what happened since?".
#[derive(Debug)]
pub enum Difference {
    Empty,
    /// The log no longer reaches back that far.
    TooLong,
    /// Oldest first; `last` when nothing is left after them.
    Events {
        events: Vec<Event>,
        last: bool,
    },
    /// The asker claims to know events that have not happened.
    Ahead,
}

pub struct MessageBox {
    messages: BTreeMap<i32, Message>,
    ids_by_origin: HashMap<u64, i32>,
    last_id: i32,
    pts: i32,
    log: VecDeque<Event>,
    /// The counter up to which events are no longer in the log.
    forgotten: i32,
    kept: usize,
}

impl Default for MessageBox {
    fn default() -> Self {
        Self::new()
    }
}

impl MessageBox {
    /// An empty box. Its counter starts at 1: clients read 0 as "unknown".
    pub fn new() -> Self {
        Self {
            messages: BTreeMap::new(),
            ids_by_origin: HashMap::new(),
            last_id: 0,
            pts: 1,
            log: VecDeque::new(),
            forgotten: 1,
            kept: EVENTS_KEPT,
        }
    }

    pub fn pts(&self) -> i32 {
        self.pts
    }

    pub fn get(&self, id: i32) -> Option<&Message> {
        self.messages.get(&id)
    }

    /// The id, in this box, of the copy of a message.
    pub fn id_of(&self, origin: u64) -> Option<i32> {
        self.ids_by_origin.get(&origin).copied()
    }

    /// Messages, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Message> {
        self.messages.values().rev()
    }

    /// Messages with ids in a range, oldest first.
    pub fn range(&self, ids: impl RangeBounds<i32>) -> impl DoubleEndedIterator<Item = &Message> {
        self.messages.range(ids).map(|(_, message)| message)
    }

    /// When the newest event happened that is still in the log.
    pub fn last_event_date(&self) -> Option<i32> {
        self.log.back().map(|event| event.date)
    }

    /// Puts a message in, under the next id, which replaces the one it carries.
    pub fn add(&mut self, mut message: Message) -> Event {
        self.last_id += 1;
        message.id = self.last_id;
        let date = message.date;
        self.ids_by_origin.insert(message.origin, message.id);
        self.messages.insert(message.id, message);
        self.record(1, date, EventKind::New(self.last_id))
    }

    /// Replaces a message's content. `None` when there is no such message.
    pub fn edit(&mut self, id: i32, content: Content, now: i32) -> Option<Event> {
        let message = self.messages.get_mut(&id)?;
        message.content = content;
        message.edit_date = Some(now);
        Some(self.record(1, now, EventKind::Edited(id)))
    }

    /// Changes what few messages have, which no event tells of. `None` when there is no such message.
    pub fn change(&mut self, id: i32, change: impl FnOnce(&mut Extras)) -> Option<()> {
        change(self.messages.get_mut(&id)?.extras.get_or_insert_default());
        Some(())
    }

    /// Takes messages out; ids that are not there are passed over. `None` when none was.
    pub fn delete(&mut self, ids: &[i32], now: i32) -> Option<Event> {
        let mut gone = Vec::new();
        for id in ids {
            if let Some(message) = self.messages.remove(id) {
                self.ids_by_origin.remove(&message.origin);
                gone.push(*id);
            }
        }
        if gone.is_empty() {
            return None;
        }
        let count = i32::try_from(gone.len()).unwrap_or(i32::MAX);
        Some(self.record(count, now, EventKind::Deleted(gone)))
    }

    /// Records a reading mark.
    pub fn mark(&mut self, kind: EventKind, now: i32) -> Event {
        self.record(1, now, kind)
    }

    /// What happened after `pts`, at most `limit` events at a time.
    pub fn since(&self, pts: i32, limit: usize) -> Difference {
        if pts > self.pts {
            return Difference::Ahead;
        }
        if pts == self.pts {
            return Difference::Empty;
        }
        if pts < self.forgotten {
            return Difference::TooLong;
        }
        let mut later = self.log.iter().filter(|event| event.pts > pts);
        let events: Vec<Event> = later.by_ref().take(limit).cloned().collect();
        Difference::Events {
            events,
            last: later.next().is_none(),
        }
    }

    /// Sets how many events are remembered, and forgets older ones at once.
    pub fn keep(&mut self, events: usize) {
        self.kept = events;
        self.trim();
    }

    /// Forgets all events so far, as if they were long ago; the messages stay.
    pub fn forget_log(&mut self) {
        self.log.clear();
        self.forgotten = self.pts;
    }

    fn record(&mut self, count: i32, date: i32, kind: EventKind) -> Event {
        self.pts += count;
        let event = Event {
            pts: self.pts,
            count,
            date,
            kind,
        };
        self.log.push_back(event.clone());
        self.trim();
        event
    }

    fn trim(&mut self) {
        while self.log.len() > self.kept {
            if let Some(event) = self.log.pop_front() {
                self.forgotten = event.pts;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(origin: u64) -> Message {
        Message {
            id: 0,
            origin,
            chat: PeerKey::Channel(1),
            sender: PeerKey::User(2),
            date: 10,
            edit_date: None,
            reply_to: None,
            silent: false,
            random_id: None,
            extras: None,
            content: Content::Text {
                text: "hello".into(),
                entities: Vec::new(),
            },
        }
    }

    #[test]
    fn every_event_moves_the_counter_by_its_count() {
        let mut messages = MessageBox::new();
        let first = messages.add(message(1));
        messages.add(message(2));
        let gone = messages.delete(&[1, 2, 99], 11).expect("two messages are there");
        assert_eq!((first.pts, first.count), (2, 1));
        assert_eq!(
            (gone.pts, gone.count, gone.kind),
            (5, 2, EventKind::Deleted(vec![1, 2]))
        );
        assert_eq!(messages.pts(), 5);
        assert!(messages.delete(&[1], 12).is_none());
        assert_eq!(messages.id_of(1), None);
    }

    #[test]
    fn a_difference_comes_in_slices_and_then_ends() {
        let mut messages = MessageBox::new();
        for origin in 0..5 {
            messages.add(message(origin));
        }
        let Difference::Events { events, last } = messages.since(2, 3) else {
            panic!("events are missing")
        };
        assert_eq!(events.iter().map(|event| event.pts).collect::<Vec<_>>(), [3, 4, 5]);
        assert!(!last);
        let Difference::Events { events, last } = messages.since(5, 3) else {
            panic!("events are missing")
        };
        assert_eq!(events.len(), 1);
        assert!(last);
        assert!(matches!(messages.since(6, 3), Difference::Empty));
        assert!(matches!(messages.since(7, 3), Difference::Ahead));
    }

    #[test]
    fn a_forgotten_past_is_too_long() {
        let mut messages = MessageBox::new();
        for origin in 0..5 {
            messages.add(message(origin));
        }
        messages.keep(2);
        assert!(matches!(messages.since(3, 10), Difference::TooLong));
        assert!(matches!(messages.since(4, 10), Difference::Events { last: true, .. }));
        messages.forget_log();
        assert!(matches!(messages.since(5, 10), Difference::TooLong));
        assert!(matches!(messages.since(6, 10), Difference::Empty));
        assert_eq!(messages.newest_first().count(), 5);
    }
}
