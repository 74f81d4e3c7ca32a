//! What scans saw of people, read page by page: no connection is held between two pages, however slow the reader is.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Postgres, Transaction};

use super::{StoreError, failed};
use crate::ids::JobId;

/// One person as one scan saw them.
#[derive(Debug, Clone)]
pub struct MemberRecord {
    pub user_id: i64,
    pub username: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub is_bot: bool,
    pub is_deleted: bool,
    pub is_premium: bool,
    pub role: String,
    pub joined_at: Option<DateTime<Utc>>,
}

/// One person of a chat, by all scans of it.
#[derive(Debug, Clone)]
pub struct KnownMemberRecord {
    pub user_id: i64,
    pub username: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub is_bot: bool,
    pub is_deleted: bool,
    pub is_premium: bool,
    pub role: String,
    pub joined_at: Option<DateTime<Utc>>,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub job_id: JobId,
    pub purpose: Option<String>,
}

/// Which people to read; `None`: any.
#[derive(Debug, Clone, Default)]
pub struct MemberFilter {
    pub role: Option<String>,
    pub is_bot: Option<bool>,
    pub is_deleted: Option<bool>,
    pub is_premium: Option<bool>,
}

/// A transaction whose statements are planned for the values they have. One plan for all filters and all places of a list
/// reads the whole of what is left of it for each page.
pub(super) async fn planned(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    let mut transaction = pool.begin().await.map_err(failed("begin_scan_read"))?;
    sqlx::query!(
        r#"-- plan_each_scan_read
        SELECT set_config('plan_cache_mode', 'force_custom_plan', true) AS "set!""#
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed("plan_each_scan_read"))?;
    Ok(transaction)
}

/// What the job's scan reads; `None`: it is none, has not begun, or its rows are not kept any more.
pub async fn scan_what(pool: &PgPool, job: JobId) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!(
        "-- scan_what
        SELECT what FROM scans WHERE job_id = $1 AND expires_at > wireroom_now()",
        job.0,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("scan_what"))
}

/// The people of a scan with a user id past `after`, by user id.
pub async fn page(
    pool: &PgPool,
    job: JobId,
    filter: &MemberFilter,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<MemberRecord>, StoreError> {
    let mut transaction = planned(pool).await?;
    sqlx::query_as!(
        MemberRecord,
        "-- member_page
        SELECT m.user_id, m.username, m.first_name, m.last_name, m.is_bot, m.is_deleted, m.is_premium, m.role, m.joined_at
        FROM scan_members m JOIN scans s USING (job_id)
        WHERE m.job_id = $1 AND m.user_id > $2 AND s.expires_at > wireroom_now()
            AND ($4::text IS NULL OR m.role = $4) AND ($5::boolean IS NULL OR m.is_bot = $5)
            AND ($6::boolean IS NULL OR m.is_deleted = $6) AND ($7::boolean IS NULL OR m.is_premium = $7)
        ORDER BY m.user_id LIMIT $3",
        job.0,
        after.unwrap_or(i64::MIN),
        limit,
        filter.role,
        filter.is_bot,
        filter.is_deleted,
        filter.is_premium,
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("member_page"))
}

/// The people of a chat with a user id past `after`, by user id.
pub async fn known_page(
    pool: &PgPool,
    chat_id: i64,
    filter: &MemberFilter,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<KnownMemberRecord>, StoreError> {
    let mut transaction = planned(pool).await?;
    sqlx::query_as!(
        KnownMemberRecord,
        r#"-- known_member_page
        SELECT m.user_id, p.username, p.first_name, p.last_name, p.is_bot, p.is_deleted, p.is_premium, m.role, m.joined_at,
            coalesce(m.first_seen_at, m.seen_at) AS "first_seen_at!", m.seen_at AS last_seen_at,
            m.job_id AS "job_id: JobId", m.purpose
        FROM chat_members m JOIN people p ON p.id = m.user_id
        WHERE m.chat_id = $1 AND m.user_id > $2 AND m.expires_at > wireroom_now()
            AND ($4::text IS NULL OR m.role = $4) AND ($5::boolean IS NULL OR p.is_bot = $5)
            AND ($6::boolean IS NULL OR p.is_deleted = $6) AND ($7::boolean IS NULL OR p.is_premium = $7)
        ORDER BY m.user_id LIMIT $3"#,
        chat_id,
        after.unwrap_or(i64::MIN),
        limit,
        filter.role,
        filter.is_bot,
        filter.is_deleted,
        filter.is_premium,
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("known_member_page"))
}
