//! Which messages of a watched chat are of interest.

use std::fmt;

use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ArgsError,
    message::{MediaKind, Message},
};

/// What a filter may list of each.
pub const MAX_WORDS: usize = 200;
/// A keyword's or the expression's length in bytes.
pub const MAX_WORD_BYTES: usize = 500;
/// What a compiled expression may take. The engine's time is linear in the text, which Telegram bounds, so this bounds the
/// time a message takes too.
const COMPILED_BYTES: usize = 1 << 20;

/// Which messages are told. A message is when it fits every part that is given; without any, each is. Parts about the text
/// take the text as it is after an edit.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MessageFilter {
    /// Any of these stands in the text, whatever its case; at most 200, each at most 500 bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
    /// The text matches this regular expression (the syntax of Rust's `regex`: no look-around, no back-references). Small
    /// and capital letters differ unless it begins with `(?i)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// One of these sent it, by their ids in the Bot API's form; at most 200.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub senders: Vec<i64>,
    /// It carries one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<MediaKind>,
}

/// Leaves what is looked for out: it can name people and subjects.
impl fmt::Debug for MessageFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageFilter")
            .field("keywords", &self.keywords.len())
            .field("regex", &self.regex.is_some())
            .field("senders", &self.senders.len())
            .field("media", &self.media)
            .finish()
    }
}

/// A filter made ready.
pub struct Matcher {
    keywords: Vec<String>,
    regex: Option<Regex>,
    senders: Vec<i64>,
    media: Vec<MediaKind>,
}

impl MessageFilter {
    /// Checks the parts and makes them ready; the error names the field.
    pub fn compile(&self) -> Result<Matcher, ArgsError> {
        for (index, keyword) in self.keywords.iter().enumerate() {
            if keyword.trim().is_empty() || keyword.len() > MAX_WORD_BYTES {
                return Err(ArgsError {
                    field: format!("args.filter.keywords[{index}]"),
                    message: format!("is empty or longer than {MAX_WORD_BYTES} bytes; give a word or phrase"),
                });
            }
        }
        bounded("keywords", self.keywords.len())?;
        bounded("senders", self.senders.len())?;
        Ok(Matcher {
            keywords: self.keywords.iter().map(|word| word.to_lowercase()).collect(),
            regex: self.regex.as_deref().map(compile_regex).transpose()?,
            senders: self.senders.clone(),
            media: self.media.clone(),
        })
    }
}

impl Matcher {
    /// Whether the message fits. Messages that Telegram wrote (someone came in, the title changed) have no text and no
    /// medium, so a filter about those takes none of them.
    pub fn takes(&self, message: &Message) -> bool {
        self.takes_sender(message) && self.takes_media(message) && self.takes_text(&message.text)
    }

    fn takes_sender(&self, message: &Message) -> bool {
        self.senders.is_empty() || message.sender_id.is_some_and(|sender| self.senders.contains(&sender))
    }

    fn takes_media(&self, message: &Message) -> bool {
        self.media.is_empty() || message.media.is_some_and(|media| self.media.contains(&media))
    }

    fn takes_text(&self, text: &str) -> bool {
        let keyword_fits = || {
            let text = text.to_lowercase();
            self.keywords.iter().any(|keyword| text.contains(keyword))
        };
        self.regex.as_ref().is_none_or(|regex| regex.is_match(text)) && (self.keywords.is_empty() || keyword_fits())
    }
}

fn bounded(field: &str, count: usize) -> Result<(), ArgsError> {
    if count <= MAX_WORDS {
        return Ok(());
    }
    Err(ArgsError {
        field: format!("args.filter.{field}"),
        message: format!("has {count} entries; at most {MAX_WORDS} are taken"),
    })
}

fn compile_regex(source: &str) -> Result<Regex, ArgsError> {
    let wrong = |message: String| ArgsError {
        field: "args.filter.regex".into(),
        message,
    };
    if source.is_empty() || source.len() > MAX_WORD_BYTES {
        return Err(wrong(format!(
            "is empty or longer than {MAX_WORD_BYTES} bytes; leave it out to take every text"
        )));
    }
    RegexBuilder::new(source)
        .size_limit(COMPILED_BYTES)
        .dfa_size_limit(COMPILED_BYTES)
        .build()
        .map_err(|error| {
            wrong(match error {
                regex::Error::CompiledTooBig(_) => "is too large once compiled; use smaller repetitions".into(),
                // Its text repeats the expression; where it is wrong is enough.
                _ => "is not a regular expression that is understood; look-around and back-references are not".into(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn takes(filter: &MessageFilter, message: &Message) -> bool {
        filter.compile().expect("the filter compiles").takes(message)
    }

    #[test]
    fn no_part_takes_everything() {
        assert!(takes(&MessageFilter::default(), &testing::chat_message(1, "")));
    }

    #[test]
    fn any_keyword_in_any_case_will_do() {
        let filter = MessageFilter {
            keywords: vec!["straße".into(), "book".into()],
            ..MessageFilter::default()
        };
        assert!(takes(&filter, &testing::chat_message(1, "A BOOK")));
        assert!(takes(&filter, &testing::chat_message(1, "Die STRAßE")));
        assert!(!takes(&filter, &testing::chat_message(1, "a boat")));
    }

    #[test]
    fn each_part_that_is_given_has_to_fit() {
        let filter = MessageFilter {
            keywords: vec!["book".into()],
            regex: Some(r"^\d+ ".into()),
            senders: vec![7],
            media: vec![MediaKind::Photo],
        };
        let mut message = testing::chat_message(1, "12 books");
        message.sender_id = Some(7);
        message.media = Some(MediaKind::Photo);
        assert!(takes(&filter, &message));
        assert!(!takes(
            &filter,
            &Message {
                sender_id: Some(8),
                ..message.clone()
            }
        ));
        assert!(!takes(
            &filter,
            &Message {
                sender_id: None,
                ..message.clone()
            }
        ));
        assert!(!takes(
            &filter,
            &Message {
                media: None,
                ..message.clone()
            }
        ));
        assert!(!takes(
            &filter,
            &Message {
                text: "x 12 books".into(),
                ..message.clone()
            }
        ));
        assert!(!takes(
            &filter,
            &Message {
                text: "12 boats".into(),
                ..message
            }
        ));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |filter: MessageFilter| filter.compile().err().map(|error| error.field);
        let keywords = |keywords: Vec<String>| MessageFilter {
            keywords,
            ..MessageFilter::default()
        };
        let regex = |regex: &str| MessageFilter {
            regex: Some(regex.into()),
            ..MessageFilter::default()
        };
        assert_eq!(
            field(keywords(vec!["a".into(), " ".into()])).as_deref(),
            Some("args.filter.keywords[1]")
        );
        assert_eq!(
            field(keywords(vec!["a".into(); 201])).as_deref(),
            Some("args.filter.keywords")
        );
        assert_eq!(field(keywords(vec!["a".into(); 200])), None);
        assert_eq!(field(regex("(?=a)")).as_deref(), Some("args.filter.regex"));
        assert_eq!(field(regex("")).as_deref(), Some("args.filter.regex"));
        assert_eq!(
            field(regex(r"(\w{100}){100}{100}")).as_deref(),
            Some("args.filter.regex")
        );
        let senders = MessageFilter {
            senders: vec![1; 201],
            ..MessageFilter::default()
        };
        assert_eq!(field(senders).as_deref(), Some("args.filter.senders"));
    }
}
