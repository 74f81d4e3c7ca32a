//! A session's closed gates and spent caps in memory, so that neither a call nor a claim has to ask the database. The
//! store's copy is what the next holder starts from. A gate is only ever extended; a spent cap opens when an admin raises
//! it. How long something stays closed is measured here, so that a wrong clock of this machine opens nothing early; the
//! times that jobs are put off to are the database's.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::{sync::watch, time::Instant};
use wireroom_jobs::Action;

use crate::store::{
    caps::Spent,
    gates::{Gate, Opening},
};

/// Everywhere, as opposed to one chat.
const EVERYWHERE: i64 = 0;

/// The gates of one held session.
#[derive(Debug)]
pub struct Gates {
    state: Mutex<State>,
    /// Counted up at every change, so that whoever plans claims looks again.
    changed: watch::Sender<u64>,
}

/// What keeps an action from being done, and until when by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    Gate { until: DateTime<Utc> },
    Cap(Spent),
}

#[derive(Debug, Clone, Copy)]
struct Until {
    /// By the database's clock.
    at: DateTime<Utc>,
    /// By this machine's, which only measures spans.
    here: Instant,
}

impl Until {
    fn new(opens: Opening, now: Instant) -> Self {
        Self {
            at: opens.at,
            here: now + opens.left,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    closed: HashMap<(Action, i64), Until>,
    spent: HashMap<Action, (Instant, Spent)>,
    /// Until then the session takes no jobs of its pool.
    turned_down_until: Option<Instant>,
    /// How often the store was asked for all spent caps.
    looks: u64,
    limited: bool,
    /// The store knows it too: from then on the store decides.
    limit_stored: bool,
    /// The session's settings version with which the store learnt of it: a later one that knows no limit has lifted it.
    limited_at: Option<i64>,
}

impl State {
    fn spend(&mut self, spent: Spent, now: Instant) {
        if let Some(action) = spent.capped.closes() {
            self.spent.insert(action, (now + spent.left, spent));
        }
    }
}

impl Gates {
    /// `limited`: the account may contact nobody, until a person resumes it.
    pub fn new(closed: Vec<Gate>, spent: Vec<Spent>, limited: bool, changed: watch::Sender<u64>) -> Self {
        let now = Instant::now();
        let mut state = State {
            closed: closed
                .into_iter()
                .map(|gate| {
                    let chat = gate.chat_id.unwrap_or(EVERYWHERE);
                    ((gate.action, chat), Until::new(gate.opens, now))
                })
                .collect(),
            spent: HashMap::new(),
            turned_down_until: None,
            looks: 0,
            limited,
            limit_stored: limited,
            limited_at: None,
        };
        for cap in spent {
            state.spend(cap, now);
        }
        Self {
            state: Mutex::new(state),
            changed,
        }
    }

    /// Closes a gate, unless it is closed for longer already. Answers when it opens.
    pub fn close(&self, action: Action, chat_id: Option<i64>, opens: Opening) -> DateTime<Utc> {
        let until = Until::new(opens, Instant::now());
        let at = {
            let mut state = self.lock();
            let known = state
                .closed
                .entry((action, chat_id.unwrap_or(EVERYWHERE)))
                .or_insert(until);
            if until.here > known.here {
                *known = until;
            }
            known.at
        };
        self.note_change();
        at
    }

    /// Opens a gate that what it waited for has opened early. For [`Action::JoinChannel`]: Telegram names no other that does.
    pub fn open(&self, action: Action) {
        self.lock().closed.remove(&(action, EVERYWHERE));
        self.note_change();
    }

    /// How often all caps were taken in anew: for [`Gates::spend`], taken before the store is asked.
    pub fn looks(&self) -> u64 {
        self.lock().looks
    }

    /// Closes the action of a cap that is spent, if it has one, until its window ends. Not when all caps were taken in anew
    /// since `looks`: it may have been raised, and if it was not, the next use finds that out.
    pub fn spend(&self, spent: Spent, looks: u64) {
        let is_current = {
            let mut state = self.lock();
            let is_current = state.looks == looks;
            if is_current {
                state.spend(spent, Instant::now());
            }
            is_current
        };
        if is_current {
            self.note_change();
        }
    }

    /// Takes in what the store says of all caps.
    pub fn sync_spent(&self, spent: Vec<Spent>) {
        {
            let mut state = self.lock();
            state.looks += 1;
            state.spent.clear();
            // Whatever it was for, the next one finds out.
            state.turned_down_until = None;
            for cap in spent {
                state.spend(cap, Instant::now());
            }
        }
        self.note_change();
    }

    /// Opens the action of a cap again whose last use was given back.
    pub fn unspend(&self, given_back: &Spent) {
        let Some(action) = given_back.capped.closes() else {
            return;
        };
        let opened = {
            let mut state = self.lock();
            let is_it = state.spent.get(&action).is_some_and(|(_, spent)| spent == given_back);
            if is_it {
                state.spent.remove(&action);
            }
            is_it
        };
        if opened {
            self.note_change();
        }
    }

    /// A job of the pool could not begin here because of `action`: the session takes no other until that may be done.
    pub fn turn_down(&self, action: Action) {
        {
            let mut state = self.lock();
            let gate = state.closed.get(&(action, EVERYWHERE)).map(|until| until.here);
            let cap = state.spent.get(&action).map(|(until, _)| *until);
            state.turned_down_until = state.turned_down_until.max(gate).max(cap);
        }
        self.note_change();
    }

    /// Whether jobs of the pool may be claimed for this session, beside its own.
    pub fn takes_pooled(&self) -> bool {
        self.takes_pooled_at(Instant::now())
    }

    fn takes_pooled_at(&self, now: Instant) -> bool {
        self.lock().turned_down_until.is_none_or(|until| until <= now)
    }

    /// Stops outreach until a person resumes it.
    pub fn limit(&self) {
        self.lock().limited = true;
        self.note_change();
    }

    /// The limit is in the store, with this version of the session's settings.
    pub fn limit_is_stored(&self, version: i64) {
        self.lock().limited_at = Some(version);
    }

    /// Takes in what the store says with a version of the session's settings: a limit it had not heard of by then stays, one
    /// that a person has lifted goes.
    pub fn sync_limited(&self, stored: bool, version: i64) {
        let changed = {
            let mut state = self.lock();
            let before = state.limited;
            if stored {
                state.limited = true;
            } else if state.limit_stored || state.limited_at.is_some_and(|at| version > at) {
                state.limited = false;
                state.limited_at = None;
            }
            state.limit_stored = stored;
            before != state.limited
        };
        if changed {
            self.note_change();
        }
    }

    pub fn is_limited(&self) -> bool {
        self.lock().limited
    }

    /// What keeps the session from doing `action` everywhere; `None` when it may now.
    pub fn closed(&self, action: Action) -> Option<Closed> {
        self.closed_at(action, None, Instant::now())
    }

    /// What keeps the session from doing `action` in that chat alone.
    pub fn closed_in(&self, action: Action, chat_id: i64) -> Option<Closed> {
        self.closed_at(action, Some(chat_id), Instant::now())
    }

    fn closed_at(&self, action: Action, chat_id: Option<i64>, now: Instant) -> Option<Closed> {
        let mut state = self.lock();
        state.closed.retain(|_, until| until.here > now);
        state.spent.retain(|_, (until, _)| *until > now);
        let gate = state.closed.get(&(action, chat_id.unwrap_or(EVERYWHERE))).copied();
        let cap = state.spent.get(&action).filter(|_| chat_id.is_none());
        match (gate, cap) {
            // Of two, the one that lasts longer: nothing is gained by looking in between.
            (Some(gate), Some((until, spent))) if *until > gate.here => Some(Closed::Cap(spent.clone())),
            (None, Some((_, spent))) => Some(Closed::Cap(spent.clone())),
            (Some(gate), _) => Some(Closed::Gate { until: gate.at }),
            (None, None) => None,
        }
    }

    /// The actions that are closed everywhere: jobs of their kinds are not to be claimed for this session.
    pub fn closed_actions(&self) -> Vec<Action> {
        self.closed_actions_at(Instant::now())
    }

    fn closed_actions_at(&self, now: Instant) -> Vec<Action> {
        let state = self.lock();
        let is_closed = |action: Action| {
            let gate = state.closed.get(&(action, EVERYWHERE)).map(|until| until.here);
            let cap = state.spent.get(&action).map(|(until, _)| *until);
            [gate, cap].into_iter().flatten().any(|until| until > now)
        };
        Action::ALL
            .into_iter()
            .filter(|action| (state.limited && matches!(action, Action::Send | Action::Invite)) || is_closed(*action))
            .collect()
    }

    /// When the next of the closed actions opens.
    pub fn next_opening(&self) -> Option<Instant> {
        self.next_opening_at(Instant::now())
    }

    fn next_opening_at(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        let gates = state.closed.iter().filter(|((_, chat), _)| *chat == EVERYWHERE);
        let gates = gates.map(|(_, until)| until.here);
        let caps = state.spent.values().map(|(until, _)| *until);
        gates.chain(caps).filter(|until| *until > now).min()
    }

    fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::caps::{Capped, Window};

    fn gates() -> Gates {
        Gates::new(Vec::new(), Vec::new(), false, watch::Sender::new(0))
    }

    /// In `seconds`, by a database whose clock is years away from ours.
    fn opening(seconds: u64) -> Opening {
        Opening {
            at: DateTime::from_timestamp(1_800_000_000, 0).unwrap() + Duration::from_secs(seconds),
            left: Duration::from_secs(seconds),
        }
    }

    fn spent(capped: Capped, seconds: u64) -> Spent {
        Spent {
            capped,
            window: Window::Minute,
            cap: 3,
            until: opening(seconds).at,
            left: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_gate_is_only_extended() {
        let gates = gates();
        assert_eq!(gates.close(Action::Read, None, opening(60)), opening(60).at);
        assert_eq!(gates.close(Action::Read, None, opening(5)), opening(60).at);
        let until = opening(60).at;
        assert_eq!(gates.closed(Action::Read), Some(Closed::Gate { until }));
        assert_eq!(gates.closed_actions(), [Action::Read]);
        let opens = gates.next_opening().expect("a gate is closed");
        assert_eq!(gates.closed_actions_at(opens), []);
        assert_eq!(gates.closed_at(Action::Read, None, opens), None);
    }

    #[test]
    fn slow_mode_closes_one_chat() {
        let gates = gates();
        gates.close(Action::Send, Some(-100), opening(60));
        assert!(gates.closed_in(Action::Send, -100).is_some());
        assert_eq!(gates.closed_in(Action::Send, -200), None);
        assert_eq!(gates.closed_actions(), []);
    }

    #[test]
    fn a_limited_account_sends_nothing() {
        let gates = gates();
        let watcher = gates.changed.subscribe();
        gates.limit();
        assert_eq!(gates.closed_actions(), [Action::Send, Action::Invite]);
        assert!(watcher.has_changed().unwrap());
        gates.sync_limited(false, 7);
        assert!(gates.is_limited(), "the store has not heard of it yet");
        gates.sync_limited(true, 8);
        gates.sync_limited(false, 9);
        assert!(!gates.is_limited(), "a person has lifted it");
        gates.limit();
        gates.limit_is_stored(10);
        gates.sync_limited(false, 9);
        assert!(gates.is_limited(), "what was read before it was stored lifts nothing");
        gates.sync_limited(false, 11);
        assert!(!gates.is_limited(), "lifted before a renewal had seen it");
    }

    #[test]
    fn a_session_that_turned_a_job_of_its_pool_down_takes_none_until_the_gate_opens() {
        let gates = gates();
        gates.close(Action::Resolve, None, opening(60));
        assert!(gates.takes_pooled(), "nobody was turned down");
        gates.turn_down(Action::Resolve);
        assert!(!gates.takes_pooled());
        let opens = gates.next_opening().expect("a gate is closed");
        assert!(gates.takes_pooled_at(opens), "and the queue is told by then");
        gates.sync_spent(Vec::new());
        assert!(gates.takes_pooled(), "other settings: the next one finds out");
    }

    #[test]
    fn a_use_that_is_given_back_opens_what_it_closed_and_nothing_else() {
        let gates = gates();
        gates.spend(spent(Capped::Message, 30), gates.looks());
        gates.unspend(&spent(Capped::Message, 90));
        assert_eq!(gates.closed_actions(), [Action::Send], "another window's");
        gates.unspend(&spent(Capped::Message, 30));
        assert_eq!(gates.closed_actions(), []);
    }

    #[test]
    fn a_spent_cap_closes_its_action_and_a_longer_gate_goes_before_it() {
        let gates = gates();
        gates.spend(spent(Capped::Message, 30), gates.looks());
        gates.spend(spent(Capped::Dialogue, 30), gates.looks());
        assert_eq!(gates.closed_actions(), [Action::Send], "groups may still be written to");
        let cap = spent(Capped::Message, 30);
        assert_eq!(gates.closed(Action::Send), Some(Closed::Cap(cap)));
        gates.close(Action::Send, None, opening(60));
        assert!(matches!(gates.closed(Action::Send), Some(Closed::Gate { .. })));
        gates.close(Action::Join, None, opening(60));
        gates.sync_spent(vec![spent(Capped::Join, 90)]);
        assert!(matches!(gates.closed(Action::Join), Some(Closed::Cap(_))));
        gates.sync_spent(Vec::new());
        assert!(
            matches!(gates.closed(Action::Join), Some(Closed::Gate { .. })),
            "a raised cap opens no gate"
        );
        gates.spend(spent(Capped::Join, 90), 0);
        assert!(
            matches!(gates.closed(Action::Join), Some(Closed::Gate { .. })),
            "what was found before the cap was raised closes nothing"
        );
    }
}
