//! Which events a request wants, and from where on.

use crate::{
    api::{
        State,
        problem::{Code, Problem},
    },
    store::{
        event_consumers,
        event_log::{self, EventFilter, Extent},
        event_types::EventType,
    },
};

/// Patterns of one request.
const MOST_TYPES: usize = 50;
const LONGEST_SUBJECT: usize = 200;

/// Patterns as a request names them: `session.*` or a type. One that nothing can match is refused: a misspelt one must not
/// look like a quiet day.
pub fn known_types(patterns: &[String]) -> Result<(), String> {
    if patterns.len() > MOST_TYPES {
        return Err(format!("takes at most {MOST_TYPES} types."));
    }
    let unknown = patterns.iter().find(|pattern| !is_known(pattern));
    let Some(unknown) = unknown else { return Ok(()) };
    let names: Vec<&str> = EventType::ALL.iter().map(|event| event.name()).collect();
    Err(format!(
        "has {unknown}, and no event has such a type. There are {}; `session.*` takes all that begin so.",
        names.join(", ")
    ))
}

fn is_known(pattern: &str) -> bool {
    match pattern.strip_suffix(".*") {
        Some(family) => EventType::ALL
            .iter()
            .any(|event| event.name().split_once('.').is_some_and(|(of, _)| of == family)),
        None => EventType::parse(pattern).is_some(),
    }
}

/// Whether something may be the subject of events: `session:<id>` and the like.
pub fn subject_is_good(subject: &str) -> bool {
    let Some((what, id)) = subject.split_once(':') else {
        return false;
    };
    subject.len() <= LONGEST_SUBJECT
        && !what.is_empty()
        && what.bytes().all(|b| b.is_ascii_lowercase())
        && !id.is_empty()
}

/// What the query says of types and subject.
pub(super) fn filter(types: Option<&str>, subject: Option<&str>) -> Result<EventFilter, Problem> {
    let types = patterns(types)?;
    if let Some(subject) = subject
        && !subject_is_good(subject)
    {
        let detail = "subject takes what an event names as its subject, such as session:<id>.";
        return Err(Problem::new(Code::InvalidParameter, detail).field("subject"));
    }
    let subjects: Vec<String> = subject.map(str::to_owned).into_iter().collect();
    Ok(EventFilter::new(&types, &subjects))
}

fn patterns(types: Option<&str>) -> Result<Vec<String>, Problem> {
    let Some(types) = types else { return Ok(Vec::new()) };
    let types: Vec<String> = types.split(',').map(|name| name.trim().to_owned()).collect();
    known_types(&types)
        .map_err(|message| Problem::new(Code::InvalidParameter, format!("type {message}")).field("type"))?;
    Ok(types)
}

/// Where a request begins.
pub(super) struct Start<'a> {
    pub after: Option<&'a str>,
    pub since: Option<&'a str>,
    pub consumer: Option<&'a str>,
}

/// Where a request without a word about it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    AtTheOldest,
    AtTheEnd,
}

/// The place to read from, and the filter of the consumer if the request names one and no types.
pub(super) async fn place(
    state: &State,
    start: &Start<'_>,
    otherwise: Otherwise,
    filter: EventFilter,
    types_given: bool,
) -> Result<(i64, EventFilter), Problem> {
    let given = [start.after, start.since, start.consumer];
    if given.iter().flatten().count() > 1 {
        let detail = "after, since and consumer each say where to begin: pass one of them.";
        return Err(Problem::new(Code::InvalidParameter, detail).field("after"));
    }
    let extent = event_log::extent(&state.pool).await?;
    let mut filter = filter;
    let place = if let Some(name) = start.consumer {
        let consumer = event_consumers::get(&state.pool, name)
            .await?
            .ok_or_else(super::consumers::not_found)?;
        if !types_given {
            filter = filter.of_types(&consumer.types);
        }
        // It has a place of its own, which may be 0, but never means whatever is the oldest.
        return Ok((kept(consumer.position, extent)?, filter));
    } else if let Some(after) = start.after {
        position("after", after)?
    } else if let Some(since) = start.since {
        let detail = "since takes a time with its offset (RFC 3339); in a URL, + is written %2B.";
        let since = chrono::DateTime::parse_from_rfc3339(since)
            .map_err(|_| Problem::new(Code::InvalidParameter, detail).field("since"))?;
        event_log::place_at(&state.pool, since.to_utc()).await?
    } else {
        match otherwise {
            Otherwise::AtTheOldest => 0,
            Otherwise::AtTheEnd => extent.head,
        }
    };
    Ok((within(place, extent)?, filter))
}

/// A position as a request names it.
pub(super) fn position(field: &'static str, text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|position| *position >= 0).ok_or_else(|| {
        let detail = format!("{field} takes the position of an event, or 0 for the oldest that is kept.");
        Problem::new(Code::InvalidParameter, detail).field(field)
    })
}

/// Refuses a place from which events would be missed without a word. 0 is the oldest, whichever that is.
fn within(place: i64, extent: Extent) -> Result<i64, Problem> {
    if place == 0 {
        return Ok(extent.oldest - 1);
    }
    kept(place, extent)
}

fn kept(place: i64, extent: Extent) -> Result<i64, Problem> {
    let first = extent.oldest - 1;
    if place < first {
        let detail = format!(
            "Events up to {first} were deleted by age, and some after {place} with them. Begin with after={first}, and bring \
             what was missed up to date in another way."
        );
        return Err(Problem::new(Code::EventsExpired, detail).field("after"));
    }
    if place > extent.head {
        let detail = format!(
            "The newest event is {}. If the database was restored from a copy, events were numbered anew from there: begin at \
             a position that you know to be in the copy.",
            extent.head
        );
        return Err(Problem::new(Code::EventPositionUnknown, detail).field("after"));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_type_is_refused() {
        let check = |pattern: &str| known_types(&[pattern.to_owned()]);
        for good in ["session.*", "job.failed", "message.new"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for wrong in ["sessions.*", "*", ".*", "session", "session.", "job.*.*", ""] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_place_from_which_events_would_be_missed_is_refused() {
        let extent = Extent { oldest: 11, head: 20 };
        assert_eq!(within(0, extent).ok(), Some(10));
        assert_eq!(within(10, extent).ok(), Some(10));
        assert_eq!(within(20, extent).ok(), Some(20));
        assert_eq!(within(9, extent).expect_err("gone").code(), Code::EventsExpired);
        assert_eq!(
            within(21, extent).expect_err("ahead").code(),
            Code::EventPositionUnknown
        );
    }
}
