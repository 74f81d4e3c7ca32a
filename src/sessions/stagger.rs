//! When the sessions of a process connect: not all in the same moment. A thousand that a starting worker takes would ask
//! Telegram, the database and this process for a thousand things at once; a few that are taken over connect at once.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How many connect at once, in times of what connects in a second.
const AT_ONCE: u32 = 2;

/// Turns to connect.
#[derive(Debug)]
pub(super) struct Stagger {
    /// Between two turns, once nobody connects at once any more.
    distance: Duration,
    /// How far ahead of that a turn may be.
    ahead: Duration,
    /// When the next turn would be if none were ahead.
    next: Mutex<Instant>,
}

impl Stagger {
    /// So many a second, and twice as many at once after a pause.
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let distance = Duration::from_secs(1) / per_second;
        Self {
            distance,
            ahead: distance * (AT_ONCE * per_second - 1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Returns when it is this session's turn: in the order of asking. A turn that is given up stays empty.
    pub async fn turn(&self) {
        let turn = self.turn_at(Instant::now());
        if turn > Instant::now() {
            sleep_until(turn).await;
        }
    }

    fn turn_at(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let due = (*next).max(now);
        *next = due + self.distance;
        due.checked_sub(self.ahead).map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(stagger: &Stagger, now: Instant, count: u32) -> Vec<Duration> {
        (0..count).map(|_| stagger.turn_at(now) - now).collect()
    }

    #[test]
    fn a_few_go_at_once_and_many_one_after_the_other() {
        let stagger = Stagger::new(10);
        // Behind everybody who asked before; `new` looks at the clock itself.
        let now = Instant::now() + Duration::from_secs(10);
        let turns = turns(&stagger, now, 1_000);
        assert!(turns[..20].iter().all(Duration::is_zero), "{:?}", &turns[..20]);
        assert_eq!(turns[20], Duration::from_millis(100));
        assert_eq!(turns[999], Duration::from_secs(98));
    }

    #[test]
    fn a_pause_lets_as_many_go_at_once_again() {
        let stagger = Stagger::new(10);
        let start = Instant::now() + Duration::from_secs(10);
        turns(&stagger, start, 30);
        let later = start + Duration::from_secs(10);
        let turns = turns(&stagger, later, 21);
        assert!(
            turns[..20].iter().all(Duration::is_zero) && !turns[20].is_zero(),
            "{turns:?}"
        );
    }
}
