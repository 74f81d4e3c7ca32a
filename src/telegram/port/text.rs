//! A draft as Telegram will show it: markup read, entities apart.

use grammers_client::parsers::{parse_html_message, parse_markdown_message};
use grammers_tl_types as tl;
use wireroom_jobs::ports::{Draft, TextFormat};

/// A draft's visible text and its entities.
pub(super) struct Parsed {
    pub text: String,
    pub entities: Vec<tl::enums::MessageEntity>,
}

impl Parsed {
    pub fn of(draft: &Draft) -> Self {
        let (text, entities) = match draft.format {
            TextFormat::Plain => (draft.text.clone(), Vec::new()),
            TextFormat::Markdown => parse_markdown_message(&draft.text),
            TextFormat::Html => parse_html_message(&draft.text),
        };
        Self { text, entities }
    }

    /// In UTF-16 code units, as Telegram counts; space around the text does not count.
    pub fn visible_length(&self) -> usize {
        self.text.trim().encode_utf16().count()
    }

    /// Whether a message says the same. Telegram takes the space around a text away.
    pub fn says(&self, message: &str) -> bool {
        self.text.trim() == message.trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(text: &str, format: TextFormat) -> Draft {
        Draft {
            text: text.to_owned(),
            format,
            silent: false,
            link_preview: true,
        }
    }

    #[test]
    fn markup_is_read_before_it_is_counted_and_compared() {
        let markdown = Parsed::of(&draft("**Hello** world", TextFormat::Markdown));
        assert_eq!(markdown.visible_length(), 11);
        assert_eq!(markdown.entities.len(), 1);
        assert!(markdown.says("Hello world"));
        let html = Parsed::of(&draft("<b>Hello</b> world", TextFormat::Html));
        assert!(html.says("Hello world"));
        let plain = Parsed::of(&draft("**Hello** world", TextFormat::Plain));
        assert!(!plain.says("Hello world"));
        assert!(plain.entities.is_empty());
    }

    #[test]
    fn the_length_is_counted_in_utf_16_without_space_around() {
        assert_eq!(
            Parsed::of(&draft(" \u{1f600}a \n", TextFormat::Plain)).visible_length(),
            3
        );
        assert_eq!(Parsed::of(&draft("<b> </b>", TextFormat::Html)).visible_length(), 0);
    }
}
