//! Whether this process and the database fit together.

use sqlx::PgPool;

use super::{MIGRATOR, StoreError, failed};

/// How the database's schema compares with the one this version was built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    Current,
    /// Migrations of this version are missing.
    Behind {
        missing: usize,
    },
    /// A migration that this version does not know was applied.
    Ahead {
        version: i64,
    },
    /// A migration was applied in another wording.
    Different {
        version: i64,
    },
}

/// Compares the applied migrations with the ones compiled in.
pub async fn schema_state(pool: &PgPool) -> Result<SchemaState, StoreError> {
    // Checked at run time: the table is the migrator's own, and is not there before the first migration.
    let applied: Result<Vec<(i64, Vec<u8>)>, sqlx::Error> = sqlx::query_as(
        "-- schema_state
        SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version",
    )
    .fetch_all(pool)
    .await;
    let applied = match applied {
        Ok(applied) => applied,
        // undefined_table
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(failed("schema_state")(error)),
    };
    let known: Vec<_> = MIGRATOR
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .collect();
    for (version, checksum) in &applied {
        match known.iter().find(|migration| migration.version == *version) {
            None => return Ok(SchemaState::Ahead { version: *version }),
            Some(migration) if migration.checksum.as_ref() != checksum.as_slice() => {
                return Ok(SchemaState::Different { version: *version });
            }
            Some(_) => {}
        }
    }
    Ok(match known.len() - applied.len() {
        0 => SchemaState::Current,
        missing => SchemaState::Behind { missing },
    })
}
