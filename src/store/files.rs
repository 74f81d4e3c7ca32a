//! Uploaded files: what is known of them. Their bytes are elsewhere, under `object`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{StoreError, failed};

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    pub id: Uuid,
    pub sha256: Vec<u8>,
    pub object: String,
    pub size_bytes: i64,
    pub content_type: String,
    pub name: Option<String>,
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// A file whose bytes are stored already.
#[derive(Debug, Clone)]
pub struct NewFile<'a> {
    pub id: Uuid,
    pub sha256: &'a [u8],
    pub object: &'a str,
    pub size_bytes: i64,
    pub content_type: &'a str,
    pub name: Option<&'a str>,
    pub created_by: Option<&'a str>,
    pub keep_days: i32,
}

/// Stores a file, or finds the one with the same bytes and keeps that for as long from now on.
pub async fn add(conn: &mut PgConnection, file: &NewFile<'_>) -> Result<FileRecord, StoreError> {
    sqlx::query_as!(
        FileRecord,
        "-- add_file
        INSERT INTO files AS f (id, sha256, object, size_bytes, content_type, name, created_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, wireroom_now() + make_interval(days => $8))
        ON CONFLICT (sha256) WHERE deleted_at IS NULL DO UPDATE
        SET expires_at = greatest(f.expires_at, excluded.expires_at)
        RETURNING id, sha256, object, size_bytes, content_type, name, created_by, created_at, expires_at",
        file.id,
        file.sha256,
        file.object,
        file.size_bytes,
        file.content_type,
        file.name,
        file.created_by,
        file.keep_days,
    )
    .fetch_one(conn)
    .await
    .map_err(failed("add_file"))
}

/// A file that may be used; `None`: there is none, or its time is over.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<FileRecord>, StoreError> {
    sqlx::query_as!(
        FileRecord,
        "-- find_file
        SELECT id, sha256, object, size_bytes, content_type, name, created_by, created_at, expires_at
        FROM files WHERE id = $1 AND deleted_at IS NULL AND expires_at > wireroom_now()",
        id,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("find_file"))
}

/// Keeps a file that is used for as long from now on.
pub async fn keep(pool: &PgPool, id: Uuid, days: i32) -> Result<(), StoreError> {
    sqlx::query!(
        "-- keep_file
        UPDATE files SET expires_at = greatest(expires_at, wireroom_now() + make_interval(days => $2))
        WHERE id = $1 AND deleted_at IS NULL",
        id,
        days,
    )
    .execute(pool)
    .await
    .map_err(failed("keep_file"))?;
    Ok(())
}

/// Files, the latest first, from before `before`.
pub async fn page(pool: &PgPool, before: Option<Uuid>, limit: i64) -> Result<Vec<FileRecord>, StoreError> {
    sqlx::query_as!(
        FileRecord,
        "-- file_page
        SELECT id, sha256, object, size_bytes, content_type, name, created_by, created_at, expires_at
        FROM files
        WHERE deleted_at IS NULL AND expires_at > wireroom_now() AND ($1::uuid IS NULL OR id < $1)
        ORDER BY id DESC LIMIT $2",
        before,
        limit,
    )
    .fetch_all(pool)
    .await
    .map_err(failed("file_page"))
}

/// Marks a file as gone. `false`: there was none.
pub async fn delete(conn: &mut PgConnection, id: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "-- delete_file
        UPDATE files SET deleted_at = wireroom_now() WHERE id = $1 AND deleted_at IS NULL AND expires_at > wireroom_now()",
        id,
    )
    .execute(conn)
    .await
    .map_err(failed("delete_file"))?;
    Ok(done.rows_affected() == 1)
}

/// Files whose bytes are to be deleted, held against other processes until the transaction ends.
pub async fn lock_gone(conn: &mut PgConnection, limit: i64) -> Result<Vec<(Uuid, String)>, StoreError> {
    let rows = sqlx::query!(
        "-- lock_gone_files
        SELECT id, object FROM files WHERE deleted_at IS NOT NULL OR expires_at <= wireroom_now()
        ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("lock_gone_files"))?;
    Ok(rows.into_iter().map(|row| (row.id, row.object)).collect())
}

/// Forgets files whose bytes are gone.
pub async fn forget(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- forget_files
        DELETE FROM files WHERE id = ANY($1)",
        ids,
    )
    .execute(conn)
    .await
    .map_err(failed("forget_files"))?;
    Ok(())
}
