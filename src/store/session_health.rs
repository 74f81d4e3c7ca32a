//! How one session is, beyond its row: its lease, its breaker, what runs on it; and a person's word that a limit is over.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::{StoreError, event_types::EventType, failed, sessions};
use crate::ids::{SessionId, WorkerId};

/// What is known of a session beside its row.
#[derive(Debug, Clone)]
pub struct HealthRecord {
    pub time_zone: String,
    /// It goes there when its running jobs have ended.
    pub next_pool: Option<String>,
    pub last_update_at: Option<DateTime<Utc>>,
    /// How long ago a call last came back, by the database's clock.
    pub silent_seconds: Option<f64>,
    pub lease_fence: i64,
    /// Who has the lease, or had it when it ran out.
    pub lease_owner: Option<WorkerId>,
    pub lease_acquired_at: Option<DateTime<Utc>>,
    pub lease_renewed_at: Option<DateTime<Utc>>,
    pub lease_expires_at: Option<DateTime<Utc>>,
    pub lease_expired: bool,
    pub breaker_trips: i32,
    pub breaker_opened_at: Option<DateTime<Utc>>,
    pub breaker_open_until: Option<DateTime<Utc>>,
    pub breaker_is_open: bool,
    pub breaker_error: Option<String>,
    /// Chats it is a member of, as far as is known here.
    pub chats: i64,
    pub running_jobs: i64,
    pub queued_jobs: i64,
}

/// `None`: there is no such session.
pub async fn get(conn: &mut PgConnection, session: SessionId) -> Result<Option<HealthRecord>, StoreError> {
    sqlx::query_as!(
        HealthRecord,
        r#"-- session_health
        SELECT s.time_zone, s.next_pool, s.last_update_at,
            extract(epoch FROM k.t - s.last_call_at)::double precision AS silent_seconds,
            coalesce(l.fence, 0) AS "lease_fence!", l.owner AS "lease_owner: WorkerId",
            l.acquired_at AS lease_acquired_at, l.renewed_at AS lease_renewed_at,
            CASE WHEN l.owner IS NOT NULL THEN l.expires_at END AS lease_expires_at,
            coalesce(l.expires_at <= k.t, true) AS "lease_expired!",
            coalesce(b.trips, 0) AS "breaker_trips!", b.opened_at AS "breaker_opened_at?",
            b.open_until AS "breaker_open_until?", coalesce(b.open_until > k.t, false) AS "breaker_is_open!",
            b.error AS "breaker_error?",
            (SELECT count(*) FROM session_chats c WHERE c.session_id = s.id AND c.member) AS "chats!",
            (SELECT count(*) FROM jobs j WHERE j.session_id = s.id AND j.state = 'running') AS "running_jobs!",
            (SELECT count(*) FROM jobs j WHERE j.session_id = s.id AND j.state = 'queued') AS "queued_jobs!"
        FROM sessions s CROSS JOIN (SELECT wireroom_now() AS t) k
        LEFT JOIN session_leases l ON l.session_id = s.id
        LEFT JOIN session_breakers b ON b.session_id = s.id
        WHERE s.id = $1"#,
        session.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("session_health"))
}

/// What became of a person's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    Now,
    /// It is not limited, but that.
    NotLimited(String),
    Unknown,
}

/// Lets a limited session contact people again, with the event of it. Its holder knows with the next renewal.
pub async fn resume(conn: &mut PgConnection, session: SessionId, actor: &str) -> Result<Resumed, StoreError> {
    let Some(state) = sqlx::query_scalar!(
        "-- lock_limited
        SELECT state FROM sessions WHERE id = $1 FOR NO KEY UPDATE",
        session.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_limited"))?
    else {
        return Ok(Resumed::Unknown);
    };
    if state != "limited" {
        return Ok(Resumed::NotLimited(state));
    }
    sqlx::query!(
        "-- resume_limited
        UPDATE sessions SET state = 'ready', state_reason = 'RESUMED', state_since = wireroom_now(),
            settings_version = settings_version + 1
        WHERE id = $1",
        session.0,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("resume_limited"))?;
    let data = json!({ "session": session, "from": "limited", "to": "ready", "reason": "RESUMED", "by": actor });
    sessions::emit(conn, EventType::SessionStateChanged, session, data).await?;
    Ok(Resumed::Now)
}

/// Whether Postgres knows the time zone.
pub async fn knows_time_zone(conn: &mut PgConnection, zone: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- knows_time_zone
        SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1) AS "known!""#,
        zone,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("knows_time_zone"))
}

/// Sessions by state, and how many have an open breaker: for metrics.
pub async fn counts(conn: &mut PgConnection) -> Result<(Vec<(String, i64)>, i64), StoreError> {
    let rows = sqlx::query!(
        r#"-- count_sessions
        SELECT state, count(*) AS "sessions!", count(*) FILTER (WHERE EXISTS (SELECT FROM session_breakers b
            WHERE b.session_id = s.id AND b.open_until > wireroom_now())) AS "resting!"
        FROM sessions s GROUP BY state ORDER BY state"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("count_sessions"))?;
    let resting = rows.iter().map(|row| row.resting).sum();
    Ok((rows.into_iter().map(|row| (row.state, row.sessions)).collect(), resting))
}
