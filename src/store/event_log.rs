//! Reading the log of events: from a place on, in order, never past what is committed. Each statement looks at a bounded number
//! of positions, however few of them fit.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use super::{StoreError, failed};

/// Positions that one statement looks at, at most.
pub const WINDOW: i64 = 20_000;

/// One event. Serialized, it is what a webhook brings, the same as the API shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventRecord {
    pub position: i64,
    #[serde(rename = "type")]
    pub event_type: String,
    pub version: i16,
    pub at: DateTime<Utc>,
    pub subject: String,
    pub data: Value,
}

/// Which events a reader wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Names of types.
    types: Vec<String>,
    /// What stands before the dot of types.
    families: Vec<String>,
    /// Empty: every one.
    subjects: Vec<String>,
}

impl EventFilter {
    /// From patterns, `session.*` or `session.state_changed`, and subjects; none of either: every one.
    pub fn new(patterns: &[String], subjects: &[String]) -> Self {
        let mut filter = Self {
            subjects: subjects.to_vec(),
            ..Self::default()
        };
        for pattern in patterns {
            match pattern.strip_suffix(".*") {
                Some(family) => filter.families.push(family.to_owned()),
                None => filter.types.push(pattern.clone()),
            }
        }
        filter
    }

    /// The same with these patterns in place of its own.
    #[must_use]
    pub fn of_types(&self, patterns: &[String]) -> Self {
        Self::new(patterns, &self.subjects)
    }

    /// Whether all its events are of one subject.
    pub fn is_of_one_subject(&self) -> bool {
        self.subjects.len() == 1
    }

    pub(super) fn types(&self) -> &[String] {
        &self.types
    }

    pub(super) fn families(&self) -> &[String] {
        &self.families
    }

    pub(super) fn subjects(&self) -> &[String] {
        &self.subjects
    }

    pub(super) fn admits_every_type(&self) -> bool {
        self.types.is_empty() && self.families.is_empty()
    }

    /// Whether the end of some job may concern its reader.
    pub fn admits_jobs(&self) -> bool {
        let of_jobs = |pattern: &String| pattern.starts_with("job.");
        let types = self.families.iter().any(|family| family == "job") || self.types.iter().any(of_jobs);
        let subjects = self.subjects.is_empty() || self.subjects.iter().any(|subject| subject.starts_with("job:"));
        types && subjects
    }
}

/// Where the log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The oldest event that is kept; one past `head` when none is.
    pub oldest: i64,
    /// The newest event; 0 when there never was one.
    pub head: i64,
}

/// Where the log begins and ends.
pub async fn extent(pool: &PgPool) -> Result<Extent, StoreError> {
    sqlx::query_as!(
        Extent,
        r#"-- event_extent
        SELECT coalesce((SELECT min(first_position) FROM event_days), position + 1) AS "oldest!", position AS "head!"
        FROM event_sequence"#
    )
    .fetch_one(pool)
    .await
    .map_err(failed("event_extent"))
}

/// The place before the first event that was logged at that time or later; the end when there is none.
pub async fn place_at(pool: &PgPool, time: DateTime<Utc>) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        r#"-- event_place_at
        SELECT coalesce(
            (SELECT position FROM event_log WHERE logged_at >= $1 ORDER BY logged_at, position LIMIT 1) - 1,
            (SELECT position FROM event_sequence)) AS "place!""#,
        time,
    )
    .fetch_one(pool)
    .await
    .map_err(failed("event_place_at"))
}

/// Events from a place on.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub events: Vec<EventRecord>,
    /// Every event up to here that fits was read.
    pub position: i64,
}

/// Up to `limit` events after a place that fit, and how far was looked: at most [`WINDOW`] positions, or, for a single
/// subject, to the end of the log. `head` is an end that is known to be committed.
pub async fn read(
    conn: &mut PgConnection,
    filter: &EventFilter,
    after: i64,
    head: i64,
    limit: i64,
) -> Result<Batch, StoreError> {
    if let [subject] = filter.subjects.as_slice() {
        return read_subject(conn, filter, subject, after, head, limit).await;
    }
    let until = head.min(after.saturating_add(WINDOW));
    let every = filter.admits_every_type();
    let events = sqlx::query_as!(
        EventRecord,
        r#"-- read_events
        SELECT position, at, type AS event_type, version, subject, data FROM event_log
        WHERE position > $1 AND position <= $2
            AND logged_at >= coalesce((SELECT day::timestamp AT TIME ZONE 'UTC' FROM event_days
                WHERE first_position <= $1 + 1 ORDER BY first_position DESC LIMIT 1), '-infinity')
            AND ($3 OR type = ANY ($4) OR split_part(type, '.', 1) = ANY ($5))
            AND ($6 OR subject = ANY ($7))
        ORDER BY position LIMIT $8"#,
        after,
        until,
        every,
        &filter.types,
        &filter.families,
        filter.subjects.is_empty(),
        &filter.subjects,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("read_events"))?;
    Ok(batch(events, after, until, limit))
}

async fn read_subject(
    conn: &mut PgConnection,
    filter: &EventFilter,
    subject: &str,
    after: i64,
    head: i64,
    limit: i64,
) -> Result<Batch, StoreError> {
    let events = sqlx::query_as!(
        EventRecord,
        r#"-- read_events_of_subject
        SELECT position, at, type AS event_type, version, subject, data FROM event_log
        WHERE subject = $1 AND position > $2 AND position <= $3
            AND logged_at >= coalesce((SELECT day::timestamp AT TIME ZONE 'UTC' FROM event_days
                WHERE first_position <= $2 + 1 ORDER BY first_position DESC LIMIT 1), '-infinity')
            AND ($4 OR type = ANY ($5) OR split_part(type, '.', 1) = ANY ($6))
        ORDER BY subject, position LIMIT $7"#,
        subject,
        after,
        head,
        filter.admits_every_type(),
        &filter.types,
        &filter.families,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("read_events_of_subject"))?;
    Ok(batch(events, after, head, limit))
}

/// A full page ends at its last event, since more may fit; any other at what was looked at.
fn batch(events: Vec<EventRecord>, after: i64, until: i64, limit: i64) -> Batch {
    let is_full = i64::try_from(events.len()).is_ok_and(|count| count >= limit);
    let position = match events.last() {
        Some(last) if is_full => last.position,
        _ => until.max(after),
    };
    Batch { events, position }
}

/// Those of these positions that are still kept, in order.
pub async fn at(conn: &mut PgConnection, positions: &[i64]) -> Result<Vec<EventRecord>, StoreError> {
    sqlx::query_as!(
        EventRecord,
        r#"-- events_at
        SELECT position, at, type AS event_type, version, subject, data FROM event_log
        WHERE position = ANY ($1)
            AND logged_at >= coalesce((SELECT day::timestamp AT TIME ZONE 'UTC' FROM event_days
                WHERE first_position <= $2 ORDER BY first_position DESC LIMIT 1), '-infinity')
            AND logged_at < coalesce((SELECT day::timestamp AT TIME ZONE 'UTC' FROM event_days
                WHERE first_position > $3 ORDER BY first_position LIMIT 1), 'infinity')
        ORDER BY position"#,
        positions,
        positions.iter().min(),
        positions.iter().max(),
    )
    .fetch_all(conn)
    .await
    .map_err(failed("events_at"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str], subjects: &[&str]) -> EventFilter {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        EventFilter::new(&owned(patterns), &owned(subjects))
    }

    #[test]
    fn ends_of_jobs_are_for_those_who_name_them() {
        assert!(filter(&["job.*"], &[]).admits_jobs());
        assert!(filter(&["session.*", "job.failed"], &[]).admits_jobs());
        assert!(filter(&["job.*"], &["job:1"]).admits_jobs());
        assert!(
            !filter(&[], &[]).admits_jobs(),
            "it costs the queue, so it is asked for by name"
        );
        assert!(!filter(&["session.*"], &[]).admits_jobs());
        assert!(!filter(&["job.*"], &["session:1"]).admits_jobs());
    }
}
