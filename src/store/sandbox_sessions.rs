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

/// A session of such a world that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    pub label: String,
    pub pool: String,
    pub account_id: i64,
}

/// The sessions that were in use when the world ended, by label.
pub async fn in_use(conn: &mut PgConnection) -> Result<Vec<InUse>, StoreError> {
    sqlx::query_as!(
        InUse,
        r#"-- sandbox_sessions_in_use
        SELECT label, pool, account_id AS "account_id!" FROM sessions
        WHERE state IN ('ready', 'limited') AND account_id IS NOT NULL AND id IN (
            SELECT session_id FROM session_dcs GROUP BY session_id HAVING bool_and(ipv4 LIKE '127.%'))
        ORDER BY label"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("sandbox_sessions_in_use"))
}

/// The accounts of such sessions, and the chats that they had joined: (account, chat).
pub async fn joined(conn: &mut PgConnection) -> Result<Vec<(i64, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"-- sandbox_chats_joined
        SELECT DISTINCT account_id AS "account_id!", chat_id FROM session_chats JOIN sessions ON sessions.id = session_id
        WHERE member AND account_id IS NOT NULL AND session_id IN (
            SELECT session_id FROM session_dcs GROUP BY session_id HAVING bool_and(ipv4 LIKE '127.%'))
        ORDER BY 2, 1"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("sandbox_chats_joined"))?;
    Ok(rows.into_iter().map(|row| (row.account_id, row.chat_id)).collect())
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
    async fn what_was_in_use_in_a_sandbox_is_known() {
        let database = TestDatabase::new().await;
        let mut conn = database.pool().acquire().await.unwrap();
        let made_up = ["mine", "out"].map(|label| session(label, "127.0.0.1:1"));
        for new in made_up.iter().chain([&session("real", "149.154.167.51:443")]) {
            sessions::insert_ready(&mut conn, new).await.unwrap();
        }
        for statement in [
            "UPDATE sessions SET state = 'logged_out' WHERE label = 'out'",
            "INSERT INTO chats (id, type, title) VALUES (-1001, 'supergroup', 'In'), (-1002, 'supergroup', 'Out')",
            "INSERT INTO session_chats (session_id, chat_id, member)
                SELECT sessions.id, chats.id, chats.id = -1001 FROM sessions, chats WHERE label <> 'out'",
        ] {
            sqlx::query(statement).execute(&mut *conn).await.unwrap();
        }
        let labels: Vec<String> = in_use(&mut conn)
            .await
            .unwrap()
            .into_iter()
            .map(|used| used.label)
            .collect();
        assert_eq!(labels, ["mine"]);
        assert_eq!(joined(&mut conn).await.unwrap(), [(7, -1001)]);
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
