//! Files that were uploaded, fetched or downloaded: what is known of them. Their bytes are elsewhere, under `object`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{StoreError, failed, leases::interval};

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
    /// For how long from now on it is kept.
    pub keep: Duration,
    /// It is there for the messages that name it alone.
    pub downloaded: bool,
}

/// Stores a file, or finds the one with the same bytes and keeps that for as long from now on. Whoever uploads it says anew what it
/// is and is called, as far as they say anything; what a job fetches does not.
pub async fn add(conn: &mut PgConnection, file: &NewFile<'_>) -> Result<FileRecord, StoreError> {
    sqlx::query_as!(
        FileRecord,
        "-- add_file
        INSERT INTO files AS f (id, sha256, object, size_bytes, content_type, name, created_by, expires_at, downloaded)
        VALUES ($1, $2, $3, $4, $5, $6, $7, wireroom_now() + $8, $9)
        ON CONFLICT (sha256) WHERE deleted_at IS NULL DO UPDATE
        SET expires_at = greatest(f.expires_at, excluded.expires_at),
            content_type = CASE WHEN excluded.created_by IS NULL OR excluded.content_type = 'application/octet-stream'
                THEN f.content_type ELSE excluded.content_type END,
            name = CASE WHEN excluded.created_by IS NULL THEN f.name ELSE coalesce(excluded.name, f.name) END,
            downloaded = f.downloaded AND excluded.downloaded
        RETURNING id, sha256, object, size_bytes, content_type, name, created_by, created_at, expires_at",
        file.id,
        file.sha256,
        file.object,
        file.size_bytes,
        file.content_type,
        file.name,
        file.created_by,
        interval(file.keep),
        file.downloaded,
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

/// Marks files whose time is over as gone, at most `limit`: from then on nobody finds them, and equal bytes are another file.
pub async fn expire(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "-- expire_files
        UPDATE files SET deleted_at = wireroom_now() WHERE id = ANY(ARRAY(
            -- The time as a value, without which the index is read to its end.
            SELECT id FROM files WHERE deleted_at IS NULL AND expires_at <= (SELECT wireroom_now())
            ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
        limit,
    )
    .execute(conn)
    .await
    .map_err(failed("expire_files"))?;
    Ok(done.rows_affected())
}

/// Files that are marked as gone, held against other processes until the transaction ends.
pub async fn lock_gone(conn: &mut PgConnection, limit: i64) -> Result<Vec<(Uuid, String)>, StoreError> {
    let rows = sqlx::query!(
        "-- lock_gone_files
        SELECT id, object FROM files WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("lock_gone_files"))?;
    Ok(rows.into_iter().map(|row| (row.id, row.object)).collect())
}

/// Puts files whose bytes could not be deleted behind the others.
pub async fn put_off(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- put_off_files
        UPDATE files SET deleted_at = wireroom_now() WHERE id = ANY($1)",
        ids,
    )
    .execute(conn)
    .await
    .map_err(failed("put_off_files"))?;
    Ok(())
}

/// Keeps files for a job that runs at `until`, and `days` longer. Returns those that there are.
pub async fn keep_until(
    conn: &mut PgConnection,
    ids: &[Uuid],
    until: Option<DateTime<Utc>>,
    days: i32,
) -> Result<Vec<Uuid>, StoreError> {
    sqlx::query_scalar!(
        "-- keep_files_until
        UPDATE files SET expires_at =
            greatest(expires_at, greatest($2, wireroom_now()) + make_interval(days => $3))
        WHERE id = ANY(ARRAY(
            SELECT id FROM files WHERE id = ANY($1) AND deleted_at IS NULL AND expires_at > wireroom_now()
            ORDER BY id FOR UPDATE))
        RETURNING id",
        ids,
        until as Option<DateTime<Utc>>,
        days,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("keep_files_until"))
}

/// Keeps the files that schedules with ticks to come name, for `days` from now on. Those that have more than half of that left are
/// left alone: so it may be called often.
pub async fn keep_scheduled(conn: &mut PgConnection, days: i32) -> Result<(), StoreError> {
    sqlx::query!(
        "-- keep_scheduled_files
        UPDATE files SET expires_at = wireroom_now() + make_interval(days => $1) WHERE id = ANY(ARRAY(
            SELECT id FROM files
            WHERE deleted_at IS NULL AND expires_at < wireroom_now() + make_interval(days => $1) / 2 AND id = ANY(ARRAY(
                SELECT (file #>> '{}')::uuid
                FROM schedules, jsonb_path_query(args, '$.media[*].file ? (@ like_regex \"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$\")') AS file
                WHERE kind = 'publish' AND next_tick_at IS NOT NULL))
            ORDER BY id FOR UPDATE SKIP LOCKED))",
        days,
    )
    .execute(conn)
    .await
    .map_err(failed("keep_scheduled_files"))?;
    Ok(())
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
