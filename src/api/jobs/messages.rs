//! `GET /v1/jobs/{id}/messages`: what a scan of a history or of comments read.

use std::{fmt, str::FromStr, sync::Arc};

use chrono::{DateTime, Utc};
use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use wireroom_jobs::message::{MediaKind, Reaction, ServiceMessage};

use super::{job_id, members::must_have};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::List,
        problem::{Code, Problem},
        table::{self, Row, Table, parameter, plain_cell, safe_cell, text_cell, time_cell},
    },
    store::scan_messages::{self, MessageFilter, MessageKey, MessageRecord},
};

/// A message as the latest scan saw it: a later one of the same chat changes its text, its views and its reactions.
#[derive(Clone, Serialize, JsonSchema)]
#[schemars(rename = "ScannedMessage")]
pub struct ScannedMessageView {
    /// Telegram's number of the message: everybody's in supergroups and channels, the account's own elsewhere.
    pub id: i32,
    /// The chat's id in the Bot API's form; of a comment, the discussion group's.
    pub chat_id: i64,
    /// Of a comment: the number of the post of the channel.
    pub post_id: Option<i32>,
    pub date: DateTime<Utc>,
    /// When it was edited last, as far as Telegram shows it.
    pub edited_at: Option<DateTime<Utc>>,
    /// Who sent it, in the Bot API's form: a person, or a chat that posts under its own name.
    pub sender_id: Option<i64>,
    /// The reading session's account sent it.
    pub outgoing: bool,
    /// The text, or a medium's caption; empty when there is none.
    pub text: String,
    #[schemars(with = "Option<MediaKind>")]
    pub media: Option<String>,
    /// The message of the same chat that it answers.
    pub reply_to: Option<i32>,
    /// The forum topic it is in, by its first message.
    pub topic: Option<i32>,
    /// Messages that were sent as one album share this.
    pub album: Option<i64>,
    pub views: Option<i32>,
    pub forwards: Option<i32>,
    /// How many answered it, where Telegram counts that: the comments of a post.
    pub replies: Option<i32>,
    #[schemars(with = "Vec<Reaction>")]
    pub reactions: Value,
    #[schemars(with = "Option<ServiceMessage>")]
    pub service: Option<Value>,
    /// When a scan saw it first.
    pub first_seen_at: DateTime<Utc>,
    /// When a scan saw it last.
    pub last_seen_at: DateTime<Utc>,
    /// Of a scan with `download`: what became of the file that the message carries.
    pub file: Option<MessageFileView>,
}

/// What became of the file of a message in one scan.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ScannedFile")]
pub struct MessageFileView {
    /// `waiting`, `downloaded`, `known` (it was here already), `skipped`, or `deleted` since.
    pub state: String,
    /// Its bytes are at `GET /v1/files/{id}/content`.
    pub id: Option<Uuid>,
    /// Why it was skipped: `kind`, `too_large`, `total_bound`, `reference_expired`, `not_downloadable`.
    pub reason: Option<String>,
    /// As Telegram says.
    pub size_bytes: Option<i64>,
    pub content_type: Option<String>,
    pub name: Option<String>,
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.chat_id, self.owner, self.message_id)
    }
}

impl FromStr for MessageKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split(':').collect();
        let [chat_id, owner, message_id] = parts.as_slice() else {
            return Err(());
        };
        Ok(Self {
            chat_id: chat_id.parse().map_err(drop)?,
            owner: owner.parse().map_err(drop)?,
            message_id: message_id.parse().map_err(drop)?,
        })
    }
}

impl Row for MessageRecord {
    type View = ScannedMessageView;
    type Key = MessageKey;

    const LIST: List = List::Messages;
    const NAME: &'static str = "messages";
    const COLUMNS: &'static [&'static str] = &[
        "chat_id",
        "id",
        "post_id",
        "date",
        "edited_at",
        "sender_id",
        "outgoing",
        "text",
        "media",
        "reply_to",
        "topic",
        "album",
        "views",
        "forwards",
        "replies",
        "reactions",
        "service",
        "file_state",
        "file_id",
        "file_reason",
    ];

    fn key(&self) -> MessageKey {
        MessageKey {
            chat_id: self.chat_id,
            owner: self.owner,
            message_id: self.message_id,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.chat_id.to_string(),
            self.message_id.to_string(),
            plain_cell(self.post_id),
            time_cell(Some(self.sent_at)),
            time_cell(self.edited_at),
            plain_cell(self.sender_id),
            self.outgoing.to_string(),
            safe_cell(&self.text),
            text_cell(self.media.as_deref()),
            plain_cell(self.reply_to),
            plain_cell(self.topic),
            plain_cell(self.album),
            plain_cell(self.views),
            plain_cell(self.forwards),
            plain_cell(self.replies),
            safe_cell(&reactions_cell(&self.reactions)),
            plain_cell(self.service.as_ref()),
            text_cell(file_state(self)),
            plain_cell(self.file_id),
            text_cell(self.file_reason.as_deref()),
        ]
    }

    fn view(self) -> ScannedMessageView {
        let file = file_state(&self).map(|state| MessageFileView {
            state: state.to_owned(),
            id: self.file_id,
            reason: self.file_reason.clone(),
            size_bytes: self.file_size,
            content_type: self.file_type.clone(),
            name: self.file_name.clone(),
        });
        ScannedMessageView {
            file,
            id: self.message_id,
            chat_id: self.chat_id,
            post_id: self.post_id,
            date: self.sent_at,
            edited_at: self.edited_at,
            sender_id: self.sender_id,
            outgoing: self.outgoing,
            text: self.text,
            media: self.media,
            reply_to: self.reply_to,
            topic: self.topic,
            album: self.album,
            views: self.views,
            forwards: self.forwards,
            replies: self.replies,
            reactions: self.reactions,
            service: self.service,
            first_seen_at: self.first_seen_at,
            last_seen_at: self.last_seen_at,
        }
    }
}

/// A file that was there, and is not any more, is `deleted`.
fn file_state(message: &MessageRecord) -> Option<&str> {
    match (message.file_state.as_deref(), message.file_id) {
        (Some("downloaded" | "known"), None) => Some("deleted"),
        (state, _) => state,
    }
}

/// `👍 3, 🔥 1`.
fn reactions_cell(reactions: &Value) -> String {
    let reactions = reactions.as_array().into_iter().flatten();
    let counts = reactions.map(|one| format!("{} {}", one["reaction"].as_str().unwrap_or_default(), one["count"]));
    counts.collect::<Vec<_>>().join(", ")
}

pub struct ScannedMessagesApi;

#[OpenApi]
impl ScannedMessagesApi {
    /// Read the messages a scan saw
    ///
    /// Answers a page as JSON, or all messages as CSV or NDJSON (by `Accept`, or by `format`), streamed whatever their
    /// number, from the lowest number of a chat to its highest. In CSV, a cell that a spreadsheet would take for a formula
    /// begins with an apostrophe. A later scan of the same chat changes what is shown of a message, and never which messages
    /// are shown. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/messages",
        method = "get",
        operation_id = "list_scanned_messages",
        tag = "Tag::Jobs"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per part of the request")]
    async fn messages(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// The job's id.
        id: Path<String>,
        /// Only messages of this person or chat, by its id in the Bot API's form.
        sender_id: Query<Option<String>>,
        /// Only messages that carry this.
        media: Query<Option<String>>,
        /// Only comments of this post.
        post_id: Query<Option<String>>,
        /// Only messages sent at this time or later.
        from: Query<Option<String>>,
        /// Only messages sent at this time or before.
        to: Query<Option<String>>,
        /// How to write them; wins over `Accept`.
        format: Query<Option<String>>,
        /// Most messages of a JSON page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before; JSON only.
        cursor: Query<Option<String>>,
    ) -> Result<Table<MessageRecord>, Problem> {
        const TIME: &str = "a time with its offset (RFC 3339), such as 2026-01-31T12:00:00Z";
        let job = job_id(&id)?;
        let asked = table::asked::<MessageRecord>(headers, format.as_deref(), limit.as_deref(), cursor.as_deref())?;
        let filter = MessageFilter {
            sender_id: parameter("sender_id", sender_id.as_deref(), "a person's or a chat's id")?,
            media: media_kind(media.as_deref())?,
            post_id: parameter("post_id", post_id.as_deref(), "the number of a post")?,
            from: parameter("from", from.as_deref(), TIME)?,
            to: parameter("to", to.as_deref(), TIME)?,
        };
        must_have(&state.pool, job, Code::RowsNotFound, &["history", "comments"]).await?;
        let pool = state.pool.clone();
        table::write(asked, job, move |after, limit| {
            let (pool, filter) = (pool.clone(), filter.clone());
            async move { scan_messages::page(&pool, job, &filter, after, limit).await }
        })
        .await
    }
}

fn media_kind(given: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(given) = given else { return Ok(None) };
    let word = |kind: MediaKind| {
        let value = serde_json::to_value(kind).unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    };
    let words = MediaKind::ALL.map(word);
    if words.iter().any(|word| word == given) {
        return Ok(Some(given.to_owned()));
    }
    let detail = format!("media takes one of {}.", words.join(", "));
    Err(Problem::new(Code::InvalidParameter, detail).field("media"))
}

#[cfg(test)]
mod tests;
