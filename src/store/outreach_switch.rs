//! The one switch for all outreach, and the limits that campaigns cannot raise. A call of outreach is let through in the
//! transaction that counts it, which reads the switch under a lock, and is known until it is answered: so whoever turns the
//! switch knows when the last one is over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, failed, jobs::micros};
use crate::{
    ids::{JobId, SessionId},
    person_key::{Mark, PersonKey},
};

/// Most jobs that [`wake`] makes ready at a time.
pub const WAKE: i64 = 500;

/// The switch as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    pub stopped: bool,
    pub reason: Option<String>,
    /// `key:<id>`; `None`: as it came.
    pub changed_by: Option<String>,
    pub changed_at: DateTime<Utc>,
    /// Invitations into one chat in a day, over all campaigns and sessions.
    pub per_target_per_day: i32,
    /// Days in which a person whom one campaign has contacted is contacted by no other one.
    pub person_rest_days: i32,
    /// Calls that were let through and have not been answered yet.
    pub calls_in_flight: i64,
}

pub async fn get(conn: &mut PgConnection) -> Result<Switch, StoreError> {
    let row = sqlx::query!(
        r#"-- outreach_switch
        SELECT state, reason, changed_by, changed_at, per_target_per_day, person_rest_days,
            (SELECT count(*) FROM outreach_calls WHERE until > wireroom_now()) AS "calls_in_flight!"
        FROM outreach_switch"#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("outreach_switch"))?;
    Ok(Switch {
        stopped: row.state == "stopped",
        reason: row.reason,
        changed_by: row.changed_by,
        changed_at: row.changed_at,
        per_target_per_day: row.per_target_per_day,
        person_rest_days: row.person_rest_days,
        calls_in_flight: row.calls_in_flight,
    })
}

/// Turns the switch. Waits for transactions that are letting a call through.
pub async fn turn(conn: &mut PgConnection, stopped: bool, reason: Option<&str>, actor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- turn_outreach_switch
        UPDATE outreach_switch SET state = $1, reason = $2, changed_by = $3, changed_at = wireroom_now(),
            opened_at = CASE WHEN $1 = 'running' THEN wireroom_now() ELSE opened_at END",
        if stopped { "stopped" } else { "running" },
        reason,
        actor,
    )
    .execute(conn)
    .await
    .map_err(failed("turn_outreach_switch"))?;
    Ok(())
}

/// Sets the limits of all campaigns.
pub async fn set_limits(
    conn: &mut PgConnection,
    per_target_per_day: i32,
    person_rest_days: i32,
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- set_outreach_limits
        UPDATE outreach_switch SET per_target_per_day = $1, person_rest_days = $2, opened_at = wireroom_now()",
        per_target_per_day,
        person_rest_days,
    )
    .execute(conn)
    .await
    .map_err(failed("set_outreach_limits"))?;
    Ok(())
}

/// Calls of before that nobody has seen answered.
pub async fn calls_in_flight(conn: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- outreach_calls_in_flight
        SELECT count(*) AS "calls!" FROM outreach_calls WHERE until > wireroom_now()"#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("outreach_calls_in_flight"))
}

/// Lets a call through, and knows it until [`leave`], or for `bound`. `None`: all outreach is stopped. Until the caller's
/// transaction ends, nobody turns the switch.
pub async fn enter(
    conn: &mut PgConnection,
    session: SessionId,
    job: JobId,
    bound: Duration,
) -> Result<Option<Uuid>, StoreError> {
    let id = Uuid::now_v7();
    let entered = sqlx::query!(
        "-- enter_outreach_call
        WITH switch AS MATERIALIZED (SELECT state FROM outreach_switch FOR SHARE)
        INSERT INTO outreach_calls (id, session_id, job_id, until)
        SELECT $1, $2, $3, wireroom_now() + $4::bigint * interval '1 microsecond' FROM switch WHERE state = 'running'",
        id,
        session.0,
        job.0,
        micros(bound),
    )
    .execute(conn)
    .await
    .map_err(failed("enter_outreach_call"))?;
    Ok((entered.rows_affected() == 1).then_some(id))
}

/// The call was answered, or never made.
pub async fn leave(conn: &mut PgConnection, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "-- leave_outreach_call
        DELETE FROM outreach_calls WHERE id = $1",
        id
    )
    .execute(conn)
    .await
    .map_err(failed("leave_outreach_call"))?;
    Ok(())
}

/// Whether a session has written to a person before.
pub async fn knows(conn: &mut PgConnection, session: SessionId, person: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- session_knows
        SELECT EXISTS (SELECT FROM session_dialogues WHERE session_id = $1 AND user_id = $2) AS "knows!""#,
        session.0,
        person,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("session_knows"))
}

/// Deletes calls whose process died before they were answered, at most `limit`. Returns how many.
pub async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let swept = sqlx::query!(
        "-- sweep_outreach_calls
        DELETE FROM outreach_calls WHERE id IN (
            SELECT id FROM outreach_calls WHERE until <= wireroom_now() LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_outreach_calls"))?;
    Ok(swept.rows_affected())
}

/// Makes jobs ready again that waited for the switch, at most [`WAKE`]. Returns how many. Those that are just going to sleep see by
/// `opened_at` that there is nothing to wait for any more (`look_again_at_outreach` in the schema).
pub async fn wake(conn: &mut PgConnection, ageing_step: Duration) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- wake_outreach
        WITH waiting AS MATERIALIZED (
            SELECT id FROM jobs WHERE state = 'scheduled' AND wait_reason ->> 'code' IN ('outreach_stopped', 'target_cap')
            LIMIT $1 FOR UPDATE SKIP LOCKED
        ), clock AS MATERIALIZED (SELECT wireroom_now() AS t),
        woken AS (
            UPDATE jobs j SET state = 'queued', wait_reason = NULL, run_at = c.t,
                rank = (extract(epoch FROM c.t) * 1000000)::bigint - j.priority * $2::bigint
            FROM waiting w, clock c WHERE j.id = w.id RETURNING 1
        )
        SELECT count(*) AS "woken!" FROM woken"#,
        WAKE,
        micros(ageing_step),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("wake_outreach"))
}

/// Whether this process's key is the one that people were marked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFit {
    /// It is, or nobody was marked yet.
    Fits,
    /// People were marked, and this process has no key.
    Missing,
    /// People were marked with another one.
    Another,
}

/// Compares the process's key with the one that people were marked with.
pub async fn key_fit(conn: &mut PgConnection, key: Option<&PersonKey>) -> Result<KeyFit, StoreError> {
    Ok(fit(known_check(conn).await?.as_deref(), key))
}

/// What is known of the key that people were marked with; `None`: nobody was marked yet.
async fn known_check(conn: &mut PgConnection) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar!(
        "-- person_key_check
        SELECT key_check FROM outreach_switch"
    )
    .fetch_one(conn)
    .await
    .map_err(failed("person_key_check"))
}

fn fit(known: Option<&[u8]>, key: Option<&PersonKey>) -> KeyFit {
    match (known, key) {
        (None, _) => KeyFit::Fits,
        (Some(_), None) => KeyFit::Missing,
        (Some(known), Some(key)) if known == key.check() => KeyFit::Fits,
        (Some(_), Some(_)) => KeyFit::Another,
    }
}

/// Remembers the key before anything is marked with it; `false`: people were marked with another one. Only the first one locks the
/// switch: whoever marks people is not what a stop waits for.
pub async fn settle_key(conn: &mut PgConnection, key: &PersonKey) -> Result<bool, StoreError> {
    let check: &Mark = &key.check();
    let known = known_check(&mut *conn).await?;
    if let Some(known) = known {
        return Ok(known == check);
    }
    let settled = sqlx::query!(
        "-- settle_person_key
        UPDATE outreach_switch SET key_check = $1 WHERE key_check IS NULL OR key_check = $1",
        check.as_slice(),
    )
    .execute(conn)
    .await
    .map_err(failed("settle_person_key"))?;
    Ok(settled.rows_affected() == 1)
}

/// The key, once it is sure that it is the right one: a wrong one would find nobody, and let everybody through.
pub async fn require_key<'k>(
    conn: &mut PgConnection,
    key: Option<&'k PersonKey>,
) -> Result<Option<&'k PersonKey>, StoreError> {
    fitting(key_fit(conn, key).await?, key)
}

fn fitting(fit: KeyFit, key: Option<&PersonKey>) -> Result<Option<&PersonKey>, StoreError> {
    match fit {
        KeyFit::Fits => Ok(key),
        KeyFit::Missing | KeyFit::Another => Err(StoreError::Decode {
            operation: "require_person_key",
            detail: "people are marked with another WIREROOM_PERSON_KEY than this process has".into(),
        }),
    }
}
