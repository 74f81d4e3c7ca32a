//! What an errand does to its session: made, logged in, imported, taken out of use, deleted. The writes of a worker follow
//! [`errand_work::hold`](super::errand_work::hold) in the same transaction; a lease's fence moves on wherever keys change.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError, audit,
    errands::Task,
    failed, leases,
    pauses::PauseScope,
    sessions::{self, DcRow, SessionState},
    vault_keys::SealedDc,
};
use crate::{
    ids::{ApplicationId, ErrandId, SessionId},
    vault::Sealed,
};

/// A session as somebody who would log it in finds it, locked until the transaction ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    pub id: SessionId,
    pub state: String,
    pub reason: Option<String>,
    pub pool: String,
    pub application: Option<ApplicationId>,
    pub account_id: Option<i64>,
    /// A worker holds its lease.
    pub held: bool,
    /// It has an auth key.
    pub has_key: bool,
}

/// Locks the session of that label.
pub async fn lock_by_label(conn: &mut PgConnection, label: &str) -> Result<Option<Locked>, StoreError> {
    lock_where(conn, None, Some(label)).await
}

/// Locks the session of that id.
pub async fn lock(conn: &mut PgConnection, id: SessionId) -> Result<Option<Locked>, StoreError> {
    lock_where(conn, Some(id), None).await
}

async fn lock_where(
    conn: &mut PgConnection,
    id: Option<SessionId>,
    label: Option<&str>,
) -> Result<Option<Locked>, StoreError> {
    sqlx::query_as!(
        Locked,
        r#"-- lock_session
        SELECT s.id AS "id: SessionId", s.state, s.state_reason AS reason, s.pool,
            s.application_id AS "application: ApplicationId", s.account_id,
            EXISTS (SELECT FROM session_leases l WHERE l.session_id = s.id AND l.expires_at > wireroom_now()) AS "held!",
            EXISTS (SELECT FROM session_dcs d WHERE d.session_id = s.id AND d.auth_key_sealed IS NOT NULL) AS "has_key!"
        FROM sessions s WHERE s.id = $1 OR s.label = $2 FOR UPDATE OF s"#,
        id.map(|id| id.0),
        label,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("lock_session"))
}

/// A session that nobody is logged in with yet.
#[derive(Debug, Clone)]
pub struct UnusedSession<'a> {
    pub id: SessionId,
    pub label: &'a str,
    pub pool: &'a str,
    pub application: Option<ApplicationId>,
    pub state: SessionState,
    pub reason: Option<&'a str>,
}

/// Stores a session without an account, with its free lease and the event of its state. `false`: another has the label, and nothing was stored.
pub async fn insert_unused(conn: &mut PgConnection, session: &UnusedSession<'_>) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "-- insert_unused_session
        WITH new AS (
            INSERT INTO sessions (id, label, pool, application_id, state, state_reason, home_dc)
            VALUES ($1, $2, $3, $4, $5, $6, 2)
            ON CONFLICT (label) DO NOTHING
            RETURNING id
        )
        INSERT INTO session_leases (session_id) SELECT id FROM new",
        session.id.0,
        session.label,
        session.pool,
        session.application.map(|id| id.0),
        session.state.as_str(),
        session.reason,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("insert_unused_session"))?;
    let is_new = stored.rows_affected() == 1;
    if is_new {
        sessions::emit_state(conn, session.id, None, session.state, session.reason).await?;
    }
    Ok(is_new)
}

/// Puts a session that was logged in anew where its login said, in the transaction that stores the login.
pub async fn rehome(conn: &mut PgConnection, id: SessionId, errand: ErrandId) -> Result<(), StoreError> {
    sqlx::query!(
        "-- rehome_session
        UPDATE sessions s SET pool = e.new_pool, application_id = e.new_application
        FROM errands e WHERE s.id = $1 AND e.id = $2 AND e.new_pool IS NOT NULL",
        id.0,
        errand.0,
    )
    .execute(conn)
    .await
    .map_err(failed("rehome_session"))?;
    Ok(())
}

/// What a session was before an errand.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    pub session: SessionId,
    pub task: Task,
    pub state: &'a str,
    pub reason: Option<&'a str>,
}

/// Puts a session back as it was before an errand that came to nothing. A session that has no state of before stands there for
/// the reason `word`. Whoever held it may have a key of it connected still: its hold on the errand keeps the lease from being taken.
pub async fn put_back(conn: &mut PgConnection, before: &Before<'_>, word: &str) -> Result<(), StoreError> {
    let Some(now) = lock(conn, before.session).await? else {
        return Ok(());
    };
    let (state, reason) = match before.task {
        Task::Phone | Task::Bot | Task::Qr | Task::Import => {
            let state = SessionState::before_login(before.state);
            let known = before.reason.filter(|_| state != SessionState::New);
            (state, Some(known.unwrap_or(word)))
        }
        // These take the session out of use, and nothing else does while they are done.
        Task::Export | Task::LogOut | Task::Delete if now.state == SessionState::Disabled.as_str() => {
            match SessionState::parse(before.state) {
                Some(state) => (state, before.reason),
                None => return Ok(()),
            }
        }
        Task::Export | Task::LogOut | Task::Delete | Task::Enable => return Ok(()),
    };
    set_state(conn, before.session, state, reason).await.map(drop)
}

/// Changes a session's state, with its event. For sessions that no worker holds, or whose holder is to let go. `false`: it
/// was in that state for that reason already.
pub async fn set_state(
    conn: &mut PgConnection,
    id: SessionId,
    to: SessionState,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let was = sqlx::query_scalar!(
        "-- set_session_state
        WITH old AS (SELECT id, state, state_reason FROM sessions WHERE id = $1 FOR UPDATE)
        UPDATE sessions s SET state = $2, state_reason = $3, state_since = wireroom_now(),
            settings_version = settings_version + 1
        FROM old WHERE s.id = old.id AND (old.state, old.state_reason) IS DISTINCT FROM ($2, $3)
        RETURNING old.state",
        id.0,
        to.as_str(),
        reason,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("set_session_state"))?;
    let Some(was) = was else { return Ok(false) };
    sessions::emit_state(conn, id, Some(&was), to, reason).await?;
    let was_usable = matches!(was.as_str(), "ready" | "limited" | "degraded");
    if was_usable && !to.is_holdable() {
        let data = json!({ "session": id, "from": was, "to": to.as_str(), "reason": reason });
        sessions::emit(conn, "session.access_lost", id, &data).await?;
    }
    Ok(true)
}

/// Whose session it is, and its keys.
#[derive(Debug, Clone)]
pub struct Authorisation<'a> {
    pub id: SessionId,
    /// `None`: not known before it is checked.
    pub account_id: Option<i64>,
    pub username: Option<&'a str>,
    pub is_bot: bool,
    pub home_dc: i32,
    pub dcs: &'a [DcRow],
}

/// Gives a session new keys, with nothing left of what belonged to the old ones; its state is the caller's to set. The
/// lease's fence moves on, so that a holder of before changes nothing.
pub async fn replace_keys(conn: &mut PgConnection, new: &Authorisation<'_>) -> Result<(), StoreError> {
    leases::lock(conn, new.id).await?;
    sqlx::query!(
        "-- replace_session_keys
        WITH fenced AS (UPDATE session_leases SET fence = fence + 1, acquired_at = wireroom_now() WHERE session_id = $1),
            dcs AS (DELETE FROM session_dcs WHERE session_id = $1),
            rested AS (DELETE FROM session_breakers WHERE session_id = $1),
            peers AS (DELETE FROM session_peers WHERE session_id = $1),
            states AS (DELETE FROM session_update_states WHERE session_id = $1)
        UPDATE sessions SET account_id = COALESCE($2, account_id), username = $3, is_bot = $4, home_dc = $5
        WHERE id = $1",
        new.id.0,
        new.account_id,
        new.username,
        new.is_bot,
        new.home_dc,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("replace_session_keys"))?;
    for dc in new.dcs {
        sessions::insert_dc(conn, new.id, dc).await?;
    }
    Ok(())
}

/// Writes down whose session it turned out to be, at the call that checked it.
pub async fn checked(
    conn: &mut PgConnection,
    id: SessionId,
    account_id: i64,
    username: Option<&str>,
    is_bot: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- session_checked
        UPDATE sessions SET account_id = $2, username = $3, is_bot = $4, last_call_at = wireroom_now() WHERE id = $1",
        id.0,
        account_id,
        username,
        is_bot,
    )
    .execute(conn)
    .await
    .map_err(failed("session_checked"))?;
    Ok(())
}

/// Erases a session's keys: its authorisation is over.
pub async fn erase_keys(conn: &mut PgConnection, id: SessionId) -> Result<(), StoreError> {
    leases::lock(conn, id).await?;
    sqlx::query!(
        "-- erase_session_keys
        WITH fenced AS (UPDATE session_leases SET fence = fence + 1, acquired_at = wireroom_now() WHERE session_id = $1)
        DELETE FROM session_dcs WHERE session_id = $1",
        id.0,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("erase_session_keys"))?;
    Ok(())
}

/// The sealed auth keys of all other sessions, with their owners.
pub async fn other_keys(conn: &mut PgConnection, id: SessionId) -> Result<Vec<SealedDc>, StoreError> {
    let rows = sqlx::query!(
        r#"-- other_keys
        SELECT session_id AS "session: SessionId", dc_id, auth_key_sealed AS "sealed!", sealed_with AS "key_id!"
        FROM session_dcs WHERE session_id <> $1 AND auth_key_sealed IS NOT NULL AND sealed_with IS NOT NULL"#,
        id.0,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("other_keys"))?;
    let key = |row: (SessionId, i32, Vec<u8>, String)| SealedDc {
        session: row.0,
        dc: row.1,
        auth_key: Sealed {
            key_id: row.3,
            bytes: row.2,
        },
    };
    Ok(rows
        .into_iter()
        .map(|row| key((row.session, row.dc_id, row.sealed, row.key_id)))
        .collect())
}

/// What an errand must know of its session before it begins.
#[derive(Debug, Clone)]
pub struct Facts {
    pub account_id: Option<i64>,
    pub is_bot: bool,
    pub home_dc: i32,
    /// The one it belongs to; of an errand that logs it in anew, the one it will.
    pub application: Option<ApplicationId>,
    /// No worker holds it, and no other errand: neither has its key connected.
    pub free: bool,
    pub reason: Option<String>,
    /// Jobs of it that run.
    pub running: i64,
}

/// The facts of a session, for an errand of it; `None` when there is none.
pub async fn facts(
    conn: &mut PgConnection,
    id: SessionId,
    errand: Option<ErrandId>,
) -> Result<Option<Facts>, StoreError> {
    sqlx::query_as!(
        Facts,
        r#"-- errand_facts
        SELECT s.account_id, s.is_bot, s.home_dc,
            CASE WHEN mine.new_pool IS NULL THEN s.application_id ELSE mine.new_application END AS "application: ApplicationId",
            NOT EXISTS (SELECT FROM session_leases l WHERE l.session_id = s.id AND l.expires_at > wireroom_now())
                AND NOT EXISTS (SELECT FROM errands e WHERE e.session_id = s.id AND e.id IS DISTINCT FROM $2 AND e.lease_until > wireroom_now())
                AS "free!", s.state_reason AS reason,
            (SELECT count(*) FROM jobs j WHERE j.session_id = s.id AND j.state = 'running') AS "running!"
        FROM sessions s LEFT JOIN errands mine ON mine.id = $2 WHERE s.id = $1"#,
        id.0,
        errand.map(|errand| errand.0),
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("errand_facts"))
}

/// How many unfinished jobs name the session or stay with it.
pub async fn live_jobs(conn: &mut PgConnection, id: SessionId) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- live_jobs_of_session
        SELECT count(*) AS "count!" FROM jobs WHERE session_id = $1"#,
        id.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("live_jobs_of_session"))
}

/// Pauses a session unless somebody has, so that its jobs run out; [`end_hold`] of the same actor ends that.
pub async fn hold_back(conn: &mut PgConnection, id: SessionId, reason: &str, actor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- hold_session_back
        INSERT INTO pauses (scope, target, reason, paused_by) VALUES ($1, $2, $3, $4) ON CONFLICT (scope, target) DO NOTHING",
        PauseScope::Session.as_str(),
        id.to_string(),
        reason,
        actor,
    )
    .execute(conn)
    .await
    .map_err(failed("hold_session_back"))?;
    Ok(())
}

/// Ends the pause that [`hold_back`] made.
pub async fn end_hold(conn: &mut PgConnection, id: SessionId, actor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- end_session_hold
        DELETE FROM pauses WHERE scope = $1 AND target = $2 AND paused_by = $3",
        PauseScope::Session.as_str(),
        id.to_string(),
        actor,
    )
    .execute(conn)
    .await
    .map_err(failed("end_session_hold"))?;
    Ok(())
}

/// Deletes a session with everything that hangs on it; events and the audit log stay.
pub async fn delete(conn: &mut PgConnection, id: SessionId) -> Result<bool, StoreError> {
    leases::lock(conn, id).await?;
    let deleted = sqlx::query!(
        "-- delete_session
        DELETE FROM sessions WHERE id = $1",
        id.0,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("delete_session"))?;
    Ok(deleted.rows_affected() == 1)
}

/// Appends to the audit log what was done to a session.
pub async fn note(
    conn: &mut PgConnection,
    actor: &str,
    action: &str,
    id: SessionId,
    request_id: Option<&str>,
    details: serde_json::Value,
) -> Result<(), StoreError> {
    let entry = audit::Entry {
        actor,
        action,
        subject: &format!("session:{id}"),
        request_id,
        details,
    };
    audit::record(conn, entry).await
}
