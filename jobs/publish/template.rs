//! Templates: texts with `{{variables}}`, filled in strictly. A value is text in the template's format: nothing in it is
//! markup, whoever wrote it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    markup::{self, MarkupError},
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
    let filled: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => (*text).to_owned(),
            Part::Variable(name) => values
                .get(*name)
                .map(|value| markup::escape(value, format))
                .unwrap_or_default(),
        })
        .collect();
    markup::read(&filled, format)?;
    Ok(filled)
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
}
