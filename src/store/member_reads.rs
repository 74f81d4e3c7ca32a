//! What a scan saw, read page by page: no connection is held between two pages, however slow the reader is.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

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

/// Whether the job has opened a scan whose rows are kept.
pub async fn scan_exists(pool: &PgPool, job: JobId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- scan_exists
        SELECT EXISTS (SELECT FROM scans WHERE job_id = $1 AND expires_at > wireroom_now()) AS "exists!""#,
        job.0,
    )
    .fetch_one(pool)
    .await
    .map_err(failed("scan_exists"))
}

/// The people with a user id past `after`, by user id.
pub async fn page(pool: &PgPool, job: JobId, after: Option<i64>, limit: i64) -> Result<Vec<MemberRecord>, StoreError> {
    sqlx::query_as!(
        MemberRecord,
        "-- member_page
        SELECT m.user_id, m.username, m.first_name, m.last_name, m.is_bot, m.is_deleted, m.is_premium, m.role, m.joined_at
        FROM scan_members m JOIN scans s USING (job_id)
        WHERE m.job_id = $1 AND m.user_id > $2 AND s.expires_at > wireroom_now()
        ORDER BY m.user_id LIMIT $3",
        job.0,
        after.unwrap_or(i64::MIN),
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("member_page"))
}
