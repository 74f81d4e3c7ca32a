//! Marks of people: what a phone number or an erased person is known by in a table that must not tell whom. Keyed, since there
//! are few enough numbers to try them all. The key is in the environment of the API and of the workers, and in no table: a
//! dump of the database names nobody. It is none of the master keys, which the API must not have.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::config::Secret;

/// A mark, as tables hold it.
pub type Mark = [u8; 32];

/// Why a key cannot be used. Never shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PersonKeyError {
    #[error("WIREROOM_PERSON_KEY must be 32 bytes in base64: make one with `openssl rand -base64 32`")]
    Form,
    #[error("the system has no randomness to give")]
    Randomness,
}

/// The key that marks are made with.
#[derive(Clone)]
pub struct PersonKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for PersonKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PersonKey([redacted])")
    }
}

impl PersonKey {
    /// Reads 32 bytes in base64.
    pub fn parse(text: &Secret) -> Result<Self, PersonKeyError> {
        STANDARD
            .decode(text.expose())
            .map(Zeroizing::new)
            .ok()
            .filter(|bytes| bytes.len() == 32)
            .map(Self)
            .ok_or(PersonKeyError::Form)
    }

    /// A fresh key in the form [`PersonKey::parse`] reads.
    pub fn generate() -> Result<Secret, PersonKeyError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| PersonKeyError::Randomness)?;
        Ok(Secret::new(STANDARD.encode(bytes.as_slice())))
    }

    /// The mark of a phone number: of its digits alone, however it is written.
    pub fn phone(&self, number: &str) -> Mark {
        let digits: Zeroizing<String> = Zeroizing::new(number.chars().filter(char::is_ascii_digit).collect());
        self.mark(b"phone", digits.as_bytes())
    }

    /// The mark of a name, in any case, with or without `@`.
    pub fn username(&self, name: &str) -> Mark {
        let name = name.strip_prefix('@').unwrap_or(name).to_lowercase();
        self.mark(b"username", name.as_bytes())
    }

    /// The mark of a Telegram user id.
    pub fn user(&self, id: i64) -> Mark {
        self.mark(b"user", &id.to_be_bytes())
    }

    /// The same for every process that has this key: tells another one from it.
    pub fn check(&self) -> Mark {
        self.mark(b"check", b"")
    }

    fn mark(&self, domain: &[u8], value: &[u8]) -> Mark {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(b"wireroom people v1 ");
        mac.update(domain);
        mac.update(b"\0");
        mac.update(value);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PersonKey {
        PersonKey::parse(&Secret::new(STANDARD.encode([byte; 32]))).expect("a key")
    }

    #[test]
    fn a_number_has_one_mark_however_it_is_written() {
        let mark = key(1).phone("+999 66 2 0001");
        assert_eq!(mark, key(1).phone("999662-0001"));
        assert_ne!(mark, key(1).phone("+999 66 2 0002"));
        assert_ne!(mark, key(2).phone("+999 66 2 0001"));
    }

    #[test]
    fn marks_of_different_things_never_meet() {
        let key = key(1);
        assert_ne!(key.user(7), key.user(8));
        assert_ne!(key.user(7).as_slice(), key.phone("7").as_slice());
        assert_ne!(key.check().as_slice(), key.phone("").as_slice());
        assert_ne!(key.username("7"), key.phone("7"));
        assert_eq!(key.username("@Harbour_Friend"), key.username("harbour_friend"));
    }

    #[test]
    fn a_bad_key_is_refused_without_being_shown() {
        for text in ["", "short", "bm90IDMyIGJ5dGVz"] {
            let error = PersonKey::parse(&Secret::new(text)).expect_err("not 32 bytes");
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
        assert!(!format!("{:?}", key(1)).contains('1'));
    }
}
