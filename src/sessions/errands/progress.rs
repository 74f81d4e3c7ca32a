//! What the next worker needs to go on with a half-open login: sealed in the errand's row under the vault.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    ids::ErrandId,
    telegram::login::{AuthKey, FIRST_DC},
    vault::{Sealed, Vault, VaultError},
};

/// Wiped when it is dropped.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Progress {
    pub dc: i32,
    /// The auth key, in base64.
    key: Option<String>,
    pub phone: Option<String>,
    pub code_hash: Option<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            dc: FIRST_DC,
            key: None,
            phone: None,
            code_hash: None,
        }
    }
}

impl Progress {
    pub fn key(&self) -> Option<AuthKey> {
        decode_key(self.key.as_deref()?)
    }

    pub fn set_key(&mut self, key: Option<&AuthKey>) {
        self.key = key.map(|key| STANDARD.encode(key.as_slice()));
    }

    pub fn seal(&self, vault: &Vault, errand: ErrandId) -> Result<Sealed, VaultError> {
        // A struct of strings and numbers always serializes.
        let plain = Zeroizing::new(serde_json::to_vec(self).unwrap_or_default());
        vault.seal(&owner(errand), &plain)
    }

    /// `None`: the text is not one of this version.
    pub fn open(vault: &Vault, errand: ErrandId, sealed: &Sealed) -> Result<Option<Self>, VaultError> {
        let plain = vault.open(&owner(errand), sealed)?;
        Ok(serde_json::from_slice(&plain).ok())
    }
}

/// An auth key in base64.
pub(super) fn decode_key(text: &str) -> Option<AuthKey> {
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    let key: [u8; 256] = bytes.as_slice().try_into().ok()?;
    Some(Zeroizing::new(key))
}

fn owner(errand: ErrandId) -> String {
    format!("errand:{errand}:progress")
}
