//! Templates: texts with `{{variables}}`, filled in strictly. A value is text in the template's format: nothing in it is
//! markup, whoever wrote it.

use std::collections::{BTreeMap, BTreeSet};

use super::MAX_RAW_BYTES;
use crate::{
    markup::{self, EntityKind, MarkupError},
    ports::TextFormat,
};

const LONGEST_NAME: usize = 64;

/// What is wrong with a template, or with what it is to be filled with. Never the text, and never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(
        "character {character}: a variable was expected, such as {{{{first_name}}}}: a letter from a to z, then at most 63 of a-z 0-9 _"
    )]
    Variable { character: usize },
    #[error("{0}")]
    Markup(#[from] MarkupError),
    #[error("the template needs {0}")]
    Missing(String),
    #[error("the template has no such variable: {0}")]
    Unknown(String),
    #[error("the text would have {0} bytes; at most {MAX_RAW_BYTES} are taken")]
    TooLong(usize),
    /// Nothing stands for a backtick there.
    #[error("the value of {0} has a backtick, and stands within code, where that would end the code")]
    Backtick(String),
}

/// The parts of a template in their order.
enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Checks a template, and lists its variables.
pub fn variables(text: &str, format: TextFormat) -> Result<BTreeSet<String>, TemplateError> {
    let parts = parts(text)?;
    // As long as what it stands for, so that the place in an error is the place in the template.
    let filled: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => (*text).to_owned(),
            Part::Variable(name) => "x".repeat(name.len() + 4),
        })
        .collect();
    match markup::read(&filled, format) {
        // An address that is a variable, or begins with one, is known when it is filled in.
        Err(error) if !error.problem.starts_with("a link must be") => return Err(error.into()),
        _ => {}
    }
    let names = parts.iter().filter_map(|part| match part {
        Part::Variable(name) => Some((*name).to_owned()),
        Part::Text(_) => None,
    });
    Ok(names.collect())
}

/// Fills a template in. Each of its variables has a value, and each value a variable.
pub fn fill(text: &str, format: TextFormat, values: &BTreeMap<String, String>) -> Result<String, TemplateError> {
    let parts = parts(text)?;
    let names: BTreeSet<&str> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Variable(name) => Some(*name),
            Part::Text(_) => None,
        })
        .collect();
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !values.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        return Err(TemplateError::Missing(missing.join(", ")));
    }
    let known = values.keys().all(|name| names.contains(name.as_str()));
    if !known {
        // A name that is no variable's may be anything: those that could be are told, the others counted.
        let unknown = values.keys().filter(|name| !names.contains(name.as_str()));
        let shown: Vec<&str> = unknown
            .map(|name| if is_name(name) { name } else { "(no name)" })
            .collect();
        return Err(TemplateError::Unknown(shown.join(", ")));
    }
    let filled = filled(&parts, format, values)?;
    markup::read(&filled, format)?;
    Ok(filled)
}

/// The parts with their values, if that is not too long: a short template can name a long value thousands of times.
fn filled(parts: &[Part<'_>], format: TextFormat, values: &BTreeMap<String, String>) -> Result<String, TemplateError> {
    let escaped: BTreeMap<&str, String> = values
        .iter()
        .map(|(name, value)| (name.as_str(), markup::escape(value, format)))
        .collect();
    let in_code = within_code(parts, format);
    let mut pieces: Vec<&str> = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        pieces.push(match part {
            Part::Text(text) => text,
            Part::Variable(name) if in_code.contains(&index) => {
                let value = values.get(*name).map_or("", String::as_str);
                if value.contains('`') {
                    return Err(TemplateError::Backtick((*name).to_owned()));
                }
                value
            }
            Part::Variable(name) => escaped.get(name).map_or("", String::as_str),
        });
    }
    let length = pieces
        .iter()
        .fold(0_usize, |sum, piece| sum.saturating_add(piece.len()));
    if length > MAX_RAW_BYTES {
        return Err(TemplateError::TooLong(length));
    }
    Ok(pieces.concat())
}

/// Which parts are variables within Markdown's code, where a backslash is one and a value stands as it is.
fn within_code(parts: &[Part<'_>], format: TextFormat) -> BTreeSet<usize> {
    /// No character, so in no text that means one.
    const MARK: char = '\u{fdd0}';
    if format != TextFormat::Markdown
        || parts
            .iter()
            .any(|part| matches!(part, Part::Text(text) if text.contains(MARK)))
    {
        return BTreeSet::new();
    }
    // Each variable with its number, in the form of an address, which may stand where a link leads.
    let marked: String = parts
        .iter()
        .enumerate()
        .map(|(index, part)| match part {
            Part::Text(text) => (*text).to_owned(),
            Part::Variable(_) => format!("https://x{MARK}{index}{MARK}"),
        })
        .collect();
    let Ok(rich) = markup::read(&marked, format) else {
        return BTreeSet::new();
    };
    let units: Vec<u16> = rich.text.encode_utf16().collect();
    let mut found = BTreeSet::new();
    for entity in &rich.entities {
        let language = match &entity.kind {
            EntityKind::Code => "",
            EntityKind::Pre { language } => language,
            _ => continue,
        };
        let code = units.get(entity.offset..entity.offset + entity.length).unwrap_or(&[]);
        let code = String::from_utf16_lossy(code);
        for text in [language, &code] {
            found.extend(
                text.split(MARK)
                    .skip(1)
                    .step_by(2)
                    .filter_map(|index| index.parse::<usize>().ok()),
            );
        }
    }
    found
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("{{") {
        let wrong = || TemplateError::Variable {
            character: text[..text.len() - rest.len() + begin].chars().count() + 1,
        };
        let inner = &rest[begin + 2..];
        let end = inner.find("}}").ok_or_else(wrong)?;
        let name = &inner[..end];
        if !is_name(name) {
            return Err(wrong());
        }
        parts.push(Part::Text(&rest[..begin]));
        parts.push(Part::Variable(name));
        rest = &inner[end + 2..];
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// Whether a variable, or a template, may be called that.
pub fn is_name(name: &str) -> bool {
    let clean = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    clean && name.len() <= LONGEST_NAME && name.starts_with(|first: char| first.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        pairs.collect()
    }

    #[test]
    fn a_template_is_filled_in_and_a_value_is_never_markup() {
        let text = "Dear **{{name}}**, come to [us]({{link}}) on {{day}}";
        assert_eq!(
            variables(text, TextFormat::Markdown).map(|names| names.into_iter().collect::<Vec<_>>()),
            Ok(vec!["day".to_owned(), "link".to_owned(), "name".to_owned()])
        );
        let given = values(&[
            ("name", "A**da_"),
            ("link", "https://example.com/a_b"),
            ("day", "<Friday>"),
        ]);
        let filled = fill(text, TextFormat::Markdown, &given).expect("filled");
        let rich = markup::read(&filled, TextFormat::Markdown).expect("good markup");
        assert_eq!(rich.text, "Dear A**da_, come to us on <Friday>");
        assert_eq!(rich.entities.len(), 2);
        let html = fill("<b>{{name}}</b>", TextFormat::Html, &values(&[("name", "<i>")])).expect("filled");
        assert_eq!(markup::read(&html, TextFormat::Html).expect("good markup").text, "<i>");
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let one = values(&[("name", "Ada")]);
        assert_eq!(
            fill("{{name}} {{day}}", TextFormat::Plain, &one),
            Err(TemplateError::Missing("day".into()))
        );
        assert_eq!(
            fill("Hello", TextFormat::Plain, &one),
            Err(TemplateError::Unknown("name".into()))
        );
        let odd = values(&[("A secret", "x")]);
        assert_eq!(
            fill("Hello", TextFormat::Plain, &odd),
            Err(TemplateError::Unknown("(no name)".into()))
        );
    }

    #[test]
    fn a_wrong_template_is_refused_with_its_place() {
        for (text, character) in [("Hi {{name", 4), ("é {{Name}}", 3), ("{{}}", 1), ("{{a b}}", 1)] {
            assert_eq!(
                variables(text, TextFormat::Plain),
                Err(TemplateError::Variable { character }),
                "{text}"
            );
        }
        let Err(TemplateError::Markup(error)) = variables("{{name}} **x", TextFormat::Markdown) else {
            panic!("the markup is wrong");
        };
        assert_eq!(error.column, 10);
        let nowhere = fill("[x]({{link}})", TextFormat::Markdown, &values(&[("link", "nowhere")]));
        assert!(matches!(nowhere, Err(TemplateError::Markup(_))));
    }

    #[test]
    fn what_would_become_too_long_is_never_made() {
        let many = "{{a}}".repeat(6_500);
        let long = values(&[("a", &"x".repeat(10_000))]);
        assert_eq!(
            fill(&many, TextFormat::Plain, &long),
            Err(TemplateError::TooLong(65_000_000))
        );
        let signs = values(&[("a", &"*".repeat(MAX_RAW_BYTES / 2))]);
        assert!(fill("{{a}}", TextFormat::Markdown, &signs).is_ok());
        assert!(matches!(
            fill("{{a}}.", TextFormat::Markdown, &signs),
            Err(TemplateError::TooLong(_))
        ));
    }

    #[test]
    fn a_value_within_code_stands_there_as_it_is() {
        let given = values(&[
            ("code", "AB-12_3*"),
            ("link", "https://example.com/a_b"),
            ("tongue", "c_s"),
        ]);
        let text = "[at]({{link}}) `{{code}}` {{code}}\n```{{tongue}}\nlet x = {{code}};\n```";
        let filled = fill(text, TextFormat::Markdown, &given).expect("filled");
        let rich = markup::read(&filled, TextFormat::Markdown).expect("good markup");
        assert_eq!(rich.text, "at AB-12_3* AB-12_3*\nlet x = AB-12_3*;");
        assert_eq!(rich.entities.len(), 3, "{:?}", rich.entities);
        let language = rich.entities.iter().find_map(|entity| match &entity.kind {
            EntityKind::Pre { language } => Some(language.as_str()),
            _ => None,
        });
        assert_eq!(language, Some("c_s"));
        let tick = values(&[("code", "a`b")]);
        let refused = fill("`{{code}}`", TextFormat::Markdown, &tick);
        assert_eq!(refused, Err(TemplateError::Backtick("code".into())));
        assert!(fill("{{code}}", TextFormat::Markdown, &tick).is_ok());
        let html = fill("<code>{{code}}</code>", TextFormat::Html, &given_code("AB-12_3<")).expect("filled");
        assert_eq!(
            markup::read(&html, TextFormat::Html).expect("good markup").text,
            "AB-12_3<"
        );
    }

    fn given_code(value: &str) -> BTreeMap<String, String> {
        values(&[("code", value)])
    }

    #[test]
    fn a_value_does_not_end_an_attribute() {
        let given = values(&[("link", "https://example.com/' x='y")]);
        let filled = fill("<a href='{{link}}'>us</a>", TextFormat::Html, &given);
        assert!(matches!(filled, Err(TemplateError::Markup(_))), "{filled:?}");
        let given = values(&[("link", "https://example.com/o'hara")]);
        let filled = fill("<a href='{{link}}'>us</a>", TextFormat::Html, &given).expect("filled");
        let rich = markup::read(&filled, TextFormat::Html).expect("good markup");
        let url = "https://example.com/o'hara".to_owned();
        assert_eq!(rich.entities[0].kind, EntityKind::Link { url });
    }
}
