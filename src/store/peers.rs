//! Peers a session has met, with the access hash that is this account's alone.

use sqlx::PgConnection;

use super::{StoreError, failed, leases, leases::LeaseKey};
use crate::ids::SessionId;

/// One peer of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRow {
    /// In the Bot API's form.
    pub peer_id: i64,
    pub access_hash: Option<i64>,
    /// Facts beside the hash; unknown ones are left out, so that a later row without them erases nothing.
    pub info: serde_json::Value,
}

pub async fn get(
    connection: &mut PgConnection,
    session: SessionId,
    peer_id: i64,
) -> Result<Option<PeerRow>, StoreError> {
    sqlx::query_as!(
        PeerRow,
        "-- get_peer
        SELECT peer_id, access_hash, info FROM session_peers WHERE session_id = $1 AND peer_id = $2",
        session.0,
        peer_id,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("get_peer"))
}

/// Stores peers under the lease. A known access hash is replaced by a newer one and never erased. A peer of which nothing new
/// is known is left alone: whoever reads a large list again meets thousands of them.
///
/// Runs in the caller's transaction: the lease is asserted first.
pub async fn save(connection: &mut PgConnection, lease: LeaseKey, peers: &[PeerRow]) -> Result<(), StoreError> {
    leases::hold(connection, lease, "save_peers").await?;
    insert(connection, lease.session, peers).await
}

/// Stores peers of a session that nobody can hold yet.
pub async fn insert(connection: &mut PgConnection, session: SessionId, peers: &[PeerRow]) -> Result<(), StoreError> {
    let ids: Vec<i64> = peers.iter().map(|peer| peer.peer_id).collect();
    let hashes: Vec<Option<i64>> = peers.iter().map(|peer| peer.access_hash).collect();
    let infos: Vec<serde_json::Value> = peers.iter().map(|peer| peer.info.clone()).collect();
    sqlx::query!(
        "-- save_peers
        INSERT INTO session_peers AS p (session_id, peer_id, access_hash, info)
        SELECT $1, k.peer_id, k.access_hash, k.info
        FROM unnest($2::bigint[], $3::bigint[], $4::jsonb[]) AS k (peer_id, access_hash, info)
        -- A value, and not NOT EXISTS: that could become a join which reads all peers of the session.
        WHERE (SELECT s.info @> k.info AND (k.access_hash IS NULL OR s.access_hash IS NOT DISTINCT FROM k.access_hash)
            FROM session_peers s WHERE s.session_id = $1 AND s.peer_id = k.peer_id) IS NOT TRUE
        ON CONFLICT (session_id, peer_id) DO UPDATE
        SET access_hash = COALESCE(EXCLUDED.access_hash, p.access_hash), info = p.info || EXCLUDED.info",
        session.0,
        &ids,
        &hashes as &[Option<i64>],
        &infos,
    )
    .execute(connection)
    .await
    .map_err(failed("save_peers"))?;
    Ok(())
}
