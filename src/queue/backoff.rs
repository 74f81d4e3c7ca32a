//! How long a failed job waits: exponential, with full jitter, up to the kind's ceiling.

use std::time::Duration;

use wireroom_jobs::JobKind;

/// The pause before the second attempt is at most this.
const BASE: Duration = Duration::from_secs(2);

/// Randomness, injected so that tests decide it.
pub trait Random: Send + Sync + 'static {
    /// Evenly spread over 0 (included) to 1 (not included).
    fn unit(&self) -> f64;
}

/// The system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn unit(&self) -> f64 {
        // Without randomness the middle is as good a guess as any.
        let bits = getrandom::u32().unwrap_or(u32::MAX / 2);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

/// The pause after failed attempt number `attempt` (from 1): anything from nothing to the doubled base.
pub fn delay(kind: JobKind, attempt: i32, random: &dyn Random) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(20);
    let ceiling = (BASE * 2_u32.pow(doublings)).min(kind.backoff_ceiling());
    ceiling.mul_f64(random.unit())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(f64);

    impl Random for Fixed {
        fn unit(&self) -> f64 {
            self.0
        }
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_kinds_own() {
        let most = |attempt| delay(JobKind::Join, attempt, &Fixed(1.0));
        assert_eq!(most(1), Duration::from_secs(2));
        assert_eq!(most(2), Duration::from_secs(4));
        assert_eq!(most(5), Duration::from_secs(32));
        for attempt in [9, 20, 100, i32::MAX] {
            assert_eq!(most(attempt), JobKind::Join.backoff_ceiling());
        }
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(delay(JobKind::Join, 8, &Fixed(0.0)), Duration::ZERO);
        assert_eq!(delay(JobKind::Join, 2, &Fixed(0.25)), Duration::from_secs(1));
    }

    #[test]
    fn the_systems_randomness_stays_in_its_bounds() {
        assert!(
            (0..1000)
                .map(|_| SystemRandom.unit())
                .all(|unit| (0.0..1.0).contains(&unit))
        );
    }
}
