//! Sessions and pools as the API reads them: no key, no phone number.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::{SessionId, WorkerId};

/// A session, and the worker that holds it.
#[derive(Debug, Clone)]
pub struct SessionRecord {
    pub id: SessionId,
    pub label: String,
    pub pool: String,
    pub state: String,
    pub state_reason: Option<String>,
    pub state_since: DateTime<Utc>,
    pub account_id: Option<i64>,
    pub username: Option<String>,
    pub is_bot: bool,
    pub home_dc: i32,
    pub interactive_slots: i32,
    pub bulk_slots: i32,
    pub watch_slots: i32,
    pub last_call_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// The holder of the unexpired lease.
    pub worker: Option<WorkerId>,
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// Of the proxy it is connected through.
    pub proxy_host: Option<String>,
    pub proxy_port: Option<i32>,
    pub proxy_has_credentials: Option<bool>,
}

/// A closed gate.
#[derive(Debug, Clone)]
pub struct GateRecord {
    pub session_id: SessionId,
    pub action: String,
    /// 0 when the gate is closed for every chat.
    pub chat_id: i64,
    pub reason: String,
    pub closed_at: DateTime<Utc>,
    pub opens_at: DateTime<Utc>,
}

/// What a job's `session` field refers to.
#[derive(Debug, Clone)]
pub struct SessionTarget {
    pub id: SessionId,
    pub pool: String,
    pub state: String,
    pub state_reason: Option<String>,
    /// `None` before the first login.
    pub account_id: Option<i64>,
    pub is_bot: bool,
}

/// Which sessions to list; `None` leaves a condition out.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter<'a> {
    pub label: Option<&'a str>,
    pub pool: Option<&'a str>,
    pub state: Option<&'a str>,
    /// Held by this worker now.
    pub worker: Option<WorkerId>,
}

/// Whether the pool exists.
pub async fn pool_exists(pool: &PgPool, name: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- pool_exists
        SELECT EXISTS (SELECT FROM pools WHERE name = $1) AS "exists!""#,
        name,
    )
    .fetch_one(pool)
    .await
    .map_err(failed("pool_exists"))
}

/// The session of that id or label; an id wins.
pub async fn find_target(
    executor: impl PgExecutor<'_>,
    id_or_label: &str,
) -> Result<Option<SessionTarget>, StoreError> {
    let id = id_or_label.parse::<Uuid>().ok();
    sqlx::query_as!(
        SessionTarget,
        r#"-- find_session_target
        SELECT id AS "id: SessionId", pool, state, state_reason, account_id, is_bot FROM sessions
        WHERE id = $1 OR label = $2 ORDER BY (id = $1) DESC NULLS LAST LIMIT 1"#,
        id,
        id_or_label,
    )
    .fetch_optional(executor)
    .await
    .map_err(failed("find_session_target"))
}

/// One session.
pub async fn get(pool: &PgPool, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
    Ok(select(pool, Some(id), &SessionFilter::default(), None, 1).await?.pop())
}

/// A page of sessions by id, those after `after`.
pub async fn list(
    pool: &PgPool,
    filter: &SessionFilter<'_>,
    after: Option<SessionId>,
    limit: i64,
) -> Result<Vec<SessionRecord>, StoreError> {
    select(pool, None, filter, after, limit).await
}

async fn select(
    pool: &PgPool,
    id: Option<SessionId>,
    filter: &SessionFilter<'_>,
    after: Option<SessionId>,
    limit: i64,
) -> Result<Vec<SessionRecord>, StoreError> {
    sqlx::query_as!(
        SessionRecord,
        r#"-- read_sessions
        SELECT s.id AS "id: SessionId", s.label, s.pool, s.state, s.state_reason, s.state_since, s.account_id, s.username,
            s.is_bot, s.home_dc, s.interactive_slots, s.bulk_slots, s.watch_slots, s.last_call_at, s.created_at,
            l.owner AS "worker?: WorkerId", l.expires_at AS "lease_expires_at?",
            p.host AS "proxy_host?", p.port AS "proxy_port?", p.has_credentials AS "proxy_has_credentials?"
        FROM sessions s
        LEFT JOIN session_leases l ON l.session_id = s.id AND l.owner IS NOT NULL AND l.expires_at > wireroom_now()
        LEFT JOIN session_proxies p ON p.session_id = s.id
        WHERE ($1::uuid IS NULL OR s.id = $1) AND ($2::text IS NULL OR s.pool = $2) AND ($3::text IS NULL OR s.state = $3)
            AND s.id > $4 AND ($6::text IS NULL OR s.label = $6) AND ($7::uuid IS NULL OR l.owner = $7)
        ORDER BY s.id LIMIT $5"#,
        id.map(|id| id.0),
        filter.pool,
        filter.state,
        after.map_or(Uuid::nil(), |id| id.0),
        limit,
        filter.label,
        filter.worker.map(|worker| worker.0),
    )
    .fetch_all(pool)
    .await
    .map_err(failed("read_sessions"))
}

/// The gates of these sessions that are still closed, the one that opens first first.
pub async fn closed_gates(pool: &PgPool, sessions: &[SessionId]) -> Result<Vec<GateRecord>, StoreError> {
    let ids: Vec<Uuid> = sessions.iter().map(|id| id.0).collect();
    sqlx::query_as!(
        GateRecord,
        r#"-- closed_gates
        SELECT session_id AS "session_id: SessionId", action, chat_id, reason, closed_at, opens_at FROM gates
        WHERE session_id = ANY ($1) AND opens_at > wireroom_now() ORDER BY opens_at, action, chat_id"#,
        &ids,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("closed_gates"))
}
