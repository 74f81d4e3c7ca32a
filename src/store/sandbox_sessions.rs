//! Sessions of a sandbox whose world has ended: its auth keys are void, so whoever still has a lease on one can do nothing
//! with it, and the accounts may be logged in again at once.

use sqlx::PgConnection;

use super::{StoreError, failed};

/// Ends the leases of all sessions of a sandbox: those with every data centre on the loopback address, where no real
/// account is. A worker that holds one notices at its next renewal. Returns how many there were.
pub async fn end_leases(conn: &mut PgConnection) -> Result<u64, StoreError> {
    let ended = sqlx::query!(
        "-- end_sandbox_leases
        UPDATE session_leases SET owner = NULL, fence = fence + 1, acquired_at = wireroom_now(), expires_at = '-infinity'
        WHERE expires_at > wireroom_now() AND session_id IN (
            SELECT session_id FROM session_dcs GROUP BY session_id HAVING bool_and(ipv4 LIKE '127.%'))"
    )
    .execute(conn)
    .await
    .map_err(failed("end_sandbox_leases"))?;
    Ok(ended.rows_affected())
}

/// Forgets the messages that were seen in such a world: the next one counts them anew, so the watches of its sessions go on
/// from what is there then.
pub async fn forget_messages(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "-- forget_sandbox_messages
        WITH made_up AS MATERIALIZED (
            SELECT session_id AS id FROM session_dcs GROUP BY session_id HAVING bool_and(ipv4 LIKE '127.%')
        ), forgotten AS (
            DELETE FROM messages WHERE session_id IN (SELECT id FROM made_up)
        ), changes AS (
            DELETE FROM watch_changes WHERE watch_id IN (
                SELECT id FROM watches WHERE session_id IN (SELECT id FROM made_up))
        )
        UPDATE watches SET filling = true, renumbered = true, left_to_history = 0, last_message_id = 0, begun_after = 0,
            last_message_at = NULL, lost_reason = NULL, updated_at = wireroom_now()
        WHERE state = 'active' AND session_id IN (SELECT id FROM made_up)"
    )
    .execute(conn)
    .await
    .map_err(failed("forget_sandbox_messages"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::testing::TestDatabase,
        ids::SessionId,
        store::sessions::{self, DcRow, NewSession},
    };

    fn session(label: &str, ipv4: &str) -> NewSession {
        NewSession {
            id: SessionId::generate(),
            label: label.into(),
            pool: "default".into(),
            account_id: 7,
            username: None,
            is_bot: false,
            home_dc: 2,
            dcs: vec![DcRow {
                dc_id: 2,
                ipv4: ipv4.into(),
                ipv6: "[::1]:1".into(),
                auth_key: None,
            }],
        }
    }

    #[tokio::test]
    async fn a_sandboxs_lease_ends_and_a_real_accounts_stays() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.unwrap();
        for new in [session("made-up", "127.0.0.1:1"), session("real", "149.154.167.51:443")] {
            sessions::insert_ready(&mut conn, &new).await.unwrap();
        }
        sqlx::query("UPDATE session_leases SET owner = gen_random_uuid(), expires_at = 'infinity'")
            .execute(&mut *conn)
            .await
            .unwrap();
        assert_eq!(end_leases(&mut conn).await.unwrap(), 1);
        let held: Vec<String> = sqlx::query_scalar(
            "SELECT label FROM sessions JOIN session_leases ON session_id = id WHERE expires_at > wireroom_now()",
        )
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        assert_eq!(held, ["real"]);
    }
}
