//! Files: uploaded to be published, downloaded by scans; looked at, given back, taken out.

use std::{io, ops::Range, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use poem::{
    Body, Request,
    http::{HeaderMap, header::RANGE},
    web::Data,
};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::{Binary, Json},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Operator, Viewer},
    document::Tag,
    page::{self, List, Page},
    problem::{Code, Problem},
    shell::RequestContext,
    typed::Typed,
};
use crate::{
    files::{FilesError, Label},
    store::{
        audit, failed,
        files::{self, FileRecord},
        hex,
    },
};

/// How long an upload or a download may take.
pub const TIME_LIMIT: Duration = Duration::from_mins(10);
/// Where files are uploaded.
pub const PATH: &str = "/v1/files";
const LONGEST_NAME: usize = 200;

/// A file that messages can have.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "File")]
pub struct FileView {
    /// What `args.media` names it by.
    pub id: Uuid,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
    pub size_bytes: i64,
    /// As it was said when it came in last.
    pub content_type: String,
    pub name: Option<String>,
    /// Whoever uploaded it first: `key:<id>`; null when a job fetched or downloaded it.
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    /// It is deleted then, unless it is used or uploaded again before.
    pub expires_at: DateTime<Utc>,
}

impl From<FileRecord> for FileView {
    fn from(file: FileRecord) -> Self {
        Self {
            id: file.id,
            sha256: hex(&file.sha256),
            size_bytes: file.size_bytes,
            content_type: file.content_type,
            name: file.name,
            created_by: file.created_by,
            created_at: file.created_at,
            expires_at: file.expires_at,
        }
    }
}

#[derive(ApiResponse)]
enum Uploaded {
    /// A file with the same bytes was there, and is kept for as long from now on.
    #[oai(status = 200)]
    There(Json<Typed<FileView>>),
    /// The file is stored.
    #[oai(status = 201)]
    Created(Json<Typed<FileView>>),
}

#[derive(ApiResponse)]
enum Content {
    /// All of it.
    #[oai(status = 200)]
    Whole(
        Binary<Body>,
        /// That ranges can be asked for.
        #[oai(header = "Accept-Ranges")]
        String,
    ),
    /// The range that was asked for.
    #[oai(status = 206)]
    Part(
        Binary<Body>,
        /// Which bytes of how many.
        #[oai(header = "Content-Range")]
        String,
    ),
}

#[derive(ApiResponse)]
enum Deleted {
    /// The file is gone.
    #[oai(status = 204)]
    Gone,
}

pub struct FilesApi;

#[OpenApi]
impl FilesApi {
    /// Upload a file
    ///
    /// Takes the bytes of a picture, video or document as they are, with its type in `Content-Type`, and answers with an id
    /// for `args.media` of `publish` jobs. Equal bytes are kept once, under the type and the name that were said last. Scope:
    /// operator.
    #[oai(
        path = "/v1/files",
        method = "post",
        operation_id = "upload_file",
        tag = "Tag::Files"
    )]
    async fn upload(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        request: &Request,
        /// The name that a document is shown under, at most 200 bytes.
        name: Query<Option<String>>,
        bytes: Binary<Body>,
    ) -> Result<Uploaded, Problem> {
        if name.0.as_ref().is_some_and(|name| !is_name(name)) {
            let detail = format!("name takes 1 to {LONGEST_NAME} bytes without slashes and control characters.");
            return Err(Problem::new(Code::InvalidParameter, detail).field("name"));
        }
        let label = Label {
            name: name.0,
            content_type: content_type(request)?,
            created_by: Some(caller.0.actor()),
        };
        let bytes = bytes.0.into_bytes_stream().map_err(io::Error::other);
        let (file, was_there) = state.files.put(bytes, &label).await.map_err(problem)?;
        let mut conn = state.pool.acquire().await.map_err(failed("audit_file"))?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "file.uploaded",
            subject: &format!("file:{}", file.id),
            request_id: Some(context.id()),
            details: json!({ "size_bytes": file.size_bytes, "was_there": was_there }),
        };
        audit::record(&mut conn, entry).await?;
        let view = Json(Typed(FileView::from(file)));
        Ok(if was_there {
            Uploaded::There(view)
        } else {
            Uploaded::Created(view)
        })
    }

    /// List files
    ///
    /// Lists the files there are, the latest first. Scope: viewer.
    #[oai(path = "/v1/files", method = "get", operation_id = "list_files", tag = "Tag::Files")]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Most files of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<FileView>>>, Problem> {
        let limit = page::limit(limit.as_deref())?;
        let before = page::decode(List::Files, cursor.as_deref())?;
        let found = files::page(&state.pool, before, i64::from(limit) + 1).await?;
        let (found, next_cursor) = page::cut(found, limit, List::Files, |file| file.id.to_string());
        let items = found.into_iter().map(FileView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Get a file
    ///
    /// Says what is known of a file. Scope: viewer.
    #[oai(
        path = "/v1/files/:id",
        method = "get",
        operation_id = "get_file",
        tag = "Tag::Files"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The file's id.
        id: Path<String>,
    ) -> Result<Json<Typed<FileView>>, Problem> {
        let file = state.files.find(file_id(&id)?).await.map_err(problem)?;
        Ok(Json(Typed(file.ok_or_else(not_found)?.into())))
    }

    /// Download a file
    ///
    /// Gives a file's bytes, or with `Range: bytes=…` one range of them, so that a download that broke off can be gone on with;
    /// several ranges, and those the file does not have, are not heeded. Scope: operator.
    #[oai(
        path = "/v1/files/:id/content",
        method = "get",
        operation_id = "download_file",
        tag = "Tag::Files"
    )]
    async fn content(
        &self,
        _caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The file's id.
        id: Path<String>,
    ) -> Result<Content, Problem> {
        let file = state.files.find(file_id(&id)?).await.map_err(problem)?;
        let file = file.ok_or_else(not_found)?;
        let size = u64::try_from(file.size_bytes).unwrap_or(0);
        let asked = headers.get(RANGE).and_then(|value| value.to_str().ok());
        let range = asked.and_then(|range| one_range(range, size));
        let bytes = state.files.read(&file, range.clone()).await.map_err(problem)?;
        let body = Binary(Body::from_bytes_stream(bytes.map_err(io::Error::other)));
        Ok(match range {
            None => Content::Whole(body, "bytes".to_owned()),
            Some(range) => Content::Part(body, format!("bytes {}-{}/{size}", range.start, range.end - 1)),
        })
    }

    /// Delete a file
    ///
    /// Takes a file out. Jobs that name it and have not run yet fail with `file_not_found`. Scope: operator.
    #[oai(
        path = "/v1/files/:id",
        method = "delete",
        operation_id = "delete_file",
        tag = "Tag::Files"
    )]
    async fn delete(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The file's id.
        id: Path<String>,
    ) -> Result<Deleted, Problem> {
        let id = file_id(&id)?;
        let mut transaction = state.pool.begin().await.map_err(failed("delete_file"))?;
        if !files::delete(&mut transaction, id).await? {
            return Err(not_found());
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "file.deleted",
            subject: &format!("file:{id}"),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("delete_file"))?;
        // It is gone whatever becomes of its bytes now: what is left is swept later.
        if let Err(error) = state.files.sweep().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the bytes of a file were left for later"
            );
        }
        Ok(Deleted::Gone)
    }
}

/// Whether a request carries or fetches a file's bytes, which may take a while.
pub fn is_long(method: &poem::http::Method, path: &str) -> bool {
    (method == poem::http::Method::POST && path == PATH)
        || (path.starts_with("/v1/files/") && path.ends_with("/content"))
}

/// The bytes that a `Range` names, of a file of `size`: one range alone, and one that the file has something of.
fn one_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => number(first)?..number(last)?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(range)
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(|c: char| c.is_control() || c == '/' || c == '\\')
}

fn content_type(request: &Request) -> Result<String, Problem> {
    let given = request.content_type().unwrap_or("application/octet-stream");
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fits = essence.len() <= 100
        && essence.split('/').count() == 2
        && essence
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/.+-_".contains(&byte));
    if !fits || essence.starts_with("multipart/") {
        let detail = "Send the file's bytes as the body, with its own type as Content-Type, such as image/jpeg.";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    // What clients say that were told nothing of a type.
    if essence == "application/x-www-form-urlencoded" {
        return Ok("application/octet-stream".to_owned());
    }
    Ok(essence)
}

fn file_id(text: &str) -> Result<Uuid, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A file's id is a UUID.").field("id"))
}

fn not_found() -> Problem {
    let detail = "There is no file of that id. Files are kept for a limited time after they were used.";
    Problem::new(Code::FileNotFound, detail)
}

fn problem(error: FilesError) -> Problem {
    match error {
        FilesError::TooLarge { most } => {
            let detail = format!("A file has at most {most} bytes (WIREROOM_FILES_MAX_MB).");
            Problem::new(Code::FileTooLarge, detail)
        }
        FilesError::Empty => Problem::new(Code::BadRequest, "The body has no bytes: send the file as the body."),
        FilesError::Broken(_) => Problem::new(Code::BadRequest, "The body broke off."),
        FilesError::Database(error) => error.into(),
        error => Problem::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_that_the_file_has() {
        for (text, range) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=2-", Some(2..10)),
            ("bytes=2-99", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-0", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("bytes=-", None),
            ("items=0-1", None),
            ("bytes=0-99999999999999999999", None),
        ] {
            assert_eq!(one_range(text, 10), range, "{text}");
        }
    }
}
