//! Events on their way: from the outbox to the log, and from the log to those who subscribe. Any number of processes may run
//! both; none leads.

mod addresses;
mod backoff;
mod deliverer;
mod runner;
mod sender;
mod sequencer;
mod signature;
#[cfg(test)]
mod tests;

pub use self::{
    deliverer::{Deliverer, DelivererDeps},
    sequencer::{Announce, Sequencer},
    signature::{SigningKey, header as signature_header},
};
