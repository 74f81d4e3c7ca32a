//! The server's side of the password check (SRP), after <https://core.telegram.org/api/srp>.

use grammers_tl_types as tl;
use num_bigint::BigUint;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;

use super::random;
use crate::mtproto::TELEGRAM_DH_PRIME;

const GENERATOR: u8 = 3;
const ITERATIONS: u32 = 100_000;
const SHA512_BLOCK: usize = 128;

/// How a password is turned into a number: what the client is told of it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Algorithm {
    salt1: Vec<u8>,
    salt2: Vec<u8>,
}

impl Algorithm {
    /// An algorithm with salts of its own.
    pub fn new() -> Self {
        Self {
            salt1: random::bytes::<40>().to_vec(),
            salt2: random::bytes::<16>().to_vec(),
        }
    }

    pub fn to_tl(&self) -> tl::enums::PasswordKdfAlgo {
        tl::types::PasswordKdfAlgoSha256Sha256Pbkdf2Hmacsha512iter100000Sha256ModPow {
            salt1: self.salt1.clone(),
            salt2: self.salt2.clone(),
            g: i32::from(GENERATOR),
            p: TELEGRAM_DH_PRIME.to_vec(),
        }
        .into()
    }

    fn exponent(&self, password: &str) -> BigUint {
        let first = salted(&salted(password.as_bytes(), &self.salt1), &self.salt2);
        let derived = pbkdf2(&first, &self.salt1);
        BigUint::from_bytes_be(&salted(&derived, &self.salt2))
    }
}

/// What the server keeps of a password. Making one takes as long as a client's check does, by design.
#[derive(Clone)]
pub(super) struct Verifier {
    pub algorithm: Algorithm,
    number: BigUint,
}

impl Verifier {
    pub fn new(password: &str) -> Self {
        let algorithm = Algorithm::new();
        let number = generator().modpow(&algorithm.exponent(password), &prime());
        Self { algorithm, number }
    }
}

/// One question to a client. It is good for one answer.
pub(super) struct Challenge {
    verifier: Verifier,
    secret: BigUint,
    public: [u8; 256],
}

impl Challenge {
    pub fn new(verifier: Verifier) -> Self {
        let secret = BigUint::from_bytes_be(&random::bytes::<256>());
        let public = (multiplier() * &verifier.number + generator().modpow(&secret, &prime())) % prime();
        Self {
            public: padded(&public),
            verifier,
            secret,
        }
    }

    /// `srp_B`.
    pub fn public(&self) -> &[u8; 256] {
        &self.public
    }

    /// Whether the client knows the password: `client_public` is its `A`, `proof` its `M1`.
    pub fn is_answered_by(&self, client_public: &[u8], proof: &[u8]) -> bool {
        let number = BigUint::from_bytes_be(client_public);
        if client_public.len() > 256 || number == BigUint::ZERO || number >= prime() {
            return false;
        }
        let client_public = padded(&number);
        let scramble = BigUint::from_bytes_be(&hash(&[&client_public, &self.public]));
        let base = number * self.verifier.number.modpow(&scramble, &prime()) % prime();
        let shared = hash(&[&padded(&base.modpow(&self.secret, &prime()))]);
        let expected = hash(&[
            &exclusive_or(&hash(&[&TELEGRAM_DH_PRIME]), &hash(&[&padded(&generator())])),
            &hash(&[&self.verifier.algorithm.salt1]),
            &hash(&[&self.verifier.algorithm.salt2]),
            &client_public,
            &self.public,
            &shared,
        ]);
        expected.ct_eq(proof).into()
    }
}

fn prime() -> BigUint {
    BigUint::from_bytes_be(&TELEGRAM_DH_PRIME)
}

fn generator() -> BigUint {
    BigUint::from(GENERATOR)
}

fn multiplier() -> BigUint {
    BigUint::from_bytes_be(&hash(&[&TELEGRAM_DH_PRIME, &padded(&generator())]))
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize().into()
}

fn salted(data: &[u8], salt: &[u8]) -> [u8; 32] {
    hash(&[salt, data, salt])
}

fn exclusive_or(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| left[at] ^ right[at])
}

/// A number below the prime as 256 bytes, big-endian.
fn padded(number: &BigUint) -> [u8; 256] {
    let bytes = number.to_bytes_be();
    let mut padded = [0; 256];
    padded[256 - bytes.len()..].copy_from_slice(&bytes);
    padded
}

/// The first block of PBKDF2 with HMAC-SHA-512, which is all that is needed of it.
fn pbkdf2(password: &[u8; 32], salt: &[u8]) -> [u8; 64] {
    let keyed = |mask: u8| {
        let mut block = [mask; SHA512_BLOCK];
        for (byte, key) in block.iter_mut().zip(password) {
            *byte ^= key;
        }
        Sha512::new().chain_update(block)
    };
    let (inner, outer) = (keyed(0x36), keyed(0x5c));
    let authenticate = |parts: &[&[u8]]| -> [u8; 64] {
        let inside = parts.iter().fold(inner.clone(), Sha512::chain_update).finalize();
        outer.clone().chain_update(inside).finalize().into()
    };
    let mut round = authenticate(&[salt, &1_u32.to_be_bytes()]);
    let mut result = round;
    for _ in 1..ITERATIONS {
        round = authenticate(&[&round]);
        for (byte, other) in result.iter_mut().zip(round) {
            *byte ^= other;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use grammers_crypto::two_factor_auth::{calculate_2fa, check_p_and_g};

    use super::*;

    #[test]
    fn grammers_answers_our_challenge_and_only_with_the_right_password() {
        let challenge = Challenge::new(Verifier::new("correct horse"));
        let algorithm = challenge.verifier.algorithm.clone();
        let (p, g) = (TELEGRAM_DH_PRIME, i32::from(GENERATOR));
        assert!(check_p_and_g(&p, &g));
        let answer = |password: &str| {
            let secret = random::bytes::<256>().to_vec();
            let public = challenge.public().to_vec();
            calculate_2fa(&algorithm.salt1, &algorithm.salt2, &p, &g, public, secret, password)
        };
        let (proof, public) = answer("correct horse");
        assert!(challenge.is_answered_by(&public, &proof));
        let (wrong, public_of_wrong) = answer("correct house");
        assert!(!challenge.is_answered_by(&public_of_wrong, &wrong));
        assert!(!challenge.is_answered_by(&public, &wrong));
        assert!(!challenge.is_answered_by(&public, &proof[..31]));
        let again = Challenge::new(challenge.verifier.clone());
        assert!(
            !again.is_answered_by(&public, &proof),
            "a proof is good for one challenge"
        );
    }

    #[test]
    fn public_numbers_that_give_the_secret_away_are_refused() {
        let challenge = Challenge::new(Verifier::new("x"));
        for public in [vec![], vec![0; 256], TELEGRAM_DH_PRIME.to_vec(), vec![1; 257]] {
            assert!(!challenge.is_answered_by(&public, &[0; 32]));
        }
    }
}
