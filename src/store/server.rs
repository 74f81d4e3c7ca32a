//! What is asked of the Postgres server itself.

use std::{io, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::Instant;

use super::{StoreError, failed};

/// How long one try to connect may take.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// How soon after a try comes another one.
const AGAIN: Duration = Duration::from_millis(250);

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
pub async fn wait(pool: &PgPool, bound: Duration) -> Result<(), StoreError> {
    let deadline = Instant::now() + bound;
    let mut told = false;
    loop {
        match reach(pool).await {
            Ok(()) => return Ok(()),
            Err(error) if is_final(&error) || Instant::now() >= deadline => return Err(error),
            Err(error) => {
                if !told {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        seconds = bound.as_secs(),
                        "the database does not answer yet; waiting for it"
                    );
                }
                told = true;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Connects past the pool, which tries until its time is over and then does not say why.
pub async fn reach(pool: &PgPool) -> Result<(), StoreError> {
    let options = pool.connect_options();
    let reached = async { PgConnection::connect_with(&options).await?.close().await };
    let source = match tokio::time::timeout(REACHED_WITHIN, reached).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => sqlx::Error::Io(io::ErrorKind::TimedOut.into()),
    };
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    Err(StoreError::Unreachable { place, source })
}

/// Waiting does not help: the server answered, and refused (a wrong password, an unknown database).
fn is_final(error: &StoreError) -> bool {
    let StoreError::Unreachable { source, .. } = error else {
        return false;
    };
    match source {
        // Class 57: starting up or shutting down. Class 53: too many connections.
        sqlx::Error::Database(error) => error
            .code()
            .is_none_or(|code| !code.starts_with("57") && !code.starts_with("53")),
        sqlx::Error::Configuration(_) => true,
        _ => false,
    }
}
