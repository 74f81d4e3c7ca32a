//! Changes of messages that are left to the history: kept until the watch has filled, and applied to what the history brings.
//!
//! A page of the history is stored some time after it was read. An edit or a deletion that the stream brings in between is of
//! a message that is not stored yet; without a note of it the page would store the message as it was.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::message::{Message, Reaction};

use super::rows::each;
use crate::store::{StoreError, failed};

/// By watch and number.
pub(super) type Changes = BTreeMap<(Uuid, i32), Change>;

/// What has become of a message that is not stored yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    deleted: bool,
    /// As it was edited last.
    edited: Option<Message>,
    /// Since then.
    reactions: Option<Vec<Reaction>>,
}

impl Change {
    pub fn deleted() -> Self {
        Self {
            deleted: true,
            ..Self::default()
        }
    }

    pub fn edited(message: &Message) -> Self {
        Self {
            edited: Some(message.clone()),
            ..Self::default()
        }
    }

    pub fn reacted(reactions: &[Reaction]) -> Self {
        Self {
            reactions: Some(reactions.to_vec()),
            ..Self::default()
        }
    }

    /// What is left of both when another change follows.
    pub fn then(&mut self, next: Self) {
        if next.deleted || self.deleted {
            *self = Self::deleted();
        } else if next.edited.is_some() {
            *self = next;
        } else {
            self.reactions = next.reactions.or(self.reactions.take());
        }
    }

    /// A message that was read from the history, with what the stream has said of it meanwhile; `None`: it is gone. The page
    /// may be the later of the two, which only the time of a visible edit shows; where that does not, the stream says
    /// what comes after this change.
    pub fn apply(&self, read: &Message) -> Option<Message> {
        if self.deleted {
            return None;
        }
        let edited = self.edited.as_ref().filter(|edited| !is_later(read, edited));
        let mut message = edited.unwrap_or(read).clone();
        if let Some(reactions) = &self.reactions {
            message.reactions.clone_from(reactions);
        }
        Some(message)
    }
}

/// Whether the first was edited after the second, as far as Telegram shows it.
fn is_later(first: &Message, second: &Message) -> bool {
    first
        .edited_at
        .zip(second.edited_at)
        .is_some_and(|(first, second)| first > second)
}

/// Notes changes of messages of locked watches.
pub(super) async fn note(connection: &mut PgConnection, changes: &Changes) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let changes: Vec<_> = changes.iter().collect();
    sqlx::query!(
        "-- note_watch_changes
        INSERT INTO watch_changes AS c (watch_id, message_id, sender_id, deleted, edited, reactions)
        SELECT * FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bool[], $5::jsonb[], $6::jsonb[])
        ON CONFLICT (watch_id, message_id) DO UPDATE SET
            sender_id = coalesce(EXCLUDED.sender_id, c.sender_id), deleted = c.deleted OR EXCLUDED.deleted,
            edited = CASE WHEN NOT (c.deleted OR EXCLUDED.deleted) THEN coalesce(EXCLUDED.edited, c.edited) END,
            reactions = CASE WHEN NOT (c.deleted OR EXCLUDED.deleted)
                THEN CASE WHEN EXCLUDED.edited IS NULL THEN coalesce(EXCLUDED.reactions, c.reactions) ELSE EXCLUDED.reactions END
                END",
        &each(&changes, |((watch, _), _)| *watch),
        &each(&changes, |((_, id), _)| *id),
        &each(&changes, |(_, change)| change.edited.as_ref().and_then(|edited| edited.sender_id)) as &[Option<i64>],
        &each(&changes, |(_, change)| change.deleted),
        &each(&changes, |(_, change)| change.edited.as_ref().map(|edited| serde_json::json!(edited)))
            as &[Option<Value>],
        &each(&changes, |(_, change)| change.reactions.as_ref().map(|reactions| serde_json::json!(reactions)))
            as &[Option<Value>],
    )
    .execute(connection)
    .await
    .map_err(failed("note_watch_changes"))?;
    Ok(())
}

/// What was noted of these messages of a locked watch.
pub(super) async fn find(
    connection: &mut PgConnection,
    watch: Uuid,
    messages: &[Message],
) -> Result<BTreeMap<i32, Change>, StoreError> {
    let rows = sqlx::query!(
        "-- find_watch_changes
        SELECT message_id, deleted, edited, reactions FROM watch_changes WHERE watch_id = $1 AND message_id = ANY($2)",
        watch,
        &each(messages, |message| message.id),
    )
    .fetch_all(connection)
    .await
    .map_err(failed("find_watch_changes"))?;
    let found = rows.into_iter().map(|row| {
        let change = Change {
            deleted: row.deleted,
            edited: row.edited.and_then(|edited| serde_json::from_value(edited).ok()),
            reactions: row
                .reactions
                .and_then(|reactions| serde_json::from_value(reactions).ok()),
        };
        (row.message_id, change)
    });
    Ok(found.collect())
}

/// Forgets what was noted: everything is stored, or is numbered otherwise.
pub(in crate::store) async fn forget(connection: &mut PgConnection, watch: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "-- forget_watch_changes\nDELETE FROM watch_changes WHERE watch_id = $1",
        watch
    )
    .execute(connection)
    .await
    .map_err(failed("forget_watch_changes"))?;
    Ok(())
}
