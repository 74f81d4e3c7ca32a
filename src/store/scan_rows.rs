//! What scans keep besides people and messages: found chats, profiles, and how many there were each time.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use wireroom_jobs::scan::ports::{Count, FoundChat, Profile, Tally};

use super::{StoreError, attempt_data::AttemptKey, chats::type_name, failed, member_reads::planned, scans::no_scan};
use crate::ids::JobId;

/// Days after which a standing search has forgotten a chat that it did not find any more.
const FIND_DAYS: i32 = 365;
/// Days that counts are kept.
const COUNT_DAYS: i32 = 730;

/// Which of these chats the search has already: this job, or an earlier run of the standing search, which is told that it
/// found them again.
pub async fn known_finds(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    chat_ids: &[i64],
) -> Result<HashSet<i64>, StoreError> {
    let known = sqlx::query_scalar!(
        r#"-- known_finds
        WITH again AS (
            UPDATE search_finds f SET last_found_at = wireroom_now() FROM scans s
            WHERE s.job_id = $1 AND f.search_key = s.search_key AND f.chat_id = ANY ($2)
            RETURNING f.chat_id
        )
        SELECT chat_id AS "chat_id!" FROM again
        UNION SELECT chat_id FROM scan_chats WHERE job_id = $1 AND chat_id = ANY ($2)"#,
        attempt.job.0,
        chat_ids,
    )
    .fetch_all(conn)
    .await
    .map_err(failed("known_finds"))?;
    Ok(known.into_iter().collect())
}

/// Stores a found chat, unless a run of the same standing search was faster. Returns how many this scan has.
pub async fn save_find(conn: &mut PgConnection, attempt: AttemptKey, find: &FoundChat) -> Result<Tally, StoreError> {
    let language = find.language.as_ref();
    let counted = sqlx::query!(
        "-- save_find
        WITH standing AS (
            INSERT INTO search_finds (search_key, chat_id, job_id)
            SELECT search_key, $2, $1 FROM scans WHERE job_id = $1 AND search_key IS NOT NULL
            ON CONFLICT (search_key, chat_id) DO UPDATE SET last_found_at = wireroom_now()
            RETURNING job_id
        ), found AS (
            INSERT INTO scan_chats (job_id, chat_id, type, title, username, member_count, language, language_confidence,
                last_post_at, member)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
            WHERE NOT EXISTS (SELECT FROM standing WHERE job_id <> $1)
            ON CONFLICT (job_id, chat_id) DO NOTHING
            RETURNING NOT EXISTS (SELECT FROM scan_chats o WHERE o.chat_id = $2 AND o.job_id <> $1) AS is_new
        )
        UPDATE scans SET seen = seen + (SELECT count(*) FROM found),
            fresh = fresh + (SELECT count(*) FROM found WHERE is_new)
        WHERE job_id = $1 RETURNING seen, fresh, left_out",
        attempt.job.0,
        find.chat.id,
        type_name(find.chat.chat_type),
        find.chat.title,
        find.chat.username,
        find.chat.member_count,
        language.map(|language| language.code.as_str()),
        language.map(|language| language.confidence),
        find.last_post_at,
        find.chat.member,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("save_find"))?
    .ok_or(no_scan("save_find"))?;
    Ok(Tally {
        seen: counted.seen,
        new: counted.fresh,
        left_out: counted.left_out,
    })
}

/// Stores a profile; that of a person also among the people that are known.
pub async fn save_profile(conn: &mut PgConnection, attempt: AttemptKey, profile: &Profile) -> Result<(), StoreError> {
    let value = serde_json::to_value(profile).map_err(|error| StoreError::Decode {
        operation: "save_profile",
        detail: error.to_string(),
    })?;
    let changed = sqlx::query!(
        "-- save_profile
        WITH kept AS (
            INSERT INTO scan_profiles (job_id, chat_id, profile) VALUES ($1, $2, $3)
            ON CONFLICT (job_id) DO UPDATE SET profile = excluded.profile, seen_at = wireroom_now()
        )
        UPDATE scans SET chat_id = $2, seen = 1,
            fresh = (NOT EXISTS (SELECT FROM scan_profiles o WHERE o.chat_id = $2 AND o.job_id <> $1))::int
        WHERE job_id = $1",
        attempt.job.0,
        profile.id(),
        value,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("save_profile"))?;
    if changed.rows_affected() != 1 {
        return Err(no_scan("save_profile"));
    }
    let Profile::Person(person) = profile else {
        return Ok(());
    };
    sqlx::query!(
        "-- save_person
        INSERT INTO people (id, username, first_name, last_name, is_bot, is_deleted, is_premium, expires_at)
        SELECT $2, $3, $4, $5, $6, $7, $8, expires_at FROM scans WHERE job_id = $1
        ON CONFLICT (id) DO UPDATE SET username = excluded.username, first_name = excluded.first_name,
            last_name = excluded.last_name, is_bot = excluded.is_bot, is_deleted = excluded.is_deleted,
            is_premium = excluded.is_premium, updated_at = wireroom_now(),
            expires_at = greatest(people.expires_at, excluded.expires_at)",
        attempt.job.0,
        person.user_id,
        person.usernames.first(),
        person.first_name,
        person.last_name,
        person.is_bot,
        person.is_deleted,
        person.is_premium,
    )
    .execute(conn)
    .await
    .map_err(failed("save_person"))?;
    Ok(())
}

/// Notes what a finished scan of a chat counted; of an attempt that is repeated, the last word.
pub async fn save_count(conn: &mut PgConnection, attempt: AttemptKey, count: &Count) -> Result<(), StoreError> {
    sqlx::query!(
        "-- save_count
        INSERT INTO chat_counts (job_id, chat_id, what, list, counted, seen, fresh, complete, reason)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (job_id) DO UPDATE SET at = wireroom_now(), counted = excluded.counted, seen = excluded.seen,
            fresh = excluded.fresh, complete = excluded.complete, reason = excluded.reason",
        attempt.job.0,
        count.chat_id,
        count.what.as_str(),
        count.list,
        count.counted,
        count.tally.seen,
        count.tally.new,
        count.reason.is_none(),
        count.reason.map(wireroom_jobs::scan::Incomplete::as_str),
    )
    .execute(conn)
    .await
    .map_err(failed("save_count"))?;
    Ok(())
}

/// Deletes what has expired, at most `limit` rows a table. Returns how many.
pub(super) async fn sweep(conn: &mut PgConnection, limit: i64) -> Result<u64, StoreError> {
    let messages = sqlx::query!(
        "-- sweep_seen_messages
        DELETE FROM seen_messages WHERE (chat_id, owner, message_id) IN (
            SELECT chat_id, owner, message_id FROM seen_messages WHERE expires_at <= wireroom_now() LIMIT $1
            FOR UPDATE SKIP LOCKED)",
        limit,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_seen_messages"))?;
    let finds = sqlx::query!(
        "-- sweep_search_finds
        DELETE FROM search_finds WHERE (search_key, chat_id) IN (
            SELECT search_key, chat_id FROM search_finds
            WHERE last_found_at <= wireroom_now() - make_interval(days => $2) LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit,
        FIND_DAYS,
    )
    .execute(&mut *conn)
    .await
    .map_err(failed("sweep_search_finds"))?;
    let counts = sqlx::query!(
        "-- sweep_chat_counts
        DELETE FROM chat_counts WHERE job_id IN (
            SELECT job_id FROM chat_counts WHERE at <= wireroom_now() - make_interval(days => $2) LIMIT $1
            FOR UPDATE SKIP LOCKED)",
        limit,
        COUNT_DAYS,
    )
    .execute(conn)
    .await
    .map_err(failed("sweep_chat_counts"))?;
    Ok(messages.rows_affected() + finds.rows_affected() + counts.rows_affected())
}

/// A chat that a search found.
#[derive(Debug, Clone)]
pub struct FindRecord {
    pub chat_id: i64,
    pub chat_type: String,
    pub title: String,
    pub username: Option<String>,
    pub member_count: Option<i64>,
    pub language: Option<String>,
    pub language_confidence: Option<f32>,
    pub last_post_at: Option<DateTime<Utc>>,
    pub member: bool,
    pub found_at: DateTime<Utc>,
}

/// Which found chats to read; `None`: any.
#[derive(Debug, Clone, Default)]
pub struct FindFilter {
    pub chat_type: Option<String>,
    pub language: Option<String>,
    pub min_members: Option<i64>,
}

/// The found chats with an id past `after`, by id.
pub async fn find_page(
    pool: &PgPool,
    job: JobId,
    filter: &FindFilter,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<FindRecord>, StoreError> {
    let mut transaction = planned(pool).await?;
    sqlx::query_as!(
        FindRecord,
        "-- find_page
        SELECT c.chat_id, c.type AS chat_type, c.title, c.username, c.member_count, c.language, c.language_confidence,
            c.last_post_at, c.member, c.found_at
        FROM scan_chats c JOIN scans s USING (job_id)
        WHERE c.job_id = $1 AND c.chat_id > $2 AND s.expires_at > wireroom_now()
            AND ($4::text IS NULL OR c.type = $4) AND ($5::text IS NULL OR c.language = $5)
            AND ($6::bigint IS NULL OR c.member_count >= $6)
        ORDER BY c.chat_id LIMIT $3",
        job.0,
        after.unwrap_or(i64::MIN),
        limit,
        filter.chat_type,
        filter.language,
        filter.min_members,
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("find_page"))
}

/// The profile that a scan read, and when.
pub async fn profile(pool: &PgPool, job: JobId) -> Result<Option<(Value, DateTime<Utc>)>, StoreError> {
    let row = sqlx::query!(
        "-- scan_profile
        SELECT p.profile, p.seen_at FROM scan_profiles p JOIN scans s USING (job_id)
        WHERE p.job_id = $1 AND s.expires_at > wireroom_now()",
        job.0,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("scan_profile"))?;
    Ok(row.map(|row| (row.profile, row.seen_at)))
}

/// What one scan of a chat counted.
#[derive(Debug, Clone)]
pub struct CountRecord {
    pub job_id: JobId,
    pub at: DateTime<Utc>,
    pub what: String,
    pub list: Option<String>,
    pub counted: Option<i64>,
    pub seen: i64,
    pub fresh: i64,
    pub complete: bool,
    pub reason: Option<String>,
}

/// The place of a row in the list of a chat's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountKey {
    pub at: DateTime<Utc>,
    pub job: JobId,
}

/// The counts of a chat before `before`, the newest first; of one kind of scan when `what` says so.
pub async fn count_page(
    pool: &PgPool,
    chat_id: i64,
    what: Option<&str>,
    before: Option<CountKey>,
    limit: i64,
) -> Result<Vec<CountRecord>, StoreError> {
    let mut transaction = planned(pool).await?;
    sqlx::query_as!(
        CountRecord,
        r#"-- count_page
        SELECT job_id AS "job_id: JobId", at, what, list, counted, seen, fresh, complete, reason FROM chat_counts
        WHERE chat_id = $1 AND ($4::timestamptz IS NULL OR (at, job_id) < ($4, $5))
            AND ($3::text IS NULL OR what = $3)
        ORDER BY at DESC, job_id DESC LIMIT $2"#,
        chat_id,
        limit,
        what,
        before.map(|key| key.at),
        before.map(|key| key.job.0),
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("count_page"))
}
