//! A campaign in memory, for one job over all its attempts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{Journal, RANDOM_ID, lock, start_of_time};
use crate::{
    invite::Tally,
    outreach::{
        Basis, Campaign, InviteMode, Leave, Listed, Outreach, Over, Person, PersonRef, Prepared, Turn, Verdict, Wording,
    },
    ports::{Chat, ChatType, StoreError, TextFormat},
};

/// An outreach in memory.
pub struct MemoryOutreach {
    journal: Journal,
    state: Mutex<Campaigned>,
}

/// What a [`MemoryOutreach`] holds.
#[derive(Debug, Default)]
pub struct Campaigned {
    /// `None`: there is no campaign.
    pub campaign: Option<Campaign>,
    /// What its messages say from now on.
    pub wording: Wording,
    /// What the calls said that nobody saw end, where that is not what they say now.
    pub said: BTreeMap<i64, Wording>,
    /// Those who wait, in order.
    pub waiting: VecDeque<Listed>,
    /// Begun and not seen to end: how often.
    pub in_doubt: BTreeMap<i64, i32>,
    /// What the store says of a person before anything is sent, instead of letting them through.
    pub kept_out: BTreeMap<i64, &'static str>,
    /// What it says in the moment before the call, each once.
    pub leaves: VecDeque<Leave>,
    pub outcomes: BTreeMap<String, i64>,
    pub verdicts: Vec<(Option<i64>, Verdict)>,
    /// Why the campaign does not run.
    pub halted: Option<String>,
    /// What the next turn answers instead of a person.
    pub turn: Option<Turn>,
}

impl MemoryOutreach {
    pub(super) fn new(journal: Journal) -> Self {
        let campaign = Campaign {
            id: Uuid::nil(),
            chat: "@reading_club".into(),
            chat_id: None,
            mode: InviteMode::Message,
        };
        let wording = Wording {
            text: "Come in: https://t.me/reading_club".into(),
            format: TextFormat::Plain,
        };
        let state = Campaigned {
            campaign: Some(campaign),
            wording,
            ..Campaigned::default()
        };
        Self {
            journal,
            state: Mutex::new(state),
        }
    }

    /// What is stored, to read and to change.
    pub fn state(&self) -> MutexGuard<'_, Campaigned> {
        lock(&self.state)
    }

    /// Puts somebody on the list, by the id that is the row's too.
    pub fn list(&self, user_id: i64, basis: Basis) {
        self.state().waiting.push_back(Listed {
            entry: user_id,
            person: PersonRef::Id(user_id),
            basis,
        });
    }

    fn open(&self, call: &'static str) -> MutexGuard<'_, Campaigned> {
        self.journal.add(call);
        self.state()
    }

    fn done(state: &mut Campaigned, entry: i64, outcome: &str) {
        state.waiting.retain(|listed| listed.entry != entry);
        *state.outcomes.entry(outcome.to_owned()).or_default() += 1;
    }
}

#[async_trait]
impl Outreach for MemoryOutreach {
    async fn campaign(&self, _id: Uuid) -> Result<Option<Campaign>, StoreError> {
        Ok(self.state().campaign.clone())
    }

    async fn settle_chat(&self, _id: Uuid, chat_id: i64) -> Result<bool, StoreError> {
        let mut state = self.state();
        let campaign = state.campaign.as_mut().expect("there is a campaign");
        Ok(*campaign.chat_id.get_or_insert(chat_id) == chat_id)
    }

    async fn tally(&self, _id: Uuid) -> Result<Tally, StoreError> {
        let state = self.state();
        Ok(Tally {
            outcomes: state.outcomes.clone(),
            begun: state.outcomes.values().sum(),
            waiting: i64::try_from(state.waiting.len()).unwrap_or(i64::MAX),
        })
    }

    async fn turn(&self, _id: Uuid, only: &[PersonRef]) -> Result<Turn, StoreError> {
        let mut state = self.state();
        if let Some(code) = state.halted.clone() {
            return Ok(Turn::Over(Over::Halted { code }));
        }
        if let Some(turn) = state.turn.take() {
            return Ok(turn);
        }
        let mut waiting = state.waiting.iter();
        let next = waiting.find(|listed| only.is_empty() || only.contains(&listed.person));
        Ok(next.map_or(Turn::Over(Over::Exhausted), |listed| Turn::Person(listed.clone())))
    }

    async fn prepare(&self, _id: Uuid, listed: &Listed, person: &Person) -> Result<Prepared, StoreError> {
        let mut state = self.open("prepare");
        if let Some(outcome) = state.kept_out.get(&person.user_id).copied() {
            Self::done(&mut state, listed.entry, outcome);
            return Ok(Prepared::Decided(outcome));
        }
        Ok(match state.in_doubt.get(&person.user_id) {
            Some(tries) => Prepared::InDoubt {
                random_id: RANDOM_ID,
                since: start_of_time(),
                tries: *tries,
                wording: state.said.get(&person.user_id).unwrap_or(&state.wording).clone(),
            },
            None => Prepared::Fresh { random_id: RANDOM_ID },
        })
    }

    async fn begin(&self, _id: Uuid, listed: &Listed, person: &Person) -> Result<Leave, StoreError> {
        let mut state = self.open("begin");
        let leave = state.leaves.pop_front().unwrap_or_else(|| {
            let said = state.said.get(&person.user_id).unwrap_or(&state.wording);
            Leave::Granted(said.clone())
        });
        match &leave {
            Leave::Granted(_) => *state.in_doubt.entry(person.user_id).or_default() += 1,
            Leave::Decided(outcome) => Self::done(&mut state, listed.entry, outcome),
            Leave::NotNow => {}
        }
        Ok(leave)
    }

    async fn release(&self, _id: Uuid, user_id: i64) -> Result<(), StoreError> {
        self.open("release").in_doubt.remove(&user_id);
        Ok(())
    }

    async fn decide(
        &self,
        _id: Uuid,
        listed: &Listed,
        user_id: Option<i64>,
        verdict: &Verdict,
    ) -> Result<Option<String>, StoreError> {
        let mut state = self.open("decide");
        Self::done(&mut state, listed.entry, verdict.outcome);
        state.verdicts.push((user_id, verdict.clone()));
        Ok(None)
    }

    async fn halt(&self, _id: Uuid, code: &str, _message: &str) -> Result<(), StoreError> {
        self.open("halt").halted = Some(code.to_owned());
        Ok(())
    }
}

/// Somebody this session has among its contacts.
pub fn contact(user_id: i64) -> Person {
    Person {
        user_id,
        chat: Chat {
            id: user_id,
            chat_type: ChatType::Private,
            title: "Ada".into(),
            username: None,
            member_count: None,
            member: true,
        },
        usernames: Vec::new(),
        phone: None,
        is_contact: true,
        is_bot: false,
        is_deleted: false,
    }
}
