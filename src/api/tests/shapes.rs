//! What a person is told who sends a number out of bounds, a word for a time or true for an object: for each operation of the
//! document, each field of its body and each of its parameters, through the routes themselves.

use poem::http::StatusCode;
use serde_json::{Value, json};

use super::{bed::Answer, examples::Place};
use crate::api::document;

/// An id that nothing has.
const NOBODY: &str = "0190b8a0-0000-7000-8000-000000000000";

const JSON: &str = "application/json";

/// Details that say more than the field's own bounds would.
const ELSE: [&str; 6] = [
    "give one of user_id, username",
    "beside a unique_key",
    "leave it out",
    "positive number",
    "the position of an event",
    "must not be less than",
];

/// Details that leave a person where they were.
const EMPTY: [&str; 4] = [
    "cannot be read.",
    "has a value that cannot be used",
    "in its bounds",
    "The request cannot",
];

/// Each operation: its method, its path, and itself.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            all.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    all
}

fn followed<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        return followed(document, &document["components"]["schemas"][name]);
    }
    match schema["allOf"].as_array().map(Vec::as_slice) {
        Some([member]) => followed(document, member),
        _ => schema,
    }
}

/// Values that a field of that schema cannot have, each with what the detail has to say.
fn wrong(document: &Value, schema: &Value) -> Vec<(Value, Vec<String>)> {
    let nullable = schema["nullable"] == true;
    let schema = followed(document, schema);
    if nullable && schema.as_object().is_some_and(serde_json::Map::is_empty) {
        return Vec::new();
    }
    let mut cases = Vec::new();
    let says = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let bound = |name: &str| schema[name].as_f64().filter(|bound| bound.abs() < 1e15);
    match schema["type"].as_str() {
        Some("integer" | "number") => {
            cases.push((json!("seventeen"), says(&["must be a"])));
            cases.push((json!(true), says(&["must be a"])));
            let bounds: Vec<String> = ["minimum", "maximum"]
                .into_iter()
                .filter_map(bound)
                .map(|bound| bound.to_string())
                .collect();
            cases.extend(bound("minimum").map(|least| (json!(whole(least) - 1), bounds.clone())));
            cases.extend(bound("maximum").map(|most| (json!(whole(most) + 1), bounds.clone())));
            if bound("maximum").is_some() {
                cases.push((json!(1e30), says(&["must be"])));
            }
        }
        Some("boolean") => cases.push((json!("yes"), says(&["true or false"]))),
        Some("string") => {
            cases.push((json!(17), says(&["must be"])));
            match schema["format"].as_str() {
                Some("date-time") => cases.push((json!("tomorrow"), says(&["RFC 3339"]))),
                Some("uuid") => cases.push((json!("seventeen"), says(&["UUID"]))),
                _ => {}
            }
            if let Some(words) = schema["enum"].as_array() {
                let words = words.iter().filter_map(Value::as_str).map(str::to_owned);
                cases.push((json!("nonsense"), words.collect()));
            }
        }
        Some("array") => cases.push((json!(true), says(&["an array"]))),
        Some("object") => {
            cases.push((json!(true), says(&["an object"])));
            cases.push((json!("2030-01-31T12:00:00Z"), says(&["an object"])));
        }
        _ => {}
    }
    cases
}

fn whole(bound: f64) -> i64 {
    format!("{bound:.0}").parse().expect("a number")
}

/// A refusal names the field, and says what has to be there; it is `None` when the value was not refused for that.
fn complaint(answer: &Answer, field: &str, says: &[String]) -> Option<String> {
    let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let detail = body["detail"].as_str().unwrap_or_default();
    let code = body["code"].as_str().unwrap_or_default();
    // What the path names is not there, or not in a state for it, which may be looked at first.
    if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT) || code == "no_worker" {
        return None;
    }
    if answer.status.is_server_error() {
        return Some(format!("{} {}", answer.status, answer.text));
    }
    if ![
        "wrong_type",
        "invalid_value",
        "invalid_parameter",
        "invalid_cursor",
        "missing_field",
    ]
    .contains(&code)
    {
        return Some(format!("not refused for its value: {} {}", answer.status, answer.text));
    }
    // Something else of the body is in the way, or the bound has a better word.
    if ELSE.iter().any(|better| detail.contains(better)) {
        return None;
    }
    let named = body["field"].as_str().unwrap_or_default();
    if named != field {
        return Some(format!("names {named}: {detail}"));
    }
    if EMPTY.iter().any(|empty| detail.contains(empty)) {
        return Some(format!("says nothing: {detail}"));
    }
    let plain = detail.replace(',', "");
    says.iter()
        .find(|word| !detail.contains(*word) && !plain.contains(*word))
        .map(|word| format!("does not say {word}: {detail}"))
}

/// The fields of a body of that schema, as far as the document describes them one by one.
fn fields<'d>(document: &'d Value, schema: &'d Value) -> Vec<(String, &'d Value)> {
    let schema = followed(document, schema);
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.map(|(name, property)| (name.clone(), property)).collect()
}

/// Bodies in which one field is wrong, with the path of the field.
fn bodies(document: &Value, content: &Value) -> Vec<(Value, String, Vec<String>)> {
    let schema = followed(document, &content["schema"]);
    let mut cases = Vec::new();
    if let Some(kinds) = schema["discriminator"]["mapping"].as_object() {
        for (kind, member) in kinds {
            let member = followed(document, &json!({ "$ref": member })).clone();
            let sound = member["example"].clone();
            for (name, property) in fields(document, &member) {
                for (value, says) in wrong(document, property) {
                    if name != "kind" {
                        let mut body = sound.clone();
                        body[&name] = value;
                        cases.push((body, name.clone(), says));
                    }
                }
            }
            for (name, property) in fields(document, &member["properties"]["args"]) {
                for (value, says) in wrong(document, property) {
                    let mut body = sound.clone();
                    body["args"][&name] = value;
                    cases.push((body, format!("args.{name}"), says));
                }
            }
            assert!(sound["kind"] == kind.as_str(), "{sound}");
        }
        return cases;
    }
    let example = content.get("example").cloned();
    let sound = example.unwrap_or_else(|| sample(document, schema));
    for (name, property) in fields(document, schema) {
        for (value, says) in wrong(document, property) {
            let mut body = sound.clone();
            body[&name] = value;
            cases.push((body, name.clone(), says));
        }
    }
    cases
}

/// The required fields, each with its example.
fn sample(document: &Value, schema: &Value) -> Value {
    let schema_here = followed(document, schema);
    for example in [&schema["example"], &schema_here["example"]] {
        if !example.is_null() {
            return example.clone();
        }
    }
    if let Some(word) = schema_here["enum"].get(0) {
        return word.clone();
    }
    for union in ["oneOf", "anyOf"] {
        if let Some(member) = schema_here[union].get(0) {
            return sample(document, member);
        }
    }
    match schema_here["type"].as_str() {
        Some("object") => {
            let required = schema_here["required"].as_array().into_iter().flatten();
            let pairs = required
                .filter_map(Value::as_str)
                .map(|name| (name.to_owned(), sample(document, &schema_here["properties"][name])));
            Value::Object(pairs.collect())
        }
        Some("array") => json!([]),
        Some("integer" | "number") => schema_here.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(true),
        Some("string") if schema_here["format"] == "date-time" => json!("2030-01-31T12:00:00Z"),
        Some("string") if schema_here["format"] == "uuid" => json!(NOBODY),
        _ => json!("text"),
    }
}

#[tokio::test]
async fn a_wrong_field_of_any_body_is_named_with_its_shape_and_bounds() {
    let place = Place::new().await;
    let document = document();
    let (mut tried, mut complaints) = (0, Vec::new());
    for (method, path, operation) in operations(&document) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() || method == "patch" && path == "/v1/schedules/{id}" {
            continue;
        }
        let lone = place.send(&method, &place.path(&path), JSON, "[]".to_owned()).await;
        tried += 1;
        if !lone.text.contains("The body must be an object") {
            complaints.push(format!("{method} {path} []: {}", lone.text));
        }
        for (body, field, says) in bodies(&document, &operation["requestBody"]["content"][JSON]) {
            let answer = place.send(&method, &place.path(&path), JSON, body.to_string()).await;
            tried += 1;
            if let Some(complaint) = complaint(&answer, &field, &says) {
                complaints.push(format!("{method} {path} {body}: {field} {complaint}"));
            }
        }
    }
    assert!(tried > 300, "{tried}");
    assert!(
        complaints.is_empty(),
        "{} of {tried}:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[tokio::test]
async fn a_wrong_parameter_of_any_operation_is_named_with_its_shape_and_bounds() {
    let place = Place::new().await;
    let document = document();
    let (mut tried, mut complaints) = (0, Vec::new());
    for (method, path, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let (name, schema) = (parameter["name"].as_str().expect("a name"), &parameter["schema"]);
            for (value, says) in wrong_texts(schema) {
                let at = match parameter["in"].as_str() {
                    Some("query") => format!("{}?{name}={value}", place.path(&path)),
                    Some("path") => place.path(&path.replace(&format!("{{{name}}}"), &value)),
                    _ => continue,
                };
                let body = &operation["requestBody"]["content"]["application/json"]["schema"];
                let body = Some(sample(&document, body)).filter(|_| !body.is_null());
                let answer = place
                    .send(
                        &method,
                        &at,
                        JSON,
                        body.map(|body| body.to_string()).unwrap_or_default(),
                    )
                    .await;
                tried += 1;
                if let Some(complaint) = complaint(&answer, name, &says) {
                    complaints.push(format!("{method} {at}: {complaint}"));
                }
            }
        }
    }
    assert!(tried > 100, "{tried}");
    assert!(
        complaints.is_empty(),
        "{} of {tried}:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

fn wrong_texts(schema: &Value) -> Vec<(String, Vec<String>)> {
    let says = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if let Some(words) = schema["enum"].as_array() {
        let words = words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        return vec![("nonsense".to_owned(), words)];
    }
    let bounds: Vec<String> = ["minimum", "maximum"]
        .into_iter()
        .filter_map(|name| Some(schema[name].as_i64()?.to_string()))
        .collect();
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("integer"), _) => ["many", "1.5", "99999999999999999999"]
            .into_iter()
            .chain((!bounds.is_empty()).then_some("-1"))
            .chain((bounds.len() == 2).then_some("100000"))
            .map(|value| (value.to_owned(), bounds.clone()))
            .collect(),
        (Some("boolean"), _) => vec![("maybe".to_owned(), says(&["true or false"]))],
        (_, Some("uuid")) => vec![("seventeen".to_owned(), says(&["UUID"]))],
        (_, Some("date-time")) => vec![("yesterday".to_owned(), says(&["RFC 3339"]))],
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn what_newcomers_got_wrong_is_told_whole() {
    let place = Place::new().await;
    let schedule = |field: &str, value: Value| {
        let mut body = json!({
            "name": "digest", "cron": "0 9 * * *",
            "job": { "kind": "join", "args": { "chat": "@reading_club" } },
        });
        body[field] = value;
        body
    };
    let cases = [
        (
            "/v1/schedules",
            schedule("paused", json!(true)),
            "paused must be an object such as {\"reason\":\"holidays\"}, or null, not a boolean.",
        ),
        (
            "/v1/schedules",
            schedule("starts_at", json!(1_900_000_000)),
            "starts_at must be a time with its offset (RFC 3339), such as 2030-01-31T12:00:00Z, or null, not an integer.",
        ),
        (
            "/v1/schedules",
            schedule("missed_max", json!(1e30)),
            "missed_max must be an integer from 1 to 1000, or null, not a number with a fraction.",
        ),
        (
            "/v1/jobs",
            json!({ "kind": "scan", "args": true }),
            "args must be an object such as",
        ),
        (
            "/v1/jobs",
            json!({ "kind": "join", "args": { "chat": "@reading_club" }, "priority": "high" }),
            "priority must be an integer from -100 to 100, or null, not a string.",
        ),
        (
            "/v1/jobs",
            json!({ "args": {} }),
            "kind is missing: give one of invite, join, monitor, publish, scan.",
        ),
    ];
    for (path, body, says) in cases {
        let answer = place.send("post", path, JSON, body.to_string()).await;
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.starts_with(says), "{body}: {detail}");
    }
}
