//! Messages that scans saw: `seen_messages` holds each once, as the latest scan saw it, and `scan_messages` which ones a scan
//! saw. Their texts are in the rows and nowhere else.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use wireroom_jobs::scan::ports::{ScannedMessage, Tally};

use super::{StoreError, attempt_data::AttemptKey, failed, member_reads::planned, scans::no_scan};
use crate::ids::JobId;

/// What messages of a page have in common.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub chat_id: i64,
    /// Whose the numbers are: 0 when everybody's.
    pub owner: i64,
    /// The post that they comment.
    pub post: Option<i32>,
}

/// One column a vector: how a page travels to Postgres in one statement.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<i32>,
    sent: Vec<DateTime<Utc>>,
    edited: Vec<Option<DateTime<Utc>>>,
    senders: Vec<Option<i64>>,
    outgoing: Vec<bool>,
    texts: Vec<&'a str>,
    media: Vec<Option<String>>,
    replies_to: Vec<Option<i32>>,
    topics: Vec<Option<i32>>,
    albums: Vec<Option<i64>>,
    views: Vec<Option<i32>>,
    forwards: Vec<Option<i32>>,
    replies: Vec<Option<i32>>,
    reactions: Vec<Value>,
    services: Vec<Option<Value>>,
}

impl<'a> Columns<'a> {
    /// Sorted and without repeats: two scans that store the same messages lock them in the same order.
    fn new(messages: &'a [ScannedMessage]) -> Result<Self, serde_json::Error> {
        let mut messages: Vec<&ScannedMessage> = messages.iter().collect();
        messages.sort_by_key(|scanned| scanned.message.id);
        messages.dedup_by_key(|scanned| scanned.message.id);
        let mut columns = Self::default();
        for ScannedMessage { message, replies, .. } in messages {
            columns.ids.push(message.id);
            columns.sent.push(message.date);
            columns.edited.push(message.edited_at);
            columns.senders.push(message.sender_id);
            columns.outgoing.push(message.outgoing);
            columns.texts.push(&message.text);
            let media = message.media.map(serde_json::to_value).transpose()?;
            columns
                .media
                .push(media.and_then(|word| word.as_str().map(str::to_owned)));
            columns.replies_to.push(message.reply_to);
            columns.topics.push(message.topic);
            columns.albums.push(message.album);
            columns.views.push(message.views);
            columns.forwards.push(message.forwards);
            columns.replies.push(*replies);
            columns.reactions.push(serde_json::to_value(&message.reactions)?);
            columns
                .services
                .push(message.service.as_ref().map(serde_json::to_value).transpose()?);
        }
        Ok(columns)
    }
}

/// Stores a page, in one statement; messages that are known get what has changed since; `left_out` are kept out of it. Returns how many this scan has.
pub async fn save(
    conn: &mut PgConnection,
    attempt: AttemptKey,
    place: Place,
    messages: &[ScannedMessage],
    left_out: i64,
) -> Result<Tally, StoreError> {
    let page = Columns::new(messages).map_err(|error| StoreError::Decode {
        operation: "save_messages",
        detail: error.to_string(),
    })?;
    let counted = sqlx::query!(
        "-- save_messages
        WITH page AS MATERIALIZED (
            SELECT * FROM unnest($5::integer[], $6::timestamptz[], $7::timestamptz[], $8::bigint[], $9::boolean[],
                $10::text[], $11::text[], $12::integer[], $13::integer[], $14::bigint[], $15::integer[], $16::integer[],
                $17::integer[], $18::jsonb[], $19::jsonb[])
                p(message_id, sent_at, edited_at, sender_id, outgoing, text, media, reply_to, topic, album, views,
                    forwards, replies, reactions, service)
        ), known AS (
            INSERT INTO seen_messages (chat_id, owner, message_id, sent_at, edited_at, sender_id, outgoing, text, media,
                reply_to, topic, album, views, forwards, replies, reactions, service, job_id, purpose, expires_at)
            SELECT $2, $3, p.*, $1, s.purpose, s.expires_at FROM page p CROSS JOIN scans s WHERE s.job_id = $1
            ON CONFLICT (chat_id, owner, message_id) DO UPDATE SET edited_at = excluded.edited_at,
                sender_id = excluded.sender_id, outgoing = excluded.outgoing, text = excluded.text, media = excluded.media, views = excluded.views,
                forwards = excluded.forwards, replies = excluded.replies, reactions = excluded.reactions,
                service = excluded.service, last_seen_at = wireroom_now(), job_id = excluded.job_id,
                purpose = excluded.purpose, expires_at = greatest(seen_messages.expires_at, excluded.expires_at)
            -- A row that was updated has been locked by this transaction.
            RETURNING xmax = 0 AS is_new
        ), seen AS (
            INSERT INTO scan_messages (job_id, chat_id, owner, message_id, post_id)
            SELECT $1, $2, $3, p.message_id, $4 FROM page p
            ON CONFLICT (job_id, chat_id, owner, message_id) DO NOTHING
            RETURNING 1
        )
        UPDATE scans SET seen = seen + (SELECT count(*) FROM seen),
            fresh = fresh + (SELECT count(*) FROM known WHERE is_new), left_out = left_out + $20
        WHERE job_id = $1 RETURNING seen, fresh, left_out",
        attempt.job.0,
        place.chat_id,
        place.owner,
        place.post,
        &page.ids,
        &page.sent,
        &page.edited as &[Option<DateTime<Utc>>],
        &page.senders as &[Option<i64>],
        &page.outgoing,
        &page.texts as &[&str],
        &page.media as &[Option<String>],
        &page.replies_to as &[Option<i32>],
        &page.topics as &[Option<i32>],
        &page.albums as &[Option<i64>],
        &page.views as &[Option<i32>],
        &page.forwards as &[Option<i32>],
        &page.replies as &[Option<i32>],
        &page.reactions,
        &page.services as &[Option<Value>],
        left_out,
    )
    .fetch_optional(conn)
    .await
    .map_err(failed("save_messages"))?
    .ok_or(no_scan("save_messages"))?;
    Ok(Tally {
        seen: counted.seen,
        new: counted.fresh,
        left_out: counted.left_out,
    })
}

/// A message as the latest scan saw it.
#[derive(Clone)]
pub struct MessageRecord {
    pub chat_id: i64,
    pub owner: i64,
    pub message_id: i32,
    pub post_id: Option<i32>,
    pub sent_at: DateTime<Utc>,
    pub edited_at: Option<DateTime<Utc>>,
    pub sender_id: Option<i64>,
    pub outgoing: bool,
    pub text: String,
    pub media: Option<String>,
    pub reply_to: Option<i32>,
    pub topic: Option<i32>,
    pub album: Option<i64>,
    pub views: Option<i32>,
    pub forwards: Option<i32>,
    pub replies: Option<i32>,
    pub reactions: Value,
    pub service: Option<Value>,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    /// What became of its file in this scan; `None`: none was to be downloaded, or it has none.
    pub file_state: Option<String>,
    pub file_id: Option<Uuid>,
    pub file_reason: Option<String>,
    pub file_size: Option<i64>,
    pub file_type: Option<String>,
    pub file_name: Option<String>,
}

/// The place of a row in the list of a scan's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageKey {
    pub chat_id: i64,
    pub owner: i64,
    pub message_id: i32,
}

/// Which messages of a scan to read; `None`: any.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    pub sender_id: Option<i64>,
    pub media: Option<String>,
    pub post_id: Option<i32>,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
}

/// The messages of a scan past `after`, by chat and number.
pub async fn page(
    pool: &PgPool,
    job: JobId,
    filter: &MessageFilter,
    after: Option<MessageKey>,
    limit: i64,
) -> Result<Vec<MessageRecord>, StoreError> {
    let after = after.unwrap_or(MessageKey {
        chat_id: i64::MIN,
        owner: i64::MIN,
        message_id: i32::MIN,
    });
    let mut transaction = planned(pool).await?;
    sqlx::query_as!(
        MessageRecord,
        r#"-- scan_message_page
        SELECT m.chat_id, m.owner, m.message_id, l.post_id, m.sent_at, m.edited_at, m.sender_id, m.outgoing, m.text,
            m.media, m.reply_to, m.topic, m.album, m.views, m.forwards, m.replies, m.reactions, m.service,
            m.first_seen_at, m.last_seen_at, f.state AS "file_state?", f.file_id, f.reason AS file_reason,
            f.size_bytes AS file_size, f.content_type AS file_type, f.name AS file_name
        FROM scan_messages l
        JOIN seen_messages m USING (chat_id, owner, message_id)
        LEFT JOIN scan_files f ON f.job_id = $1 AND (f.chat_id, f.owner, f.message_id) = (l.chat_id, l.owner, l.message_id)
        WHERE l.job_id = $1 AND (l.chat_id, l.owner, l.message_id) > ($2, $3, $4)
            AND ($6::bigint IS NULL OR m.sender_id = $6) AND ($7::text IS NULL OR m.media = $7)
            AND ($8::integer IS NULL OR l.post_id = $8) AND ($9::timestamptz IS NULL OR m.sent_at >= $9)
            AND ($10::timestamptz IS NULL OR m.sent_at <= $10)
            AND EXISTS (SELECT FROM scans s WHERE s.job_id = $1 AND s.expires_at > wireroom_now())
        ORDER BY l.chat_id, l.owner, l.message_id LIMIT $5"#,
        job.0,
        after.chat_id,
        after.owner,
        after.message_id,
        limit,
        filter.sender_id,
        filter.media,
        filter.post_id,
        filter.from,
        filter.to,
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed("scan_message_page"))
}
