//! The server's RSA key: made once, kept in a file when one is named, and used to open what clients seal for it.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use grammers_crypto::aes;
use grammers_tl_types::{self as tl, Cursor, Deserializable};
use num_bigint::BigUint;
use rsa::{
    RsaPrivateKey,
    pkcs1::{DecodeRsaPrivateKey as _, EncodeRsaPrivateKey as _, EncodeRsaPublicKey as _, LineEnding},
    traits::{PrivateKeyParts as _, PublicKeyParts as _},
};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::mtproto::fingerprint;

/// The size `MTProto` prescribes.
const KEY_BITS: usize = 2048;

/// What went wrong with the server's RSA key.
#[derive(Debug, thiserror::Error)]
pub enum ServerKeyError {
    #[error("could not make an RSA key")]
    Make(#[source] rsa::Error),
    #[error("could not write the RSA key in PEM")]
    Encode(#[source] rsa::pkcs1::Error),
    #[error("could not read the RSA key file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("could not write the RSA key file {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not a 2048-bit RSA private key in PEM (PKCS#1)", path.display())]
    Content {
        path: PathBuf,
        source: Option<rsa::pkcs1::Error>,
    },
}

/// A 2048-bit RSA key with what the exchange needs of it.
pub(super) struct ServerKey {
    modulus: BigUint,
    private_exponent: BigUint,
    fingerprint: i64,
    public_pem: String,
}

impl ServerKey {
    /// Makes a key in memory.
    pub fn generate() -> Result<Self, ServerKeyError> {
        Self::from_private(&new_private_key()?)
    }

    /// Reads the key in `path`, or makes one and stores it there, readable by its owner only.
    pub fn load_or_create(path: &Path) -> Result<Self, ServerKeyError> {
        match fs::read_to_string(path) {
            Ok(pem) => Self::from_pem(path, &pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let private = new_private_key()?;
                let pem = private.to_pkcs1_pem(LineEnding::LF).map_err(ServerKeyError::Encode)?;
                store(path, pem.as_bytes()).map_err(|source| ServerKeyError::Write {
                    path: path.into(),
                    source,
                })?;
                Self::from_private(&private)
            }
            Err(source) => Err(ServerKeyError::Read {
                path: path.into(),
                source,
            }),
        }
    }

    fn from_pem(path: &Path, pem: &str) -> Result<Self, ServerKeyError> {
        let refuse = |source| ServerKeyError::Content {
            path: path.into(),
            source,
        };
        let private = RsaPrivateKey::from_pkcs1_pem(pem).map_err(|error| refuse(Some(error)))?;
        if private.n().bits() != KEY_BITS {
            return Err(refuse(None));
        }
        Self::from_private(&private)
    }

    fn from_private(private: &RsaPrivateKey) -> Result<Self, ServerKeyError> {
        let number = |n: &rsa::BigUint| BigUint::from_bytes_be(&n.to_bytes_be());
        let public_pem = private
            .to_public_key()
            .to_pkcs1_pem(LineEnding::LF)
            .map_err(ServerKeyError::Encode)?;
        let modulus = number(private.n());
        Ok(Self {
            fingerprint: fingerprint(&modulus, &number(private.e())),
            private_exponent: number(private.d()),
            modulus,
            public_pem,
        })
    }

    pub fn fingerprint(&self) -> i64 {
        self.fingerprint
    }

    /// The public half, as PKCS#1 in PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// Opens what a client sealed for this key, by `RSA_PAD` or by the SHA-1 padding used before 2021, which some
    /// clients still send. `None` when it is neither.
    pub fn open(&self, sealed: &[u8]) -> Option<tl::enums::PQInnerData> {
        let sealed = BigUint::from_bytes_be(sealed);
        if sealed >= self.modulus {
            return None;
        }
        let bytes = sealed.modpow(&self.private_exponent, &self.modulus).to_bytes_be();
        let mut block = [0; 256];
        block[256 - bytes.len()..].copy_from_slice(&bytes);
        open_rsa_pad(&block).or_else(|| open_sha1_padding(&block))
    }
}

fn open_rsa_pad(block: &[u8; 256]) -> Option<tl::enums::PQInnerData> {
    let (masked_key, encrypted) = block.split_at(32);
    let mut key: [u8; 32] = Sha256::digest(encrypted).into();
    for (byte, mask) in key.iter_mut().zip(masked_key) {
        *byte ^= mask;
    }
    let mut opened = encrypted.to_vec();
    aes::ige_decrypt(&mut opened, &key, &[0; 32]);
    let (reversed, hash) = opened.split_at(192);
    let data: Vec<u8> = reversed.iter().rev().copied().collect();
    let expected = Sha256::new().chain_update(key).chain_update(&data).finalize();
    if expected.as_slice() != hash {
        return None;
    }
    tl::enums::PQInnerData::from_bytes(&data).ok()
}

fn open_sha1_padding(block: &[u8; 256]) -> Option<tl::enums::PQInnerData> {
    let (hash, data) = block[1..].split_at(20);
    let mut cursor = Cursor::from_slice(data);
    let inner = tl::enums::PQInnerData::deserialize(&mut cursor).ok()?;
    (Sha1::digest(&data[..cursor.pos()]).as_slice() == hash).then_some(inner)
}

fn new_private_key() -> Result<RsaPrivateKey, ServerKeyError> {
    RsaPrivateKey::new(&mut rsa::rand_core::OsRng, KEY_BITS).map_err(ServerKeyError::Make)
}

/// Writes the whole file or none of it: a half-written key would be refused at every later start.
fn store(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let unfinished = PathBuf::from(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}
