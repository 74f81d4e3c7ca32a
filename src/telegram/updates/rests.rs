//! Channels whose difference could not be had: each is left alone for a while, and holds nobody else up.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// When such a channel is asked again at first; twice as long each time, as a call that is not answered costs every
/// other call of the session its connection.
const FIRST: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_mins(10);

/// The channels that failed and have not answered since, by their bare ids.
#[derive(Debug, Default)]
pub(super) struct Rests(BTreeMap<i64, Rest>);

#[derive(Debug)]
struct Rest {
    /// `None`: it is to be asked now.
    until: Option<Instant>,
    next: Duration,
}

impl Rests {
    /// Leaves a channel alone: as long as Telegram says, or longer each time. Whether it did answer before.
    pub fn put_off(&mut self, channel: i64, told: Option<Duration>, now: Instant) -> bool {
        let known = self.0.get(&channel).map(|rest| rest.next);
        let own = known.unwrap_or(FIRST);
        let rest = Rest {
            until: Some(now + told.unwrap_or(own)),
            next: (own * 2).min(LONGEST),
        };
        self.0.insert(channel, rest);
        known.is_none()
    }

    /// Whether a channel is to be left alone.
    pub fn holds(&self, channel: i64) -> bool {
        self.0.get(&channel).is_some_and(|rest| rest.until.is_some())
    }

    /// The channel has answered, or is none of ours any more.
    pub fn end(&mut self, channel: i64) {
        self.0.remove(&channel);
    }

    /// When the next one is to be asked.
    pub fn next_at(&self) -> Option<Instant> {
        self.0.values().filter_map(|rest| rest.until).min()
    }

    /// Those to be asked by now, each once.
    pub fn take_due(&mut self, now: Instant) -> Vec<i64> {
        let due = self
            .0
            .iter_mut()
            .filter_map(|(channel, rest)| rest.until.take_if(|at| *at <= now).map(|_| *channel));
        due.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_left_alone_for_longer_each_time() {
        let mut rests = Rests::default();
        let began = Instant::now();
        assert!(rests.put_off(7, None, began), "it is the first time");
        assert!(rests.holds(7) && rests.take_due(began).is_empty());
        assert_eq!(rests.next_at(), Some(began + FIRST));
        assert_eq!(rests.take_due(began + FIRST), [7]);
        assert!(!rests.holds(7) && rests.next_at().is_none());
        assert!(!rests.put_off(7, None, began), "it failed before");
        assert_eq!(rests.next_at(), Some(began + FIRST * 2));
        for _ in 0..9 {
            rests.put_off(7, None, began);
        }
        assert_eq!(rests.next_at(), Some(began + LONGEST));
        rests.end(7);
        let hour = Duration::from_hours(1);
        assert!(rests.put_off(7, Some(hour), began), "it had answered");
        assert_eq!(rests.next_at(), Some(began + hour));
    }
}
