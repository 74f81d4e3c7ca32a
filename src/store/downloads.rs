//! Files that scans download: which wait, how far those that come in are, and what became of each. One attempt of one job, fenced
//! in every write.

use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;
use wireroom_jobs::scan::{
    FilesReport,
    ports::{Medium, PassedOver, RemoteFile, ScannedMessage, WaitingFile},
};

use super::{
    StoreError,
    attempt_data::{self, AttemptKey},
    failed,
    files::{self, FileRecord, NewFile},
    scan_messages::Place,
};

/// How far a file has come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialFile {
    /// That of the file it becomes.
    pub id: Uuid,
    pub object: String,
    /// How many bytes are kept for good.
    pub size_bytes: i64,
    /// What the file store needs to go on behind them.
    pub progress: Vec<u8>,
}

/// The downloads of one attempt.
#[derive(Debug, Clone)]
pub struct Downloads {
    pool: PgPool,
    attempt: AttemptKey,
}

impl Downloads {
    pub fn new(pool: PgPool, attempt: AttemptKey) -> Self {
        Self { pool, attempt }
    }

    /// A transaction in which the attempt keeps its job.
    async fn fenced(&self, operation: &'static str) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(failed(operation))?;
        attempt_data::hold(&mut transaction, self.attempt, operation).await?;
        Ok(transaction)
    }

    /// What became of the files of the scan so far.
    pub async fn report(&self) -> Result<FilesReport, StoreError> {
        let rows = sqlx::query!(
            r#"-- scan_files_report
            SELECT state, reason, count(*) AS "files!", coalesce(sum(size_bytes), 0)::bigint AS "bytes!"
            FROM scan_files WHERE job_id = $1 AND state <> 'waiting' GROUP BY state, reason"#,
            self.attempt.job.0,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("scan_files_report"))?;
        let mut report = FilesReport::default();
        for row in rows {
            match (row.state.as_str(), row.reason) {
                ("downloaded", _) => (report.downloaded, report.bytes) = (row.files, row.bytes),
                ("known", _) => report.known = row.files,
                (_, Some(reason)) => drop(report.skipped.insert(reason, row.files)),
                (_, None) => {}
            }
        }
        Ok(report)
    }

    /// Files that nothing has become of yet, those of the newest messages first.
    pub async fn waiting(&self, limit: i64) -> Result<Vec<WaitingFile>, StoreError> {
        let rows = sqlx::query!(
            r#"-- waiting_files
            SELECT chat_id, owner, message_id, medium AS "medium!", media_id AS "media_id!", size_bytes AS "size_bytes!",
                content_type, name, dc, location AS "location!"
            FROM scan_files WHERE job_id = $1 AND state = 'waiting' ORDER BY message_id DESC LIMIT $2"#,
            self.attempt.job.0,
            limit,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("waiting_files"))?;
        Ok(rows
            .into_iter()
            .map(|row| WaitingFile {
                chat_id: row.chat_id,
                owner: row.owner,
                message_id: row.message_id,
                remote: RemoteFile {
                    medium: if row.medium == Medium::Photo.as_str() {
                        Medium::Photo
                    } else {
                        Medium::Document
                    },
                    id: row.media_id,
                    size_bytes: row.size_bytes,
                    content_type: row.content_type.unwrap_or_default(),
                    name: row.name,
                    dc: row.dc.unwrap_or_default().into(),
                    location: row.location,
                },
            })
            .collect())
    }

    /// Names the file that is kept under Telegram's id already; `false`: none is.
    pub async fn take_known(&self, file: &WaitingFile) -> Result<bool, StoreError> {
        let mut transaction = self.fenced("take_known_file").await?;
        // First the file's own row: it is not dropped for being unnamed meanwhile.
        let known = sqlx::query_scalar!(
            "-- take_known_file
            UPDATE files f SET expires_at = greatest(f.expires_at, s.expires_at)
            FROM telegram_files t, scans s
            WHERE t.medium = $2 AND t.media_id = $3 AND t.size_bytes = $4 AND f.id = t.file_id AND s.job_id = $1
                AND f.deleted_at IS NULL AND f.expires_at > wireroom_now()
            RETURNING f.id",
            self.attempt.job.0,
            file.remote.medium.as_str(),
            file.remote.id,
            file.remote.size_bytes,
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed("take_known_file"))?;
        let Some(id) = known else { return Ok(false) };
        self.settle(&mut transaction, file, "known", Some(id)).await?;
        commit(transaction, "take_known_file").await?;
        Ok(true)
    }

    /// Notes that a file is not downloaded.
    pub async fn pass_over(&self, file: &WaitingFile, why: PassedOver) -> Result<(), StoreError> {
        let mut transaction = self.fenced("pass_over_file").await?;
        sqlx::query!(
            "-- pass_over_file
            UPDATE scan_files SET state = 'skipped', reason = $5, location = NULL
            WHERE job_id = $1 AND chat_id = $2 AND owner = $3 AND message_id = $4 AND state = 'waiting'",
            self.attempt.job.0,
            file.chat_id,
            file.owner,
            file.message_id,
            why.as_str(),
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed("pass_over_file"))?;
        commit(transaction, "pass_over_file").await
    }

    /// How far an earlier attempt came with the file; `begin` makes the first note of it when there is none.
    pub async fn open(&self, file: &WaitingFile, begin: PartialFile) -> Result<PartialFile, StoreError> {
        let mut transaction = self.fenced("open_partial_file").await?;
        let open = sqlx::query_as!(
            PartialFile,
            "-- open_partial_file
            INSERT INTO partial_files AS p (id, job_id, medium, media_id, object, size_bytes, progress)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (job_id, medium, media_id) WHERE NOT spent DO UPDATE SET spent = false
            RETURNING id, object, size_bytes, progress",
            begin.id,
            self.attempt.job.0,
            file.remote.medium.as_str(),
            file.remote.id,
            begin.object,
            begin.size_bytes,
            begin.progress,
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed("open_partial_file"))?;
        commit(transaction, "open_partial_file").await?;
        Ok(open)
    }

    /// Notes that more of a file is kept for good.
    pub async fn advance(&self, partial: &PartialFile) -> Result<(), StoreError> {
        let mut transaction = self.fenced("advance_partial_file").await?;
        sqlx::query!(
            "-- advance_partial_file
            UPDATE partial_files SET size_bytes = $2, progress = $3 WHERE id = $1 AND size_bytes <= $2",
            partial.id,
            partial.size_bytes,
            partial.progress,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed("advance_partial_file"))?;
        commit(transaction, "advance_partial_file").await
    }

    /// Makes a file of one that is whole, and names it; or the one with the same bytes, and leaves this one's to be deleted.
    /// `None`: nobody waits for it any more.
    pub async fn finish(
        &self,
        file: &WaitingFile,
        partial: &PartialFile,
        sha256: &[u8],
    ) -> Result<Option<FileRecord>, StoreError> {
        let mut transaction = self.fenced("finish_file").await?;
        let Some(seconds) = self.kept_for(&mut transaction, file).await? else {
            return Ok(None);
        };
        let new = NewFile {
            id: partial.id,
            sha256,
            object: &partial.object,
            size_bytes: partial.size_bytes,
            content_type: &file.remote.content_type,
            name: file.remote.name.as_deref(),
            created_by: None,
            keep: std::time::Duration::from_secs(seconds),
            downloaded: true,
        };
        let record = files::add(&mut transaction, &new).await?;
        sqlx::query!(
            "-- note_telegram_file
            INSERT INTO telegram_files (medium, media_id, size_bytes, file_id) VALUES ($1, $2, $3, $4)
            ON CONFLICT (medium, media_id, size_bytes) DO UPDATE SET file_id = excluded.file_id",
            file.remote.medium.as_str(),
            file.remote.id,
            file.remote.size_bytes,
            record.id,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed("note_telegram_file"))?;
        self.settle(&mut transaction, file, "downloaded", Some(record.id))
            .await?;
        end_partial(&mut transaction, partial.id, record.id != partial.id).await?;
        commit(transaction, "finish_file").await?;
        Ok(Some(record))
    }

    /// The bytes of a file that comes in are to be deleted.
    pub async fn discard(&self, partial: &PartialFile) -> Result<(), StoreError> {
        let mut transaction = self.fenced("discard_partial_file").await?;
        end_partial(&mut transaction, partial.id, true).await?;
        commit(transaction, "discard_partial_file").await
    }

    /// For how many seconds the scan keeps the file; `None`: the message is gone, with its sender for example.
    async fn kept_for(&self, conn: &mut PgConnection, file: &WaitingFile) -> Result<Option<u64>, StoreError> {
        let seconds = sqlx::query_scalar!(
            r#"-- file_kept_for
            SELECT greatest(extract(epoch FROM s.expires_at - wireroom_now()), 1)::bigint AS "seconds!"
            FROM scan_files f JOIN scans s USING (job_id)
            WHERE job_id = $1 AND f.chat_id = $2 AND owner = $3 AND message_id = $4 AND state = 'waiting' FOR UPDATE OF f"#,
            self.attempt.job.0,
            file.chat_id,
            file.owner,
            file.message_id,
        )
        .fetch_optional(conn)
        .await
        .map_err(failed("file_kept_for"))?;
        Ok(seconds.and_then(|seconds| u64::try_from(seconds).ok()))
    }

    async fn settle(
        &self,
        conn: &mut PgConnection,
        file: &WaitingFile,
        state: &str,
        id: Option<Uuid>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "-- settle_scan_file
            UPDATE scan_files SET state = $5, file_id = $6, location = NULL
            WHERE job_id = $1 AND chat_id = $2 AND owner = $3 AND message_id = $4 AND state = 'waiting'",
            self.attempt.job.0,
            file.chat_id,
            file.owner,
            file.message_id,
            state,
            id,
        )
        .execute(conn)
        .await
        .map_err(failed("settle_scan_file"))?;
        Ok(())
    }
}

/// Forgets a file that came in, or leaves its bytes to whoever sweeps.
async fn end_partial(conn: &mut PgConnection, id: Uuid, is_spent: bool) -> Result<(), StoreError> {
    let ended = if is_spent {
        sqlx::query!(
            "-- spend_partial_file
            UPDATE partial_files SET spent = true WHERE id = $1",
            id,
        )
        .execute(conn)
        .await
    } else {
        sqlx::query!(
            "-- forget_partial_file
            DELETE FROM partial_files WHERE id = $1",
            id,
        )
        .execute(conn)
        .await
    };
    ended.map_err(failed("end_partial_file"))?;
    Ok(())
}

async fn commit(transaction: Transaction<'static, Postgres>, operation: &'static str) -> Result<(), StoreError> {
    transaction.commit().await.map_err(failed(operation))
}

/// Notes what is to become of the files of messages that are stored in the same transaction.
pub async fn plan(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    place: Place,
    messages: &[ScannedMessage],
) -> Result<(), StoreError> {
    let planned: Vec<&ScannedMessage> = messages
        .iter()
        .filter(|scanned| scanned.file.is_some() || scanned.passed_over.is_some())
        .collect();
    if planned.is_empty() {
        return Ok(());
    }
    let files = || planned.iter().map(|scanned| scanned.file.as_ref());
    let ids: Vec<i32> = planned.iter().map(|scanned| scanned.message.id).collect();
    let senders: Vec<Option<i64>> = planned.iter().map(|scanned| scanned.message.sender_id).collect();
    let reasons: Vec<Option<&str>> = planned
        .iter()
        .map(|scanned| scanned.passed_over.map(PassedOver::as_str))
        .collect();
    let media: Vec<Option<&str>> = files().map(|file| file.map(|file| file.medium.as_str())).collect();
    let media_ids: Vec<Option<i64>> = files().map(|file| file.map(|file| file.id)).collect();
    let sizes: Vec<Option<i64>> = files().map(|file| file.map(|file| file.size_bytes)).collect();
    let types: Vec<Option<&str>> = files()
        .map(|file| file.map(|file| file.content_type.as_str()))
        .collect();
    let names: Vec<Option<&str>> = files().map(|file| file.and_then(|file| file.name.as_deref())).collect();
    let dcs: Vec<Option<i16>> = files()
        .map(|file| file.and_then(|file| i16::try_from(file.dc).ok()))
        .collect();
    let locations: Vec<Option<&[u8]>> = files().map(|file| file.map(|file| file.location.as_slice())).collect();
    sqlx::query!(
        "-- plan_files
        INSERT INTO scan_files (job_id, chat_id, owner, message_id, sender_id, state, reason, medium, media_id, size_bytes,
            content_type, name, dc, location)
        SELECT $1, $2, $3, p.message_id, p.sender_id, CASE WHEN p.reason IS NULL THEN 'waiting' ELSE 'skipped' END, p.reason,
            p.medium, p.media_id, p.size_bytes, p.content_type, p.name, p.dc, CASE WHEN p.reason IS NULL THEN p.location END
        FROM unnest($4::integer[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::text[], $11::text[],
            $12::smallint[], $13::bytea[])
            p(message_id, sender_id, reason, medium, media_id, size_bytes, content_type, name, dc, location)
        ON CONFLICT (job_id, chat_id, owner, message_id) DO NOTHING",
        attempt.job.0,
        place.chat_id,
        place.owner,
        &ids,
        &senders as &[Option<i64>],
        &reasons as &[Option<&str>],
        &media as &[Option<&str>],
        &media_ids as &[Option<i64>],
        &sizes as &[Option<i64>],
        &types as &[Option<&str>],
        &names as &[Option<&str>],
        &dcs as &[Option<i16>],
        &locations as &[Option<&[u8]>],
    )
    .execute(conn)
    .await
    .map_err(failed("plan_files"))?;
    Ok(())
}

/// Files whose download is over without their becoming files, locked: their bytes are to be deleted.
pub async fn lock_left(conn: &mut PgConnection, limit: i64) -> Result<Vec<PartialFile>, StoreError> {
    sqlx::query_as!(
        PartialFile,
        "-- lock_left_partial_files
        SELECT id, object, size_bytes, progress FROM partial_files p
        WHERE spent OR NOT EXISTS (SELECT FROM jobs j WHERE j.id = p.job_id) LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("lock_left_partial_files"))
}

/// Forgets files that came in and whose bytes are deleted.
pub async fn forget(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "-- forget_partial_files
        DELETE FROM partial_files WHERE id = ANY ($1)",
        ids,
    )
    .execute(conn)
    .await
    .map_err(failed("forget_partial_files"))?;
    Ok(())
}
