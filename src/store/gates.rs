//! Gates: a session may not do an action until a time, everywhere or in one chat. A gate is only ever
//! extended, but for that of a full account, which leaving a chat opens.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use wireroom_jobs::Action;

use super::{StoreError, failed, leases::interval};
use crate::ids::SessionId;

/// One closed gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    pub action: Action,
    /// The one chat it closes; `None` closes the action everywhere.
    pub chat_id: Option<i64>,
    pub reason: String,
    pub opens: Opening,
}

/// When a gate opens: by the database's clock, and how long that is from now, for a process whose clock is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    pub at: DateTime<Utc>,
    pub left: Duration,
}

impl Opening {
    pub(super) fn new(at: DateTime<Utc>, micros: i64) -> Self {
        Self {
            at,
            left: Duration::from_micros(micros.try_into().unwrap_or(0)),
        }
    }
}

/// Closes a gate for `wait` from now by the database's clock, unless it is closed for longer already; answers when it
/// opens. Names no fence: that Telegram refused is a fact, whoever met it.
pub async fn close(
    connection: &mut PgConnection,
    session: SessionId,
    action: Action,
    chat_id: Option<i64>,
    reason: &str,
    wait: Duration,
) -> Result<Opening, StoreError> {
    let row = sqlx::query!(
        r#"-- close_gate
        INSERT INTO gates AS g (session_id, action, chat_id, reason, opens_at)
        VALUES ($1, $2, $3, $4, wireroom_now() + $5::interval)
        ON CONFLICT (session_id, action, chat_id) DO UPDATE
        SET opens_at = GREATEST(g.opens_at, EXCLUDED.opens_at), closed_at = wireroom_now(),
            reason = CASE WHEN EXCLUDED.opens_at > g.opens_at THEN EXCLUDED.reason ELSE g.reason END
        RETURNING opens_at, (extract(epoch FROM opens_at - wireroom_now()) * 1000000)::bigint AS "left!""#,
        session.0,
        action.as_str(),
        chat_id.unwrap_or(0),
        reason,
        interval(wait),
    )
    .fetch_one(connection)
    .await
    .map_err(failed("close_gate"))?;
    Ok(Opening::new(row.opens_at, row.left))
}

/// Opens a gate early.
pub async fn open(connection: &mut PgConnection, session: SessionId, action: Action) -> Result<(), StoreError> {
    sqlx::query!(
        "-- open_gate
        DELETE FROM gates WHERE session_id = $1 AND action = $2 AND chat_id = 0",
        session.0,
        action.as_str(),
    )
    .execute(connection)
    .await
    .map_err(failed("open_gate"))?;
    Ok(())
}

/// The gates of a session that are closed now; those that have opened are deleted.
pub async fn closed(connection: &mut PgConnection, session: SessionId) -> Result<Vec<Gate>, StoreError> {
    sqlx::query!(
        "-- sweep_gates
        DELETE FROM gates WHERE session_id = $1 AND opens_at <= wireroom_now()",
        session.0
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("sweep_gates"))?;
    let rows = sqlx::query!(
        r#"-- closed_gates
        SELECT action, chat_id, reason, opens_at,
            (extract(epoch FROM opens_at - wireroom_now()) * 1000000)::bigint AS "left!"
        FROM gates WHERE session_id = $1 AND opens_at > wireroom_now()"#,
        session.0,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("closed_gates"))?;
    let gates = rows.into_iter().filter_map(|row| {
        // A newer version's action is none that this version could do: its gate holds nothing back here, and must not keep
        // the session from being held.
        let action = Action::ALL.into_iter().find(|action| action.as_str() == row.action)?;
        Some(Gate {
            action,
            chat_id: (row.chat_id != 0).then_some(row.chat_id),
            reason: row.reason,
            opens: Opening::new(row.opens_at, row.left),
        })
    });
    Ok(gates.collect())
}
