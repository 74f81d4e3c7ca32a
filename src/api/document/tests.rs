use std::{collections::BTreeSet, path::Path};

use chrono::{DateTime, Utc};

use super::*;
use crate::api::jobs::JobRequest;

const FILE: &str = "openapi/openapi.json";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_900_000_000, 0).expect("a time")
}

/// Every value below `value` that is under the key `name`.
fn under<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(name));
            object.values().for_each(|value| under(value, name, found));
        }
        Value::Array(values) => values.iter().for_each(|value| under(value, name, found)),
        _ => {}
    }
}

/// Whether `value` fits `schema`, as far as the document uses JSON Schema.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix(SCHEMAS).ok_or("a reference elsewhere")?;
        return fits(document, &document["components"]["schemas"][name], value);
    }
    if value.is_null() && schema["nullable"] == true {
        return Ok(());
    }
    for member in schema["allOf"].as_array().into_iter().flatten() {
        fits(document, member, value)?;
    }
    for (union, exactly_one) in [("oneOf", true), ("anyOf", false)] {
        if let Some(members) = schema[union].as_array() {
            let fitting = members
                .iter()
                .filter(|member| fits(document, member, value).is_ok())
                .count();
            if fitting == 0 || (exactly_one && fitting > 1) {
                return Err(format!("{fitting} members of {union} fit {value}"));
            }
        }
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{value} is none of {words:?}"));
    }
    let right_type = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some(other) => return Err(format!("type {other}")),
    };
    if !right_type {
        return Err(format!("{value} is not {}", schema["type"]));
    }
    object_fits(document, schema, value)?;
    let items = value.as_array().into_iter().flatten();
    items
        .into_iter()
        .try_for_each(|item| fits(document, &schema["items"], item))
}

fn object_fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(object) = value.as_object() else { return Ok(()) };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !object.contains_key(name) {
            return Err(format!("{name} is missing"));
        }
    }
    for (name, value) in object {
        match schema["properties"].get(name) {
            Some(property) => fits(document, property, value).map_err(|error| format!("{name}: {error}"))?,
            None if schema["additionalProperties"] == false => return Err(format!("{name} is not known")),
            None => {}
        }
    }
    Ok(())
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, document_text()).expect("the document is written");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == document_text(),
        "{FILE} is out of date: run `wireroom openapi > {FILE}`, or this test with UPDATE_OPENAPI=1"
    );
    assert_eq!(document_text(), document_text());
}

#[test]
fn every_reference_leads_somewhere_and_nothing_is_left_over() {
    let document = document();
    let (mut references, mut mappings) = (Vec::new(), Vec::new());
    under(&document, "$ref", &mut references);
    under(&document, "mapping", &mut mappings);
    let used: BTreeSet<&str> = references
        .into_iter()
        .chain(
            mappings
                .iter()
                .flat_map(|mapping| mapping.as_object().into_iter().flat_map(Map::values)),
        )
        .filter_map(|reference| reference.as_str()?.strip_prefix(SCHEMAS))
        .collect();
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let there: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(used, there);
    for (name, schema) in schemas {
        assert!(schema["description"].is_string(), "{name} has no description: {schema}");
    }
}

#[test]
fn a_job_is_a_union_by_kind_that_the_parser_agrees_with() {
    let document = document();
    let new_job = &document["components"]["schemas"]["NewJob"];
    assert_eq!(new_job["discriminator"]["propertyName"], "kind");
    for kind in JobKind::ALL {
        assert!(new_job["discriminator"]["mapping"][kind.as_str()].is_string());
        let examples = JobArgs::schema(kind).get("examples").cloned().expect("examples");
        for args in examples.as_array().expect("a list") {
            let body = json!({ "kind": kind.as_str(), "args": args, "priority": 5, "tags": ["a"], "session": null });
            fits(&document, new_job, &body).expect("an example fits the schema");
            let read = JobRequest::read(&body, now()).expect("an example is read");
            assert_eq!(read.args.kind(), kind);

            for broken in [
                json!({ "kind": kind.as_str(), "args": args, "surplus": 1 }),
                json!({ "kind": kind.as_str() }),
                json!({ "kind": "walk", "args": args }),
                json!({ "kind": kind.as_str(), "args": { "surplus": 1 } }),
                json!({ "kind": kind.as_str(), "args": args, "priority": "high" }),
                json!({ "kind": kind.as_str(), "args": args, "tags": "a" }),
            ] {
                fits(&document, new_job, &broken).expect_err("the schema refuses it");
                JobRequest::read(&broken, now()).expect_err("the parser refuses it");
            }
        }
        let name = new_job["discriminator"]["mapping"][kind.as_str()]
            .as_str()
            .expect("a reference");
        let member = &document["components"]["schemas"][name.trim_start_matches(SCHEMAS)];
        fits(&document, new_job, &member["example"]).expect("the example in the document fits");
    }
}

#[test]
fn limits_and_docs_of_fields_are_in_the_document() {
    let document = document();
    let join = &document["components"]["schemas"]["NewJoinJob"]["properties"];
    assert_eq!(join["priority"]["minimum"], -100);
    assert_eq!(join["max_attempts"]["maximum"], 100);
    assert_eq!(join["tags"]["maxItems"], 20);
    assert_eq!(join["run_at"]["format"], "date-time");
    assert!(
        join.as_object()
            .expect("fields")
            .values()
            .all(|field| { field["description"].is_string() || field["$ref"].is_string() })
    );
    let args = &document["components"]["schemas"]["JoinArgs"];
    assert!(args["properties"]["chat"]["description"].is_string());
    assert_eq!(args["additionalProperties"], false);
}

#[test]
fn every_operation_is_described_and_needs_a_key_unless_it_is_a_probe() {
    let document = document();
    let mut count = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for operation in item.as_object().expect("operations").values() {
            count += 1;
            assert!(
                operation["summary"].is_string() && operation["description"].is_string(),
                "{path}"
            );
            assert_eq!(operation["security"].is_array(), path.starts_with("/v1/"), "{path}");
            assert!(operation["responses"]["default"]["content"]["application/problem+json"].is_object());
        }
    }
    assert_eq!(count, 128);
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
}
