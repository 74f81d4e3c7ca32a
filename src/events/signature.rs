//! Signatures after Standard Webhooks: HMAC-SHA256 over the id, the time and the body, under a secret that begins with
//! `whsec_`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What every secret begins with.
pub const PREFIX: &str = "whsec_";

/// The bytes that a secret stands for.
pub struct SigningKey(Zeroizing<Vec<u8>>);

impl SigningKey {
    /// From a secret's text; `None` when it is none.
    pub fn of(secret: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(secret).ok()?.strip_prefix(PREFIX)?;
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// `v1,` and the signature of a message.
    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The header `webhook-signature`: one signature for each key that counts, apart by spaces.
pub fn header(keys: &[&SigningKey], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = keys.iter().map(|key| key.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_the_specification_s_example() {
        let key = SigningKey::of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let body = br#"{"test": 2432232314}"#;
        let header = header(&[&key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs_and_what_is_no_secret_is_refused() {
        let keys = [SigningKey::of(b"whsec_AAAA"), SigningKey::of(b"whsec_BBBB")].map(|key| key.expect("a secret"));
        let header = header(&[&keys[0], &keys[1]], "evt_1", 1, b"{}");
        assert_eq!(header.split(' ').filter(|part| part.starts_with("v1,")).count(), 2);
        for wrong in ["AAAA", "whsec_", "whsec_!", ""] {
            assert!(SigningKey::of(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
