//! Pacing: the calls that jobs make on one session keep a distance, whichever job makes them. Not to look like anybody:
//! so that a scan does not run into the floods that its own haste makes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The distance between two calls of one session.
#[derive(Debug)]
pub struct Pace {
    distance: Duration,
    /// When the next call may start.
    next: Mutex<Instant>,
}

impl Pace {
    /// Zero lets every call go at once.
    pub fn new(distance: Duration) -> Self {
        Self {
            distance,
            next: Mutex::new(Instant::now()),
        }
    }

    /// Returns when it is this call's turn: in the order of asking. A turn that is given up stays empty.
    pub async fn turn(&self) {
        if !self.distance.is_zero() {
            sleep_until(self.turn_at(Instant::now())).await;
        }
    }

    fn turn_at(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now);
        *next = turn + self.distance;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_keep_their_distance_and_a_lone_one_does_not_wait() {
        let distance = Duration::from_millis(100);
        let pace = Pace::new(distance);
        let now = Instant::now();
        let turns: Vec<Instant> = (0..3).map(|_| pace.turn_at(now)).collect();
        assert_eq!(turns, [now, now + distance, now + distance * 2]);
        let later = now + Duration::from_secs(1);
        assert_eq!(pace.turn_at(later), later, "no debt is left by silence");
    }
}
