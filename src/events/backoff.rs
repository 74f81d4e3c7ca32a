//! How long one waits: an event after a failure, and an endpoint after too many.

use std::time::Duration;

/// An event that was not taken for so long is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_hours(72);
/// A subscription whose every attempt failed for so long is switched off.
pub const DISABLE_AFTER: Duration = Duration::from_hours(72);
/// Attempts in a row that may fail before an endpoint is left alone for a while.
pub const BREAK_AFTER: i32 = 10;

const RETRIES: [Duration; 8] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
    Duration::from_hours(3),
    Duration::from_hours(6),
];

const FIRST_BREAK: Duration = Duration::from_secs(10);
const LONGEST_BREAK: Duration = Duration::from_mins(15);

/// How long after the attempt of that number (1 is the first) the next one comes; `jitter` is from 0 to 1, and takes up to a
/// fifth away, so that what failed together does not come back together.
pub fn retry(attempts: i32, jitter: f64) -> Duration {
    let place = usize::try_from(attempts.max(1) - 1).unwrap_or(0);
    RETRIES[place.min(RETRIES.len() - 1)].mul_f64(1.0 - 0.2 * jitter.clamp(0.0, 1.0))
}

/// How long an endpoint is left alone, the `opens`th time in a row (1 is the first).
pub fn rest(opens: u32) -> Duration {
    FIRST_BREAK
        .saturating_mul(2_u32.saturating_pow(opens.saturating_sub(1)))
        .min(LONGEST_BREAK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_tried_for_three_days_at_growing_distances() {
        let mut waited = Duration::ZERO;
        let mut attempts = 1;
        let mut last = Duration::ZERO;
        while waited < GIVE_UP_AFTER {
            let next = retry(attempts, 0.0);
            assert!(next >= last);
            last = next;
            waited += next;
            attempts += 1;
        }
        assert!((15..25).contains(&attempts), "{attempts} attempts");
        assert_eq!(retry(1, 1.0), Duration::from_secs(4));
        assert_eq!(retry(i32::MAX, 0.0), Duration::from_hours(6));
        assert_eq!(retry(0, 0.0), Duration::from_secs(5));
    }

    #[test]
    fn an_endpoint_rests_longer_each_time_to_a_bound() {
        assert_eq!(rest(1), FIRST_BREAK);
        assert_eq!(rest(2), FIRST_BREAK * 2);
        assert_eq!(rest(u32::MAX), LONGEST_BREAK);
    }
}
