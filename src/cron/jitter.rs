//! How much later than its tick a job is due: spread over schedules, the same for every process that asks.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// From zero to `max` seconds, by the schedule and the tick alone, in whole milliseconds.
pub fn jitter(schedule: Uuid, tick: DateTime<Utc>, max: u32) -> TimeDelta {
    let digest = Sha256::new()
        .chain_update(schedule.as_bytes())
        .chain_update(tick.timestamp().to_be_bytes())
        .finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    let span = u64::from(max) * 1000 + 1;
    TimeDelta::milliseconds(i64::try_from(u64::from_be_bytes(bytes) % span).unwrap_or_default())
}
