//! Refuses to start with a wrong vault, by name, before anything is touched.

use sqlx::{PgConnection, PgPool};

use crate::{
    store::{StoreError, failed, vault_keys},
    vault::{Vault, VaultError},
};

/// What is sealed under each key, so that another key under the same id is noticed.
const CHECK: &[u8] = b"wireroom";

/// Why a vault is not the one this database was sealed with. Shows ids, never keys.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error(
        "WIREROOM_MASTER_KEYS has another key under the id `{id}` than the one this database was sealed with: put the \
         old key back, or give the new one an id of its own"
    )]
    Other { id: String },
    #[error(
        "WIREROOM_MASTER_KEYS lacks {}: values in this database are sealed with it",
        .ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
    )]
    Missing { ids: Vec<String> },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks that every configured key is the one it was, and that no sealed value needs another; then remembers new keys.
pub async fn verify_master_keys(database: &PgPool, vault: &Vault) -> Result<(), MasterKeyError> {
    let mut connection = database.acquire().await.map_err(failed("verify_master_keys"))?;
    for id in check_master_keys(&mut connection, vault).await? {
        vault_keys::remember(&mut connection, &vault.seal_with(&id, &owner(&id), CHECK)?).await?;
        // Another process may have been first, with another key.
        if let Some(kept) = vault_keys::check_of(&mut connection, &id).await? {
            open(vault, &kept)?;
        }
    }
    let (id, slot) = vault.slot()?;
    vault_keys::publish_slot(&mut connection, id, &slot).await?;
    Ok(())
}

/// The same without a write; answers with the ids of keys that were never used here.
pub async fn check_master_keys(connection: &mut PgConnection, vault: &Vault) -> Result<Vec<String>, MasterKeyError> {
    let mut new = Vec::new();
    for id in vault.key_ids() {
        match vault_keys::check_of(connection, id).await? {
            Some(check) => open(vault, &check)?,
            None => new.push(id.to_owned()),
        }
    }
    let used = vault_keys::used(connection).await?;
    let missing: Vec<String> = used
        .into_iter()
        .filter(|used| !vault.key_ids().any(|id| id == used))
        .collect();
    if missing.is_empty() {
        Ok(new)
    } else {
        Err(MasterKeyError::Missing { ids: missing })
    }
}

fn open(vault: &Vault, check: &crate::vault::Sealed) -> Result<(), MasterKeyError> {
    match vault.open(&owner(&check.key_id), check) {
        Ok(text) if text.as_slice() == CHECK => Ok(()),
        Ok(_) | Err(VaultError::DoesNotOpen { .. }) => Err(MasterKeyError::Other {
            id: check.key_id.clone(),
        }),
        Err(other) => Err(other.into()),
    }
}

fn owner(id: &str) -> String {
    format!("vault_key:{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::testing::TestDatabase, config::Secret};

    fn vault(ids: &[&str]) -> Vault {
        let keys: Vec<String> = ids
            .iter()
            .map(|id| Vault::generate(id).unwrap().expose().to_owned())
            .collect();
        Vault::parse(&Secret::new(keys.join(","))).unwrap()
    }

    #[tokio::test]
    async fn another_key_under_a_known_id_is_refused_by_name() {
        let database = TestDatabase::new().await;
        let first = vault(&["k1"]);
        verify_master_keys(database.pool(), &first).await.unwrap();
        verify_master_keys(database.pool(), &first).await.unwrap();
        let error = verify_master_keys(database.pool(), &vault(&["k1"])).await.unwrap_err();
        assert!(matches!(&error, MasterKeyError::Other { id } if id == "k1"));
        assert!(error.to_string().contains("WIREROOM_MASTER_KEYS"));
        verify_master_keys(database.pool(), &vault(&["k2"])).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_that_sealed_values_need_must_be_there() {
        let database = TestDatabase::new().await;
        sqlx::raw_sql(
            "INSERT INTO applications (id, label, api_id, api_hash_sealed, sealed_with)
             VALUES (gen_random_uuid(), 'a', 1, '', 'old')",
        )
        .execute(database.pool())
        .await
        .unwrap();
        let error = verify_master_keys(database.pool(), &vault(&["new"])).await.unwrap_err();
        assert!(matches!(&error, MasterKeyError::Missing { ids } if ids == &["old".to_owned()]));
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM vault_keys")
            .fetch_one(database.pool())
            .await
            .unwrap();
        assert_eq!(kept, 0, "nothing was touched");
    }
}
