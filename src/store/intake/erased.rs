//! People who were erased, in what comes in: their messages are counted and not kept, and nobody hears who they are.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
};

use sqlx::PgConnection;
use wireroom_jobs::message::{Message, ServiceMessage};

use super::Incoming;
use crate::{
    person_key::PersonKey,
    store::{StoreError, erasure},
};

/// Where the message of a private chat with an erased person is stored: the chat's id would be theirs. Numbers of an
/// account's own messages are those of no other chat of it.
const NO_CHAT: i64 = 0;

/// Those who were erased among the people of what came in.
#[derive(Debug, Default)]
pub(super) struct Erased(HashSet<i64>);

impl Erased {
    /// Looks these people up, in the transaction that stores what came in.
    pub async fn find(
        connection: &mut PgConnection,
        key: Option<&PersonKey>,
        people: impl Iterator<Item = i64>,
    ) -> Result<Self, StoreError> {
        let people: BTreeSet<i64> = people.collect();
        if people.is_empty() {
            return Ok(Self::default());
        }
        let people: Vec<i64> = people.into_iter().collect();
        Ok(Self(erasure::erased_among(connection, key, &people).await?))
    }

    pub fn has(&self, person: i64) -> bool {
        !self.0.is_empty() && self.0.contains(&person)
    }

    /// Where the messages of a chat are stored.
    pub fn chat(&self, chat: i64) -> i64 {
        if self.has(chat) { NO_CHAT } else { chat }
    }

    /// The message without them; `None`: it is theirs.
    pub fn leave_out<'m>(&self, message: &'m Message) -> Option<Cow<'m, Message>> {
        if self.0.is_empty() || !people_in(message).into_iter().any(|person| self.has(person)) {
            return Some(Cow::Borrowed(message));
        }
        let service = match &message.service {
            Some(ServiceMessage::Joined { user_ids, by }) => ServiceMessage::Joined {
                user_ids: user_ids.iter().copied().filter(|user| !self.has(*user)).collect(),
                by: by.filter(|by| !self.has(*by)),
            },
            Some(ServiceMessage::Left { user_id, by }) => ServiceMessage::Left {
                user_id: *user_id,
                by: by.filter(|by| !self.has(*by)),
            },
            _ => return None,
        };
        let is_theirs = match &service {
            ServiceMessage::Joined { user_ids, .. } => user_ids.is_empty(),
            ServiceMessage::Left { user_id, .. } => self.has(*user_id),
            _ => false,
        };
        if is_theirs || self.has(message.chat_id) {
            return None;
        }
        Some(Cow::Owned(Message {
            sender_id: message.sender_id.filter(|sender| !self.has(*sender)),
            service: Some(service),
            ..message.clone()
        }))
    }
}

/// The people of what happened.
pub(super) fn people_of(incoming: &Incoming) -> Vec<i64> {
    match incoming {
        Incoming::New(message) | Incoming::Edited(message) => people_in(message),
        Incoming::Member { user_id, by, .. } => by.iter().chain([user_id]).copied().collect(),
        Incoming::Deleted { .. } | Incoming::Reactions { .. } | Incoming::Gap { .. } | Incoming::Lost { .. } => {
            Vec::new()
        }
    }
}

/// Whom a message is about: who sent it, with whom the chat is, and who came or went by it.
pub(super) fn people_in(message: &Message) -> Vec<i64> {
    let (several, one, by): (&[i64], Option<i64>, Option<i64>) = match &message.service {
        Some(ServiceMessage::Joined { user_ids, by }) => (user_ids, None, *by),
        Some(ServiceMessage::Left { user_id, by }) => (&[], Some(*user_id), *by),
        _ => (&[], None, None),
    };
    let whom = [message.sender_id, Some(message.chat_id), one, by]
        .into_iter()
        .flatten();
    whom.chain(several.iter().copied()).filter(|id| *id > 0).collect()
}
