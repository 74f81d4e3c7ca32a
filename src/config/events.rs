use std::time::Duration;

use super::{ConfigError, Source};

/// How events reach those who subscribe.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// `WIREROOM_WEBHOOK_ALLOW_PRIVATE`: whether webhooks may go to addresses that are not on the public internet, and over
    /// plain HTTP; false by default. The API and the workers need the same.
    pub allow_private: bool,
    /// `WIREROOM_WEBHOOK_TIMEOUT_SECONDS`: how long one attempt may take, 15 by default.
    pub timeout: Duration,
    /// `WIREROOM_WEBHOOK_CONCURRENCY`: how many events of one subscription are on their way at a time, each of another subject,
    /// 16 by default.
    pub concurrency: usize,
}

impl EventsConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        Ok(Self {
            allow_private: source.parsed("WIREROOM_WEBHOOK_ALLOW_PRIVATE", false)?,
            timeout: Duration::from_secs(source.within("WIREROOM_WEBHOOK_TIMEOUT_SECONDS", 15, 1, 60)?),
            concurrency: source.within("WIREROOM_WEBHOOK_CONCURRENCY", 16, 1, 256)?,
        })
    }
}
