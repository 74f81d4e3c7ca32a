//! How fast an attempt reads, for its progress.

use chrono::{DateTime, Utc};

use crate::{JobContext, Outcome, ports::Progress};

/// Counts from the attempt's begin: what earlier ones read says nothing about this one's speed.
pub(super) struct Rate {
    began_at: DateTime<Utc>,
    before: i64,
}

impl Rate {
    pub fn new(context: &JobContext, done: i64) -> Self {
        Self {
            began_at: context.clock.now(),
            before: done,
        }
    }

    /// Shows how far the scan is: `done` of `of`.
    pub async fn show(&self, context: &JobContext, done: i64, of: Option<i64>) -> Result<(), Outcome> {
        let progress = Progress {
            done,
            of,
            per_second: self.per_second(context, done),
        };
        Ok(context.store.progress(progress).await?)
    }

    /// 0 until time has passed.
    fn per_second(&self, context: &JobContext, done: i64) -> f64 {
        let seconds = (context.clock.now() - self.began_at).as_seconds_f64();
        let rows = u32::try_from(done - self.before).unwrap_or(0);
        if seconds > 0.0 { f64::from(rows) / seconds } else { 0.0 }
    }
}
