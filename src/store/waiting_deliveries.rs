//! Deliveries that wait as rows: which of them may be sent now. However many wait, what is read is as much as can be sent: of
//! a subject's waiting deliveries the first has a time (`next_at`) and the others have none, so that an index in the order of
//! those times holds one row to a subject.
//!
//! Who has the subscription keeps it so: [`promote`] gives the next one its time when those before it are over, [`step_back`]
//! takes it from one that something earlier was put before, and [`walk`] goes through all subjects once when a subscription
//! is taken up, for what a process that was killed, or the release before, has left.
//!
//! Three things keep the planner from reading the whole of a subscription's deliveries, whatever it believes of them: `subject` is
//! bounded from both sides where one would write `=`, so that its order can only come from the index that has it; what is read
//! in that order is not bounded by position; and rows that are changed are named by where they lie (`ctid`). Nobody else
//! changes one that waits.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, failed};
use crate::ids::SubscriptionId;

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Nothing may be sent for now, since too much failed.
    pub is_open: bool,
    /// Deliveries wait as rows.
    pub has_waiting: bool,
}

/// How a subscription stands now; one that is gone is open.
pub async fn standing(conn: &mut PgConnection, id: SubscriptionId) -> Result<Standing, StoreError> {
    let standing = sqlx::query_as!(
        Standing,
        r#"-- delivery_standing
        SELECT coalesce(p.open_until > wireroom_now(), false) AS "is_open!",
            (SELECT d.subject FROM deliveries d WHERE d.subscription_id = $1 AND d.state = 'pending'
                ORDER BY d.subject, d.position LIMIT 1) IS NOT NULL AS "has_waiting!"
        FROM subscription_progress p WHERE p.subscription_id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("delivery_standing"))?;
    Ok(standing.unwrap_or(Standing {
        is_open: true,
        has_waiting: false,
    }))
}

/// A delivery whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub position: i64,
    pub subject: String,
    /// None of its subject waits before it.
    pub is_first: bool,
}

/// Up to `limit` deliveries up to the position `read_to` whose time has come, those first that have waited longest, without
/// what `busy` subjects have.
pub async fn due(
    conn: &mut PgConnection,
    id: SubscriptionId,
    busy: &[String],
    read_to: i64,
    limit: i64,
) -> Result<Vec<Due>, StoreError> {
    sqlx::query_as!(
        Due,
        r#"-- due_deliveries
        WITH due AS MATERIALIZED (
            SELECT d.subject, d.position FROM deliveries d
            WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.next_at <= (SELECT wireroom_now())
                AND d.position <= $3 AND d.subject <> ALL ($2)
            ORDER BY d.next_at, d.position LIMIT $4
        )
        SELECT due.subject, due.position, earliest.position = due.position AS "is_first!"
        FROM due CROSS JOIN LATERAL (
            SELECT d.position FROM deliveries d
            WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.subject >= due.subject AND d.subject <= due.subject
            ORDER BY d.subject, d.position LIMIT 1) earliest"#,
        id.0,
        busy,
        read_to,
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("due_deliveries"))
}

/// A delivery that waits to be tried, again or for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub position: i64,
    pub event_type: String,
    pub subject: String,
    pub attempts: i32,
    /// How long ago its time began.
    pub age: Duration,
}

/// What waits of these subjects, up to the position `read_to`: the first `each` of each, in order.
pub async fn of_subjects(
    conn: &mut PgConnection,
    id: SubscriptionId,
    subjects: &[&str],
    read_to: i64,
    each: i64,
) -> Result<Vec<Pending>, StoreError> {
    let rows = sqlx::query!(
        r#"-- deliveries_of_subjects
        SELECT d.position, d.type AS event_type, d.subject, d.attempts,
            greatest(extract(epoch FROM wireroom_now() - greatest(d.first_at, p.reopened_at)), 0)::double precision AS "age!"
        FROM subscription_progress p,
            unnest($2::text[]) WITH ORDINALITY AS asked (subject, place) CROSS JOIN LATERAL (
            SELECT d.position, d.type, d.subject, d.attempts, d.first_at FROM deliveries d
            WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.subject >= asked.subject AND d.subject <= asked.subject
            ORDER BY d.subject, d.position LIMIT $4) d
        WHERE p.subscription_id = $1 AND d.position <= $3 ORDER BY asked.place, d.position"#,
        id.0,
        subjects as &[&str],
        read_to,
        each,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("deliveries_of_subjects"))?;
    Ok(rows
        .into_iter()
        .map(|row| Pending {
            position: row.position,
            event_type: row.event_type,
            subject: row.subject,
            attempts: row.attempts,
            age: Duration::from_secs_f64(row.age),
        })
        .collect())
}

/// Which of these subjects have deliveries that wait.
pub async fn held_among(
    conn: &mut PgConnection,
    id: SubscriptionId,
    subjects: &[&str],
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        r#"-- held_among
        SELECT asked.subject AS "subject!"
        FROM unnest($2::text[]) AS asked (subject) CROSS JOIN LATERAL (
            SELECT FROM deliveries d
            WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.subject >= asked.subject AND d.subject <= asked.subject
            ORDER BY d.subject, d.position LIMIT 1) waiting"#,
        id.0,
        subjects as &[&str],
    )
    .fetch_all(conn)
    .await
    .map_err(failed("held_among"))
}

/// Says of the first delivery that waits of each of these subjects that its time has come, if it has none yet.
pub async fn promote(conn: &mut PgConnection, id: SubscriptionId, subjects: &[&str]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- promote_deliveries
        UPDATE deliveries SET next_at = wireroom_now()
        WHERE state = 'pending' AND next_at IS NULL AND ctid = ANY (ARRAY(
            SELECT head.at FROM unnest($2::text[]) AS ended (subject) CROSS JOIN LATERAL (
                SELECT d.ctid AS at FROM deliveries d
                WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.subject >= ended.subject AND d.subject <= ended.subject
                ORDER BY d.subject, d.position LIMIT 1) head))",
        id.0,
        subjects as &[&str],
    )
    .execute(conn)
    .await
    .map_err(failed("promote_deliveries"))?;
    Ok(())
}

/// Takes their time from deliveries that are not the first of their subjects: they wait for those before them. Nothing is
/// written when another process has the subscription by now.
pub async fn step_back(
    conn: &mut PgConnection,
    owner: Uuid,
    id: SubscriptionId,
    positions: &[i64],
) -> Result<(), StoreError> {
    sqlx::query!(
        "-- step_back_deliveries
        WITH mine AS MATERIALIZED (
            SELECT subscription_id FROM subscription_progress
            WHERE subscription_id = $2 AND owner = $1 AND owned_until > wireroom_now() FOR NO KEY UPDATE
        )
        UPDATE deliveries SET next_at = NULL
        WHERE state = 'pending' AND EXISTS (SELECT FROM mine) AND ctid = ANY (ARRAY(
            SELECT later.at FROM unnest($3::bigint[]) AS asked (position) CROSS JOIN LATERAL (
                SELECT d.ctid AS at FROM deliveries d WHERE d.subscription_id = $2 AND d.position = asked.position LIMIT 1) later))",
        owner,
        id.0,
        positions,
    )
    .execute(conn)
    .await
    .map_err(failed("step_back_deliveries"))?;
    Ok(())
}

/// Looks at the first delivery that waits of each of the next `limit` subjects after one, and gives it its time: one that has
/// none, and one that was last tried before the subscription was switched on again. Answers with the last subject that it has
/// looked at, `None` at the end of them.
pub async fn walk(
    conn: &mut PgConnection,
    id: SubscriptionId,
    after: &str,
    limit: i32,
) -> Result<Option<String>, StoreError> {
    let walked = sqlx::query!(
        r#"-- walk_waiting_subjects
        WITH RECURSIVE heads AS (
            (SELECT 1 AS n, d.ctid AS at, d.subject, d.next_at, coalesce(d.last_at, d.first_at) AS tried_at FROM deliveries d
            WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.subject > $2
            ORDER BY d.subject, d.position LIMIT 1)
            UNION ALL
            SELECT h.n + 1, following.at, following.subject, following.next_at, following.tried_at
            FROM heads h CROSS JOIN LATERAL (
                SELECT d.ctid AS at, d.subject, d.next_at, coalesce(d.last_at, d.first_at) AS tried_at FROM deliveries d
                WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.subject > h.subject
                ORDER BY d.subject, d.position LIMIT 1) following
            WHERE h.n < $3
        ), mended AS (
            UPDATE deliveries SET next_at = wireroom_now()
            WHERE state = 'pending' AND ctid = ANY (ARRAY(
                SELECT h.at FROM heads h, subscription_progress p
                WHERE p.subscription_id = $1
                    AND (h.next_at IS NULL OR (h.tried_at < p.reopened_at AND h.next_at > wireroom_now()))))
        )
        SELECT n AS "n!", subject AS "subject!" FROM heads ORDER BY n DESC LIMIT 1"#,
        id.0,
        after,
        limit,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("walk_waiting_subjects"))?;
    Ok(walked.filter(|last| last.n >= limit).map(|last| last.subject))
}
