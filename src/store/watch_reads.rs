//! Watches as the API reads them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::{JobId, SessionId};

/// One watch.
#[derive(Debug, Clone)]
pub struct WatchRecord {
    pub id: JobId,
    /// `None`: the private messages of the session's account.
    pub chat_id: Option<i64>,
    pub chat_title: Option<String>,
    pub session: SessionId,
    /// Whose the numbers of the messages are: 0 where everybody's, else the account's.
    pub owner: i64,
    pub state: String,
    pub events: Vec<String>,
    pub filter: Value,
    pub retention_days: i32,
    pub filling: bool,
    pub lost_reason: Option<String>,
    pub last_message_id: i32,
    pub last_message_at: Option<DateTime<Utc>>,
    pub seen: i64,
    pub from_history: i64,
    pub missed: i64,
    pub checked: i64,
    /// The job runs on that session's worker now.
    pub running: bool,
    /// The session that the job is to go on with, when that is another one.
    pub next_session: Option<SessionId>,
    pub started_at: DateTime<Utc>,
    pub stopped_at: Option<DateTime<Utc>>,
}

/// Which watches a list shows; what is `None` is not asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchFilter<'a> {
    pub state: Option<&'a str>,
    pub session: Option<SessionId>,
    pub chat_id: Option<i64>,
}

/// The watch of that job.
pub async fn get(executor: impl PgExecutor<'_>, id: JobId) -> Result<Option<WatchRecord>, StoreError> {
    Ok(select(executor, Some(id), WatchFilter::default(), None, 1).await?.pop())
}

/// A page of watches, the latest first, those before `before`.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: WatchFilter<'_>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<WatchRecord>, StoreError> {
    select(executor, None, filter, before, limit).await
}

async fn select(
    executor: impl PgExecutor<'_>,
    id: Option<JobId>,
    filter: WatchFilter<'_>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<WatchRecord>, StoreError> {
    sqlx::query_as!(
        WatchRecord,
        r#"-- read_watches
        SELECT w.id AS "id: JobId", w.chat_id, c.title AS "chat_title?", w.session_id AS "session: SessionId", w.owner, w.state,
            w.events, w.filter, w.retention_days, w.filling, w.lost_reason, w.last_message_id, w.last_message_at, w.seen,
            w.from_history, w.missed, w.checked, coalesce(j.state = 'running' AND j.session_id = w.session_id, false) AS "running!",
            CASE WHEN j.session_id <> w.session_id THEN j.session_id END AS "next_session: SessionId",
            w.started_at, w.stopped_at
        FROM watches w LEFT JOIN chats c ON c.id = w.chat_id LEFT JOIN jobs j ON j.id = ANY (ARRAY[w.id])
        WHERE ($1::uuid IS NULL OR w.id = $1) AND ($2::text IS NULL OR w.state = $2)
            AND ($3::uuid IS NULL OR w.session_id = $3) AND ($4::bigint IS NULL OR w.chat_id = $4)
            AND ($5::uuid IS NULL OR w.id < $5)
        ORDER BY w.id DESC LIMIT $6"#,
        id.map(|id| id.0),
        filter.state,
        filter.session.map(|session| session.0),
        filter.chat_id,
        before.map(|before| before.0) as Option<Uuid>,
        limit,
    )
    .fetch_all(executor)
    .await
    .map_err(failed("read_watches"))
}
