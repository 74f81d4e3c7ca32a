//! The statements of the intake: few per transaction, whatever it holds.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{
    message::Message,
    monitor::{Matcher, MessageFilter},
};

use super::{Filling, Incoming, Key, Move, Row, Rows, decide::Watch, erased::Erased, owner_of};
use crate::{
    ids::SessionId,
    store::{StoreError, failed},
};

/// How many filters are kept ready.
const FILTERS: usize = 20_000;

/// Filters that were made ready, by watch; kept over transactions.
#[derive(Default)]
pub struct Filters(HashMap<Uuid, (i32, Option<Arc<Matcher>>)>);

/// A watch as it is locked, without its filter.
pub(super) struct Locked {
    id: Uuid,
    chat_id: Option<i64>,
    session: SessionId,
    owner: i64,
    events: Vec<String>,
    version: i32,
    retention_days: i32,
    filling: bool,
    left_to_history: i32,
    last_message_id: i32,
    begun_after: i32,
    expired_before: DateTime<Utc>,
    renumbered: bool,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filters").field("ready", &self.0.len()).finish()
    }
}

impl Filters {
    /// Gives watches their filters, reading those that are new or changed.
    pub(super) async fn equip(
        &mut self,
        connection: &mut PgConnection,
        watches: Vec<Locked>,
    ) -> Result<Vec<Watch>, StoreError> {
        let unknown: Vec<Uuid> = watches
            .iter()
            .filter(|watch| {
                self.0
                    .get(&watch.id)
                    .is_none_or(|(version, _)| *version != watch.version)
            })
            .map(|watch| watch.id)
            .collect();
        if !unknown.is_empty() {
            self.read(connection, &unknown).await?;
        }
        let equipped = watches.into_iter().map(|watch| Watch {
            filter: self.0.get(&watch.id).and_then(|(_, filter)| filter.clone()),
            id: watch.id,
            chat_id: watch.chat_id,
            session: watch.session,
            owner: watch.owner,
            events: watch.events,
            retention_days: watch.retention_days,
            filling: watch.filling,
            left_to_history: watch.left_to_history,
            last_message_id: watch.last_message_id,
            expired_before: watch.expired_before,
            begun_after: watch.begun_after,
            renumbered: watch.renumbered,
        });
        Ok(equipped.collect())
    }

    async fn read(&mut self, connection: &mut PgConnection, watches: &[Uuid]) -> Result<(), StoreError> {
        if self.0.len() + watches.len() > FILTERS {
            self.0.clear();
        }
        let rows = sqlx::query!(
            "-- read_watch_filters
            SELECT id, version, filter FROM watches WHERE id = ANY($1)",
            watches,
        )
        .fetch_all(connection)
        .await
        .map_err(failed("read_watch_filters"))?;
        for row in rows {
            let compiled = serde_json::from_value::<MessageFilter>(row.filter)
                .ok()
                .and_then(|filter| filter.compile().ok());
            if compiled.is_none() {
                tracing::error!(watch.id = %row.id, "a filter is not understood by this release: every message is taken");
            }
            self.0.insert(row.id, (row.version, compiled.map(Arc::new)));
        }
        Ok(())
    }
}

/// Locks the active watches of these (session, chat), in one order for all who do so. Without a chat: all whose message
/// ids are the account's own.
///
/// Which they are is an array, not a join: Postgres joins a row anew that somebody had locked and changed, and where it has
/// made the other side unique first, it finds nothing there and leaves the row out.
pub(super) async fn lock_watches(
    connection: &mut PgConnection,
    chats: &HashSet<(Uuid, Option<i64>)>,
) -> Result<Vec<Locked>, StoreError> {
    let (sessions, chats): (Vec<Uuid>, Vec<Option<i64>>) = chats.iter().copied().unzip();
    sqlx::query_as!(
        Locked,
        r#"-- lock_watches
        WITH asked AS (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS k (session_id, chat_id))
        SELECT id, chat_id, session_id AS "session: SessionId", owner, events, version, retention_days, filling,
            left_to_history, last_message_id, begun_after, renumbered,
            wireroom_now() - make_interval(days => retention_days) AS "expired_before!"
        FROM watches
        WHERE state = 'active' AND id = ANY (ARRAY(
            SELECT w.id FROM asked k JOIN watches w ON w.session_id = k.session_id AND w.chat_id = k.chat_id
            WHERE w.state = 'active'
            UNION ALL
            SELECT w.id FROM asked k JOIN watches w ON w.session_id = k.session_id
            WHERE w.state = 'active' AND k.chat_id IS NULL AND w.owner <> 0))
        ORDER BY id
        FOR UPDATE"#,
        &sessions,
        &chats as &[Option<i64>],
    )
    .fetch_all(connection)
    .await
    .map_err(failed("lock_watches"))
}

/// Locks one watch, if it is active and the session's.
pub(super) async fn lock_watch(
    connection: &mut PgConnection,
    session: SessionId,
    watch: Uuid,
) -> Result<Option<Locked>, StoreError> {
    sqlx::query_as!(
        Locked,
        r#"-- lock_watch
        SELECT id, chat_id, session_id AS "session: SessionId", owner, events, version, retention_days, filling,
            left_to_history, last_message_id, begun_after, renumbered,
            wireroom_now() - make_interval(days => retention_days) AS "expired_before!"
        FROM watches WHERE id = $1 AND session_id = $2 AND state = 'active'
        FOR UPDATE"#,
        watch,
        session.0,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("lock_watch"))
}

pub(super) async fn filling(connection: &mut PgConnection, watch: Uuid) -> Result<Option<Filling>, StoreError> {
    sqlx::query_as!(
        Filling,
        "-- watch_filling
        SELECT filling, left_to_history, last_message_id, gaps FROM watches WHERE id = $1",
        watch,
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("watch_filling"))
}

pub(super) async fn finish_filling(
    connection: &mut PgConnection,
    session: SessionId,
    watch: Uuid,
    gaps: i32,
) -> Result<bool, StoreError> {
    let finished = sqlx::query!(
        "-- finish_filling
        UPDATE watches SET filling = false, updated_at = wireroom_now()
        WHERE id = $1 AND session_id = $2 AND state = 'active' AND gaps = $3 AND left_to_history <= last_message_id",
        watch,
        session.0,
        gaps,
    )
    .execute(connection)
    .await
    .map_err(failed("finish_filling"))?;
    Ok(finished.rows_affected() == 1)
}

/// Which stored messages are concerned.
#[derive(Default)]
pub(super) struct Asked {
    chats: Vec<i64>,
    owners: Vec<i64>,
    ids: Vec<i32>,
    /// Of messages whose chat is not known.
    own: Vec<(i64, i32)>,
}

impl Asked {
    pub fn row(&mut self, chat: i64, owner: i64, id: i32) {
        self.chats.push(chat);
        self.owners.push(owner);
        self.ids.push(id);
    }

    pub fn about(&mut self, incoming: &Incoming, account_id: i64, erased: &Erased) {
        match incoming {
            Incoming::New(message) | Incoming::Edited(message) => {
                let chat = erased.chat(message.chat_id);
                self.row(chat, owner_of(chat, account_id), message.id);
            }
            Incoming::Deleted {
                chat: Some(chat),
                message_ids,
            } => {
                for id in message_ids {
                    self.row(*chat, owner_of(*chat, account_id), *id);
                }
            }
            Incoming::Deleted {
                chat: None,
                message_ids,
            } => self.own.extend(message_ids.iter().map(|id| (account_id, *id))),
            Incoming::Reactions { chat, message_id, .. } => {
                self.row(*chat, owner_of(*chat, account_id), *message_id);
            }
            Incoming::Member { .. } | Incoming::Gap { .. } | Incoming::Lost { .. } => {}
        }
    }
}

struct Found {
    chat_id: i64,
    owner: i64,
    message_id: i32,
    watch_id: Uuid,
    session_id: SessionId,
    date: DateTime<Utc>,
    sender_id: Option<i64>,
    edited_at: Option<DateTime<Utc>>,
    deleted: bool,
    content: Option<Value>,
    digest: i64,
    from_history: bool,
}

/// The stored messages among those asked for. Their watches are locked, so they stay as they are.
pub(super) async fn find(connection: &mut PgConnection, asked: Asked) -> Result<Rows, StoreError> {
    let mut rows = Rows::new();
    if !asked.ids.is_empty() {
        let found = sqlx::query_as!(
            Found,
            r#"-- find_messages
            SELECT m.chat_id, m.owner, m.message_id, m.watch_id, m.session_id AS "session_id: SessionId", m.date, m.sender_id,
                m.edited_at, m.deleted_at IS NOT NULL AS "deleted!", m.content, m.digest, m.from_history
            FROM unnest($1::bigint[], $2::bigint[], $3::int[]) AS k (chat_id, owner, message_id)
            JOIN messages m ON m.chat_id = k.chat_id AND m.owner = k.owner AND m.message_id = k.message_id"#,
            &asked.chats,
            &asked.owners,
            &asked.ids,
        )
        .fetch_all(&mut *connection)
        .await
        .map_err(failed("find_messages"))?;
        rows.extend(found.into_iter().map(entry));
    }
    if !asked.own.is_empty() {
        let (owners, ids): (Vec<i64>, Vec<i32>) = asked.own.into_iter().unzip();
        let found = sqlx::query_as!(
            Found,
            r#"-- find_own_messages
            SELECT m.chat_id, m.owner, m.message_id, m.watch_id, m.session_id AS "session_id: SessionId", m.date, m.sender_id,
                m.edited_at, m.deleted_at IS NOT NULL AS "deleted!", m.content, m.digest, m.from_history
            FROM unnest($1::bigint[], $2::int[]) AS k (owner, message_id)
            JOIN messages m ON m.owner = k.owner AND m.message_id = k.message_id AND m.owner <> 0"#,
            &owners,
            &ids,
        )
        .fetch_all(connection)
        .await
        .map_err(failed("find_own_messages"))?;
        rows.extend(found.into_iter().map(entry));
    }
    Ok(rows)
}

fn entry(found: Found) -> (Key, Row) {
    let key = (found.chat_id, found.owner, found.message_id);
    let row = Row {
        watch: found.watch_id,
        session: found.session_id,
        // Of a stored message it is in its date of expiry already, and 0 leaves that as it is.
        retention_days: 0,
        date: found.date,
        sender_id: found.sender_id,
        edited_at: found.edited_at,
        deleted: found.deleted,
        content: found
            .content
            .and_then(|content| serde_json::from_value::<Message>(content).ok()),
        digest: found.digest,
        from_history: found.from_history,
    };
    (key, row)
}

fn content(row: &Row) -> Option<Value> {
    row.content.as_ref().map(|message| serde_json::json!(message))
}

/// Stores messages that are not there.
pub(super) async fn insert(connection: &mut PgConnection, rows: &[(Key, Row)]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let inserted = sqlx::query!(
        "-- insert_messages
        INSERT INTO messages (chat_id, owner, message_id, watch_id, session_id, date, sender_id, edited_at, content, digest,
            from_history, expires_at, deleted_at)
        SELECT k.chat_id, k.owner, k.message_id, k.watch_id, k.session_id, k.date, k.sender_id, k.edited_at, k.content,
            k.digest, k.from_history, wireroom_now() + make_interval(days => k.retention_days),
            CASE WHEN k.deleted THEN wireroom_now() END
        FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::uuid[], $5::uuid[], $6::timestamptz[], $7::bigint[],
            $8::timestamptz[], $9::jsonb[], $10::bigint[], $11::bool[], $12::int[], $13::bool[])
            AS k (chat_id, owner, message_id, watch_id, session_id, date, sender_id, edited_at, content, digest,
                from_history, retention_days, deleted)
        ON CONFLICT DO NOTHING",
        &each(rows, |(key, _)| key.0),
        &each(rows, |(key, _)| key.1),
        &each(rows, |(key, _)| key.2),
        &each(rows, |(_, row)| row.watch),
        &each(rows, |(_, row)| row.session.0),
        &each(rows, |(_, row)| row.date),
        &each(rows, |(_, row)| row.sender_id) as &[Option<i64>],
        &each(rows, |(_, row)| row.edited_at) as &[Option<DateTime<Utc>>],
        &each(rows, |(_, row)| content(row)) as &[Option<Value>],
        &each(rows, |(_, row)| row.digest),
        &each(rows, |(_, row)| row.from_history),
        &each(rows, |(_, row)| row.retention_days),
        &each(rows, |(_, row)| row.deleted),
    )
    .execute(connection)
    .await
    .map_err(failed("insert_messages"))?;
    let expected = rows.len() as u64;
    // Only a watch that is not locked could have stored one meanwhile, and there is none.
    if inserted.rows_affected() != expected {
        return Err(StoreError::Rows {
            operation: "insert_messages",
            changed: inserted.rows_affected(),
            expected,
        });
    }
    Ok(())
}

/// Writes what has become of stored messages.
pub(super) async fn change(connection: &mut PgConnection, rows: &[(Key, Row)]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "-- change_messages
        UPDATE messages m SET edited_at = k.edited_at, content = k.content, digest = k.digest,
            deleted_at = CASE WHEN k.deleted THEN COALESCE(m.deleted_at, wireroom_now()) END,
            expires_at = CASE WHEN k.retention_days > 0
                THEN GREATEST(m.expires_at, wireroom_now() + make_interval(days => k.retention_days)) ELSE m.expires_at END
        FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::timestamptz[], $5::jsonb[], $6::bigint[], $7::bool[], $8::int[])
            AS k (chat_id, owner, message_id, edited_at, content, digest, deleted, retention_days)
        WHERE m.chat_id = k.chat_id AND m.owner = k.owner AND m.message_id = k.message_id",
        &each(rows, |(key, _)| key.0),
        &each(rows, |(key, _)| key.1),
        &each(rows, |(key, _)| key.2),
        &each(rows, |(_, row)| row.edited_at) as &[Option<DateTime<Utc>>],
        &each(rows, |(_, row)| content(row)) as &[Option<Value>],
        &each(rows, |(_, row)| row.digest),
        &each(rows, |(_, row)| row.deleted),
        &each(rows, |(_, row)| row.retention_days),
    )
    .execute(connection)
    .await
    .map_err(failed("change_messages"))?;
    Ok(())
}

/// Writes how far watches have got. They are locked.
pub(super) async fn move_watches(connection: &mut PgConnection, moves: &[Move]) -> Result<(), StoreError> {
    if moves.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "-- move_watches
        UPDATE watches w SET filling = k.filling, left_to_history = k.left_to_history,
            last_message_id = k.last_message_id, last_message_at = GREATEST(w.last_message_at, k.last_message_at),
            seen = w.seen + k.seen, from_history = w.from_history + k.from_history, gaps = w.gaps + k.gaps,
            lost_reason = COALESCE(k.lost_reason, w.lost_reason), updated_at = wireroom_now()
        FROM unnest($1::uuid[], $2::bool[], $3::int[], $4::int[], $5::timestamptz[], $6::bigint[], $7::bigint[], $8::int[],
            $9::text[])
            AS k (id, filling, left_to_history, last_message_id, last_message_at, seen, from_history, gaps, lost_reason)
        WHERE w.id = k.id",
        &each(moves, |moved| moved.watch),
        &each(moves, |moved| moved.filling),
        &each(moves, |moved| moved.left_to_history),
        &each(moves, |moved| moved.last_message_id),
        &each(moves, |moved| moved.last_message_at) as &[Option<DateTime<Utc>>],
        &each(moves, |moved| moved.seen),
        &each(moves, |moved| moved.from_history),
        &each(moves, |moved| moved.gaps),
        &each(moves, |moved| moved.lost_reason.clone()) as &[Option<String>],
    )
    .execute(connection)
    .await
    .map_err(failed("move_watches"))?;
    Ok(())
}

pub(super) fn each<T, U>(rows: &[T], column: impl Fn(&T) -> U) -> Vec<U> {
    rows.iter().map(column).collect()
}
