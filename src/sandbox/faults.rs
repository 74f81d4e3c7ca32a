//! Scripted faults: what goes wrong with the next calls.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::call::{RpcError, UserId};

/// A fault to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The method's name in TL, such as `messages.sendMessage`, or `*` for every method.
    pub method: String,
    /// The account whose calls are hit; `None` for everyone's. A call before sign-in counts for the account whose
    /// phone number it names.
    #[serde(default)]
    pub account: Option<UserId>,
    /// How many calls are hit; `None` for all until it is cleared.
    #[serde(default)]
    pub count: Option<u32>,
    pub effect: Effect,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// It is answered by an error, and not run.
    Error { code: i32, name: String },
    /// It is run, and answered by an error nevertheless.
    ErrorAfter { code: i32, name: String },
    /// It is run, and never answered.
    LoseAnswer,
    /// It is run, and answered by what nobody can read.
    Unreadable,
    /// The connection is closed instead of running it.
    Drop,
    /// It is run, and the connection is closed instead of answering.
    DropAfter,
    /// The connection stays open and falls silent; the call is not run.
    Blackhole,
    /// It is run, and the connection falls silent instead of answering.
    BlackholeAfter,
    /// It is run later. The connection's other calls go on.
    Delay { ms: u64 },
    /// It is run when the fault is removed, which stays listed for as long. The connection's other calls go on.
    Hold,
    /// Not calls but updates pushed to the account are lost, `count` of them. The method must be `*`.
    LoseUpdates,
    /// Not calls but updates pushed to the account come twice, `count` of them. The method must be `*`.
    DuplicateUpdates,
}

impl Effect {
    /// Whether it happens to updates and not to calls.
    pub const fn is_for_updates(&self) -> bool {
        matches!(self, Self::LoseUpdates | Self::DuplicateUpdates)
    }

    /// `FLOOD_WAIT_x`: the caller must wait for so many seconds.
    pub fn flood_wait(seconds: u32) -> Self {
        Self::Error {
            code: 420,
            name: format!("FLOOD_WAIT_{seconds}"),
        }
    }
}

impl Fault {
    /// A fault that hits the next call of `method`, whoever makes it.
    pub fn once(method: impl Into<String>, effect: Effect) -> Self {
        Self {
            method: method.into(),
            account: None,
            count: Some(1),
            effect,
        }
    }

    /// The same for one account.
    #[must_use]
    pub fn of(mut self, account: UserId) -> Self {
        self.account = Some(account);
        self
    }

    /// The same for so many calls.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// The same until it is cleared.
    #[must_use]
    pub fn forever(mut self) -> Self {
        self.count = None;
        self
    }

    fn hits(&self, method: &str, account: Option<UserId>) -> bool {
        (self.method == "*" || self.method == method) && (self.account.is_none() || self.account == account)
    }
}

/// A fault in the list, with the number to clear it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedFault {
    pub id: u64,
    #[serde(flatten)]
    pub fault: Fault,
}

/// What a fault makes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub start: Start,
    pub run: bool,
    pub ending: Ending,
}

/// When a call is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    AtOnce,
    After(Duration),
    /// Once the fault of this id is removed.
    Removed(u64),
}

/// How a call ends for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// With what running it gave.
    Answer,
    Error(RpcError),
    /// With a constructor that no layer has.
    Unreadable,
    Silence,
    Drop,
    Blackhole,
}

impl Plan {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        start: Start::AtOnce,
        run: true,
        ending: Ending::Answer,
    };
}

/// The faults to come, in the order in which they were added. The first that fits a call hits it.
#[derive(Default)]
pub(super) struct Faults {
    list: Mutex<List>,
    /// Told of every removal.
    removals: watch::Sender<()>,
}

#[derive(Default)]
struct List {
    next_id: u64,
    faults: Vec<ListedFault>,
}

impl Faults {
    /// Adds a fault, and gives its id.
    pub fn add(&self, fault: Fault) -> u64 {
        let mut list = self.lock();
        list.next_id += 1;
        let id = list.next_id;
        if fault.count != Some(0) {
            list.faults.push(ListedFault { id, fault });
        }
        id
    }

    pub fn list(&self) -> Vec<ListedFault> {
        self.lock().faults.clone()
    }

    pub fn clear(&self) {
        self.lock().faults.clear();
        self.removals.send_replace(());
    }

    /// Removes one fault. Whether it was still there.
    pub fn remove(&self, id: u64) -> bool {
        let was_there = {
            let mut list = self.lock();
            let before = list.faults.len();
            list.faults.retain(|listed| listed.id != id);
            list.faults.len() < before
        };
        self.removals.send_replace(());
        was_there
    }

    /// Waits until a fault is removed.
    pub async fn removed(&self, id: u64) {
        let mut removals = self.removals.subscribe();
        let is_gone = || self.lock().faults.iter().all(|listed| listed.id != id);
        // It ends with the sender, which is borrowed here.
        let _ = removals.wait_for(|()| is_gone()).await;
    }

    /// Whether no call can be hit.
    pub fn is_empty(&self) -> bool {
        self.lock().faults.is_empty()
    }

    /// What happens to a call, used up.
    pub fn plan(&self, method: &str, account: Option<UserId>) -> Plan {
        let taken = self.take(|fault| !fault.effect.is_for_updates() && fault.hits(method, account));
        let Some((id, effect)) = taken else {
            return Plan::NONE;
        };
        let plan = |run, ending| Plan {
            start: Start::AtOnce,
            run,
            ending,
        };
        let later = |start| Plan { start, ..Plan::NONE };
        match effect {
            Effect::LoseUpdates | Effect::DuplicateUpdates | Effect::Delay { ms: 0 } => Plan::NONE,
            Effect::Error { code, name } => plan(false, Ending::Error(RpcError::new(code, name))),
            Effect::ErrorAfter { code, name } => plan(true, Ending::Error(RpcError::new(code, name))),
            Effect::LoseAnswer => plan(true, Ending::Silence),
            Effect::Unreadable => plan(true, Ending::Unreadable),
            Effect::Drop => plan(false, Ending::Drop),
            Effect::DropAfter => plan(true, Ending::Drop),
            Effect::Blackhole => plan(false, Ending::Blackhole),
            Effect::BlackholeAfter => plan(true, Ending::Blackhole),
            Effect::Delay { ms } => later(Start::After(Duration::from_millis(ms))),
            Effect::Hold => later(Start::Removed(id)),
        }
    }

    /// How often an update for an account is pushed, used up: once when nothing goes wrong.
    pub fn copies_of_update(&self, account: UserId) -> usize {
        match self.take(|fault| fault.effect.is_for_updates() && fault.hits("*", Some(account))) {
            Some((_, Effect::LoseUpdates)) => 0,
            Some((_, Effect::DuplicateUpdates)) => 2,
            _ => 1,
        }
    }

    /// The first fault that fits: its id and effect, with one use less.
    fn take(&self, fits: impl Fn(&Fault) -> bool) -> Option<(u64, Effect)> {
        let mut list = self.lock();
        let has_uses = |fault: &Fault| fault.count != Some(0);
        let at = list
            .faults
            .iter()
            .position(|listed| has_uses(&listed.fault) && fits(&listed.fault))?;
        let ListedFault { id, fault } = &mut list.faults[at];
        let taken = (*id, fault.effect.clone());
        if let Some(count) = &mut fault.count {
            *count -= 1;
        }
        // What is held waits for the removal.
        if !has_uses(fault) && fault.effect != Effect::Hold {
            list.faults.remove(at);
        }
        Some(taken)
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: &str = "messages.sendMessage";

    #[test]
    fn a_fault_hits_its_method_its_account_and_its_count() {
        let faults = Faults::default();
        faults.add(Fault::once(SEND, Effect::flood_wait(30)).of(7).times(2));
        assert_eq!(faults.plan("messages.getHistory", Some(7)), Plan::NONE);
        assert_eq!(faults.plan(SEND, Some(8)), Plan::NONE);
        assert_eq!(faults.plan(SEND, None), Plan::NONE);
        let flood = Ending::Error(RpcError::new(420, "FLOOD_WAIT_30"));
        assert_eq!(faults.plan(SEND, Some(7)).ending, flood);
        assert!(!faults.plan(SEND, Some(7)).run);
        assert_eq!(faults.plan(SEND, Some(7)), Plan::NONE);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn a_fault_for_every_method_stays_until_cleared() {
        let faults = Faults::default();
        let id = faults.add(Fault::once("*", Effect::LoseAnswer).forever());
        for _ in 0..3 {
            assert_eq!(
                faults.plan(SEND, None),
                Plan {
                    ending: Ending::Silence,
                    ..Plan::NONE
                }
            );
        }
        assert!(faults.remove(id) && !faults.remove(id));
        assert_eq!(faults.plan(SEND, None), Plan::NONE);
    }

    #[test]
    fn updates_are_lost_and_doubled_apart_from_calls() {
        let faults = Faults::default();
        faults.add(Fault::once("*", Effect::LoseUpdates).of(7));
        assert_eq!(faults.plan(SEND, Some(7)), Plan::NONE);
        faults.add(Fault::once("*", Effect::DuplicateUpdates).of(7));
        let copies = |account| faults.copies_of_update(account);
        assert_eq!((copies(8), copies(7), copies(7), copies(7)), (1, 0, 2, 1));
    }

    #[tokio::test]
    async fn a_call_is_held_until_its_fault_is_removed() {
        let faults = Faults::default();
        let id = faults.add(Fault::once(SEND, Effect::Hold));
        assert_eq!(faults.plan(SEND, None).start, Start::Removed(id));
        assert_eq!(faults.plan(SEND, None), Plan::NONE, "the one call alone");
        let held = faults.removed(id);
        tokio::pin!(held);
        let other = faults.add(Fault::once(SEND, Effect::LoseAnswer));
        assert!(faults.remove(other));
        assert!(futures::poll!(&mut held).is_pending());
        assert!(faults.remove(id));
        assert!(futures::poll!(&mut held).is_ready());
    }

    #[test]
    fn a_fault_is_read_from_json() {
        let json = r#"{"method": "*", "effect": {"type": "delay", "ms": 50}}"#;
        let fault: Fault = serde_json::from_str(json).expect("reads");
        assert_eq!(fault, Fault::once("*", Effect::Delay { ms: 50 }).forever());
        assert!(serde_json::from_str::<Fault>(r#"{"method": "*", "effect": {"type": "explode"}}"#).is_err());
    }
}
