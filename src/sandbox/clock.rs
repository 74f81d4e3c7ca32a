//! The transport side's two clocks: wall time, which message ids and salts are made of, and time since the start.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Time since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the sandbox's clock")]
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since 1970, as TL dates are.
pub(super) fn unix_seconds() -> i32 {
    i32::try_from(unix_time().as_secs()).unwrap_or(i32::MAX)
}

/// A monotonic clock that starts with the sandbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
