//! Files that are still to be looked through for somebody who is erased. By a trigger each erasure has its row here, with whom it
//! looks for; it is gone when it is done.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, failed};

/// What is still to be looked through for one person.
#[derive(Debug, Clone)]
pub struct FileErasure {
    pub erasure: Uuid,
    pub person: i64,
    /// In lower case.
    pub names: Vec<String>,
}

/// A file that may name somebody.
#[derive(Debug, Clone)]
pub struct TextFile {
    pub id: Uuid,
    pub object: String,
}

/// The oldest one that nobody else is at, locked; `only`: that one.
pub async fn take(conn: &mut PgConnection, only: Option<Uuid>) -> Result<Option<FileErasure>, StoreError> {
    let row = sqlx::query!(
        r#"-- take_file_erasure
        SELECT erasure_id, person, names::text[] AS "names!" FROM file_erasures
        WHERE $1::uuid IS NULL OR erasure_id = $1 ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED"#,
        only,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("take_file_erasure"))?;
    Ok(row.map(|row| FileErasure {
        erasure: row.erasure_id,
        person: row.person,
        names: row.names,
    }))
}

/// Whether files are still to be looked through for this erasure.
pub async fn is_under_way(conn: &mut PgConnection, erasure: Uuid) -> Result<bool, StoreError> {
    sqlx::query_scalar!(
        r#"-- file_erasure_is_under_way
        SELECT EXISTS (SELECT FROM file_erasures WHERE erasure_id = $1) AS "is!""#,
        erasure,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("file_erasure_is_under_way"))
}

/// The next file of text of at most `most` bytes.
pub async fn next(conn: &mut PgConnection, erasure: Uuid, most: i64) -> Result<Option<TextFile>, StoreError> {
    sqlx::query_as!(
        TextFile,
        "-- next_text_file
        SELECT f.id, f.object FROM file_erasures e
        JOIN files f ON f.id <= e.until AND (e.place IS NULL OR f.id > e.place)
        WHERE e.erasure_id = $1 AND f.deleted_at IS NULL AND f.size_bytes <= $2
            AND (f.content_type LIKE 'text/%' OR f.content_type ~ '[/+.-](json|csv|xml|ndjson|x-ndjson|jsonl|yaml|x-yaml|sql)$')
        ORDER BY f.id LIMIT 1",
        erasure,
        most,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("next_text_file"))
}

/// Goes on behind `file`, and marks it as gone when it names the person.
pub async fn pass(conn: &mut PgConnection, erasure: Uuid, file: Uuid, names_them: bool) -> Result<(), StoreError> {
    sqlx::query!(
        "-- pass_text_file
        UPDATE file_erasures SET place = $2 WHERE erasure_id = $1",
        erasure,
        file,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("pass_text_file"))?;
    if !names_them {
        return Ok(());
    }
    sqlx::query!(
        "-- erase_text_file
        UPDATE files SET deleted_at = wireroom_now() WHERE id = $1 AND deleted_at IS NULL",
        file,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("erase_text_file"))?;
    sqlx::query!(
        "-- count_erased_file
        UPDATE erasures SET changed = changed || jsonb_build_object('files', coalesce((changed ->> 'files')::bigint, 0) + 1)
        WHERE id = $1",
        erasure,
    )
    .execute(conn)
    .await
    .map_err(failed("count_erased_file"))?;
    Ok(())
}

/// Nothing is left to be looked through: from here on nothing says whom it was about.
pub async fn finish(conn: &mut PgConnection, erasure: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "-- finish_file_erasure
        DELETE FROM file_erasures WHERE erasure_id = $1",
        erasure,
    )
    .execute(conn)
    .await
    .map_err(failed("finish_file_erasure"))?;
    Ok(())
}
