//! Databases inside a private cluster.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::ClusterError;

/// How long the creation of a database may take.
const BOUND: Duration = Duration::from_secs(30);

/// Creates the database `name` over a connection to `maintenance_url`, unless it exists.
pub(super) async fn ensure(maintenance_url: &str, name: &str) -> Result<(), ClusterError> {
    let create = async {
        let mut connection = connect(maintenance_url).await?;
        let exists: bool =
            sqlx::query_scalar("-- database_exists\nSELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
                .bind(name)
                .fetch_one(&mut connection)
                .await?;
        if !exists {
            run(&mut connection, format!("CREATE DATABASE {}", quoted(name))).await?;
        }
        connection.close().await
    };
    let result = match tokio::time::timeout(BOUND, create).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    };
    result.map_err(|source| ClusterError::CreateDatabase {
        name: name.to_owned(),
        source,
    })
}

/// A connection of its own, without statement logging.
pub(super) async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    options.disable_statement_logging().connect().await
}

/// Runs a statement that cannot take parameters. What it names must have gone through [`quoted`].
pub(super) async fn run(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(connection)
        .await
        .map(drop)
}

/// A name as SQL writes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
