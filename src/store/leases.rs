//! Leases: the exclusive, expiring right of one worker process to use one session.
//!
//! A lease's row stays for ever, so that its fence only grows. Every write of a session's data names owner and fence
//! through [`hold`], which also keeps the lease from changing hands until the write's transaction ends.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

use super::{StoreError, failed, notifications};
use crate::{
    ids::{SessionId, WorkerId},
    vault::Sealed,
};

/// Names one term of one holder. A write that carries a stale one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    pub session: SessionId,
    pub owner: WorkerId,
    pub fence: i64,
}

/// A lease that was just taken, with what its holder needs of the session.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts of a row, each by itself")]
pub struct AcquiredLease {
    pub key: LeaseKey,
    pub pool: String,
    pub account_id: Option<i64>,
    /// As it is stored.
    pub username: Option<String>,
    pub is_bot: bool,
    pub home_dc: i32,
    /// The API id of the session's application; `None`: it has none of its own.
    pub api_id: Option<i32>,
    /// The account is limited: it may read, and contact nobody.
    pub limited: bool,
    /// Why it is degraded; `None`: it is not.
    pub degraded: Option<String>,
    pub interactive_slots: i32,
    pub bulk_slots: i32,
    pub watch_slots: i32,
    /// What [`Renewed::settings_version`] is compared with.
    pub settings_version: i64,
    /// It is to move to another pool before it is used.
    pub moves: bool,
    /// Its breaker is half-open: one failure to connect opens it again.
    pub on_probation: bool,
    /// The proxy it is connected through, sealed.
    pub proxy: Option<Sealed>,
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
/// Sessions without an application connect with `api_id`; those of one that Telegram refuses do not count.
pub async fn census(
    connection: &mut PgConnection,
    me: WorkerId,
    api_id: i32,
    fresh: Duration,
) -> Result<Census, StoreError> {
    let row = sqlx::query!(
        r#"-- lease_census
        SELECT (SELECT count(*) FROM sessions s WHERE state IN ('ready', 'limited', 'degraded') AND NOT EXISTS (
                SELECT FROM session_breakers b WHERE b.session_id = s.id AND b.open_until > wireroom_now())
            AND NOT EXISTS (SELECT FROM refused_api_ids r
                WHERE r.api_id = coalesce((SELECT a.api_id FROM applications a WHERE a.id = s.application_id), $3))) AS "sessions!",
            (SELECT count(*) FROM workers
                WHERE id <> $1 AND state = 'running' AND heartbeat_at > wireroom_now() - $2::interval) + 1 AS "workers!""#,
        me.0,
        interval(fresh),
        api_id,
    )
    .fetch_one(connection)
    .await
    .map_err(failed("lease_census"))?;
    Ok(Census {
        sessions: row.sessions,
        workers: row.workers,
    })
}

/// Takes up to `limit` free leases of sessions that may be held, for `lease` from now by the database's clock. Sessions
/// whose breaker is open are left alone, and those whose application Telegram refuses: of one without an application that is
/// `api_id`.
pub async fn acquire(
    connection: &mut PgConnection,
    owner: WorkerId,
    api_id: i32,
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
            WHERE l.expires_at <= wireroom_now() AND s.state IN ('ready', 'limited', 'degraded') AND NOT EXISTS (
                SELECT FROM session_breakers b WHERE b.session_id = s.id AND b.open_until > wireroom_now())
                AND NOT EXISTS (SELECT FROM refused_api_ids r
                    WHERE r.api_id = coalesce((SELECT a.api_id FROM applications a WHERE a.id = s.application_id), $4))
                -- Of an errand that was given up the worker may not have hung up yet.
                AND NOT EXISTS (SELECT FROM errands e
                    WHERE e.session_id = s.id AND e.state = 'failed' AND e.lease_until > wireroom_now())
            ORDER BY l.expires_at, l.session_id
            LIMIT $2
            -- The session, too: one that is taken out of use this moment is not acquired.
            FOR UPDATE OF l SKIP LOCKED FOR SHARE OF s SKIP LOCKED
        ), taken AS (
            UPDATE session_leases l
            SET owner = $1, fence = l.fence + 1, acquired_at = wireroom_now(), renewed_at = wireroom_now(),
                expires_at = wireroom_now() + $3::interval, proxies_known_at = l.fence + 1
            FROM free
            WHERE l.session_id = free.session_id
            RETURNING l.session_id, l.fence
        ), noted AS (
            INSERT INTO session_terms (session_id, fence, owner) SELECT session_id, fence, $1 FROM taken
            ON CONFLICT DO NOTHING
        )
        SELECT t.session_id AS "session: SessionId", t.fence, s.pool, s.account_id, s.username, s.is_bot, s.home_dc,
            (SELECT a.api_id FROM applications a WHERE a.id = s.application_id) AS api_id,
            s.state = 'limited' AS "limited!", CASE WHEN s.state = 'degraded' THEN coalesce(s.state_reason, '') END AS degraded,
            s.interactive_slots, s.bulk_slots, s.watch_slots, s.settings_version,
            s.next_pool IS NOT NULL AS "moves!", EXISTS (SELECT FROM session_breakers b WHERE b.session_id = s.id) AS "on_probation!",
            p.sealed AS "proxy_sealed?", p.sealed_with AS "proxy_sealed_with?"
        FROM taken t JOIN sessions s ON s.id = t.session_id LEFT JOIN session_proxies p ON p.session_id = s.id"#,
        owner.0,
        limit,
        interval(lease),
        api_id,
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
            username: row.username,
            is_bot: row.is_bot,
            home_dc: row.home_dc,
            api_id: row.api_id,
            limited: row.limited,
            degraded: row.degraded,
            interactive_slots: row.interactive_slots,
            bulk_slots: row.bulk_slots,
            watch_slots: row.watch_slots,
            settings_version: row.settings_version,
            moves: row.moves,
            on_probation: row.on_probation,
            proxy: row
                .proxy_sealed
                .zip(row.proxy_sealed_with)
                .map(|(bytes, key_id)| Sealed { key_id, bytes }),
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
    /// Grows when its holder has to look again: a cap was changed, a check or a move is asked for.
    pub settings_version: i64,
}

/// Renews all of `keys` in one statement. What is not in the answer is lost: it had expired, or is another's. Sessions
/// without an application connect with `api_id`.
pub async fn renew(
    connection: &mut PgConnection,
    owner: WorkerId,
    api_id: i32,
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
            s.state IN ('ready', 'limited', 'degraded') AND NOT EXISTS (SELECT FROM refused_api_ids r
                WHERE r.api_id = coalesce((SELECT a.api_id FROM applications a WHERE a.id = s.application_id), $5)) AS "holdable!",
            s.state = 'limited' AS "limited!",
            s.settings_version"#,
        owner.0,
        &sessions,
        &fences,
        interval(lease),
        api_id,
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
            settings_version: row.settings_version,
        })
        .collect())
}

/// Gives a lease back, after the socket is closed, and tells the other workers that it is free. `false`: it was not ours
/// any more, and nothing was changed.
pub async fn release(connection: &mut PgConnection, key: LeaseKey) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- release_lease
        WITH released AS (
            UPDATE session_leases SET owner = NULL, expires_at = '-infinity'
            WHERE session_id = $1 AND owner = $2 AND fence = $3
            RETURNING session_id, fence
        ), noted AS (
            UPDATE session_terms t SET released_at = wireroom_now() FROM released r
            WHERE t.session_id = r.session_id AND t.fence = r.fence
        )
        SELECT count(pg_notify($4, $5)) = 1 AS "released!" FROM released"#,
        key.session.0,
        key.owner.0,
        key.fence,
        notifications::CHANNEL,
        // As wakers write it: who says it, and what it is about.
        format!("{} sessions", key.owner.0.simple()),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("release_lease"))
}

/// Deletes the record of terms that began a month ago, at most `limit`, but never a session's present term; returns how
/// many.
pub async fn sweep_terms(connection: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let gone = sqlx::query!(
        "-- sweep_terms
        DELETE FROM session_terms WHERE (session_id, fence) IN (
            SELECT t.session_id, t.fence FROM session_terms t JOIN session_leases l ON l.session_id = t.session_id
            WHERE t.acquired_at < wireroom_now() - interval '30 days' AND t.fence < l.fence LIMIT $1)",
        limit,
    )
    .execute(connection)
    .await
    .map_err(failed("sweep_terms"))?;
    Ok(gone.rows_affected())
}

/// Locks a session's lease until the transaction ends. Whoever changes both goes to the lease before the session, as every
/// write of a holder does: so two never wait for each other.
pub(super) async fn lock(connection: &mut PgConnection, session: SessionId) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        r#"-- lock_lease
        SELECT true AS "locked!" FROM session_leases WHERE session_id = $1 FOR UPDATE"#,
        session.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock_lease"))?;
    Ok(())
}

/// [`lock`] for the session of a label; nothing when there is none.
pub(super) async fn lock_by_label(connection: &mut PgConnection, label: &str) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        r#"-- lock_lease_by_label
        SELECT true AS "locked!" FROM session_leases l WHERE session_id = (SELECT id FROM sessions WHERE label = $1)
        FOR UPDATE"#,
        label,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock_lease_by_label"))?;
    Ok(())
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

/// [`hold`] for many leases at once: answers with the sessions whose lease is held.
pub async fn hold_many(connection: &mut PgConnection, keys: &[LeaseKey]) -> Result<HashSet<SessionId>, StoreError> {
    let sessions: Vec<Uuid> = keys.iter().map(|key| key.session.0).collect();
    let owners: Vec<Uuid> = keys.iter().map(|key| key.owner.0).collect();
    let fences: Vec<i64> = keys.iter().map(|key| key.fence).collect();
    let held = sqlx::query_scalar!(
        r#"-- hold_leases
        SELECT l.session_id AS "session: SessionId" FROM session_leases l
        WHERE l.expires_at > wireroom_now() AND (l.session_id, l.owner, l.fence) IN (
            SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]))
        -- As renewals lock them.
        ORDER BY l.session_id
        FOR SHARE OF l"#,
        &sessions,
        &owners,
        &fences,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("hold_leases"))?;
    Ok(held.into_iter().collect())
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
