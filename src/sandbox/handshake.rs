//! The server's half of the exchange that makes an auth key.

use grammers_crypto::{AuthKey, aes, generate_key_data_from_nonce};
use grammers_tl_types::{self as tl, Cursor, Deserializable, Identifiable, Serializable};
use num_bigint::BigUint;
use sha1::{Digest as _, Sha1};

use super::{clock, random, server_key::ServerKey};
use crate::mtproto::TELEGRAM_DH_PRIME;

const GENERATOR: i32 = 3;

/// Where a connection's exchange stands.
#[derive(Default)]
pub(super) enum Exchange {
    #[default]
    Idle,
    Factors(Factors),
    Parameters(Parameters),
}

/// `resPQ` was sent.
pub(super) struct Factors {
    nonce: [u8; 16],
    server_nonce: [u8; 16],
    p: u64,
    q: u64,
}

/// `server_DH_params_ok` was sent.
pub(super) struct Parameters {
    nonce: [u8; 16],
    server_nonce: [u8; 16],
    new_nonce: [u8; 32],
    secret: BigUint,
}

/// What to do after a message of an exchange.
pub(super) enum Progress {
    Nothing,
    Reply(Vec<u8>),
    Done {
        reply: Vec<u8>,
        auth_key: Box<AuthKey>,
        first_salt: i64,
    },
}

/// A message that does not belong to a correct exchange. The connection is closed for it.
#[derive(Debug, thiserror::Error)]
#[error("auth key exchange: {0}")]
pub(super) struct BadExchange(&'static str);

impl From<tl::deserialize::Error> for BadExchange {
    fn from(_: tl::deserialize::Error) -> Self {
        Self("malformed message")
    }
}

impl Exchange {
    /// Takes one unencrypted message of the client.
    pub fn handle(&mut self, body: &[u8], key: &ServerKey) -> Result<Progress, BadExchange> {
        let mut cursor = Cursor::from_slice(body);
        match u32::deserialize(&mut cursor)? {
            tl::functions::ReqPqMulti::CONSTRUCTOR_ID | tl::functions::ReqPq::CONSTRUCTOR_ID => {
                let request = tl::functions::ReqPqMulti::deserialize(&mut cursor)?;
                let (factors, reply) = Factors::offer(request.nonce, key);
                *self = Self::Factors(factors);
                Ok(Progress::Reply(reply))
            }
            tl::functions::ReqDhParams::CONSTRUCTOR_ID => {
                let request = tl::functions::ReqDhParams::deserialize(&mut cursor)?;
                let Self::Factors(factors) = std::mem::take(self) else {
                    return Err(BadExchange("req_DH_params out of order"));
                };
                let (parameters, reply) = factors.answer(&request, key)?;
                *self = Self::Parameters(parameters);
                Ok(Progress::Reply(reply))
            }
            tl::functions::SetClientDhParams::CONSTRUCTOR_ID => {
                let request = tl::functions::SetClientDhParams::deserialize(&mut cursor)?;
                let Self::Parameters(parameters) = std::mem::take(self) else {
                    return Err(BadExchange("set_client_DH_params out of order"));
                };
                parameters.finish(request)
            }
            tl::types::MsgsAck::CONSTRUCTOR_ID => Ok(Progress::Nothing),
            _ => Err(BadExchange("not a message of an exchange")),
        }
    }
}

impl Factors {
    fn offer(nonce: [u8; 16], key: &ServerKey) -> (Self, Vec<u8>) {
        let server_nonce = random::bytes();
        let (p, q) = two_primes();
        let reply = tl::enums::ResPq::Pq(tl::types::ResPq {
            nonce,
            server_nonce,
            pq: (p * q).to_be_bytes().to_vec(),
            server_public_key_fingerprints: vec![key.fingerprint()],
        });
        (
            Self {
                nonce,
                server_nonce,
                p,
                q,
            },
            reply.to_bytes(),
        )
    }

    fn answer(
        self,
        request: &tl::functions::ReqDhParams,
        key: &ServerKey,
    ) -> Result<(Parameters, Vec<u8>), BadExchange> {
        let Self {
            nonce,
            server_nonce,
            p,
            q,
        } = self;
        if request.nonce != nonce || request.server_nonce != server_nonce {
            return Err(BadExchange("other nonces"));
        }
        if request.public_key_fingerprint != key.fingerprint() {
            return Err(BadExchange("other RSA key"));
        }
        if number(&request.p) != Some(p) || number(&request.q) != Some(q) {
            return Err(BadExchange("wrong factors"));
        }
        let inner = key
            .open(&request.encrypted_data)
            .ok_or(BadExchange("could not open the sealed data"))?;
        let (inner_nonce, inner_server_nonce, new_nonce) = match inner {
            tl::enums::PQInnerData::Data(data) => (data.nonce, data.server_nonce, data.new_nonce),
            tl::enums::PQInnerData::Dc(data) => (data.nonce, data.server_nonce, data.new_nonce),
            tl::enums::PQInnerData::Temp(data) => (data.nonce, data.server_nonce, data.new_nonce),
            tl::enums::PQInnerData::TempDc(data) => (data.nonce, data.server_nonce, data.new_nonce),
        };
        if inner_nonce != nonce || inner_server_nonce != server_nonce {
            return Err(BadExchange("other nonces inside"));
        }
        let secret = BigUint::from_bytes_be(&random::bytes::<256>());
        let parameters = Parameters {
            nonce,
            server_nonce,
            new_nonce,
            secret,
        };
        let reply = parameters.to_message();
        Ok((parameters, reply))
    }
}

impl Parameters {
    fn to_message(&self) -> Vec<u8> {
        let inner = tl::enums::ServerDhInnerData::Data(tl::types::ServerDhInnerData {
            nonce: self.nonce,
            server_nonce: self.server_nonce,
            g: GENERATOR,
            dh_prime: TELEGRAM_DH_PRIME.to_vec(),
            g_a: BigUint::from(GENERATOR.unsigned_abs())
                .modpow(&self.secret, &prime())
                .to_bytes_be(),
            server_time: clock::unix_seconds(),
        })
        .to_bytes();
        let mut sealed = Sha1::digest(&inner).to_vec();
        sealed.extend(&inner);
        let padding = (16 - sealed.len() % 16) % 16;
        sealed.extend(&random::bytes::<16>()[..padding]);
        let (key, iv) = generate_key_data_from_nonce(&self.server_nonce, &self.new_nonce);
        aes::ige_encrypt(&mut sealed, &key, &iv);
        tl::enums::ServerDhParams::Ok(tl::types::ServerDhParamsOk {
            nonce: self.nonce,
            server_nonce: self.server_nonce,
            encrypted_answer: sealed,
        })
        .to_bytes()
    }

    fn finish(self, request: tl::functions::SetClientDhParams) -> Result<Progress, BadExchange> {
        let Self {
            nonce,
            server_nonce,
            new_nonce,
            secret,
        } = self;
        if request.nonce != nonce || request.server_nonce != server_nonce {
            return Err(BadExchange("other nonces"));
        }
        let mut sealed = request.encrypted_data;
        if sealed.len() < 32 || !sealed.len().is_multiple_of(16) {
            return Err(BadExchange("length of the client's half"));
        }
        let (key, iv) = generate_key_data_from_nonce(&server_nonce, &new_nonce);
        aes::ige_decrypt(&mut sealed, &key, &iv);
        let (hash, data) = sealed.split_at(20);
        let mut cursor = Cursor::from_slice(data);
        let tl::enums::ClientDhInnerData::Data(inner) = tl::enums::ClientDhInnerData::deserialize(&mut cursor)?;
        if Sha1::digest(&data[..cursor.pos()]).as_slice() != hash {
            return Err(BadExchange("hash of the client's half"));
        }
        if inner.nonce != nonce || inner.server_nonce != server_nonce {
            return Err(BadExchange("other nonces inside"));
        }
        let public = BigUint::from_bytes_be(&inner.g_b);
        if public <= BigUint::from(1u8) || public >= prime() - 1u8 {
            return Err(BadExchange("g_b is out of range"));
        }
        let bytes = public.modpow(&secret, &prime()).to_bytes_be();
        let mut shared = [0; 256];
        shared[256 - bytes.len()..].copy_from_slice(&bytes);
        let auth_key = AuthKey::from_bytes(shared);
        let reply = tl::enums::SetClientDhParamsAnswer::DhGenOk(tl::types::DhGenOk {
            nonce,
            server_nonce,
            new_nonce_hash1: auth_key.calc_new_nonce_hash(&new_nonce, 1),
        })
        .to_bytes();
        let first_salt = first_salt(&new_nonce, &server_nonce);
        Ok(Progress::Done {
            reply,
            auth_key: Box::new(auth_key),
            first_salt,
        })
    }
}

fn first_salt(new_nonce: &[u8; 32], server_nonce: &[u8; 16]) -> i64 {
    let mut salt = [0; 8];
    for (at, byte) in salt.iter_mut().enumerate() {
        *byte = new_nonce[at] ^ server_nonce[at];
    }
    i64::from_le_bytes(salt)
}

fn prime() -> BigUint {
    BigUint::from_bytes_be(&TELEGRAM_DH_PRIME)
}

/// A big-endian number of at most 64 bits.
fn number(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Two different random primes of 31 bits, the smaller first.
fn two_primes() -> (u64, u64) {
    let p = random_prime();
    loop {
        let q = random_prime();
        if q != p {
            return (p.min(q), p.max(q));
        }
    }
}

fn random_prime() -> u64 {
    loop {
        let candidate = u64::from(u32::from_le_bytes(random::bytes()) >> 1) | 1 << 30 | 1;
        if is_prime(candidate) {
            return candidate;
        }
    }
}

/// Miller-Rabin with the bases 2, 3, 5 and 7, which decide every number below 3,215,031,751.
fn is_prime(number: u64) -> bool {
    const BASES: [u64; 4] = [2, 3, 5, 7];
    if number < 2 || BASES.iter().any(|base| number != *base && number.is_multiple_of(*base)) {
        return false;
    }
    let twos = (number - 1).trailing_zeros();
    let odd = (number - 1) >> twos;
    BASES.iter().filter(|base| **base != number).all(|base| {
        let mut power = power_modulo(*base, odd, number);
        if power == 1 || power == number - 1 {
            return true;
        }
        (1..twos).any(|_| {
            power = power * power % number;
            power == number - 1
        })
    })
}

/// `base` to the power `exponent`, modulo a number below 2³².
fn power_modulo(mut base: u64, mut exponent: u64, modulus: u64) -> u64 {
    let mut result = 1;
    base %= modulus;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_other_numbers() {
        let by_division = |n: u64| n > 1 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        for number in 0..5_000 {
            assert_eq!(is_prime(number), by_division(number), "{number}");
        }
        // A strong pseudoprime to the bases 2, 3 and 5.
        assert!(!is_prime(25_326_001));
        assert!(is_prime(2_147_483_647));
    }

    #[test]
    fn the_two_factors_differ_and_their_product_fits() {
        for _ in 0..20 {
            let (p, q) = two_primes();
            assert!(p < q && is_prime(p) && is_prime(q));
            assert_eq!(grammers_crypto::factorize(p * q), (p, q));
        }
    }
}
