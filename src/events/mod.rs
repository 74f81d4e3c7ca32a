//! Events on their way: from the outbox to the log, and from the log to those who subscribe. Any number of processes may run
//! both; none leads.

mod sequencer;

pub use self::sequencer::{Announce, Sequencer};
