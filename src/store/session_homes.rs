//! The data centre that a session lives in, when its account has moved.

use serde_json::json;
use sqlx::PgConnection;

use super::{
    StoreError, audit, failed,
    leases::{self, LeaseKey},
    sessions::DcRow,
};
use crate::ids::SessionId;

/// Whether a session has followed its account within the last ten minutes.
pub async fn moved_lately(conn: &mut PgConnection, session: SessionId) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- moved_lately
        SELECT coalesce(home_since > wireroom_now() - interval '10 minutes', false) AS "lately!" FROM sessions WHERE id = $1"#,
        session.0,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("moved_lately"))
}

/// Makes `home` the session's data centre, under the lease, with an entry in the audit log. A key that it had there is void: the
/// one that comes with this was authorised just now. The key of the old home stays, since nothing says that it is not good there.
pub async fn move_home(conn: &mut PgConnection, lease: LeaseKey, from: i32, home: &DcRow) -> Result<(), StoreError> {
    const OPERATION: &str = "move_home";
    leases::hold(conn, lease, OPERATION).await?;
    sqlx::query!(
        "-- move_home
        WITH dc AS (
            INSERT INTO session_dcs AS d (session_id, dc_id, ipv4, ipv6, auth_key_sealed, sealed_with)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (session_id, dc_id) DO UPDATE SET ipv4 = EXCLUDED.ipv4, ipv6 = EXCLUDED.ipv6,
                auth_key_sealed = EXCLUDED.auth_key_sealed, sealed_with = EXCLUDED.sealed_with
        )
        UPDATE sessions SET home_dc = $2, home_since = wireroom_now() WHERE id = $1",
        lease.session.0,
        home.dc_id,
        home.ipv4,
        home.ipv6,
        home.auth_key.as_ref().map(|sealed| sealed.bytes.as_slice()),
        home.auth_key.as_ref().map(|sealed| sealed.key_id.as_str()),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed(OPERATION))?;
    let entry = audit::Entry {
        actor: &format!("worker:{}", lease.owner),
        action: "session.home_moved",
        subject: &format!("session:{}", lease.session),
        request_id: None,
        details: json!({ "from": from, "to": home.dc_id }),
    };
    audit::record(conn, entry).await
}

/// Where a session lives; waits for whoever is changing that. `None`: it is gone.
pub async fn settled_home(conn: &mut PgConnection, session: SessionId) -> Result<Option<i32>, StoreError> {
    sqlx::query_scalar!(
        "-- settled_home
        SELECT home_dc FROM sessions WHERE id = $1 FOR UPDATE",
        session.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("settled_home"))
}
