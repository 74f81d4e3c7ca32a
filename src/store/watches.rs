//! Watches, as the monitor job that stands behind each sees its own. What happens in the chats is recorded elsewhere; this
//! says which are watched, by which session, and how far.
//!
//! The job's row is locked before the watch's, always: a statement that ends the job stops its watch.

use serde_json::json;
use sqlx::PgConnection;
use wireroom_jobs::{
    monitor::WatchEvent,
    ports::{WatchBegun, WatchStart, WatchState},
};

use super::{
    StoreError,
    attempt_data::AttemptKey,
    event_types::{EventType, Subject},
    failed, intake,
    outbox::{self, NewEvent},
};
use crate::ids::{JobId, SessionId};

/// How often a watch is looked for again that another job began, and ended, in the moment between.
const ROUNDS: usize = 3;

/// What a watch was before its job began another attempt.
struct Known {
    session: SessionId,
    is_active: bool,
}

/// Makes the attempt's job the chat's watch on this session, or goes on with it. The attempt must be held.
pub async fn begin(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    session: SessionId,
    start: &WatchStart,
) -> Result<WatchBegun, StoreError> {
    let known = sqlx::query_as!(
        Known,
        r#"-- lock_watch
        SELECT session_id AS "session: SessionId", state = 'active' AS "is_active!" FROM watches WHERE id = $1 FOR UPDATE"#,
        attempt.job.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_watch"))?;
    match known {
        Some(known) if !known.is_active => return Ok(WatchBegun::Stopped),
        Some(known) => {
            // The release before began one for each session of an account: the first goes on.
            if let Some(first) = first_private(conn, attempt.job, start).await? {
                return Ok(WatchBegun::Other { watch: first.0 });
            }
            go_on(conn, attempt.job, session, start, &known).await?;
        }
        None => {
            if let Some(other) = insert(conn, attempt.job, session, start).await? {
                return Ok(WatchBegun::Other { watch: other.0 });
            }
        }
    }
    let state = state(conn, attempt.job, session).await?;
    Ok(state.map_or(WatchBegun::Stopped, WatchBegun::Watching))
}

/// The account's watch of its private messages that another job began before this one.
async fn first_private(conn: &mut PgConnection, job: JobId, start: &WatchStart) -> Result<Option<JobId>, StoreError> {
    if start.chat_id.is_some() {
        return Ok(None);
    }
    sqlx::query_scalar!(
        r#"-- first_private_watch
        SELECT id AS "id: JobId" FROM watches WHERE state = 'active' AND chat_id IS NULL AND owner = $1 AND id < $2
        ORDER BY id LIMIT 1"#,
        start.owner,
        job.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("first_private_watch"))
}

/// Jobs that begin to watch the private messages of one account take turns until their transactions end.
async fn take_turns(conn: &mut PgConnection, account: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "-- lock_private_watches
        SELECT pg_advisory_xact_lock(hashtextextended('wireroom.private_watch.' || $1::bigint::text, 0)) IS NULL AS locked",
        account,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("lock_private_watches"))?;
    Ok(())
}

/// The live watch of the chat; of private messages, that of the account, whichever of its sessions holds it.
async fn find_live(conn: &mut PgConnection, start: &WatchStart) -> Result<Option<JobId>, StoreError> {
    sqlx::query_scalar!(
        r#"-- find_live_watch
        SELECT id AS "id: JobId" FROM watches WHERE state = 'active'
            AND (chat_id = $1 OR ($1::bigint IS NULL AND chat_id IS NULL AND owner = $2))
        ORDER BY id LIMIT 1"#,
        start.chat_id,
        start.owner,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("find_live_watch"))
}

/// A new watch; `Some`: the chat has one, by that job.
async fn insert(
    conn: &mut PgConnection,
    job: JobId,
    session: SessionId,
    start: &WatchStart,
) -> Result<Option<JobId>, StoreError> {
    if start.chat_id.is_none() {
        take_turns(conn, start.owner).await?;
        if let Some(other) = find_live(conn, start).await? {
            return Ok(Some(other));
        }
    }
    for _ in 0..ROUNDS {
        let inserted = sqlx::query!(
            "-- insert_watch
            INSERT INTO watches (id, chat_id, session_id, owner, events, filter, retention_days, last_message_id, begun_after)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT DO NOTHING",
            job.0,
            start.chat_id,
            session.0,
            start.owner,
            &names(&start.events) as &[&str],
            filter_value(start)?,
            start.retention_days,
            start.newest,
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("insert_watch"))?
        .rows_affected()
            == 1;
        if inserted {
            let data = json!({"watch": job, "session": session, "chat": start.chat_id});
            tell(conn, EventType::WatchStarted, job, data).await?;
            return Ok(None);
        }
        let other = find_live(conn, start).await?;
        if other.is_some() {
            return Ok(other);
        }
    }
    Err(StoreError::Rows {
        operation: "insert_watch",
        changed: 0,
        expected: 1,
    })
}

/// The next attempt of a watch. On another session the history is read from where the last one was; so it is on the same
/// one after it had lost the chat. Otherwise the session's own place in its updates says what was missed.
async fn go_on(
    conn: &mut PgConnection,
    job: JobId,
    session: SessionId,
    start: &WatchStart,
    known: &Known,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- continue_watch
        UPDATE watches SET session_id = $2, owner = $3, filling = filling OR session_id <> $2 OR lost_reason IS NOT NULL,
            renumbered = renumbered OR owner <> $3, checked_to = CASE WHEN owner = $3 THEN checked_to ELSE 0 END,
            left_to_history = CASE WHEN owner = $3 THEN left_to_history ELSE 0 END,
            lost_reason = NULL, updated_at = wireroom_now()
        WHERE id = $1",
        job.0,
        session.0,
        start.owner,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("continue_watch"))?;
    if known.session != session {
        // What this session reads is newer than all that the other one was told of.
        intake::left::forget(conn, job.0).await?;
        let data = json!({"watch": job, "from": known.session, "to": session, "chat": start.chat_id});
        tell(conn, EventType::WatchSwitched, job, data).await?;
    }
    Ok(())
}

/// The watch as it is now; `None`: it was stopped, or is another session's.
pub async fn state(conn: &mut PgConnection, job: JobId, session: SessionId) -> Result<Option<WatchState>, StoreError> {
    sqlx::query_as!(
        WatchState,
        "-- read_watch
        SELECT filling, last_message_id, coalesce(last_message_at, started_at) AS last_message_at, renumbered, left_to_history, gaps, lost_reason FROM watches
        WHERE id = $1 AND session_id = $2 AND state = 'active'",
        job.0,
        session.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("read_watch"))
}

/// Looks for messages that exist among those that were seen, and counts those that were not. Only such as the watch accounts
/// for, and each once.
pub async fn check(conn: &mut PgConnection, job: JobId, message_ids: &[i32]) -> Result<(), StoreError> {
    // Locked by a statement of its own: the next one sees every message that was stored before the place it reads up to.
    let watch = sqlx::query!(
        r#"-- lock_watch_to_check
        SELECT chat_id, owner, greatest(checked_to, begun_after) AS "above!", last_message_id FROM watches
        WHERE id = $1 AND state = 'active' AND NOT filling FOR UPDATE"#,
        job.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_watch_to_check"))?;
    let Some(watch) = watch else { return Ok(()) };
    sqlx::query!(
        "-- check_watch
        WITH looked_for AS (
            SELECT k.id, EXISTS (SELECT FROM messages m WHERE m.chat_id = $3 AND m.owner = $4 AND m.message_id = k.id) AS seen
            FROM unnest($2::int[]) AS k (id) WHERE k.id > $5 AND k.id <= $6
        ), found AS (
            SELECT count(*) AS checked, count(*) FILTER (WHERE NOT seen) AS missed, max(id) AS checked_to FROM looked_for
        )
        UPDATE watches w SET checked = w.checked + f.checked, missed = w.missed + f.missed, checked_to = f.checked_to
        FROM found f WHERE w.id = $1 AND f.checked > 0",
        job.0,
        message_ids,
        watch.chat_id,
        watch.owner,
        watch.above,
        watch.last_message_id,
    )
    .execute(conn)
    .await
    .map_err(failed("check_watch"))?;
    Ok(())
}

/// Where the history is read on from, by this account's numbers.
pub async fn renumber(conn: &mut PgConnection, job: JobId, last_message_id: i32) -> Result<(), StoreError> {
    sqlx::query!(
        "-- renumber_watch
        UPDATE watches SET last_message_id = $2, begun_after = $2, renumbered = false, updated_at = wireroom_now()
        WHERE id = $1 AND state = 'active'",
        job.0,
        last_message_id,
    )
    .execute(conn)
    .await
    .map_err(failed("renumber_watch"))?;
    Ok(())
}

/// Deletes up to `limit` messages whose time is over, and watches that ended `keep` days ago; returns how many went. Call
/// it again while that is not zero.
pub async fn expire(conn: &mut PgConnection, keep: i32, limit: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- expire_messages
        WITH old_messages AS (
            DELETE FROM messages WHERE (chat_id, owner, message_id) IN (
                SELECT chat_id, owner, message_id FROM messages WHERE expires_at <= (SELECT wireroom_now())
                ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
            RETURNING 1
        ), old_changes AS (
            DELETE FROM watch_changes WHERE watch_id IN (SELECT id FROM watches WHERE state <> 'active' OR NOT filling)
        ), old_watches AS (
            DELETE FROM watches WHERE id IN (
                SELECT id FROM watches WHERE state <> 'active'
                    AND stopped_at < (SELECT wireroom_now()) - make_interval(days => $1) LIMIT $2)
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM old_messages) + (SELECT count(*) FROM old_watches) AS "gone!""#,
        keep,
        limit,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("expire_messages"))
}

/// Writes an event of a watch.
pub(super) async fn tell(
    conn: &mut PgConnection,
    event_type: EventType,
    job: JobId,
    data: serde_json::Value,
) -> Result<(), StoreError> {
    let event = NewEvent {
        event_type,
        subject: Subject::watch(job),
        data,
    };
    outbox::append(conn, &[event]).await
}

fn names(events: &[WatchEvent]) -> Vec<&'static str> {
    events.iter().map(|event| event.as_str()).collect()
}

fn filter_value(start: &WatchStart) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(&start.filter).map_err(|error| StoreError::Decode {
        operation: "insert_watch",
        detail: error.to_string(),
    })
}
