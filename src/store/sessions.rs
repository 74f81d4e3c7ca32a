//! Sessions: their rows, where their data centres are, their sealed auth keys, and the changes of their state.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed, leases,
    leases::LeaseKey,
    outbox::{self, NewEvent},
};
use crate::{
    ids::{SessionId, WorkerId},
    vault::Sealed,
};

/// Why a session is ready that was just logged in.
pub const LOGGED_IN: &str = "LOGGED_IN";
/// How many terms of a lease an incident is told with.
const TERMS_OF_AN_INCIDENT: i64 = 20;

/// A data centre of a session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DcRow {
    pub dc_id: i32,
    /// Address and port.
    pub ipv4: String,
    pub ipv6: String,
    pub auth_key: Option<Sealed>,
}

/// A session about to be stored.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub id: SessionId,
    /// Unique; shown to people. Never a phone number.
    pub label: String,
    pub pool: String,
    pub account_id: i64,
    pub username: Option<String>,
    pub is_bot: bool,
    pub home_dc: i32,
    pub dcs: Vec<DcRow>,
}

/// A session's states. Only `ready`, `limited` and `degraded` ones are ever connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    New,
    CodeNeeded,
    PasswordNeeded,
    Ready,
    Limited,
    /// Telegram's own trouble keeps it from its work: it is held and connected, and gets no jobs until it answers again.
    Degraded,
    LoggedOut,
    Banned,
    Frozen,
    Quarantined,
    Disabled,
}

impl SessionState {
    pub const ALL: [Self; 11] = [
        Self::New,
        Self::CodeNeeded,
        Self::PasswordNeeded,
        Self::Ready,
        Self::Limited,
        Self::Degraded,
        Self::LoggedOut,
        Self::Banned,
        Self::Frozen,
        Self::Quarantined,
        Self::Disabled,
    ];

    /// What a session goes back to whose login came to nothing, from the state before as it is stored.
    pub fn before_login(was: &str) -> Self {
        match Self::parse(was) {
            None | Some(Self::CodeNeeded | Self::PasswordNeeded) => Self::New,
            Some(state) if state.is_holdable() => Self::New,
            Some(state) => state,
        }
    }

    /// The state that is stored as that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::CodeNeeded => "code_needed",
            Self::PasswordNeeded => "password_needed",
            Self::Ready => "ready",
            Self::Limited => "limited",
            Self::Degraded => "degraded",
            Self::LoggedOut => "logged_out",
            Self::Banned => "banned",
            Self::Frozen => "frozen",
            Self::Quarantined => "quarantined",
            Self::Disabled => "disabled",
        }
    }

    /// Whether a worker may hold a lease on a session in this state.
    pub const fn is_holdable(self) -> bool {
        matches!(self, Self::Ready | Self::Limited | Self::Degraded)
    }

    /// The states from which a holder may bring a session into this one; `None`: from any. What somebody took out of use
    /// does not come back by what its holder was in the middle of, and a limit is not over because of other trouble.
    const fn comes_from(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Limited => Some(&["ready", "limited", "degraded"]),
            Self::Degraded => Some(&["ready"]),
            Self::Ready => Some(&["degraded"]),
            _ => None,
        }
    }
}

/// A change of state that a holder reports, with why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    pub to: SessionState,
    /// A stable word, such as Telegram's name of the error.
    pub reason: String,
    /// Written to the audit log as this action as well.
    pub incident: Option<&'static str>,
}

/// Creates the pool unless it exists.
pub async fn ensure_pool(connection: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- ensure_pool
        INSERT INTO pools (name) VALUES ($1) ON CONFLICT DO NOTHING",
        name
    )
    .execute(connection)
    .await
    .map_err(failed("ensure_pool"))?;
    Ok(())
}

/// What is stored under a label that somebody logs in to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    New,
    /// A session nobody holds; it cannot be taken until the transaction ends.
    Free { id: SessionId, account_id: Option<i64> },
    /// A session that a worker holds.
    Held,
}

/// Looks for the session of a label, and keeps workers from taking it until the transaction ends.
pub async fn lock_for_login(connection: &mut PgConnection, label: &str) -> Result<Stored, StoreError> {
    leases::lock_by_label(connection, label).await?;
    let row = sqlx::query!(
        r#"-- lock_for_login
        SELECT s.id AS "id: SessionId", s.account_id, l.expires_at > wireroom_now() AS "held!"
        FROM sessions s JOIN session_leases l ON l.session_id = s.id
        WHERE s.label = $1
        FOR UPDATE OF s, l"#,
        label
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock_for_login"))?;
    Ok(match row {
        None => Stored::New,
        Some(row) if row.held => Stored::Held,
        Some(row) => Stored::Free {
            id: row.id,
            account_id: row.account_id,
        },
    })
}

/// Gives a session a fresh login: new auth keys, and nothing left of what belonged to the old ones, with the event of its
/// state. The caller has locked it with [`lock_for_login`]. The fence moves on, so that a holder of before changes nothing.
pub async fn login_again(connection: &mut PgConnection, session: &NewSession) -> Result<(), StoreError> {
    let was = sqlx::query_scalar!(
        "-- login_again
        WITH fenced AS (UPDATE session_leases SET fence = fence + 1, acquired_at = wireroom_now() WHERE session_id = $1),
            dcs AS (DELETE FROM session_dcs WHERE session_id = $1),
            rested AS (DELETE FROM session_breakers WHERE session_id = $1),
            peers AS (DELETE FROM session_peers WHERE session_id = $1),
            states AS (DELETE FROM session_update_states WHERE session_id = $1),
            was AS (SELECT state FROM sessions WHERE id = $1)
        UPDATE sessions SET pool = $2, state = 'ready', state_reason = $7, state_since = wireroom_now(),
            account_id = $3, username = $4, is_bot = $5, home_dc = $6, settings_version = settings_version + 1
        FROM was WHERE id = $1
        RETURNING was.state",
        session.id.0,
        session.pool,
        session.account_id,
        session.username,
        session.is_bot,
        session.home_dc,
        LOGGED_IN,
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("login_again"))?;
    for dc in &session.dcs {
        insert_dc(connection, session.id, dc).await?;
    }
    emit_state(connection, session.id, Some(&was), SessionState::Ready, Some(LOGGED_IN)).await
}

/// Stores a session that is ready to be held, its data centres and its free lease, with the event of its state.
pub async fn insert_ready(connection: &mut PgConnection, session: &NewSession) -> Result<(), StoreError> {
    sqlx::query!(
        "-- insert_session
        WITH new AS (
            INSERT INTO sessions (id, label, pool, state, state_reason, account_id, username, is_bot, home_dc)
            VALUES ($1, $2, $3, 'ready', $8, $4, $5, $6, $7)
            RETURNING id
        )
        INSERT INTO session_leases (session_id) SELECT id FROM new",
        session.id.0,
        session.label,
        session.pool,
        session.account_id,
        session.username,
        session.is_bot,
        session.home_dc,
        LOGGED_IN,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("insert_session"))?;
    for dc in &session.dcs {
        insert_dc(connection, session.id, dc).await?;
    }
    emit_state(connection, session.id, None, SessionState::Ready, Some(LOGGED_IN)).await
}

pub(super) async fn insert_dc(connection: &mut PgConnection, session: SessionId, dc: &DcRow) -> Result<(), StoreError> {
    sqlx::query!(
        "-- insert_session_dc
        INSERT INTO session_dcs (session_id, dc_id, ipv4, ipv6, auth_key_sealed, sealed_with)
        VALUES ($1, $2, $3, $4, $5, $6)",
        session.0,
        dc.dc_id,
        dc.ipv4,
        dc.ipv6,
        dc.auth_key.as_ref().map(|sealed| sealed.bytes.as_slice()),
        dc.auth_key.as_ref().map(|sealed| sealed.key_id.as_str()),
    )
    .execute(connection)
    .await
    .map_err(failed("insert_session_dc"))?;
    Ok(())
}

/// The data centres of a session.
pub async fn dcs(connection: &mut PgConnection, session: SessionId) -> Result<Vec<DcRow>, StoreError> {
    let rows = sqlx::query!(
        "-- session_dcs
        SELECT dc_id, ipv4, ipv6, auth_key_sealed, sealed_with FROM session_dcs WHERE session_id = $1 ORDER BY dc_id",
        session.0,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("session_dcs"))?;
    Ok(rows
        .into_iter()
        .map(|row| DcRow {
            dc_id: row.dc_id,
            ipv4: row.ipv4,
            ipv6: row.ipv6,
            auth_key: row
                .auth_key_sealed
                .zip(row.sealed_with)
                .map(|(bytes, key_id)| Sealed { key_id, bytes }),
        })
        .collect())
}

/// Stores a data centre under the lease: its addresses, and its auth key when it has none yet. An auth key that is
/// there is never replaced, whatever `dc` says.
pub async fn save_dc(connection: &mut PgConnection, lease: LeaseKey, dc: &DcRow) -> Result<(), StoreError> {
    leases::hold(connection, lease, "save_session_dc").await?;
    sqlx::query!(
        "-- save_session_dc
        INSERT INTO session_dcs AS d (session_id, dc_id, ipv4, ipv6, auth_key_sealed, sealed_with)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (session_id, dc_id) DO UPDATE
        SET ipv4 = EXCLUDED.ipv4, ipv6 = EXCLUDED.ipv6,
            auth_key_sealed = COALESCE(d.auth_key_sealed, EXCLUDED.auth_key_sealed),
            sealed_with = COALESCE(d.sealed_with, EXCLUDED.sealed_with)",
        lease.session.0,
        dc.dc_id,
        dc.ipv4,
        dc.ipv6,
        dc.auth_key.as_ref().map(|sealed| sealed.bytes.as_slice()),
        dc.auth_key.as_ref().map(|sealed| sealed.key_id.as_str()),
    )
    .execute(connection)
    .await
    .map_err(failed("save_session_dc"))?;
    Ok(())
}

/// Forgets the key of a data centre that is not the session's home, under the lease.
pub async fn forget_dc(connection: &mut PgConnection, lease: LeaseKey, dc: i32) -> Result<(), StoreError> {
    leases::hold(connection, lease, "forget_session_dc").await?;
    sqlx::query!(
        "-- forget_session_dc
        DELETE FROM session_dcs d USING sessions s
        WHERE s.id = $1 AND d.session_id = s.id AND d.dc_id = $2 AND s.home_dc <> d.dc_id",
        lease.session.0,
        dc,
    )
    .execute(connection)
    .await
    .map_err(failed("forget_session_dc"))?;
    Ok(())
}

/// Stores the account's present username under the lease.
pub async fn save_username(
    connection: &mut PgConnection,
    lease: LeaseKey,
    username: Option<&str>,
) -> Result<(), StoreError> {
    leases::hold(connection, lease, "save_username").await?;
    sqlx::query!(
        "-- save_username
        UPDATE sessions SET username = $2 WHERE id = $1 AND username IS DISTINCT FROM $2",
        lease.session.0,
        username,
    )
    .execute(connection)
    .await
    .map_err(failed("save_username"))?;
    Ok(())
}

/// Changes a session's state under its lease, with the events and the audit row of it. Runs in the caller's
/// transaction. `false`: it was in that state for that reason already, or was taken out of use meanwhile and does not come
/// back by this; nothing was written.
pub async fn change_state(
    connection: &mut PgConnection,
    lease: LeaseKey,
    change: &StateChange,
) -> Result<bool, StoreError> {
    leases::hold(connection, lease, "change_session_state").await?;
    let comes_from = change.to.comes_from();
    let Some(was) = sqlx::query_scalar!(
        "-- lock_session_state
        SELECT state FROM sessions
        WHERE id = $1 AND (state, state_reason) IS DISTINCT FROM ($2, $3)
            AND ($4::text[] IS NULL OR state = ANY ($4)) FOR NO KEY UPDATE",
        lease.session.0,
        change.to.as_str(),
        change.reason,
        comes_from as Option<&[&str]>,
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("lock_session_state"))?
    else {
        return Ok(false);
    };
    sqlx::query!(
        "-- change_session_state
        UPDATE sessions SET state = $2, state_reason = $3, state_since = wireroom_now(),
            settings_version = settings_version + 1
        WHERE id = $1",
        lease.session.0,
        change.to.as_str(),
        change.reason,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("change_session_state"))?;
    let data = json!({
        "session": lease.session, "from": was, "to": change.to.as_str(), "reason": change.reason,
    });
    emit(connection, EventType::SessionStateChanged, lease.session, data.clone()).await?;
    if !change.to.is_holdable() {
        emit(connection, EventType::SessionAccessLost, lease.session, data.clone()).await?;
    }
    if let Some(action) = change.incident {
        incident(connection, lease.owner, action, lease.session, data).await?;
    }
    Ok(true)
}

/// The event of a session's state, for a session that has none yet, or where the change has no [`StateChange`].
pub(super) async fn emit_state(
    connection: &mut PgConnection,
    session: SessionId,
    from: Option<&str>,
    to: SessionState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let data = json!({ "session": session, "from": from, "to": to.as_str(), "reason": reason });
    emit(connection, EventType::SessionStateChanged, session, data).await
}

/// Writes an incident down in the audit log, with who had the session's lease when.
pub async fn incident(
    connection: &mut PgConnection,
    worker: WorkerId,
    action: &str,
    session: SessionId,
    mut details: serde_json::Value,
) -> Result<(), StoreError> {
    details["terms"] = terms(connection, session).await?;
    audit(connection, worker, action, session, &details).await
}

/// The version of a session's settings; it grows with every change of its state.
pub async fn settings_version(connection: &mut PgConnection, session: SessionId) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "-- settings_version
        SELECT settings_version FROM sessions WHERE id = $1",
        session.0,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("settings_version"))
}

/// The latest terms of a session's lease, the last one first: who could have used it when.
async fn terms(connection: &mut PgConnection, session: SessionId) -> Result<serde_json::Value, StoreError> {
    sqlx::query_scalar!(
        r#"-- latest_terms
        SELECT coalesce(jsonb_agg(jsonb_build_object('fence', t.fence, 'worker', t.owner, 'host', w.host,
            'acquired_at', t.acquired_at, 'released_at', t.released_at) ORDER BY t.fence DESC), '[]') AS "terms!"
        FROM (SELECT * FROM session_terms WHERE session_id = $1 ORDER BY fence DESC LIMIT $2) t
        LEFT JOIN workers w ON w.id = t.owner"#,
        session.0,
        TERMS_OF_AN_INCIDENT,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("latest_terms"))
}

/// Notes that a session is not in a chat any more, and raises `session.access_lost` for it. `false`: it was not known to
/// be in it, and nothing was written.
pub async fn lose_chat(
    connection: &mut PgConnection,
    lease: LeaseKey,
    chat_id: i64,
    reason: &str,
) -> Result<bool, StoreError> {
    leases::hold(connection, lease, "lose_chat").await?;
    let lost = sqlx::query!(
        "-- lose_chat
        UPDATE session_chats SET member = false, updated_at = wireroom_now()
        WHERE session_id = $1 AND chat_id = $2 AND member",
        lease.session.0,
        chat_id,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("lose_chat"))?
    .rows_affected()
        == 1;
    if lost {
        let data = json!({ "session": lease.session, "chat": chat_id, "reason": reason });
        emit(connection, EventType::SessionAccessLost, lease.session, data).await?;
    }
    Ok(lost)
}

pub(super) async fn emit(
    connection: &mut PgConnection,
    event_type: EventType,
    session: SessionId,
    data: serde_json::Value,
) -> Result<(), StoreError> {
    let event = NewEvent {
        event_type,
        subject: Subject::session(session),
        data,
    };
    outbox::append(connection, &[event]).await
}

async fn audit(
    connection: &mut PgConnection,
    worker: WorkerId,
    action: &str,
    session: SessionId,
    data: &serde_json::Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- audit_session_incident
        INSERT INTO audit_log (actor, action, subject, details) VALUES ($1, $2, $3, $4)",
        format!("worker:{worker}"),
        action,
        format!("session:{session}"),
        data,
    )
    .execute(connection)
    .await
    .map_err(failed("audit_session_incident"))?;
    Ok(())
}

/// What was seen of a session lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    pub session: SessionId,
    /// A call came back.
    pub called: bool,
    /// An update came in.
    pub updated: bool,
}

/// Notes the signs of life of some sessions.
pub async fn note_signs(connection: &mut PgConnection, signs: &[Sign]) -> Result<(), StoreError> {
    let ids: Vec<_> = signs.iter().map(|sign| sign.session.0).collect();
    let called: Vec<bool> = signs.iter().map(|sign| sign.called).collect();
    let updated: Vec<bool> = signs.iter().map(|sign| sign.updated).collect();
    sqlx::query!(
        "-- note_signs
        WITH mine AS (
            -- In one order, as whatever else writes many sessions: so that two never wait for each other.
            SELECT id FROM sessions WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE sessions s SET last_call_at = CASE WHEN n.called THEN wireroom_now() ELSE s.last_call_at END,
            last_update_at = CASE WHEN n.updated THEN wireroom_now() ELSE s.last_update_at END
        FROM unnest($1::uuid[], $2::bool[], $3::bool[]) AS n (id, called, updated) JOIN mine USING (id) WHERE s.id = n.id",
        &ids,
        &called,
        &updated,
    )
    .execute(connection)
    .await
    .map_err(failed("note_signs"))?;
    Ok(())
}
