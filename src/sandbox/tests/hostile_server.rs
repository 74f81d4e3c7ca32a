//! The client's half of the key exchange against servers that cheat.

use std::sync::Arc;

use grammers_crypto::{AuthKey, aes, generate_key_data_from_nonce};
use grammers_tl_types::{self as tl, Cursor, Deserializable, Serializable, functions as f};
use num_bigint::BigUint;
use sha1::{Digest as _, Sha1};
use tokio::net::TcpListener;

use super::client::within;
use crate::{
    mtproto::TELEGRAM_DH_PRIME,
    sandbox::{
        clock, random,
        server_key::ServerKey,
        transport::{self, PacketReader, PacketWriter},
    },
    telegram::handshake::{self, AuthKeyExchange, HandshakeError, Step, generate_auth_key},
};

/// What the server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cheat {
    Nothing,
    FirstNonce,
    PrimePq,
    HugePq,
    ParametersNonce,
    InnerNonce,
    InnerHash,
    OddLength,
    WeakPrime,
    ShortPrime,
    WeakGenerator,
    NegativeGenerator,
    SmallPublicNumber,
    LargePublicNumber,
    ParametersRefused,
    CompletionRefused,
    FinalNonce,
    FinalHash,
    EmptyAnswer,
    HangUp,
}

struct HostileServer {
    cheat: Cheat,
    key: Arc<ServerKey>,
    reader: PacketReader,
    writer: PacketWriter,
}

impl HostileServer {
    /// The next request, without the head of the packet.
    async fn request(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(Some(packet)) = self.reader.next_packet() {
                return Some(packet[20..].to_vec());
            }
            if !self.reader.fill().await.unwrap_or(false) {
                return None;
            }
        }
    }

    async fn answer(&mut self, body: &[u8]) {
        let mut packet = vec![0; 8];
        5_i64.serialize(&mut packet);
        i32::try_from(body.len()).expect("fits").serialize(&mut packet);
        packet.extend(body);
        // The client may have left already.
        let _ = self.writer.send(&packet).await;
    }

    async fn serve(mut self) -> Option<()> {
        let server_nonce = random::bytes();
        let body = self.request().await?;
        let nonce = f::ReqPqMulti::from_bytes(&body[4..]).ok()?.nonce;
        self.answer(&self.factors(nonce, server_nonce)).await;
        let body = self.request().await?;
        let request = f::ReqDhParams::from_bytes(&body[4..]).ok()?;
        let Some(tl::enums::PQInnerData::Data(inner)) = self.key.open(&request.encrypted_data) else {
            return None;
        };
        let secret = BigUint::from_bytes_be(&random::bytes::<256>());
        match self.cheat {
            Cheat::HangUp => return None,
            Cheat::EmptyAnswer => self.answer(&[]).await,
            _ => self.answer(&self.parameters(&inner, &secret)).await,
        }
        let body = self.request().await?;
        let request = f::SetClientDhParams::from_bytes(&body[4..]).ok()?;
        self.answer(&self.completion(&inner, &secret, request)?).await;
        self.request().await.map(drop)
    }

    fn factors(&self, mut nonce: [u8; 16], server_nonce: [u8; 16]) -> Vec<u8> {
        if self.cheat == Cheat::FirstNonce {
            nonce[0] ^= 1;
        }
        let pq = match self.cheat {
            Cheat::PrimePq => 4_294_967_291_u64.to_be_bytes().to_vec(),
            Cheat::HugePq => vec![1; 9],
            _ => (1_229_739_323_u64 * 1_402_015_859).to_be_bytes().to_vec(),
        };
        let server_public_key_fingerprints = vec![self.key.fingerprint()];
        tl::enums::ResPq::Pq(tl::types::ResPq {
            nonce,
            server_nonce,
            pq,
            server_public_key_fingerprints,
        })
        .to_bytes()
    }

    fn parameters(&self, asked: &tl::types::PQInnerData, secret: &BigUint) -> Vec<u8> {
        let (mut nonce, mut inner_nonce, server_nonce) = (asked.nonce, asked.nonce, asked.server_nonce);
        let mut dh_prime = TELEGRAM_DH_PRIME.to_vec();
        let prime = BigUint::from_bytes_be(&dh_prime);
        let mut g = 3;
        let mut g_a = BigUint::from(3_u8).modpow(secret, &prime).to_bytes_be();
        match self.cheat {
            Cheat::ParametersNonce => nonce[0] ^= 1,
            Cheat::InnerNonce => inner_nonce[0] ^= 1,
            Cheat::WeakPrime => dh_prime[255] ^= 2,
            Cheat::ShortPrime => drop(dh_prime.remove(0)),
            Cheat::WeakGenerator => g = 2,
            Cheat::NegativeGenerator => g = -3,
            Cheat::SmallPublicNumber => g_a = vec![1],
            Cheat::LargePublicNumber => g_a = (prime - 1_u8).to_bytes_be(),
            Cheat::ParametersRefused => {
                let refusal = tl::types::ServerDhParamsFail {
                    nonce,
                    server_nonce,
                    new_nonce_hash: [0; 16],
                };
                return tl::enums::ServerDhParams::Fail(refusal).to_bytes();
            }
            _ => {}
        }
        let server_time = clock::unix_seconds();
        let inner = tl::types::ServerDhInnerData {
            nonce: inner_nonce,
            server_nonce,
            g,
            dh_prime,
            g_a,
            server_time,
        };
        let inner = tl::enums::ServerDhInnerData::Data(inner).to_bytes();
        let mut sealed = Sha1::digest(&inner).to_vec();
        sealed[0] ^= u8::from(self.cheat == Cheat::InnerHash);
        sealed.extend(&inner);
        sealed.resize(sealed.len().next_multiple_of(16), 7);
        let (key, iv) = generate_key_data_from_nonce(&server_nonce, &asked.new_nonce);
        aes::ige_encrypt(&mut sealed, &key, &iv);
        if self.cheat == Cheat::OddLength {
            sealed.truncate(sealed.len() - 4);
        }
        let answer = tl::types::ServerDhParamsOk {
            nonce,
            server_nonce,
            encrypted_answer: sealed,
        };
        tl::enums::ServerDhParams::Ok(answer).to_bytes()
    }

    fn completion(
        &self,
        asked: &tl::types::PQInnerData,
        secret: &BigUint,
        request: f::SetClientDhParams,
    ) -> Option<Vec<u8>> {
        let (mut nonce, server_nonce) = (asked.nonce, asked.server_nonce);
        if self.cheat == Cheat::CompletionRefused {
            let refusal = tl::types::DhGenFail {
                nonce,
                server_nonce,
                new_nonce_hash3: [0; 16],
            };
            return Some(tl::enums::SetClientDhParamsAnswer::DhGenFail(refusal).to_bytes());
        }
        let (key, iv) = generate_key_data_from_nonce(&server_nonce, &asked.new_nonce);
        let mut sealed = request.encrypted_data;
        aes::ige_decrypt(&mut sealed, &key, &iv);
        let mut cursor = Cursor::from_slice(&sealed[20..]);
        let tl::enums::ClientDhInnerData::Data(inner) = tl::enums::ClientDhInnerData::deserialize(&mut cursor).ok()?;
        let prime = BigUint::from_bytes_be(&TELEGRAM_DH_PRIME);
        let shared = BigUint::from_bytes_be(&inner.g_b).modpow(secret, &prime).to_bytes_be();
        let mut auth_key = [0; 256];
        auth_key[256 - shared.len()..].copy_from_slice(&shared);
        let mut new_nonce_hash1 = AuthKey::from_bytes(auth_key).calc_new_nonce_hash(&asked.new_nonce, 1);
        new_nonce_hash1[15] ^= u8::from(self.cheat == Cheat::FinalHash);
        nonce[15] ^= u8::from(self.cheat == Cheat::FinalNonce);
        let answer = tl::types::DhGenOk {
            nonce,
            server_nonce,
            new_nonce_hash1,
        };
        Some(tl::enums::SetClientDhParamsAnswer::DhGenOk(answer).to_bytes())
    }
}

/// Makes a key with a server that cheats.
async fn exchange(cheat: Cheat, key: &Arc<ServerKey>) -> Result<AuthKeyExchange, HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("it is bound");
    let known = handshake::ServerKey::from_pem(key.public_pem()).expect("it is a key");
    let key = Arc::clone(key);
    let serving = async move {
        let stream = Arc::new(listener.accept().await.expect("accepts").0);
        let (reader, writer) = transport::halves(&stream);
        drop(stream);
        HostileServer {
            cheat,
            key,
            reader,
            writer,
        }
        .serve()
        .await;
    };
    within(async { tokio::join!(generate_auth_key(addr, &known), serving).0 }).await
}

#[tokio::test]
async fn no_cheat_gives_a_key() {
    let key = Arc::new(ServerKey::generate().expect("a key is made"));
    exchange(Cheat::Nothing, &key)
        .await
        .expect("an honest exchange succeeds");
    let (factors, parameters, completion) = (Step::Factors, Step::Parameters, Step::Completion);
    for (cheat, expected) in [
        (Cheat::FirstNonce, Some((factors, "nonce"))),
        (Cheat::PrimePq, None),
        (Cheat::HugePq, Some((factors, "pq is longer than 64 bits"))),
        (Cheat::ParametersNonce, Some((parameters, "nonce"))),
        (Cheat::InnerNonce, Some((parameters, "nonce"))),
        (Cheat::InnerHash, Some((parameters, "hash"))),
        (Cheat::OddLength, Some((parameters, "length"))),
        (Cheat::SmallPublicNumber, Some((parameters, "g_a is out of range"))),
        (Cheat::LargePublicNumber, Some((parameters, "g_a is out of range"))),
        (Cheat::FinalNonce, Some((completion, "nonce"))),
        (Cheat::FinalHash, Some((completion, "new_nonce_hash1"))),
        (Cheat::EmptyAnswer, None),
        (Cheat::HangUp, None),
    ] {
        let error = exchange(cheat, &key).await.expect_err("a cheat gives no key");
        match (&error, expected) {
            (HandshakeError::Answer { step, reason }, Some(expected)) => {
                assert_eq!((*step, *reason), expected, "{cheat:?}");
            }
            (_, expected) => assert!(expected.is_none(), "{cheat:?}: {error:?}"),
        }
    }
    for cheat in [
        Cheat::WeakPrime,
        Cheat::ShortPrime,
        Cheat::WeakGenerator,
        Cheat::NegativeGenerator,
    ] {
        assert!(
            matches!(exchange(cheat, &key).await, Err(HandshakeError::UnsafeParameters)),
            "{cheat:?}"
        );
    }
    for (cheat, at) in [
        (Cheat::ParametersRefused, parameters),
        (Cheat::CompletionRefused, completion),
    ] {
        let refused = exchange(cheat, &key).await;
        assert!(
            matches!(refused, Err(HandshakeError::Refused(step)) if step == at),
            "{cheat:?}: {refused:?}"
        );
    }
}
