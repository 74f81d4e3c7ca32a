//! A session's closed gates in memory, so that neither a call nor a claim has to ask the database. The store's copy is
//! what the next holder starts from. A gate is only ever extended.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use wireroom_jobs::Action;

use crate::store::gates::Gate;

/// Everywhere, as opposed to one chat.
const EVERYWHERE: i64 = 0;

/// The gates of one held session.
#[derive(Debug)]
pub struct Gates {
    state: Mutex<State>,
    /// Counted up at every change, so that whoever plans claims looks again.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    opens_at: HashMap<(Action, i64), DateTime<Utc>>,
    limited: bool,
    /// The store knows it too: from then on the store decides.
    limit_stored: bool,
}

impl Gates {
    /// `limited`: the account may contact nobody, until a person resumes it.
    pub fn new(closed: Vec<Gate>, limited: bool, changed: watch::Sender<u64>) -> Self {
        let opens_at = closed
            .into_iter()
            .map(|gate| ((gate.action, gate.chat_id.unwrap_or(EVERYWHERE)), gate.opens_at))
            .collect();
        Self {
            state: Mutex::new(State {
                opens_at,
                limited,
                limit_stored: limited,
            }),
            changed,
        }
    }

    /// Closes a gate until `opens_at`, unless it is closed for longer already. Answers when it opens.
    pub fn close(&self, action: Action, chat_id: Option<i64>, opens_at: DateTime<Utc>) -> DateTime<Utc> {
        let key = (action, chat_id.unwrap_or(EVERYWHERE));
        let opens_at = {
            let mut state = self.lock();
            let known = state.opens_at.entry(key).or_insert(opens_at);
            *known = opens_at.max(*known);
            *known
        };
        self.changed.send_modify(|count| *count += 1);
        opens_at
    }

    /// Stops outreach until a person resumes it.
    pub fn limit(&self) {
        self.lock().limited = true;
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes in what the store says: a limit it has never heard of stays, one that a person has lifted goes.
    pub fn sync_limited(&self, stored: bool) {
        let changed = {
            let mut state = self.lock();
            let before = state.limited;
            if stored {
                state.limited = true;
            } else if state.limit_stored {
                state.limited = false;
            }
            state.limit_stored = stored;
            before != state.limited
        };
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    pub fn is_limited(&self) -> bool {
        self.lock().limited
    }

    /// When the session may do `action` (in `chat_id`); `None` when it may now.
    pub fn opens_at(&self, action: Action, chat_id: Option<i64>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut state = self.lock();
        state.opens_at.retain(|_, opens_at| *opens_at > now);
        let everywhere = state.opens_at.get(&(action, EVERYWHERE)).copied();
        let here = chat_id.and_then(|chat| state.opens_at.get(&(action, chat)).copied());
        everywhere.max(here)
    }

    /// The actions that are closed everywhere: jobs of their kinds are not to be claimed for this session.
    pub fn closed_actions(&self, now: DateTime<Utc>) -> Vec<Action> {
        let state = self.lock();
        Action::ALL
            .into_iter()
            .filter(|action| {
                (state.limited && *action == Action::Send)
                    || state
                        .opens_at
                        .get(&(*action, EVERYWHERE))
                        .is_some_and(|opens_at| *opens_at > now)
            })
            .collect()
    }

    /// When the next of the closed actions opens.
    pub fn next_opening(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let state = self.lock();
        let openings = state.opens_at.iter().filter(|((_, chat), _)| *chat == EVERYWHERE);
        openings.map(|(_, opens_at)| *opens_at).filter(|at| *at > now).min()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn gates() -> (Gates, DateTime<Utc>) {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        (Gates::new(Vec::new(), false, watch::Sender::new(0)), now)
    }

    #[test]
    fn a_gate_is_only_extended() {
        let (gates, now) = gates();
        let later = now + TimeDelta::seconds(60);
        assert_eq!(gates.close(Action::Read, None, later), later);
        assert_eq!(gates.close(Action::Read, None, now + TimeDelta::seconds(5)), later);
        assert_eq!(gates.opens_at(Action::Read, None, now), Some(later));
        assert_eq!(gates.closed_actions(now), [Action::Read]);
        assert_eq!(gates.next_opening(now), Some(later));
        assert_eq!(gates.closed_actions(later), []);
        assert_eq!(gates.opens_at(Action::Read, None, later), None);
    }

    #[test]
    fn slow_mode_closes_one_chat() {
        let (gates, now) = gates();
        let later = now + TimeDelta::seconds(60);
        gates.close(Action::Send, Some(-100), later);
        assert_eq!(gates.opens_at(Action::Send, Some(-100), now), Some(later));
        assert_eq!(gates.opens_at(Action::Send, Some(-200), now), None);
        assert_eq!(gates.closed_actions(now), []);
    }

    #[test]
    fn a_limited_account_sends_nothing() {
        let (gates, now) = gates();
        let watcher = gates.changed.subscribe();
        gates.limit();
        assert_eq!(gates.closed_actions(now), [Action::Send]);
        assert!(watcher.has_changed().unwrap());
        gates.sync_limited(false);
        assert!(gates.is_limited(), "the store has not heard of it yet");
        gates.sync_limited(true);
        gates.sync_limited(false);
        assert!(!gates.is_limited(), "a person has lifted it");
    }
}
