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
    /// `WIREROOM_SESSIONS_PEER_CACHE`: peers kept in memory per session, 2000 by default.
    pub peer_cache: usize,
}

impl SessionsConfig {
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
