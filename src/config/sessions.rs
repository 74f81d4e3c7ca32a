use std::time::Duration;

use super::{ConfigError, Source};

/// How a worker holds Telegram sessions.
#[derive(Debug, Clone)]
pub struct SessionsConfig {
    /// `WIREROOM_SESSIONS_LEASE_SECONDS`: how long a lease runs without renewal, 15 by default.
    pub lease: Duration,
    /// `WIREROOM_SESSIONS_RENEW_SECONDS`: how often leases are renewed, a third of the lease by default.
    pub renew: Duration,
    /// `WIREROOM_SESSIONS_MARGIN_SECONDS`: how long before the lease's end trust ends, a fifth of the lease by default.
    pub margin: Duration,
    /// `WIREROOM_SESSIONS_MAX`: most sessions of one worker, 1000 by default.
    pub max: usize,
    /// `WIREROOM_SESSIONS_HEALTHY_SECONDS`: a session whose last call came back longer ago is not healthy, 600 by default.
    /// Its holder calls it before.
    pub healthy: Duration,
    /// `WIREROOM_SESSIONS_PACE_SECONDS`: the least time between two calls of jobs on one session, 0.1 by default.
    pub pace: Duration,
    /// `WIREROOM_SESSIONS_BREAKER_FAILURES`: a session that fails to answer so often in a row rests, 5 by default.
    pub breaker_failures: u32,
    /// `WIREROOM_SESSIONS_BREAKER_REST_SECONDS`: how long its first rest is, and that of a degraded one; each one after it is
    /// twice as long, up to half an hour. 30 by default.
    pub breaker_rest: Duration,
    /// `WIREROOM_SESSIONS_CONNECTS_PER_SECOND`: how many sessions of a worker connect in a second once twice as many have at
    /// once, 50 by default.
    pub connects_per_second: u32,
    /// `WIREROOM_SESSIONS_PEER_CACHE`: peers kept in memory per session, 2000 by default.
    pub peer_cache: usize,
}

impl SessionsConfig {
    /// The longest rest of a session that keeps failing.
    pub const LONGEST_REST: Duration = Duration::from_mins(30);

    /// After how long a silence a session is called: time is left for the answer, and for it to be written down.
    pub fn health_call(&self) -> Duration {
        self.healthy.mul_f64(0.8)
    }

    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let lease = source.seconds("WIREROOM_SESSIONS_LEASE_SECONDS", 15.0, 0.5, 3600.0)?;
        let config = Self {
            lease,
            renew: source.seconds(
                "WIREROOM_SESSIONS_RENEW_SECONDS",
                lease.as_secs_f64() / 3.0,
                0.1,
                1200.0,
            )?,
            margin: source.seconds(
                "WIREROOM_SESSIONS_MARGIN_SECONDS",
                lease.as_secs_f64() / 5.0,
                0.05,
                600.0,
            )?,
            max: source.within("WIREROOM_SESSIONS_MAX", 1000, 1, 10_000)?,
            healthy: source.seconds("WIREROOM_SESSIONS_HEALTHY_SECONDS", 600.0, 5.0, 86_400.0)?,
            pace: source.seconds("WIREROOM_SESSIONS_PACE_SECONDS", 0.1, 0.0, 60.0)?,
            breaker_failures: source.within("WIREROOM_SESSIONS_BREAKER_FAILURES", 5, 1, 100)?,
            breaker_rest: source.seconds("WIREROOM_SESSIONS_BREAKER_REST_SECONDS", 30.0, 0.1, 1800.0)?,
            connects_per_second: source.within("WIREROOM_SESSIONS_CONNECTS_PER_SECOND", 50, 1, 10_000)?,
            peer_cache: source.within("WIREROOM_SESSIONS_PEER_CACHE", 2000, 10, 1_000_000)?,
        };
        if config.renew + config.margin >= config.lease {
            return Err(super::source::invalid(
                "WIREROOM_SESSIONS_RENEW_SECONDS",
                "together with WIREROOM_SESSIONS_MARGIN_SECONDS must be less than WIREROOM_SESSIONS_LEASE_SECONDS",
            ));
        }
        Ok(config)
    }
}
