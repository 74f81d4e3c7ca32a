//! `/v1/chats/{id}/counts` and `/v1/chats/{id}/members`: what all scans of a chat say together.

use std::{fmt, str::FromStr, sync::Arc};

use chrono::{DateTime, Utc};
use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Viewer},
    document::Tag,
    jobs,
    page::List,
    problem::{Code, Problem},
    table::{self, Row, Table, plain_cell, safe_cell, text_cell, time_cell},
};
use crate::store::{
    chat_reads,
    member_reads::{self, KnownMemberRecord},
    scan_rows::{self, CountKey, CountRecord},
};

/// What one scan of a chat counted.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ChatCount")]
pub struct CountView {
    /// The scan.
    pub job: Uuid,
    /// When it was finished.
    pub at: DateTime<Utc>,
    /// What it read.
    pub what: String,
    /// Of members: which list.
    pub list: Option<String>,
    /// How many Telegram counted: members, messages, comments; null when it did not say.
    pub counted: Option<i64>,
    /// How many the scan saw.
    pub seen: i64,
    /// How many of them no earlier scan had seen.
    pub new: i64,
    pub complete: bool,
    /// Why it is not complete.
    pub reason: Option<String>,
}

/// A member of a chat, by what all scans know together.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "KnownMember")]
pub struct KnownMemberView {
    /// Telegram's user id.
    pub user_id: i64,
    /// Without `@`.
    pub username: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub is_bot: bool,
    pub is_deleted: bool,
    pub is_premium: bool,
    pub role: String,
    pub joined_at: Option<DateTime<Utc>>,
    /// When a scan of the chat saw them first, as far as rows are kept.
    pub first_seen_at: DateTime<Utc>,
    /// When a scan of the chat saw them last.
    pub last_seen_at: DateTime<Utc>,
    /// The scan that saw them last.
    pub job: Uuid,
    /// Why it was made.
    pub purpose: Option<String>,
}

impl fmt::Display for CountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.at.timestamp_micros(), self.job)
    }
}

impl FromStr for CountKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, job) = text.split_once(':').ok_or(())?;
        let at = DateTime::from_timestamp_micros(at.parse().map_err(drop)?).ok_or(())?;
        let job = job.parse().map_err(drop)?;
        Ok(Self { at, job })
    }
}

impl Row for CountRecord {
    type View = CountView;
    type Key = CountKey;

    const LIST: List = List::Counts;
    const NAME: &'static str = "counts";
    const COLUMNS: &'static [&'static str] = &[
        "job", "at", "what", "list", "counted", "seen", "new", "complete", "reason",
    ];

    fn key(&self) -> CountKey {
        CountKey {
            at: self.at,
            job: self.job_id,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.job_id.to_string(),
            time_cell(Some(self.at)),
            safe_cell(&self.what),
            text_cell(self.list.as_deref()),
            plain_cell(self.counted),
            self.seen.to_string(),
            self.fresh.to_string(),
            self.complete.to_string(),
            text_cell(self.reason.as_deref()),
        ]
    }

    fn view(self) -> CountView {
        CountView {
            job: self.job_id.0,
            at: self.at,
            what: self.what,
            list: self.list,
            counted: self.counted,
            seen: self.seen,
            new: self.fresh,
            complete: self.complete,
            reason: self.reason,
        }
    }
}

impl Row for KnownMemberRecord {
    type View = KnownMemberView;
    type Key = i64;

    const LIST: List = List::KnownMembers;
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
        "first_seen_at",
        "last_seen_at",
        "job",
        "purpose",
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
            time_cell(Some(self.first_seen_at)),
            time_cell(Some(self.last_seen_at)),
            self.job_id.to_string(),
            text_cell(self.purpose.as_deref()),
        ]
    }

    fn view(self) -> KnownMemberView {
        KnownMemberView {
            user_id: self.user_id,
            username: self.username,
            first_name: self.first_name,
            last_name: self.last_name,
            is_bot: self.is_bot,
            is_deleted: self.is_deleted,
            is_premium: self.is_premium,
            role: self.role,
            joined_at: self.joined_at,
            first_seen_at: self.first_seen_at,
            last_seen_at: self.last_seen_at,
            job: self.job_id.0,
            purpose: self.purpose,
        }
    }
}

pub struct ChatScansApi;

#[OpenApi]
impl ChatScansApi {
    /// Read a chat's counts over time
    ///
    /// A row for each finished scan of the chat, the newest first: how many Telegram counted, how many the scan saw, and why
    /// not all. Counts name nobody, and are kept for two years. Scope: viewer.
    #[oai(
        path = "/v1/chats/:id/counts",
        method = "get",
        operation_id = "list_chat_counts",
        tag = "Tag::Chats"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per part of the request")]
    async fn counts(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The chat's id, as results of jobs show it.
        id: Path<String>,
        /// Only scans of this: `members`, `history`, `comments` or `profile`.
        what: Query<Option<String>>,
        /// How to write them; wins over `Accept`.
        format: Query<Option<String>>,
        /// Most counts of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Table<CountRecord>, Problem> {
        const WHATS: [&str; 4] = ["members", "history", "comments", "profile"];
        let chat = chat_id(&id)?;
        let asked = table::asked::<CountRecord>(headers, format.as_deref(), limit.as_deref(), cursor.as_deref())?;
        if let Some(given) = what.as_deref()
            && !WHATS.contains(&given)
        {
            let detail = format!("what takes one of {}.", WHATS.join(", "));
            return Err(Problem::new(Code::InvalidParameter, detail).field("what"));
        }
        must_be_met(&state, chat).await?;
        let (pool, what) = (state.pool.clone(), what.0);
        table::write(asked, chat, move |before, limit| {
            let (pool, what) = (pool.clone(), what.clone());
            async move { scan_rows::count_page(&pool, chat, what.as_deref(), before, limit).await }
        })
        .await
    }

    /// Read who is known to be in a chat
    ///
    /// The members that any scan of the chat has seen and whose rows are kept, each once, with when they were seen first and
    /// last. Who was not seen by the newest complete scan may have left. Scope: viewer.
    #[oai(
        path = "/v1/chats/:id/members",
        method = "get",
        operation_id = "list_known_members",
        tag = "Tag::Chats"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per part of the request")]
    async fn members(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The chat's id, as results of jobs show it.
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
    ) -> Result<Table<KnownMemberRecord>, Problem> {
        let chat = chat_id(&id)?;
        let asked = table::asked::<KnownMemberRecord>(headers, format.as_deref(), limit.as_deref(), cursor.as_deref())?;
        let filter = jobs::member_filter(
            role.as_deref(),
            is_bot.as_deref(),
            is_deleted.as_deref(),
            is_premium.as_deref(),
        )?;
        must_be_met(&state, chat).await?;
        let pool = state.pool.clone();
        table::write(asked, chat, move |after, limit| {
            let (pool, filter) = (pool.clone(), filter.clone());
            async move { member_reads::known_page(&pool, chat, &filter, after, limit).await }
        })
        .await
    }
}

fn chat_id(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| {
        let detail = "A chat's id is a number, negative for groups and channels.";
        Problem::new(Code::InvalidParameter, detail).field("id")
    })
}

async fn must_be_met(state: &State, chat: i64) -> Result<(), Problem> {
    match chat_reads::get(&state.pool, chat).await? {
        Some(_) => Ok(()),
        None => Err(Problem::new(
            Code::ChatNotFound,
            "No session has met a chat of that id.",
        )),
    }
}
