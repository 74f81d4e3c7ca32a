//! Looking through files of text for somebody who is erased. What a file says no column shows, so its bytes are read, streamed,
//! and a file that names the person is deleted: a part of it cannot be taken out without making it another file.

use std::time::Duration;

use futures::StreamExt as _;
use object_store::{ObjectStoreExt as _, path::Path};
use regex::bytes::{Regex, RegexBuilder};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Files, FilesError};
use crate::store::{
    failed,
    file_erasures::{self, FileErasure},
};

/// Larger files are not read: they are no lists of people, and reading them would take longer than an erasure may.
const MOST_BYTES: i64 = 256 << 20;
/// No mention of a person is longer: `t.me/`, a name of at most 32, and what stands before and after it.
const LONGEST: usize = 128;
/// How often erasures are looked for that no request sees through.
const LOOK_EACH: Duration = Duration::from_secs(10);
/// How long one step takes: it holds the erasure's row.
const STEP: Duration = Duration::from_secs(5);

/// Finds a person in a text that comes in pieces.
struct Mention {
    pattern: Regex,
    /// The end of what was looked at already.
    kept: Vec<u8>,
}

impl Mention {
    /// The id as a whole number; a name behind `@` or in a link, or alone between the signs that separate cells and strings.
    fn of(erasure: &FileErasure) -> Result<Self, FilesError> {
        let number = format!("[^0-9-]{}[^0-9]", erasure.person);
        let names: Vec<String> = erasure.names.iter().map(|name| regex::escape(name)).collect();
        let names = names.join("|");
        let pattern = if names.is_empty() {
            number
        } else {
            let border = r#"[\r\n,;\t"'|]"#;
            format!("{number}|(?:@|t\\.me/)(?:{names})[^a-z0-9_]|{border}\\x20*(?:{names})\\x20*{border}")
        };
        let pattern = RegexBuilder::new(&pattern)
            .case_insensitive(true)
            .unicode(false)
            .build()
            .map_err(|error| FilesError::Pattern(Box::new(error)))?;
        // As if a line had ended before the first one.
        Ok(Self {
            pattern,
            kept: vec![b'\n'],
        })
    }

    /// Whether the text so far names them.
    fn is_in(&mut self, bytes: &[u8]) -> bool {
        self.kept.extend_from_slice(bytes);
        let is_in = self.pattern.is_match(&self.kept);
        let behind = self.kept.len().saturating_sub(LONGEST);
        self.kept.drain(..behind);
        is_in
    }
}

impl Files {
    /// Looks through files for erasures, or for this one alone, for about as long as `patience`; `true`: nothing is left to do,
    /// here or with whoever else is at it.
    pub async fn erase(&self, only: Option<Uuid>, patience: Duration) -> Result<bool, FilesError> {
        const OPERATION: &str = "erase_files";
        let until = Instant::now() + patience;
        let mut transaction = self.database.begin().await.map_err(failed(OPERATION))?;
        let Some(erasure) = file_erasures::take(&mut transaction, only).await? else {
            return match only {
                Some(id) => Ok(!file_erasures::is_under_way(&mut transaction, id).await?),
                None => Ok(true),
            };
        };
        let mut is_done = false;
        while !is_done && Instant::now() < until {
            let next = file_erasures::next(&mut transaction, erasure.erasure, MOST_BYTES).await?;
            match next {
                Some(file) => {
                    let names_them = self.names(&erasure, &file.object).await?;
                    file_erasures::pass(&mut transaction, erasure.erasure, file.id, names_them).await?;
                }
                None => is_done = true,
            }
        }
        if is_done {
            file_erasures::finish(&mut transaction, erasure.erasure).await?;
        }
        transaction.commit().await.map_err(failed(OPERATION))?;
        Ok(is_done)
    }

    async fn names(&self, erasure: &FileErasure, object: &str) -> Result<bool, FilesError> {
        let mut mention = Mention::of(erasure)?;
        let got = match self.objects().await?.get(&Path::from(object)).await {
            Ok(got) => got,
            // It was swept meanwhile.
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = got.into_stream();
        while let Some(chunk) = bytes.next().await {
            if mention.is_in(&chunk?) {
                return Ok(true);
            }
        }
        // As if the last line ended.
        Ok(mention.is_in(b"\n"))
    }

    /// Sees erasures through that outlast their requests, for as long as it is polled.
    pub async fn keep_erasing(&self) {
        loop {
            match self.erase(None, STEP).await {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "files were not looked through for an erasure"
                ),
            }
            tokio::time::sleep(LOOK_EACH).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_named(text: &str, step: usize) -> bool {
        let erasure = FileErasure {
            erasure: Uuid::nil(),
            person: 7_100_000_005,
            names: vec!["frank".into(), "frank_2".into()],
        };
        let mut mention = Mention::of(&erasure).expect("a pattern");
        text.as_bytes().chunks(step).any(|piece| mention.is_in(piece)) || mention.is_in(b"\n")
    }

    #[test]
    fn a_person_is_found_wherever_a_piece_ends_and_nobody_else_is() {
        let long = "x".repeat(3 * LONGEST);
        for (text, is) in [
            ("7100000005", true),
            ("id,name\n7100000005,Somebody\n", true),
            ("{\"user\": 7100000005}", true),
            ("17100000005 71000000051 -7100000005", false),
            ("ask @Frank.", true),
            ("@frankfurt @frank_3", false),
            ("https://t.me/FRANK_2", true),
            ("name;frank\nother;anna", true),
            ("frank", true),
            ("[\"frank\"]", true),
            ("let me be frank, this is long", false),
            ("frank said so", false),
        ] {
            for step in [1, 2, 7, 4096] {
                assert_eq!(is_named(text, step), is, "{text} in steps of {step}");
                assert_eq!(
                    is_named(&format!("{long}\n{text}\n{long}"), step),
                    is,
                    "{text} in the middle"
                );
            }
        }
    }
}
