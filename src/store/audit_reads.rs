//! Reading the audit log: by who, what, on what and when, the latest first.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{PgPool, StoreError, failed};

/// By how much the order of ids and that of times may differ: two that write at once, and a clock that is set right.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(1);

/// An entry as it was written.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    /// Grows with time.
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub request_id: Option<String>,
    pub details: Value,
}

/// Which entries to list; `None` leaves a condition out.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter<'a> {
    pub actor: Option<&'a str>,
    pub action: Option<&'a str>,
    pub subject: Option<&'a str>,
    /// At this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
}

/// A page of entries, the latest first, those before `before`. What one that is written meanwhile has is seen by whoever asks again
/// from the beginning.
pub async fn list(
    pool: &PgPool,
    filter: &AuditFilter<'_>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditRecord>, StoreError> {
    let mut transaction = pool.begin().await.map_err(failed("begin_list_audit"))?;
    let bounds = sqlx::query!(
        r#"-- audit_bounds
        SELECT coalesce(audit_id_at($1), 0) AS "first!", coalesce(audit_id_at($2), 9223372036854775807) AS "end!",
            -- Each filter wants a plan of its own: one for all of them reads every entry to find the few of one kind.
            set_config('plan_cache_mode', 'force_custom_plan', true) AS "set!""#,
        filter.since.and_then(|time| time.checked_sub_signed(CLOCKS_DIFFER)),
        filter.until.and_then(|time| time.checked_add_signed(CLOCKS_DIFFER)),
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed("audit_bounds"))?;
    let rows = sqlx::query_as!(
        AuditRecord,
        "-- list_audit
        SELECT id, at, actor, action, subject, request_id, details FROM audit_log
        WHERE id >= $1 AND id < $2 AND ($3::text IS NULL OR actor = $3) AND ($4::text IS NULL OR action = $4)
            AND ($5::text IS NULL OR subject = $5) AND ($6::timestamptz IS NULL OR at >= $6)
            AND ($7::timestamptz IS NULL OR at < $7)
        ORDER BY id DESC LIMIT $8",
        bounds.first,
        bounds.end.min(before.unwrap_or(i64::MAX)),
        filter.actor,
        filter.action,
        filter.subject,
        filter.since,
        filter.until,
        limit,
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("list_audit"))?;
    transaction.commit().await.map_err(failed("commit_list_audit"))?;
    Ok(rows)
}
