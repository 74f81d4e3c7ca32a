//! People who answered that they want to be left alone: whoever hears it, nobody contacts them again.

use std::collections::HashMap;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;
use wireroom_jobs::{message::Message, stop::StopWords};

use super::{
    StoreError, audit,
    erasure::erased_among,
    event_types::{EventType, Subject},
    failed,
    intake::{Arrival, Incoming, Recorded},
    leases::LeaseKey,
    outbox::{self, NewEvent},
    suppressions,
};
use crate::person_key::PersonKey;

const REASON: &str = "They answered that they do not want to be contacted.";

/// Suppresses who said so in what sessions have just read, as far as it was stored. Call it in the transaction that stores that:
/// a crash then repeats both, and never skips one. Returns how many were not on the list before.
pub async fn heard(
    conn: &mut PgConnection,
    words: &StopWords,
    key: Option<&PersonKey>,
    arrivals: &[Arrival],
    recorded: &[Recorded],
) -> Result<usize, StoreError> {
    let mut said = Vec::new();
    for (arrival, recorded) in arrivals.iter().zip(recorded) {
        if *recorded == Recorded::Fenced {
            continue;
        }
        for incoming in &arrival.incoming {
            if let Incoming::New(message) | Incoming::Edited(message) = incoming {
                said.extend(who_says_stop(words, message).map(|user| (arrival.lease, user)));
            }
        }
    }
    suppress(conn, key, &said).await
}

/// The same for messages that a session has read in its private histories.
pub async fn read(
    conn: &mut PgConnection,
    words: &StopWords,
    key: Option<&PersonKey>,
    lease: LeaseKey,
    messages: &[Message],
) -> Result<usize, StoreError> {
    let said = messages.iter().filter_map(|message| who_says_stop(words, message));
    let said: Vec<(LeaseKey, i64)> = said.map(|user| (lease, user)).collect();
    suppress(conn, key, &said).await
}

/// The person whose private message asks to be left alone.
fn who_says_stop(words: &StopWords, message: &Message) -> Option<i64> {
    let is_private = message.chat_id > 0 && message.sender_id == Some(message.chat_id) && !message.outgoing;
    (is_private && words.are_said(&message.text)).then_some(message.chat_id)
}

/// Those of them who are on the list or in the ledger of any campaign, and were not suppressed yet.
async fn suppress(
    conn: &mut PgConnection,
    key: Option<&PersonKey>,
    said: &[(LeaseKey, i64)],
) -> Result<usize, StoreError> {
    if said.is_empty() {
        return Ok(0);
    }
    // Of those who were erased nothing is written down, and nobody contacts them anyway.
    let users: Vec<i64> = said.iter().map(|(_, user)| *user).collect();
    let mut seen = erased_among(conn, key, &users).await?;
    let said: Vec<&(LeaseKey, i64)> = said.iter().filter(|(_, user)| seen.insert(*user)).collect();
    if said.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = said.iter().map(|_| Uuid::now_v7()).collect();
    let users: Vec<i64> = said.iter().map(|(_, user)| *user).collect();
    let sessions: Vec<Uuid> = said.iter().map(|(lease, _)| lease.session.0).collect();
    suppressions::await_calls(&mut *conn).await?;
    let added: Vec<Uuid> = sqlx::query_scalar!(
        "-- suppress_who_said_stop
        INSERT INTO suppressions (id, user_id, reason, source, added_by)
        SELECT s.id, s.user_id, $4, 'said_stop', 'session:' || s.session_id
        FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS s (id, user_id, session_id)
        WHERE EXISTS (SELECT FROM campaign_ledger l WHERE l.user_id = s.user_id)
            OR EXISTS (SELECT FROM campaign_people p WHERE coalesce(p.user_id, p.resolved_id) = s.user_id)
        ORDER BY s.user_id
        ON CONFLICT DO NOTHING RETURNING id",
        &ids,
        &users,
        &sessions,
        REASON,
    )
    .fetch_all(&mut *conn)
    .await
    .map_err(failed("suppress_who_said_stop"))?;
    if added.is_empty() {
        return Ok(0);
    }
    let heard: HashMap<Uuid, &(LeaseKey, i64)> = ids.into_iter().zip(said).collect();
    let heard: Vec<(Uuid, &(LeaseKey, i64))> = added
        .iter()
        .filter_map(|id| heard.get(id).map(|heard| (*id, *heard)))
        .collect();
    tell(conn, &heard).await?;
    Ok(added.len())
}

/// Neither says what they wrote; the audit log not even who did.
async fn tell(conn: &mut PgConnection, heard: &[(Uuid, &(LeaseKey, i64))]) -> Result<(), StoreError> {
    let events: Vec<NewEvent> = heard
        .iter()
        .map(|(id, (lease, user))| NewEvent {
            event_type: EventType::SuppressionAdded,
            subject: Subject::suppression(*id),
            data: json!({ "suppression": id, "user_id": user, "source": "said_stop", "session": lease.session.0 }),
        })
        .collect();
    outbox::append(conn, &events).await?;
    let names: Vec<(String, String)> = heard
        .iter()
        .map(|(id, (lease, _))| (format!("worker:{}", lease.owner), format!("suppression:{id}")))
        .collect();
    let entries: Vec<audit::Entry<'_>> = heard
        .iter()
        .zip(&names)
        .map(|((_, (lease, _)), (actor, subject))| audit::Entry {
            actor,
            action: "suppression.added",
            subject,
            request_id: None,
            details: json!({ "source": "said_stop", "session": lease.session.0 }),
        })
        .collect();
    audit::record_all(conn, &entries).await
}
