//! From local times to instants, over changes of the zone's offset.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

use super::Expression;

/// How far two looks for a change of the offset lie apart. Zones change a few times a year.
const STRIDE: TimeDelta = TimeDelta::hours(12);

/// The first tick after `after`.
pub fn after(expression: &Expression, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if expression.fixed_times {
        fixed(expression, zone, after)
    } else {
        on_the_wall(expression, zone, after)
    }
}

/// Each local time that fits is one instant: that of its first pass, or the end of the gap it lies in. Later local times are
/// never earlier instants, so the first that is later than `after` is the tick.
fn fixed(expression: &Expression, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut local = local_at(zone, after);
    loop {
        local = next_local(expression, local)?;
        let instant = match zone.from_local_datetime(&local) {
            LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => instant.to_utc(),
            LocalResult::None => end_of_gap(zone, local),
        };
        if instant > after {
            return Some(instant);
        }
    }
}

/// Walks through the spans in which the offset stays the same: in each, local times and instants go side by side.
fn on_the_wall(expression: &Expression, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut after = after;
    loop {
        let offset = offset_at(zone, after);
        let candidate = (next_local(expression, after.naive_utc() + offset)? - offset).and_utc();
        match first_change(zone, after, candidate) {
            None => return Some(candidate),
            // A tick at the change itself belongs to the new span.
            Some(change) => {
                let just_before = change - TimeDelta::seconds(1);
                let offset = offset_at(zone, change);
                let local = next_local(expression, just_before.naive_utc() + offset)?;
                let candidate = (local - offset).and_utc();
                if first_change(zone, change, candidate).is_none() {
                    return Some(candidate);
                }
                after = change;
            }
        }
    }
}

/// The first local time after `local` that fits, by the calendar alone.
fn next_local(expression: &Expression, local: NaiveDateTime) -> Option<NaiveDateTime> {
    let after = local.and_utc();
    let next = expression
        .calendars
        .iter()
        .filter_map(|calendar| calendar.after(&after).next());
    next.min().map(|next| next.naive_utc())
}

fn offset_at(zone: Tz, instant: DateTime<Utc>) -> TimeDelta {
    let offset = zone.offset_from_utc_datetime(&instant.naive_utc()).fix();
    TimeDelta::seconds(offset.local_minus_utc().into())
}

fn local_at(zone: Tz, instant: DateTime<Utc>) -> NaiveDateTime {
    instant.naive_utc() + offset_at(zone, instant)
}

/// The first instant of the offset after the gap that `local` lies in.
fn end_of_gap(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    let as_utc = local.and_utc();
    let before = offset_at(zone, as_utc - TimeDelta::days(1));
    let behind = offset_at(zone, as_utc + TimeDelta::days(1));
    change_between(zone, as_utc - behind, as_utc - before)
}

/// The first instant in (`from`, `to`] with another offset than at `from`.
fn first_change(zone: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let offset = offset_at(zone, from);
    let mut at = from;
    while at < to {
        let next = (at + STRIDE).min(to);
        if offset_at(zone, next) != offset {
            return Some(change_between(zone, at, next));
        }
        at = next;
    }
    None
}

/// The first second with another offset than at `low`, given that `high` has one.
fn change_between(zone: Tz, low: DateTime<Utc>, high: DateTime<Utc>) -> DateTime<Utc> {
    let offset = offset_at(zone, low);
    let (mut low, mut high) = (low.timestamp(), high.timestamp());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let at_middle = DateTime::from_timestamp(middle, 0).map(|middle| offset_at(zone, middle));
        if at_middle == Some(offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    DateTime::from_timestamp(high, 0).unwrap_or_default()
}
