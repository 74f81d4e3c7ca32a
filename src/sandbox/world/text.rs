//! What Telegram does to a message's text before it keeps it: bounds are checked and outer white space goes.

use grammers_tl_types as tl;
use tl::enums::MessageEntity;

use super::World;
use super::refusal::bad;
use crate::sandbox::call::{Answer, UserId};

/// The longest text, in UTF-16 code units, which Telegram counts everything in.
pub const LONGEST_TEXT: usize = 4096;
/// The same beneath media.
pub const LONGEST_CAPTION: usize = 1024;
/// Entities beyond these are dropped without a word.
const MOST_ENTITIES: usize = 100;

/// The offset and length of an entity, to read or to move.
fn span(entity: &mut MessageEntity) -> (&mut i32, &mut i32) {
    macro_rules! spans {
        ($($kind:ident),*) => {
            match entity { $(MessageEntity::$kind(e) => (&mut e.offset, &mut e.length),)* }
        };
    }
    spans!(
        Unknown,
        Mention,
        Hashtag,
        BotCommand,
        Url,
        Email,
        Bold,
        Italic,
        Code,
        Pre,
        TextUrl,
        MentionName,
        InputMessageEntityMentionName,
        Phone,
        Cashtag,
        Underline,
        Strike,
        BankCard,
        Spoiler,
        CustomEmoji,
        Blockquote,
        FormattedDate,
        DiffInsert,
        DiffReplace,
        DiffDelete,
        TonAddress
    )
}

fn utf16_len(text: &str) -> i32 {
    i32::try_from(text.encode_utf16().count()).unwrap_or(i32::MAX)
}

/// Checks a text and its entities, and trims both.
///
/// # Errors
/// `MESSAGE_EMPTY`, `MESSAGE_TOO_LONG`, `ENTITY_BOUNDS_INVALID`.
pub fn accept(text: &str, entities: Vec<MessageEntity>) -> Answer<(String, Vec<MessageEntity>)> {
    accept_up_to(text, entities, LONGEST_TEXT, "MESSAGE_TOO_LONG")
}

/// The same for what stands beneath media, which may be nothing.
///
/// # Errors
/// `MEDIA_CAPTION_TOO_LONG`, `ENTITY_BOUNDS_INVALID`.
pub fn accept_caption(text: &str, entities: Vec<MessageEntity>) -> Answer<(String, Vec<MessageEntity>)> {
    if text.trim().is_empty() {
        return Ok((String::new(), Vec::new()));
    }
    accept_up_to(text, entities, LONGEST_CAPTION, "MEDIA_CAPTION_TOO_LONG")
}

fn accept_up_to(
    text: &str,
    entities: Vec<MessageEntity>,
    longest: usize,
    too_long: &'static str,
) -> Answer<(String, Vec<MessageEntity>)> {
    let whole = utf16_len(text);
    for mut entity in entities.iter().cloned() {
        let (offset, length) = span(&mut entity);
        let end = offset.checked_add(*length);
        if *offset < 0 || *length < 0 || end.is_none_or(|end| end > whole) {
            return Err(bad("ENTITY_BOUNDS_INVALID"));
        }
    }
    let from_start = text.trim_start();
    let trimmed = from_start.trim_end();
    if trimmed.is_empty() {
        return Err(bad("MESSAGE_EMPTY"));
    }
    let length = utf16_len(trimmed);
    if length.unsigned_abs() as usize > longest {
        return Err(bad(too_long));
    }
    let cut = whole - utf16_len(from_start);
    let mut kept: Vec<MessageEntity> = entities
        .into_iter()
        .filter_map(|entity| shift(entity, cut, length))
        .collect();
    kept.truncate(MOST_ENTITIES);
    Ok((trimmed.to_owned(), kept))
}

/// Moves an entity `cut` to the left, within a text of `length`. `None` when nothing of it is left.
fn shift(mut entity: MessageEntity, cut: i32, length: i32) -> Option<MessageEntity> {
    let (offset, span_length) = span(&mut entity);
    let start = (*offset - cut).clamp(0, length);
    let end = (*offset + *span_length - cut).clamp(0, length);
    *offset = start;
    *span_length = end - start;
    (end > start).then_some(entity)
}

impl World {
    /// Turns the entities that clients may only send into those that others may see: a mention by name.
    ///
    /// A mention of somebody `me` cannot name is dropped.
    pub fn visible_entities(&self, me: UserId, entities: Vec<MessageEntity>) -> Vec<MessageEntity> {
        entities
            .into_iter()
            .filter_map(|entity| match entity {
                MessageEntity::InputMessageEntityMentionName(mention) => {
                    let user_id = self.input_user(me, &mention.user_id).ok()?;
                    let (offset, length) = (mention.offset, mention.length);
                    Some(
                        tl::types::MessageEntityMentionName {
                            offset,
                            length,
                            user_id,
                        }
                        .into(),
                    )
                }
                other => Some(other),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bold(offset: i32, length: i32) -> MessageEntity {
        tl::types::MessageEntityBold { offset, length }.into()
    }

    #[test]
    fn length_is_counted_in_utf16_units() {
        assert!(accept(&"a".repeat(4096), vec![]).is_ok());
        assert_eq!(accept(&"a".repeat(4097), vec![]).unwrap_err().name, "MESSAGE_TOO_LONG");
        assert!(accept(&"🙂".repeat(2048), vec![]).is_ok());
        assert_eq!(accept(&"🙂".repeat(2049), vec![]).unwrap_err().name, "MESSAGE_TOO_LONG");
    }

    #[test]
    fn nothing_but_white_space_is_empty() {
        assert_eq!(accept(" \n\t", vec![]).unwrap_err().name, "MESSAGE_EMPTY");
        assert_eq!(accept("", vec![]).unwrap_err().name, "MESSAGE_EMPTY");
    }

    #[test]
    fn entities_stay_within_the_text() {
        assert_eq!(
            accept("abc", vec![bold(1, 3)]).unwrap_err().name,
            "ENTITY_BOUNDS_INVALID"
        );
        assert_eq!(
            accept("abc", vec![bold(-1, 2)]).unwrap_err().name,
            "ENTITY_BOUNDS_INVALID"
        );
        assert_eq!(
            accept("abc", vec![bold(2, i32::MAX)]).unwrap_err().name,
            "ENTITY_BOUNDS_INVALID"
        );
        assert!(accept("🙂c", vec![bold(0, 3)]).is_ok());
    }

    #[test]
    fn trimming_moves_entities_along() {
        let (text, entities) = accept("  abc  ", vec![bold(1, 4), bold(5, 2)]).expect("a good text");
        assert_eq!(text, "abc");
        assert_eq!(entities, [bold(0, 3)]);
    }
}
