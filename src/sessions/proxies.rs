//! A session's proxy, opened for whoever connects it, and sealed anew when master keys are rotated.

use sqlx::PgConnection;

use crate::{
    ids::SessionId,
    proxy::Proxy,
    store::{StoreError, session_proxies},
    vault::{Sealed, Vault, VaultError},
};

/// Opens a session's proxy; `None` is none. One that does not open is an error: nobody may connect without it.
pub(super) fn open(vault: &Vault, session: SessionId, sealed: Option<&Sealed>) -> Result<Option<Proxy>, VaultError> {
    let Some(sealed) = sealed else { return Ok(None) };
    let opened = vault.open_letter(&Proxy::owner(session), sealed)?;
    let proxy = Proxy::from_bytes(&opened).ok_or_else(|| VaultError::DoesNotOpen {
        id: sealed.key_id.clone(),
    })?;
    Ok(Some(proxy))
}

/// Why proxies were not sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("a session's proxy could not be sealed")]
    Letter(#[from] crate::letterbox::LetterError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Seals every proxy that is under another key than the vault's first one under that; returns how many. One that was changed
/// meanwhile was sealed by whoever changed it, and is found the next time if need be.
pub(super) async fn reseal(conn: &mut PgConnection, vault: &Vault) -> Result<u64, ResealError> {
    let (key_id, slot) = vault.slot()?;
    let mut resealed = 0;
    for (session, was) in session_proxies::sealed_otherwise(conn, key_id).await? {
        let owner = Proxy::owner(session);
        let plain = vault.open_letter(&owner, &was)?;
        let fresh = Sealed {
            key_id: key_id.to_owned(),
            bytes: slot.seal(&owner, &plain)?,
        };
        if session_proxies::reseal(conn, session, &was, &fresh).await? {
            resealed += 1;
        }
    }
    Ok(resealed)
}
