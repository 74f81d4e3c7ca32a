//! Configuration from the environment and `.env`, parsed once. A struct per section; every variable is in
//! `.env.example`; unknown `WIREROOM_*` variables and bad values are refused by name.

mod api;
mod client;
mod database;
mod events;
mod files;
mod outreach;
mod queue;
mod secret;
mod sessions;
mod source;
mod telegram;
mod telemetry;
mod vault;

pub use api::ApiConfig;
pub use client::ClientConfig;
pub use database::DatabaseConfig;
pub use events::EventsConfig;
pub use files::{FilesConfig, FilesPlace, MOST_FETCH_SECONDS, MOST_FILE_MB};
pub use outreach::OutreachConfig;
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
    pub events: EventsConfig,
    pub files: FilesConfig,
    pub sessions: SessionsConfig,
    pub telegram: TelegramConfig,
    pub vault: VaultConfig,
    pub outreach: OutreachConfig,
    pub telemetry: TelemetryConfig,
    pub client: ClientConfig,
}

impl Config {
    /// Reads the process's environment over `.env` in the working directory.
    pub fn load() -> Result<Self, ConfigError> {
        Self::from_source(Source::load()?)
    }

    pub fn from_source(mut source: Source) -> Result<Self, ConfigError> {
        Self::read(&mut source)
    }

    /// Reads all sections, then refuses what no section asked for.
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let config = Self {
            database: DatabaseConfig::read(source)?,
            api: ApiConfig::read(source)?,
            queue: QueueConfig::read(source)?,
            events: EventsConfig::read(source)?,
            files: FilesConfig::read(source)?,
            sessions: SessionsConfig::read(source)?,
            telegram: TelegramConfig::read(source)?,
            vault: VaultConfig::read(source)?,
            outreach: OutreachConfig::read(source)?,
            telemetry: TelemetryConfig::read(source)?,
            client: ClientConfig::read(source)?,
        };
        source.refuse_unknown()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
