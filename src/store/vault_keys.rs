//! Which master keys were ever used here, each with a known text sealed under it.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, failed, leases::interval};
use crate::{
    ids::{SessionId, WorkerId},
    letterbox::Slot,
    vault::Sealed,
};

/// The known text sealed under a key, if that key was used before.
pub async fn check_of(connection: &mut PgConnection, key_id: &str) -> Result<Option<Sealed>, StoreError> {
    let bytes = sqlx::query_scalar!(
        "-- vault_key_check
        SELECT check_sealed FROM vault_keys WHERE id = $1",
        key_id
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("vault_key_check"))?;
    Ok(bytes.map(|bytes| Sealed {
        key_id: key_id.to_owned(),
        bytes,
    }))
}

/// Remembers a key; of two processes that do so at once the first wins, and the second must check again.
pub async fn remember(connection: &mut PgConnection, check: &Sealed) -> Result<(), StoreError> {
    sqlx::query!(
        "-- remember_vault_key
        INSERT INTO vault_keys (id, check_sealed) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
        check.key_id,
        check.bytes,
    )
    .execute(connection)
    .await
    .map_err(failed("remember_vault_key"))?;
    Ok(())
}

/// Notes which keys a worker has.
pub async fn note_worker(connection: &mut PgConnection, worker: WorkerId, ids: &[String]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- note_worker_keys
        INSERT INTO worker_keys (worker_id, key_ids) VALUES ($1, $2)
        ON CONFLICT (worker_id) DO UPDATE SET key_ids = excluded.key_ids, noted_at = wireroom_now()",
        worker.0,
        ids,
    )
    .execute(connection)
    .await
    .map_err(failed("note_worker_keys"))?;
    Ok(())
}

/// The hosts of running workers, heard of within `fresh`, that have not said that they have the key.
pub async fn workers_without(
    connection: &mut PgConnection,
    key_id: &str,
    fresh: Duration,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        "-- workers_without_key
        SELECT DISTINCT w.host FROM workers w LEFT JOIN worker_keys k ON k.worker_id = w.id
        WHERE w.state <> 'stopped' AND w.heartbeat_at > wireroom_now() - $2::interval
            AND NOT coalesce($1 = ANY (k.key_ids), false)
        ORDER BY 1",
        key_id,
        interval(fresh),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("workers_without_key"))
}

/// Deletes what workers said that have been gone for a day, at most `limit`; returns how many.
pub async fn sweep_workers(connection: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let gone = sqlx::query!(
        "-- sweep_worker_keys
        DELETE FROM worker_keys WHERE worker_id IN (
            SELECT k.worker_id FROM worker_keys k LEFT JOIN workers w ON w.id = k.worker_id
            WHERE k.noted_at < wireroom_now() - interval '1 day'
                AND coalesce(w.heartbeat_at < wireroom_now() - interval '1 day', true) LIMIT $1)",
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("sweep_worker_keys"))?;
    Ok(gone.rows_affected())
}

/// A sealed auth key and whose it is.
#[derive(Debug, Clone)]
pub struct SealedDc {
    pub session: SessionId,
    pub dc: i32,
    pub auth_key: Sealed,
}

/// Auth keys that are sealed under another key than `key_id`, those after `after`, at most `limit`.
pub async fn sealed_otherwise(
    connection: &mut PgConnection,
    key_id: &str,
    after: Option<(SessionId, i32)>,
    limit: i64,
) -> Result<Vec<SealedDc>, StoreError> {
    let (session, dc) = after.map_or((Uuid::nil(), 0), |(session, dc)| (session.0, dc));
    let rows = sqlx::query!(
        r#"-- sealed_otherwise
        SELECT session_id AS "session: SessionId", dc_id, auth_key_sealed AS "sealed!", sealed_with AS "key_id!"
        FROM session_dcs WHERE sealed_with <> $1 AND (session_id, dc_id) > ($2, $3)
        ORDER BY session_id, dc_id LIMIT $4"#,
        key_id,
        session,
        dc,
        limit,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("sealed_otherwise"))?;
    Ok(rows
        .into_iter()
        .map(|row| SealedDc {
            session: row.session,
            dc: row.dc_id,
            auth_key: Sealed {
                key_id: row.key_id,
                bytes: row.sealed,
            },
        })
        .collect())
}

/// Puts the same auth key there under another seal. `false`: it was changed meanwhile, and nothing was written.
pub async fn reseal(connection: &mut PgConnection, was: &SealedDc, fresh: &Sealed) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "-- reseal
        UPDATE session_dcs SET auth_key_sealed = $5, sealed_with = $6
        WHERE session_id = $1 AND dc_id = $2 AND sealed_with = $3 AND auth_key_sealed = $4",
        was.session.0,
        was.dc,
        was.auth_key.key_id,
        was.auth_key.bytes,
        fresh.bytes,
        fresh.key_id,
    )
    .execute(connection)
    .await
    .map_err(failed("reseal"))?;
    Ok(changed.rows_affected() == 1)
}

/// Publishes where to seal for the workers, under the key that seals now.
pub async fn publish_slot(connection: &mut PgConnection, key_id: &str, slot: &Slot) -> Result<(), StoreError> {
    sqlx::query!(
        "-- publish_letterbox_slot
        UPDATE vault_keys SET slot = $2, sealing_at = wireroom_now() WHERE id = $1",
        key_id,
        slot.as_bytes().as_slice(),
    )
    .execute(connection)
    .await
    .map_err(failed("publish_letterbox_slot"))?;
    Ok(())
}

/// The ids of the keys that something of an errand is sealed under: errands are over within minutes, and until then only a worker
/// with the key does them.
pub async fn used_by_errands(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        r#"-- vault_keys_of_errands
        SELECT DISTINCT k.id AS "id!" FROM errands e CROSS JOIN LATERAL (
            VALUES (e.input_sealed_with), (e.progress_sealed_with)) AS k (id)
        WHERE k.id IS NOT NULL ORDER BY 1"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed("vault_keys_of_errands"))
}

/// The ids of all keys that sealed rows name.
pub async fn used(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        r#"-- used_vault_keys
        SELECT DISTINCT sealed_with AS "id!" FROM (
            SELECT sealed_with FROM session_dcs WHERE sealed_with IS NOT NULL
            UNION ALL SELECT sealed_with FROM applications WHERE sealed_with <> ''
            UNION ALL SELECT sealed_with FROM session_proxies
        ) AS sealed ORDER BY 1"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed("used_vault_keys"))
}
