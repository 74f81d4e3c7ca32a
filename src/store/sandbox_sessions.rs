//! Sessions of a sandbox whose world has ended: its auth keys are unknown to the next one, so the same session gets new
//! ones and keeps its id, its label and its jobs.

use sqlx::PgConnection;

use super::{
    StoreError, failed,
    sessions::{self, NewSession},
};
use crate::ids::SessionId;

/// Why a session was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Its data centres are not on the loopback address: an account that is real, with a key that must not be lost.
    #[error("the session `{label}` is not of a sandbox; nothing was changed")]
    NotOfSandbox { label: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores the session, in place of one with the same label when that is of a sandbox, and returns its id. Whoever held
/// the former one has lost its lease when this commits.
pub async fn replace(conn: &mut PgConnection, session: &NewSession) -> Result<SessionId, ReplaceError> {
    let Some(former) = former(conn, session).await? else {
        sessions::insert_ready(conn, session).await?;
        return Ok(session.id);
    };
    forget(conn, former).await?;
    sqlx::query!(
        "-- replace_sandbox_session
        UPDATE sessions SET pool = $2, state = 'ready', state_reason = NULL, state_since = wireroom_now(),
            account_id = $3, username = $4, is_bot = $5, home_dc = $6, last_call_at = NULL WHERE id = $1",
        former.0,
        session.pool,
        session.account_id,
        session.username,
        session.is_bot,
        session.home_dc,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("replace_sandbox_session"))?;
    for dc in &session.dcs {
        sessions::insert_dc(conn, former, dc).await?;
    }
    Ok(former)
}

/// The session of that label, locked, unless there is none.
async fn former(conn: &mut PgConnection, session: &NewSession) -> Result<Option<SessionId>, ReplaceError> {
    let row = sqlx::query!(
        r#"-- former_sandbox_session
        SELECT id AS "id: SessionId", NOT EXISTS (
            SELECT FROM session_dcs WHERE session_id = sessions.id AND ipv4 NOT LIKE '127.%'
        ) AS "sandbox!" FROM sessions WHERE label = $1 FOR UPDATE"#,
        session.label,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("former_sandbox_session"))?;
    match row {
        None => Ok(None),
        Some(row) if row.sandbox => Ok(Some(row.id)),
        Some(_) => Err(ReplaceError::NotOfSandbox {
            label: session.label.clone(),
        }),
    }
}

/// Deletes what only the former key could use, and ends its lease.
async fn forget(conn: &mut PgConnection, session: SessionId) -> Result<(), StoreError> {
    let operation = "forget_sandbox_session";
    sqlx::query!(
        "-- forget_sandbox_dcs\nDELETE FROM session_dcs WHERE session_id = $1",
        session.0
    )
    .execute(&mut *conn)
    .await
    .map_err(failed(operation))?;
    sqlx::query!(
        "-- forget_sandbox_peers\nDELETE FROM session_peers WHERE session_id = $1",
        session.0
    )
    .execute(&mut *conn)
    .await
    .map_err(failed(operation))?;
    sqlx::query!(
        "-- forget_sandbox_states\nDELETE FROM session_update_states WHERE session_id = $1",
        session.0
    )
    .execute(&mut *conn)
    .await
    .map_err(failed(operation))?;
    sqlx::query!(
        "-- forget_sandbox_gates\nDELETE FROM gates WHERE session_id = $1",
        session.0
    )
    .execute(&mut *conn)
    .await
    .map_err(failed(operation))?;
    sqlx::query!(
        "-- end_sandbox_lease
        UPDATE session_leases SET owner = NULL, fence = fence + 1, expires_at = '-infinity' WHERE session_id = $1",
        session.0,
    )
    .execute(conn)
    .await
    .map_err(failed(operation))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::testing::TestDatabase, store::sessions::DcRow, vault::Sealed};

    fn session(label: &str, ipv4: &str, key: u8) -> NewSession {
        NewSession {
            id: SessionId::generate(),
            label: label.into(),
            pool: "default".into(),
            account_id: 7,
            username: Some(label.into()),
            is_bot: false,
            home_dc: 2,
            dcs: vec![DcRow {
                dc_id: 2,
                ipv4: ipv4.into(),
                ipv6: "[::1]:1".into(),
                auth_key: Some(Sealed {
                    key_id: "k".into(),
                    bytes: vec![key],
                }),
            }],
        }
    }

    #[tokio::test]
    async fn a_sandbox_session_keeps_its_id_and_gets_new_keys() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.unwrap();
        let first = replace(&mut conn, &session("alice", "127.0.0.1:1", 1)).await.unwrap();
        let second = replace(&mut conn, &session("alice", "127.0.0.1:2", 2)).await.unwrap();
        assert_eq!(first, second);
        let dcs = sessions::dcs(&mut conn, first).await.unwrap();
        assert_eq!(dcs.len(), 1);
        assert_eq!(
            (dcs[0].ipv4.as_str(), &dcs[0].auth_key.as_ref().unwrap().bytes),
            ("127.0.0.1:2", &vec![2])
        );
    }

    #[tokio::test]
    async fn a_real_account_is_never_replaced() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.unwrap();
        let id = replace(&mut conn, &session("real", "149.154.167.51:443", 1))
            .await
            .unwrap();
        let refused = replace(&mut conn, &session("real", "127.0.0.1:2", 2)).await;
        assert!(matches!(refused, Err(ReplaceError::NotOfSandbox { .. })));
        let dcs = sessions::dcs(&mut conn, id).await.unwrap();
        assert_eq!(dcs[0].auth_key.as_ref().unwrap().bytes, vec![1]);
    }
}
