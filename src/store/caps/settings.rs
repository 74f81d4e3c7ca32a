//! What caps are set to, for all sessions and for one, with what is used of each; and who goes on when one is raised.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Cap, Capped, known};
use crate::{
    ids::SessionId,
    store::{StoreError, failed},
};

/// Most jobs that [`wake`] makes ready at a time.
pub const WAKE: i64 = 500;

/// A cap, and what is used of it now.
#[derive(Debug, Clone)]
pub struct CapRecord {
    pub capped: Capped,
    pub cap: Cap,
    /// In the minute, the hour and the day of this moment.
    pub minute_used: i32,
    pub hour_used: i32,
    pub day_used: i32,
    /// It is spent until then.
    pub closed_until: Option<DateTime<Utc>>,
    /// `key:<id>` of who set it for this session, or for all; `None`: as it came.
    pub set_by: Option<String>,
    pub set_at: DateTime<Utc>,
    /// It holds for every session that has none of its own.
    pub is_default: bool,
}

/// The caps of a session, each with its use; nothing for a session that does not exist.
pub async fn of_session(conn: &mut PgConnection, session: SessionId) -> Result<Vec<CapRecord>, StoreError> {
    let rows = sqlx::query!(
        r#"-- caps_of_session
        SELECT d.action, coalesce(c.per_minute, d.per_minute) AS "per_minute!",
            coalesce(c.per_hour, d.per_hour) AS "per_hour!", coalesce(c.per_day, d.per_day) AS "per_day!",
            CASE WHEN u.minute_at >= date_trunc('minute', k.t, s.time_zone) THEN u.minute_used ELSE 0 END AS "minute_used!",
            CASE WHEN u.hour_at >= date_trunc('hour', k.t, s.time_zone) THEN u.hour_used ELSE 0 END AS "hour_used!",
            CASE WHEN u.day_at >= date_trunc('day', k.t, s.time_zone) THEN u.day_used ELSE 0 END AS "day_used!",
            CASE WHEN u.closed_until > k.t THEN u.closed_until END AS closed_until,
            CASE WHEN c.session_id IS NULL THEN d.set_by ELSE c.set_by END AS set_by,
            CASE WHEN c.session_id IS NULL THEN d.set_at ELSE c.set_at END AS "set_at!", c.session_id IS NULL AS "is_default!"
        FROM sessions s CROSS JOIN session_cap_defaults d CROSS JOIN (SELECT wireroom_now() AS t) k
        LEFT JOIN session_caps c ON c.session_id = s.id AND c.action = d.action
        LEFT JOIN session_cap_usage u ON u.session_id = s.id AND u.action = d.action
        WHERE s.id = $1 ORDER BY d.action"#,
        session.0,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("caps_of_session"))?;
    rows.into_iter()
        .map(|row| {
            Ok(CapRecord {
                capped: known(&row.action, "caps_of_session")?,
                cap: Cap {
                    per_minute: row.per_minute,
                    per_hour: row.per_hour,
                    per_day: row.per_day,
                },
                minute_used: row.minute_used,
                hour_used: row.hour_used,
                day_used: row.day_used,
                closed_until: row.closed_until,
                set_by: row.set_by,
                set_at: row.set_at,
                is_default: row.is_default,
            })
        })
        .collect()
}

/// The caps of sessions that have none of their own; nothing is used of them.
pub async fn defaults(conn: &mut PgConnection) -> Result<Vec<CapRecord>, StoreError> {
    let rows = sqlx::query!(
        "-- default_caps
        SELECT action, per_minute, per_hour, per_day, set_by, set_at FROM session_cap_defaults ORDER BY action"
    )
    .fetch_all(conn)
    .await
    .map_err(failed("default_caps"))?;
    rows.into_iter()
        .map(|row| {
            Ok(CapRecord {
                capped: known(&row.action, "default_caps")?,
                cap: Cap {
                    per_minute: row.per_minute,
                    per_hour: row.per_hour,
                    per_day: row.per_day,
                },
                minute_used: 0,
                hour_used: 0,
                day_used: 0,
                closed_until: None,
                set_by: row.set_by,
                set_at: row.set_at,
                is_default: true,
            })
        })
        .collect()
}

/// Sets a cap of one session, or of all that have none of their own. What was spent under the old one opens, and is found
/// spent again by the next use if it is.
pub async fn set(
    conn: &mut PgConnection,
    session: Option<SessionId>,
    capped: Capped,
    cap: Cap,
    actor: &str,
) -> Result<(), StoreError> {
    match session {
        Some(session) => sqlx::query!(
            "-- set_session_cap
            INSERT INTO session_caps (session_id, action, per_minute, per_hour, per_day, set_by)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (session_id, action) DO UPDATE SET per_minute = excluded.per_minute, per_hour = excluded.per_hour,
                per_day = excluded.per_day, set_by = excluded.set_by, set_at = wireroom_now()",
            session.0,
            capped.as_str(),
            cap.per_minute,
            cap.per_hour,
            cap.per_day,
            actor,
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("set_session_cap"))?,
        None => sqlx::query!(
            "-- set_default_cap
            UPDATE session_cap_defaults SET per_minute = $2, per_hour = $3, per_day = $4, set_by = $5,
                set_at = wireroom_now()
            WHERE action = $1",
            capped.as_str(),
            cap.per_minute,
            cap.per_hour,
            cap.per_day,
            actor,
        )
        .execute(&mut *conn)
        .await
        .map_err(failed("set_default_cap"))?,
    };
    reopen(conn, session, Some(capped)).await
}

/// Removes a session's own cap, so that the one of all holds for it; `false`: it had none.
pub async fn remove(conn: &mut PgConnection, session: SessionId, capped: Capped) -> Result<bool, StoreError> {
    let removed = sqlx::query!(
        "-- remove_session_cap
        DELETE FROM session_caps WHERE session_id = $1 AND action = $2",
        session.0,
        capped.as_str(),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("remove_session_cap"))?;
    reopen(conn, Some(session), Some(capped)).await?;
    Ok(removed.rows_affected() == 1)
}

/// Sets the time zone in which a session's hours and days are counted. `false`: there is no such session.
pub async fn set_time_zone(conn: &mut PgConnection, session: SessionId, zone: &str) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "-- set_time_zone
        UPDATE sessions SET time_zone = $2 WHERE id = $1",
        session.0,
        zone,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("set_time_zone"))?;
    reopen(conn, Some(session), None).await?;
    Ok(changed.rows_affected() == 1)
}

/// Opens what was spent under other settings, and lets the holders know.
async fn reopen(conn: &mut PgConnection, session: Option<SessionId>, capped: Option<Capped>) -> Result<(), StoreError> {
    // The sessions before their counters, and both in one order, as whatever else writes many of them.
    sqlx::query!(
        "-- tell_of_caps
        WITH told AS (SELECT id FROM sessions WHERE $1::uuid IS NULL OR id = $1 ORDER BY id FOR NO KEY UPDATE)
        UPDATE sessions s SET settings_version = s.settings_version + 1 FROM told WHERE s.id = told.id",
        session.map(|session| session.0),
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("tell_of_caps"))?;
    sqlx::query!(
        "-- reopen_caps
        WITH spent AS (
            SELECT session_id, action FROM session_cap_usage
            WHERE ($1::uuid IS NULL OR session_id = $1) AND ($2::text IS NULL OR action = $2) AND closed_until IS NOT NULL
            ORDER BY session_id, action FOR NO KEY UPDATE
        )
        UPDATE session_cap_usage u SET closed_until = NULL, closed_by = NULL, closed_cap = NULL
        FROM spent s WHERE u.session_id = s.session_id AND u.action = s.action",
        session.map(|session| session.0),
        capped.map(Capped::as_str),
    )
    .execute(conn)
    .await
    .map_err(failed("reopen_caps"))?;
    Ok(())
}

/// Makes jobs ready again that were put off by a spent cap, at most [`WAKE`], because a cap or a time zone is another one
/// now; of one session or of all. Returns how many: those that meet a spent cap again are put off again.
pub async fn wake(
    conn: &mut PgConnection,
    session: Option<SessionId>,
    ageing_step: Duration,
) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- wake_capped
        WITH waiting AS MATERIALIZED (
            SELECT id FROM jobs WHERE session_id IS NOT NULL AND state <> 'running' AND state = 'scheduled'
                AND ($1::uuid IS NULL OR session_id = $1) AND wait_reason ->> 'code' = 'cap_reached'
            LIMIT $2 FOR UPDATE SKIP LOCKED
        ), clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        woken AS (
            UPDATE jobs j SET state = 'queued', wait_reason = NULL, run_at = c.t,
                rank = (extract(epoch FROM c.t) * 1000000)::bigint - j.priority * $3::bigint
            FROM waiting w, clock c WHERE j.id = w.id RETURNING 1
        )
        SELECT count(*) AS "woken!" FROM woken"#,
        session.map(|session| session.0),
        WAKE,
        i64::try_from(ageing_step.as_micros()).unwrap_or(i64::MAX),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("wake_capped"))
}
