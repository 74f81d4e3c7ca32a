//! A held session as the queue sees it: what may run on it now, and when to stop.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;
use wireroom_jobs::{Action, Lane};

use crate::{
    ids::SessionId,
    store::sessions::Sign,
    telegram::{
        connection::Connection,
        gates::Gates,
        pace::Pace,
        port::{AttemptHooks, JobTelegram, PortSettings},
        trouble::Trouble,
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
    /// The same for jobs that only watch, which are asked to go and keep no session busy.
    pub watching: TaskTracker,
    pub(super) connection: Arc<Connection>,
    pub(super) gates: Arc<Gates>,
    pub(super) pace: Arc<Pace>,
    pub(super) trouble: Arc<Trouble>,
    pub(super) port: PortSettings,
    /// A cheap call came back since the connection was made.
    pub(super) answers: AtomicBool,
    /// The check that was begun last.
    pub(super) last_check: Mutex<Option<Uuid>>,
    /// It gets no new jobs, because it is to be given up.
    pub(super) leaving: AtomicBool,
    /// Tells jobs that only watch to go; another one each time the session stays after all.
    pub(super) departure: Mutex<CancellationToken>,
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
    /// Actions whose gate is closed everywhere, or whose cap is spent: jobs of their kinds are not to be claimed for this session.
    pub fn closed_actions(&self) -> Vec<Action> {
        self.gates.closed_actions()
    }

    /// Whether jobs of the pool may be claimed for it, beside its own.
    pub fn takes_pooled(&self) -> bool {
        self.gates.takes_pooled()
    }

    /// Whether the account is a bot.
    pub fn is_bot(&self) -> bool {
        self.connection.storage().is_bot()
    }

    /// The port of one attempt of one job.
    pub fn telegram_for(&self, hooks: AttemptHooks) -> JobTelegram {
        JobTelegram::new(
            Arc::clone(&self.connection),
            Arc::clone(&self.gates),
            Arc::clone(&self.pace),
            Arc::clone(&self.trouble),
            self.port.clone(),
            hooks,
        )
    }

    /// Cancelled when the session is to be given up, or is lost.
    pub fn leaving(&self) -> CancellationToken {
        self.lock_departure().clone()
    }

    /// Takes no more jobs, and tells those that only watch to go.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.lock_departure().cancel();
    }

    /// Takes jobs again.
    pub(super) fn stay(&self) {
        self.in_use.reopen();
        self.watching.reopen();
        *self.lock_departure() = self.lost.child_token();
        self.leaving.store(false, Ordering::Release);
    }

    /// Returns when no job is left.
    pub(super) async fn empty(&self) {
        self.in_use.close();
        self.watching.close();
        tokio::join!(self.in_use.wait(), self.watching.wait());
    }

    fn lock_departure(&self) -> std::sync::MutexGuard<'_, CancellationToken> {
        self.departure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may get jobs now.
    pub fn takes_jobs(&self) -> bool {
        self.answers.load(Ordering::Acquire)
            && !self.leaving.load(Ordering::Acquire)
            && !self.trouble.is_there()
            && !self.lost.is_cancelled()
            && self.trust().holds()
    }

    /// `false`: it is made already.
    pub(super) fn begin_check(&self, check: Uuid) -> bool {
        let mut last = self.last_check.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids of checks sort by the time of asking.
        let is_new = last.is_none_or(|last| last < check);
        if is_new {
            *last = Some(check);
        }
        is_new
    }

    /// What was seen of the session since this was asked last; `None` when that is nothing.
    pub(super) fn take_sign(&self) -> Option<Sign> {
        let sign = Sign {
            session: self.id,
            called: self.connection.take_called(),
            updated: self.connection.take_updated(),
        };
        (sign.called || sign.updated).then_some(sign)
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        self.connection.trust()
    }
}
