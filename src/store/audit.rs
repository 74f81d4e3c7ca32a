//! The audit log: one append-only row per change, in the transaction of the change.

use serde_json::Value;
use sqlx::PgConnection;

use super::{StoreError, failed};

/// What a change leaves behind. Never holds a secret, a phone number or a message's text.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// `key:<id>`, `cli` or `worker:<id>`.
    pub actor: &'a str,
    /// What was done: `job.created`, `job.cancelled`, `key.created`, `key.revoked`, …
    pub action: &'a str,
    /// What it was done to: `job:<id>`, `key:<id>`, …
    pub subject: &'a str,
    /// The HTTP request that asked for it.
    pub request_id: Option<&'a str>,
    /// A JSON object with the facts that the other fields do not hold.
    pub details: Value,
}

/// Appends a row; the caller commits it together with the change.
pub async fn record(conn: &mut PgConnection, entry: Entry<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "-- record_audit
        INSERT INTO audit_log (actor, action, subject, request_id, details) VALUES ($1, $2, $3, $4, $5)",
        entry.actor,
        entry.action,
        entry.subject,
        entry.request_id,
        entry.details,
    )
    .execute(conn)
    .await
    .map_err(failed("record_audit"))?;
    Ok(())
}

/// Appends a row for each entry, in one statement.
pub async fn record_all(conn: &mut PgConnection, entries: &[Entry<'_>]) -> Result<(), StoreError> {
    let actors: Vec<&str> = entries.iter().map(|entry| entry.actor).collect();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action).collect();
    let subjects: Vec<&str> = entries.iter().map(|entry| entry.subject).collect();
    let requests: Vec<Option<&str>> = entries.iter().map(|entry| entry.request_id).collect();
    let details: Vec<Value> = entries.iter().map(|entry| entry.details.clone()).collect();
    sqlx::query!(
        "-- record_audit_all
        INSERT INTO audit_log (actor, action, subject, request_id, details)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[])",
        &actors as &[&str],
        &actions as &[&str],
        &subjects as &[&str],
        &requests as &[Option<&str>],
        &details,
    )
    .execute(conn)
    .await
    .map_err(failed("record_audit_all"))?;
    Ok(())
}

/// Who last did `action` to `subject`; `None` when the log does not know, as for the jobs of a bulk request.
pub async fn actor_of(conn: &mut PgConnection, action: &str, subject: &str) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar!(
        "-- audit_actor
        SELECT actor FROM audit_log WHERE subject = $1 AND action = $2 ORDER BY id DESC LIMIT 1",
        subject,
        action
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("audit_actor"))
}

/// Deletes up to `limit` rows that are older than a year: the database lets no younger one go. Returns how many went.
pub async fn expire(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- expire_audit_log
        DELETE FROM audit_log WHERE id IN (
            -- The oldest first, so that a look at a young log ends at once.
            SELECT id FROM (SELECT id, at FROM audit_log ORDER BY id LIMIT $1) oldest
            WHERE at < (SELECT wireroom_now()) - interval '365 days')",
        limit
    )
    .execute(conn)
    .await
    .map_err(failed("expire_audit_log"))?;
    Ok(done.rows_affected())
}
