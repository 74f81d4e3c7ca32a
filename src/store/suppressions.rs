//! People who must not be contacted, by anyone, from any session. Asked in the moment that somebody is about to be.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::outreach::Person;

use super::{
    StoreError,
    event_types::{EventType, Subject},
    failed,
    outbox::{self, NewEvent},
};
use crate::person_key::{Mark, PersonKey};

/// By what a person is known on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suppressed {
    User(i64),
    /// In lower case, without `@`.
    Username(String),
    /// A phone number's mark.
    Phone(Mark),
    /// The mark of a name that was on the list, and was somebody's who was erased.
    UsernameMark(Mark),
}

/// A row of the list.
#[derive(Debug, Clone)]
pub struct SuppressionRecord {
    pub id: Uuid,
    pub user_id: Option<i64>,
    pub username: Option<String>,
    pub phone_hash: Option<Vec<u8>>,
    pub username_hash: Option<Vec<u8>>,
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

/// Nobody is added to the list until the transaction ends. What is read next sees who was added before.
pub async fn keep_as_it_is(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "-- keep_suppressions
        SELECT pg_advisory_xact_lock_shared(hashtextextended('wireroom.suppressions', 0)) IS NULL AS locked"
    )
    .fetch_one(conn)
    .await
    .map_err(failed("keep_suppressions"))?;
    Ok(())
}

/// Waits for the calls that are just being let through: from the commit on none is that did not see who is added.
pub async fn await_calls(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "-- await_outreach_calls
        SELECT pg_advisory_xact_lock(hashtextextended('wireroom.suppressions', 0)) IS NULL AS locked"
    )
    .fetch_one(conn)
    .await
    .map_err(failed("await_outreach_calls"))?;
    Ok(())
}

/// The user id, the name, the phone number's mark and the name's, of which one is there.
type Columns<'a> = (Option<i64>, Option<&'a str>, Option<&'a [u8]>, Option<&'a [u8]>);

impl Suppressed {
    /// As the columns of a row.
    fn columns(&self) -> Columns<'_> {
        match self {
            Self::User(id) => (Some(*id), None, None, None),
            Self::Username(name) => (None, Some(name), None, None),
            Self::Phone(mark) => (None, None, Some(mark), None),
            Self::UsernameMark(mark) => (None, None, None, Some(mark)),
        }
    }
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
    let mut name_marks: Vec<Option<&[u8]>> = Vec::with_capacity(rows.len());
    let mut reasons: Vec<&str> = Vec::with_capacity(rows.len());
    for row in rows {
        ids.push(Uuid::now_v7());
        let (user, name, phone, name_mark) = row.who.columns();
        users.push(user);
        names.push(name);
        phones.push(phone);
        name_marks.push(name_mark);
        reasons.push(&row.reason);
    }
    await_calls(&mut *conn).await?;
    sqlx::query_scalar!(
        "-- add_suppressions
        INSERT INTO suppressions (id, user_id, username, phone_hash, username_hash, reason, source, added_by)
        SELECT n.id, n.user_id, n.username, n.phone_hash, n.username_hash, n.reason, $7, $8
        FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::bytea[], $6::text[])
            AS n (id, user_id, username, phone_hash, username_hash, reason)
        ON CONFLICT DO NOTHING RETURNING id",
        &ids,
        &users as &[Option<i64>],
        &names as &[Option<&str>],
        &phones as &[Option<&[u8]>],
        &name_marks as &[Option<&[u8]>],
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
    let (user, name, phone, name_mark) = who.columns();
    sqlx::query_as!(
        SuppressionRecord,
        "-- find_suppression
        SELECT id, user_id, username, phone_hash, username_hash, reason, source, added_by, added_at FROM suppressions
        WHERE user_id = $1 OR username = $2 OR phone_hash = $3 OR username_hash = $4",
        user,
        name,
        phone,
        name_mark,
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
        SELECT id, user_id, username, phone_hash, username_hash, reason, source, added_by, added_at FROM suppressions
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
        RETURNING id, user_id, username, phone_hash, username_hash, reason, source, added_by, added_at",
        id,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("remove_suppression"))
}

/// By what somebody could be on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: i64,
    /// In lower case.
    names: Vec<String>,
    phone: Option<Mark>,
    name_marks: Vec<Vec<u8>>,
}

impl Identity {
    /// Of a person as a session sees them. Without a key nobody was marked.
    pub fn of(person: &Person, key: Option<&PersonKey>) -> Self {
        let names: Vec<String> = person.usernames.iter().map(|name| name.to_lowercase()).collect();
        Self {
            user: person.user_id,
            phone: key.zip(person.phone.as_ref()).map(|(key, phone)| key.phone(&phone.0)),
            name_marks: key.map_or_else(Vec::new, |key| {
                names.iter().map(|name| key.username(name).to_vec()).collect()
            }),
            names,
        }
    }
}

/// Whether somebody is on the list.
pub async fn contains(conn: &mut PgConnection, person: &Identity) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- is_suppressed
        SELECT is_suppressed($1, $2, $3, $4) AS "is!""#,
        person.user,
        &person.names,
        person.phone.as_ref().map(Mark::as_slice),
        &person.name_marks,
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

/// Names on the list that are an erased person's, or were: what stays of each is its mark, since it may be another one's by now.
pub async fn mark_names_of(conn: &mut PgConnection, key: &PersonKey, user: i64) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"-- suppressed_names_of
        SELECT id, username AS "username!" FROM suppressions WHERE username = ANY (names_of_person($1)) ORDER BY id FOR UPDATE"#,
        user,
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("suppressed_names_of"))?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let marks: Vec<Vec<u8>> = rows.iter().map(|row| key.username(&row.username).to_vec()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "-- mark_suppressed_names
        UPDATE suppressions s SET username = NULL, username_hash = n.mark FROM unnest($1::uuid[], $2::bytea[]) AS n (id, mark)
        WHERE s.id = n.id AND NOT EXISTS (SELECT FROM suppressions k WHERE k.username_hash = n.mark)",
        &ids,
        &marks,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("mark_suppressed_names"))?;
    // What is there with its mark already.
    sqlx::query!(
        "-- drop_marked_names
        DELETE FROM suppressions WHERE id = ANY ($1) AND username IS NOT NULL",
        &ids,
    )
    .execute(conn)
    .await
    .map_err(failed("drop_marked_names"))?;
    Ok(())
}
