//! What the next worker needs to go on with a half-open login: sealed in the errand's row under the vault.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    config::Secret,
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
    phone: Option<String>,
    code_hash: Option<String>,
}

/// Bytes of a progress in text, and some more: a buffer that grew would leave a copy behind.
const TEXT: usize = 1_024;

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
        self.key.zeroize();
        self.key = key.map(|key| STANDARD.encode(key.as_slice()));
    }

    pub fn phone(&self) -> Option<&str> {
        self.phone.as_deref()
    }

    pub fn set_phone(&mut self, phone: &Secret) {
        self.phone.zeroize();
        self.phone = Some(phone.expose().to_owned());
    }

    pub fn code_hash(&self) -> Option<Secret> {
        self.code_hash.as_deref().map(Secret::new)
    }

    pub fn set_code_hash(&mut self, hash: &Secret) {
        self.code_hash.zeroize();
        self.code_hash = Some(hash.expose().to_owned());
    }

    /// The next call goes to another data centre, which knows neither the key nor the code of the last one.
    pub fn move_to(&mut self, dc: i32) {
        self.dc = dc;
        self.key.zeroize();
        self.code_hash.zeroize();
    }

    pub fn seal(&self, vault: &Vault, errand: ErrandId) -> Result<Sealed, VaultError> {
        let mut plain = Zeroizing::new(Vec::with_capacity(TEXT));
        // A struct of strings and numbers always serializes, and a vector takes everything.
        let _ = serde_json::to_writer(&mut *plain, self);
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
    key_of(&Zeroizing::new(STANDARD.decode(text).ok()?))
}

/// An auth key of so many bytes as one has.
pub(super) fn key_of(bytes: &[u8]) -> Option<AuthKey> {
    AuthKey::read(bytes)
}

fn owner(errand: ErrandId) -> String {
    format!("errand:{errand}:progress")
}
