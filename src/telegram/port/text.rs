//! A draft as Telegram will show it: markup read, entities apart.

use chrono::{DateTime, Utc};
use grammers_tl_types as tl;
use wireroom_jobs::{
    markup::{self, Entity, EntityKind},
    ports::{Decision, Draft, TelegramError},
    publish::post::Button,
};

use super::own_error;

/// A draft's visible text and its entities.
pub(super) struct Parsed {
    pub text: String,
    pub entities: Vec<tl::enums::MessageEntity>,
}

impl Parsed {
    pub fn of(draft: &Draft) -> Result<Self, TelegramError> {
        let rich = markup::read(&draft.text, draft.format)
            .map_err(|error| own_error("markup_invalid", &format!("args.text: {error}."), Decision::Content))?;
        Ok(Self {
            text: rich.text,
            entities: rich.entities.into_iter().map(entity).collect(),
        })
    }

    /// In UTF-16 code units, as Telegram counts; space around the text does not count.
    pub fn visible_length(&self) -> usize {
        markup::units(self.text.trim())
    }

    /// Whether a message says the same. Telegram takes the space around a text away, and may take characters away that show
    /// nothing: its own client library does before it sends.
    pub fn says(&self, message: &str) -> bool {
        shown(&self.text) == shown(message)
    }

    pub fn entities(&self) -> Option<Vec<tl::enums::MessageEntity>> {
        Some(self.entities.clone()).filter(|entities| !entities.is_empty())
    }
}

/// A text as one sees it.
fn shown(text: &str) -> String {
    let seen = text.chars().filter_map(|c| match c {
        '\r' | '\u{2028}'..='\u{202e}' => None,
        '\n' => Some('\n'),
        c if c.is_control() => Some(' '),
        c => Some(c),
    });
    seen.collect::<String>().trim().to_owned()
}

fn entity(entity: Entity) -> tl::enums::MessageEntity {
    let offset = i32::try_from(entity.offset).unwrap_or(i32::MAX);
    let length = i32::try_from(entity.length).unwrap_or(i32::MAX);
    match entity.kind {
        EntityKind::Bold => tl::types::MessageEntityBold { offset, length }.into(),
        EntityKind::Italic => tl::types::MessageEntityItalic { offset, length }.into(),
        EntityKind::Underline => tl::types::MessageEntityUnderline { offset, length }.into(),
        EntityKind::Strike => tl::types::MessageEntityStrike { offset, length }.into(),
        EntityKind::Spoiler => tl::types::MessageEntitySpoiler { offset, length }.into(),
        EntityKind::Code => tl::types::MessageEntityCode { offset, length }.into(),
        EntityKind::Pre { language } => tl::types::MessageEntityPre {
            offset,
            length,
            language,
        }
        .into(),
        EntityKind::Quote { collapsed } => tl::types::MessageEntityBlockquote {
            collapsed,
            offset,
            length,
        }
        .into(),
        EntityKind::Link { url } => tl::types::MessageEntityTextUrl { offset, length, url }.into(),
        EntityKind::Mention { user_id } => tl::types::MessageEntityMentionName {
            offset,
            length,
            user_id,
        }
        .into(),
    }
}

/// Rows of buttons as Telegram takes them.
pub(super) fn markup_of(rows: &[Vec<Button>]) -> Option<tl::enums::ReplyMarkup> {
    if rows.is_empty() {
        return None;
    }
    let rows = rows.iter().map(|row| {
        let buttons = row.iter().map(|button| {
            let r#type = match (&button.url, &button.data) {
                (Some(url), _) => tl::types::InlineButtonTypeUrl { url: url.clone() }.into(),
                (None, data) => tl::types::InlineButtonTypeCallback {
                    requires_password: false,
                    data: data.clone().unwrap_or_default().into_bytes(),
                }
                .into(),
            };
            tl::types::KeyboardInlineButton {
                style: None,
                text: button.text.clone(),
                r#type,
            }
            .into()
        });
        let buttons = buttons.collect();
        tl::types::KeyboardInlineButtonRow { buttons }.into()
    });
    let rows = rows.collect();
    Some(
        tl::types::ReplyInlineMarkup {
            force_reply: false,
            rows,
        }
        .into(),
    )
}

/// What a message answers, and the topic it is in.
pub(super) fn reply(reply_to: Option<i32>, topic: Option<i32>) -> Option<tl::enums::InputReplyTo> {
    let message = reply_to.or(topic)?;
    Some(
        tl::types::InputReplyToMessage {
            reply_to_msg_id: message,
            top_msg_id: topic,
            reply_to_peer_id: None,
            quote_text: None,
            quote_entities: None,
            quote_offset: None,
            monoforum_peer_id: None,
            todo_item_id: None,
            poll_option: None,
        }
        .into(),
    )
}

/// A time in Telegram's whole seconds.
pub(super) fn seconds(time: DateTime<Utc>) -> i32 {
    i32::try_from(time.timestamp()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use wireroom_jobs::ports::TextFormat;

    use super::*;

    fn parsed(text: &str, format: TextFormat) -> Parsed {
        let draft = Draft {
            text: text.to_owned(),
            format,
            link_preview: true,
            ..Draft::default()
        };
        Parsed::of(&draft).expect("good markup")
    }

    #[test]
    fn markup_is_read_before_it_is_counted_and_compared() {
        let markdown = parsed("**Hello** world", TextFormat::Markdown);
        assert_eq!(markdown.visible_length(), 11);
        assert_eq!(markdown.entities.len(), 1);
        assert!(markdown.says("Hello world"));
        assert!(parsed("<b>Hello</b> world", TextFormat::Html).says("Hello world"));
        let plain = parsed("**Hello** world", TextFormat::Plain);
        assert!(!plain.says("Hello world"));
        assert!(plain.entities.is_empty());
    }

    #[test]
    fn a_text_is_known_again_without_what_nobody_sees() {
        let parsed = parsed("Hello\r\n\tworld\u{202e}!\u{1}", TextFormat::Plain);
        assert!(parsed.says("Hello\n world!"));
        assert!(!parsed.says("Hello world!"));
    }

    #[test]
    fn the_length_is_counted_in_utf_16_without_space_around() {
        assert_eq!(parsed(" \u{1f600}a \n", TextFormat::Plain).visible_length(), 3);
        assert_eq!(parsed("<b> </b>", TextFormat::Html).visible_length(), 0);
    }

    #[test]
    fn an_answer_in_a_topic_names_both() {
        assert!(reply(None, None).is_none());
        let Some(tl::enums::InputReplyTo::Message(header)) = reply(Some(9), Some(4)) else {
            panic!("an answer");
        };
        assert_eq!((header.reply_to_msg_id, header.top_msg_id), (9, Some(4)));
        let Some(tl::enums::InputReplyTo::Message(header)) = reply(None, Some(4)) else {
            panic!("a topic");
        };
        assert_eq!((header.reply_to_msg_id, header.top_msg_id), (4, Some(4)));
    }
}
