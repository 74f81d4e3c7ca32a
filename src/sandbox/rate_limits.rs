//! A limiter that floods as Telegram does: per account and method, with waits that grow for who does not learn.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::call::UserId;

/// How often an account may call a method. Each account and each method is counted by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// The method's name in TL, or `*` for every method that no limit of its own names.
    pub method: String,
    /// So many calls in so many seconds, and no more.
    pub calls: u32,
    pub per_seconds: u32,
    /// Seconds of the first `FLOOD_WAIT`. Whoever is flooded again before as much quiet time has passed as the wait and
    /// `per_seconds` together waits twice as long, up to `longest_wait`.
    pub first_wait: u32,
    #[serde(default = "a_day")]
    pub longest_wait: u32,
}

fn a_day() -> u32 {
    86_400
}

impl RateLimit {
    /// `calls` in `per_seconds`, and a first wait of `first_wait` seconds.
    pub fn new(method: impl Into<String>, calls: u32, per_seconds: u32, first_wait: u32) -> Self {
        Self {
            method: method.into(),
            calls,
            per_seconds,
            first_wait,
            longest_wait: a_day(),
        }
    }
}

/// The limits, and how far each account has used them up.
#[derive(Default)]
pub(super) struct RateLimits(Mutex<State>);

#[derive(Default)]
struct State {
    limits: Vec<RateLimit>,
    used: HashMap<(UserId, String), Used>,
}

/// What an account has made of one method. Times are the world's, in seconds.
#[derive(Default)]
struct Used {
    calls: VecDeque<i32>,
    /// The last wait, and when it is over.
    wait: u32,
    until: i32,
}

impl RateLimits {
    /// Adds a limit, or changes the one of that method.
    pub fn set(&self, limit: RateLimit) {
        let mut state = self.lock();
        state.limits.retain(|known| known.method != limit.method);
        state.limits.push(limit);
    }

    pub fn list(&self) -> Vec<RateLimit> {
        self.lock().limits.clone()
    }

    /// Forgets the limits and what was used of them.
    pub fn clear(&self) {
        *self.lock() = State::default();
    }

    pub fn is_empty(&self) -> bool {
        self.lock().limits.is_empty()
    }

    /// Counts a call at `now`; the seconds to wait when it is one too many, or comes before a wait is over.
    pub fn flood(&self, method: &str, account: UserId, now: i32) -> Option<u32> {
        let mut state = self.lock();
        let State { limits, used } = &mut *state;
        let named = |name: &str| limits.iter().find(|limit| limit.method == name);
        let limit = named(method).or_else(|| named("*"))?;
        let used = used.entry((account, method.to_owned())).or_default();
        used.call(limit, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn call(&mut self, limit: &RateLimit, now: i32) -> Option<u32> {
        if let Some(left) = seconds(self.until, now).filter(|left| *left > 0) {
            return Some(left);
        }
        let is_old = |at: &i32| seconds(now, *at).is_none_or(|age| age >= limit.per_seconds);
        self.calls.retain(|at| !is_old(at));
        let most = usize::try_from(limit.calls).unwrap_or(usize::MAX);
        if self.calls.len() < most {
            self.calls.push_back(now);
            return None;
        }
        let quiet = seconds(now, self.until).unwrap_or(0);
        let learnt = self.wait == 0 || quiet >= self.wait.saturating_add(limit.per_seconds);
        let wait = if learnt {
            limit.first_wait
        } else {
            self.wait.saturating_mul(2)
        };
        self.wait = wait.min(limit.longest_wait);
        self.until = now.saturating_add(i32::try_from(self.wait).unwrap_or(i32::MAX));
        self.calls.clear();
        Some(self.wait)
    }
}

/// From the second to the first; `None` when that is the other way round.
fn seconds(later: i32, earlier: i32) -> Option<u32> {
    u32::try_from(i64::from(later) - i64::from(earlier)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: &str = "messages.sendMessage";
    const ALICE: UserId = 7;

    fn limits() -> RateLimits {
        let limits = RateLimits::default();
        limits.set(RateLimit::new(SEND, 2, 10, 5));
        limits
    }

    #[test]
    fn one_call_too_many_floods_and_the_waits_grow() {
        let limits = limits();
        let at = |now: i32| limits.flood(SEND, ALICE, now);
        assert_eq!((at(100), at(101), at(102)), (None, None, Some(5)));
        assert_eq!(at(104), Some(3), "what is left");
        assert_eq!((at(107), at(107), at(107)), (None, None, Some(10)), "twice as long");
        assert_eq!((at(117), at(117), at(117)), (None, None, Some(20)));
        // As much quiet as the wait and the window.
        let quiet = 137 + 20 + 10;
        assert_eq!((at(quiet), at(quiet), at(quiet)), (None, None, Some(5)));
    }

    #[test]
    fn calls_count_for_as_long_as_the_window() {
        let limits = limits();
        for now in [100, 105, 110, 115, 120] {
            assert_eq!(limits.flood(SEND, ALICE, now), None, "at {now}");
        }
        assert_eq!(limits.flood(SEND, ALICE, 121), Some(5));
    }

    #[test]
    fn accounts_and_methods_are_counted_apart_and_a_method_of_its_own_comes_first() {
        let limits = limits();
        limits.set(RateLimit {
            longest_wait: 30,
            ..RateLimit::new("*", 0, 10, 60)
        });
        for _ in 0..2 {
            assert_eq!(limits.flood(SEND, ALICE, 100), None);
            assert_eq!(limits.flood(SEND, 8, 100), None);
        }
        assert_eq!(limits.flood(SEND, 8, 100), Some(5));
        assert_eq!(limits.flood("messages.getHistory", ALICE, 100), Some(30), "the longest");
        limits.set(RateLimit::new(SEND, 9, 10, 5));
        assert_eq!((limits.flood(SEND, ALICE, 100), limits.list().len()), (None, 2));
        limits.clear();
        assert!(limits.is_empty() && limits.flood("messages.getHistory", ALICE, 100).is_none());
    }
}
