//! Sealing and opening of secrets at rest: XChaCha20-Poly1305 under a master key, with the owner's id as associated
//! data, so that a sealed value moved to another row does not open.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    config::Secret,
    letterbox::{Opener, Slot},
};

pub use crate::letterbox::Sealed;

const NONCE: usize = 24;

/// What may go wrong with keys and sealed values. Never shows either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("WIREROOM_MASTER_KEYS: {0}")]
    Keys(String),
    #[error("a value is sealed with master key `{id}`, which WIREROOM_MASTER_KEYS does not have")]
    UnknownKey { id: String },
    #[error("a value does not open with master key `{id}`: the key is another one, or the value was changed or moved")]
    DoesNotOpen { id: String },
    #[error("the system has no randomness to give")]
    Randomness,
}

/// The master keys: the first one seals, every one opens. They are wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Vault {
    keys: Vec<MasterKey>,
}

#[derive(Clone)]
struct MasterKey {
    id: String,
    cipher: XChaCha20Poly1305,
    /// For what processes without the key seal.
    letters: Opener,
    /// For fingerprints.
    marks: Zeroizing<[u8; 32]>,
}

impl MasterKey {
    fn new(id: &str, bytes: &[u8; 32]) -> Self {
        let secret = mark(bytes, b"wireroom letterbox");
        Self {
            id: id.to_owned(),
            // From the slice: a key by value would be a copy that nobody wipes.
            cipher: XChaCha20Poly1305::new_from_slice(bytes).expect("32 bytes are a key"),
            letters: Opener::from_secret(*secret),
            marks: mark(bytes, b"wireroom fingerprints"),
        }
    }
}

fn mark(key: &[u8; 32], what: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(what);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.key_ids()).finish()
    }
}

impl Vault {
    /// Reads `id:base64,…`. Ids are letters, digits, `-` and `_`; each key is 32 bytes.
    pub fn parse(text: &Secret) -> Result<Self, VaultError> {
        let mut keys: Vec<MasterKey> = Vec::new();
        for (index, entry) in text.expose().split(',').map(str::trim).enumerate() {
            let position = index + 1;
            let (id, encoded) = entry
                .split_once(':')
                .ok_or_else(|| VaultError::Keys(format!("entry {position} is not of the form id:base64")))?;
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if id.is_empty() || id.len() > 32 || !id.chars().all(allowed) {
                return Err(VaultError::Keys(format!(
                    "the id of entry {position} must be 1 to 32 letters, digits, - or _"
                )));
            }
            if keys.iter().any(|known| known.id == id) {
                return Err(VaultError::Keys(format!("the id `{id}` is there twice")));
            }
            let bytes = STANDARD
                .decode(encoded)
                .map(Zeroizing::new)
                .ok()
                .filter(|bytes| bytes.len() == 32)
                .ok_or_else(|| VaultError::Keys(format!("the key `{id}` must be 32 bytes in base64")))?;
            keys.push(MasterKey::new(id, bytes.first_chunk().expect("32 bytes were checked")));
        }
        Ok(Self { keys })
    }

    /// A fresh key in the form [`Vault::parse`] reads.
    pub fn generate(id: &str) -> Result<Secret, VaultError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| VaultError::Randomness)?;
        Ok(Secret::new(format!("{id}:{}", STANDARD.encode(bytes.as_slice()))))
    }

    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    /// Seals under the first key. `owner` is what the value belongs to, such as `session:<id>:dc:2`.
    pub fn seal(&self, owner: &str, plain: &[u8]) -> Result<Sealed, VaultError> {
        let key = self.first()?;
        self.seal_with(&key.id, owner, plain)
    }

    /// Where others seal for this vault, and the id of the key that opens it: the one that seals.
    pub fn slot(&self) -> Result<(&str, Slot), VaultError> {
        let key = self.first()?;
        Ok((&key.id, key.letters.slot()))
    }

    /// Opens what somebody put in at the [`Slot`] of one of the keys.
    pub fn open_letter(&self, owner: &str, letter: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.key(&letter.key_id)?
            .letters
            .open(owner, &letter.bytes)
            .ok_or_else(|| VaultError::DoesNotOpen {
                id: letter.key_id.clone(),
            })
    }

    /// What a value is known by in a table that must not tell which it is: a fingerprint under each key, the first key's first.
    pub fn fingerprints(&self, value: &str) -> Vec<[u8; 32]> {
        self.keys
            .iter()
            .map(|key| *mark(&key.marks, value.as_bytes()))
            .collect()
    }

    fn first(&self) -> Result<&MasterKey, VaultError> {
        self.keys
            .first()
            .ok_or_else(|| VaultError::Keys("there is no key".into()))
    }

    /// Seals under a named key.
    pub fn seal_with(&self, key_id: &str, owner: &str, plain: &[u8]) -> Result<Sealed, VaultError> {
        let mut nonce = [0_u8; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| VaultError::Randomness)?;
        let payload = Payload {
            msg: plain,
            aad: owner.as_bytes(),
        };
        let sealed = self
            .key(key_id)?
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| VaultError::DoesNotOpen { id: key_id.to_owned() })?;
        Ok(Sealed {
            key_id: key_id.to_owned(),
            bytes: [nonce.as_slice(), &sealed].concat(),
        })
    }

    /// Opens a value of `owner`.
    pub fn open(&self, owner: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let does_not_open = || VaultError::DoesNotOpen {
            id: sealed.key_id.clone(),
        };
        let (nonce, text) = sealed.bytes.split_first_chunk::<NONCE>().ok_or_else(does_not_open)?;
        let payload = Payload {
            msg: text,
            aad: owner.as_bytes(),
        };
        self.key(&sealed.key_id)?
            .cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map(Zeroizing::new)
            .map_err(|_| does_not_open())
    }

    fn key(&self, id: &str) -> Result<&MasterKey, VaultError> {
        self.keys
            .iter()
            .find(|key| key.id == id)
            .ok_or_else(|| VaultError::UnknownKey { id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(ids: &[&str]) -> Vault {
        let keys: Vec<String> = ids
            .iter()
            .map(|id| Vault::generate(id).unwrap().expose().to_owned())
            .collect();
        Vault::parse(&Secret::new(keys.join(","))).unwrap()
    }

    #[test]
    fn keys_are_wiped_when_they_are_dropped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>() {}
        is_wiped::<XChaCha20Poly1305>();
        is_wiped::<Zeroizing<Vec<u8>>>();
        is_wiped::<Secret>();
    }

    #[test]
    fn a_sealed_value_opens_for_its_owner_alone() {
        let vault = vault(&["k1"]);
        let sealed = vault.seal("session:a", b"key").unwrap();
        assert_eq!(vault.open("session:a", &sealed).unwrap().as_slice(), b"key");
        assert_eq!(
            vault.open("session:b", &sealed),
            Err(VaultError::DoesNotOpen { id: "k1".into() })
        );
    }

    #[test]
    fn an_older_key_still_opens_and_a_missing_one_is_named() {
        let old = vault(&["k1"]);
        let sealed = old.seal("x", b"key").unwrap();
        let both = Vault {
            keys: vec![vault(&["k2"]).keys[0].clone(), old.keys[0].clone()],
        };
        assert_eq!(both.open("x", &sealed).unwrap().as_slice(), b"key");
        assert_eq!(both.seal("x", b"").unwrap().key_id, "k2");
        assert_eq!(
            vault(&["k2"]).open("x", &sealed),
            Err(VaultError::UnknownKey { id: "k1".into() })
        );
    }

    #[test]
    fn another_key_under_the_same_id_does_not_open() {
        let sealed = vault(&["k1"]).seal("x", b"key").unwrap();
        assert_eq!(
            vault(&["k1"]).open("x", &sealed),
            Err(VaultError::DoesNotOpen { id: "k1".into() })
        );
    }

    #[test]
    fn a_letter_opens_in_the_vault_whose_slot_it_was_put_in() {
        let vault = vault(&["k1", "k2"]);
        let (id, slot) = vault.slot().unwrap();
        assert_eq!(id, "k1");
        let letter = Sealed {
            key_id: id.to_owned(),
            bytes: slot.seal("errand:a", b"12345").unwrap(),
        };
        assert_eq!(vault.open_letter("errand:a", &letter).unwrap().as_slice(), b"12345");
        let does_not_open = VaultError::DoesNotOpen { id: "k1".into() };
        assert_eq!(vault.open_letter("errand:b", &letter), Err(does_not_open));
    }

    #[test]
    fn bad_keys_are_refused_without_being_shown() {
        for text in ["", "k1", "k1:AAAA", "k 1:AAAA", ":AAAA"] {
            let error = Vault::parse(&Secret::new(text)).unwrap_err().to_string();
            assert!(!error.contains("AAAA"), "{error}");
        }
    }
}
