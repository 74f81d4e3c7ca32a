//! Files on their way into the file store: noted before a byte is stored, so that whatever a process that died has left is found.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{StoreError, failed, leases::interval};

/// What somebody has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftFile {
    pub id: Uuid,
    /// The name of its bytes.
    pub object: String,
    /// What S3 calls the upload.
    pub upload: Option<String>,
}

/// Notes that bytes are about to be stored.
pub async fn begin(pool: &PgPool, id: Uuid, object: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- begin_incoming_file
        INSERT INTO incoming_files (id, object) VALUES ($1, $2)",
        id,
        object,
    )
    .execute(pool)
    .await
    .map_err(failed("begin_incoming_file"))?;
    Ok(())
}

/// Notes what S3 calls the upload, before it gets a part.
pub async fn name_upload(pool: &PgPool, id: Uuid, upload: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "-- name_incoming_upload
        UPDATE incoming_files SET upload = $2, touched_at = wireroom_now() WHERE id = $1",
        id,
        upload,
    )
    .execute(pool)
    .await
    .map_err(failed("name_incoming_upload"))?;
    Ok(())
}

/// Says that somebody is at it still.
pub async fn touch(pool: &PgPool, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "-- touch_incoming_file
        UPDATE incoming_files SET touched_at = wireroom_now() WHERE id = $1",
        id,
    )
    .execute(pool)
    .await
    .map_err(failed("touch_incoming_file"))?;
    Ok(())
}

/// Takes the note back: the bytes are a file's from this transaction on, or gone. `false`: it was swept, and its bytes with it.
pub async fn end(conn: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "-- end_incoming_file
        DELETE FROM incoming_files WHERE id = $1",
        id,
    )
    .execute(conn)
    .await
    .map_err(failed("end_incoming_file"))?;
    Ok(done.rows_affected() == 1)
}

/// Files that nobody has been at for so long, locked: their bytes are to be deleted.
pub async fn lock_left(conn: &mut PgConnection, idle: Duration, limit: i64) -> Result<Vec<LeftFile>, StoreError> {
    sqlx::query_as!(
        LeftFile,
        "-- lock_left_incoming_files
        SELECT id, object, upload FROM incoming_files
        -- The time as a value, without which the index is read to its end.
        WHERE touched_at <= (SELECT wireroom_now() - $1::interval)
        ORDER BY touched_at LIMIT $2 FOR UPDATE SKIP LOCKED",
        interval(idle),
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("lock_left_incoming_files"))
}

/// Puts those whose bytes could not be deleted behind the others.
pub async fn put_off(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- put_off_incoming_files
        UPDATE incoming_files SET touched_at = wireroom_now() WHERE id = ANY ($1)",
        ids,
    )
    .execute(conn)
    .await
    .map_err(failed("put_off_incoming_files"))?;
    Ok(())
}

/// Forgets those whose bytes are deleted.
pub async fn forget(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- forget_incoming_files
        DELETE FROM incoming_files WHERE id = ANY ($1)",
        ids,
    )
    .execute(conn)
    .await
    .map_err(failed("forget_incoming_files"))?;
    Ok(())
}
