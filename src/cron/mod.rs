//! Cron expressions in time zones: pure arithmetic, which the API (to refuse and to show) and the queue (to fire) share.
//!
//! The `cron` crate walks the calendar. It is left where it differs from the cron that people know:
//!
//! - **Fields.** It wants six or seven, seconds first. Here five is Unix's form, and a sixth in front is the seconds.
//! - **Days of the week.** It counts Sunday as 1. Here Sunday is 0 or 7 and Monday 1, as in crontab(5); a range may end in
//!   Sunday (`fri-sun`). `fields` hands the crate lists of its own numbers, so nothing is left to interpret.
//! - **Day of month and day of week.** It wants both to fit. As in crontab(5) a day fits when either does, if both are
//!   restricted (neither begins with `*`).
//! - **Names.** It takes `mon-fri/2` but not `mon/2`, and `@daily` but neither `@midnight` nor `@annually`.
//! - **Errors.** They tell neither the field nor the place in it; ours do, and the crate never sees what it would refuse.
//! - **Daylight saving.** Given a zone, it leaves out the ticks of the hour that is skipped in spring and gives two for the
//!   hour that comes twice in autumn, whatever the expression. It is therefore given local times without a zone, and
//!   `next` brings them to instants.
//!
//! # Daylight saving
//!
//! The rule is vixie-cron's. An expression none of whose times (second, minute, hour) begins with `*` is at **fixed
//! times**: a time that the clocks skip fires once, at the first instant after the gap (all skipped times together once), and
//! a time that comes twice fires the first time only. Any other expression is **by the clock on the wall**: it fires whenever
//! the local time fits, so not in the gap, and in both passes of an hour that comes twice.

mod fields;
mod jitter;
mod next;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

pub use self::{fields::CronError, jitter::jitter};

/// A cron expression that has been read and found good.
#[derive(Debug, Clone)]
pub struct Expression {
    /// One for the days of the month and one for those of the week, when a day may fit either; else one.
    calendars: Vec<::cron::Schedule>,
    fixed_times: bool,
}

/// An expression in its zone.
#[derive(Debug, Clone)]
pub struct Timetable {
    expression: Expression,
    zone: Tz,
}

/// There is no such zone in IANA's database, as of the version that this program was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no time zone of IANA's database, such as Europe/Berlin or UTC")]
pub struct ZoneUnknown;

impl Expression {
    /// Reads five fields, six with seconds in front, or one of `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`,
    /// `@midnight` and `@hourly`.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        fields::parse(text)
    }
}

/// The zone of that name; names are written as IANA does.
pub fn zone(name: &str) -> Result<Tz, ZoneUnknown> {
    name.parse().map_err(|_| ZoneUnknown)
}

impl Timetable {
    pub fn new(expression: Expression, zone: Tz) -> Self {
        Self { expression, zone }
    }

    /// The first tick after `after`; `None` when there is none before the year 2100.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        next::after(&self.expression, self.zone, after)
    }

    /// All ticks after `after`, in order.
    pub fn ticks_after(&self, after: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + '_ {
        std::iter::successors(self.next_after(after), |tick| self.next_after(*tick))
    }

    /// The zone's local time at `instant`, with its offset.
    pub fn local(&self, instant: DateTime<Utc>) -> DateTime<Tz> {
        instant.with_timezone(&self.zone)
    }
}
