//! Which ticks of a schedule are due: all from the first that was not taken up to now, and the one that comes next.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    cron::{self, Timetable},
    ids::ScheduleId,
    store::schedules::{Settings, Tick},
};

/// Most ticks that are told one by one at one look.
pub const MOST: usize = 1000;

/// What is due.
#[derive(Debug, PartialEq)]
pub struct Due {
    /// In order, the newest [`MOST`] of them.
    pub ticks: Vec<Tick>,
    /// The first of those that are too old for the list, and the last.
    pub dropped: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The first that is not due.
    pub next: Option<Tick>,
}

/// A schedule's ticks.
pub struct Ticks<'s> {
    pub schedule: ScheduleId,
    pub settings: &'s Settings,
    pub timetable: &'s Timetable,
}

impl Ticks<'_> {
    /// The ticks due at `now`, given that the one at `first` is and that those before it were taken.
    pub fn due(&self, first: DateTime<Utc>, now: DateTime<Utc>) -> Due {
        // When the schedule was put off, what is stored as due is later than the tick was.
        let first = self.tick(first);
        let mut ticks = vec![first];
        for tick in self.after(first.at) {
            if tick.due > now {
                return Due {
                    ticks,
                    dropped: None,
                    next: Some(tick),
                };
            }
            if ticks.len() == MOST {
                return self.newest(first, now);
            }
            ticks.push(tick);
        }
        Due {
            ticks,
            dropped: None,
            next: None,
        }
    }

    /// Those after `at` and not after the schedule's end.
    fn after(&self, at: DateTime<Utc>) -> impl Iterator<Item = Tick> + '_ {
        let end = self.settings.ends_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
        let ticks = self.timetable.ticks_after(at).take_while(move |tick| *tick <= end);
        ticks.map(|at| self.tick(at))
    }

    fn tick(&self, at: DateTime<Utc>) -> Tick {
        let most = u32::try_from(self.settings.jitter_seconds).unwrap_or_default();
        Tick {
            at,
            due: at + cron::jitter(self.schedule.0, at, most),
        }
    }

    /// More ticks are due than are told one by one: finds the second after which [`MOST`] of them lie, without a walk through
    /// all.
    fn newest(&self, first: Tick, now: DateTime<Utc>) -> Due {
        let (mut many, mut few) = (first.at, now);
        while few - many > TimeDelta::seconds(1) {
            let middle = many + (few - many) / 2;
            let due = self.after(middle).take_while(|tick| tick.due <= now).take(MOST + 1);
            if due.count() > MOST {
                many = middle;
            } else {
                few = middle;
            }
        }
        let mut from_here = self.after(few).take(MOST + 1);
        let ticks: Vec<Tick> = from_here.by_ref().take_while(|tick| tick.due <= now).collect();
        let last = ticks.last().map_or(few, |tick| tick.at);
        Due {
            dropped: Some((first.at, few)),
            next: self.after(last).next(),
            ticks,
        }
    }
}
