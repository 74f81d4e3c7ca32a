//! `GET /v1/jobs/{id}/members`: what a scan saw, as JSON pages, or whole as CSV or NDJSON. The whole list is read in
//! chunks by keyset while it is sent: nothing is buffered and no connection is held, whatever the size.

use std::{io, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use poem::{
    Body, IntoResponse, Response,
    http::{HeaderMap, header},
    web::Data,
};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Payload,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{job_id, not_found};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::{self, List, Page},
        problem::{Code, Problem},
        typed::Typed,
    },
    ids::JobId,
    store::{
        PgPool, StoreError, job_reads,
        member_reads::{self, MemberRecord},
    },
};

/// Rows that are in memory at a time while a list is sent.
const CHUNK: i64 = 1000;

const CSV: &str = "text/csv; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";

const CSV_HEADER: [&str; 9] = [
    "user_id",
    "username",
    "first_name",
    "last_name",
    "is_bot",
    "is_deleted",
    "is_premium",
    "role",
    "joined_at",
];

/// A person as a scan saw them. Phone numbers are never stored.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Member")]
pub struct MemberView {
    /// Telegram's user id.
    pub user_id: i64,
    /// Without `@`.
    pub username: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub is_bot: bool,
    pub is_deleted: bool,
    pub is_premium: bool,
    /// `creator`, `admin`, `member`, `restricted`, `banned` or `left`.
    pub role: String,
    pub joined_at: Option<DateTime<Utc>>,
}

impl From<MemberRecord> for MemberView {
    fn from(member: MemberRecord) -> Self {
        Self {
            user_id: member.user_id,
            username: member.username,
            first_name: member.first_name,
            last_name: member.last_name,
            is_bot: member.is_bot,
            is_deleted: member.is_deleted,
            is_premium: member.is_premium,
            role: member.role,
            joined_at: member.joined_at,
        }
    }
}

/// How the members are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Ndjson,
}

/// The members, already written.
struct Members(Response);

impl IntoResponse for Members {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Members {
    fn meta() -> MetaResponses {
        let text = || MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
        let content = |content_type, schema| MetaMediaType { content_type, schema };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The members by user id: a page as JSON, or all of them as CSV or NDJSON.",
                status: Some(200),
                status_range: None,
                content: vec![
                    content(
                        "application/json",
                        <poem_openapi::payload::Json<Typed<Page<MemberView>>> as Payload>::schema_ref(),
                    ),
                    content("text/csv", text()),
                    content(
                        NDJSON,
                        <poem_openapi::payload::Json<Typed<MemberView>> as Payload>::schema_ref(),
                    ),
                ],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        <poem_openapi::payload::Json<Typed<Page<MemberView>>> as Payload>::register(registry);
        <poem_openapi::payload::Json<Typed<MemberView>> as Payload>::register(registry);
    }
}

pub struct MembersApi;

#[OpenApi]
impl MembersApi {
    /// Read the members a scan saw
    ///
    /// Answers a page as JSON, or all members as CSV or NDJSON (by `Accept`, or by `format`), streamed whatever their
    /// number. In CSV, a cell that a spreadsheet would take for a formula begins with an apostrophe. A later scan changes
    /// nothing here. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/members",
        method = "get",
        operation_id = "list_members",
        tag = "Tag::Jobs"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per part of the request")]
    async fn members(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The job's id.
        id: Path<String>,
        /// How to write them; wins over `Accept`.
        format: Query<Option<String>>,
        /// Most members of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Members, Problem> {
        let job = job_id(&id)?;
        let format = wanted(format.as_deref(), headers)?;
        if format != Format::Json && (limit.is_some() || cursor.is_some()) {
            let detail = "CSV and NDJSON hold all members: leave limit and cursor out.";
            return Err(Problem::new(Code::InvalidParameter, detail).field("limit"));
        }
        let limit = page::limit(limit.as_deref())?;
        let after = page::decode(List::Members, cursor.as_deref())?;
        if !member_reads::scan_exists(&state.pool, job).await? {
            return Err(nothing_to_show(&state.pool, job).await);
        }
        match format {
            Format::Json => json_page(&state.pool, job, after, limit).await.map(Members),
            Format::Csv => Ok(Members(csv(state.pool.clone(), job))),
            Format::Ndjson => Ok(Members(ndjson(state.pool.clone(), job))),
        }
    }
}

async fn nothing_to_show(pool: &PgPool, job: JobId) -> Problem {
    match job_reads::get(pool, job).await {
        Ok(None) => not_found(),
        Ok(Some(_)) => Problem::new(
            Code::MembersNotFound,
            "The job is not a scan, has not begun, or its retention is over.",
        ),
        Err(error) => error.into(),
    }
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

async fn json_page(pool: &PgPool, job: JobId, after: Option<i64>, limit: u16) -> Result<Response, Problem> {
    let members = member_reads::page(pool, job, after, i64::from(limit) + 1).await?;
    let (members, next_cursor) = page::cut(members, limit, List::Members, |member| member.user_id.to_string());
    let items = members.into_iter().map(MemberView::from).collect();
    Ok(poem::web::Json(Page { items, next_cursor }).into_response())
}

fn csv(pool: PgPool, job: JobId) -> Response {
    let header = write_csv(|writer| writer.write_record(CSV_HEADER));
    let rows = chunks(pool, job).and_then(|members| async move {
        write_csv(|writer| {
            members
                .iter()
                .try_for_each(|member| writer.write_record(csv_cells(member)))
        })
    });
    let whole = stream::once(async { header }).chain(rows);
    download(CSV, "csv", job, Body::from_bytes_stream(whole))
}

fn ndjson(pool: PgPool, job: JobId) -> Response {
    let rows = chunks(pool, job).and_then(|members| async move {
        let mut text = Vec::new();
        for member in members {
            serde_json::to_writer(&mut text, &MemberView::from(member))?;
            text.push(b'\n');
        }
        Ok(text)
    });
    download(NDJSON, "ndjson", job, Body::from_bytes_stream(rows))
}

fn download(content_type: &str, extension: &str, job: JobId, body: Body) -> Response {
    Response::builder()
        .content_type(content_type)
        .header(
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"members-{job}.{extension}\""),
        )
        .body(body)
}

/// The members in chunks, each read when the one before has been sent.
fn chunks(pool: PgPool, job: JobId) -> impl Stream<Item = io::Result<Vec<MemberRecord>>> + Send {
    stream::try_unfold((pool, None, false), move |(pool, after, ended)| async move {
        if ended {
            return Ok(None);
        }
        let members = member_reads::page(&pool, job, after, CHUNK).await.map_err(cut_off)?;
        let Some(last) = members.last().map(|member| member.user_id) else {
            return Ok(None);
        };
        let ended = i64::try_from(members.len()).is_ok_and(|count| count < CHUNK);
        Ok(Some((members, (pool, Some(last), ended))))
    })
}

/// The status is sent long since: the connection is cut, so that a part is not taken for the whole.
fn cut_off(error: StoreError) -> io::Error {
    let cause: &(dyn std::error::Error + 'static) = &error;
    tracing::error!(error = cause, "a list of members broke off");
    io::Error::other(error)
}

fn write_csv(write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    write(&mut writer)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

fn csv_cells(member: &MemberRecord) -> [String; 9] {
    let text = |value: &Option<String>| safe_cell(value.as_deref().unwrap_or_default());
    [
        member.user_id.to_string(),
        text(&member.username),
        text(&member.first_name),
        text(&member.last_name),
        member.is_bot.to_string(),
        member.is_deleted.to_string(),
        member.is_premium.to_string(),
        safe_cell(&member.role),
        member
            .joined_at
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
            .unwrap_or_default(),
    ]
}

/// People choose their names: one that a spreadsheet would run as a formula is told to be text.
fn safe_cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests;
