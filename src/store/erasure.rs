//! People who were erased: they are known by nothing but a mark, and do not come back.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{StoreError, failed};
use crate::person_key::PersonKey;

/// Which of these people were erased.
pub async fn erased_among(conn: &mut PgConnection, key: &PersonKey, ids: &[i64]) -> Result<HashSet<i64>, StoreError> {
    let any = sqlx::query_scalar!(
        r#"-- any_erased
        SELECT EXISTS (SELECT FROM erased_people) AS "any!""#
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(failed("any_erased"))?;
    // As everywhere where nobody was erased yet.
    if !any {
        return Ok(HashSet::new());
    }
    let marks: Vec<Vec<u8>> = ids.iter().map(|id| key.user(*id).to_vec()).collect();
    let erased: Vec<Vec<u8>> = sqlx::query_scalar!(
        "-- erased_among
        SELECT user_hash FROM erased_people WHERE user_hash = ANY ($1)",
        &marks,
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
    let Some(key) = key else { return Ok(None) };
    let ids: Vec<i64> = rows.iter().flat_map(&people_of).collect();
    let erased = erased_among(conn, key, &ids).await?;
    if erased.is_empty() {
        return Ok(None);
    }
    let is_kept = |row: &&R| people_of(row).iter().all(|id| !erased.contains(id));
    Ok(Some(rows.iter().filter(is_kept).cloned().collect()))
}

/// Removes a person from every table, and remembers their mark alone. Returns how many rows of each table were deleted or
/// changed. Reads the whole database: it is for the rare request, not for a loop.
pub async fn erase(conn: &mut PgConnection, key: &PersonKey, user: i64) -> Result<serde_json::Value, StoreError> {
    let mark = key.user(user);
    sqlx::query_scalar!(
        r#"-- erase_person
        SELECT erase_person($1, $2) AS "done!""#,
        user,
        mark.as_slice(),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("erase_person"))
}

/// Everything that is known of a person, by table.
pub async fn export(conn: &mut PgConnection, user: i64) -> Result<serde_json::Value, StoreError> {
    sqlx::query_scalar!(
        r#"-- export_person
        SELECT export_person($1) AS "found!""#,
        user,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("export_person"))
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
