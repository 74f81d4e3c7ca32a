//! The exchange that makes an auth key with a server whose RSA key is configured.
//!
//! grammers knows Telegram's own RSA keys and no others, so a session on another server (the sandbox, a test server)
//! gets its auth key here. It follows <https://core.telegram.org/mtproto/auth_key>, with every check that page asks of
//! a client.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use grammers_crypto::{AuthKey, aes, factorize, generate_key_data_from_nonce, two_factor_auth};
use grammers_mtproto::{mtp, transport};
use grammers_mtsender::{InvocationError, Sender, ServerAddr};
use grammers_tl_types::{self as tl, Cursor, Deserializable, Serializable};
use num_bigint::BigUint;
use rsa::{RsaPublicKey, pkcs1::DecodeRsaPublicKey, pkcs8::DecodePublicKey, traits::PublicKeyParts};
use sha1::{Digest, Sha1};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroize;

use crate::mtproto::{TELEGRAM_DH_PRIME, fingerprint};

/// How long an exchange may take in all, from connecting to the finished key.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);

/// The generators that make a subgroup of prime order with [`TELEGRAM_DH_PRIME`].
const TELEGRAM_DH_GENERATORS: [i32; 3] = [3, 4, 7];

/// Both public halves must stay this many bits away from zero and from the prime.
const DH_MARGIN_BITS: u32 = 2048 - 64;

/// The RSA key of a server, as a client knows it.
#[derive(Clone)]
pub struct ServerKey {
    key: Arc<grammers_crypto::rsa::Key>,
    fingerprint: i64,
}

/// A PEM that is not a usable server key.
#[derive(Debug, thiserror::Error)]
pub enum ServerKeyError {
    #[error("not an RSA public key in PEM (PKCS#1 or SPKI)")]
    Pem(#[source] rsa::pkcs8::spki::Error),
    #[error("a server key has 2048 bits, this one has {bits}")]
    Size { bits: u64 },
}

impl ServerKey {
    /// Reads a 2048-bit public key in PEM: `RSA PUBLIC KEY` (PKCS#1) or `PUBLIC KEY` (SPKI).
    pub fn from_pem(pem: &str) -> Result<Self, ServerKeyError> {
        let key = RsaPublicKey::from_pkcs1_pem(pem)
            .or_else(|_| RsaPublicKey::from_public_key_pem(pem))
            .map_err(ServerKeyError::Pem)?;
        let modulus = BigUint::from_bytes_be(&key.n().to_bytes_be());
        let exponent = BigUint::from_bytes_be(&key.e().to_bytes_be());
        if modulus.bits() != 2048 {
            return Err(ServerKeyError::Size { bits: modulus.bits() });
        }
        let key = grammers_crypto::rsa::Key::new(&modulus.to_string(), &exponent.to_string())
            .expect("a number printed in decimal parses as one");
        Ok(Self {
            key: Arc::new(key),
            fingerprint: fingerprint(&modulus, &exponent),
        })
    }

    /// The number by which a server names this key.
    pub fn fingerprint(&self) -> i64 {
        self.fingerprint
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKey({:016x})", self.fingerprint)
    }
}

/// What an exchange gives.
#[derive(Clone)]
pub struct AuthKeyExchange {
    /// The new key: a secret.
    pub auth_key: [u8; 256],
    /// The server's clock less ours, in seconds.
    pub time_offset: i32,
    /// The salt the server accepts first.
    pub first_salt: i64,
}

impl Drop for AuthKeyExchange {
    fn drop(&mut self) {
        self.auth_key.zeroize();
    }
}

impl fmt::Debug for AuthKeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthKeyExchange")
            .field("time_offset", &self.time_offset)
            .finish_non_exhaustive()
    }
}

/// Why no auth key was made. After any of these no key may be used; the exchange can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("could not connect to the Telegram server")]
    Connect(#[source] io::Error),
    #[error("the auth key exchange did not end within {} s", HANDSHAKE_DEADLINE.as_secs())]
    Deadline,
    #[error("the server did not answer {step}")]
    Call {
        step: Step,
        #[source]
        source: InvocationError,
    },
    #[error("the server has other RSA keys ({offered:x?}) than the configured one ({ours:x})")]
    OtherKey { offered: Vec<i64>, ours: i64 },
    #[error("the server's answer to {step} is wrong: {reason}")]
    Answer { step: Step, reason: &'static str },
    #[error("the server's Diffie-Hellman parameters are not safe")]
    UnsafeParameters,
    #[error("the server refused {0}")]
    Refused(Step),
    #[error("the operating system gave no random bytes")]
    Randomness(#[source] getrandom::Error),
    #[error("the auth key exchange broke down")]
    Crashed,
}

/// The three requests of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Factors,
    Parameters,
    Completion,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Factors => "req_pq_multi",
            Self::Parameters => "req_DH_params",
            Self::Completion => "set_client_DH_params",
        })
    }
}

/// Makes a new auth key with the server at `addr`, over a connection of its own that is closed at the end.
///
/// Ends within [`HANDSHAKE_DEADLINE`]. Dropping the future stops the exchange.
pub async fn generate_auth_key(addr: SocketAddr, server: &ServerKey) -> Result<AuthKeyExchange, HandshakeError> {
    let server = server.clone();
    // In a task of its own: grammers asserts on some malformed answers, and an assertion must not reach the caller.
    let exchange = AbortOnDropHandle::new(tokio::spawn(async move { Exchange::run(addr, &server).await }));
    match tokio::time::timeout(HANDSHAKE_DEADLINE, exchange).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(HandshakeError::Crashed),
        Err(_) => Err(HandshakeError::Deadline),
    }
}

type PlainSender = Sender<transport::Full, mtp::Plain>;

/// The numbers both sides must repeat in each message.
struct Exchange {
    nonce: [u8; 16],
    server_nonce: [u8; 16],
    new_nonce: [u8; 32],
}

/// The server's half of the key, checked.
struct ServerHalf {
    prime: BigUint,
    generator: BigUint,
    public: BigUint,
    server_time: i32,
}

impl Exchange {
    async fn run(addr: SocketAddr, server: &ServerKey) -> Result<AuthKeyExchange, HandshakeError> {
        let address = ServerAddr::Tcp { address: addr };
        let mut sender = Sender::connect(transport::Full::new(), mtp::Plain::new(), address)
            .await
            .map_err(HandshakeError::Connect)?;
        let (exchange, pq) = Self::begin(&mut sender, server).await?;
        let half = exchange.parameters(&mut sender, server, pq).await?;
        let time_offset = half.server_time.wrapping_sub(unix_seconds());
        let auth_key = exchange.complete(&mut sender, half).await?;
        let _ = sender.disconnect().await;
        Ok(AuthKeyExchange {
            auth_key,
            time_offset,
            first_salt: exchange.first_salt(),
        })
    }

    async fn begin(sender: &mut PlainSender, server: &ServerKey) -> Result<(Self, u64), HandshakeError> {
        let step = Step::Factors;
        let nonce = random::<16>()?;
        let tl::enums::ResPq::Pq(answer) = invoke(sender, step, &tl::functions::ReqPqMulti { nonce }).await?;
        ensure(answer.nonce == nonce, step, "nonce")?;
        if !answer.server_public_key_fingerprints.contains(&server.fingerprint) {
            return Err(HandshakeError::OtherKey {
                offered: answer.server_public_key_fingerprints,
                ours: server.fingerprint,
            });
        }
        ensure(answer.pq.len() <= 8, step, "pq is longer than 64 bits")?;
        let pq = answer.pq.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        ensure(pq > 3, step, "pq is too small")?;
        Ok((
            Self {
                nonce,
                server_nonce: answer.server_nonce,
                new_nonce: random::<32>()?,
            },
            pq,
        ))
    }

    async fn parameters(
        &self,
        sender: &mut PlainSender,
        server: &ServerKey,
        pq: u64,
    ) -> Result<ServerHalf, HandshakeError> {
        let step = Step::Parameters;
        let (p, q) = off_the_runtime(move || factorize(pq)).await?;
        ensure(
            p > 1 && q > 1 && p.checked_mul(q) == Some(pq),
            Step::Factors,
            "pq has no two factors",
        )?;
        let (p, q) = (trimmed(p.min(q)), trimmed(p.max(q)));
        let inner = tl::enums::PQInnerData::Data(tl::types::PQInnerData {
            pq: trimmed(pq),
            p: p.clone(),
            q: q.clone(),
            nonce: self.nonce,
            server_nonce: self.server_nonce,
            new_nonce: self.new_nonce,
        });
        let request = tl::functions::ReqDhParams {
            nonce: self.nonce,
            server_nonce: self.server_nonce,
            p,
            q,
            public_key_fingerprint: server.fingerprint,
            encrypted_data: grammers_crypto::rsa::encrypt_hashed(&inner.to_bytes(), &server.key, &random::<224>()?),
        };
        match invoke(sender, step, &request).await? {
            tl::enums::ServerDhParams::Fail(_) => Err(HandshakeError::Refused(step)),
            tl::enums::ServerDhParams::Ok(answer) => {
                self.check_nonces(step, &answer.nonce, &answer.server_nonce)?;
                self.open_server_half(answer.encrypted_answer).await
            }
        }
    }

    async fn open_server_half(&self, mut answer: Vec<u8>) -> Result<ServerHalf, HandshakeError> {
        let step = Step::Parameters;
        ensure(answer.len() >= 32 && answer.len().is_multiple_of(16), step, "length")?;
        let (key, iv) = generate_key_data_from_nonce(&self.server_nonce, &self.new_nonce);
        aes::ige_decrypt(&mut answer, &key, &iv);
        let (hash, rest) = answer.split_at(20);
        let mut cursor = Cursor::from_slice(rest);
        let Ok(tl::enums::ServerDhInnerData::Data(inner)) = tl::enums::ServerDhInnerData::deserialize(&mut cursor)
        else {
            return Err(HandshakeError::Answer {
                step,
                reason: "inner data",
            });
        };
        ensure(hash == Sha1::digest(&rest[..cursor.pos()]).as_slice(), step, "hash")?;
        self.check_nonces(step, &inner.nonce, &inner.server_nonce)?;

        let (prime, generator) = (inner.dh_prime.clone(), inner.g);
        if !off_the_runtime(move || parameters_are_safe(&prime, generator)).await? {
            return Err(HandshakeError::UnsafeParameters);
        }
        let half = ServerHalf {
            prime: BigUint::from_bytes_be(&inner.dh_prime),
            generator: BigUint::from(inner.g.unsigned_abs()),
            public: BigUint::from_bytes_be(&inner.g_a),
            server_time: inner.server_time,
        };
        ensure(is_in_range(&half.public, &half.prime), step, "g_a is out of range")?;
        Ok(half)
    }

    async fn complete(&self, sender: &mut PlainSender, half: ServerHalf) -> Result<[u8; 256], HandshakeError> {
        let step = Step::Completion;
        let secret = BigUint::from_bytes_be(&random::<256>()?);
        let (ours, shared) = off_the_runtime(move || {
            let ours = half.generator.modpow(&secret, &half.prime);
            let in_range = is_in_range(&ours, &half.prime);
            (in_range.then_some(ours), half.public.modpow(&secret, &half.prime))
        })
        .await?;
        let Some(ours) = ours else {
            return Err(HandshakeError::UnsafeParameters);
        };
        let request = tl::functions::SetClientDhParams {
            nonce: self.nonce,
            server_nonce: self.server_nonce,
            encrypted_data: self.seal_client_half(&ours)?,
        };
        let auth_key = left_padded(&shared);
        match invoke(sender, step, &request).await? {
            tl::enums::SetClientDhParamsAnswer::DhGenOk(answer) => {
                self.check_nonces(step, &answer.nonce, &answer.server_nonce)?;
                let expected = AuthKey::from_bytes(auth_key).calc_new_nonce_hash(&self.new_nonce, 1);
                ensure(answer.new_nonce_hash1 == expected, step, "new_nonce_hash1")?;
                Ok(auth_key)
            }
            tl::enums::SetClientDhParamsAnswer::DhGenRetry(_) | tl::enums::SetClientDhParamsAnswer::DhGenFail(_) => {
                Err(HandshakeError::Refused(step))
            }
        }
    }

    fn seal_client_half(&self, ours: &BigUint) -> Result<Vec<u8>, HandshakeError> {
        let inner = tl::enums::ClientDhInnerData::Data(tl::types::ClientDhInnerData {
            nonce: self.nonce,
            server_nonce: self.server_nonce,
            retry_id: 0,
            g_b: ours.to_bytes_be(),
        })
        .to_bytes();
        let mut sealed = Sha1::digest(&inner).to_vec();
        sealed.extend(&inner);
        let padding = (16 - sealed.len() % 16) % 16;
        sealed.extend(&random::<16>()?[..padding]);
        let (key, iv) = generate_key_data_from_nonce(&self.server_nonce, &self.new_nonce);
        aes::ige_encrypt(&mut sealed, &key, &iv);
        Ok(sealed)
    }

    fn check_nonces(&self, step: Step, nonce: &[u8; 16], server_nonce: &[u8; 16]) -> Result<(), HandshakeError> {
        ensure(*nonce == self.nonce, step, "nonce")?;
        ensure(*server_nonce == self.server_nonce, step, "server nonce")
    }

    fn first_salt(&self) -> i64 {
        let mut salt = [0; 8];
        for (at, byte) in salt.iter_mut().enumerate() {
            *byte = self.new_nonce[at] ^ self.server_nonce[at];
        }
        i64::from_le_bytes(salt)
    }
}

async fn invoke<R: tl::RemoteCall>(
    sender: &mut PlainSender,
    step: Step,
    request: &R,
) -> Result<R::Return, HandshakeError> {
    sender
        .invoke(request)
        .await
        .map_err(|source| HandshakeError::Call { step, source })
}

/// Runs arithmetic that takes milliseconds to seconds away from the threads that serve connections.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, HandshakeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| HandshakeError::Crashed)
}

/// Whether `prime` is a 2048-bit safe prime and `generator` makes its subgroup of prime order.
fn parameters_are_safe(prime: &[u8], generator: i32) -> bool {
    if prime == TELEGRAM_DH_PRIME {
        return TELEGRAM_DH_GENERATORS.contains(&generator);
    }
    let full_length = prime.first().is_some_and(|byte| *byte >= 0x80);
    full_length && (2..=7).contains(&generator) && two_factor_auth::check_p_and_g(prime, &generator)
}

fn is_in_range(public: &BigUint, prime: &BigUint) -> bool {
    let margin = BigUint::from(1u8) << DH_MARGIN_BITS;
    *public > margin && *public < prime - &margin
}

fn ensure(holds: bool, step: Step, reason: &'static str) -> Result<(), HandshakeError> {
    if holds {
        Ok(())
    } else {
        Err(HandshakeError::Answer { step, reason })
    }
}

fn random<const N: usize>() -> Result<[u8; N], HandshakeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(HandshakeError::Randomness)?;
    Ok(bytes)
}

fn trimmed(number: u64) -> Vec<u8> {
    number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

/// A number below a 2048-bit prime as 256 bytes, big-endian.
fn left_padded(number: &BigUint) -> [u8; 256] {
    let bytes = number.to_bytes_be();
    let mut padded = [0; 256];
    padded[256 - bytes.len()..].copy_from_slice(&bytes);
    padded
}

#[expect(clippy::disallowed_methods, reason = "MTProto wants the client's own clock")]
fn unix_seconds() -> i32 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i32::try_from(elapsed.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telegrams_prime_is_safe_with_the_listed_generators_and_no_others() {
        for generator in 2..=7 {
            let safe = two_factor_auth::check_p_and_g(&TELEGRAM_DH_PRIME, &generator);
            assert_eq!(
                safe,
                TELEGRAM_DH_GENERATORS.contains(&generator),
                "generator {generator}"
            );
            assert_eq!(
                safe,
                parameters_are_safe(&TELEGRAM_DH_PRIME, generator),
                "generator {generator}"
            );
        }
    }

    #[test]
    fn other_parameters_are_refused() {
        let mut not_prime = TELEGRAM_DH_PRIME;
        not_prime[255] ^= 2;
        assert!(!parameters_are_safe(&not_prime, 3));
        assert!(!parameters_are_safe(&TELEGRAM_DH_PRIME[1..], 3));
        assert!(!parameters_are_safe(&[], 3));
        assert!(!parameters_are_safe(&not_prime, -1));
        assert!(!parameters_are_safe(&not_prime, 8));
    }

    #[test]
    fn public_halves_near_the_edges_are_refused() {
        let prime = BigUint::from_bytes_be(&TELEGRAM_DH_PRIME);
        let margin = BigUint::from(1u8) << DH_MARGIN_BITS;
        assert!(!is_in_range(&BigUint::from(1u8), &prime));
        assert!(!is_in_range(&margin, &prime));
        assert!(is_in_range(&(&margin + 1u8), &prime));
        assert!(is_in_range(&(&prime - &margin - 1u8), &prime));
        assert!(!is_in_range(&(&prime - &margin), &prime));
        assert!(!is_in_range(&(&prime - 1u8), &prime));
    }

    #[test]
    fn a_pem_that_is_no_server_key_is_refused() {
        assert!(matches!(ServerKey::from_pem("hello"), Err(ServerKeyError::Pem(_))));
    }
}
