//! How an endpoint fares, as far as this process has seen it.

use std::time::Duration;

use super::{
    super::backoff::{self, BREAK_AFTER},
    Attempt,
};
use crate::store::deliveries::Fortune;

#[derive(Debug, Default)]
pub(super) struct Fate {
    failures: i32,
    succeeded: bool,
    opens: u32,
    /// Nothing may be sent for now.
    pub is_open: bool,
    /// To be stored.
    open_for: Option<Duration>,
    /// The endpoint says that it is gone for good.
    pub is_gone: bool,
    pub last_status: Option<u16>,
}

impl Fate {
    /// After so many failures in a row.
    pub fn new(failures: i32) -> Self {
        Self {
            failures,
            ..Self::default()
        }
    }

    /// Nobody knows whether the endpoint is well again.
    pub fn is_in_doubt(&self) -> bool {
        self.failures >= BREAK_AFTER
    }

    pub fn saw(&mut self, attempt: &Attempt) {
        self.last_status = attempt.status;
        self.is_gone |= attempt.is_gone();
        if attempt.is_taken() {
            self.failures = 0;
            self.opens = 0;
            self.succeeded = true;
            return;
        }
        self.failures = self.failures.saturating_add(1);
        // Those that were on their way when it opened say nothing new.
        if self.is_in_doubt() && !self.is_open {
            self.opens = self.opens.saturating_add(1);
            self.is_open = true;
            self.open_for = Some(backoff::rest(self.opens));
        }
    }

    /// What is to be stored of it, since the last time.
    pub fn fortune(&mut self) -> Fortune {
        Fortune {
            failures: self.failures,
            succeeded: std::mem::take(&mut self.succeeded),
            open_for: self.open_for.take(),
        }
    }
}
