//! The schema's version: applying migrations, and refusing a database this program does not know, unless the newer release
//! that migrated it says that this one may still run with it (migrations/README.md).

use std::collections::HashMap;

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
    /// The database has migrations that this program has not, the newest of them `version`, and each admits this program: a
    /// deploy is under way, or was rolled back.
    Compatible {
        version: i64,
    },
    /// The newest migration that the database has, this program has not, and that does not admit it. `needs` is the newest
    /// migration of the oldest release it admits, when it names one.
    Ahead {
        version: i64,
        needs: Option<i64>,
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
        "the database was migrated by a newer Wireroom (migration {version} is unknown here{}): start that version, or \
         restore the database from before it",
        needed(.needs.as_ref())
    )]
    Ahead { version: i64, needs: Option<i64> },
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

/// What [`migrate`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrated {
    /// The schema is this program's; so many migrations were missing.
    Own { missing: usize },
    /// It is a newer one, with the migration `version`, that admits this program: nothing was done.
    Newer { version: i64 },
}

/// Applies what is missing. Two processes at once wait for each other.
pub async fn migrate(config: &DatabaseConfig) -> Result<Migrated, SchemaError> {
    // A connection of its own: after a failure the migrator's lock ends with the connection.
    let mut conn = PgConnection::connect(config.url.expose())
        .await
        .map_err(failed("connect_to_migrate"))?;
    let missing = match state(&mut conn).await? {
        SchemaState::Behind { missing } => missing,
        SchemaState::Current => return Ok(Migrated::Own { missing: 0 }),
        SchemaState::Compatible { version } => return Ok(Migrated::Newer { version }),
        SchemaState::Ahead { version, needs } => return Err(SchemaError::Ahead { version, needs }),
        SchemaState::Different { version } => return Err(SchemaError::Different { version }),
    };
    MIGRATOR.run(&mut conn).await.map_err(migration_failed)?;
    conn.close().await.map_err(failed("close_after_migrate"))?;
    Ok(Migrated::Own { missing })
}

/// Refuses a schema that this program cannot run with. Warns of one that is newer and admits it.
pub async fn require_fitting(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let state = state(conn).await?;
    if let SchemaState::Compatible { version } = state {
        tracing::warn!(
            migration = version,
            "the database was migrated by a newer release, which says that this one may run with it: finish the deploy, \
             or its rollback"
        );
    }
    refuse(state)
}

/// Compares the database's schema with this program's; writes nothing.
pub async fn state(conn: &mut PgConnection) -> Result<SchemaState, StoreError> {
    let applied = applied(conn).await?;
    let own = own_state(&applied);
    let versions = applied.iter().map(|(version, _)| *version);
    let unknown: Vec<i64> = versions.filter(|version| !MIGRATOR.version_exists(*version)).collect();
    let Some(newest) = unknown.last() else {
        return Ok(own);
    };
    let marks = marks(conn).await?;
    let refusing = unknown
        .iter()
        .rev()
        .map(|version| (*version, marks.get(version).copied()))
        .find(|(version, mark)| !admits(*version, *mark, newest_own()));
    Ok(match refusing {
        Some((version, needs)) => SchemaState::Ahead { version, needs },
        // Half of this program's own migrations: nobody promised that the newer ones fit that.
        None if own != SchemaState::Current => SchemaState::Ahead {
            version: *newest,
            needs: None,
        },
        None => SchemaState::Compatible { version: *newest },
    })
}

/// Whether the migration `version` with the mark `mark` admits a program whose newest migration is `own`. An older one
/// that is unknown is of another line of development, whatever it says.
fn admits(version: i64, mark: Option<i64>, own: i64) -> bool {
    version > own && mark.is_some_and(|oldest| oldest <= own)
}

fn newest_own() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// How far this program's own migrations are applied.
fn own_state(applied: &[(i64, Vec<u8>)]) -> SchemaState {
    let mut missing = 0;
    for migration in MIGRATOR.iter() {
        match applied.iter().find(|(version, _)| *version == migration.version) {
            None => missing += 1,
            Some((_, checksum)) if **checksum != *migration.checksum => {
                return SchemaState::Different {
                    version: migration.version,
                };
            }
            Some(_) => {}
        }
    }
    match missing {
        0 => SchemaState::Current,
        missing => SchemaState::Behind { missing },
    }
}

/// Per migration, the newest migration of the oldest release that may run with it.
async fn marks(conn: &mut PgConnection) -> Result<HashMap<i64, i64>, StoreError> {
    // Not checked at compile time: a database may be older than the table.
    if !table_exists(conn, "schema_compatibility").await? {
        return Ok(HashMap::new());
    }
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("-- schema_marks\nSELECT migration, oldest_release FROM schema_compatibility")
            .fetch_all(conn)
            .await
            .map_err(failed("schema_marks"))?;
    Ok(rows.into_iter().collect())
}

async fn table_exists(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar("-- table_exists\nSELECT to_regclass($1) IS NOT NULL")
        .bind(name)
        .fetch_one(conn)
        .await
        .map_err(failed("table_exists"))
}

/// Version and checksum of each applied migration, oldest first.
async fn applied(conn: &mut PgConnection) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    // Not checked at compile time: the table is the migrator's own, and absent from a database that is new.
    if !table_exists(conn, "_sqlx_migrations").await? {
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
        SchemaState::Current | SchemaState::Compatible { .. } => Ok(()),
        SchemaState::Behind { missing } => Err(SchemaError::Behind { missing }),
        SchemaState::Ahead { version, needs } => Err(SchemaError::Ahead { version, needs }),
        SchemaState::Different { version } => Err(SchemaError::Different { version }),
    }
}

fn migration_failed(error: MigrateError) -> SchemaError {
    match error {
        MigrateError::VersionMissing(version) => SchemaError::Ahead { version, needs: None },
        MigrateError::VersionMismatch(version) => SchemaError::Different { version },
        MigrateError::ExecuteMigration(source, version) => SchemaError::Migration { version, source },
        other => SchemaError::Migrate(other),
    }
}

/// What an error adds about the oldest release that would do.
fn needed(needs: Option<&i64>) -> String {
    needs.map_or_else(String::new, |oldest| {
        format!(", and needs a release with migration {oldest} or later")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::TestDatabase;

    /// The last migration of the first release; what came before never met an older one.
    const FIRST_RELEASE: i64 = 20_261_120_000_015;

    #[tokio::test]
    async fn every_migration_since_the_first_release_says_who_may_run_with_it() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.expect("a connection");
        let marks = marks(&mut conn).await.expect("read");
        let silent: Vec<i64> = MIGRATOR
            .iter()
            .filter(|migration| migration.version > FIRST_RELEASE && !marks.contains_key(&migration.version))
            .filter(|migration| !migration.sql.as_str().contains("-- no older release: "))
            .map(|migration| migration.version)
            .collect();
        assert!(
            silent.is_empty(),
            "{silent:?}: insert the row of schema_compatibility as migrations/README.md says"
        );
    }

    /// The state with the migration `version` applied, which admits `mark` and later.
    async fn state_after(version: i64, mark: Option<i64>) -> SchemaState {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.expect("a connection");
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ($1, 'of tomorrow', true, '', 0)",
        )
        .bind(version)
        .execute(&mut *conn)
        .await
        .expect("inserted");
        if let Some(mark) = mark {
            sqlx::query("INSERT INTO schema_compatibility VALUES ($1, $2)")
                .bind(version)
                .bind(mark)
                .execute(&mut *conn)
                .await
                .expect("inserted");
        }
        state(&mut conn).await.expect("read")
    }

    const TOMORROW: i64 = 99_990_101_000_000;

    #[tokio::test]
    async fn a_newer_schema_that_admits_this_program_is_compatible() {
        let state = state_after(TOMORROW, Some(newest_own())).await;
        assert_eq!(state, SchemaState::Compatible { version: TOMORROW });
    }

    #[tokio::test]
    async fn a_newer_schema_that_admits_only_later_programs_is_ahead() {
        let needs = newest_own() + 1;
        let state = state_after(TOMORROW, Some(needs)).await;
        let version = TOMORROW;
        assert_eq!(
            state,
            SchemaState::Ahead {
                version,
                needs: Some(needs)
            }
        );
        let error = refuse(state).expect_err("refused").to_string();
        assert!(
            error.contains(&format!("needs a release with migration {needs} or later")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_newer_schema_without_a_mark_is_ahead() {
        let state = state_after(TOMORROW, None).await;
        assert_eq!(
            state,
            SchemaState::Ahead {
                version: TOMORROW,
                needs: None
            }
        );
    }

    #[tokio::test]
    async fn an_unknown_migration_among_ours_is_refused_whatever_it_says() {
        let version = FIRST_RELEASE - 1;
        assert!(!MIGRATOR.version_exists(version), "a gap between two of ours");
        let state = state_after(version, Some(1)).await;
        assert!(matches!(state, SchemaState::Ahead { .. }), "{state:?}");
    }
}
