//! Messages that jobs send: the `random_id` is stored before the send, the message's id after it.

use std::collections::HashSet;

use sqlx::PgConnection;
use wireroom_jobs::ports::{Effect, SentMessage};

use super::{StoreError, attempt_data::AttemptKey, failed, one_row};
use crate::ids::SessionId;

/// The job's effect on `chat_id`, made with `random_id` when there is none yet.
pub async fn prepare(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    session: SessionId,
    chat_id: i64,
    random_id: i64,
) -> Result<Effect, StoreError> {
    sqlx::query!(
        "-- prepare_effect
        INSERT INTO job_effects (job_id, chat_id, session_id, random_id) VALUES ($1, $2, $3, $4)
        ON CONFLICT (job_id, chat_id) DO NOTHING",
        attempt.job.0,
        chat_id,
        session.0,
        random_id,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("prepare_effect"))?;
    let row = sqlx::query!(
        "-- read_effect
        SELECT random_id, prepared_at, attempted_at, message_id, message_date, other_message_ids FROM job_effects
        WHERE job_id = $1 AND chat_id = $2",
        attempt.job.0,
        chat_id,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("read_effect"))?;
    Ok(Effect {
        random_id: row.random_id,
        prepared_at: row.prepared_at,
        attempted_at: row.attempted_at,
        sent: row
            .message_id
            .zip(row.message_date)
            .map(|(message_id, date)| SentMessage {
                message_id,
                date,
                others: row.other_message_ids.unwrap_or_default(),
            }),
    })
}

/// Stores that a send is about to begin. The first time counts: nothing can have been sent before it.
pub async fn attempted(conn: &mut PgConnection, attempt: AttemptKey, chat_id: i64) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "-- effect_attempted
        UPDATE job_effects SET attempted_at = coalesce(attempted_at, wireroom_now()) WHERE job_id = $1 AND chat_id = $2",
        attempt.job.0,
        chat_id,
    )
    .execute(conn)
    .await
    .map_err(failed("effect_attempted"))?;
    one_row(done.rows_affected(), "effect_attempted")
}

/// Stores which message the effect became. `false` when another job has claimed that message; then nothing is changed.
pub async fn sent(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    chat_id: i64,
    message: &SentMessage,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "-- effect_sent
        UPDATE job_effects SET message_id = $3, message_date = $4, other_message_ids = $5
        WHERE job_id = $1 AND chat_id = $2",
        attempt.job.0,
        chat_id,
        message.message_id,
        message.date,
        Some(message.others.as_slice()).filter(|others| !others.is_empty()),
    )
    .execute(conn)
    .await;
    match result {
        Ok(done) => one_row(done.rows_affected(), "effect_sent").map(|()| true),
        Err(error)
            if error
                .as_database_error()
                .is_some_and(sqlx::error::DatabaseError::is_unique_violation) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed("effect_sent")(error)),
    }
}

/// Stores that what was begun was refused by name: nothing of it is in the chat.
pub async fn not_sent(conn: &mut PgConnection, attempt: AttemptKey, chat_id: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- effect_not_sent
        UPDATE job_effects SET attempted_at = NULL WHERE job_id = $1 AND chat_id = $2 AND message_id IS NULL",
        attempt.job.0,
        chat_id,
    )
    .execute(conn)
    .await
    .map_err(failed("effect_not_sent"))?;
    Ok(())
}

/// Stores that the outcome is kept elsewhere for good. Without effect where none was prepared.
pub async fn settle(conn: &mut PgConnection, attempt: AttemptKey, chat_id: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- settle_effect
        UPDATE job_effects SET settled_at = wireroom_now() WHERE job_id = $1 AND chat_id = $2",
        attempt.job.0,
        chat_id,
    )
    .execute(conn)
    .await
    .map_err(failed("settle_effect"))?;
    Ok(())
}

/// Which of these messages belong to another job of the session, as the first or any other message of its effect.
pub async fn claimed(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    session: SessionId,
    chat_id: i64,
    message_ids: &[i32],
) -> Result<HashSet<i32>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"-- claimed_messages
        SELECT DISTINCT id AS "id!" FROM job_effects e
        CROSS JOIN LATERAL unnest(e.other_message_ids || e.message_id) AS ids (id)
        WHERE e.session_id = $1 AND e.chat_id = $2 AND e.job_id <> $4
            AND (e.message_id = ANY ($3) OR e.other_message_ids && $3) AND id = ANY ($3)"#,
        session.0,
        chat_id,
        message_ids,
        attempt.job.0,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("claimed_messages"))?;
    Ok(ids.into_iter().collect())
}
