//! The schema's version: applying migrations, and refusing a database this program does not know.

use sqlx::{Connection, PgConnection, migrate::MigrateError};

use super::{MIGRATOR, StoreError, failed};
use crate::config::DatabaseConfig;

/// How the database's schema compares with this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    Current,
    /// Migrations that this program has and the database has not.
    Behind {
        missing: usize,
    },
    /// The newest migration that the database has and this program has not.
    Ahead {
        version: i64,
    },
    /// A migration that was applied with another text.
    Different {
        version: i64,
    },
}

/// Why a database is not used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the database has {missing} migration(s) to be applied: run `wireroom migrate`, then start again")]
    Behind { missing: usize },
    #[error(
        "the database was migrated by a newer Wireroom (migration {version} is unknown here): start that version, or \
         restore the database from before it"
    )]
    Ahead { version: i64 },
    #[error(
        "migration {version} was applied with another text than this program has: the database belongs to another build"
    )]
    Different { version: i64 },
    #[error("migration {version} failed")]
    Migration {
        version: i64,
        #[source]
        source: sqlx::Error,
    },
    #[error("the migrations could not be run")]
    Migrate(#[source] MigrateError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Applies what is missing and returns how many migrations that were. Two processes at once wait for each other.
pub async fn migrate(config: &DatabaseConfig) -> Result<usize, SchemaError> {
    // A connection of its own: after a failure the migrator's lock ends with the connection.
    let mut conn = PgConnection::connect(config.url.expose())
        .await
        .map_err(failed("connect_to_migrate"))?;
    let missing = match state(&mut conn).await? {
        SchemaState::Behind { missing } => missing,
        SchemaState::Current => return Ok(0),
        other => return refuse(other).map(|()| 0),
    };
    MIGRATOR.run(&mut conn).await.map_err(migration_failed)?;
    conn.close().await.map_err(failed("close_after_migrate"))?;
    Ok(missing)
}

/// Refuses a schema that is not this program's.
pub async fn require_current(conn: &mut PgConnection) -> Result<(), SchemaError> {
    refuse(state(conn).await?)
}

/// Compares the database's schema with this program's; writes nothing.
pub async fn state(conn: &mut PgConnection) -> Result<SchemaState, StoreError> {
    let applied = applied(conn).await?;
    if let Some((version, _)) = applied
        .iter()
        .rev()
        .find(|(version, _)| !MIGRATOR.version_exists(*version))
    {
        return Ok(SchemaState::Ahead { version: *version });
    }
    let mut missing = 0;
    for migration in MIGRATOR.iter() {
        match applied.iter().find(|(version, _)| *version == migration.version) {
            None => missing += 1,
            Some((_, checksum)) if **checksum != *migration.checksum => {
                return Ok(SchemaState::Different {
                    version: migration.version,
                });
            }
            Some(_) => {}
        }
    }
    Ok(match missing {
        0 => SchemaState::Current,
        missing => SchemaState::Behind { missing },
    })
}

/// Version and checksum of each applied migration, oldest first.
async fn applied(conn: &mut PgConnection) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    // Not checked at compile time: the table is the migrator's own, and absent from a database that is new.
    let exists: bool =
        sqlx::query_scalar("-- migrations_table_exists\nSELECT to_regclass('_sqlx_migrations') IS NOT NULL")
            .fetch_one(&mut *conn)
            .await
            .map_err(failed("migrations_table_exists"))?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "-- applied_migrations\nSELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version",
    )
    .fetch_all(conn)
    .await
    .map_err(failed("applied_migrations"))
}

fn refuse(state: SchemaState) -> Result<(), SchemaError> {
    match state {
        SchemaState::Current => Ok(()),
        SchemaState::Behind { missing } => Err(SchemaError::Behind { missing }),
        SchemaState::Ahead { version } => Err(SchemaError::Ahead { version }),
        SchemaState::Different { version } => Err(SchemaError::Different { version }),
    }
}

fn migration_failed(error: MigrateError) -> SchemaError {
    match error {
        MigrateError::VersionMissing(version) => SchemaError::Ahead { version },
        MigrateError::VersionMismatch(version) => SchemaError::Different { version },
        MigrateError::ExecuteMigration(source, version) => SchemaError::Migration { version, source },
        other => SchemaError::Migrate(other),
    }
}
