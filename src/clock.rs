//! The process's clock. What two processes compare is timed by the database instead.

use chrono::{DateTime, Utc};
use wireroom_jobs::ports::Clock;

/// The system's time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else is given"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
