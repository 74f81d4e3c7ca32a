//! How fast an attempt reads, for its progress; and when it has read for so long that the next one should go on.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{JobContext, Outcome, WaitReason, ports::Progress};

/// An attempt of this kind ends after an hour, as failed. A scan may take days: it goes on in a fresh one before that.
const LONG: TimeDelta = TimeDelta::minutes(40);

/// Counts from the attempt's begin: what earlier ones read says nothing about this one's speed.
pub(super) struct Rate {
    began_at: DateTime<Utc>,
    before: i64,
    seen_at: DateTime<Utc>,
}

impl Rate {
    pub fn new(context: &JobContext, done: i64) -> Self {
        let began_at = context.clock.now();
        Self {
            began_at,
            before: done,
            seen_at: began_at,
        }
    }

    /// Shows how far the scan is, once its checkpoint says the same: `done` of `of`.
    pub async fn show(&mut self, context: &JobContext, done: i64, of: Option<i64>) -> Result<(), Outcome> {
        self.tick(context);
        Ok(context.store.progress(self.progress(done, of)).await?)
    }

    /// Looks at the clock: a page was read.
    pub fn tick(&mut self, context: &JobContext) {
        self.seen_at = context.clock.now();
    }

    /// How far the scan was at the last tick, with `done` of `of`.
    pub fn progress(&self, done: i64, of: Option<i64>) -> Progress {
        Progress {
            done,
            of,
            per_second: self.per_second(done),
        }
    }

    /// A safe place: ends the attempt here when it was asked to stop, or has lasted long.
    pub fn stop_if_due(&self, context: &JobContext) -> Result<(), Outcome> {
        context.stop_if_cancelled()?;
        let now = self.seen_at;
        if now - self.began_at < LONG {
            return Ok(());
        }
        Err(Outcome::Snooze {
            until: now,
            reason: WaitReason::new(
                "batch_done",
                "A part of the scan is done; the next part goes on at once.",
            ),
        })
    }

    /// The same, at a place where nothing was shown meanwhile.
    pub fn stop_if_due_now(&mut self, context: &JobContext) -> Result<(), Outcome> {
        self.seen_at = context.clock.now();
        self.stop_if_due(context)
    }

    /// 0 until time has passed.
    fn per_second(&self, done: i64) -> f64 {
        let seconds = (self.seen_at - self.began_at).as_seconds_f64();
        let rows = u32::try_from(done - self.before).unwrap_or(0);
        if seconds > 0.0 { f64::from(rows) / seconds } else { 0.0 }
    }
}
