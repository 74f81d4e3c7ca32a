//! Telegram applications: an API id, and its hash sealed for the workers. One is the default: the one of the workers'
//! environment.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    StoreError, failed,
    leases::{self, LeaseKey},
    outbox,
};
use crate::{
    ids::{ApplicationId, SessionId},
    vault::Sealed,
};

/// An application as the API shows it.
#[derive(Debug, Clone)]
pub struct ApplicationRecord {
    pub id: ApplicationId,
    pub label: String,
    pub api_id: i32,
    pub origin: String,
    pub is_default: bool,
    pub sessions: i64,
    pub created_at: DateTime<Utc>,
    /// Why Telegram does not take its API id, as Telegram says it, and since when.
    pub refused: Option<String>,
    pub refused_at: Option<DateTime<Utc>>,
}

/// An application as a worker needs it to log in.
#[derive(Debug, Clone)]
pub struct SealedApplication {
    pub api_id: i32,
    /// A letter of [`hash_owner`].
    pub hash: Sealed,
}

/// What the sealed hash belongs to, for the letterbox.
pub fn hash_owner(id: ApplicationId) -> String {
    format!("application:{id}")
}

/// All of them, the default first.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<ApplicationRecord>, StoreError> {
    sqlx::query_as!(
        ApplicationRecord,
        r#"-- applications
        SELECT a.id AS "id: ApplicationId", a.label, a.api_id, a.origin, a.is_default, a.created_at,
            (SELECT count(*) FROM sessions s WHERE s.application_id = a.id) AS "sessions!",
            r.reason AS "refused?", r.refused_at AS "refused_at?"
        FROM applications a LEFT JOIN refused_api_ids r ON r.api_id = a.api_id ORDER BY a.is_default DESC, a.id"#
    )
    .fetch_all(conn)
    .await
    .map_err(failed("applications"))
}

/// The application of a session: its own, or the default one. `None`: it has none, and there is no default.
pub async fn of_session(conn: &mut PgConnection, session: SessionId) -> Result<Option<ApplicationRecord>, StoreError> {
    sqlx::query_as!(
        ApplicationRecord,
        r#"-- application_of_session
        SELECT a.id AS "id: ApplicationId", a.label, a.api_id, a.origin, a.is_default, a.created_at,
            (SELECT count(*) FROM sessions o WHERE o.application_id = a.id) AS "sessions!",
            r.reason AS "refused?", r.refused_at AS "refused_at?"
        FROM sessions s JOIN applications a ON a.id = s.application_id OR (s.application_id IS NULL AND a.is_default)
        LEFT JOIN refused_api_ids r ON r.api_id = a.api_id WHERE s.id = $1"#,
        session.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("application_of_session"))
}

/// Notes under the lease of a session that met it that Telegram refuses an API id, with the event of it: from here on no
/// session that connects with the id is held. `false`: it was known.
pub async fn refuse(conn: &mut PgConnection, lease: LeaseKey, api_id: i32, reason: &str) -> Result<bool, StoreError> {
    leases::hold(conn, lease, "refuse_application").await?;
    let refused = sqlx::query!(
        "-- refuse_application
        WITH refused AS (
            INSERT INTO refused_api_ids (api_id, reason) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING api_id, reason
        )
        INSERT INTO outbox (type, subject, data)
        SELECT 'application.refused', 'application:' || api_id,
            jsonb_build_object('api_id', api_id, 'reason', reason, 'session', $3::uuid)
        FROM refused",
        api_id,
        reason,
        lease.session.0,
    )
    .execute(conn)
    .await
    .map_err(failed("refuse_application"))?;
    outbox::written();
    Ok(refused.rows_affected() == 1)
}

/// What became of a person's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    Now,
    /// Telegram does not refuse it, as far as is known.
    NotRefused,
    Unknown,
}

/// Lets the sessions of an application be held again, with the event of it.
pub async fn resume(conn: &mut PgConnection, id: ApplicationId, actor: &str) -> Result<Resumed, StoreError> {
    let row = sqlx::query!(
        r#"-- resume_application
        WITH resumed AS (
            DELETE FROM refused_api_ids r USING applications a WHERE a.id = $1 AND r.api_id = a.api_id RETURNING r.api_id
        ), told AS (
            INSERT INTO outbox (type, subject, data)
            SELECT 'application.resumed', 'application:' || api_id, jsonb_build_object('api_id', api_id, 'by', $2::text)
            FROM resumed
        )
        SELECT EXISTS (SELECT FROM applications WHERE id = $1) AS "known!", EXISTS (SELECT FROM resumed) AS "resumed!""#,
        id.0,
        actor,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("resume_application"))?;
    outbox::written();
    Ok(match (row.known, row.resumed) {
        (false, _) => Resumed::Unknown,
        (true, false) => Resumed::NotRefused,
        (true, true) => Resumed::Now,
    })
}

/// The default one, if there is one.
pub async fn default(conn: &mut PgConnection) -> Result<Option<ApplicationId>, StoreError> {
    sqlx::query_scalar!(
        r#"-- default_application
        SELECT id AS "id: ApplicationId" FROM applications WHERE is_default"#
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("default_application"))
}

/// The one of that id or label.
pub async fn find(conn: &mut PgConnection, id_or_label: &str) -> Result<Option<ApplicationId>, StoreError> {
    sqlx::query_scalar!(
        r#"-- find_application
        SELECT id AS "id: ApplicationId" FROM applications WHERE id::text = $1 OR label = $1
        ORDER BY (id::text = $1) DESC LIMIT 1"#,
        id_or_label,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("find_application"))
}

/// What a worker needs of one.
pub async fn sealed(conn: &mut PgConnection, id: ApplicationId) -> Result<Option<SealedApplication>, StoreError> {
    let row = sqlx::query!(
        "-- sealed_application
        SELECT api_id, api_hash_sealed, sealed_with FROM applications WHERE id = $1",
        id.0,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("sealed_application"))?;
    Ok(row.map(|row| SealedApplication {
        api_id: row.api_id,
        hash: Sealed {
            key_id: row.sealed_with,
            bytes: row.api_hash_sealed,
        },
    }))
}

/// Stores one. `false`: the label is taken, and nothing was stored.
pub async fn insert(
    conn: &mut PgConnection,
    id: ApplicationId,
    label: &str,
    api_id: i32,
    hash: &Sealed,
) -> Result<bool, StoreError> {
    let stored = sqlx::query!(
        "-- insert_application
        INSERT INTO applications (id, label, api_id, api_hash_sealed, sealed_with) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (label) DO NOTHING",
        id.0,
        label,
        api_id,
        hash.bytes,
        hash.key_id,
    )
    .execute(conn)
    .await
    .map_err(failed("insert_application"))?;
    Ok(stored.rows_affected() == 1)
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Now,
    Unknown,
    /// Sessions belong to it, or it is the environment's.
    InUse,
}

/// Deletes one that no session belongs to.
pub async fn delete(conn: &mut PgConnection, id: ApplicationId) -> Result<Deleted, StoreError> {
    let row = sqlx::query!(
        r#"-- lock_application
        SELECT is_default OR EXISTS (SELECT FROM sessions WHERE application_id = $1) OR EXISTS (
            SELECT FROM errands WHERE new_application = $1 AND state NOT IN ('done', 'failed')) AS "used!"
        FROM applications WHERE id = $1 FOR UPDATE"#,
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("lock_application"))?;
    match row {
        None => return Ok(Deleted::Unknown),
        Some(row) if row.used => return Ok(Deleted::InUse),
        Some(_) => {}
    }
    sqlx::query!(
        "-- delete_application
        DELETE FROM applications WHERE id = $1",
        id.0,
    )
    .execute(conn)
    .await
    .map_err(failed("delete_application"))?;
    Ok(Deleted::Now)
}

/// The environment's application of that API id, made unless it is there; it is the default from here on. Sessions of an
/// earlier one stay with theirs.
pub async fn ensure_environment(conn: &mut PgConnection, api_id: i32) -> Result<ApplicationId, StoreError> {
    // Workers start at once; one after the other decides.
    sqlx::query!(
        "-- lock_applications
        LOCK TABLE applications IN SHARE ROW EXCLUSIVE MODE"
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("lock_applications"))?;
    let known = sqlx::query!(
        r#"-- environment_application
        SELECT id AS "id: ApplicationId", is_default FROM applications WHERE origin = 'environment' AND api_id = $1"#,
        api_id,
    )
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed("environment_application"))?;
    if let Some(known) = &known
        && known.is_default
    {
        return Ok(known.id);
    }
    sqlx::query!(
        "-- unset_default_application
        UPDATE applications SET is_default = false WHERE is_default"
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("unset_default_application"))?;
    let id = known.map_or_else(ApplicationId::generate, |known| known.id);
    sqlx::query!(
        "-- ensure_environment_application
        INSERT INTO applications (id, label, api_id, api_hash_sealed, sealed_with, origin, is_default)
        VALUES ($1, $2, $3, '', '', 'environment', true)
        ON CONFLICT (id) DO UPDATE SET is_default = true",
        id.0,
        format!("environment {api_id}"),
        api_id,
    )
    .execute(conn)
    .await
    .map_err(failed("ensure_environment_application"))?;
    Ok(id)
}

/// Puts the same hash there under another seal. `false`: it was changed meanwhile, or is gone, and nothing was written.
pub async fn reseal(
    conn: &mut PgConnection,
    id: ApplicationId,
    was: &Sealed,
    fresh: &Sealed,
) -> Result<bool, StoreError> {
    let changed = sqlx::query!(
        "-- reseal_application
        UPDATE applications SET api_hash_sealed = $4, sealed_with = $5
        WHERE id = $1 AND sealed_with = $2 AND api_hash_sealed = $3",
        id.0,
        was.key_id,
        was.bytes,
        fresh.bytes,
        fresh.key_id,
    )
    .execute(conn)
    .await
    .map_err(failed("reseal_application"))?;
    Ok(changed.rows_affected() == 1)
}

/// Stores the environment's hash as it is now.
pub async fn set_hash(conn: &mut PgConnection, id: ApplicationId, hash: &Sealed) -> Result<(), StoreError> {
    sqlx::query!(
        "-- set_application_hash
        UPDATE applications SET api_hash_sealed = $2, sealed_with = $3 WHERE id = $1",
        id.0,
        hash.bytes,
        hash.key_id,
    )
    .execute(conn)
    .await
    .map_err(failed("set_application_hash"))?;
    Ok(())
}

/// Applications whose hash is sealed under another key than `key_id`.
pub async fn sealed_otherwise(
    conn: &mut PgConnection,
    key_id: &str,
) -> Result<Vec<(ApplicationId, Sealed)>, StoreError> {
    let rows = sqlx::query!(
        r#"-- applications_sealed_otherwise
        SELECT id AS "id: ApplicationId", api_hash_sealed, sealed_with FROM applications
        WHERE sealed_with NOT IN ('', $1) ORDER BY id"#,
        key_id,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("applications_sealed_otherwise"))?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let sealed = Sealed {
                key_id: row.sealed_with,
                bytes: row.api_hash_sealed,
            };
            (row.id, sealed)
        })
        .collect())
}
