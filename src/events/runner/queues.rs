//! Events in memory, by subject: of each subject one is on its way, or its turn is to come.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::event_log::EventRecord;

/// An event on its way.
pub(super) struct Work {
    pub event: EventRecord,
    pub attempts: i32,
    /// How long it has been tried, as of `since`.
    pub age: Duration,
    pub since: Instant,
    /// It has a row already.
    pub is_stored: bool,
}

/// The events of a subject, without the one that is on its way.
#[derive(Default)]
struct Queue {
    works: VecDeque<Work>,
    /// Later events of it wait as rows, or may do so: none may be put behind those in memory.
    has_rows: bool,
}

#[derive(Default)]
pub(super) struct Queues {
    /// One that is here has an event on its way, or its name in `ready`.
    by_subject: HashMap<String, Queue>,
    /// Subjects whose next event may be sent.
    ready: VecDeque<String>,
    len: usize,
}

impl Queues {
    /// Events that wait to be sent.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No event may be sent for now.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    pub fn subjects(&self) -> Vec<String> {
        self.by_subject.keys().cloned().collect()
    }

    pub fn has_rows(&self, subject: &str) -> bool {
        self.by_subject.get(subject).is_some_and(|queue| queue.has_rows)
    }

    /// Later events of a subject wait as rows from here on; of one that is not in memory there is nothing to note.
    pub fn rows_follow(&mut self, subject: &str) {
        if let Some(queue) = self.by_subject.get_mut(subject) {
            queue.has_rows = true;
        }
    }

    pub fn push(&mut self, work: Work) {
        self.len += 1;
        let ready = &mut self.ready;
        let queue = self
            .by_subject
            .entry(work.event.subject.clone())
            .or_insert_with_key(|subject| {
                ready.push_back(subject.clone());
                Queue::default()
            });
        queue.has_rows |= work.is_stored;
        queue.works.push_back(work);
    }

    /// The next event that may be sent; its subject waits until [`go_on`](Self::go_on) or [`remove`](Self::remove).
    pub fn next(&mut self) -> Option<Work> {
        while let Some(subject) = self.ready.pop_front() {
            if let Some(work) = self
                .by_subject
                .get_mut(&subject)
                .and_then(|queue| queue.works.pop_front())
            {
                self.len -= 1;
                return Some(work);
            }
        }
        None
    }

    /// The subject's next event may be sent. `true`: there is none in memory any more, but there may be rows.
    pub fn go_on(&mut self, subject: &str) -> bool {
        let Some(queue) = self.by_subject.get(subject) else {
            return false;
        };
        if queue.works.is_empty() {
            let has_rows = queue.has_rows;
            self.by_subject.remove(subject);
            return has_rows;
        }
        self.ready.push_back(subject.to_owned());
        false
    }

    /// Takes a subject out, while an event of it is on its way.
    pub fn remove(&mut self, subject: &str) -> VecDeque<Work> {
        let works = self.by_subject.remove(subject).unwrap_or_default().works;
        self.len -= works.len();
        works
    }

    /// Takes all that waits of the subject that has most.
    pub fn spill(&mut self) -> VecDeque<Work> {
        let longest = self.by_subject.values_mut().max_by_key(|queue| queue.works.len());
        let Some(queue) = longest else { return VecDeque::new() };
        let works = std::mem::take(&mut queue.works);
        queue.has_rows |= !works.is_empty();
        self.len -= works.len();
        works
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn work(position: i64, subject: &str) -> Work {
        Work {
            event: EventRecord {
                position,
                event_type: "message.new".to_owned(),
                version: 1,
                at: DateTime::UNIX_EPOCH,
                subject: subject.to_owned(),
                data: serde_json::Value::Null,
            },
            attempts: 0,
            age: Duration::ZERO,
            since: Instant::now(),
            is_stored: false,
        }
    }

    fn next(queues: &mut Queues) -> Option<i64> {
        queues.next().map(|work| work.event.position)
    }

    #[tokio::test]
    async fn of_a_subject_one_event_is_on_its_way_at_a_time() {
        let mut queues = Queues::default();
        for (position, subject) in [(1, "chat:1"), (2, "chat:1"), (3, "chat:2")] {
            queues.push(work(position, subject));
        }
        assert_eq!(
            (next(&mut queues), next(&mut queues), next(&mut queues)),
            (Some(1), Some(3), None)
        );
        assert!(!queues.go_on("chat:2"), "nothing follows");
        queues.push(work(4, "chat:2"));
        assert!(!queues.go_on("chat:1"));
        assert_eq!((next(&mut queues), next(&mut queues)), (Some(4), Some(2)));
        queues.rows_follow("chat:1");
        assert!(queues.go_on("chat:1"), "rows follow");
        assert!(!queues.has_rows("chat:1"), "and they are looked for");
        assert_eq!(queues.len(), 0);
    }

    #[tokio::test]
    async fn what_has_too_much_of_the_room_gives_it_up() {
        let mut queues = Queues::default();
        for position in 1..=200 {
            queues.push(work(position, "chat:1"));
        }
        queues.push(work(201, "chat:2"));
        assert_eq!((next(&mut queues), next(&mut queues)), (Some(1), Some(201)));
        let spilled: Vec<i64> = queues.spill().iter().map(|work| work.event.position).collect();
        assert_eq!(spilled, (2..=200).collect::<Vec<i64>>());
        assert!(queues.has_rows("chat:1") && !queues.has_rows("chat:2"));
        assert_eq!((queues.len(), queues.spill().len()), (0, 0));
        assert!(queues.go_on("chat:1"), "they are looked for");
        assert!(!queues.go_on("chat:2"));
    }
}
