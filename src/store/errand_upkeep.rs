//! What becomes of errands that nobody does any more: those that no worker took up in time end, and those that ended are deleted.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    StoreError,
    errand_work::LEFT_BEHIND,
    errands::{ErrandProblem, Task, known},
    failed,
    leases::interval,
    session_logins::{self, Before},
};
use crate::ids::{ErrandId, SessionId};

/// How long past its end an errand is left to the workers: one that can open it ends it better, at Telegram too.
const GRACE: Duration = Duration::from_secs(30);
/// Stands before the id of a master key in an errand's reason: no running worker had it.
pub const NO_WORKER_WITH_KEY: &str = "NO_WORKER_WITH_KEY:";
/// The reason of an errand that any worker could have done.
const NO_WORKER: &str = "NO_WORKER";

/// Ends errands that waited too long and that no worker holds, at most `limit`, those of one session or all: no worker ran, or
/// none had the master key. Their sessions are put back; their progress stays for a worker that comes after all, as in
/// [`errands::cancel`](super::errands::cancel). In the caller's transaction; returns how many.
pub async fn end_abandoned(
    conn: &mut PgConnection,
    session: Option<SessionId>,
    limit: i64,
) -> Result<usize, StoreError> {
    let rows = sqlx::query!(
        r#"-- end_abandoned_errands
        WITH late AS (
            SELECT id FROM errands
            WHERE state NOT IN ('done', 'failed') AND expires_at <= wireroom_now() - $1::interval
                AND lease_until <= wireroom_now() AND ($2::uuid IS NULL OR session_id = $2)
            -- Whoever has locked one is doing something about it.
            ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
        )
        UPDATE errands e SET state = 'failed', problem = $4,
            reason = coalesce($5 || coalesce(input_sealed_with, progress_sealed_with), $6), answered = asked,
            input_sealed = NULL, input_sealed_with = NULL, output_sealed = NULL, qr_url = NULL, password_hint = NULL, retry_at = NULL, updated_at = wireroom_now()
        FROM late WHERE e.id = late.id
        RETURNING e.id AS "id: ErrandId", e.session_id AS "session: SessionId", e.task, e.was, e.was_reason"#,
        interval(GRACE),
        session.map(|session| session.0),
        limit,
        ErrandProblem::Expired.as_str(),
        NO_WORKER_WITH_KEY,
        NO_WORKER,
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("end_abandoned_errands"))?;
    for row in &rows {
        let before = Before {
            session: row.session,
            task: known(Task::parse(&row.task), &row.task)?,
            state: &row.was,
            reason: row.was_reason.as_deref(),
        };
        session_logins::put_back(conn, &before, "LOGIN_EXPIRED").await?;
        session_logins::end_hold(conn, row.session, &format!("errand:{}", row.id)).await?;
    }
    Ok(rows.len())
}

/// Deletes errands that ended more than `age` ago, at most `limit`; returns how many. What came out of one and was not fetched, and
/// what no worker needed any more, is erased after five minutes.
pub async fn sweep(conn: &mut PgConnection, age: Duration, limit: i64) -> Result<u64, StoreError> {
    let swept = sqlx::query!(
        "-- sweep_errands
        WITH erased AS (
            UPDATE errands SET output_sealed = NULL,
                progress_sealed = CASE WHEN state NOT IN ('done', 'failed') THEN progress_sealed END,
                progress_sealed_with = CASE WHEN state NOT IN ('done', 'failed') THEN progress_sealed_with END
            WHERE (output_sealed IS NOT NULL OR (progress_sealed IS NOT NULL AND state IN ('done', 'failed')))
                AND updated_at < wireroom_now() - $3::interval
        )
        DELETE FROM errands WHERE id IN (
            SELECT id FROM errands WHERE state IN ('done', 'failed') AND updated_at < wireroom_now() - $1::interval LIMIT $2)",
        interval(age),
        limit,
        interval(LEFT_BEHIND),
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_errands"))?;
    Ok(swept.rows_affected())
}
