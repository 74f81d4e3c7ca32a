//! A held session as the queue sees it: what may run on it now, and when to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, Utc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wireroom_jobs::{Action, Lane};

use crate::{
    ids::SessionId,
    telegram::{
        connection::Connection,
        gates::Gates,
        port::{AttemptHooks, JobTelegram, PortSettings},
        trust::Trust,
    },
};

/// How many jobs of each lane a session runs at once.
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

/// A session this process holds the lease of.
pub struct HeldSession {
    pub id: SessionId,
    pub pool: String,
    /// The lease's fence.
    pub fence: i64,
    pub slots: Slots,
    /// Cancelled when the session is lost or given up for good: jobs on it stop and are handed over. By then nothing is
    /// sent any more.
    pub lost: CancellationToken,
    /// Jobs hold a token from their claim until their end is stored. A session is given up when there is none.
    pub in_use: TaskTracker,
    pub(super) connection: Arc<Connection>,
    pub(super) gates: Arc<Gates>,
    pub(super) port: PortSettings,
    /// A cheap call came back since the connection was made.
    pub(super) answers: AtomicBool,
    /// It gets no new jobs, because it is to be given up.
    pub(super) leaving: AtomicBool,
}

impl std::fmt::Debug for HeldSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldSession")
            .field("id", &self.id)
            .field("pool", &self.pool)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

impl HeldSession {
    /// Actions whose gate is closed everywhere: jobs of their kinds are not to be claimed for this session.
    pub fn closed_actions(&self, now: DateTime<Utc>) -> Vec<Action> {
        self.gates.closed_actions(now)
    }

    /// The port of one attempt of one job.
    pub fn telegram_for(&self, hooks: AttemptHooks) -> JobTelegram {
        JobTelegram::new(
            Arc::clone(&self.connection),
            Arc::clone(&self.gates),
            self.port.clone(),
            hooks,
        )
    }

    /// Whether it may get jobs now.
    pub fn takes_jobs(&self) -> bool {
        self.answers.load(Ordering::Acquire)
            && !self.leaving.load(Ordering::Acquire)
            && !self.lost.is_cancelled()
            && self.trust().holds()
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        self.connection.trust()
    }
}
