//! Chats that sessions have met.

use sqlx::PgConnection;
use wireroom_jobs::ports::{Chat, ChatType};

use super::{StoreError, failed};
use crate::ids::SessionId;

/// The column's word for a type.
pub const fn type_name(chat_type: ChatType) -> &'static str {
    match chat_type {
        ChatType::Group => "group",
        ChatType::Supergroup => "supergroup",
        ChatType::Channel => "channel",
        ChatType::Private => "private",
    }
}

/// Stores the latest facts of a chat, and whether the session is a member. A member count that Telegram left out keeps
/// its last value.
pub async fn save(conn: &mut PgConnection, session: SessionId, chat: &Chat) -> Result<(), StoreError> {
    sqlx::query!(
        "-- save_chat
        WITH chat AS (
            INSERT INTO chats (id, type, title, username, member_count) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (id) DO UPDATE SET type = excluded.type, title = excluded.title, username = excluded.username,
                member_count = coalesce(excluded.member_count, chats.member_count), updated_at = wireroom_now()
            RETURNING id
        )
        INSERT INTO session_chats (session_id, chat_id, member) SELECT $6, id, $7 FROM chat
        ON CONFLICT (session_id, chat_id) DO UPDATE SET member = excluded.member, updated_at = wireroom_now()",
        chat.id,
        type_name(chat.chat_type),
        chat.title,
        chat.username,
        chat.member_count,
        session.0,
        chat.member,
    )
    .execute(conn)
    .await
    .map_err(failed("save_chat"))?;
    Ok(())
}
