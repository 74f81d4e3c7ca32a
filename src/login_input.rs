//! What people give for a login, checked alike wherever they give it: over the API and at a terminal. What is refused is never
//! quoted.

use zeroize::Zeroizing;

/// What a field may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct NotUsable {
    pub field: &'static str,
    /// As a sentence goes on after the field's name.
    pub why: &'static str,
}

const fn no(field: &'static str, why: &'static str) -> NotUsable {
    NotUsable { field, why }
}

/// Checks the name of a session for people: labels are shown to everybody.
pub fn label(text: &str) -> Result<(), NotUsable> {
    let fits = (1..=100).contains(&text.chars().count()) && !text.trim().is_empty();
    if !fits || text.chars().any(char::is_control) {
        return Err(no("label", "must be 1 to 100 characters."));
    }
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let letters = text.chars().any(char::is_alphabetic);
    if digits >= 7 && !letters {
        return Err(no(
            "label",
            "must not be a phone number: labels are shown to everybody.",
        ));
    }
    if text.parse::<uuid::Uuid>().is_ok() {
        return Err(no("label", "must not be a UUID: it could be taken for a session's id."));
    }
    Ok(())
}

/// The number with its plus, without what people write between its digits.
pub fn phone_number(text: &str) -> Result<Zeroizing<String>, NotUsable> {
    let allowed = |c: char| c.is_ascii_digit() || " -().+".contains(c);
    let mut number = without(text, |c| !c.is_ascii_digit());
    if !text.chars().all(allowed) || !(5..=20).contains(&number.len()) {
        return Err(no(
            "phone",
            "must be a number with its country code, such as +999 66 2 0001.",
        ));
    }
    number.insert(0, '+');
    Ok(number)
}

/// A bot's token, as `@BotFather` shows it.
pub fn bot_token(text: &str) -> Result<Zeroizing<String>, NotUsable> {
    let text = text.trim();
    let well_formed = text.split_once(':').is_some_and(|(id, rest)| {
        !id.is_empty()
            && id.bytes().all(|byte| byte.is_ascii_digit())
            && (5..=200).contains(&rest.len())
            && rest
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    });
    if !well_formed {
        return Err(no(
            "bot_token",
            "must be a bot's token as @BotFather shows it: digits, a colon, and text.",
        ));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// A login code without spaces and dashes.
pub fn code(text: &str) -> Result<Zeroizing<String>, NotUsable> {
    let code = without(text, |c| matches!(c, ' ' | '-'));
    if code.is_empty() || code.chars().count() > 64 {
        return Err(no("code", "must be 1 to 64 characters."));
    }
    Ok(code)
}

/// With room for all of it and a sign more from the start: a text that grew would leave copies behind.
fn without(text: &str, left_out: impl Fn(char) -> bool) -> Zeroizing<String> {
    let mut kept = Zeroizing::new(String::with_capacity(text.len() + 1));
    kept.extend(text.chars().filter(|c| !left_out(*c)));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_give_is_taken_or_named() {
        assert!(label("shop 1").is_ok() && label("лавка").is_ok());
        for bad in [
            "",
            "  ",
            "a\nb",
            "+999 66 2 0001",
            "0190b5c0-7e6b-7c3e-8c1f-3c6a5f1d2e3f",
        ] {
            assert_eq!(label(bad).unwrap_err().field, "label", "{bad:?}");
        }
        assert!(label(&"x".repeat(101)).is_err());
        assert_eq!(phone_number("+999 (66) 2-0001").unwrap().as_str(), "+9996620001");
        for bad in ["hello", "12", "+999 66 2 0001 x", &"9".repeat(21)] {
            let refused = phone_number(bad).unwrap_err();
            assert!(!refused.to_string().contains(bad), "{refused}");
        }
        assert_eq!(bot_token(" 7:abc-DE_f ").unwrap().as_str(), "7:abc-DE_f");
        assert!(bot_token("7:ab").is_err() && bot_token("abcdefg").is_err());
        assert_eq!(code(" 222-22 ").unwrap().as_str(), "22222");
        assert!(code(" - ").is_err());
    }
}
