//! Server salts: what a client must put in front of each message, so that an old packet cannot be played again.
//!
//! They follow from the auth key and the hour, so that nothing needs storing.

use grammers_crypto::AuthKey;
use grammers_tl_types as tl;
use sha2::{Digest as _, Sha256};

/// Seconds from one salt to the next. Each is valid for two periods.
const PERIOD: i32 = 3_600;
/// The most salts given at once.
const MOST: i32 = 64;

/// The salts of one auth key.
#[derive(Clone, Copy)]
pub(super) struct Salts {
    seed: [u8; 32],
    first: i64,
    first_until: i32,
}

impl Salts {
    /// The salts of a key made at `now`; `first` follows from the exchange and is valid as long as any other.
    pub fn new(key: &AuthKey, first: i64, now: i32) -> Self {
        let seed = Sha256::new()
            .chain_update(b"server salts")
            .chain_update(key.to_bytes())
            .finalize()
            .into();
        Self {
            seed,
            first,
            first_until: now.saturating_add(2 * PERIOD),
        }
    }

    pub fn is_valid(&self, salt: i64, now: i32) -> bool {
        let period = now / PERIOD;
        salt == self.of(period) || salt == self.of(period - 1) || (salt == self.first && now < self.first_until)
    }

    pub fn current(&self, now: i32) -> i64 {
        self.of(now / PERIOD)
    }

    /// The salt of now and those that follow it: `count` in all, at most 64.
    pub fn future(&self, now: i32, count: i32) -> Vec<tl::types::FutureSalt> {
        let period = now / PERIOD;
        (period..period + count.clamp(1, MOST))
            .map(|period| tl::types::FutureSalt {
                valid_since: period * PERIOD,
                valid_until: (period + 2) * PERIOD,
                salt: self.of(period),
            })
            .collect()
    }

    fn of(&self, period: i32) -> i64 {
        let hash = Sha256::new()
            .chain_update(self.seed)
            .chain_update(period.to_le_bytes())
            .finalize();
        let mut salt = [0; 8];
        salt.copy_from_slice(&hash[..8]);
        i64::from_le_bytes(salt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_valid_for_two_periods() {
        let key = AuthKey::from_bytes([7; 256]);
        let start = 100 * PERIOD;
        let salts = Salts::new(&key, 42, start);
        let current = salts.current(start);
        assert!(salts.is_valid(current, start) && salts.is_valid(current, start + 2 * PERIOD - 1));
        assert!(!salts.is_valid(current, start - 1) && !salts.is_valid(current, start + 2 * PERIOD));
        assert!(salts.is_valid(42, start + 2 * PERIOD - 1) && !salts.is_valid(42, start + 2 * PERIOD));
    }

    #[test]
    fn future_salts_become_the_current_ones() {
        let salts = Salts::new(&AuthKey::from_bytes([7; 256]), 42, 0);
        let future = salts.future(10 * PERIOD + 5, 3);
        assert_eq!(future.len(), 3);
        for salt in &future {
            assert_eq!(salts.current(salt.valid_since), salt.salt);
        }
        assert_eq!(salts.future(0, 1_000).len(), 64);
        assert_eq!(salts.future(0, -5).len(), 1);
    }
}
