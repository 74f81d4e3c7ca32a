//! The chats of a job that publishes to several: how far each is, and what became of it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use wireroom_jobs::{
    ports::SentMessage,
    publish::ports::{Decided, Target},
};

use super::{StoreError, attempt_data::AttemptKey, failed};
use crate::ids::JobId;

struct Row {
    position: i32,
    chat_id: Option<i64>,
    tries: i32,
    not_before: Option<DateTime<Utc>>,
    outcome: Option<String>,
    error: Option<String>,
    message_id: Option<i32>,
    other_message_ids: Option<Vec<i32>>,
    message_date: Option<DateTime<Utc>>,
    begun: bool,
}

impl From<Row> for Target {
    fn from(row: Row) -> Self {
        let sent = row
            .message_id
            .zip(row.message_date)
            .map(|(message_id, date)| SentMessage {
                message_id,
                date,
                others: row.other_message_ids.unwrap_or_default(),
            });
        let error = row.error;
        Self {
            position: row.position,
            chat_id: row.chat_id,
            tries: row.tries,
            not_before: row.not_before,
            begun: row.begun,
            decided: row.outcome.map(|outcome| Decided { outcome, error, sent }),
        }
    }
}

/// All targets of a job that have come anywhere.
pub async fn all(conn: &mut PgConnection, job: JobId) -> Result<Vec<Target>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"-- publish_targets
        SELECT t.position, t.chat_id, t.tries, t.not_before, t.outcome, t.error, t.message_id, t.other_message_ids,
            t.message_date, (t.outcome IS NULL AND e.attempted_at IS NOT NULL AND e.settled_at IS NULL) AS "begun!"
        FROM publish_targets t LEFT JOIN job_effects e ON e.job_id = t.job_id AND e.chat_id = t.chat_id
        WHERE t.job_id = $1 ORDER BY t.position"#,
        job.0,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("publish_targets"))?;
    Ok(rows.into_iter().map(Target::from).collect())
}

/// The targets after `after`, in their order, at most `limit`; `outcome`: only those.
pub async fn page(
    pool: &PgPool,
    job: JobId,
    outcome: Option<&str>,
    after: i32,
    limit: i64,
) -> Result<Vec<Target>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"-- publish_target_page
        SELECT position, chat_id, tries, not_before, outcome, error, message_id, other_message_ids, message_date,
            false AS "begun!"
        FROM publish_targets
        WHERE job_id = $1 AND position > $2 AND ($3::text IS NULL OR outcome = $3)
        ORDER BY position LIMIT $4"#,
        job.0,
        after,
        outcome,
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("publish_target_page"))?;
    Ok(rows.into_iter().map(Target::from).collect())
}

/// Stores a target as it is now. What is decided stays so.
pub async fn save(conn: &mut PgConnection, attempt: AttemptKey, target: &Target) -> Result<(), StoreError> {
    let decided = target.decided.as_ref();
    let sent = decided.and_then(|decided| decided.sent.as_ref());
    sqlx::query!(
        "-- save_publish_target
        INSERT INTO publish_targets AS t (job_id, position, chat_id, tries, not_before, outcome, error, message_id,
            other_message_ids, message_date)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (job_id, position) DO UPDATE SET chat_id = excluded.chat_id, tries = excluded.tries,
            not_before = excluded.not_before, outcome = excluded.outcome, error = excluded.error,
            message_id = excluded.message_id, other_message_ids = excluded.other_message_ids,
            message_date = excluded.message_date, updated_at = wireroom_now()
        WHERE t.outcome IS NULL",
        attempt.job.0,
        target.position,
        target.chat_id,
        target.tries,
        target.not_before,
        decided.map(|decided| decided.outcome.as_str()),
        decided.and_then(|decided| decided.error.as_deref()),
        sent.map(|sent| sent.message_id),
        sent.map(|sent| sent.others.as_slice())
            .filter(|others| !others.is_empty()),
        sent.map(|sent| sent.date),
    )
    .execute(conn)
    .await
    .map_err(failed("save_publish_target"))?;
    Ok(())
}
