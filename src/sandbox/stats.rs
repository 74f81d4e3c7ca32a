//! Counts of what clients asked for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Calls by the method's name in TL.
pub type Counts = BTreeMap<String, u64>;

/// What clients asked for since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// All calls, also those that faults hit.
    pub by_method: Counts,
    /// Calls of methods that the sandbox does not have.
    pub unimplemented: Counts,
    /// Services that broke down over a call. Always a bug of the sandbox.
    pub panicked: Counts,
}

#[derive(Default)]
pub(super) struct Stats {
    calls: Mutex<Calls>,
}

impl Stats {
    pub fn called(&self, method: &str) {
        count(&mut self.lock().by_method, method);
    }

    pub fn unimplemented(&self, method: &str) {
        count(&mut self.lock().unimplemented, method);
    }

    pub fn panicked(&self, method: &str) {
        count(&mut self.lock().panicked, method);
    }

    pub fn calls(&self) -> Calls {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counts: &mut Counts, method: &str) {
    match counts.get_mut(method) {
        Some(number) => *number += 1,
        None => drop(counts.insert(method.to_owned(), 1)),
    }
}
