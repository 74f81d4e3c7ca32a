//! What comes in over the update streams, and what the histories give after a break, into the messages of watched chats.
//!
//! One transaction stores what many sessions have read, raises its events, and moves each session's place in its updates:
//! a crash repeats updates and never skips one. The watches concerned are locked first, so the events of a chat have one
//! order, and whether a message is known already is decided under that lock: however often and by whomever it is told, it
//! is stored and raised once. Only the session that a watch names is listened to. People who were erased are left out, and
//! what they write is counted.

mod decide;
mod erased;
pub(super) mod left;
mod rows;

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::message::{Message, Reaction};

pub use self::rows::Filters;
use self::{
    decide::{Decided, Ledger},
    erased::Erased,
    rows::Asked,
};
use super::{
    StoreError, leases,
    leases::LeaseKey,
    outbox,
    update_states::{self, BoxState},
};
use crate::{ids::SessionId, person_key::PersonKey};

/// What one session has read, and how far it has got with that.
#[derive(Debug)]
pub struct Arrival {
    pub lease: LeaseKey,
    /// The session's Telegram account: whose the ids of private messages are.
    pub account_id: i64,
    /// One per box.
    pub boxes: Vec<BoxState>,
    /// In the order in which it happened.
    pub incoming: Vec<Incoming>,
    /// Bare ids of channels whose updates are not read any more.
    pub forgotten: Vec<i64>,
}

/// Something that happened in a chat. Chats are named in the Bot API's form.
#[derive(Debug)]
pub enum Incoming {
    New(Message),
    /// As it is now.
    Edited(Message),
    Deleted {
        /// `None`: of one of the account's private chats or basic groups.
        chat: Option<i64>,
        message_ids: Vec<i32>,
    },
    Reactions {
        chat: i64,
        message_id: i32,
        reactions: Vec<Reaction>,
    },
    /// Somebody came into a channel that writes no message about that, or is in it no more.
    Member {
        chat: i64,
        user_id: i64,
        joined: bool,
        /// Who added or removed them.
        by: Option<i64>,
        date: DateTime<Utc>,
    },
    /// Updates were missed, and cannot be had any more.
    Gap {
        /// `None`: in the account's private chats and basic groups.
        chat: Option<i64>,
        from_pts: Option<i32>,
        to_pts: Option<i32>,
        /// The chat's newest message.
        newest: Option<i32>,
        reason: String,
    },
    /// The session cannot see the chat any more.
    Lost {
        chat: i64,
        /// Telegram's name of the error, or `left`, `removed`, `forbidden`, `migrated`.
        reason: String,
    },
}

impl Incoming {
    /// The bare id of the supergroup or channel that the session cannot see any more.
    pub fn lost_channel(&self) -> Option<i64> {
        match self {
            Self::Lost { chat, .. } if *chat < FIRST_CHANNEL => Some(FIRST_CHANNEL - *chat),
            _ => None,
        }
    }

    /// The chat it is about; `None` when only the account is known.
    fn chat(&self) -> Option<i64> {
        match self {
            Self::New(message) | Self::Edited(message) => Some(message.chat_id),
            Self::Deleted { chat, .. } | Self::Gap { chat, .. } => *chat,
            Self::Reactions { chat, .. } | Self::Member { chat, .. } | Self::Lost { chat, .. } => Some(*chat),
        }
    }
}

/// What became of an [`Arrival`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    Stored {
        /// A watch of the session needs its history read, or another session.
        troubled: bool,
    },
    /// The lease is over: nothing of it was stored.
    Fenced,
}

/// Supergroups and channels have ids below this in the Bot API's form; the ids of their messages are everybody's.
const FIRST_CHANNEL: i64 = -1_000_000_000_000;

/// Whose the ids of a chat's messages are: 0 where they are everybody's.
pub fn owner_of(chat: i64, account_id: i64) -> i64 {
    if chat <= FIRST_CHANNEL { 0 } else { account_id }
}

/// Stores what sessions have read, in one answer per arrival. By `key` people are known again who were erased; without it
/// nothing of a watched chat is stored once somebody was. The caller commits.
pub async fn record(
    connection: &mut PgConnection,
    filters: &mut Filters,
    key: Option<&PersonKey>,
    arrivals: &[Arrival],
) -> Result<Vec<Recorded>, StoreError> {
    let keys: Vec<LeaseKey> = arrivals.iter().map(|arrival| arrival.lease).collect();
    let held = leases::hold_many(connection, &keys).await?;
    let live: Vec<&Arrival> = arrivals
        .iter()
        .filter(|arrival| held.contains(&arrival.lease.session))
        .collect();
    let troubled = record_incoming(connection, filters, key, &live).await?;
    update_states::advance(connection, &places(&live)).await?;
    let mut forgotten = Vec::new();
    for arrival in &live {
        forgotten.extend(
            arrival
                .forgotten
                .iter()
                .map(|channel| (arrival.lease.session, *channel)),
        );
    }
    update_states::forget_channels(connection, &forgotten).await?;
    let recorded = arrivals.iter().map(|arrival| {
        let session = arrival.lease.session;
        if held.contains(&session) {
            Recorded::Stored {
                troubled: troubled.contains(&session),
            }
        } else {
            Recorded::Fenced
        }
    });
    Ok(recorded.collect())
}

/// What was read from the history of a watched chat.
#[derive(Debug, Clone, Copy)]
pub struct Page<'p> {
    pub watch: Uuid,
    /// Oldest first.
    pub messages: &'p [Message],
    /// How far they account for what is watched: older messages that are not among them, or were before, do not exist.
    /// `None`: as far as the newest of them.
    pub read_to: Option<i32>,
}

/// Stores messages that were read from the history, as the stream would have. What the stream has said meanwhile of messages that were left to the history holds: they are stored as they
/// are by now, and not at all when they were deleted. Answers how many were new. Nothing when the session is not the watch's any more.
pub async fn record_history(
    connection: &mut PgConnection,
    filters: &mut Filters,
    key: Option<&PersonKey>,
    lease: LeaseKey,
    page: Page<'_>,
) -> Result<u64, StoreError> {
    let Page {
        watch,
        messages,
        read_to,
    } = page;
    leases::hold(connection, lease, "record_history").await?;
    let Some(row) = rows::lock_watch(connection, lease.session, watch).await? else {
        return Ok(0);
    };
    let watches = filters.equip(connection, vec![row]).await?;
    let [watch] = watches.as_slice() else { return Ok(0) };
    let owner = watch.owner;
    let erased = Erased::find(connection, key, messages.iter().flat_map(erased::people_in)).await?;
    let mut asked = Asked::default();
    for message in messages {
        asked.row(erased.chat(message.chat_id), owner, message.id);
    }
    let known = rows::find(connection, asked).await?;
    let changes = left::find(connection, watch.id, messages).await?;
    let mut ledger = Ledger::new(watches, known, erased);
    let stored = ledger.take_history(messages, &changes, read_to);
    write(connection, ledger.decided()).await?;
    Ok(stored)
}

/// How far the filling of a watch from the history has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filling {
    pub filling: bool,
    /// The newest message that the stream has left to the history.
    pub left_to_history: i32,
    pub last_message_id: i32,
    /// For [`finish_filling`].
    pub gaps: i32,
}

/// Where the filling of a watch stands: look before the history is read, so that what is found meanwhile is noticed.
pub async fn filling(connection: &mut PgConnection, watch: Uuid) -> Result<Option<Filling>, StoreError> {
    rows::filling(connection, watch).await
}

/// Lets the stream store messages again, if the history has got as far as the stream has seen and no gap was found since
/// [`filling`] said `gaps`. `false`: read on; or the watch is not this session's any more.
pub async fn finish_filling(
    connection: &mut PgConnection,
    lease: LeaseKey,
    watch: Uuid,
    gaps: i32,
) -> Result<bool, StoreError> {
    leases::hold(connection, lease, "finish_filling").await?;
    let finished = rows::finish_filling(connection, lease.session, watch, gaps).await?;
    if finished {
        // A statement of its own: it sees what the stream noted while the watch's lock was waited for.
        left::forget(connection, watch).await?;
    }
    Ok(finished)
}

/// Stores what happened in watched chats; answers with the sessions that have a watch in trouble.
async fn record_incoming(
    connection: &mut PgConnection,
    filters: &mut Filters,
    key: Option<&PersonKey>,
    arrivals: &[&Arrival],
) -> Result<HashSet<SessionId>, StoreError> {
    let mut chats = HashSet::new();
    for arrival in arrivals {
        let session = arrival.lease.session.0;
        for incoming in &arrival.incoming {
            let chat = incoming.chat();
            if let Some(chat) = chat {
                chats.insert((session, Some(chat)));
            }
            // A private message may be of the watch of all of them.
            if chat.is_none_or(|chat| chat > 0) {
                chats.insert((session, None));
            }
        }
    }
    if chats.is_empty() {
        return Ok(HashSet::new());
    }
    let locked = rows::lock_watches(connection, &chats).await?;
    if locked.is_empty() {
        return Ok(HashSet::new());
    }
    let watches = filters.equip(connection, locked).await?;
    let all = arrivals.iter().flat_map(|arrival| &arrival.incoming);
    let erased = Erased::find(connection, key, all.flat_map(erased::people_of)).await?;
    let mut asked = Asked::default();
    for arrival in arrivals {
        for incoming in &arrival.incoming {
            asked.about(incoming, arrival.account_id, &erased);
        }
    }
    let known = rows::find(connection, asked).await?;
    let mut ledger = Ledger::new(watches, known, erased);
    for arrival in arrivals {
        for incoming in &arrival.incoming {
            ledger.take(arrival.lease.session, arrival.account_id, incoming);
        }
    }
    write(connection, ledger.decided()).await
}

async fn write(connection: &mut PgConnection, decided: Decided) -> Result<HashSet<SessionId>, StoreError> {
    rows::insert(connection, &decided.inserts).await?;
    rows::change(connection, &decided.changes).await?;
    rows::move_watches(connection, &decided.moves).await?;
    left::note(connection, &decided.left).await?;
    outbox::append(connection, &decided.events).await?;
    Ok(decided.troubled)
}

/// The last place in each box, in one order for all who write them.
fn places(arrivals: &[&Arrival]) -> Vec<(SessionId, BoxState)> {
    let mut places = BTreeMap::<(Uuid, i64), BoxState>::new();
    for arrival in arrivals {
        for state in &arrival.boxes {
            let key = (arrival.lease.session.0, state.update_box);
            places
                .entry(key)
                .and_modify(|known| {
                    known.pts = state.pts.or(known.pts);
                    known.qts = state.qts.or(known.qts);
                    known.date = state.date.or(known.date);
                    known.seq = state.seq.or(known.seq);
                })
                .or_insert(*state);
        }
    }
    places
        .into_iter()
        .map(|((session, _), state)| (SessionId(session), state))
        .collect()
}

/// Where a message is stored: chat, owner, id.
type Key = (i64, i64, i32);

/// A message as it is stored.
#[derive(Debug, Clone)]
struct Row {
    watch: Uuid,
    session: SessionId,
    retention_days: i32,
    date: DateTime<Utc>,
    sender_id: Option<i64>,
    edited_at: Option<DateTime<Utc>>,
    deleted: bool,
    content: Option<Message>,
    digest: i64,
    from_history: bool,
}

/// How a watch has moved.
#[derive(Debug)]
struct Move {
    watch: Uuid,
    filling: bool,
    left_to_history: i32,
    last_message_id: i32,
    last_message_at: Option<DateTime<Utc>>,
    seen: i64,
    from_history: i64,
    gaps: i32,
    lost_reason: Option<String>,
}

type Rows = HashMap<Key, Row>;

#[cfg(test)]
mod tests;
