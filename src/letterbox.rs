//! Sealing for somebody whose secret one does not have: X25519 with a fresh key per letter, then XChaCha20-Poly1305 with
//! the letter's owner as associated data. The API seals login codes for the workers this way, and can open nothing; a
//! worker seals an exported session for the one request that asked for it.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Bytes of a [`Slot`], and of what stands before a letter's ciphertext.
pub const SLOT_BYTES: usize = 32;
const DOMAIN: &[u8] = b"wireroom letterbox v1";

/// Why a letter was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LetterError {
    #[error("the system has no randomness to give")]
    Randomness,
    #[error("a letterbox's slot has 32 bytes")]
    Slot,
    #[error("the letter could not be sealed")]
    Seal,
}

/// A sealed value and the id of the key that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub key_id: String,
    /// What the vault sealed: 24 bytes of nonce, then the ciphertext and its tag. A letter: 32 bytes of a fresh public key, then
    /// the same.
    pub bytes: Vec<u8>,
}

/// Where letters are put in: public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot([u8; SLOT_BYTES]);

impl Slot {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LetterError> {
        bytes.try_into().map(Self).map_err(|_| LetterError::Slot)
    }

    pub fn as_bytes(&self) -> &[u8; SLOT_BYTES] {
        &self.0
    }

    /// Seals `plain` for whoever has the key; it opens as `owner`'s alone.
    pub fn seal(&self, owner: &str, plain: &[u8]) -> Result<Vec<u8>, LetterError> {
        let fresh = Opener::generate()?;
        let from = fresh.slot();
        let shared = fresh.0.diffie_hellman(&PublicKey::from(self.0));
        let payload = Payload {
            msg: plain,
            aad: owner.as_bytes(),
        };
        let sealed = cipher(shared.as_bytes(), &from, self)
            .encrypt(&nonce(&from, self), payload)
            .map_err(|_| LetterError::Seal)?;
        Ok([from.0.as_slice(), &sealed].concat())
    }
}

/// What opens the letters of one slot: a secret, wiped when it is dropped.
#[derive(Clone)]
pub struct Opener(StaticSecret);

impl Opener {
    pub fn generate() -> Result<Self, LetterError> {
        let mut secret = Zeroizing::new([0_u8; SLOT_BYTES]);
        getrandom::fill(secret.as_mut_slice()).map_err(|_| LetterError::Randomness)?;
        Ok(Self::from_secret(*secret))
    }

    /// The opener that these secret bytes are.
    pub fn from_secret(secret: [u8; SLOT_BYTES]) -> Self {
        Self(StaticSecret::from(secret))
    }

    pub fn slot(&self) -> Slot {
        Slot(PublicKey::from(&self.0).to_bytes())
    }

    /// Opens a letter of `owner`; `None` when it was sealed for another slot or owner, or was changed.
    pub fn open(&self, owner: &str, letter: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (from, text) = letter.split_first_chunk::<SLOT_BYTES>()?;
        let from = Slot(*from);
        let shared = self.0.diffie_hellman(&PublicKey::from(from.0));
        let payload = Payload {
            msg: text,
            aad: owner.as_bytes(),
        };
        let to = self.slot();
        cipher(shared.as_bytes(), &from, &to)
            .decrypt(&nonce(&from, &to), payload)
            .map(Zeroizing::new)
            .ok()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}

fn cipher(shared: &[u8; 32], from: &Slot, to: &Slot) -> XChaCha20Poly1305 {
    let digest = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(b"key")
        .chain_update(from.0)
        .chain_update(to.0)
        .chain_update(shared)
        .finalize();
    let bytes = Zeroizing::new(<[u8; 32]>::from(digest));
    XChaCha20Poly1305::new_from_slice(bytes.as_slice()).expect("32 bytes are a key")
}

/// The key is used for one letter, so its nonce may be public arithmetic.
fn nonce(from: &Slot, to: &Slot) -> XNonce {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(b"nonce")
        .chain_update(from.0)
        .chain_update(to.0)
        .finalize()
        .into();
    let mut nonce = [0; 24];
    nonce.copy_from_slice(&digest[..24]);
    XNonce::from(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_opens_with_its_key_for_its_owner_alone() {
        let opener = Opener::generate().unwrap();
        let letter = opener.slot().seal("errand:a", b"12345").unwrap();
        assert_eq!(opener.open("errand:a", &letter).unwrap().as_slice(), b"12345");
        assert_eq!(opener.open("errand:b", &letter), None);
        assert_eq!(Opener::generate().unwrap().open("errand:a", &letter), None);
        let mut changed = letter.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(opener.open("errand:a", &changed), None);
        assert_eq!(opener.open("errand:a", &letter[..20]), None);
    }

    #[test]
    fn two_letters_of_the_same_text_differ() {
        let slot = Opener::generate().unwrap().slot();
        assert_ne!(slot.seal("x", b"text").unwrap(), slot.seal("x", b"text").unwrap());
    }
}
