//! What is asked of the Postgres server itself.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, failed};

/// The server's version and time.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// 15 for 15.4.
    pub major: i32,
    /// As the server writes it: `15.4`.
    pub version: String,
    pub now: DateTime<Utc>,
    /// The transaction may write: not a standby, not set to read only.
    pub writable: bool,
}

/// Asks the server who it is.
pub async fn facts(conn: &mut PgConnection) -> Result<ServerFacts, StoreError> {
    let row = sqlx::query!(
        r#"-- server_facts
        SELECT current_setting('server_version_num')::integer AS "number!",
            current_setting('server_version') AS "version!",
            clock_timestamp() AS "now!",
            current_setting('transaction_read_only') = 'off' AS "writable!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("server_facts"))?;
    Ok(ServerFacts {
        major: row.number / 10_000,
        version: row.version,
        now: row.now,
        writable: row.writable,
    })
}

/// Waits until a connection can be had, for at most `bound`: a process may start while Postgres does.
pub async fn wait(pool: &sqlx::PgPool, bound: Duration) -> Result<(), StoreError> {
    let deadline = tokio::time::Instant::now() + bound;
    loop {
        match pool.acquire().await {
            Ok(_) => return Ok(()),
            Err(error) if is_final(&error) || tokio::time::Instant::now() >= deadline => {
                return Err(failed("connect")(error));
            }
            Err(_) => {
                tracing::warn!("the database does not answer yet");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

/// Waiting does not help: the server answered, and refused (a wrong password, an unknown database).
fn is_final(error: &sqlx::Error) -> bool {
    match error {
        // Class 57: starting up or shutting down. Class 53: too many connections.
        sqlx::Error::Database(error) => error
            .code()
            .is_none_or(|code| !code.starts_with("57") && !code.starts_with("53")),
        sqlx::Error::Configuration(_) => true,
        _ => false,
    }
}
