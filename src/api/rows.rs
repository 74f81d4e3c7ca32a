//! Bodies that are lists of rows: JSON, NDJSON or CSV, up to 1 MiB. Each row is read by serde as if it had come alone, and a
//! wrong one is refused with its number and its field.

use std::marker::PhantomData;

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{
    jobs::{invalid, not_json, nul, read},
    problem::{Code, Problem},
    sent::MAX_BODY,
    shell,
    typed::Typed,
};

/// Most rows of a body.
pub const MAX_ROWS: usize = 10_000;

const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv";

/// Rows as a JSON body holds them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "{T}List")]
pub struct ListBody<T> {
    /// At most 10,000.
    #[schemars(length(max = 10_000))]
    items: Vec<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Ndjson,
    Csv,
}

/// The bytes of a list of rows, to be read with [`Rows::read`]. Wiped when it is dropped: it may hold phone numbers.
pub struct Rows<T> {
    body: Zeroizing<Vec<u8>>,
    format: Format,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned + JsonSchema> Rows<T> {
    /// Every row, in order.
    pub fn read(&self) -> Result<Vec<T>, Problem> {
        let values = match self.format {
            Format::Json => of_json::<T>(&self.body)?,
            Format::Ndjson => of_ndjson(&self.body)?,
            Format::Csv => of_csv(&self.body)?,
        };
        if values.len() > MAX_ROWS {
            return Err(invalid("items", format!("at most {MAX_ROWS} in one request.")));
        }
        let rows = values.iter().enumerate();
        rows.map(|(index, value)| {
            let prefix = format!("items[{index}]");
            if let Some(field) = nul(value) {
                return Err(invalid(format!("{prefix}.{field}"), "may not contain NUL."));
            }
            read(value, &prefix, &T::schema_name(), |source| T::deserialize(source))
        })
        .collect()
    }
}

fn of_json<T: JsonSchema>(body: &[u8]) -> Result<Vec<Value>, Problem> {
    let value: Value = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    let list: ListBody<Value> = read(&value, "", &ListBody::<T>::schema_name(), |source| {
        ListBody::deserialize(source)
    })?;
    Ok(list.items)
}

fn of_ndjson(body: &[u8]) -> Result<Vec<Value>, Problem> {
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(number, line)| {
            serde_json::from_slice(line).map_err(|_| {
                let detail = format!("Line {} cannot be read as JSON.", number + 1);
                Problem::new(Code::InvalidJson, detail)
            })
        })
        .collect()
}

/// The first line names the fields. An empty cell is a field left out; the cells of `user_id` are numbers.
fn of_csv(body: &[u8]) -> Result<Vec<Value>, Problem> {
    let unreadable = |line: u64| {
        let detail = format!("Line {line} cannot be read as CSV in UTF-8 with as many cells as the first line.");
        Problem::new(Code::BadRequest, detail)
    };
    let mut reader = csv::Reader::from_reader(body);
    let names = reader.headers().map_err(|_| unreadable(1))?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| unreadable(error.position().map_or(0, csv::Position::line)))?;
        let cells = names.iter().zip(&record).map(|(name, cell)| (name.trim(), cell.trim()));
        // By its name: `Type` has an `is_empty` of its own for references.
        let cells = cells.filter(|(_, cell)| !str::is_empty(cell));
        let row: Map<String, Value> = cells.map(|(name, cell)| (name.to_owned(), value(name, cell))).collect();
        rows.push(Value::Object(row));
    }
    Ok(rows)
}

fn value(name: &str, cell: &str) -> Value {
    match cell.parse::<i64>() {
        Ok(number) if name == "user_id" => Value::from(number),
        _ => Value::from(cell),
    }
}

impl<'a, T: JsonSchema + Serialize + Send + Sync> ApiExtractor<'a> for Rows<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Typed<ListBody<T>> as Type>::register(registry);
        <Typed<T> as Type>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = |content_type, schema| MetaMediaType { content_type, schema };
        Some(MetaRequest {
            description: None,
            content: vec![
                content(
                    <Json<Typed<ListBody<T>>> as Payload>::CONTENT_TYPE,
                    <Typed<ListBody<T>> as Type>::schema_ref(),
                ),
                content(NDJSON, <Typed<T> as Type>::schema_ref()),
                content(CSV, MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")))),
            ],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let media_type = request.content_type().unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let format = match essence.to_ascii_lowercase().as_str() {
            "application/json" => Format::Json,
            NDJSON => Format::Ndjson,
            CSV => Format::Csv,
            _ => {
                let detail = format!("Send the body as application/json, {NDJSON} or {CSV}.");
                return Err(Problem::new(Code::UnsupportedMediaType, detail).into());
            }
        };
        let bytes = match body.take()?.into_bytes_limit(MAX_BODY).await {
            Ok(bytes) => bytes,
            Err(poem::error::ReadBodyError::PayloadTooLarge) => return Err(shell::too_large().into()),
            Err(_) => return Err(Problem::new(Code::BadRequest, "The body broke off.").into()),
        };
        Ok(Self {
            body: Zeroizing::new(bytes.to_vec()),
            format,
            of: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Row {
        user_id: Option<i64>,
        note: Option<String>,
    }

    fn rows(format: Format, body: &str) -> Result<Vec<Row>, Problem> {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        Rows {
            body,
            format,
            of: PhantomData,
        }
        .read()
    }

    #[test]
    fn the_same_rows_come_from_each_format() {
        let json = json!({ "items": [{ "user_id": 7, "note": "42" }, { "note": "a" }] }).to_string();
        let from_json = rows(Format::Json, &json).expect("rows");
        assert_eq!(from_json[0].note.as_deref(), Some("42"));
        let ndjson = "{\"user_id\": 7, \"note\": \"42\"}\n\n{\"note\": \"a\"}\n";
        assert_eq!(rows(Format::Ndjson, ndjson).expect("rows"), from_json);
        assert_eq!(rows(Format::Csv, "user_id,note\n7,42\n, a\n").expect("rows"), from_json);
    }

    #[test]
    fn a_wrong_row_is_named() {
        let problem = rows(Format::Csv, "user_id,noet\n7,42\n").expect_err("no such field");
        assert_eq!(problem.code(), Code::UnknownField);
        for body in ["user_id,note\n1\n", "user_id\nx\n"] {
            assert!(rows(Format::Csv, body).is_err(), "{body}");
        }
        assert!(rows(Format::Ndjson, "{}\n{").is_err());
    }
}
