//! The proxy of each session: its address for people, all of it sealed for the workers.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, audit, errands, failed};
use crate::{ids::SessionId, letterbox::Slot, proxy::Proxy, vault::Sealed};

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Now,
    /// It was so already.
    Not,
    /// There is no such session.
    Unknown,
    /// Nothing can be sealed: no worker has started on this database.
    NoWorker,
    /// Its present holder is of a release that knows no proxies, and would stay connected as it is.
    OldHolder,
}

/// Who changes it, for the audit log.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    pub actor: &'a str,
    pub request_id: Option<&'a str>,
}

/// Gives a session another proxy, or none: its holder takes it in with its next renewal. A session that rests is tried again at
/// once, as it may rest because of the old one.
pub async fn change(
    conn: &mut PgConnection,
    session: SessionId,
    proxy: Option<&Proxy>,
    by: By<'_>,
) -> Result<Changed, StoreError> {
    let slot = errands::slot(conn).await?;
    let known = sqlx::query_scalar!(
        r#"-- note_proxy_change
        UPDATE sessions SET settings_version = settings_version + 1 WHERE id = $1 RETURNING true AS "known!""#,
        session.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("note_proxy_change"))?;
    if known.is_none() {
        return Ok(Changed::Unknown);
    }
    match (proxy, slot) {
        (Some(_), None) => return Ok(Changed::NoWorker),
        (Some(_), Some(_)) if held_by_an_older_release(conn, session).await? => return Ok(Changed::OldHolder),
        (Some(proxy), Some(slot)) => put(conn, session, proxy, &slot).await?,
        (None, _) if !remove(conn, session).await? => return Ok(Changed::Not),
        (None, _) => {}
    }
    sqlx::query!(
        "-- end_rest
        UPDATE session_breakers SET open_until = wireroom_now() WHERE session_id = $1 AND open_until > wireroom_now()",
        session.0,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("end_rest"))?;
    note(conn, session, proxy, by).await?;
    Ok(Changed::Now)
}

/// Whether whoever holds the session, or does an errand for it, took it without saying that it knows proxies.
async fn held_by_an_older_release(conn: &mut PgConnection, session: SessionId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- held_by_an_older_release
        SELECT EXISTS (SELECT FROM session_leases WHERE session_id = $1 AND owner IS NOT NULL
                AND expires_at > wireroom_now() AND proxies_known_at <> fence)
            OR EXISTS (SELECT FROM errands WHERE session_id = $1 AND state NOT IN ('done', 'failed') AND owner IS NOT NULL
                AND lease_until > wireroom_now() AND proxies_known_at <> fence) AS "old!""#,
        session.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("held_by_an_older_release"))
}

/// Stores the session's proxy, sealed at that slot.
pub async fn put(
    conn: &mut PgConnection,
    session: SessionId,
    proxy: &Proxy,
    (key_id, slot): &(String, Slot),
) -> Result<(), StoreError> {
    const OPERATION: &str = "put_session_proxy";
    let sealed = slot
        .seal(&Proxy::owner(session), &proxy.to_bytes())
        .map_err(|error| StoreError::Decode {
            operation: OPERATION,
            detail: error.to_string(),
        })?;
    sqlx::query!(
        "-- put_session_proxy
        INSERT INTO session_proxies (session_id, host, port, has_credentials, sealed, sealed_with)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (session_id) DO UPDATE SET host = excluded.host, port = excluded.port,
            has_credentials = excluded.has_credentials, sealed = excluded.sealed, sealed_with = excluded.sealed_with,
            set_at = wireroom_now()",
        session.0,
        proxy.host(),
        i32::from(proxy.port()),
        proxy.credentials().is_some(),
        sealed,
        key_id,
    )
    .execute(conn)
    .await
    .map_err(failed(OPERATION))?;
    Ok(())
}

async fn remove(conn: &mut PgConnection, session: SessionId) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "-- remove_session_proxy
        DELETE FROM session_proxies WHERE session_id = $1",
        session.0,
    )
    .execute(conn)
    .await
    .map_err(failed("remove_session_proxy"))?;
    Ok(removed.rows_affected() == 1)
}

/// Appends to the audit log that the session's proxy was changed, and to what, without its credentials.
pub async fn note(
    conn: &mut PgConnection,
    session: SessionId,
    proxy: Option<&Proxy>,
    by: By<'_>,
) -> Result<(), StoreError> {
    let shown = proxy.map(
        |proxy| json!({ "host": proxy.host(), "port": proxy.port(), "has_credentials": proxy.credentials().is_some() }),
    );
    let entry = audit::Entry {
        actor: by.actor,
        action: "session.proxy_changed",
        subject: &format!("session:{session}"),
        request_id: by.request_id,
        details: json!({ "proxy": shown }),
    };
    audit::record(conn, entry).await
}

/// The sealed proxies of those of these sessions that have one.
pub async fn sealed(conn: &mut PgConnection, sessions: &[SessionId]) -> Result<Vec<(SessionId, Sealed)>, StoreError> {
    let ids: Vec<Uuid> = sessions.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"-- sealed_session_proxies
        SELECT session_id AS "session: SessionId", sealed, sealed_with FROM session_proxies WHERE session_id = ANY ($1)"#,
        &ids,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("sealed_session_proxies"))?;
    let row = |session, key_id, bytes| (session, Sealed { key_id, bytes });
    Ok(rows
        .into_iter()
        .map(|found| row(found.session, found.sealed_with, found.sealed))
        .collect())
}

/// The sealed proxy of the session of that label.
pub async fn of_label(conn: &mut PgConnection, label: &str) -> Result<Option<(SessionId, Sealed)>, StoreError> {
    let row = sqlx::query!(
        r#"-- proxy_of_label
        SELECT p.session_id AS "session: SessionId", p.sealed, p.sealed_with
        FROM session_proxies p JOIN sessions s ON s.id = p.session_id WHERE s.label = $1"#,
        label,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("proxy_of_label"))?;
    Ok(row.map(|row| {
        let sealed = Sealed {
            key_id: row.sealed_with,
            bytes: row.sealed,
        };
        (row.session, sealed)
    }))
}

/// Proxies that are sealed under another key than `key_id`.
pub async fn sealed_otherwise(conn: &mut PgConnection, key_id: &str) -> Result<Vec<(SessionId, Sealed)>, StoreError> {
    let rows = sqlx::query!(
        r#"-- proxies_sealed_otherwise
        SELECT session_id AS "session: SessionId", sealed, sealed_with FROM session_proxies
        WHERE sealed_with <> $1 ORDER BY session_id"#,
        key_id,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("proxies_sealed_otherwise"))?;
    let row = |session, key_id, bytes| (session, Sealed { key_id, bytes });
    Ok(rows
        .into_iter()
        .map(|found| row(found.session, found.sealed_with, found.sealed))
        .collect())
}

/// Puts the same proxy there under another seal. `false`: it was changed meanwhile, and nothing was written.
pub async fn reseal(
    conn: &mut PgConnection,
    session: SessionId,
    was: &Sealed,
    fresh: &Sealed,
) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "-- reseal_proxy
        UPDATE session_proxies SET sealed = $4, sealed_with = $5
        WHERE session_id = $1 AND sealed_with = $2 AND sealed = $3",
        session.0,
        was.key_id,
        was.bytes,
        fresh.bytes,
        fresh.key_id,
    )
    .execute(conn)
    .await
    .map_err(failed("reseal_proxy"))?;
    Ok(changed.rows_affected() == 1)
}
