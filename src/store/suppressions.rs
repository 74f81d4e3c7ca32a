//! People who must not be contacted, by anyone, from any session. Asked in the moment that somebody is about to be.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed,
    outbox::{self, NewEvent},
};
use crate::person_key::Mark;

/// By what a person is known on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suppressed {
    User(i64),
    /// In lower case, without `@`.
    Username(String),
    /// A phone number's mark.
    Phone(Mark),
}

/// A row of the list.
#[derive(Debug, Clone)]
pub struct SuppressionRecord {
    pub id: Uuid,
    pub user_id: Option<i64>,
    pub username: Option<String>,
    pub phone_hash: Option<Vec<u8>>,
    pub reason: String,
    /// `api`, `import`, `blocked_us` or `said_stop`.
    pub source: String,
    pub added_by: String,
    pub added_at: DateTime<Utc>,
}

/// Rows about to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSuppression {
    pub who: Suppressed,
    pub reason: String,
}

/// Adds rows, in one statement; who is on the list already stays as they are. Returns the ids of new rows.
pub async fn add(
    conn: &mut PgConnection,
    rows: &[NewSuppression],
    source: &str,
    actor: &str,
) -> Result<Vec<Uuid>, StoreError> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut users: Vec<Option<i64>> = Vec::with_capacity(rows.len());
    let mut names: Vec<Option<&str>> = Vec::with_capacity(rows.len());
    let mut phones: Vec<Option<&[u8]>> = Vec::with_capacity(rows.len());
    let mut reasons: Vec<&str> = Vec::with_capacity(rows.len());
    for row in rows {
        ids.push(Uuid::now_v7());
        let (user, name, phone) = match &row.who {
            Suppressed::User(id) => (Some(*id), None, None),
            Suppressed::Username(name) => (None, Some(name.as_str()), None),
            Suppressed::Phone(mark) => (None, None, Some(mark.as_slice())),
        };
        users.push(user);
        names.push(name);
        phones.push(phone);
        reasons.push(&row.reason);
    }
    sqlx::query_scalar!(
        "-- add_suppressions
        INSERT INTO suppressions (id, user_id, username, phone_hash, reason, source, added_by)
        SELECT n.id, n.user_id, n.username, n.phone_hash, n.reason, $6, $7
        FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::text[])
            AS n (id, user_id, username, phone_hash, reason)
        ON CONFLICT DO NOTHING RETURNING id",
        &ids,
        &users as &[Option<i64>],
        &names as &[Option<&str>],
        &phones as &[Option<&[u8]>],
        &reasons as &[&str],
        source,
        actor,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("add_suppressions"))
}

/// The row by which a person is known.
pub async fn find(conn: &mut PgConnection, who: &Suppressed) -> Result<Option<SuppressionRecord>, StoreError> {
    let (user, name, phone) = match who {
        Suppressed::User(id) => (Some(*id), None, None),
        Suppressed::Username(name) => (None, Some(name.as_str()), None),
        Suppressed::Phone(mark) => (None, None, Some(mark.as_slice())),
    };
    sqlx::query_as!(
        SuppressionRecord,
        "-- find_suppression
        SELECT id, user_id, username, phone_hash, reason, source, added_by, added_at FROM suppressions
        WHERE user_id = $1 OR username = $2 OR phone_hash = $3",
        user,
        name,
        phone,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("find_suppression"))
}

/// Rows past `after`, oldest first.
pub async fn page(
    conn: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<SuppressionRecord>, StoreError> {
    sqlx::query_as!(
        SuppressionRecord,
        "-- suppression_page
        SELECT id, user_id, username, phone_hash, reason, source, added_by, added_at FROM suppressions
        WHERE id > $1 ORDER BY id LIMIT $2",
        after.unwrap_or(Uuid::nil()),
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("suppression_page"))
}

/// Takes a row off the list; what it was, without whom.
pub async fn remove(conn: &mut PgConnection, id: Uuid) -> Result<Option<SuppressionRecord>, StoreError> {
    sqlx::query_as!(
        SuppressionRecord,
        "-- remove_suppression
        DELETE FROM suppressions WHERE id = $1
        RETURNING id, user_id, username, phone_hash, reason, source, added_by, added_at",
        id,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("remove_suppression"))
}

/// Whether somebody with this id, one of these names (in lower case) or this phone's mark is on the list.
pub async fn contains(
    conn: &mut PgConnection,
    user: i64,
    names: &[String],
    phone: Option<&Mark>,
) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- is_suppressed
        SELECT is_suppressed($1, $2, $3) AS "is!""#,
        user,
        names,
        phone.map(Mark::as_slice),
    )
    .fetch_one(conn)
    .await
    .map_err(failed("is_suppressed"))
}

/// Puts somebody on the list who blocked us, and tells of it; `false`: they were on it.
pub async fn suppress_user(
    conn: &mut PgConnection,
    user: i64,
    source: &str,
    reason: &str,
    actor: &str,
) -> Result<bool, StoreError> {
    let row = NewSuppression {
        who: Suppressed::User(user),
        reason: reason.to_owned(),
    };
    let added = add(conn, &[row], source, actor).await?;
    let events: Vec<NewEvent> = added
        .iter()
        .map(|id| NewEvent {
            event_type: EventType::SuppressionAdded,
            subject: Subject::suppression(*id),
            data: json!({ "suppression": id, "user_id": user, "source": source }),
        })
        .collect();
    outbox::append(conn, &events).await?;
    Ok(!added.is_empty())
}
