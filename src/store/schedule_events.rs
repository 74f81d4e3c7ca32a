//! The event of ticks that made no job though the schedule's settings want one: nobody took them in time, or the job was
//! refused. Ticks that a pause or the rule for overlaps left out are as they were meant to be, and no event.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    StoreError, failed, outbox,
    schedule_ticks::{Outcome, TickRecord},
};
use crate::ids::ScheduleId;

/// Ticks that one event lists.
const MOST_LISTED: usize = 50;

/// Appends `schedule.missed` for those of these ticks that concern it; the schedule is locked.
pub(super) async fn missed(conn: &mut PgConnection, id: ScheduleId, ticks: &[TickRecord]) -> Result<(), StoreError> {
    let missed: Vec<Value> = ticks
        .iter()
        .filter_map(|tick| match &tick.outcome {
            Outcome::Skipped(reason) if matches!(reason.code.as_str(), "missed" | "deadline") => Some((tick, reason)),
            Outcome::Failed(reason) => Some((tick, reason)),
            Outcome::Job(_) | Outcome::Waiting(_) | Outcome::Skipped(_) => None,
        })
        .map(|(tick, reason)| json!({ "at": tick.at, "code": reason.code, "message": reason.message }))
        .collect();
    if missed.is_empty() {
        return Ok(());
    }
    let newest = &missed[missed.len().saturating_sub(MOST_LISTED)..];
    sqlx::query!(
        "-- append_schedule_missed
        INSERT INTO outbox (type, subject, data)
        SELECT 'schedule.missed', 'schedule:' || id,
            jsonb_build_object('schedule', id, 'name', name, 'missed', $2::bigint, 'ticks', $3::jsonb)
        FROM schedules WHERE id = $1",
        id.0,
        i64::try_from(missed.len()).unwrap_or(i64::MAX),
        Value::from(newest),
    )
    .execute(conn)
    .await
    .map_err(failed("append_schedule_missed"))?;
    outbox::written();
    Ok(())
}
