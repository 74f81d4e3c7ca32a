//! `/v1/suppressions`: people who must not be contacted, by anyone, from any session. A phone number that comes in is marked
//! at once, and is nowhere afterwards.

use std::{io, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use poem::{Body, IntoResponse, Response, http::header, web::Data};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use wireroom_jobs::{invite::parse_person, outreach::PersonRef};
use zeroize::Zeroizing;

use super::{person_key, settle_key};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed, Operator, Viewer},
        document::Tag,
        jobs::invalid,
        page::{self, List, Page},
        problem::{Code, Problem},
        rows::Rows,
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    person_key::Mark,
    store::{
        self, PgPool, StoreError, audit, failed, hex,
        suppressions::{self, NewSuppression, Suppressed, SuppressionRecord},
    },
};

const MAX_REASON: usize = 500;
/// Rows that are in memory at a time while the list is sent.
const CHUNK: i64 = 1000;
const CSV: &str = "text/csv; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";
const CSV_HEADER: [&str; 9] = [
    "id",
    "user_id",
    "username",
    "phone_hash",
    "username_hash",
    "reason",
    "source",
    "added_by",
    "added_at",
];

/// Somebody who must not be contacted: by user id, by name or by phone number, one of them.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SuppressionRequest")]
pub struct SuppressionBody {
    /// Telegram's user id.
    #[serde(default)]
    #[schemars(range(min = 1))]
    user_id: Option<i64>,
    /// With or without `@`.
    #[serde(default)]
    #[schemars(length(min = 4, max = 33), example = &"@friendly_person")]
    username: Option<String>,
    /// In the international form: with the country code, and without a zero that is dialled only inside the country. Only its
    /// keyed hash is stored.
    #[serde(default)]
    #[schemars(length(min = 7, max = 32))]
    phone: Option<String>,
    /// The hash of a phone number, as an export of the list shows it: 64 hexadecimal digits.
    #[serde(default)]
    #[schemars(length(min = 64, max = 64))]
    phone_hash: Option<String>,
    /// The hash of the name of somebody who was erased, as an export of the list shows it: 64 hexadecimal digits.
    #[serde(default)]
    #[schemars(length(min = 64, max = 64))]
    username_hash: Option<String>,
    /// Why: 1 to 500 characters, without a phone number.
    #[schemars(length(min = 1, max = 500), example = &"Asked by letter not to be contacted")]
    reason: String,
    /// Not read: so that an export can be imported as it is.
    #[serde(default)]
    id: Option<String>,
    /// Not read.
    #[serde(default)]
    source: Option<String>,
    /// Not read.
    #[serde(default)]
    added_by: Option<String>,
    /// Not read.
    #[serde(default)]
    added_at: Option<String>,
}

/// A row of the list: one of `user_id`, `username`, `phone_hash` and `username_hash`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Suppression")]
pub struct SuppressionView {
    pub id: Uuid,
    pub user_id: Option<i64>,
    /// Without `@`.
    pub username: Option<String>,
    /// The keyed hash of a phone number, in hexadecimal digits.
    pub phone_hash: Option<String>,
    /// The keyed hash of a name, in hexadecimal digits: it was suppressed, and is or was the name of somebody who was erased.
    pub username_hash: Option<String>,
    pub reason: String,
    /// `api`, `import`; `blocked_us`: they blocked an account that contacted them; `said_stop`: they answered so.
    #[schemars(extend("enum" = ["api", "import", "blocked_us", "said_stop"]))]
    pub source: String,
    /// `key:<id>`, or `job:<id>`.
    pub added_by: String,
    pub added_at: DateTime<Utc>,
}

/// What became of an import.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SuppressionImport")]
pub struct ImportView {
    pub added: usize,
    /// They were on the list, and stay there as they were.
    pub already_there: usize,
}

impl From<SuppressionRecord> for SuppressionView {
    fn from(record: SuppressionRecord) -> Self {
        Self {
            id: record.id,
            user_id: record.user_id,
            username: record.username,
            phone_hash: record.phone_hash.as_deref().map(hex),
            username_hash: record.username_hash.as_deref().map(hex),
            reason: record.reason,
            source: record.source,
            added_by: record.added_by,
            added_at: record.added_at,
        }
    }
}

fn from_hex(text: &str) -> Option<Mark> {
    let mut mark = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in mark.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(mark)
}

#[derive(ApiResponse)]
enum Added {
    /// They were on the list already: the row that was there.
    #[oai(status = 200)]
    There(Json<Typed<SuppressionView>>),
    /// Nobody contacts them from now on.
    #[oai(status = 201)]
    Now(Json<Typed<SuppressionView>>),
}

#[derive(ApiResponse)]
enum Removed {
    /// They may be contacted again, if there is a basis for it.
    #[oai(status = 204)]
    Now,
}

/// The list, already written.
struct Listed(Response);

impl IntoResponse for Listed {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Listed {
    fn meta() -> MetaResponses {
        let content = |content_type, schema| MetaMediaType { content_type, schema };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The list, oldest first: a page as JSON, or all of it as CSV or NDJSON.",
                status: Some(200),
                status_range: None,
                content: vec![
                    content(
                        "application/json",
                        <Json<Typed<Page<SuppressionView>>> as Payload>::schema_ref(),
                    ),
                    content("text/csv", MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")))),
                    content(NDJSON, <Json<Typed<SuppressionView>> as Payload>::schema_ref()),
                ],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        <Json<Typed<Page<SuppressionView>>> as Payload>::register(registry);
        <Json<Typed<SuppressionView>> as Payload>::register(registry);
    }
}

pub struct SuppressionsApi;

#[OpenApi]
impl SuppressionsApi {
    /// List suppressions
    ///
    /// Lists the people who must not be contacted, oldest first; with `format=csv` or `format=ndjson` all of them, streamed,
    /// in a form that can be imported. Scope: viewer.
    #[oai(
        path = "/v1/suppressions",
        method = "get",
        operation_id = "list_suppressions",
        tag = "Tag::Outreach"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// How to write them.
        format: Query<Option<String>>,
        /// Most rows of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Listed, Problem> {
        let rows = |bytes| Body::from_bytes_stream(bytes);
        match format.as_deref() {
            None | Some("json") => {}
            Some(_) if limit.is_some() || cursor.is_some() => {
                let detail = "CSV and NDJSON hold all rows: leave limit and cursor out.";
                return Err(Problem::new(Code::InvalidParameter, detail).field("limit"));
            }
            Some("csv") => return Ok(Listed(download(CSV, "csv", Body::from_bytes_stream(csv(&state.pool))))),
            Some("ndjson") => return Ok(Listed(download(NDJSON, "ndjson", rows(ndjson(&state.pool))))),
            Some(_) => {
                let detail = "format takes one of json, csv, ndjson.";
                return Err(Problem::new(Code::InvalidParameter, detail).field("format"));
            }
        }
        let limit = page::limit(limit.as_deref())?;
        let after: Option<Uuid> = page::decode(List::Suppressions, cursor.as_deref())?;
        let mut conn = store::connection(&state.pool, "suppression_page").await?;
        let records = suppressions::page(&mut conn, after, i64::from(limit) + 1).await?;
        let (records, next_cursor) = page::cut(records, limit, List::Suppressions, |row| row.id.to_string());
        let items: Vec<SuppressionView> = records.into_iter().map(SuppressionView::from).collect();
        Ok(Listed(poem::web::Json(Page { items, next_cursor }).into_response()))
    }

    /// Suppress somebody
    ///
    /// From the moment of the answer on, no session begins to contact them. Somebody who is on the list stays as they are.
    /// Scope: operator.
    #[oai(
        path = "/v1/suppressions",
        method = "post",
        operation_id = "add_suppression",
        tag = "Tag::Outreach"
    )]
    async fn add(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<SuppressionBody>,
    ) -> Result<Added, Problem> {
        let new = read(state.0, &body.read()?, "")?;
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_suppression"))?;
        settle(state.0, &mut transaction, std::slice::from_ref(&new)).await?;
        let added = suppressions::add(&mut transaction, std::slice::from_ref(&new), "api", &actor).await?;
        let record = suppressions::find(&mut transaction, &new.who).await?;
        let record = record.ok_or_else(|| Problem::internal("a suppression that is gone"))?;
        if added.is_empty() {
            return Ok(Added::There(Json(Typed(record.into()))));
        }
        let entry = audit::Entry {
            actor: &actor,
            action: "suppression.added",
            // Whom it is about is in the row, and leaves with it.
            subject: &format!("suppression:{}", record.id),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_suppression"))?;
        Ok(Added::Now(Json(Typed(record.into()))))
    }

    /// Import suppressions
    ///
    /// Takes up to 10,000 rows as JSON, NDJSON or CSV (the first line names the fields): all or none. Somebody who is on the
    /// list stays as they are. Scope: operator.
    #[oai(
        path = "/v1/suppressions/import",
        method = "post",
        operation_id = "import_suppressions",
        tag = "Tag::Outreach"
    )]
    async fn import(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Rows<SuppressionBody>,
    ) -> Result<Json<Typed<ImportView>>, Problem> {
        let bodies = body.read()?;
        let rows = bodies.iter().enumerate();
        let rows: Vec<NewSuppression> = rows
            .map(|(index, row)| read(state.0, row, &format!("items[{index}].")))
            .collect::<Result<_, _>>()?;
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_suppressions"))?;
        settle(state.0, &mut transaction, &rows).await?;
        let added = suppressions::add(&mut transaction, &rows, "import", &actor)
            .await?
            .len();
        let already_there = rows.len() - added;
        let entry = audit::Entry {
            actor: &actor,
            action: "suppressions.imported",
            subject: "suppressions",
            request_id: Some(context.id()),
            details: json!({ "added": added, "already_there": already_there }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_suppressions"))?;
        Ok(Json(Typed(ImportView { added, already_there })))
    }

    /// Remove a suppression
    ///
    /// They may be contacted again, if there is a basis for it. The audit log says who did this. Scope: admin.
    #[oai(
        path = "/v1/suppressions/:id",
        method = "delete",
        operation_id = "remove_suppression",
        tag = "Tag::Outreach"
    )]
    async fn remove(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The row's id.
        id: Path<String>,
    ) -> Result<Removed, Problem> {
        let id: Uuid = id
            .parse()
            .map_err(|_| Problem::new(Code::InvalidParameter, "A suppression's id is a UUID.").field("id"))?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_remove_suppression"))?;
        let removed = suppressions::remove(&mut transaction, id).await?;
        let removed =
            removed.ok_or_else(|| Problem::new(Code::SuppressionNotFound, "There is no suppression of that id."))?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "suppression.removed",
            subject: &format!("suppression:{id}"),
            request_id: Some(context.id()),
            details: json!({ "source": removed.source, "added_by": removed.added_by, "added_at": removed.added_at }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction
            .commit()
            .await
            .map_err(failed("commit_remove_suppression"))?;
        Ok(Removed::Now)
    }
}

/// A row, with its phone number marked. `prefix` stands before the fields' names.
fn read(state: &State, body: &SuppressionBody, prefix: &str) -> Result<NewSuppression, Problem> {
    if body.reason.trim().is_empty() || body.reason.chars().count() > MAX_REASON {
        let message = format!("must be 1 to {MAX_REASON} characters.");
        return Err(invalid(format!("{prefix}reason"), message));
    }
    let hashes = (&body.phone_hash, &body.username_hash);
    let who = match (body.user_id, &body.username, &body.phone, hashes.0, hashes.1) {
        (Some(id), None, None, None, None) if id > 0 => Suppressed::User(id),
        (Some(_), None, None, None, None) => {
            return Err(invalid(format!("{prefix}user_id"), "must be a positive number."));
        }
        (None, Some(name), None, None, None) => {
            let name = name.trim();
            match parse_person(&format!("@{}", name.strip_prefix('@').unwrap_or(name))) {
                Some(PersonRef::Username(name)) => Suppressed::Username(name),
                _ => {
                    return Err(invalid(
                        format!("{prefix}username"),
                        "must be a name such as @harbour_friend.",
                    ));
                }
            }
        }
        (None, None, Some(phone), None, None) => {
            let Some(number) = international(phone) else {
                let message = "must be a phone number as Telegram shows it: with its country code (+49 151 …), and without the 0 that is \
                    dialled only inside the country.";
                return Err(invalid(format!("{prefix}phone"), message));
            };
            Suppressed::Phone(person_key(state)?.phone(&number))
        }
        (None, None, None, Some(hash), None) => {
            Suppressed::Phone(mark_of(state, hash, &format!("{prefix}phone_hash"))?)
        }
        (None, None, None, None, Some(hash)) => {
            Suppressed::UsernameMark(mark_of(state, hash, &format!("{prefix}username_hash"))?)
        }
        _ => {
            let message = "give one of user_id, username, phone, phone_hash and username_hash.";
            return Err(invalid(format!("{prefix}user_id"), message));
        }
    };
    Ok(NewSuppression {
        who,
        reason: body.reason.clone(),
    })
}

/// The digits of a phone number in the international form, however it is written. `None`: it is none, or none that could be told
/// from another country's, as one with a zero that is dialled only inside the country.
fn international(phone: &str) -> Option<Zeroizing<String>> {
    let phone = phone.trim();
    let rest = phone.strip_prefix('+').unwrap_or(phone);
    let clean = rest.chars().all(|c| c.is_ascii_digit() || " -().".contains(c));
    let mut digits = Zeroizing::new(rest.chars().filter(char::is_ascii_digit).collect::<String>());
    let bare: Zeroizing<String> = Zeroizing::new(rest.chars().filter(|c| *c != ' ').collect());
    if !clean || bare.contains("(0") {
        return None;
    }
    if let Some(rest) = digits.strip_prefix("00") {
        digits = Zeroizing::new(rest.to_owned());
    }
    (!digits.starts_with('0') && (7..=15).contains(&digits.len())).then_some(digits)
}

/// A hash as an export shows it.
fn mark_of(state: &State, hash: &str, field: &str) -> Result<Mark, Problem> {
    person_key(state)?;
    from_hex(hash).ok_or_else(|| invalid(field, "must be 64 hexadecimal digits, as an export shows them."))
}

async fn settle(state: &State, conn: &mut store::PgConnection, rows: &[NewSuppression]) -> Result<(), Problem> {
    if rows
        .iter()
        .any(|row| matches!(row.who, Suppressed::Phone(_) | Suppressed::UsernameMark(_)))
    {
        settle_key(conn, &person_key(state)?).await?;
    }
    Ok(())
}

fn download(content_type: &str, extension: &str, body: Body) -> Response {
    let name = format!("attachment; filename=\"suppressions.{extension}\"");
    Response::builder()
        .content_type(content_type)
        .header(header::CONTENT_DISPOSITION, name)
        .body(body)
}

fn csv(pool: &PgPool) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + use<> {
    let header = write_csv(|writer| writer.write_record(CSV_HEADER));
    let rows = chunks(pool.clone()).and_then(|rows| async move {
        write_csv(|writer| rows.iter().try_for_each(|row| writer.write_record(cells(row))))
    });
    stream::once(async { header }).chain(rows)
}

fn ndjson(pool: &PgPool) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + use<> {
    chunks(pool.clone()).and_then(|rows| async move {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, &SuppressionView::from(row))?;
            text.push(b'\n');
        }
        Ok(text)
    })
}

/// The rows in chunks, each read when the one before has been sent.
fn chunks(pool: PgPool) -> impl Stream<Item = io::Result<Vec<SuppressionRecord>>> + Send {
    stream::try_unfold((pool, None), move |(pool, after)| async move {
        let rows = async {
            let mut conn = store::connection(&pool, "suppression_page").await?;
            suppressions::page(&mut conn, after, CHUNK).await
        };
        let rows = rows.await.map_err(cut_off)?;
        let last = rows.last().map(|row| row.id);
        Ok(last.map(|last| (rows, (pool, Some(last)))))
    })
}

/// The status is sent long since: the connection is cut, so that a part is not taken for the whole.
fn cut_off(error: StoreError) -> io::Error {
    let cause: &(dyn std::error::Error + 'static) = &error;
    tracing::error!(error = cause, "a list of suppressions broke off");
    io::Error::other(error)
}

fn write_csv(write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    write(&mut writer)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

fn cells(row: &SuppressionRecord) -> [String; 9] {
    [
        row.id.to_string(),
        row.user_id.map(|id| id.to_string()).unwrap_or_default(),
        row.username.clone().unwrap_or_default(),
        row.phone_hash.as_deref().map(hex).unwrap_or_default(),
        row.username_hash.as_deref().map(hex).unwrap_or_default(),
        safe_cell(&row.reason),
        row.source.clone(),
        row.added_by.clone(),
        row.added_at.to_rfc3339(),
    ]
}

/// One that a spreadsheet would run as a formula is told to be text.
fn safe_cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}
