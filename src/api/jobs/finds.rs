//! `GET /v1/jobs/{id}/chats` and `GET /v1/jobs/{id}/profile`: which chats a search found, and whom or what a scan read in
//! full.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use wireroom_jobs::scan::ports::Profile;

use super::{job_id, members::must_have};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::List,
        problem::{Code, Problem},
        table::{self, Row, Table, parameter, plain_cell, safe_cell, text_cell, time_cell},
        typed::Typed,
    },
    store::scan_rows::{self, FindFilter, FindRecord},
};

/// A public chat that a search found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "FoundChat")]
pub struct FoundChatView {
    /// In the Bot API's form.
    pub id: i64,
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["group", "supergroup", "channel"]))]
    pub chat_type: String,
    pub title: String,
    /// Without `@`.
    pub username: Option<String>,
    pub member_count: Option<i64>,
    /// A guess from its newest messages, in ISO 639-3, such as `eng`; null when they say too little.
    pub language: Option<String>,
    /// How sure the guess is, from 0 to 1.
    pub language_confidence: Option<f32>,
    /// When somebody wrote there last; null when the session may not see it.
    pub last_post_at: Option<DateTime<Utc>>,
    /// Whether the session is a member.
    pub member: bool,
    pub found_at: DateTime<Utc>,
}

/// Whom or what a scan read in full.
#[derive(Clone, Serialize, JsonSchema)]
#[schemars(rename = "ScannedProfile")]
pub struct ProfileView {
    #[schemars(with = "Profile")]
    pub profile: Value,
    pub seen_at: DateTime<Utc>,
}

impl Row for FindRecord {
    type View = FoundChatView;
    type Key = i64;

    const LIST: List = List::Finds;
    const NAME: &'static str = "chats";
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "type",
        "title",
        "username",
        "member_count",
        "language",
        "language_confidence",
        "last_post_at",
        "member",
        "found_at",
    ];

    fn key(&self) -> i64 {
        self.chat_id
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.chat_id.to_string(),
            safe_cell(&self.chat_type),
            safe_cell(&self.title),
            text_cell(self.username.as_deref()),
            plain_cell(self.member_count),
            text_cell(self.language.as_deref()),
            plain_cell(self.language_confidence),
            time_cell(self.last_post_at),
            self.member.to_string(),
            time_cell(Some(self.found_at)),
        ]
    }

    fn view(self) -> FoundChatView {
        FoundChatView {
            id: self.chat_id,
            chat_type: self.chat_type,
            title: self.title,
            username: self.username,
            member_count: self.member_count,
            language: self.language,
            language_confidence: self.language_confidence,
            last_post_at: self.last_post_at,
            member: self.member,
            found_at: self.found_at,
        }
    }
}

pub struct FindsApi;

#[OpenApi]
impl FindsApi {
    /// Read the chats a search found
    ///
    /// Answers a page as JSON, or all chats as CSV or NDJSON (by `Accept`, or by `format`). Of a standing search these are the
    /// ones that no earlier run had found. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/chats",
        method = "get",
        operation_id = "list_found_chats",
        tag = "Tag::Jobs"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per part of the request")]
    async fn chats(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The job's id.
        id: Path<String>,
        /// Only chats of this type.
        #[oai(name = "type")]
        chat_type: Query<Option<String>>,
        /// Only chats in this language, in ISO 639-3.
        language: Query<Option<String>>,
        /// Only chats with this many members or more.
        min_members: Query<Option<String>>,
        /// How to write them; wins over `Accept`.
        format: Query<Option<String>>,
        /// Most chats of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Table<FindRecord>, Problem> {
        const TYPES: [&str; 3] = ["group", "supergroup", "channel"];
        let job = job_id(&id)?;
        let asked = table::asked::<FindRecord>(headers, format.as_deref(), limit.as_deref(), cursor.as_deref())?;
        if let Some(given) = chat_type.as_deref()
            && !TYPES.contains(&given)
        {
            let detail = format!("type takes one of {}.", TYPES.join(", "));
            return Err(Problem::new(Code::InvalidParameter, detail).field("type"));
        }
        let filter = FindFilter {
            chat_type: chat_type.0,
            language: language.0,
            min_members: parameter("min_members", min_members.as_deref(), "a number")?,
        };
        must_have(&state.pool, job, Code::RowsNotFound, &["chats"]).await?;
        let pool = state.pool.clone();
        table::write(asked, job, move |after, limit| {
            let (pool, filter) = (pool.clone(), filter.clone());
            async move { scan_rows::find_page(&pool, job, &filter, after, limit).await }
        })
        .await
    }

    /// Read the profile a scan read
    ///
    /// Phone numbers are never in it. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/profile",
        method = "get",
        operation_id = "get_scanned_profile",
        tag = "Tag::Jobs"
    )]
    async fn profile(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The job's id.
        id: Path<String>,
    ) -> Result<Json<Typed<ProfileView>>, Problem> {
        let job = job_id(&id)?;
        must_have(&state.pool, job, Code::RowsNotFound, &["profile"]).await?;
        let found = scan_rows::profile(&state.pool, job).await?;
        let (profile, seen_at) = found.ok_or_else(|| {
            let detail = "The scan has read no profile yet, or it is of a person who was erased.";
            Problem::new(Code::RowsNotFound, detail)
        })?;
        Ok(Json(Typed(ProfileView { profile, seen_at })))
    }
}
