//! The functions' [`Store`] port on Postgres: one attempt of one job, fenced in every write.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use wireroom_jobs::{
    LogLevel, LogLine,
    monitor::FailoverArgs,
    ports::{
        self, Chat, Effect, Failover, HistoryPage, Progress, SentMessage, Store, WatchBegun, WatchStart, WatchState,
    },
    scan::ports::PageEnd,
    stop::StopWords,
};

use super::{
    StoreError,
    attempt_data::{self, AttemptKey},
    chats, effects, failed,
    intake::{self, Filters},
    job_logs,
    leases::LeaseKey,
    said_stop, watch_moves, watches,
};
use crate::person_key::PersonKey;

/// A job's lines are cut back to the newest once per so many.
const TRIM_EVERY: u64 = 50;

/// The database as one attempt sees it.
#[derive(Clone)]
pub struct JobStore {
    pool: PgPool,
    pub(super) attempt: AttemptKey,
    pub(super) lease: LeaseKey,
    /// A watch's filter, once it was needed.
    filters: Arc<tokio::sync::Mutex<Filters>>,
    /// Lines this attempt has written.
    lines: Arc<AtomicU64>,
    /// Tells people who were erased.
    pub(super) key: Option<PersonKey>,
    /// With these words people ask to be left alone.
    stop_words: Arc<StopWords>,
}

impl From<StoreError> for ports::StoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::Fenced,
            other => Self::Failed(Box::new(other)),
        }
    }
}

impl JobStore {
    pub fn new(pool: PgPool, attempt: AttemptKey, lease: LeaseKey) -> Self {
        Self {
            pool,
            attempt,
            lease,
            filters: Arc::default(),
            lines: Arc::default(),
            key: None,
            stop_words: Arc::default(),
        }
    }

    /// The same, which knows people again who were erased.
    #[must_use]
    pub fn knowing(self, key: Option<PersonKey>) -> Self {
        Self { key, ..self }
    }

    /// The same, to which people say stop with these words.
    #[must_use]
    pub fn hearing(self, stop_words: Arc<StopWords>) -> Self {
        Self { stop_words, ..self }
    }

    /// A transaction in which the attempt keeps its job.
    pub(super) async fn fenced(&self, operation: &'static str) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(failed(operation))?;
        attempt_data::hold(&mut transaction, self.attempt, operation).await?;
        Ok(transaction)
    }

    /// The same, and no other statement reads the job meanwhile: the transaction is going to change its row.
    async fn fenced_alone(&self, operation: &'static str) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(failed(operation))?;
        attempt_data::hold_alone(&mut transaction, self.attempt, operation).await?;
        Ok(transaction)
    }

    /// A transaction for rows that can be had again: it commits without waiting for the disk. What is lost in a crash of the
    /// database is then lost with all that was written after it, the job's end too: its own commit waits for all of them.
    pub(super) async fn fenced_page(
        &self,
        operation: &'static str,
    ) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(failed(operation))?;
        attempt_data::hold_page(&mut transaction, self.attempt, operation).await?;
        Ok(transaction)
    }

    /// Writes what goes with a page, in a transaction that [`JobStore::fenced_page`] began.
    pub(super) async fn end_page(&self, conn: &mut PgConnection, end: &PageEnd) -> Result<(), StoreError> {
        attempt_data::end_page(conn, self.attempt, end).await?;
        self.trim_lines(conn).await
    }

    /// Counts a line that was written. The first one of an attempt trims too: a job that is tried for ever in short attempts
    /// stays as small.
    async fn trim_lines(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.lines.fetch_add(1, Ordering::Relaxed).is_multiple_of(TRIM_EVERY) {
            job_logs::trim(conn, self.attempt.job).await?;
        }
        Ok(())
    }

    pub(super) async fn connection(&self) -> Result<sqlx::pool::PoolConnection<Postgres>, StoreError> {
        self.pool.acquire().await.map_err(failed("acquire"))
    }

    async fn prepare(&self, chat_id: i64) -> Result<Effect, StoreError> {
        let mut transaction = self.fenced("prepare_effect").await?;
        let effect = effects::prepare(
            &mut transaction,
            self.attempt,
            self.lease.session,
            chat_id,
            fresh_random_id()?,
        )
        .await?;
        commit(transaction, "prepare_effect").await?;
        Ok(effect)
    }

    async fn sent(&self, chat_id: i64, message: &SentMessage) -> Result<bool, StoreError> {
        let mut transaction = self.fenced("effect_sent").await?;
        let ours = effects::sent(&mut transaction, self.attempt, chat_id, message).await?;
        // A unique violation has aborted the transaction: there is nothing to commit.
        if ours {
            commit(transaction, "effect_sent").await?;
        }
        Ok(ours)
    }
}

pub(super) async fn commit(
    transaction: Transaction<'static, Postgres>,
    operation: &'static str,
) -> Result<(), StoreError> {
    transaction.commit().await.map_err(failed(operation))
}

pub(super) fn fresh_random_id() -> Result<i64, StoreError> {
    let random = getrandom::u64().map_err(|error| StoreError::Decode {
        operation: "prepare_effect",
        detail: error.to_string(),
    })?;
    Ok(random.cast_signed())
}

#[async_trait]
impl Store for JobStore {
    async fn checkpoint(&self) -> Result<Option<Value>, ports::StoreError> {
        let mut conn: sqlx::pool::PoolConnection<Postgres> = self.connection().await?;
        let conn: &mut PgConnection = &mut conn;
        Ok(attempt_data::checkpoint(conn, self.attempt).await?)
    }

    async fn save_checkpoint(&self, checkpoint: Value) -> Result<(), ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(attempt_data::save_checkpoint(&mut conn, self.attempt, &checkpoint).await?)
    }

    async fn progress(&self, progress: Progress) -> Result<(), ports::StoreError> {
        let mut conn = self.connection().await?;
        let value = serde_json::to_value(progress).expect("numbers serialise");
        Ok(attempt_data::save_progress(&mut conn, self.attempt, &value).await?)
    }

    async fn log(&self, level: LogLevel, line: LogLine) -> Result<(), ports::StoreError> {
        let mut conn = self.connection().await?;
        job_logs::append(&mut conn, self.attempt, level, &line).await?;
        Ok(self.trim_lines(&mut conn).await?)
    }

    async fn save_chat(&self, chat: &Chat) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("save_chat").await?;
        chats::save(&mut transaction, self.lease.session, chat).await?;
        Ok(commit(transaction, "save_chat").await?)
    }

    async fn prepare_effect(&self, chat_id: i64) -> Result<Effect, ports::StoreError> {
        Ok(self.prepare(chat_id).await?)
    }

    async fn effect_attempted(&self, chat_id: i64) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("effect_attempted").await?;
        effects::attempted(&mut transaction, self.attempt, chat_id).await?;
        Ok(commit(transaction, "effect_attempted").await?)
    }

    async fn effect_sent(&self, chat_id: i64, sent: &SentMessage) -> Result<bool, ports::StoreError> {
        Ok(self.sent(chat_id, sent).await?)
    }

    async fn claimed_messages(&self, chat_id: i64, message_ids: &[i32]) -> Result<HashSet<i32>, ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(effects::claimed(&mut conn, self.attempt, self.lease.session, chat_id, message_ids).await?)
    }

    async fn begin_watch(&self, start: &WatchStart) -> Result<WatchBegun, ports::StoreError> {
        let mut transaction = self.fenced("begin_watch").await?;
        let begun = watches::begin(&mut transaction, self.attempt, self.lease.session, start).await?;
        commit(transaction, "begin_watch").await?;
        Ok(begun)
    }

    async fn watch(&self) -> Result<Option<WatchState>, ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(watches::state(&mut conn, self.attempt.job, self.lease.session).await?)
    }

    async fn record_history(&self, page: &HistoryPage) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("record_history").await?;
        let mut filters = self.filters.lock().await;
        let key = self.key.as_ref();
        let read = intake::Page {
            watch: self.attempt.job.0,
            messages: &page.messages,
            read_to: Some(page.reaches),
        };
        intake::record_history(&mut transaction, &mut filters, key, self.lease, read).await?;
        said_stop::read(&mut transaction, &self.stop_words, key, self.lease, &page.messages).await?;
        Ok(commit(transaction, "record_history").await?)
    }

    async fn check_watch(&self, message_ids: &[i32]) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("check_watch").await?;
        watches::check(&mut transaction, self.attempt.job, message_ids).await?;
        Ok(commit(transaction, "check_watch").await?)
    }

    async fn renumber_watch(&self, last_message_id: i32) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("renumber_watch").await?;
        watches::renumber(&mut transaction, self.attempt.job, last_message_id).await?;
        Ok(commit(transaction, "renumber_watch").await?)
    }

    async fn finish_filling(&self, gaps: i32) -> Result<bool, ports::StoreError> {
        let mut transaction = self.fenced("finish_filling").await?;
        let finished = intake::finish_filling(&mut transaction, self.lease, self.attempt.job.0, gaps).await?;
        commit(transaction, "finish_filling").await?;
        Ok(finished)
    }

    async fn lose_watch(&self, reason: &str, failover: FailoverArgs) -> Result<Failover, ports::StoreError> {
        let mut transaction = self.fenced_alone("lose_watch").await?;
        let next = watch_moves::lose(&mut transaction, self.attempt, self.lease.session, reason, failover).await?;
        commit(transaction, "lose_watch").await?;
        Ok(next)
    }
}
