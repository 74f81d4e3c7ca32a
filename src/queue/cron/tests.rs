//! The policies, without a database.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    due::{Due, MOST, Ticks},
    plan::{Verdict, verdicts},
};
use crate::{
    cron::{Expression, Timetable, zone},
    ids::ScheduleId,
    store::schedules::{Load, Missed, Overlap, Pause, ScheduleRecord, Settings, Template},
};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

fn schedule(cron: &str) -> ScheduleRecord {
    let made = at("2026-01-01T00:00:00Z");
    ScheduleRecord {
        id: ScheduleId(Uuid::from_u128(1)),
        settings: Settings {
            name: "test".to_owned(),
            cron: cron.to_owned(),
            time_zone: "UTC".to_owned(),
            template: Template {
                kind: "join".to_owned(),
                args: json!({}),
                pool: None,
                session: None,
                priority: 0,
                max_attempts: None,
                tags: Vec::new(),
                deadline_seconds: None,
                limit_key: None,
            },
            missed: Missed::Once,
            missed_max: 3,
            missed_after_seconds: 60,
            overlap: Overlap::Allow,
            jitter_seconds: 0,
            starts_at: None,
            ends_at: None,
        },
        pause: None,
        version: 1,
        next: None,
        created_by: "cli".to_owned(),
        created_at: made,
        updated_at: made,
    }
}

fn due(schedule: &ScheduleRecord, first: &str, now: &str) -> Due {
    let settings = &schedule.settings;
    let expression = Expression::parse(&settings.cron).expect("an expression");
    let timetable = Timetable::new(expression, zone(&settings.time_zone).expect("a zone"));
    let ticks = Ticks {
        schedule: schedule.id,
        settings,
        timetable: &timetable,
    };
    ticks.due(at(first), at(now))
}

/// One letter per tick: a job, a skip, or a wait.
fn letters(schedule: &ScheduleRecord, first: &str, now: &str, load: Load) -> String {
    let due = due(schedule, first, now);
    verdicts(schedule, &due.ticks, at(now), load)
        .into_iter()
        .map(|verdict| match verdict {
            Verdict::Job => 'j',
            Verdict::Skip(_) => '-',
            Verdict::Wait(_) => 'w',
        })
        .collect()
}

const LIVE: Load = Load {
    live: Some(Uuid::nil()),
    waiting: 0,
};

#[test]
fn missed_ticks_get_what_the_policy_says() {
    let mut schedule = schedule("*/10 * * * *");
    for (policy, all_late, last_in_time) in [
        (Missed::Skip, "------", "-----j"),
        (Missed::Once, "-----j", "-----j"),
        (Missed::All, "---jjj", "--jjjj"),
    ] {
        schedule.settings.missed = policy;
        let load = Load::default();
        let first = "2026-01-01T00:00:00Z";
        assert_eq!(
            letters(&schedule, first, "2026-01-01T00:55:00Z", load),
            all_late,
            "{policy:?}"
        );
        assert_eq!(
            letters(&schedule, first, "2026-01-01T00:50:30Z", load),
            last_in_time,
            "{policy:?}"
        );
    }
}

#[test]
fn ticks_that_overlap_get_what_the_policy_says() {
    let mut schedule = schedule("*/10 * * * * *");
    let (first, now) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:25Z");
    for (policy, idle, busy) in [
        (Overlap::Allow, "jjj", "jjj"),
        (Overlap::Skip, "j--", "---"),
        (Overlap::Queue, "jww", "www"),
    ] {
        schedule.settings.overlap = policy;
        assert_eq!(letters(&schedule, first, now, Load::default()), idle, "{policy:?}");
        assert_eq!(letters(&schedule, first, now, LIVE), busy, "{policy:?}");
    }
    let full = Load {
        live: None,
        waiting: 99,
    };
    assert_eq!(letters(&schedule, first, now, full), "w--");
}

#[test]
fn a_pause_and_a_deadline_leave_ticks_without_a_job() {
    let mut schedule = schedule("*/10 * * * *");
    let (first, now) = ("2026-01-01T00:00:00Z", "2026-01-01T00:20:30Z");
    schedule.settings.missed = Missed::All;
    schedule.settings.template.deadline_seconds = Some(700);
    assert_eq!(letters(&schedule, first, now, Load::default()), "-jj");
    schedule.pause = Some(Pause {
        at: at(first),
        reason: "holidays".to_owned(),
        by: "cli".to_owned(),
    });
    assert_eq!(letters(&schedule, first, now, Load::default()), "---");
}

#[test]
fn ticks_end_with_the_schedule_and_wait_for_their_jitter() {
    let mut schedule = schedule("*/10 * * * *");
    schedule.settings.ends_at = Some(at("2026-01-01T00:20:00Z"));
    let whole = due(&schedule, "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z");
    assert_eq!((whole.ticks.len(), whole.next), (3, None));

    schedule.settings.ends_at = None;
    schedule.settings.jitter_seconds = 3600;
    let now = at("2026-01-01T05:00:00Z");
    let some = due(&schedule, "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z");
    assert!(
        some.ticks
            .iter()
            .all(|tick| tick.due <= now && tick.due - tick.at <= TimeDelta::hours(1))
    );
    let next = some.next.expect("there is always a next");
    assert!(next.due > now && next.at > some.ticks.last().expect("some are due").at);
}

#[test]
fn of_very_many_missed_ticks_the_newest_are_told() {
    let schedule = schedule("* * * * * *");
    let (first, now) = ("2026-01-01T00:00:00Z", "2026-01-31T00:00:00.5Z");
    let due = due(&schedule, first, now);
    assert_eq!(due.ticks.len(), MOST);
    assert_eq!(due.ticks[MOST - 1].at, at("2026-01-31T00:00:00Z"));
    assert!(
        due.ticks
            .windows(2)
            .all(|pair| pair[1].at - pair[0].at == TimeDelta::seconds(1))
    );
    let (from, until) = due.dropped.expect("the others are dropped");
    assert_eq!(from, at(first));
    assert!(until < due.ticks[0].at && due.ticks[0].at - until <= TimeDelta::seconds(1));
    assert_eq!(due.next.map(|tick| tick.at), Some(at("2026-01-31T00:00:01Z")));
}
