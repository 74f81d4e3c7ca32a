//! What serde says of a wrong value, told again for the person who sent it: the field's path, what must be there, and
//! never the value itself, which may be the text of a message.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::api::{
    problem::{Code, Problem},
    shape,
};

/// A wrong field.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldError {
    code: Code,
    /// Empty for the body as a whole.
    field: String,
    detail: String,
}

impl FieldError {
    /// `value`, at `path`, must be an object of that schema.
    pub fn not_an_object(path: &str, schema: &str, value: &Value) -> Self {
        let shape = shape::of(schema).unwrap_or_else(|| "an object".to_owned());
        Self::new(
            Code::WrongType,
            path,
            format!("must be {shape}, not {}.", type_of(value)),
        )
    }

    fn new(code: Code, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            code,
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        if error.field.is_empty() {
            return Self::new(error.code, format!("The body {}", error.detail));
        }
        Self::new(error.code, format!("{} {}", error.field, error.detail)).field(error.field)
    }
}

/// The error behind serde's `message` at `path` in `root`, which itself is at `prefix` in the body and of that schema.
pub fn field_error(prefix: &str, path: &Path, message: &str, root: &Value, schema: &str) -> FieldError {
    let field = joined(prefix, path);
    if let Some(name) = between(message, "missing field `", "`") {
        let shape = shape::of_missing(schema, root, path, name);
        let field = child(&field, name);
        let detail = match (sought(&field), shape) {
            (Some(sought), _) => format!("is missing: {sought}."),
            (None, Some(shape)) => format!("is missing: give {shape}."),
            (None, None) => "is missing.".to_owned(),
        };
        return FieldError::new(Code::MissingField, field, detail);
    }
    if message.starts_with("unknown field `") {
        let known = known(message);
        if !path.iter().all(is_plain) {
            let detail = format!("has a field that is not known and has no name one could have meant; {known}.");
            return FieldError::new(Code::UnknownField, prefix, detail);
        }
        let detail = format!("is not a field; {known}.");
        return FieldError::new(Code::UnknownField, field, detail);
    }
    if message.starts_with("unknown variant `") {
        let detail = format!("has a value that is not known; {}.", known(message));
        return FieldError::new(Code::InvalidValue, field, detail);
    }
    if let Some(shape) = known_shape(message, &field) {
        return FieldError::new(Code::InvalidValue, field, format!("must be {shape}."));
    }
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| match expected {
        "a formatted UUID string" => id_of(&field).to_owned(),
        expected => type_name(expected),
    });
    let is_type = message.starts_with("invalid type: ");
    let shape = match &expected {
        Some(id) if id == id_of(&field) => Some(id.clone()),
        _ => shape::at(schema, root, path),
    };
    match (shape, expected) {
        (Some(shape), _) | (None, Some(shape)) if is_type => {
            let is = at(root, path).map_or("what it is", type_of);
            FieldError::new(Code::WrongType, field, format!("must be {shape}, not {is}."))
        }
        (Some(shape), _) => FieldError::new(Code::InvalidValue, field, format!("must be {shape}.")),
        (None, Some(expected)) => {
            FieldError::new(Code::InvalidValue, field, format!("must be {expected} in its bounds."))
        }
        (None, None) => FieldError::new(Code::InvalidValue, field, "has a value that cannot be used."),
    }
}

/// What belongs into a field whose name does not say it to everybody.
fn sought(field: &str) -> Option<&'static str> {
    match field {
        "args.purpose" => Some(
            "say in at most 200 characters why these data about people are collected, such as \"Yearly count of active \
             members\"; it is kept with them",
        ),
        _ => None,
    }
}

fn is_file(field: &str) -> bool {
    field.starts_with("args.media[") && field.ends_with("].file")
}

/// What must be there instead of a text that a type of ours, and not of JSON, could not be read from.
fn known_shape(message: &str, field: &str) -> Option<&'static str> {
    // What chrono says of a time that it cannot read.
    const TIMES: [&str; 6] = [
        "input contains invalid characters",
        "input is not enough for unique date and time",
        "input is out of range",
        "no possible date and time matching input",
        "premature end of input",
        "trailing input",
    ];
    if TIMES.contains(&message) {
        return Some(shape::TIME);
    }
    message.starts_with("UUID parsing failed").then(|| id_of(field))
}

fn id_of(field: &str) -> &'static str {
    if is_file(field) {
        "the id of an uploaded file, as POST /v1/files answered it: a UUID"
    } else {
        shape::ID
    }
}

fn is_plain(segment: &Segment) -> bool {
    match segment {
        Segment::Map { key } | Segment::Enum { variant: key } => is_name(key),
        Segment::Seq { .. } | Segment::Unknown => true,
    }
}

/// Whether a key of the client's can be quoted: what is no name may be a value in the wrong place, such as a phone number.
pub fn is_name(key: &str) -> bool {
    key.len() <= 64
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn joined(prefix: &str, path: &Path) -> String {
    let path = path.to_string();
    match (prefix, path.as_str()) {
        (_, ".") => prefix.to_owned(),
        ("", _) => path,
        (_, index) if index.starts_with('[') => format!("{prefix}{index}"),
        _ => format!("{prefix}.{path}"),
    }
}

fn child(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

fn between<'m>(message: &'m str, start: &str, end: &str) -> Option<&'m str> {
    message.strip_prefix(start)?.split(end).next()
}

/// The names serde would have known: they are ours, so they hold no backtick, while the client's may.
fn known(message: &str) -> String {
    let list = message
        .rsplit_once("`, expected ")
        .map_or("", |(_, list)| list.trim_start_matches("one of "));
    let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return "there are none".to_owned();
    }
    format!("known are {}", names.join(", "))
}

/// serde's word for a type, in JSON's.
fn type_name(expected: &str) -> String {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => "an integer".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "an object".to_owned(),
        struct_name if struct_name.starts_with("struct ") => "an object".to_owned(),
        other if other.starts_with("a ") || other.starts_with("an ") => other.to_owned(),
        _ => "another type".to_owned(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn at<'v>(root: &'v Value, path: &Path) -> Option<&'v Value> {
    path.iter().try_fold(root, |value, segment| match segment {
        Segment::Seq { index } => value.get(*index),
        Segment::Map { key } => value.get(key),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}
