//! Sealing everything anew under the first master key, while workers run. A value is opened with the key it names, sealed
//! under the first, and put back only if nobody changed it meanwhile; so the command may be stopped and started again, and
//! two of them do each other no harm.

use std::time::Duration;

use sqlx::PgPool;

use super::{
    errands::{DeskError, reseal_applications},
    master_keys::{MasterKeyError, verify_master_keys},
    proxies::{self, ResealError},
};
use crate::{
    store::{
        StoreError, failed,
        vault_keys::{self, SealedDc},
    },
    telegram::session_storage::key_owner,
    vault::{Vault, VaultError},
};

const BATCH: i64 = 200;
/// A value that changes under the rotation is looked at again, so often.
const PASSES: u32 = 10;

/// What was sealed anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key that everything is sealed under now.
    pub to: String,
    /// How many values were under another.
    pub resealed: u64,
    /// Keys that something is still sealed under: they must stay in the configuration.
    pub still_used: Vec<String>,
    /// Keys that nothing but a login or another errand which is not over is sealed under: they must stay for some minutes.
    pub used_for_now: Vec<String>,
}

/// Why keys were not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error("WIREROOM_MASTER_KEYS has no key")]
    NoKey,
    #[error(
        "workers on {} run without the master key `{key}`, and could not open what is sealed under it: add it to their \
         WIREROOM_MASTER_KEYS, restart them, and run this again",
        .hosts.join(", ")
    )]
    UnknownToWorkers { key: String, hosts: Vec<String> },
    #[error(transparent)]
    Keys(#[from] MasterKeyError),
    #[error(transparent)]
    Applications(#[from] DeskError),
    #[error(transparent)]
    Proxies(#[from] ResealError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Seals every stored auth key, the hashes of the applications and the sessions' proxies under the vault's first key. Refused
/// while a worker, heard of within `fresh`, has not said that it has that key.
pub async fn rotate_master_keys(pool: &PgPool, vault: &Vault, fresh: Duration) -> Result<Rotated, RotationError> {
    let to = vault.key_ids().next().ok_or(RotationError::NoKey)?.to_owned();
    let mut conn = pool.acquire().await.map_err(failed("rotate_master_keys"))?;
    let hosts = vault_keys::workers_without(&mut conn, &to, fresh).await?;
    if !hosts.is_empty() {
        return Err(RotationError::UnknownToWorkers { key: to, hosts });
    }
    // Not sooner: it makes the key the one to seal for the workers with.
    verify_master_keys(pool, vault).await?;
    let mut resealed = reseal_applications(pool, vault).await?;
    resealed += proxies::reseal(&mut conn, vault).await?;
    for _ in 0..PASSES {
        let mut after = None;
        let mut missed = false;
        loop {
            let batch = vault_keys::sealed_otherwise(&mut conn, &to, after, BATCH).await?;
            let Some(last) = batch.last() else { break };
            after = Some((last.session, last.dc));
            for value in &batch {
                if vault_keys::reseal(&mut conn, value, &anew(vault, value)?).await? {
                    resealed += 1;
                } else {
                    missed = true;
                }
            }
        }
        if !missed {
            break;
        }
    }
    let mut still_used = vault_keys::used(&mut conn).await?;
    still_used.retain(|id| *id != to);
    let mut used_for_now = vault_keys::used_by_errands(&mut conn).await?;
    used_for_now.retain(|id| *id != to && !still_used.contains(id));
    Ok(Rotated {
        to,
        resealed,
        still_used,
        used_for_now,
    })
}

fn anew(vault: &Vault, value: &SealedDc) -> Result<crate::vault::Sealed, VaultError> {
    let owner = key_owner(value.session, value.dc);
    let plain = vault.open(&owner, &value.auth_key)?;
    vault.seal(&owner, &plain)
}
