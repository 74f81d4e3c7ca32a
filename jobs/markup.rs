//! Markdown and HTML as Telegram's entities: the visible text, and what stands where in it.
//!
//! Strict on purpose: what opens and never closes is no text but a mistake, and its author learns where it is before
//! anything is sent. Errors name a place and what was expected there, and never repeat the text.

mod html;
mod markdown;

use std::fmt;

use crate::ports::TextFormat;

/// Telegram drops entities beyond these without a word.
pub const MOST_ENTITIES: usize = 100;

/// A text as its readers see it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Rich {
    pub text: String,
    /// In the order of their beginnings, wider ones first.
    pub entities: Vec<Entity>,
}

/// A marked part of a text; offset and length in UTF-16 code units, as Telegram counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    pub kind: EntityKind,
    pub offset: usize,
    pub length: usize,
}

/// What a part of a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityKind {
    Bold,
    Italic,
    Underline,
    Strike,
    Spoiler,
    Code,
    Pre {
        language: String,
    },
    Quote {
        collapsed: bool,
    },
    Link {
        url: String,
    },
    /// A person by their id, from `tg://user?id=`.
    Mention {
        user_id: i64,
    },
}

/// What is wrong with a text's markup, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column} (character {character}): {problem}")]
pub struct MarkupError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters of the whole text, from 1.
    pub character: usize,
    /// What stands there and what was expected. Never the text itself.
    pub problem: String,
}

/// Leaves the text out: it must not reach a log.
impl fmt::Debug for Rich {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rich")
            .field("text_bytes", &self.text.len())
            .field("entities", &self.entities.len())
            .finish()
    }
}

impl Rich {
    /// Text without markup.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            entities: Vec::new(),
        }
    }

    /// Its length in UTF-16 code units, without the space around it, which Telegram takes away.
    pub fn visible_length(&self) -> usize {
        units(self.text.trim())
    }
}

/// Reads a text in its format.
pub fn read(text: &str, format: TextFormat) -> Result<Rich, MarkupError> {
    let rich = match format {
        TextFormat::Plain => return Ok(Rich::plain(text)),
        TextFormat::Markdown => markdown::read(text)?,
        TextFormat::Html => html::read(text)?,
    };
    if rich.entities.len() > MOST_ENTITIES {
        let problem = format!(
            "the text has {} marked parts in all; Telegram keeps {MOST_ENTITIES} and drops the others",
            rich.entities.len()
        );
        return Err(Source::new(text).error(0, problem));
    }
    Ok(rich)
}

/// A value as it is written in a text of `format` so that nothing of it is markup.
pub fn escape(value: &str, format: TextFormat) -> String {
    match format {
        TextFormat::Plain => value.to_owned(),
        TextFormat::Markdown => markdown::escape(value),
        TextFormat::Html => html::escape(value),
    }
}

/// UTF-16 code units.
pub fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The characters of a text, with their places.
struct Source {
    chars: Vec<char>,
}

impl Source {
    fn new(text: &str) -> Self {
        Self {
            chars: text.chars().collect(),
        }
    }

    fn get(&self, at: usize) -> Option<char> {
        self.chars.get(at).copied()
    }

    fn before(&self, at: usize) -> Option<char> {
        at.checked_sub(1).and_then(|at| self.get(at))
    }

    fn starts_with(&self, at: usize, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(index, wanted)| self.get(at + index) == Some(wanted))
    }

    /// Where `text` comes next, from `at` on.
    fn find(&self, at: usize, text: &str) -> Option<usize> {
        (at..self.chars.len()).find(|&place| self.starts_with(place, text))
    }

    fn slice(&self, from: usize, to: usize) -> String {
        self.chars[from..to].iter().collect()
    }

    fn error(&self, at: usize, problem: impl Into<String>) -> MarkupError {
        let (line, column) = self.place(at);
        MarkupError {
            line,
            column,
            character: at + 1,
            problem: problem.into(),
        }
    }

    /// Line and column, from 1.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = &self.chars[..at.min(self.chars.len())];
        let line = before.iter().filter(|&&c| c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|&&c| c != '\n').count() + 1;
        (line, column)
    }

    fn is_line_start(&self, at: usize) -> bool {
        self.before(at).is_none_or(|before| before == '\n')
    }
}

/// The visible text on its way, and the parts that are closed.
#[derive(Default)]
struct Builder {
    text: String,
    units: usize,
    entities: Vec<Entity>,
}

impl Builder {
    fn push(&mut self, c: char) {
        self.text.push(c);
        self.units += c.len_utf16();
    }

    fn push_str(&mut self, text: &str) {
        text.chars().for_each(|c| self.push(c));
    }

    /// Closes a part that began at `offset`; one that shows nothing is none.
    fn close(&mut self, kind: EntityKind, offset: usize) {
        if self.units > offset {
            let length = self.units - offset;
            self.entities.push(Entity { kind, offset, length });
        }
    }

    fn finish(mut self) -> Rich {
        self.entities
            .sort_by_key(|entity| (entity.offset, usize::MAX - entity.length));
        Rich {
            text: self.text,
            entities: self.entities,
        }
    }
}

/// What a link leads to; `None`: to nothing that Telegram opens.
fn link(url: &str) -> Option<EntityKind> {
    if let Some(id) = url.strip_prefix("tg://user?id=") {
        let user_id = id.parse().ok().filter(|id| *id > 0)?;
        return Some(EntityKind::Mention { user_id });
    }
    let is_address = ["http://", "https://", "tg://", "ton://", "mailto:", "tel:"]
        .iter()
        .any(|scheme| {
            url.get(..scheme.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
                && url.len() > scheme.len()
        });
    let clean = !url.contains(char::is_whitespace) && !url.contains(char::is_control);
    (is_address && clean && url.len() <= 2048).then(|| EntityKind::Link { url: url.to_owned() })
}

const LINK_EXPECTED: &str = "a link must be an address such as https://example.com, or tg://user?id= and a number, \
                             without spaces, of at most 2048 bytes";

#[cfg(test)]
mod tests;
