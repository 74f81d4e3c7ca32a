//! Leases: the exclusive, expiring right of one worker process to use one session.
//!
//! A lease's row stays for ever, so that its fence only grows. Every write of a session's data names owner and fence
//! through [`hold`], which also keeps the lease from changing hands until the write's transaction ends.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgInterval};

use super::{StoreError, failed};
use crate::ids::{SessionId, WorkerId};

/// Names one term of one holder. A write that carries a stale one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    pub session: SessionId,
    pub owner: WorkerId,
    pub fence: i64,
}

/// A lease that was just taken, with what its holder needs of the session.
#[derive(Debug, Clone)]
pub struct AcquiredLease {
    pub key: LeaseKey,
    pub pool: String,
    pub account_id: Option<i64>,
    pub is_bot: bool,
    pub home_dc: i32,
    /// The API id of the session's application; `None`: it has none of its own.
    pub api_id: Option<i32>,
    /// The account is limited: it may read, and contact nobody.
    pub limited: bool,
    pub interactive_slots: i32,
    pub bulk_slots: i32,
    pub watch_slots: i32,
}

/// How many sessions there are to share, and among how many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Sessions that may be held.
    pub sessions: i64,
    /// Workers that are running and beating.
    pub workers: i64,
}

impl Census {
    /// The most sessions one worker may hold: the sessions divided by the workers, rounded up.
    pub fn fair_share(self) -> usize {
        let workers = self.workers.max(1);
        usize::try_from((self.sessions.max(0) + workers - 1) / workers).unwrap_or(usize::MAX)
    }
}

/// Counts sessions and workers. A worker whose heartbeat is older than `fresh` does not count; `me` always does.
pub async fn census(connection: &mut PgConnection, me: WorkerId, fresh: Duration) -> Result<Census, StoreError> {
    let row = sqlx::query!(
        r#"-- lease_census
        SELECT (SELECT count(*) FROM sessions WHERE state IN ('ready', 'limited')) AS "sessions!",
            (SELECT count(*) FROM workers
                WHERE id <> $1 AND state = 'running' AND heartbeat_at > wireroom_now() - $2::interval) + 1 AS "workers!""#,
        me.0,
        interval(fresh),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("lease_census"))?;
    Ok(Census {
        sessions: row.sessions,
        workers: row.workers,
    })
}

/// Takes up to `limit` free leases of sessions that may be held, for `lease` from now by the database's clock.
pub async fn acquire(
    connection: &mut PgConnection,
    owner: WorkerId,
    limit: usize,
    lease: Duration,
) -> Result<Vec<AcquiredLease>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    sqlx::query!(
        "-- lease_rows
        INSERT INTO session_leases (session_id)
        SELECT id FROM sessions s WHERE NOT EXISTS (SELECT FROM session_leases l WHERE l.session_id = s.id)
        ON CONFLICT DO NOTHING",
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("lease_rows"))?;
    let rows = sqlx::query!(
        r#"-- acquire_leases
        WITH free AS (
            SELECT l.session_id FROM session_leases l JOIN sessions s ON s.id = l.session_id
            WHERE l.expires_at <= wireroom_now() AND s.state IN ('ready', 'limited')
            ORDER BY l.expires_at, l.session_id
            LIMIT $2
            FOR UPDATE OF l SKIP LOCKED
        )
        UPDATE session_leases l
        SET owner = $1, fence = l.fence + 1, acquired_at = wireroom_now(), renewed_at = wireroom_now(),
            expires_at = wireroom_now() + $3::interval
        FROM free, sessions s
        WHERE l.session_id = free.session_id AND s.id = free.session_id
        RETURNING l.session_id AS "session: SessionId", l.fence, s.pool, s.account_id, s.is_bot, s.home_dc, (SELECT a.api_id FROM applications a WHERE a.id = s.application_id) AS api_id, s.state = 'limited' AS "limited!", s.interactive_slots, s.bulk_slots, s.watch_slots"#,
        owner.0,
        limit,
        interval(lease),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("acquire_leases"))?;
    Ok(rows
        .into_iter()
        .map(|row| AcquiredLease {
            key: LeaseKey {
                session: row.session,
                owner,
                fence: row.fence,
            },
            pool: row.pool,
            account_id: row.account_id,
            is_bot: row.is_bot,
            home_dc: row.home_dc,
            api_id: row.api_id,
            limited: row.limited,
            interactive_slots: row.interactive_slots,
            bulk_slots: row.bulk_slots,
            watch_slots: row.watch_slots,
        })
        .collect())
}

/// A lease that a renewal found still ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub key: LeaseKey,
    pub expires_at: DateTime<Utc>,
    /// The session may still be held; otherwise its state was changed under its holder, who lets go.
    pub holdable: bool,
    /// The account is limited.
    pub limited: bool,
}

/// Renews all of `keys` in one statement. What is not in the answer is lost: it had expired, or is another's.
pub async fn renew(
    connection: &mut PgConnection,
    owner: WorkerId,
    keys: &[LeaseKey],
    lease: Duration,
) -> Result<Vec<Renewed>, StoreError> {
    let (sessions, fences): (Vec<_>, Vec<_>) = keys.iter().map(|key| (key.session.0, key.fence)).unzip();
    let rows = sqlx::query!(
        r#"-- renew_leases
        WITH mine AS (
            -- Locked in one order, so that two renewals never wait for each other.
            SELECT l.session_id FROM session_leases l
            JOIN unnest($2::uuid[], $3::bigint[]) AS k (session_id, fence)
                ON k.session_id = l.session_id AND k.fence = l.fence
            WHERE l.owner = $1 AND l.expires_at > wireroom_now()
            ORDER BY l.session_id
            FOR NO KEY UPDATE OF l
        )
        UPDATE session_leases l SET renewed_at = wireroom_now(), expires_at = wireroom_now() + $4::interval
        FROM mine, sessions s
        WHERE l.session_id = mine.session_id AND s.id = mine.session_id
        RETURNING l.session_id AS "session: SessionId", l.fence, l.expires_at,
            s.state IN ('ready', 'limited') AS "holdable!", s.state = 'limited' AS "limited!""#,
        owner.0,
        &sessions,
        &fences,
        interval(lease),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("renew_leases"))?;
    Ok(rows
        .into_iter()
        .map(|row| Renewed {
            key: LeaseKey {
                session: row.session,
                owner,
                fence: row.fence,
            },
            expires_at: row.expires_at,
            holdable: row.holdable,
            limited: row.limited,
        })
        .collect())
}

/// Gives a lease back, after the socket is closed. `false`: it was not ours any more, and nothing was changed.
pub async fn release(connection: &mut PgConnection, key: LeaseKey) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "-- release_lease
        UPDATE session_leases SET owner = NULL, expires_at = '-infinity'
        WHERE session_id = $1 AND owner = $2 AND fence = $3",
        key.session.0,
        key.owner.0,
        key.fence,
    )
    .execute(connection)
    .await
    .map_err(failed("release_lease"))?
    .rows_affected();
    Ok(changed == 1)
}

/// Asserts that `key` is held, and keeps it from changing hands until the transaction ends: what is written after this
/// in the same transaction is fenced. Answers [`StoreError::Fenced`] when the lease is over.
pub async fn hold(connection: &mut PgConnection, key: LeaseKey, operation: &'static str) -> Result<(), StoreError> {
    let held = sqlx::query_scalar!(
        r#"-- hold_lease
        SELECT true AS "held!" FROM session_leases
        WHERE session_id = $1 AND owner = $2 AND fence = $3 AND expires_at > wireroom_now()
        FOR SHARE"#,
        key.session.0,
        key.owner.0,
        key.fence,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("hold_lease"))?;
    held.map(|_| ()).ok_or(StoreError::Fenced { operation })
}

pub(super) fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests;
