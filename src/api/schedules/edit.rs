//! From a request that was read to a schedule that can be stored: its session, its pool and its next tick.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::body::{ScheduleRequest, as_posted, first_tick};
use crate::{
    api::{
        State,
        jobs::{keep_media, session_for},
        problem::{Code, Problem},
    },
    cron::{Timetable, jitter},
    ids::ScheduleId,
    store::{
        self, PgConnection,
        schedule_ticks::{Outcome, Reason, TickRecord, Trigger},
        schedules::{Pause, ScheduleRecord, Settings, Tick},
        session_reads,
    },
};

/// Finds the session of a new or changed template, and checks that it and the pool are there. What `before` had is not
/// checked again: a schedule can be paused while its session is logged out.
pub async fn resolve(state: &State, request: &mut ScheduleRequest, before: Option<&Settings>) -> Result<(), Problem> {
    let before = before.map(|settings| &settings.template);
    let template = &mut request.settings.template;
    let had = before.and_then(|before| before.session);
    template.session = match &request.session {
        None => None,
        Some(session) if had.is_some_and(|had| had.to_string() == *session) => had,
        Some(session) => {
            let mut conn = store::connection(&state.pool, "resolve_session").await?;
            let found = session_for(&mut conn, &template.kind, session).await;
            Some(found.map_err(|problem| problem.within("job"))?)
        }
    };
    if before.is_some_and(|before| before.pool == template.pool && before.session == template.session) {
        return Ok(());
    }
    let Some(pool) = &template.pool else { return Ok(()) };
    if !session_reads::pool_exists(&state.pool, pool).await? {
        return Err(Problem::new(Code::UnknownPool, "No pool has that name.").field("job.pool"));
    }
    let Some(session) = template.session else { return Ok(()) };
    match session_reads::find_target(&state.pool, &session.to_string()).await? {
        Some(target) if target.pool != *pool => {
            let detail = format!(
                "The session is in the pool {}: name that, or leave pool out.",
                target.pool
            );
            Err(Problem::new(Code::SessionNotInPool, detail).field("job.pool"))
        }
        _ => Ok(()),
    }
}

/// Keeps the uploaded files of a new or changed message, and refuses one that is not there; from then on the sweep of files keeps
/// them, as long as ticks are to come. What `before` had is not checked again: a schedule whose file was deleted can be paused.
pub async fn keep_files(
    state: &State,
    conn: &mut PgConnection,
    request: &ScheduleRequest,
    before: Option<&Settings>,
) -> Result<(), Problem> {
    let media = |settings: &Settings| settings.template.args.get("media").cloned();
    if before.is_some_and(|before| media(before) == media(&request.settings)) {
        return Ok(());
    }
    keep_media(
        conn,
        &request.files,
        request.settings.starts_at,
        state.files.keep_days(),
    )
    .await
    .map_err(|problem| problem.within("job"))
}

/// A tick with its jitter.
pub fn with_jitter(id: ScheduleId, settings: &Settings, at: DateTime<Utc>) -> Tick {
    let most = u32::try_from(settings.jitter_seconds).unwrap_or_default();
    Tick {
        at,
        due: at + jitter(id.0, at, most),
    }
}

/// The first tick from `now` on, or the refusal of a schedule that has none.
pub fn first(id: ScheduleId, request: &ScheduleRequest, now: DateTime<Utc>) -> Result<Tick, Problem> {
    let settings = &request.settings;
    first_tick(settings, &request.timetable, now)
        .map(|at| with_jitter(id, settings, at))
        .ok_or_else(never_fires)
}

fn never_fires() -> Problem {
    let detail = "cron: no time from now on, between starts_at and ends_at and before the year 2100, fits it.";
    Problem::new(Code::ScheduleNeverFires, detail).field("cron")
}

/// What an edit makes of a schedule's next tick. A tick that is due and not taken yet stays due; otherwise a change of times
/// counts from now on. Ticks of a pause are gone.
pub fn next_after_edit(
    before: &ScheduleRecord,
    request: &ScheduleRequest,
    now: DateTime<Utc>,
) -> Result<Option<Tick>, Problem> {
    let (old, new) = (&before.settings, &request.settings);
    let same_times = old.cron == new.cron
        && old.time_zone == new.time_zone
        && old.starts_at == new.starts_at
        && old.ends_at == new.ends_at;
    let pending = before.next.filter(|tick| tick.at <= now && before.pause.is_none());
    let in_bounds =
        |at: DateTime<Utc>| new.starts_at.is_none_or(|start| start <= at) && new.ends_at.is_none_or(|end| at <= end);
    if let Some(tick) = pending.filter(|tick| in_bounds(tick.at)) {
        return Ok(Some(with_jitter(before.id, new, tick.at)));
    }
    if !same_times {
        return first(before.id, request, now).map(Some);
    }
    let resumed = before.pause.is_some() && request.paused.is_none();
    let kept = before.next.map(|tick| tick.at);
    let at = match kept {
        Some(at) if resumed && at <= now => first_tick(new, &request.timetable, now),
        kept => kept,
    };
    Ok(at.map(|at| with_jitter(before.id, new, at)))
}

/// The pause that a request asks for; one that goes on keeps its beginning.
pub fn pause(before: Option<&Pause>, reason: Option<&String>, now: DateTime<Utc>, by: &str) -> Option<Pause> {
    let reason = reason?;
    match before {
        Some(before) if before.reason == *reason => Some(before.clone()),
        _ => Some(Pause {
            at: before.map_or(now, |before| before.at),
            reason: reason.clone(),
            by: by.to_owned(),
        }),
    }
}

/// The names of the fields in which two versions differ.
pub fn changes(before: &ScheduleRecord, after: &ScheduleRecord) -> Vec<String> {
    let posted = |schedule: &ScheduleRecord| {
        let reason = schedule.pause.as_ref().map(|pause| pause.reason.as_str());
        as_posted(&schedule.settings, reason)
    };
    let (before, after) = (posted(before), posted(after));
    let fields = after.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| before.get(name.as_str()) != Some(*value))
        .map(|(name, _): (&String, &Value)| name.clone())
        .collect()
}

/// The ticks that come after those that were taken, at most `count`.
pub fn upcoming(schedule: &ScheduleRecord, timetable: &Timetable, count: usize) -> Vec<Tick> {
    let Some(next) = schedule.next else { return Vec::new() };
    let settings = &schedule.settings;
    let later = timetable
        .ticks_after(next.at)
        .take_while(|at| settings.ends_at.is_none_or(|end| *at <= end))
        .map(|at| with_jitter(schedule.id, settings, at));
    std::iter::once(next).chain(later).take(count).collect()
}

/// Most ticks of a pause that are told one by one.
const MOST_PASSED: usize = 100;

/// The ticks of a pause that passed without being taken, by jitter or because no worker was there, when `after` does not come
/// to them any more. Too many of them become one row, for the first.
pub fn passed_in_pause(
    before: &ScheduleRecord,
    timetable: &Timetable,
    after: &ScheduleRecord,
    now: DateTime<Utc>,
) -> Vec<TickRecord> {
    let (Some(pause), Some(first)) = (&before.pause, before.next) else {
        return Vec::new();
    };
    let goes_on = after.next.map_or(now, |next| next.at);
    let is_passed = |tick: &Tick| tick.at <= now && tick.at < goes_on;
    let passed = upcoming(before, timetable, MOST_PASSED + 1);
    let mut passed: Vec<Tick> = passed.into_iter().take_while(is_passed).collect();
    let mut message = format!("The schedule was paused: {}", pause.reason);
    if passed.len() > MOST_PASSED {
        passed = vec![first];
        let until = now.to_rfc3339_opts(SecondsFormat::Secs, true);
        message = format!("{message}. So was it for all ticks until {until}, too many to list.");
    }
    let row = |tick: Tick| TickRecord {
        at: tick.at,
        trigger: Trigger::Cron,
        due_at: tick.due,
        decided_at: now,
        version: before.version,
        outcome: Outcome::Skipped(Reason::new("paused", message.clone())),
        requested_by: None,
    };
    passed.into_iter().map(row).collect()
}
