//! How a watch goes from one session to the next: when its session cannot see the chat any more, when the session itself is
//! lost, and when a person says so. The job changes its session; whoever holds that one claims it and goes on.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use wireroom_jobs::{JobError, monitor::FailoverArgs, ports::Failover};

use super::{StoreError, attempt_data::AttemptKey, completions::error_value, event_types::EventType, failed, watches};
use crate::ids::{JobId, SessionId};

/// Seconds for which a session that lost a chat counts as one that cannot see it, when there is no delay between tries.
const HEALTHY: f64 = 600.0;
/// A watch's own session, its backups, and one more.
const LONGEST_LIST: f64 = 22.0;

/// Notes that the attempt's session cannot see the chat, and says which one is next. The attempt must be held; when it has
/// ended, its job goes on there.
pub async fn lose(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    session: SessionId,
    reason: &str,
    failover: FailoverArgs,
) -> Result<Failover, StoreError> {
    let job = attempt.job;
    if !is_of(conn, job, session).await? {
        return Ok(Failover::Moved);
    }
    let tries = sqlx::query_scalar!(
        "-- note_watch_loss
        INSERT INTO watch_losses AS l (job_id, session_id, reason, counts_until)
        VALUES ($1, $2, $3, wireroom_now() + make_interval(secs => $4))
        ON CONFLICT (job_id, session_id) DO UPDATE
        SET tries = CASE WHEN l.counts_until > wireroom_now() THEN l.tries + 1 ELSE 1 END,
            reason = EXCLUDED.reason, lost_at = wireroom_now(), counts_until = EXCLUDED.counts_until
        RETURNING tries",
        job.0,
        session.0,
        reason,
        memory_of(failover),
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(failed("note_watch_loss"))?;
    sqlx::query!(
        "-- lose_watch
        UPDATE watches SET lost_reason = coalesce(lost_reason, $2), updated_at = wireroom_now()
        WHERE id = $1 AND state = 'active'",
        job.0,
        reason,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("lose_watch"))?;
    if tries == 1 {
        // Once for each loss: further looks of the same session are tries.
        let data = json!({"watch": job, "session": session, "reason": reason});
        watches::tell(conn, EventType::WatchAccessLost, job, data).await?;
    }
    if tries < failover.tries {
        return Ok(Failover::Again);
    }
    if let Some(next) = next_session(conn, job).await? {
        set_session(conn, job, next).await?;
        Ok(Failover::Next)
    } else {
        exhaust(conn, job, reason).await?;
        Ok(Failover::Exhausted)
    }
}

/// Whether the job is still that session's: a person may have given it to another one while the attempt ran.
async fn is_of(conn: &mut PgConnection, job: JobId, session: SessionId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- is_watch_of_session
        SELECT session_id IS NOT DISTINCT FROM $2 AS "is_of!" FROM jobs WHERE id = $1"#,
        job.0,
        session.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("is_watch_of_session"))
}

/// How many seconds a loss counts: long enough for each session of the longest list to have had its tries.
fn memory_of(failover: FailoverArgs) -> f64 {
    f64::from(failover.delay_seconds).mul_add(f64::from(failover.tries) * LONGEST_LIST, HEALTHY)
}

/// Forgets what was lost: each session may be tried again.
async fn forgive(conn: &mut PgConnection, job: JobId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- forgive_watch_losses\nDELETE FROM watch_losses WHERE job_id = $1",
        job.0
    )
    .execute(conn)
    .await
    .map_err(failed("forgive_watch_losses"))?;
    Ok(())
}

/// The first of the job's backups that may be used and has not lost the chat lately.
async fn next_session(conn: &mut PgConnection, job: JobId) -> Result<Option<SessionId>, StoreError> {
    sqlx::query_scalar!(
        r#"-- next_watch_session
        SELECT next_watch_session($1) AS "id: SessionId""#,
        job.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("next_watch_session"))
}

/// The job is that session's now. An attempt that runs was claimed under no lease of it, by which it is found should
/// nobody tell it to stop.
async fn set_session(conn: &mut PgConnection, job: JobId, session: SessionId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- set_watch_session
        UPDATE jobs SET session_id = $2, session_bound = true, pool = (SELECT pool FROM sessions WHERE id = $2),
            session_fence = CASE WHEN session_fence IS NOT NULL THEN 0 END
        WHERE id = $1",
        job.0,
        session.0,
    )
    .execute(conn)
    .await
    .map_err(failed("set_watch_session"))?;
    Ok(())
}

async fn exhaust(conn: &mut PgConnection, job: JobId, reason: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- exhaust_watch
        UPDATE watches SET state = 'exhausted', stopped_at = wireroom_now(), updated_at = wireroom_now()
        WHERE id = $1 AND state = 'active'",
        job.0,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("exhaust_watch"))?;
    watches::tell(
        conn,
        EventType::WatchExhausted,
        job,
        json!({"watch": job, "reason": reason}),
    )
    .await
}

/// What became of watches whose session is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// How many wait for another session now.
    pub moved: usize,
    pub ended: Vec<JobId>,
}

/// Moves monitor jobs whose session was taken out of use to the next one of their list, at most `limit`. Those that have
/// none wait while it may come back (quarantined, disabled), and end `exhausted` when it will not (logged out, banned,
/// frozen, deleted).
pub async fn leave_lost_sessions(conn: &mut PgConnection, limit: i64) -> Result<Left, StoreError> {
    let mut transaction = conn.begin().await.map_err(failed("leave_lost_sessions"))?;
    let left = leave(&mut transaction, limit).await?;
    transaction.commit().await.map_err(failed("leave_lost_sessions"))?;
    Ok(left)
}

async fn leave(conn: &mut PgConnection, limit: i64) -> Result<Left, StoreError> {
    let waiting = sqlx::query!(
        r#"-- lock_watches_of_lost_sessions
        SELECT j.id AS "id: JobId", j.session_id AS "session!: SessionId",
            coalesce(s.state_reason, s.state, 'deleted') AS "reason!", next_watch_session(j.id) AS "next: SessionId"
        FROM jobs j LEFT JOIN sessions s ON s.id = j.session_id
        WHERE j.kind = 'monitor' AND j.state <> 'running' AND j.session_id IS NOT NULL
            AND (s.id IS NULL OR s.state IN ('logged_out', 'banned', 'frozen')
                OR (s.state IN ('quarantined', 'disabled') AND next_watch_session(j.id) IS NOT NULL))
        ORDER BY j.id LIMIT $1 FOR UPDATE OF j SKIP LOCKED"#,
        limit,
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("lock_watches_of_lost_sessions"))?;
    let mut left = Left::default();
    for job in waiting {
        let data = json!({"watch": job.id, "session": job.session, "reason": job.reason});
        watches::tell(conn, EventType::WatchAccessLost, job.id, data).await?;
        if let Some(next) = job.next {
            set_session(conn, job.id, next).await?;
            left.moved += 1;
        } else {
            exhaust(conn, job.id, &job.reason).await?;
            end_exhausted(conn, job.id).await?;
            left.ended.push(job.id);
        }
    }
    Ok(left)
}

async fn end_exhausted(conn: &mut PgConnection, job: JobId) -> Result<(), StoreError> {
    let error = error_value(&JobError::permanent(
        "exhausted",
        "The session of this watch is lost, and no other one of its list can go on. Start it again on a session that is a \
         member of the chat.",
    ));
    sqlx::query!(
        "-- end_exhausted_watch
        WITH gone AS (DELETE FROM jobs WHERE id = $1 AND state <> 'running' RETURNING *)
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, deadline, attempt,
            max_attempts, fence, worker_id, started_at, finished_at, progress, error, tags, created_by, created_at)
        SELECT id, kind, args, 'failed', lane, pool, session_id, priority, run_at, deadline, attempt, max_attempts, fence,
            worker_id, started_at, (SELECT wireroom_now()), progress,
            CASE WHEN outcome_in_doubt(id, checkpoint) THEN outcome_unknown($2::jsonb) ELSE $2::jsonb END,
            tags, created_by, created_at
        FROM gone",
        job.0,
        error,
    )
    .execute(conn)
    .await
    .map_err(failed("end_exhausted_watch"))?;
    Ok(())
}

/// How a switch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// The job is the session's now. `was_running`: its attempt has to be told to stop.
    Done { from: Option<SessionId>, was_running: bool },
    /// It was there already.
    Already,
    /// No live watch of that id.
    Unknown,
}

/// Gives a watch to another session, in the caller's transaction: the session that had it goes on until its attempt has
/// stopped, and the new one reads from the history what lies between.
pub async fn switch(conn: &mut PgConnection, job: JobId, to: SessionId) -> Result<Switched, StoreError> {
    let row = sqlx::query!(
        r#"-- lock_watch_job
        SELECT session_id AS "session: SessionId", state = 'running' AS "is_running!" FROM jobs
        WHERE id = $1 AND kind = 'monitor' AND cancel_requested_at IS NULL FOR UPDATE"#,
        job.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_watch_job"))?;
    let Some(row) = row else {
        return Ok(Switched::Unknown);
    };
    if row.session == Some(to) {
        return Ok(Switched::Already);
    }
    forgive(conn, job).await?;
    set_session(conn, job, to).await?;
    Ok(Switched::Done {
        from: row.session,
        was_running: row.is_running,
    })
}

#[cfg(test)]
mod tests;
