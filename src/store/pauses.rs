//! Pauses: what no worker claims until it is resumed. Jobs that run already finish.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, failed};

/// What a pause holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PauseScope {
    Everything,
    Pool,
    Session,
    Kind,
}

impl PauseScope {
    pub const ALL: [Self; 4] = [Self::Everything, Self::Pool, Self::Session, Self::Kind];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Pool => "pool",
            Self::Session => "session",
            Self::Kind => "kind",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// One pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub scope: PauseScope,
    /// The pool's or the kind's name, or the session's id; empty for everything.
    pub target: String,
    /// A person's words.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<DateTime<Utc>>,
    /// `key:<id>`.
    pub paused_by: String,
    pub paused_at: DateTime<Utc>,
}

impl Pause {
    /// Whether it holds back jobs of `kind` in `pool`, those of `session` when they stay with one.
    pub fn holds(&self, kind: &str, pool: &str, session: Option<&str>) -> bool {
        match self.scope {
            PauseScope::Everything => true,
            PauseScope::Pool => self.target == pool,
            PauseScope::Session => session.is_some_and(|session| self.target == session),
            PauseScope::Kind => self.target == kind,
        }
    }
}

/// The pauses that hold now, and how long until the first of them ends by itself.
pub async fn active(conn: &mut PgConnection) -> Result<(Vec<Pause>, Option<Duration>), StoreError> {
    let rows = sqlx::query!(
        r#"-- active_pauses
        SELECT scope, target, reason, until, paused_by, paused_at,
            (extract(epoch FROM until - wireroom_now()) * 1000000)::bigint AS ends_in
        FROM pauses WHERE until IS NULL OR until > wireroom_now() ORDER BY scope, target"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("active_pauses"))?;
    let ends_in = rows.iter().filter_map(|row| row.ends_in).min();
    let pauses = rows.into_iter().map(|row| {
        // What this version does not know how to hold back must not look as if it were held back.
        let scope = PauseScope::parse(&row.scope).ok_or_else(|| StoreError::Decode {
            operation: "active_pauses",
            detail: format!("scope {}", row.scope),
        })?;
        Ok(Pause {
            scope,
            target: row.target,
            reason: row.reason,
            until: row.until,
            paused_by: row.paused_by,
            paused_at: row.paused_at,
        })
    });
    let ends_in = ends_in.map(|micros| Duration::from_micros(micros.try_into().unwrap_or(0)));
    Ok((pauses.collect::<Result<_, StoreError>>()?, ends_in))
}

/// Pauses `target`, or changes the reason and the end of its pause. `until` in the past ends it at once.
pub async fn pause(
    conn: &mut PgConnection,
    scope: PauseScope,
    target: &str,
    reason: &str,
    until: Option<DateTime<Utc>>,
    actor: &str,
) -> Result<Pause, StoreError> {
    let paused_at = sqlx::query_scalar!(
        "-- pause
        INSERT INTO pauses AS p (scope, target, reason, until, paused_by) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (scope, target) DO UPDATE SET reason = excluded.reason, until = excluded.until,
            paused_by = excluded.paused_by,
            paused_at = CASE WHEN p.until <= wireroom_now() THEN wireroom_now() ELSE p.paused_at END
        RETURNING paused_at",
        scope.as_str(),
        target,
        reason,
        until,
        actor,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("pause"))?;
    Ok(Pause {
        scope,
        target: target.to_owned(),
        reason: reason.to_owned(),
        until,
        paused_by: actor.to_owned(),
        paused_at,
    })
}

/// Ends a pause; tells whether it still held.
pub async fn resume(conn: &mut PgConnection, scope: PauseScope, target: &str) -> Result<bool, StoreError> {
    let held = sqlx::query_scalar!(
        r#"-- resume
        DELETE FROM pauses WHERE scope = $1 AND target = $2
        RETURNING until IS NULL OR until > wireroom_now() AS "held!""#,
        scope.as_str(),
        target,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("resume"))?;
    Ok(held.unwrap_or(false))
}

/// Whether there is such a pool, session or kind to be paused or limited; kinds are the caller's to know.
pub async fn target_exists(conn: &mut PgConnection, scope: PauseScope, target: &str) -> Result<bool, StoreError> {
    match scope {
        PauseScope::Everything | PauseScope::Kind => Ok(true),
        PauseScope::Pool | PauseScope::Session => sqlx::query_scalar!(
            r#"-- pause_target_exists
            SELECT CASE WHEN $1 THEN EXISTS (SELECT FROM pools WHERE name = $2)
                ELSE EXISTS (SELECT FROM sessions WHERE id::text = $2) END AS "exists!""#,
            scope == PauseScope::Pool,
            target,
        )
        .fetch_one(conn)
        .await
        .map_err(failed("pause_target_exists")),
    }
}

/// Deletes pauses and buckets that are over for a day, at most `limit` of each; returns how many.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- sweep_controls
        WITH clock AS MATERIALIZED (SELECT wireroom_now() - interval '1 day' AS gone),
        ended AS (
            DELETE FROM pauses WHERE (scope, target) IN (
                SELECT scope, target FROM pauses WHERE until < (SELECT gone FROM clock) LIMIT $1 FOR UPDATE SKIP LOCKED)
            RETURNING 1
        ), idle AS MATERIALIZED (
            -- Full again, with nobody in line: as good as none.
            SELECT key FROM rate_buckets WHERE refilled_at < (SELECT gone FROM clock)
                AND line_until < (SELECT gone FROM clock)
                AND tokens + extract(epoch FROM (SELECT gone FROM clock) - refilled_at) * rate >= burst
            LIMIT $1 FOR UPDATE SKIP LOCKED
        ), emptied AS (
            DELETE FROM rate_buckets b USING idle WHERE b.key = idle.key RETURNING 1
        )
        SELECT (SELECT count(*) FROM ended) + (SELECT count(*) FROM emptied) AS "gone!""#,
        limit,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("sweep_controls"))
}
