//! Reading an expression: what it allows in each field, or where it is wrong and why.

use std::{collections::BTreeSet, str::FromStr as _};

use super::Expression;

/// A wrong expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("position {position}{}: {reason}", field.map(|field| format!(" ({field})")).unwrap_or_default())]
pub struct CronError {
    /// The character in the expression, counted from 1.
    pub position: usize,
    /// The field that is wrong, when it is one.
    pub field: Option<&'static str>,
    pub reason: String,
}

/// The names for whole expressions.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const WEEKDAYS: [&str; 7] = [
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];

/// What a field may hold.
struct Unit {
    name: &'static str,
    min: u32,
    max: u32,
    /// Names of `min` and those after it.
    names: &'static [&'static str],
    /// `?` stands for `*`.
    is_day: bool,
}

impl Unit {
    const fn numbers(name: &'static str, min: u32, max: u32) -> Self {
        Self {
            name,
            min,
            max,
            names: &[],
            is_day: false,
        }
    }
}

const SECOND: Unit = Unit::numbers("second", 0, 59);
const MINUTE: Unit = Unit::numbers("minute", 0, 59);
const HOUR: Unit = Unit::numbers("hour", 0, 23);
const DAY_OF_MONTH: Unit = Unit {
    is_day: true,
    ..Unit::numbers("day of month", 1, 31)
};
const MONTH: Unit = Unit {
    names: &MONTHS,
    ..Unit::numbers("month", 1, 12)
};
/// 7 is Sunday too.
const DAY_OF_WEEK: Unit = Unit {
    names: &WEEKDAYS,
    is_day: true,
    ..Unit::numbers("day of week", 0, 7)
};

/// A part of the expression and where it begins, counted in characters from 1.
#[derive(Clone, Copy)]
struct Part<'t> {
    text: &'t str,
    position: usize,
}

impl<'t> Part<'t> {
    /// The pieces between separators, each with its place.
    fn split(self, separator: char) -> impl Iterator<Item = Self> {
        let mut position = self.position;
        self.text.split(separator).map(move |text| {
            let part = Part { text, position };
            position += text.chars().count() + 1;
            part
        })
    }

    fn split_once(self, separator: char) -> (Self, Option<Part<'t>>) {
        match self.text.split_once(separator) {
            None => (self, None),
            Some((text, rest)) => {
                let position = self.position + text.chars().count() + 1;
                (Part { text, ..self }, Some(Part { text: rest, position }))
            }
        }
    }

    fn wrong(self, unit: &Unit, reason: impl Into<String>) -> CronError {
        CronError {
            position: self.position,
            field: Some(unit.name),
            reason: reason.into(),
        }
    }
}

/// The values a field allows.
struct Field {
    values: BTreeSet<u32>,
    /// Begins with `*` (or is `?`), which crontab(5) treats differently even where it restricts.
    starred: bool,
}

pub fn parse(text: &str) -> Result<Expression, CronError> {
    let parts = words(text);
    let Some(first) = parts.first() else {
        return Err(whole(
            1,
            "the expression is empty; write five fields, such as 0 9 * * mon-fri",
        ));
    };
    if first.text.starts_with('@') {
        return nickname(*first, parts.get(1));
    }
    let (second, rest) = match parts.len() {
        5 => (None, &parts[..]),
        6 => (Some(parts[0]), &parts[1..]),
        count if count < 5 => {
            let end = text.chars().count() + 1;
            let reason = format!("{count} of 5 fields: minute, hour, day of month, month, day of week");
            return Err(whole(end, reason));
        }
        _ => {
            let reason =
                "a field too many: there are second (optional), minute, hour, day of month, month, day of week";
            return Err(whole(parts[6].position, reason));
        }
    };
    let second = second.map(|part| field(&SECOND, part)).transpose()?;
    let minute = field(&MINUTE, rest[0])?;
    let hour = field(&HOUR, rest[1])?;
    let day = field(&DAY_OF_MONTH, rest[2])?;
    let month = field(&MONTH, rest[3])?;
    let mut weekday = field(&DAY_OF_WEEK, rest[4])?;
    if weekday.values.remove(&7) {
        weekday.values.insert(0);
    }
    assemble(second.as_ref(), &minute, &hour, &day, &month, &weekday)
}

fn words(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut position = 1;
    for text in text.split(|c: char| c.is_ascii_whitespace()) {
        if !text.is_empty() {
            parts.push(Part { text, position });
        }
        position += text.chars().count() + 1;
    }
    parts
}

fn whole(position: usize, reason: impl Into<String>) -> CronError {
    CronError {
        position,
        field: None,
        reason: reason.into(),
    }
}

fn nickname(name: Part<'_>, next: Option<&Part<'_>>) -> Result<Expression, CronError> {
    if let Some(next) = next {
        return Err(whole(next.position, "nothing may follow a name such as @daily"));
    }
    if name.text.eq_ignore_ascii_case("@reboot") {
        return Err(whole(
            name.position,
            "@reboot is no time: a schedule outlives every process",
        ));
    }
    let mut known = NICKNAMES.iter();
    if let Some((_, expression)) = known.find(|(known, _)| name.text.eq_ignore_ascii_case(known)) {
        return parse(expression);
    }
    let names = NICKNAMES.map(|(known, _)| known).join(", ");
    Err(whole(name.position, format!("no such name; there are {names}")))
}

fn field(unit: &Unit, part: Part<'_>) -> Result<Field, CronError> {
    let mut values = BTreeSet::new();
    for item in part.split(',') {
        values.extend(item_values(unit, item)?);
    }
    Ok(Field {
        values,
        starred: part.text.starts_with(['*', '?']),
    })
}

/// `*`, `a`, `a-b`, each perhaps with a `/step`; `a/step` runs to the unit's end.
fn item_values(unit: &Unit, item: Part<'_>) -> Result<Vec<u32>, CronError> {
    if item.text.is_empty() {
        return Err(item.wrong(unit, "a value is missing"));
    }
    let (range, step) = item.split_once('/');
    let step = step.map(|step| step_of(unit, step)).transpose()?;
    // The second Sunday is no day of its own.
    let last = unit.max - u32::from(unit.max == 7);
    let (from, to) = if range.text == "*" || (range.text == "?" && unit.is_day) {
        (unit.min, last)
    } else if range.text == "?" {
        return Err(range.wrong(unit, "? stands for * in the two fields of days only"));
    } else {
        let (from_part, to_part) = range.split_once('-');
        let from = value(unit, from_part)?;
        match to_part {
            Some(to_part) => (from, range_end(unit, from, to_part)?),
            None if step.is_some() => (from, last.max(from)),
            None => (from, from),
        }
    };
    Ok((from..=to).step_by(step.unwrap_or(1)).collect())
}

fn range_end(unit: &Unit, from: u32, part: Part<'_>) -> Result<u32, CronError> {
    let to = value(unit, part)?;
    if unit.max == 7 && to == 0 && from > 0 {
        return Ok(7);
    }
    if to < from {
        let reason = format!("the range ends before it begins ({to} is less than {from})");
        return Err(part.wrong(unit, reason));
    }
    Ok(to)
}

fn step_of(unit: &Unit, part: Part<'_>) -> Result<usize, CronError> {
    let step = number(part.text).filter(|step| (1..=unit.max).contains(step));
    step.and_then(|step| usize::try_from(step).ok())
        .ok_or_else(|| part.wrong(unit, format!("a step is a number from 1 to {}", unit.max)))
}

fn value(unit: &Unit, part: Part<'_>) -> Result<u32, CronError> {
    if part.text.is_empty() {
        return Err(part.wrong(unit, "a value is missing"));
    }
    if let Some(number) = number(part.text) {
        if (unit.min..=unit.max).contains(&number) {
            return Ok(number);
        }
        return Err(part.wrong(unit, format!("{number} is not from {} to {}", unit.min, unit.max)));
    }
    let named = unit.names.iter().zip(unit.min..).find(|(name, _)| {
        let short = part.text.eq_ignore_ascii_case(&name[..3]);
        short || part.text.eq_ignore_ascii_case(name)
    });
    named.map(|(_, value)| value).ok_or_else(|| {
        let names = match unit.names.first() {
            Some(name) => format!(" or a name such as {}", &name[..3]),
            None => String::new(),
        };
        part.wrong(
            unit,
            format!("must be a number from {} to {}{names}", unit.min, unit.max),
        )
    })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn assemble(
    second: Option<&Field>,
    minute: &Field,
    hour: &Field,
    day: &Field,
    month: &Field,
    weekday: &Field,
) -> Result<Expression, CronError> {
    let seconds = second.map_or_else(|| "0".to_owned(), |field| list(&field.values, 0));
    let (minutes, hours, months) = (list(&minute.values, 0), list(&hour.values, 0), list(&month.values, 0));
    // The crate counts Sunday as 1.
    let (days, weekdays) = (list(&day.values, 0), list(&weekday.values, 1));
    let calendar = |days: &str, weekdays: &str| {
        let text = format!("{seconds} {minutes} {hours} {days} {months} {weekdays} *");
        ::cron::Schedule::from_str(&text).map_err(|error| whole(1, error.to_string()))
    };
    let calendars = if day.starred || weekday.starred {
        vec![calendar(&days, &weekdays)?]
    } else {
        vec![calendar(&days, "*")?, calendar("*", &weekdays)?]
    };
    let starred = second.is_some_and(|field| field.starred) || minute.starred || hour.starred;
    Ok(Expression {
        calendars,
        fixed_times: !starred,
    })
}

fn list(values: &BTreeSet<u32>, add: u32) -> String {
    let numbers: Vec<String> = values.iter().map(|value| (value + add).to_string()).collect();
    numbers.join(",")
}
