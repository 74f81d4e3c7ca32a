//! All that a run leaves behind, and the search of it for secrets in the forms in which they could have been written there.

use std::fmt::Write as _;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

use crate::support::stack::Stack;

/// A part of a key that is looked for: any 24 bytes of it in a row hold one of its parts as a whole.
const PART: usize = 12;
/// The shortest text whose base64 is long enough to be nowhere by chance.
const LONG: usize = 9;

/// A secret, and the texts that would give it away.
pub struct Secret {
    name: String,
    forms: Vec<String>,
    /// It is short: as a part of a longer number or word it is no finding.
    is_word: bool,
}

impl Secret {
    /// Looked for as it is, in hexadecimal, and in base64 wherever in something longer it begins.
    pub fn text(name: &str, text: &str) -> Self {
        let mut forms = vec![text.to_owned()];
        forms.extend(hex(text.as_bytes()));
        if text.len() >= LONG {
            for offset in 0..3 {
                forms.extend(base64_within(text.as_bytes(), offset));
            }
        }
        Self::of(name, forms, false)
    }

    /// Looked for as a word of its own, and in hexadecimal.
    pub fn word(name: &str, word: &str) -> Self {
        let mut forms = vec![word.to_owned()];
        forms.extend(hex(word.as_bytes()));
        Self::of(name, forms, true)
    }

    /// Looked for in parts: as hexadecimal, base64 and a list of numbers.
    pub fn bytes(name: &str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 2 * PART, "{name} is too short for that");
        let mut forms = Vec::new();
        for part in bytes.chunks_exact(PART) {
            forms.extend(hex(part));
            let listed = |form: fn(&u8) -> String| part.iter().map(form).collect::<Vec<_>>().join(", ");
            forms.extend([listed(u8::to_string), listed(|byte| format!("{byte:02x}"))]);
        }
        for begin in 0..3 {
            for part in bytes[begin..].chunks_exact(PART) {
                forms.extend([STANDARD_NO_PAD.encode(part), URL_SAFE_NO_PAD.encode(part)]);
            }
        }
        Self::of(name, forms, false)
    }

    fn of(name: &str, mut forms: Vec<String>, is_word: bool) -> Self {
        forms.sort_unstable();
        forms.dedup();
        Self {
            name: name.to_owned(),
            forms,
            is_word,
        }
    }

    fn is_in(&self, text: &str) -> bool {
        self.forms.iter().any(|form| {
            text.match_indices(form)
                .any(|(at, _)| !self.is_word || stands_alone(text, at, form))
        })
    }
}

/// Whether what stands there is no part of a longer word, or of a number with a fraction.
fn stands_alone(text: &str, at: usize, form: &str) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '.';
    // In hexadecimal it may stand among other bytes.
    form.len() >= 10
        || !(text[..at].ends_with(goes_on) || text[at + form.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()))
}

fn hex(bytes: &[u8]) -> [String; 2] {
    let mut hex = String::new();
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("a string takes anything");
    }
    [hex.to_uppercase(), hex]
}

/// The characters that the bytes alone decide when `offset` bytes (in threes) stand before them.
fn base64_within(bytes: &[u8], offset: usize) -> [String; 2] {
    let whole = &bytes[(3 - offset) % 3..];
    let whole = &whole[..whole.len() / 3 * 3];
    [STANDARD_NO_PAD.encode(whole), URL_SAFE_NO_PAD.encode(whole)]
}

/// Texts, by where they stand.
pub struct Traces(Vec<(String, String)>);

impl Traces {
    /// Every table, the figures, and what the API wrote; more is added by [`Traces::add`].
    pub async fn of(stack: &Stack) -> Self {
        let mut traces = Self(tables(stack).await);
        let metrics = stack.request(reqwest::Method::GET, "/v1/metrics").send().await;
        let metrics = metrics.expect("answered").text().await.expect("text");
        assert!(metrics.contains("wireroom_sessions"), "{metrics}");
        traces.add("the metrics", metrics);
        traces.add("the API's log", stack.api_output());
        traces
    }

    pub fn add(&mut self, place: &str, text: String) {
        self.0.push((place.to_owned(), text));
    }

    /// The places in which the secret stands.
    pub fn places_of(&self, secret: &Secret) -> Vec<&str> {
        let found = self.0.iter().filter(|(_, text)| secret.is_in(text));
        found.map(|(place, _)| place.as_str()).collect()
    }

    /// # Panics
    ///
    /// When one of them stands anywhere; with where.
    #[track_caller]
    pub fn assert_free_of(&self, secrets: &[Secret]) {
        let found: Vec<_> = secrets
            .iter()
            .map(|secret| (&secret.name, self.places_of(secret)))
            .filter(|(_, places)| !places.is_empty())
            .collect();
        assert!(found.is_empty(), "secrets stand in {found:?}");
    }
}

/// Every row of every table, as text: bytes are hexadecimal in it.
async fn tables(stack: &Stack) -> Vec<(String, String)> {
    let pool = stack.database.pool();
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .expect("the tables");
    let mut tables = Vec::new();
    for name in names {
        let query = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {name} t");
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(pool)
            .await
            .expect("its rows");
        tables.push((format!("table {name}"), rows));
    }
    for name in ["errands", "sessions", "event_log", "api_keys"] {
        assert!(tables.iter().any(|(table, _)| table.contains(name)), "no {name}");
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(secret: &Secret, text: &str) -> bool {
        let traces = Traces(vec![("here".to_owned(), text.to_owned())]);
        !traces.places_of(secret).is_empty()
    }

    #[test]
    fn any_24_bytes_of_a_key_are_found_in_every_form() {
        let key: Vec<u8> = (0..=255_u8).map(|byte| byte.wrapping_mul(73) ^ 0x5a).collect();
        let secret = Secret::bytes("key", &key);
        for window in key.windows(24) {
            let [upper, lower] = hex(window);
            assert!(found(&secret, &format!("\\x00{lower}ff")) && found(&secret, &upper));
            assert!(found(&secret, &format!("{window:?}")) && found(&secret, &format!("{window:02x?}")));
        }
        for before in 0..3 {
            let longer = [&b"abc"[..before], &key].concat();
            assert!(
                found(&secret, &STANDARD_NO_PAD.encode(&longer)) && found(&secret, &URL_SAFE_NO_PAD.encode(&longer))
            );
        }
        for window in key.windows(26) {
            assert!(found(&secret, &STANDARD_NO_PAD.encode(window)));
        }
        assert!(!found(&secret, &hex(&key[..11])[1]));
    }

    #[test]
    fn a_text_is_found_wherever_it_begins_and_a_word_when_it_stands_alone() {
        let secret = Secret::text("password", "Tr0ub4dor");
        for before in ["", "a", "ab", "abc"] {
            assert!(found(&secret, &STANDARD_NO_PAD.encode(format!("{before}Tr0ub4dor!"))));
        }
        let code = Secret::word("code", "22222");
        assert!(found(&code, "code=22222,") && found(&code, "{\"code\":\"22222\"}") && found(&code, "\\x013232323232"));
        assert!(!found(&code, "1222220") && !found(&code, "0.22222") && !found(&code, "a22222"));
    }
}
