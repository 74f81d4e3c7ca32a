//! Channels whose difference could not be had: each is left alone for a while, and holds nobody else up.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// When such a channel is asked again at first; twice as long each time, as a call that is not answered costs every
/// other call of the session its connection.
const FIRST: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_mins(10);

/// The channels that are not to be asked about.
#[derive(Debug, Default)]
pub(super) struct Rests {
    /// Those that failed and have not answered since, or came up while Telegram wanted a rest, by their bare ids.
    channels: BTreeMap<i64, Rest>,
    /// No channel is asked about before.
    all_until: Option<Instant>,
}

#[derive(Debug)]
struct Rest {
    /// `None`: it is to be asked now.
    until: Option<Instant>,
    next: Duration,
}

impl Rests {
    /// Leaves a channel alone: as long as Telegram says, or longer each time. Whether it did answer before.
    pub fn put_off(&mut self, channel: i64, told: Option<Duration>, now: Instant) -> bool {
        let known = self.channels.get(&channel).map(|rest| rest.next);
        let own = known.unwrap_or(FIRST);
        let rest = Rest {
            until: Some(now + told.unwrap_or(own)),
            next: (own * 2).min(LONGEST),
        };
        self.channels.insert(channel, rest);
        known.is_none()
    }

    /// Leaves every channel alone until then.
    pub fn rest_all(&mut self, until: Instant) {
        self.all_until = self.all_until.max(Some(until));
    }

    /// Whether a channel that was to be asked now is to be left alone; then it is due when its rest is over.
    pub fn holds(&mut self, channel: i64, now: Instant) -> bool {
        if let Some(until) = self.all_until.filter(|until| *until > now) {
            let rest = self.channels.entry(channel).or_insert(Rest {
                until: None,
                next: FIRST,
            });
            rest.until = rest.until.max(Some(until));
        }
        self.channels.get(&channel).is_some_and(|rest| rest.until.is_some())
    }

    /// The channel has answered, or is none of ours any more.
    pub fn end(&mut self, channel: i64) {
        self.channels.remove(&channel);
    }

    /// When the next one is to be asked.
    pub fn next_at(&self) -> Option<Instant> {
        self.channels.values().filter_map(|rest| rest.until).min()
    }

    /// Those to be asked by now, each once.
    pub fn take_due(&mut self, now: Instant) -> Vec<i64> {
        let due = self
            .channels
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
        assert!(rests.holds(7, began) && rests.take_due(began).is_empty());
        assert_eq!(rests.next_at(), Some(began + FIRST));
        assert_eq!(rests.take_due(began + FIRST), [7]);
        assert!(!rests.holds(7, began) && rests.next_at().is_none());
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

    #[test]
    fn a_flood_about_one_channel_holds_the_others_back_as_long() {
        let mut rests = Rests::default();
        let began = Instant::now();
        let until = began + Duration::from_secs(30);
        rests.put_off(7, Some(Duration::from_secs(30)), began);
        rests.rest_all(until);
        assert!(rests.holds(8, began), "it was not flooded itself");
        assert_eq!(rests.next_at(), Some(until));
        assert_eq!(rests.take_due(until), [7, 8]);
        assert!(!rests.holds(7, until) && !rests.holds(8, until));
    }
}
