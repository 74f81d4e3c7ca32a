//! Chats as the API reads them.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{StoreError, failed};
use crate::ids::SessionId;

/// A chat that some session has met.
#[derive(Debug, Clone)]
pub struct ChatRecord {
    pub id: i64,
    pub chat_type: String,
    pub title: String,
    pub username: Option<String>,
    pub member_count: Option<i64>,
    pub updated_at: DateTime<Utc>,
    /// The sessions that are members, as of their last look.
    pub member_sessions: Vec<SessionId>,
}

/// The chat of that Bot API id.
pub async fn get(pool: &PgPool, id: i64) -> Result<Option<ChatRecord>, StoreError> {
    sqlx::query_as!(
        ChatRecord,
        r#"-- get_chat
        SELECT c.id, c.type AS chat_type, c.title, c.username, c.member_count, c.updated_at,
            ARRAY(SELECT session_id FROM session_chats m WHERE m.chat_id = c.id AND m.member ORDER BY session_id)
                AS "member_sessions!: Vec<SessionId>"
        FROM chats c WHERE c.id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await
    .map_err(failed("get_chat"))
}
