//! The password of a private cluster's role, and what the server stores of it.
//!
//! SCRAM hashes a password thousands of times so that one a person made up is hard to guess from what the server stores.
//! This one is 192 random bits: nothing is left to guess, so it is hashed once. Without optimisation the thousands cost
//! every connection 30 ms of processor time, in every test and on the first run.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::ClusterError;

/// A new password, of characters that need no escape in a URL.
pub(super) fn random() -> Result<String, ClusterError> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<24>()?))
}

/// What the server stores of `password`, as `CREATE ROLE … PASSWORD` takes it (RFC 5802, one iteration).
pub(super) fn verifier(password: &str) -> Result<String, ClusterError> {
    Ok(salted_verifier(password, &random_bytes::<16>()?))
}

fn salted_verifier(password: &str, salt: &[u8]) -> String {
    // PBKDF2 of one iteration and one block.
    let salted = hmac(password.as_bytes(), &[salt, &1_u32.to_be_bytes()].concat());
    let stored_key = Sha256::digest(hmac(&salted, b"Client Key"));
    let server_key = hmac(&salted, b"Server Key");
    let mut verifier = "SCRAM-SHA-256$1".to_owned();
    for (separator, part) in [(':', salt), ('$', stored_key.as_slice()), (':', &server_key)] {
        let _ = write!(verifier, "{separator}{}", STANDARD.encode(part));
    }
    verifier
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of HMAC may have any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn random_bytes<const N: usize>() -> Result<[u8; N], ClusterError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(ClusterError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_differ_and_need_no_escape() {
        let one = random().expect("random");
        assert_ne!(one, random().expect("random"));
        assert!(
            one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "{one}"
        );
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn a_verifier_has_the_form_that_postgres_reads_and_hides_the_password() {
        let verifier = verifier("made-up").expect("random");
        assert_ne!(
            verifier,
            super::verifier("made-up").expect("random"),
            "the salt is random"
        );
        let keys = verifier.strip_prefix("SCRAM-SHA-256$1:").expect("one iteration");
        let lengths: Vec<_> = keys
            .split(['$', ':'])
            .map(|part| STANDARD.decode(part).expect("base64").len())
            .collect();
        assert_eq!(lengths, [16, 32, 32]);
        assert!(!verifier.contains("made-up"));
    }

    /// Whether it is the right verifier, the server says: `the_loopback_address_is_not_open_without_the_password`. Here,
    /// that HMAC is (RFC 4231, test case 2).
    #[test]
    fn hmac_is_the_standards() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(mac[..6], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60]);
    }
}
