//! What becomes of due ticks, by the schedule's policies: no clock, no database.

use chrono::{DateTime, TimeDelta, Utc};

use crate::store::{
    schedule_ticks::Reason,
    schedules::{Load, Missed, Overlap, ScheduleRecord, Tick},
};

/// Most ticks of a schedule that wait for its jobs.
const MOST_WAITING: i64 = 100;

/// What a tick gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Job,
    Wait(Reason),
    Skip(Reason),
}

/// One verdict for each of the ticks, which are in order and due at `now`. `load` is what of the schedule is under way.
pub fn verdicts(schedule: &ScheduleRecord, ticks: &[Tick], now: DateTime<Utc>, load: Load) -> Vec<Verdict> {
    if let Some(pause) = &schedule.pause {
        let reason = Reason::new("paused", format!("The schedule was paused: {}", pause.reason));
        return vec![Verdict::Skip(reason); ticks.len()];
    }
    let mut overlapping = Overlapping {
        policy: schedule.settings.overlap,
        live: load.live.is_some(),
        waiting: load.waiting,
    };
    let late = ticks.iter().filter(|tick| is_missed(schedule, tick, now)).count();
    ticks
        .iter()
        .enumerate()
        .map(|(index, tick)| {
            // Late ticks come before those in time, but for a jitter that turns them round.
            let newer = ticks.len() - index - 1;
            let newer_late = late.saturating_sub(index + 1);
            if is_missed(schedule, tick, now) && !is_made_up_for(schedule, newer, newer_late) {
                return Verdict::Skip(missed(tick, now));
            }
            past_deadline(schedule, tick, now).unwrap_or_else(|| overlapping.verdict())
        })
        .collect()
}

fn is_missed(schedule: &ScheduleRecord, tick: &Tick, now: DateTime<Utc>) -> bool {
    now - tick.due > TimeDelta::seconds(schedule.settings.missed_after_seconds.into())
}

fn is_made_up_for(schedule: &ScheduleRecord, newer: usize, newer_late: usize) -> bool {
    match schedule.settings.missed {
        Missed::Skip => false,
        Missed::Once => newer == 0,
        Missed::All => usize::try_from(schedule.settings.missed_max).is_ok_and(|most| newer_late < most),
    }
}

fn missed(tick: &Tick, now: DateTime<Utc>) -> Reason {
    let late = (now - tick.due).num_seconds();
    Reason::new(
        "missed",
        format!("No worker took the tick in time: it was {late} s late."),
    )
}

/// The tick that stands for all from it to `until`, which were too many to be told one by one.
pub fn missed_until(until: DateTime<Utc>) -> Reason {
    let until = until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let message = format!("No worker took this tick and all others until {until} in time: they are too many to list.");
    Reason::new("missed", message)
}

/// The job's deadline would have been over before it began.
pub fn past_deadline(schedule: &ScheduleRecord, tick: &Tick, now: DateTime<Utc>) -> Option<Verdict> {
    let deadline = schedule.deadline(tick.at)?;
    (deadline <= now).then(|| {
        let message = "The tick was taken after the deadline of its job.";
        Verdict::Skip(Reason::new("deadline", message))
    })
}

/// The overlap policy, tick by tick.
struct Overlapping {
    policy: Overlap,
    live: bool,
    waiting: i64,
}

impl Overlapping {
    fn verdict(&mut self) -> Verdict {
        match self.policy {
            Overlap::Skip if self.live => {
                let message = "A job of the schedule was not finished yet.";
                Verdict::Skip(Reason::new("overlap", message))
            }
            Overlap::Queue if self.live || self.waiting > 0 => self.wait(),
            Overlap::Allow | Overlap::Skip | Overlap::Queue => {
                self.live = true;
                Verdict::Job
            }
        }
    }

    fn wait(&mut self) -> Verdict {
        if self.waiting >= MOST_WAITING {
            let message = format!("{MOST_WAITING} ticks waited already for the schedule's jobs to finish.");
            return Verdict::Skip(Reason::new("overlap_full", message));
        }
        self.waiting += 1;
        let message = "A job of the schedule is not finished yet: this tick's comes after it.";
        Verdict::Wait(Reason::new("overlap", message))
    }
}
