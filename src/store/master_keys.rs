//! Whether this process's master keys are the ones this database was used with. Each key has a row with a known text
//! sealed under it, so that a wrong key is noticed before it seals or opens anything else.

use sqlx::{Connection, PgConnection};

use super::{StoreError, failed};
use crate::vault::{Sealed, Vault, VaultError};

/// What each check row seals.
const KNOWN: &[u8] = b"wireroom master key check";

/// Why the keys do not fit the database.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeysError {
    #[error("WIREROOM_MASTER_KEYS: the key `{id}` is not the one this database was used with")]
    Wrong { id: String },
    #[error(
        "WIREROOM_MASTER_KEYS: the key `{id}` is missing, and {values} value(s) in the database are sealed with it"
    )]
    Missing { id: String, values: i64 },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks every key of `vault`, and that every sealed value has its key. Nothing is written.
pub async fn verify(conn: &mut PgConnection, vault: &Vault) -> Result<(), MasterKeysError> {
    for id in vault.key_ids() {
        let check = sqlx::query_scalar!(
            "-- vault_key_check\nSELECT check_sealed FROM vault_keys WHERE id = $1",
            id
        )
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed("vault_key_check"))?;
        if let Some(bytes) = check {
            open(vault, id, bytes)?;
        }
    }
    let used = sqlx::query!(
        r#"-- sealed_values_by_key
        SELECT sealed_with AS "id!", count(*) AS "values!" FROM (
            SELECT sealed_with FROM applications
            UNION ALL
            SELECT sealed_with FROM session_dcs WHERE sealed_with IS NOT NULL
        ) used GROUP BY sealed_with ORDER BY sealed_with"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("sealed_values_by_key"))?;
    match used.into_iter().find(|row| !vault.key_ids().any(|id| id == row.id)) {
        Some(row) => Err(MasterKeysError::Missing {
            id: row.id,
            values: row.values,
        }),
        None => Ok(()),
    }
}

/// [`verify`], and a check row for each key that has none. Call it before anything is sealed.
pub async fn register(conn: &mut PgConnection, vault: &Vault) -> Result<(), MasterKeysError> {
    let mut transaction = conn.begin().await.map_err(failed("register_vault_keys"))?;
    for id in vault.key_ids() {
        let check = vault.seal_with(id, &owner(id), KNOWN)?;
        sqlx::query!(
            "-- register_vault_key
            INSERT INTO vault_keys (id, check_sealed) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
            id,
            check.bytes,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed("register_vault_key"))?;
    }
    // After the inserts: of two processes that begin with different keys under one id, the second fails here.
    verify(&mut transaction, vault).await?;
    transaction.commit().await.map_err(failed("register_vault_keys"))?;
    Ok(())
}

fn open(vault: &Vault, id: &str, bytes: Vec<u8>) -> Result<(), MasterKeysError> {
    let sealed = Sealed {
        key_id: id.to_owned(),
        bytes,
    };
    match vault.open(&owner(id), &sealed) {
        Ok(text) if text.as_slice() == KNOWN => Ok(()),
        _ => Err(MasterKeysError::Wrong { id: id.to_owned() }),
    }
}

fn owner(id: &str) -> String {
    format!("vault:check:{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::testing::TestDatabase, config::Secret, store::PgPool};

    fn vault(ids: &[&str]) -> Vault {
        let keys: Vec<String> = ids
            .iter()
            .map(|id| Vault::generate(id).unwrap().expose().to_owned())
            .collect();
        Vault::parse(&Secret::new(keys.join(","))).unwrap()
    }

    async fn known(pool: &PgPool) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM vault_keys")
            .fetch_one(pool)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn another_key_under_a_known_id_is_refused_by_name_and_leaves_nothing() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.unwrap();
        let first = vault(&["k1"]);
        register(&mut conn, &first).await.unwrap();
        register(&mut conn, &first).await.unwrap();
        let refused = register(&mut conn, &vault(&["k2", "k1"])).await.unwrap_err();
        assert!(
            matches!(&refused, MasterKeysError::Wrong { id } if id == "k1"),
            "{refused}"
        );
        assert_eq!(known(database.pool()).await, 1);
    }

    #[tokio::test]
    async fn a_key_that_sealed_values_need_is_missed_by_name() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.unwrap();
        sqlx::query("INSERT INTO applications (id, label, api_id, api_hash_sealed, sealed_with) VALUES (gen_random_uuid(), 'a', 1, '', 'old')")
            .execute(&mut *conn)
            .await
            .unwrap();
        let refused = verify(&mut conn, &vault(&["k1"])).await.unwrap_err();
        assert!(
            matches!(&refused, MasterKeysError::Missing { id, values: 1 } if id == "old"),
            "{refused}"
        );
    }
}
