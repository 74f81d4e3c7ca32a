//! The functions Wireroom runs: one file per kind, pure of SQL, HTTP and grammers.
//!
//! # How to add a kind
//!
//! 1. Write `your_kind.rs`: the args (`deny_unknown_fields`, `JsonSchema`, doc comments: they are the API's docs), the
//!    result, and `impl Job`.
//! 2. Add a variant to [`JobKind`] and [`JobArgs`]. The compiler now names every place that has to know of it.
//! 3. Test it with the fakes in [`testing`], then over the sandbox in the root package's `tests/`.

#![forbid(unsafe_code)]

pub mod chat;
pub mod context;
mod failure;
pub mod invite;
pub mod join;
pub mod kind;
pub mod log;
pub mod markup;
pub mod message;
pub mod monitor;
pub mod outcome;
pub mod outreach;
pub mod ports;
pub mod publish;
pub mod scan;
pub mod stop;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use context::JobContext;
pub use kind::{Action, ArgsError, Job, JobArgs, JobKind, Lane};
pub use log::{LogLevel, LogLine};
pub use outcome::{JobError, Outcome, WaitReason};
