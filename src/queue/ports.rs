//! What the queue needs of its siblings; `cli` wires them. A static [`Sessions`] and a no-op [`Runner`] drive it in tests
//! and in the bench.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wireroom_jobs::{Action, JobArgs, JobError, Lane, Outcome};

use crate::ids::SessionId;
pub use crate::store::claims::ClaimedJob;

/// How many jobs a session runs at once, by lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots {
    pub interactive: i32,
    pub bulk: i32,
    pub watch: i32,
}

impl Slots {
    pub const fn of(self, lane: Lane) -> i32 {
        match lane {
            Lane::Interactive => self.interactive,
            Lane::Bulk => self.bulk,
            Lane::Watch => self.watch,
        }
    }
}

/// A session that this process holds the lease of, and that is ready for work.
#[derive(Debug, Clone)]
pub struct HeldSession {
    pub id: SessionId,
    pub pool: String,
    /// The fence of the lease.
    pub fence: i64,
    pub slots: Slots,
    /// Actions whose gate is closed now.
    pub closed: BTreeSet<Action>,
    /// Whether it takes jobs of its pool, beside its own.
    pub pooled: bool,
    /// Whether it could watch: a bot is given no histories, so a watch of the pool is left to the others.
    pub watches: bool,
    /// Cancelled when trust in the lease ends, or the session is given up: its jobs stop and are handed over.
    pub lost: CancellationToken,
    /// Cancelled as soon as the session is to be given up, and with `lost`: its `watch` jobs are handed over, never awaited.
    pub leaving: CancellationToken,
    /// Holds a token for every job of the session that does not only watch, from its claim until its end is stored.
    pub in_use: TaskTracker,
    /// The same for its `watch` jobs: a session with nothing else counts as idle.
    pub watching: TaskTracker,
}

impl HeldSession {
    /// What stops a job of that lane before its own end.
    pub fn stop_of(&self, lane: Lane) -> CancellationToken {
        match lane {
            Lane::Interactive | Lane::Bulk => self.lost.child_token(),
            Lane::Watch => self.leaving.child_token(),
        }
    }

    /// What counts the jobs of that lane.
    pub fn tracker_of(&self, lane: Lane) -> &TaskTracker {
        match lane {
            Lane::Interactive | Lane::Bulk => &self.in_use,
            Lane::Watch => &self.watching,
        }
    }
}

/// The sessions of this process.
pub trait Sessions: Send + Sync + 'static {
    /// The sessions that may get jobs now. A session that is to be given up is left out, and keeps the jobs it has.
    fn held(&self) -> Vec<HeldSession>;
    /// Changes whenever [`Sessions::held`] would answer something else, a gate that opened by time included.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// One attempt of one job, on its way to the function.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub job: Box<ClaimedJob>,
    pub session: Arc<HeldSession>,
    /// Cancelled when the job is cancelled or taken away, the session is lost, or the process shuts down hard. A function
    /// that does not stop within the hard shutdown's time is dropped.
    pub cancellation: CancellationToken,
}

/// Runs functions.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    async fn run(&self, attempt: Attempt) -> Outcome;
}

/// The args of a claimed job, or the error its job fails with: `args_invalid`, with the field's path.
pub fn decode_args(job: &ClaimedJob) -> Result<JobArgs, JobError> {
    let mut track = serde_path_to_error::Track::new();
    let mut text = serde_json::Deserializer::from_str(job.args.get());
    let source = serde_path_to_error::Deserializer::new(&mut text, &mut track);
    JobArgs::deserialize(job.kind, source).map_err(|_| {
        // serde's message may quote the value, and args may hold a message's text.
        let path = track.path();
        JobError::permanent(
            "args_invalid",
            format!(
                "The stored args do not fit this version's `{}`: args.{path}.",
                job.kind.as_str()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};
    use wireroom_jobs::JobKind;

    use super::*;
    use crate::ids::JobId;

    fn claimed(args: &Value) -> ClaimedJob {
        ClaimedJob {
            id: JobId::generate(),
            kind: JobKind::Join,
            args: to_raw_value(args).expect("JSON"),
            lane: Lane::Bulk,
            session: SessionId::generate(),
            session_fence: 1,
            attempt: 1,
            max_attempts: 1,
            fence: 1,
            created_at: chrono::DateTime::UNIX_EPOCH,
            deadline: None,
            suspect: false,
            pooled: false,
        }
    }

    #[test]
    fn args_that_do_not_decode_fail_without_being_shown() {
        assert!(decode_args(&claimed(&json!({"chat": "@name"}))).is_ok());
        let error = decode_args(&claimed(&json!({"chat": ["secret"]}))).expect_err("a list is no chat");
        assert_eq!((error.code.as_str(), error.retryable), ("args_invalid", false));
        assert!(
            error.message.contains("args.chat") && !error.message.contains("secret"),
            "{error}"
        );
        let error = decode_args(&claimed(&json!({"chat": "@name", "sms": "secret"}))).expect_err("one field too many");
        assert!(!error.message.contains("secret"), "{error}");
    }
}
