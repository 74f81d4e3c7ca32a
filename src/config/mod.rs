//! Configuration from the environment and `.env`, parsed once. A struct per section; every variable is in
//! `.env.example`; unknown `WIREROOM_*` variables and bad values are refused by name.

mod api;
mod database;
mod queue;
mod secret;
mod sessions;
mod source;
mod telegram;
mod telemetry;
mod vault;

pub use api::ApiConfig;
pub use database::DatabaseConfig;
pub use queue::QueueConfig;
pub use secret::Secret;
pub use sessions::SessionsConfig;
pub use source::{ConfigError, Source};
pub use telegram::{ServerConfig, TelegramConfig};
pub use telemetry::{LogFormat, TelemetryConfig};
pub use vault::VaultConfig;

/// Every section.
#[derive(Debug, Clone)]
pub struct Config {
    pub database: DatabaseConfig,
    pub api: ApiConfig,
    pub queue: QueueConfig,
    pub sessions: SessionsConfig,
    pub telegram: TelegramConfig,
    pub vault: VaultConfig,
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Reads the process's environment over `.env` in the working directory.
    pub fn load() -> Result<Self, ConfigError> {
        Self::from_source(Source::load()?)
    }

    /// Reads all sections, then refuses what no section asked for.
    pub fn from_source(mut source: Source) -> Result<Self, ConfigError> {
        let config = Self {
            database: DatabaseConfig::read(&mut source)?,
            api: ApiConfig::read(&mut source)?,
            queue: QueueConfig::read(&mut source)?,
            sessions: SessionsConfig::read(&mut source)?,
            telegram: TelegramConfig::read(&mut source)?,
            vault: VaultConfig::read(&mut source)?,
            telemetry: TelemetryConfig::read(&mut source)?,
        };
        source.refuse_unknown()?;
        Ok(config)
    }
}
