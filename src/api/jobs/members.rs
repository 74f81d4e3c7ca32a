//! `GET /v1/jobs/{id}/members`: whom a scan saw.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{job_id, not_found};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::List,
        problem::{Code, Problem},
        table::{self, Row, Table, parameter, safe_cell, text_cell, time_cell},
    },
    ids::JobId,
    store::{
        PgPool, job_reads,
        member_reads::{self, MemberFilter, MemberRecord},
    },
};

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

impl Row for MemberRecord {
    type View = MemberView;
    type Key = i64;

    const LIST: List = List::Members;
    const NAME: &'static str = "members";
    const COLUMNS: &'static [&'static str] = &[
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

    fn key(&self) -> i64 {
        self.user_id
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.user_id.to_string(),
            text_cell(self.username.as_deref()),
            text_cell(self.first_name.as_deref()),
            text_cell(self.last_name.as_deref()),
            self.is_bot.to_string(),
            self.is_deleted.to_string(),
            self.is_premium.to_string(),
            safe_cell(&self.role),
            time_cell(self.joined_at),
        ]
    }

    fn view(self) -> MemberView {
        MemberView {
            user_id: self.user_id,
            username: self.username,
            first_name: self.first_name,
            last_name: self.last_name,
            is_bot: self.is_bot,
            is_deleted: self.is_deleted,
            is_premium: self.is_premium,
            role: self.role,
            joined_at: self.joined_at,
        }
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
        /// Only members of this role.
        role: Query<Option<String>>,
        /// Only bots, or only others.
        is_bot: Query<Option<String>>,
        /// Only accounts that were deleted, or only others.
        is_deleted: Query<Option<String>>,
        /// Only premium accounts, or only others.
        is_premium: Query<Option<String>>,
        /// How to write them; wins over `Accept`.
        format: Query<Option<String>>,
        /// Most members of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Table<MemberRecord>, Problem> {
        let job = job_id(&id)?;
        let asked = table::asked::<MemberRecord>(headers, format.as_deref(), limit.as_deref(), cursor.as_deref())?;
        let filter = filter(
            role.as_deref(),
            is_bot.as_deref(),
            is_deleted.as_deref(),
            is_premium.as_deref(),
        )?;
        must_have(&state.pool, job, Code::MembersNotFound, &["members"]).await?;
        let pool = state.pool.clone();
        table::write(asked, job, move |after, limit| {
            let (pool, filter) = (pool.clone(), filter.clone());
            async move { member_reads::page(&pool, job, &filter, after, limit).await }
        })
        .await
    }
}

pub fn filter(
    role: Option<&str>,
    is_bot: Option<&str>,
    is_deleted: Option<&str>,
    is_premium: Option<&str>,
) -> Result<MemberFilter, Problem> {
    const ROLES: [&str; 6] = ["creator", "admin", "member", "restricted", "banned", "left"];
    if let Some(role) = role
        && !ROLES.contains(&role)
    {
        let detail = format!("role takes one of {}.", ROLES.join(", "));
        return Err(Problem::new(Code::InvalidParameter, detail).field("role"));
    }
    let flag = |name, given| parameter::<bool>(name, given, "true or false");
    Ok(MemberFilter {
        role: role.map(str::to_owned),
        is_bot: flag("is_bot", is_bot)?,
        is_deleted: flag("is_deleted", is_deleted)?,
        is_premium: flag("is_premium", is_premium)?,
    })
}

/// Refuses a job that is no scan of one of these kinds, or whose rows are not kept any more.
pub(super) async fn must_have(pool: &PgPool, job: JobId, code: Code, whats: &[&str]) -> Result<(), Problem> {
    let what = member_reads::scan_what(pool, job).await?;
    if what.is_some_and(|what| whats.contains(&what.as_str())) {
        return Ok(());
    }
    Err(match job_reads::get(pool, job).await {
        Ok(None) => not_found(),
        Ok(Some(_)) => {
            let whats = whats.join(" or ");
            let detail = format!("The job is not a scan of {whats}, has not begun, or its retention is over.");
            Problem::new(code, detail)
        }
        Err(error) => error.into(),
    })
}

#[cfg(test)]
mod tests;
