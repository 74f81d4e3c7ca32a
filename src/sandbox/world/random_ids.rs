//! The memory of `random_id`s that makes a repeated send a duplicate, for a while.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::sandbox::call::UserId;

/// What each account sent lately, forgotten after a window.
pub struct RandomIds {
    window: Duration,
    seen: HashMap<(UserId, i64), i32>,
    order: VecDeque<(UserId, i64, i32)>,
}

impl Default for RandomIds {
    /// Five minutes: Telegram does not say how long it remembers.
    fn default() -> Self {
        Self {
            window: Duration::from_mins(5),
            seen: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl RandomIds {
    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    pub fn forget_all(&mut self) {
        self.seen.clear();
        self.order.clear();
    }

    /// Whether `account` sent `random_id` within the window before `now`.
    pub fn is_known(&mut self, account: UserId, random_id: i64, now: i32) -> bool {
        self.expire(now);
        self.seen.contains_key(&(account, random_id))
    }

    pub fn remember(&mut self, account: UserId, random_id: i64, now: i32) {
        self.seen.insert((account, random_id), now);
        self.order.push_back((account, random_id, now));
    }

    fn expire(&mut self, now: i32) {
        let window = i32::try_from(self.window.as_secs()).unwrap_or(i32::MAX);
        while let Some(&(account, random_id, date)) = self.order.front() {
            if now.saturating_sub(date) < window {
                break;
            }
            self.order.pop_front();
            self.seen.remove(&(account, random_id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_is_known_until_the_window_closes() {
        let mut ids = RandomIds::default();
        ids.remember(1, 77, 1000);
        assert!(ids.is_known(1, 77, 1299));
        assert!(!ids.is_known(2, 77, 1299), "another account's");
        assert!(!ids.is_known(1, 77, 1300));
    }

    #[test]
    fn the_window_can_be_set_and_the_memory_wiped() {
        let mut ids = RandomIds::default();
        ids.set_window(Duration::from_secs(10));
        ids.remember(1, 5, 100);
        assert!(ids.is_known(1, 5, 109));
        ids.forget_all();
        assert!(!ids.is_known(1, 5, 109));
    }
}
