//! People who were erased: they are known by nothing but a mark, and do not come back. An erasure reads the whole database, so it
//! goes in steps: the request takes the first ones, and where that is not enough the workers go on.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, audit, failed, leases::interval, suppressions};
use crate::person_key::PersonKey;

/// Which of these people were erased. Nobody else's erasure begins before the caller's transaction ends: so what it stores of
/// people who are not among them is found by theirs. Fails when people were marked with another key, or this process has none.
pub async fn erased_among(
    conn: &mut PgConnection,
    key: Option<&PersonKey>,
    ids: &[i64],
) -> Result<HashSet<i64>, StoreError> {
    let marks: Vec<Vec<u8>> = match key {
        Some(key) => ids.iter().map(|id| key.user(*id).to_vec()).collect(),
        None => Vec::new(),
    };
    let check = key.map(|key| key.check().to_vec());
    let erased: Vec<Vec<u8>> = sqlx::query_scalar!(
        r#"-- erased_among
        SELECT erased_marks($1, $2) AS "mark!""#,
        &marks,
        check,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("erased_among"))?;
    let erased: HashSet<Vec<u8>> = erased.into_iter().collect();
    Ok(ids
        .iter()
        .zip(&marks)
        .filter_map(|(id, mark)| erased.contains(mark).then_some(*id))
        .collect())
}

/// The rows of a page that are about nobody who was erased, by the ids of `people_of` each; `None`: all of them.
pub async fn without_erased<R: Clone>(
    conn: &mut PgConnection,
    key: Option<&PersonKey>,
    rows: &[R],
    people_of: impl Fn(&R) -> Vec<i64>,
) -> Result<Option<Vec<R>>, StoreError> {
    let ids: Vec<i64> = rows.iter().flat_map(&people_of).collect();
    let erased = erased_among(conn, key, &ids).await?;
    if erased.is_empty() {
        return Ok(None);
    }
    let is_kept = |row: &&R| people_of(row).iter().all(|id| !erased.contains(id));
    Ok(Some(rows.iter().filter(is_kept).cloned().collect()))
}

/// How far the erasure of a person has come. Whom it is about is known as long as it works, and shown to nobody.
#[derive(Debug, Clone)]
pub struct ErasureRecord {
    pub id: Uuid,
    pub is_done: bool,
    /// How many tables and partitions are left to be read.
    pub tables_left: i64,
    /// How many rows of each table were deleted or changed.
    pub changed: Value,
    pub requested_by: String,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// Marks a person as erased: from the commit on nobody stores anything of them.
pub async fn mark(conn: &mut PgConnection, key: &PersonKey, user: i64) -> Result<(), StoreError> {
    let mark = key.user(user);
    sqlx::query!(
        "-- mark_erased
        INSERT INTO erased_people (user_hash) VALUES ($1) ON CONFLICT DO NOTHING",
        mark.as_slice(),
    )
    .execute(conn)
    .await
    .map_err(failed("mark_erased"))?;
    Ok(())
}

/// Waits for the transactions that looked people up before a mark was committed. Call it in a transaction of its own.
pub async fn await_writers(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        r#"-- await_writers
        SELECT pg_advisory_xact_lock(hashtextextended('wireroom.erased_people', 0)) IS NULL AS "waited!""#
    )
    .fetch_one(conn)
    .await
    .map_err(failed("await_writers"))?;
    Ok(())
}

/// Begins to remove a person from every table, or finds the erasure that is under way: their mark alone is remembered, and from
/// the commit on nobody lists or scans them. Returns its id.
pub async fn begin(conn: &mut PgConnection, key: &PersonKey, user: i64, actor: &str) -> Result<Uuid, StoreError> {
    let mark = key.user(user);
    suppressions::mark_names_of(&mut *conn, key, user).await?;
    sqlx::query_scalar!(
        r#"-- begin_erasure
        SELECT begin_erasure($1, $2, $3, $4) AS "id!""#,
        Uuid::now_v7(),
        user,
        mark.as_slice(),
        actor,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("begin_erasure"))
}

/// Goes on with an erasure for about as long as `patience`; `true`: it is done, or there is none. Keep the transaction short: what
/// it has changed is locked until it commits.
pub async fn go_on(conn: &mut PgConnection, erasure: Uuid, patience: Duration) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- continue_erasure
        SELECT continue_erasure($1, $2) AS "done!""#,
        erasure,
        interval(patience),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("continue_erasure"))
}

/// The oldest erasure that is not done and that nobody else is at, locked.
pub async fn take(conn: &mut PgConnection) -> Result<Option<Uuid>, StoreError> {
    sqlx::query_scalar!(
        "-- take_erasure
        SELECT id FROM erasures WHERE state = 'working' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("take_erasure"))
}

/// Locks this erasure, unless somebody else is at it.
pub async fn take_this(conn: &mut PgConnection, erasure: Uuid) -> Result<bool, StoreError> {
    let taken = sqlx::query_scalar!(
        "-- take_this_erasure
        SELECT id FROM erasures WHERE id = $1 AND state = 'working' FOR UPDATE SKIP LOCKED",
        erasure,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("take_this_erasure"))?;
    Ok(taken.is_some())
}

/// How far an erasure has come.
pub async fn find(conn: &mut PgConnection, erasure: Uuid) -> Result<Option<ErasureRecord>, StoreError> {
    sqlx::query_as!(
        ErasureRecord,
        r#"-- find_erasure
        SELECT id, state = 'done' AND NOT EXISTS (SELECT FROM file_erasures f WHERE f.erasure_id = erasures.id) AS "is_done!",
            cardinality(tables)::bigint AS "tables_left!", changed, requested_by, created_at,
            finished_at
        FROM erasures WHERE id = $1"#,
        erasure,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("find_erasure"))
}

/// Writes down that a person was erased, as whoever asked for it; the log names nobody.
pub async fn note(
    conn: &mut PgConnection,
    erasure: &ErasureRecord,
    action: &str,
    request_id: Option<&str>,
) -> Result<(), StoreError> {
    let entry = audit::Entry {
        actor: &erasure.requested_by,
        action,
        subject: "person",
        request_id,
        details: json!({ "erasure": erasure.id, "tables": erasure.changed }),
    };
    audit::record(conn, entry).await
}

/// The tables that may hold people.
pub async fn tables(conn: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar!(
        r#"-- tables_about_people
        SELECT DISTINCT tab AS "tab!" FROM columns_about_people() ORDER BY 1"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("tables_about_people"))
}

/// What is known of a person in one of [`tables`], at most so many rows.
pub async fn export(conn: &mut PgConnection, user: i64, table: &str, most: i32) -> Result<Vec<Value>, StoreError> {
    sqlx::query_scalar!(
        r#"-- export_person_from
        SELECT export_person_from($1, $2, $3) AS "row!""#,
        user,
        table,
        most,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("export_person_from"))
}

/// Whether the person is the account of one of our own sessions.
pub async fn is_ours(conn: &mut PgConnection, user: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- person_is_ours
        SELECT EXISTS (SELECT FROM sessions WHERE account_id = $1) AS "is!""#,
        user,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("person_is_ours"))
}
