use std::time::Duration;

use super::{ConfigError, Source};

/// The queue's times and sizes.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// `WIREROOM_QUEUE_POLL_SECONDS`: the net under lost notifications, 1 by default.
    pub poll: Duration,
    /// `WIREROOM_QUEUE_CLAIM_BATCH`: most jobs of one claim, 1000 by default.
    pub claim_batch: i32,
    /// `WIREROOM_QUEUE_HEARTBEAT_SECONDS`: how often a worker beats, 3 by default.
    pub heartbeat: Duration,
    /// `WIREROOM_QUEUE_WORKER_DEAD_SECONDS`: silence after which a worker's jobs are orphans, 15 by default.
    pub worker_dead: Duration,
    /// `WIREROOM_QUEUE_AGEING_SECONDS`: how much earlier one step of priority puts a job, 60 by default.
    pub ageing_step: Duration,
    /// `WIREROOM_QUEUE_RETENTION_DAYS`: how long finished jobs are kept, 30 by default.
    pub retention_days: i32,
    /// `WIREROOM_QUEUE_CANCEL_SECONDS`: how long a running job has to stop when it is cancelled; then its attempt is
    /// abandoned. 30 by default.
    pub cancel_wait: Duration,
    /// `WIREROOM_QUEUE_VACUUM_AFTER`: ends of one process after which it vacuums the live table, 200,000 by default; 0 leaves
    /// that to autovacuum.
    pub vacuum_after: u64,
    /// `WIREROOM_SHUTDOWN_SOFT_SECONDS`: how long short jobs may finish after SIGTERM, 10 by default.
    pub shutdown_soft: Duration,
    /// `WIREROOM_SHUTDOWN_HARD_SECONDS`: how long cancelled jobs have to stop after that, 5 by default.
    pub shutdown_hard: Duration,
}

impl QueueConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let config = Self {
            poll: source.seconds("WIREROOM_QUEUE_POLL_SECONDS", 1.0, 0.05, 60.0)?,
            claim_batch: source.within("WIREROOM_QUEUE_CLAIM_BATCH", 1000, 1, 10_000)?,
            heartbeat: source.seconds("WIREROOM_QUEUE_HEARTBEAT_SECONDS", 3.0, 0.1, 60.0)?,
            worker_dead: source.seconds("WIREROOM_QUEUE_WORKER_DEAD_SECONDS", 15.0, 0.5, 3600.0)?,
            ageing_step: source.seconds("WIREROOM_QUEUE_AGEING_SECONDS", 60.0, 0.0, 86_400.0)?,
            retention_days: source.within("WIREROOM_QUEUE_RETENTION_DAYS", 30, 1, 3650)?,
            cancel_wait: source.seconds("WIREROOM_QUEUE_CANCEL_SECONDS", 30.0, 0.5, 3600.0)?,
            vacuum_after: source.within("WIREROOM_QUEUE_VACUUM_AFTER", 200_000, 0, 1_000_000_000)?,
            shutdown_soft: source.seconds("WIREROOM_SHUTDOWN_SOFT_SECONDS", 10.0, 0.0, 3600.0)?,
            shutdown_hard: source.seconds("WIREROOM_SHUTDOWN_HARD_SECONDS", 5.0, 0.0, 600.0)?,
        };
        if config.worker_dead < config.heartbeat * 2 {
            return Err(super::source::invalid(
                "WIREROOM_QUEUE_WORKER_DEAD_SECONDS",
                "must be at least twice WIREROOM_QUEUE_HEARTBEAT_SECONDS",
            ));
        }
        Ok(config)
    }
}
