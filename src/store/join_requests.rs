//! Jobs that wait until an admin of a chat approves their session's request to join.

use sqlx::PgConnection;

use super::{StoreError, failed};
use crate::ids::SessionId;

/// Most jobs that are woken at once; the others look by themselves when their time has come.
const WAKE: i64 = 1_000;

/// Makes the jobs of a session that wait for an approval due now, because its account was let into a chat: which of them
/// asked, they find out. Returns how many.
pub async fn wake(conn: &mut PgConnection, session: SessionId) -> Result<u64, StoreError> {
    let woken = sqlx::query!(
        "-- wake_join_requests
        WITH waiting AS MATERIALIZED (
            SELECT id FROM jobs
            WHERE session_id = $1 AND state = 'scheduled' AND wait_reason ->> 'code' = 'approval_pending'
                AND run_at > wireroom_now()
            LIMIT $2 FOR UPDATE SKIP LOCKED
        ), clock AS MATERIALIZED (SELECT wireroom_now() AS t)
        UPDATE jobs j SET run_at = c.t, rank = j.rank - (extract(epoch FROM j.run_at - c.t) * 1000000)::bigint
        FROM waiting w, clock c WHERE j.id = w.id AND j.run_at > c.t",
        session.0,
        WAKE,
    )
    .execute(conn)
    .await
    .map_err(failed("wake_join_requests"))?;
    Ok(woken.rows_affected())
}
