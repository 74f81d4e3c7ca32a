use std::time::Duration;

use super::{ConfigError, Secret, Source, source::invalid};

/// Where Postgres is.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`: `postgres://user:password@host:port/database`.
    pub url: Secret,
    /// `WIREROOM_DATABASE_MAX_CONNECTIONS`: connections of one process, 20 by default.
    pub max_connections: u32,
    /// `WIREROOM_DATABASE_ACQUIRE_SECONDS`: how long a request waits for a connection, 5 by default.
    pub acquire_timeout: Duration,
    /// `WIREROOM_DATABASE_IDLE_TRANSACTION_SECONDS`: how long a transaction may wait for its process, 5 by default; then the
    /// server ends it, and what it had locked is free.
    pub idle_transaction: Duration,
}

impl DatabaseConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let url = source.text("DATABASE_URL").ok_or(ConfigError::Missing {
            variable: "DATABASE_URL",
            needed_for: "the Postgres database, postgres://user:password@host:port/database",
        })?;
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            let message = "is no address of a Postgres database: postgres://user:password@host:port/database";
            return Err(invalid("DATABASE_URL", message));
        }
        Ok(Self {
            url: Secret::new(url),
            max_connections: source.within("WIREROOM_DATABASE_MAX_CONNECTIONS", 20, 2, 1000)?,
            acquire_timeout: source.seconds("WIREROOM_DATABASE_ACQUIRE_SECONDS", 5.0, 0.1, 300.0)?,
            idle_transaction: source.seconds("WIREROOM_DATABASE_IDLE_TRANSACTION_SECONDS", 5.0, 0.5, 300.0)?,
        })
    }
}
