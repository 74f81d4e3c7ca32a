//! Self-tests of sessions on demand: asked for by the API, made by the worker that holds the session.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::{SessionId, WorkerId};

/// How long an answer is worth waiting for; nobody makes a check that is older.
const WORTH: &str = "1 minute";

/// Asks for a check, and lets the holder know with its next renewal.
pub async fn request(conn: &mut PgConnection, session: SessionId, actor: &str) -> Result<Uuid, StoreError> {
    let id = Uuid::now_v7();
    sqlx::query!(
        "-- request_check
        WITH told AS (UPDATE sessions SET settings_version = settings_version + 1 WHERE id = $2)
        INSERT INTO session_checks (id, session_id, requested_by) VALUES ($1, $2, $3)",
        id,
        session.0,
        actor,
    )
    .execute(conn)
    .await
    .map_err(failed("request_check"))?;
    Ok(id)
}

/// The checks of these sessions that nobody has answered.
pub async fn open(conn: &mut PgConnection, sessions: &[SessionId]) -> Result<Vec<(SessionId, Uuid)>, StoreError> {
    let ids: Vec<Uuid> = sessions.iter().map(|session| session.0).collect();
    let rows = sqlx::query!(
        r#"-- open_checks
        SELECT session_id AS "session: SessionId", id FROM session_checks
        WHERE session_id = ANY ($1) AND answered_at IS NULL AND requested_at > wireroom_now() - $2::text::interval"#,
        &ids,
        WORTH,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("open_checks"))?;
    Ok(rows.into_iter().map(|row| (row.session, row.id)).collect())
}

/// Stores the answer to a check; the first one stays.
pub async fn answer(conn: &mut PgConnection, id: Uuid, worker: WorkerId, answer: &Value) -> Result<(), StoreError> {
    sqlx::query!(
        "-- answer_check
        UPDATE session_checks SET answered_at = wireroom_now(), worker_id = $2, answer = $3
        WHERE id = $1 AND answered_at IS NULL",
        id,
        worker.0,
        answer,
    )
    .execute(conn)
    .await
    .map_err(failed("answer_check"))?;
    Ok(())
}

/// The answer to a check, and who gave it; `None` while there is none.
pub async fn answered(executor: impl PgExecutor<'_>, id: Uuid) -> Result<Option<(WorkerId, Value)>, StoreError> {
    let row = sqlx::query!(
        r#"-- answered_check
        SELECT worker_id AS "worker!: WorkerId", answer AS "answer!" FROM session_checks
        WHERE id = $1 AND answered_at IS NOT NULL"#,
        id,
    )
    .fetch_optional(executor)
    .await
    .map_err(failed("answered_check"))?;
    Ok(row.map(|row| (row.worker, row.answer)))
}

/// Deletes checks of before yesterday, at most `limit`; returns how many.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let gone = sqlx::query!(
        "-- sweep_checks
        DELETE FROM session_checks WHERE id IN (
            SELECT id FROM session_checks WHERE requested_at < wireroom_now() - interval '1 day' LIMIT $1)",
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_checks"))?;
    Ok(gone.rows_affected())
}
