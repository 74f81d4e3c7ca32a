//! The outbox: facts, written in the transaction that makes them true, and moved to the log under the next numbers when that
//! has committed. So a reader's place is one number, and nothing that commits late is ever behind it.
//!
//! The order of a subject's events holds because whoever writes one holds a lock that stands for the subject until it
//! commits: a later one has a higher id, and is not visible before the earlier is.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed,
};

/// Rung when this process has written events: whoever writes them is the first to look for them.
static WRITTEN: Notify = Notify::const_new();

/// Rung when this process has ended jobs, which may have been the last of a batch, or a watch.
static ENDED: Notify = Notify::const_new();

/// Whether the last look said that ends of jobs are written down.
static JOBS_ARE_TOLD: AtomicBool = AtomicBool::new(false);

/// One fact that is about to be true.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_type: EventType,
    pub subject: Subject,
    /// An object. It may hold the text of messages, and no other secret.
    pub data: Value,
}

/// Writes events into the caller's transaction, in this order. Hold a lock that stands for the subject, its row above all,
/// before you call it: that is what keeps the order of two transactions that write of one subject.
pub async fn append(conn: &mut PgConnection, events: &[NewEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let types: Vec<&str> = events.iter().map(|event| event.event_type.name()).collect();
    let versions: Vec<i16> = events.iter().map(|event| event.event_type.version()).collect();
    let subjects: Vec<&str> = events.iter().map(|event| event.subject.as_str()).collect();
    let data: Vec<&Value> = events.iter().map(|event| &event.data).collect();
    sqlx::query!(
        "-- append_events
        INSERT INTO outbox (type, version, subject, data)
        SELECT type, version, subject, data
        FROM unnest($1::text[], $2::smallint[], $3::text[], $4::jsonb[])
            WITH ORDINALITY AS new (type, version, subject, data, place)
        ORDER BY place",
        &types as &[&str],
        &versions,
        &subjects as &[&str],
        &data as &[&Value],
    )
    .execute(conn)
    .await
    .map_err(failed("append_events"))?;
    written();
    Ok(())
}

/// Says that this process has written events otherwise than by [`append`].
pub(super) fn written() {
    WRITTEN.notify_one();
}

/// Says that this process has ended jobs, which is an event if that concerns anybody, and may be one if not.
pub(super) fn jobs_ended() {
    if JOBS_ARE_TOLD.load(Ordering::Relaxed) {
        written();
    } else {
        a_job_may_have_told();
    }
}

/// Resolves when this process has written events since the last time. Their transaction may not have committed yet.
pub async fn told() {
    WRITTEN.notified().await;
}

/// Says that this process has ended jobs, of which one may have been an event.
pub fn a_job_may_have_told() {
    ENDED.notify_one();
}

/// Resolves when this process has ended jobs since the last time, and nobody asks for the ends of each: an event of theirs
/// is rare, and not worth a look for every end.
pub async fn maybe_told() {
    ENDED.notified().await;
}

/// What a look at the outbox brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced {
    /// How many events were given a number.
    pub moved: i64,
    /// The last number given out, as far as this look knows.
    pub position: i64,
    /// There are events, and another process is at them: what it does not see yet is left to the next look.
    pub is_busy: bool,
    /// Somebody subscribes to events.
    pub has_subscriptions: bool,
}

/// Moves up to `limit` committed events to the log, each under the next number, if no other process is at it. Not within
/// another transaction: the lock on the numbers is held until the end of it.
pub async fn sequence(conn: &mut PgConnection, limit: i64) -> Result<Sequenced, StoreError> {
    let row = sqlx::query!(
        r#"-- sequence_events
        WITH turn AS MATERIALIZED (
            SELECT position, greatest(logged_at, wireroom_now()) AS logged_at FROM event_sequence
            WHERE EXISTS (SELECT FROM outbox) FOR UPDATE SKIP LOCKED
        ), taken AS (
            DELETE FROM outbox o USING turn WHERE o.id = ANY (ARRAY(SELECT id FROM outbox ORDER BY id LIMIT $1))
            RETURNING o.id, o.at, o.type, o.version, o.subject, o.data, turn.position, turn.logged_at
        ), logged AS (
            INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
            SELECT position + row_number() OVER (ORDER BY id), logged_at, at, type, version, subject, data FROM taken
        ), counted AS (
            SELECT count(*) AS moved FROM taken
        ), day AS (
            INSERT INTO event_days (day, first_position)
            SELECT (t.logged_at AT TIME ZONE 'UTC')::date, t.position + 1 FROM turn t, counted c WHERE c.moved > 0
            ON CONFLICT (day) DO NOTHING
        ), advanced AS (
            UPDATE event_sequence s SET position = t.position + c.moved, logged_at = t.logged_at
            FROM turn t, counted c WHERE c.moved > 0
            RETURNING s.position
        )
        SELECT c.moved AS "moved!",
            coalesce((SELECT position FROM advanced), (SELECT position FROM event_sequence)) AS "position!",
            EXISTS (SELECT FROM outbox) AND NOT EXISTS (SELECT FROM turn) AS "is_busy!",
            EXISTS (SELECT FROM event_consumers WHERE wants_jobs)
                OR EXISTS (SELECT FROM subscriptions WHERE wants_jobs AND enabled) AS "jobs_are_told!",
            EXISTS (SELECT FROM subscriptions) AS "has_subscriptions!"
        FROM counted c"#,
        limit,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("sequence_events"))?;
    JOBS_ARE_TOLD.store(row.jobs_are_told, Ordering::Relaxed);
    Ok(Sequenced {
        moved: row.moved,
        position: row.position,
        is_busy: row.is_busy,
        has_subscriptions: row.has_subscriptions,
    })
}

#[cfg(test)]
mod tests;
