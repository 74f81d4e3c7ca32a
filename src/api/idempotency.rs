//! `Idempotency-Key`: what a client sends to be able to ask again. Equal requests are told from others by a hash of what
//! they mean, not of their bytes: white space and the order of fields do not matter.

use poem::http::HeaderMap;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::problem::{Code, Problem};

const HEADER: &str = "idempotency-key";

/// Most characters of a key.
const MAX_LENGTH: usize = 255;

/// The key in the header.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(key) if fits && values.next().is_none() => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Send one key of 1 to {MAX_LENGTH} visible ASCII characters, such as a UUID.");
            Err(Problem::new(Code::InvalidParameter, detail).field("Idempotency-Key"))
        }
    }
}

/// The problem of a key that came with another request before.
pub fn reused() -> Problem {
    let detail = "Within 24 hours a key goes with one request. Send this one under a fresh key.";
    Problem::new(Code::IdempotencyKeyReused, detail).field("Idempotency-Key")
}

/// The hash of a request, as it grows.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Of a request for `operation`.
    pub fn new(operation: &str) -> Self {
        let mut fingerprint = Self(Sha256::new());
        fingerprint.text(b'o', operation);
        fingerprint
    }

    /// Adds a value in its canonical form.
    pub fn add(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.update(b"n"),
            Value::Bool(value) => self.0.update(if *value { b"t" } else { b"f" }),
            Value::Number(number) => self.text(b'd', &number.to_string()),
            Value::String(text) => self.text(b's', text),
            Value::Array(values) => {
                self.length(b'a', values.len());
                for value in values {
                    self.add(value);
                }
            }
            Value::Object(fields) => {
                self.length(b'm', fields.len());
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                for (name, value) in fields {
                    self.text(b'k', name);
                    self.add(value);
                }
            }
        }
    }

    /// Adds what cannot be read as a value.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.length(b'x', bytes.len());
        self.0.update(bytes);
    }

    /// The hash of what was added.
    pub fn hash(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }

    fn text(&mut self, tag: u8, text: &str) {
        self.length(tag, text.len());
        self.0.update(text.as_bytes());
    }

    /// Every part says what it is and how long, so that no two requests are the same bytes.
    fn length(&mut self, tag: u8, length: usize) {
        self.0.update([tag]);
        self.0.update((length as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> [u8; 32] {
        let mut fingerprint = Fingerprint::new("test");
        fingerprint.add(&serde_json::from_str(text).expect("JSON"));
        fingerprint.hash()
    }

    #[test]
    fn what_means_the_same_has_the_same_hash_and_nothing_else_has() {
        assert_eq!(
            hash(r#"{"a": 1, "b": [true, "x"]}"#),
            hash("{ \"b\":[true,\"\\u0078\"],\"a\":1 }")
        );
        let different = [
            "{}",
            "[]",
            "null",
            r#""""#,
            r#"{"a":null}"#,
            r#"["a",null]"#,
            r#"[["a"],null]"#,
            r#"["a","null"]"#,
            r#"["a n"]"#,
            "1",
            r#""1""#,
            "true",
        ];
        for (index, one) in different.iter().enumerate() {
            for other in &different[index + 1..] {
                assert_ne!(hash(one), hash(other), "{one} and {other}");
            }
        }
        assert_ne!(Fingerprint::new("a").hash(), Fingerprint::new("b").hash());
    }

    #[test]
    fn a_key_is_visible_ascii_and_comes_once() {
        let parse = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.to_vec().try_into().expect("a header's value"));
            }
            key(&headers).map_err(|problem| problem.code())
        };
        let longest = "x".repeat(255);
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[b"a-1!~"]), Ok(Some("a-1!~".to_owned())));
        assert_eq!(parse(&[longest.as_bytes()]), Ok(Some(longest.clone())));
        let too_long = "x".repeat(256);
        let wrong: [&[&[u8]]; 6] = [
            &[b""],
            &[b"a b"],
            &[b"a\tb"],
            &["\u{fc}".as_bytes()],
            &[too_long.as_bytes()],
            &[b"a", b"a"],
        ];
        for values in wrong {
            assert_eq!(parse(values), Err(Code::InvalidParameter), "{values:?}");
        }
    }
}
