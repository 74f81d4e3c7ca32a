use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

fn table(expression: &str, name: &str) -> Timetable {
    Timetable::new(
        Expression::parse(expression).expect(expression),
        zone(name).expect(name),
    )
}

/// The first `count` ticks after `after`, as the clocks of the zone show them.
fn ticks(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let table = table(expression, zone);
    let ticks = table.ticks_after(at(after)).take(count);
    ticks
        .map(|tick| table.local(tick).format("%a %Y-%m-%dT%H:%M:%S%:z").to_string())
        .collect()
}

fn refusal(expression: &str) -> String {
    Expression::parse(expression).expect_err(expression).to_string()
}

#[test]
fn fields_mean_what_crontab_means() {
    let monday = "2026-11-16T00:00:00Z";
    for (expression, expected) in [
        (
            "*/20 * * * *",
            ["Mon 2026-11-16T00:20:00+00:00", "Mon 2026-11-16T00:40:00+00:00"],
        ),
        (
            "0 9 * * mon-fri",
            ["Mon 2026-11-16T09:00:00+00:00", "Tue 2026-11-17T09:00:00+00:00"],
        ),
        (
            "0 9 * * 1",
            ["Mon 2026-11-16T09:00:00+00:00", "Mon 2026-11-23T09:00:00+00:00"],
        ),
        (
            "0 9 * * 0",
            ["Sun 2026-11-22T09:00:00+00:00", "Sun 2026-11-29T09:00:00+00:00"],
        ),
        (
            "0 9 * * 7",
            ["Sun 2026-11-22T09:00:00+00:00", "Sun 2026-11-29T09:00:00+00:00"],
        ),
        (
            "0 9 * * SAT-Sunday",
            ["Sat 2026-11-21T09:00:00+00:00", "Sun 2026-11-22T09:00:00+00:00"],
        ),
        (
            "0 9 ? jan,Dec ?",
            ["Tue 2026-12-01T09:00:00+00:00", "Wed 2026-12-02T09:00:00+00:00"],
        ),
        (
            "15 0 0 1 * *",
            ["Tue 2026-12-01T00:00:15+00:00", "Fri 2027-01-01T00:00:15+00:00"],
        ),
        (
            "10-30/10 5/18 * * *",
            ["Mon 2026-11-16T05:10:00+00:00", "Mon 2026-11-16T05:20:00+00:00"],
        ),
        (
            "0 0 29 2 *",
            ["Tue 2028-02-29T00:00:00+00:00", "Sun 2032-02-29T00:00:00+00:00"],
        ),
        (
            "@weekly",
            ["Sun 2026-11-22T00:00:00+00:00", "Sun 2026-11-29T00:00:00+00:00"],
        ),
        (
            "@Midnight",
            ["Tue 2026-11-17T00:00:00+00:00", "Wed 2026-11-18T00:00:00+00:00"],
        ),
        (
            "@annually",
            ["Fri 2027-01-01T00:00:00+00:00", "Sat 2028-01-01T00:00:00+00:00"],
        ),
        (
            "@hourly",
            ["Mon 2026-11-16T01:00:00+00:00", "Mon 2026-11-16T02:00:00+00:00"],
        ),
        // Either day, when both are restricted; both, when one begins with a star.
        (
            "0 0 13 * fri",
            ["Fri 2026-11-20T00:00:00+00:00", "Fri 2026-11-27T00:00:00+00:00"],
        ),
        (
            "0 0 */2 * fri",
            ["Fri 2026-11-27T00:00:00+00:00", "Fri 2026-12-11T00:00:00+00:00"],
        ),
    ] {
        assert_eq!(ticks(expression, "UTC", monday, 2), expected, "{expression}");
    }
}

#[test]
fn a_wrong_expression_is_refused_with_its_place_and_reason() {
    for (expression, expected) in [
        ("", "position 1: the expression is empty"),
        ("* * * *", "position 8: 4 of 5 fields"),
        ("* * * * * * *", "position 13: a field too many"),
        ("60 * * * *", "position 1 (minute): 60 is not from 0 to 59"),
        ("0 24 * * *", "position 3 (hour): 24 is not from 0 to 23"),
        ("0  1,2,99 * * *", "position 8 (hour): 99 is not from 0 to 23"),
        ("0 0 0 * *", "position 5 (day of month): 0 is not from 1 to 31"),
        (
            "0 0 * foo *",
            "position 7 (month): must be a number from 1 to 12 or a name such as jan",
        ),
        (
            "0 0 * * mon-fr",
            "position 13 (day of week): must be a number from 0 to 7 or a name such as sun",
        ),
        ("0 0 * * 8", "position 9 (day of week): 8 is not from 0 to 7"),
        ("0 0 L * *", "position 5 (day of month): must be a number from 1 to 31"),
        ("0 17-9 * * *", "position 6 (hour): the range ends before it begins"),
        ("*/0 * * * *", "position 3 (minute): a step is a number from 1 to 59"),
        ("*/90 * * * *", "position 3 (minute): a step"),
        ("1,,2 * * * *", "position 3 (minute): a value is missing"),
        ("? * * * *", "position 1 (minute): ? stands for *"),
        ("ü 0 * * *", "position 1 (minute): must be a number"),
        ("@reboot", "position 1: @reboot is no time"),
        ("@often", "position 1: no such name"),
        ("@daily 5", "position 8: nothing may follow"),
        ("99999999999 * * * *", "position 1 (minute): must be a number"),
    ] {
        let refusal = refusal(expression);
        assert!(refusal.starts_with(expected), "{expression}: {refusal}");
    }
    assert!(zone("Europe/Atlantis").is_err());
}

#[test]
fn what_never_comes_has_no_tick() {
    for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        assert_eq!(table(expression, "UTC").next_after(at("2026-11-16T00:00:00Z")), None);
    }
}

#[test]
fn a_fixed_time_in_the_spring_gap_fires_once_at_its_end() {
    // Berlin leaves 02:00–03:00 out on 29 March 2026, New York on 8 March.
    for (zone, before, gap, next) in [
        (
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            "Sun 2026-03-29T03:00:00+02:00",
            "Mon 2026-03-30T02:30:00+02:00",
        ),
        (
            "America/New_York",
            "2026-03-07T12:00:00Z",
            "Sun 2026-03-08T03:00:00-04:00",
            "Mon 2026-03-09T02:30:00-04:00",
        ),
    ] {
        assert_eq!(ticks("30 2 * * *", zone, before, 2), [gap, next]);
        // All times in the gap, and the one at its end, are one tick.
        let several = ticks("0,15,30 2,3 * * *", zone, before, 2);
        assert_eq!(several[0], gap);
        assert_eq!(several[1], gap.replace("03:00", "03:15"));
    }
}

#[test]
fn a_fixed_time_in_the_autumn_overlap_fires_once() {
    for (zone, before, first, next) in [
        (
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            "Sun 2026-10-25T02:30:00+02:00",
            "Mon 2026-10-26T02:30:00+01:00",
        ),
        (
            "America/New_York",
            "2026-10-31T12:00:00Z",
            "Sun 2026-11-01T01:30:00-04:00",
            "Mon 2026-11-02T01:30:00-05:00",
        ),
    ] {
        let expression = if zone == "Europe/Berlin" {
            "30 2 * * *"
        } else {
            "30 1 * * *"
        };
        assert_eq!(ticks(expression, zone, before, 2), [first, next]);
    }
    // Asked in the second pass, 02:15 has been.
    assert_eq!(
        ticks("15,45 2 * * *", "Europe/Berlin", "2026-10-25T01:05:00Z", 1),
        ["Mon 2026-10-26T02:15:00+01:00"]
    );
}

#[test]
fn an_expression_by_the_clock_on_the_wall_follows_real_time() {
    for (zone, spring, autumn) in [
        ("Europe/Berlin", "2026-03-28T23:30:00Z", "2026-10-24T22:30:00Z"),
        ("America/New_York", "2026-03-08T05:30:00Z", "2026-11-01T04:30:00Z"),
    ] {
        // Each hour of real time, neither one too few nor one too many.
        for start in [spring, autumn] {
            let table = table("0 * * * *", zone);
            let ticks: Vec<_> = table.ticks_after(at(start)).take(6).collect();
            assert!(
                ticks.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::hours(1)),
                "{ticks:?}"
            );
        }
    }
    // The hour that is left out has none; the one that comes twice has them twice.
    assert_eq!(
        ticks("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 1),
        ["Mon 2026-03-30T02:00:00+02:00"]
    );
    assert_eq!(
        ticks("*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 5),
        [
            "Sun 2026-10-25T02:00:00+02:00",
            "Sun 2026-10-25T02:30:00+02:00",
            "Sun 2026-10-25T02:00:00+01:00",
            "Sun 2026-10-25T02:30:00+01:00",
            "Mon 2026-10-26T02:00:00+01:00"
        ]
    );
    // A year between two ticks does not hide the second pass.
    assert_eq!(
        ticks("*/30 2 25 10 *", "Europe/Berlin", "2026-10-25T00:45:00Z", 2),
        ["Sun 2026-10-25T02:00:00+01:00", "Sun 2026-10-25T02:30:00+01:00"]
    );
}

#[test]
fn a_change_of_half_an_hour_and_a_day_that_is_left_out() {
    // Lord Howe's gap is 02:00–02:30.
    assert_eq!(
        ticks("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1),
        ["Sun 2026-10-04T02:30:00+11:00"]
    );
    // Samoa had no 30 December 2011.
    assert_eq!(
        ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", 2),
        ["Sat 2011-12-31T00:00:00+14:00", "Sat 2011-12-31T12:00:00+14:00"]
    );
}

#[test]
fn ticks_only_ever_go_on() {
    for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"] {
        for expression in ["*/7 * * * *", "0,30 1-3 * * *", "5 2 * * sun", "*/10 2 * 3,10,11 *"] {
            let table = table(expression, zone);
            let ticks: Vec<_> = table.ticks_after(at("2026-01-01T00:00:00.5Z")).take(3000).collect();
            assert!(ticks.is_sorted_by(|a, b| a < b), "{expression} in {zone}");
            // From any moment, the next tick is the one of the walk.
            for pair in ticks.windows(2).step_by(97) {
                let between = pair[0] + (pair[1] - pair[0]) / 2;
                assert_eq!(table.next_after(between), Some(pair[1]), "{expression} in {zone}");
            }
        }
    }
}

#[test]
fn jitter_is_the_tick_s_own() {
    let (schedule, tick) = (Uuid::from_u128(7), at("2026-11-16T00:00:00Z"));
    let later: Vec<_> = (0..200)
        .map(|n| jitter(schedule, tick + TimeDelta::minutes(n), 30))
        .collect();
    assert!(
        later
            .iter()
            .all(|by| *by >= TimeDelta::zero() && *by <= TimeDelta::seconds(30))
    );
    assert!(later.iter().any(|by| *by > TimeDelta::seconds(20)));
    assert_eq!(jitter(schedule, tick, 30), later[0]);
    assert_ne!(jitter(Uuid::from_u128(8), tick, 30), later[0]);
    assert_eq!(jitter(schedule, tick, 0), TimeDelta::zero());
}
