//! Which language a chat is in, guessed from a few of its texts.

use super::ports::Language;

/// Less says too little.
const LEAST_LETTERS: usize = 30;
/// More makes the guess no better.
const MOST_BYTES: usize = 4_000;

/// `None` when there is too little text to say.
pub(super) fn guess<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Language> {
    let mut sample = String::new();
    for text in texts {
        if sample.len() > MOST_BYTES {
            break;
        }
        sample.extend(text.chars().filter(|c| !c.is_ascii_digit()).take(MOST_BYTES / 4));
        sample.push('\n');
    }
    if sample.chars().filter(|c| c.is_alphabetic()).count() < LEAST_LETTERS {
        return None;
    }
    let info = whatlang::detect(&sample)?;
    #[expect(clippy::cast_possible_truncation, reason = "a share of one, shown with two digits")]
    let confidence = info.confidence() as f32;
    Some(Language {
        code: info.lang().code().to_owned(),
        confidence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(texts: &[&str]) -> Option<String> {
        guess(texts.iter().copied()).map(|language| language.code)
    }

    #[test]
    fn a_few_sentences_tell_the_language() {
        let english = "Selling two brass lanterns, and who has a rowing boat for the weekend?";
        let russian = "Продаю лодку, и у кого есть старый барометр на выходные?";
        assert_eq!(code(&[english]).as_deref(), Some("eng"));
        assert_eq!(code(&[russian]).as_deref(), Some("rus"));
        let sure = guess([english].into_iter()).expect("a guess").confidence;
        assert!((0.0..=1.0).contains(&sure), "{sure}");
    }

    #[test]
    fn too_little_text_is_no_guess() {
        assert_eq!(code(&["Hi", "123456789012345678901234567890", "👍"]), None);
    }
}
