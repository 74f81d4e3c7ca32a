//! How far a session has got in each of its update sequences.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed, leases,
    leases::LeaseKey,
    outbox::{self, NewEvent},
};
use crate::ids::SessionId;

/// The account's own message box; any other box is a channel's id.
pub const ACCOUNT_BOX: i64 = 0;

/// One box as it is stored. What is `None` is left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxState {
    /// [`ACCOUNT_BOX`] or a channel's bare id.
    pub update_box: i64,
    pub pts: Option<i32>,
    pub qts: Option<i32>,
    pub date: Option<i32>,
    pub seq: Option<i32>,
}

/// All boxes of a session.
pub async fn load(connection: &mut PgConnection, session: SessionId) -> Result<Vec<BoxState>, StoreError> {
    let rows = sqlx::query!(
        "-- load_update_states
        SELECT box, pts, qts, date, seq FROM session_update_states WHERE session_id = $1 ORDER BY box",
        session.0,
    )
    .fetch_all(connection)
    .await
    .map_err(failed("load_update_states"))?;
    Ok(rows
        .into_iter()
        .map(|row| BoxState {
            update_box: row.r#box,
            pts: Some(row.pts),
            qts: row.qts,
            date: row.date,
            seq: row.seq,
        })
        .collect())
}

/// Seeds boxes that are not known yet. A known one is left as it is: overwriting it would skip what was missed.
pub async fn seed(connection: &mut PgConnection, lease: LeaseKey, boxes: &[BoxState]) -> Result<(), StoreError> {
    leases::hold(connection, lease, "seed_update_states").await?;
    let columns = Columns::of(boxes);
    sqlx::query!(
        "-- seed_update_states
        INSERT INTO session_update_states (session_id, box, pts, qts, date, seq)
        SELECT $1, k.box, COALESCE(k.pts, 0), k.qts, k.date, k.seq
        FROM unnest($2::bigint[], $3::int[], $4::int[], $5::int[], $6::int[]) AS k (box, pts, qts, date, seq)
        ON CONFLICT (session_id, box) DO NOTHING",
        lease.session.0,
        &columns.boxes,
        &columns.pts as &[Option<i32>],
        &columns.qts as &[Option<i32>],
        &columns.date as &[Option<i32>],
        &columns.seq as &[Option<i32>],
    )
    .execute(connection)
    .await
    .map_err(failed("seed_update_states"))?;
    Ok(())
}

/// Stores how far sessions have got, in the transaction that stores the updates' own events. The caller holds their leases.
/// One row per session and box.
pub async fn advance(connection: &mut PgConnection, places: &[(SessionId, BoxState)]) -> Result<(), StoreError> {
    if places.is_empty() {
        return Ok(());
    }
    let sessions: Vec<Uuid> = places.iter().map(|(session, _)| session.0).collect();
    let boxes: Vec<BoxState> = places.iter().map(|(_, state)| *state).collect();
    let columns = Columns::of(&boxes);
    sqlx::query!(
        "-- advance_update_states
        INSERT INTO session_update_states AS s (session_id, box, pts, qts, date, seq)
        SELECT k.session_id, k.box, COALESCE(k.pts, 0), k.qts, k.date, k.seq
        FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::int[], $5::int[], $6::int[])
            AS k (session_id, box, pts, qts, date, seq)
        ON CONFLICT (session_id, box) DO UPDATE
        SET pts = CASE WHEN EXCLUDED.pts = 0 THEN s.pts ELSE EXCLUDED.pts END, qts = COALESCE(EXCLUDED.qts, s.qts),
            date = COALESCE(EXCLUDED.date, s.date), seq = COALESCE(EXCLUDED.seq, s.seq)",
        &sessions,
        &columns.boxes,
        &columns.pts as &[Option<i32>],
        &columns.qts as &[Option<i32>],
        &columns.date as &[Option<i32>],
        &columns.seq as &[Option<i32>],
    )
    .execute(connection)
    .await
    .map_err(failed("advance_update_states"))?;
    Ok(())
}

/// Forgets how far the session has got in the account's own box, because Telegram does not know that place any more, and
/// raises `session.updates_gap`: what came meanwhile has to be read from the histories.
pub async fn forget(connection: &mut PgConnection, lease: LeaseKey, reason: &str) -> Result<(), StoreError> {
    leases::hold(connection, lease, "forget_update_states").await?;
    sqlx::query!(
        "-- forget_update_states
        DELETE FROM session_update_states WHERE session_id = $1 AND box = 0",
        lease.session.0,
    )
    .execute(&mut *connection)
    .await
    .map_err(failed("forget_update_states"))?;
    let event = NewEvent {
        event_type: EventType::SessionUpdatesGap,
        subject: Subject::session(lease.session),
        data: json!({ "session": lease.session, "reason": reason }),
    };
    outbox::append(connection, &[event]).await
}

/// Forgets how far sessions have got in channels, by their bare ids. The caller holds their leases.
pub async fn forget_channels(connection: &mut PgConnection, channels: &[(SessionId, i64)]) -> Result<(), StoreError> {
    let (sessions, boxes): (Vec<Uuid>, Vec<i64>) =
        channels.iter().map(|(session, channel)| (session.0, *channel)).unzip();
    if boxes.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "-- forget_channels
        DELETE FROM session_update_states s USING unnest($1::uuid[], $2::bigint[]) AS k (session_id, box)
        WHERE s.session_id = k.session_id AND s.box = k.box AND s.box <> 0",
        &sessions,
        &boxes,
    )
    .execute(connection)
    .await
    .map_err(failed("forget_channels"))?;
    Ok(())
}

struct Columns {
    boxes: Vec<i64>,
    pts: Vec<Option<i32>>,
    qts: Vec<Option<i32>>,
    date: Vec<Option<i32>>,
    seq: Vec<Option<i32>>,
}

impl Columns {
    fn of(boxes: &[BoxState]) -> Self {
        Self {
            boxes: boxes.iter().map(|state| state.update_box).collect(),
            pts: boxes.iter().map(|state| state.pts).collect(),
            qts: boxes.iter().map(|state| state.qts).collect(),
            date: boxes.iter().map(|state| state.date).collect(),
            seq: boxes.iter().map(|state| state.seq).collect(),
        }
    }
}
