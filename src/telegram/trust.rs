//! How long this process may believe that it still holds a session's lease.
//!
//! Trust is counted from the moment the renewal *started*, so a slow one stretches nothing, and it ends a margin before
//! the database's expiry. It is measured on two clocks, and either ends it: the monotonic one stands still while a
//! machine sleeps, the wall clock can be set back.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};

/// A point in time on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    /// Take it before the statement that acquires or renews, not after.
    #[expect(
        clippy::disallowed_methods,
        reason = "trust is about this machine's own clocks, and a Clock has no monotonic one"
    )]
    pub fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// How long ago it was.
    pub fn passed(self) -> Duration {
        self.monotonic.elapsed()
    }

    /// This moment and `span`, on both clocks.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self {
            monotonic: self.monotonic + span,
            wall: self.wall + span,
        }
    }

    /// What is left until this moment at `now`, on the clock that is nearer to it.
    fn left_at(self, now: Self) -> Duration {
        let monotonic = self.monotonic.saturating_duration_since(now.monotonic);
        let wall = self.wall.duration_since(now.wall).unwrap_or(Duration::ZERO);
        monotonic.min(wall)
    }
}

/// The trust in one term of one lease. Once it has ended it never comes back.
#[derive(Debug)]
pub struct Trust {
    /// `None` when it was ended.
    until: Mutex<Option<Moment>>,
    ended: Notify,
}

impl Trust {
    /// Trust from `start` on for `span`: the lease less the margin.
    pub fn new(start: Moment, span: Duration) -> Self {
        Self {
            until: Mutex::new(Some(start.after(span))),
            ended: Notify::new(),
        }
    }

    /// Moves the end to `span` after `start`, the moment the renewal started. `false`: it had ended, and stays so.
    pub fn extend(&self, start: Moment, span: Duration) -> bool {
        self.extend_at(Moment::now(), start, span)
    }

    fn extend_at(&self, now: Moment, start: Moment, span: Duration) -> bool {
        let mut until = self.lock();
        match *until {
            Some(end) if !end.left_at(now).is_zero() => {
                let later = start.after(span);
                if later.monotonic > end.monotonic {
                    *until = Some(later);
                }
                true
            }
            _ => {
                *until = None;
                drop(until);
                self.ended.notify_waiters();
                false
            }
        }
    }

    /// Ends it now.
    pub fn end(&self) {
        *self.lock() = None;
        self.ended.notify_waiters();
    }

    /// Whether a byte may be sent now.
    pub fn holds(&self) -> bool {
        !self.left().is_zero()
    }

    /// How long it still holds unless it is extended.
    pub fn left(&self) -> Duration {
        self.left_at(Moment::now())
    }

    fn left_at(&self, now: Moment) -> Duration {
        self.lock().map_or(Duration::ZERO, |end| end.left_at(now))
    }

    /// Returns when it has ended.
    pub async fn ended(&self) {
        loop {
            let told = self.ended.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            let left = self.left();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = told => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Moment>> {
        self.until.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(12);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_slow_renewal_does_not_stretch_trust() {
        let start = Moment::now();
        let trust = Trust::new(start, SPAN);
        // The renewal started at 5 s and came back at 11 s: trust ends at 17 s, not at 23 s.
        assert!(trust.extend_at(start.after(seconds(11)), start.after(seconds(5)), SPAN));
        assert_eq!(trust.left_at(start.after(seconds(16))), seconds(1));
        assert!(trust.left_at(start.after(seconds(17))).is_zero());
    }

    #[test]
    fn a_renewal_that_comes_back_too_late_revives_nothing() {
        let start = Moment::now();
        let trust = Trust::new(start, SPAN);
        assert!(!trust.extend_at(start.after(seconds(12)), start.after(seconds(11)), SPAN));
        assert!(trust.left_at(start).is_zero(), "it has ended for good");
        assert!(!trust.extend_at(start, start, SPAN));
    }

    #[test]
    fn an_older_renewal_does_not_shorten_trust() {
        let start = Moment::now();
        let trust = Trust::new(start.after(seconds(5)), SPAN);
        assert!(trust.extend_at(start.after(seconds(6)), start, SPAN));
        assert_eq!(trust.left_at(start.after(seconds(6))), seconds(11));
    }

    #[test]
    fn either_clock_ends_it() {
        let start = Moment::now();
        let trust = Trust::new(start, SPAN);
        let slept = Moment {
            monotonic: start.monotonic,
            wall: start.wall + seconds(3600),
        };
        assert!(trust.left_at(slept).is_zero(), "the machine slept");
        let set_back = Moment {
            monotonic: start.monotonic + seconds(12),
            wall: start.wall - seconds(3600),
        };
        assert!(trust.left_at(set_back).is_zero(), "the wall clock was set back");
    }

    #[tokio::test]
    async fn waiters_hear_of_the_end() {
        let trust = std::sync::Arc::new(Trust::new(Moment::now(), seconds(3600)));
        let waiter = tokio::spawn({
            let trust = trust.clone();
            async move { trust.ended().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        trust.end();
        waiter.await.unwrap();
        assert!(!trust.holds());
    }
}
