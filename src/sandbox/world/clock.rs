//! The sandbox's time: the system's, shifted as a test asks.

use std::time::{SystemTime, UNIX_EPOCH};

/// A clock that can be set ahead or back.
#[derive(Debug, Default)]
pub struct Clock {
    offset: i64,
}

impl Clock {
    /// Unix seconds, as Telegram's `int` dates carry them.
    #[expect(clippy::disallowed_methods, reason = "this is the world's clock")]
    pub fn now(&self) -> i32 {
        let system = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs().cast_signed());
        i32::try_from(system.saturating_add(self.offset)).unwrap_or(i32::MAX)
    }

    /// Sets the distance from the system's clock, in seconds; it does not add up.
    pub fn set_offset(&mut self, seconds: i64) {
        self.offset = seconds;
    }
}
