//! `GET /v1/chats/{id}`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Viewer},
    document::Tag,
    problem::{Code, Problem},
    typed::Typed,
};
use crate::store::chat_reads::{self, ChatRecord};

/// A chat, as the last session that looked at it saw it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "KnownChat")]
pub struct ChatView {
    /// In the Bot API's form: negative for groups, `-100…` for supergroups and channels.
    #[schemars(example = -1_001_234_567_890_i64)]
    pub id: i64,
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["group", "supergroup", "channel", "private"]))]
    pub chat_type: String,
    pub title: String,
    /// Without `@`.
    pub username: Option<String>,
    /// As Telegram counts them; null when it does not say.
    pub member_count: Option<i64>,
    /// The sessions that are members.
    pub member_sessions: Vec<Uuid>,
    pub updated_at: DateTime<Utc>,
}

impl From<ChatRecord> for ChatView {
    fn from(chat: ChatRecord) -> Self {
        Self {
            id: chat.id,
            chat_type: chat.chat_type,
            title: chat.title,
            username: chat.username,
            member_count: chat.member_count,
            member_sessions: chat.member_sessions.into_iter().map(|id| id.0).collect(),
            updated_at: chat.updated_at,
        }
    }
}

pub struct ChatsApi;

#[OpenApi]
impl ChatsApi {
    /// Look at a chat
    ///
    /// Shows a chat that some session has met. Scope: viewer.
    #[oai(
        path = "/v1/chats/:id",
        method = "get",
        operation_id = "get_chat",
        tag = "Tag::Chats"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The chat's id, as results of jobs show it.
        id: Path<String>,
    ) -> Result<Json<Typed<ChatView>>, Problem> {
        let id: i64 = id.parse().map_err(|_| {
            let detail = "A chat's id is a number, negative for groups and channels.";
            Problem::new(Code::InvalidParameter, detail).field("id")
        })?;
        chat_reads::get(&state.pool, id)
            .await?
            .map(|chat| Json(Typed(ChatView::from(chat))))
            .ok_or_else(|| Problem::new(Code::ChatNotFound, "No session has met a chat of that id."))
    }
}
