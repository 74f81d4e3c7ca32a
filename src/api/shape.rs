//! What belongs into a field of a body, in words, as the document describes it: so the refusal of a value says no less than the
//! document does. The one place that words shapes and bounds of what serde refuses.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use serde_path_to_error::{Path, Segment};

use super::document::{SCHEMAS, document};

/// A time, as people are told to write it.
pub const TIME: &str = "a time with its offset (RFC 3339), such as 2030-01-31T12:00:00Z";
/// An id, as people are told to write it.
pub const ID: &str = "an id as the API gave it: a UUID";

/// The longest example that is shown in a sentence.
const SHOWN: usize = 120;
/// How deep examples and lists are described.
const DEEP: usize = 3;
/// Most fields that are listed by name.
const FIELDS: usize = 12;

/// The schemas of the document. Not made before the first refusal.
static KNOWN: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let mut document = document();
    match document["components"]["schemas"].take() {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
});

/// What a schema of that name describes.
pub fn of(schema: &str) -> Option<String> {
    words(KNOWN.get(schema)?, 0)
}

/// What must be at `path` of `body`, whose schema is of that name; `None` when the document does not say.
pub fn at(schema: &str, body: &Value, path: &Path) -> Option<String> {
    let path: Vec<&Segment> = path.iter().collect();
    match path.split_last() {
        Some((Segment::Map { key }, parents)) => in_field(place(schema, body, parents)?, key),
        _ => words(place(schema, body, &path)?, 0),
    }
}

/// What must be in the field of that name, which is missing at `path`.
pub fn of_missing(schema: &str, body: &Value, path: &Path, name: &str) -> Option<String> {
    let path: Vec<&Segment> = path.iter().collect();
    in_field(place(schema, body, &path)?, name)
}

fn in_field(parent: &'static Value, name: &str) -> Option<String> {
    kinds(parent, name).or_else(|| words(property(parent, name)?, 0))
}

fn place(schema: &str, body: &Value, path: &[&Segment]) -> Option<&'static Value> {
    let mut here = chosen(KNOWN.get(schema)?, body);
    for segment in path {
        here = match segment {
            Segment::Map { key } => property(here, key)?,
            Segment::Seq { .. } => followed(here).get("items")?,
            Segment::Enum { .. } => here,
            Segment::Unknown => return None,
        };
    }
    Some(here)
}

/// Of a union by a word, the member that the body's word chooses.
fn chosen(schema: &'static Value, body: &Value) -> &'static Value {
    let union = &schema["discriminator"];
    union["propertyName"]
        .as_str()
        .and_then(|name| body.get(name)?.as_str())
        .and_then(|word| referred(union["mapping"].get(word)?.as_str()?))
        .unwrap_or(schema)
}

/// The words of a union's own field.
fn kinds(schema: &Value, name: &str) -> Option<String> {
    let union = &schema["discriminator"];
    if union["propertyName"] != name {
        return None;
    }
    let words: Vec<&str> = union["mapping"].as_object()?.keys().map(String::as_str).collect();
    Some(format!("one of {}", words.join(", ")))
}

fn referred(reference: &str) -> Option<&'static Value> {
    KNOWN.get(reference.strip_prefix(SCHEMAS)?)
}

/// The schema behind references.
fn followed(schema: &Value) -> &Value {
    let next = match schema["allOf"].as_array().map(Vec::as_slice) {
        Some([member]) => Some(member),
        _ => schema["$ref"].as_str().and_then(referred),
    };
    next.map_or(schema, followed)
}

fn members(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf"]
        .into_iter()
        .flat_map(|union| schema[union].as_array().into_iter().flatten())
}

fn property<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let schema = followed(schema);
    let own = schema["properties"].get(name);
    own.or_else(|| members(schema).find_map(|member| property(member, name)))
        .or_else(|| schema.get("additionalProperties").filter(|any| any.is_object()))
}

fn words(schema: &Value, depth: usize) -> Option<String> {
    let nullable = schema["nullable"] == true || followed(schema)["nullable"] == true;
    let words = shape(followed(schema), depth)?;
    Some(if nullable { format!("{words}, or null") } else { words })
}

fn shape(schema: &Value, depth: usize) -> Option<String> {
    if let Some(values) = schema["enum"].as_array() {
        let known: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        return match known.as_slice() {
            [] => None,
            [word] => Some(format!("\"{word}\"")),
            known => Some(format!("one of {}", known.join(", "))),
        };
    }
    match schema["type"].as_str() {
        Some("integer") => Some(format!("an integer{}", bounds(schema))),
        Some("number") => Some(format!("a number{}", bounds(schema))),
        Some("boolean") => Some("a boolean (true or false)".to_owned()),
        Some("string") => Some(text(schema)),
        Some("array") => Some(array(schema, depth)),
        Some("object") => Some(object(schema)),
        _ => union(schema, depth),
    }
}

fn bounds(schema: &Value) -> String {
    let (least, most) = (schema.get("minimum"), schema.get("maximum"));
    match (least.and_then(round), most.and_then(round)) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(" of at least {least}"),
        (None, Some(most)) => format!(" of at most {most}"),
        (None, None) => String::new(),
    }
}

/// schemars writes some bounds with a fraction that they have not.
fn round(bound: &Value) -> Option<String> {
    let number = bound.as_f64()?;
    Some(number.to_string())
}

fn text(schema: &Value) -> String {
    match schema["format"].as_str() {
        Some("date-time") => return TIME.to_owned(),
        Some("uuid") => return ID.to_owned(),
        _ => {}
    }
    let (least, most) = (schema["minLength"].as_u64(), schema["maxLength"].as_u64());
    let length = match (least, most) {
        (Some(least), Some(most)) => format!(" of {least} to {most} characters"),
        (Some(least), None) => format!(" of at least {least} characters"),
        (None, Some(most)) => format!(" of at most {most} characters"),
        (None, None) => String::new(),
    };
    let pattern = schema["pattern"]
        .as_str()
        .map(|pattern| format!(" that fits {pattern}"));
    format!("a string{length}{}", pattern.unwrap_or_default())
}

fn array(schema: &Value, depth: usize) -> String {
    let length = match (schema["minItems"].as_u64(), schema["maxItems"].as_u64()) {
        (Some(least), Some(most)) => format!(" of {least} to {most} items"),
        (Some(least), None) => format!(" of at least {least} items"),
        (None, Some(most)) => format!(" of at most {most} items"),
        (None, None) => String::new(),
    };
    let items = schema.get("items").filter(|_| depth < DEEP);
    match items.and_then(|items| words(items, depth + 1)) {
        Some(each) => format!("an array{length}, each of them {each}"),
        None => format!("an array{length}"),
    }
}

fn object(schema: &Value) -> String {
    let sample = sample(schema, 0).filter(|sample| sample.as_object().is_some_and(|fields| !fields.is_empty()));
    if let Some(text) = sample
        .map(|sample| sample.to_string())
        .filter(|text| text.len() <= SHOWN)
    {
        return format!("an object such as {text}");
    }
    let fields = schema["properties"].as_object().into_iter().flat_map(Map::keys);
    let fields: Vec<&str> = fields.map(String::as_str).take(FIELDS + 1).collect();
    match fields.len() {
        0 => "an object".to_owned(),
        1..=FIELDS => format!("an object of the fields {}", fields.join(", ")),
        _ => format!("an object of the fields {} and others", fields[..FIELDS].join(", ")),
    }
}

/// Said when there are few ways; of many the document has the list.
fn union(schema: &Value, depth: usize) -> Option<String> {
    let mut ways: Vec<String> = Vec::new();
    for member in members(schema) {
        let way = words(member, depth)?;
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    match ways.len() {
        0 => None,
        1..=3 => Some(ways.join("; or ")),
        _ if ways.iter().all(|way| way.starts_with("an object")) => Some("an object".to_owned()),
        _ => None,
    }
}

/// A value that fits: the documented example, or one with what is required.
fn sample(schema: &Value, depth: usize) -> Option<Value> {
    let own = schema.get("example").or_else(|| schema["examples"].get(0));
    let schema = followed(schema);
    let given = own
        .or_else(|| schema.get("example"))
        .or_else(|| schema["examples"].get(0));
    if let Some(given) = given.filter(|given| given.to_string().len() <= SHOWN) {
        return Some(given.clone());
    }
    if let Some(word) = schema["enum"].get(0) {
        return Some(word.clone());
    }
    match schema["type"].as_str()? {
        "integer" | "number" => Some(schema.get("minimum").cloned().unwrap_or(json!(1))),
        "boolean" => Some(json!(true)),
        "array" => Some(json!([])),
        "string" => Some(match schema["format"].as_str() {
            Some("date-time") => json!("2030-01-31T12:00:00Z"),
            Some("uuid") => json!("00000000-0000-0000-0000-000000000000"),
            _ => json!("…"),
        }),
        "object" if depth < DEEP => {
            let required = schema["required"].as_array().into_iter().flatten();
            required
                .filter_map(Value::as_str)
                .map(|name| Some((name.to_owned(), sample(schema["properties"].get(name)?, depth + 1)?)))
                .collect::<Option<Map<_, _>>>()
                .map(Value::Object)
        }
        _ => None,
    }
}
