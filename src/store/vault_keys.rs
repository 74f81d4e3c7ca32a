//! Which master keys were ever used here, each with a known text sealed under it.

use sqlx::PgConnection;

use super::{StoreError, failed};
use crate::{letterbox::Slot, vault::Sealed};

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

/// The ids of all keys that sealed rows name.
pub async fn used(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        r#"-- used_vault_keys
        SELECT DISTINCT sealed_with AS "id!" FROM (
            SELECT sealed_with FROM session_dcs WHERE sealed_with IS NOT NULL
            UNION ALL SELECT sealed_with FROM applications WHERE sealed_with <> ''
        ) AS sealed ORDER BY 1"#
    )
    .fetch_all(connection)
    .await
    .map_err(failed("used_vault_keys"))
}
