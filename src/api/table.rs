//! Lists that can be read as JSON pages, or whole as CSV or NDJSON. A whole list is read in chunks by keyset while it is
//! sent: nothing is buffered and no connection is held, whatever the size.

use std::{future::Future, io, marker::PhantomData};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use poem::{
    Body, IntoResponse, Response,
    http::{HeaderMap, header},
};
use poem_openapi::{
    ApiResponse,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    page::{self, List, Page},
    problem::{Code, Problem},
    typed::Typed,
};
use crate::store::StoreError;

/// Rows that are in memory at a time while a list is sent.
pub const CHUNK: i64 = 1000;

const CSV: &str = "text/csv; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";

/// A row of such a list.
pub trait Row: Send + Sync + Sized + 'static {
    type View: Serialize + JsonSchema + Send + Sync + 'static;
    /// Its place in the list.
    type Key: std::fmt::Display + std::str::FromStr + Send + Copy;

    const LIST: List;
    /// What files of it are called.
    const NAME: &'static str;
    const COLUMNS: &'static [&'static str];

    fn key(&self) -> Self::Key;
    /// Its cells in CSV, made [safe](safe_cell) where people choose what is in them.
    fn cells(&self) -> Vec<String>;
    fn view(self) -> Self::View;
}

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
    Ndjson,
}

/// What part of a list is asked for, and how it is written.
pub struct Asked<K> {
    format: Format,
    limit: u16,
    after: Option<K>,
}

/// A list, already written.
pub struct Table<R>(Response, PhantomData<fn() -> R>);

impl<R: Row> IntoResponse for Table<R> {
    fn into_response(self) -> Response {
        self.0
    }
}

impl<R: Row> ApiResponse for Table<R> {
    fn meta() -> MetaResponses {
        let text = || MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
        let content = |content_type, schema| MetaMediaType { content_type, schema };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "A page as JSON, or all of them as CSV or NDJSON.",
                status: Some(200),
                status_range: None,
                content: vec![
                    content(
                        "application/json",
                        <Json<Typed<Page<R::View>>> as Payload>::schema_ref(),
                    ),
                    content("text/csv", text()),
                    content(NDJSON, <Json<Typed<R::View>> as Payload>::schema_ref()),
                ],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        <Json<Typed<Page<R::View>>> as Payload>::register(registry);
        <Json<Typed<R::View>> as Payload>::register(registry);
    }
}

/// Reads the parameters that all such lists have.
pub fn asked<R: Row>(
    headers: &HeaderMap,
    format: Option<&str>,
    limit: Option<&str>,
    cursor: Option<&str>,
) -> Result<Asked<R::Key>, Problem> {
    let format = wanted(format, headers)?;
    if format != Format::Json && (limit.is_some() || cursor.is_some()) {
        let detail = "CSV and NDJSON hold all rows: leave limit and cursor out.";
        return Err(Problem::new(Code::InvalidParameter, detail).field("limit"));
    }
    Ok(Asked {
        format,
        limit: page::limit(limit)?,
        after: page::decode(R::LIST, cursor)?,
    })
}

/// Writes the list that `read` gives: rows past a key, at most so many. `of` is part of the file's name.
pub async fn write<R, Read, Reading>(
    asked: Asked<R::Key>,
    of: impl std::fmt::Display,
    read: Read,
) -> Result<Table<R>, Problem>
where
    R: Row,
    Read: Fn(Option<R::Key>, i64) -> Reading + Send + 'static,
    Reading: Future<Output = Result<Vec<R>, StoreError>> + Send + 'static,
{
    let response = match asked.format {
        Format::Json => {
            let rows = read(asked.after, i64::from(asked.limit) + 1).await?;
            let (rows, next_cursor) = page::cut(rows, asked.limit, R::LIST, |row| row.key().to_string());
            let items = rows.into_iter().map(R::view).collect();
            poem::web::Json(Page { items, next_cursor }).into_response()
        }
        Format::Csv => download(CSV, &format!("{}-{of}.csv", R::NAME), csv(read)),
        Format::Ndjson => download(NDJSON, &format!("{}-{of}.ndjson", R::NAME), ndjson(read)),
    };
    Ok(Table(response, PhantomData))
}

/// The first media type in `Accept` that can be made; quality values are not weighed.
fn wanted(format: Option<&str>, headers: &HeaderMap) -> Result<Format, Problem> {
    match format {
        Some("json") => return Ok(Format::Json),
        Some("csv") => return Ok(Format::Csv),
        Some("ndjson") => return Ok(Format::Ndjson),
        Some(_) => {
            let detail = "format takes one of json, csv, ndjson.";
            return Err(Problem::new(Code::InvalidParameter, detail).field("format"));
        }
        None => {}
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let Some(accept) = accept else {
        return Ok(Format::Json);
    };
    accept
        .split(',')
        .find_map(|range| match range.split(';').next().unwrap_or_default().trim() {
            "application/json" | "application/*" | "*/*" | "" => Some(Format::Json),
            "text/csv" | "text/*" => Some(Format::Csv),
            NDJSON => Some(Format::Ndjson),
            _ => None,
        })
        .ok_or_else(|| {
            let detail = "Accept application/json, text/csv or application/x-ndjson.";
            Problem::new(Code::NotAcceptable, detail).field("Accept")
        })
}

fn csv<R, Read, Reading>(read: Read) -> Body
where
    R: Row,
    Read: Fn(Option<R::Key>, i64) -> Reading + Send + 'static,
    Reading: Future<Output = Result<Vec<R>, StoreError>> + Send + 'static,
{
    let header = write_csv(|writer| writer.write_record(R::COLUMNS));
    let rows = chunks(read).and_then(|rows: Vec<R>| async move {
        write_csv(|writer| rows.iter().try_for_each(|row| writer.write_record(row.cells())))
    });
    Body::from_bytes_stream(stream::once(async { header }).chain(rows))
}

fn ndjson<R, Read, Reading>(read: Read) -> Body
where
    R: Row,
    Read: Fn(Option<R::Key>, i64) -> Reading + Send + 'static,
    Reading: Future<Output = Result<Vec<R>, StoreError>> + Send + 'static,
{
    let rows = chunks(read).and_then(|rows: Vec<R>| async move {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, &row.view())?;
            text.push(b'\n');
        }
        Ok(text)
    });
    Body::from_bytes_stream(rows)
}

fn download(content_type: &str, name: &str, body: Body) -> Response {
    Response::builder()
        .content_type(content_type)
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))
        .body(body)
}

/// The rows in chunks, each read when the one before has been sent.
fn chunks<R, Read, Reading>(read: Read) -> impl Stream<Item = io::Result<Vec<R>>> + Send
where
    R: Row,
    Read: Fn(Option<R::Key>, i64) -> Reading + Send + 'static,
    Reading: Future<Output = Result<Vec<R>, StoreError>> + Send + 'static,
{
    stream::try_unfold((read, None, false), move |(read, after, ended)| async move {
        if ended {
            return Ok(None);
        }
        let rows = read(after, CHUNK).await.map_err(cut_off)?;
        let Some(last) = rows.last().map(R::key) else {
            return Ok(None);
        };
        let ended = i64::try_from(rows.len()).is_ok_and(|count| count < CHUNK);
        Ok(Some((rows, (read, Some(last), ended))))
    })
}

/// The status is sent long since: the connection is cut, so that a part is not taken for the whole.
fn cut_off(error: StoreError) -> io::Error {
    let cause: &(dyn std::error::Error + 'static) = &error;
    tracing::error!(error = cause, "a list broke off while it was sent");
    io::Error::other(error)
}

fn write_csv(write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    write(&mut writer)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// People choose their names and write their messages: what a spreadsheet would run as a formula is told to be text.
pub fn safe_cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

/// [`safe_cell`] of what may be missing.
pub fn text_cell(text: Option<&str>) -> String {
    safe_cell(text.unwrap_or_default())
}

/// Anything that people do not choose; empty when it is missing.
pub fn plain_cell(value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// A time, to the second; empty when it is missing.
pub fn time_cell(time: Option<chrono::DateTime<chrono::Utc>>) -> String {
    time.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        .unwrap_or_default()
}

/// A parameter that is read by [`FromStr`](std::str::FromStr); `shape` says how it is written.
pub fn parameter<T: std::str::FromStr>(name: &str, given: Option<&str>, shape: &str) -> Result<Option<T>, Problem> {
    let wrong = |_| Problem::new(Code::InvalidParameter, format!("{name} takes {shape}.")).field(name);
    given.map(|text| text.parse().map_err(wrong)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_would_be_a_formula_is_told_to_be_text() {
        for (name, cell) in [
            ("=1+1", "'=1+1"),
            ("+49", "'+49"),
            ("-1", "'-1"),
            ("@name", "'@name"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("Anna", "Anna"),
            ("A=B", "A=B"),
            ("'", "'"),
            ("", ""),
        ] {
            assert_eq!(safe_cell(name), cell);
        }
    }
}
