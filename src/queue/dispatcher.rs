//! The one loop per process that promotes and claims. Admission is its alone: slots, lanes and gates are looked at here,
//! and what comes out of it may run at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use wireroom_jobs::{Lane, Outcome};

use super::{
    backend::Dispatched,
    backoff::Random,
    batcher::{Ended, Endings},
    control::{Control, LOOK_EVERY},
    endings::{self, AttemptFacts},
    flights::Flights,
    outage::Outage,
    plan::{self, Room},
    ports::{HeldSession, Sessions},
    waker::Waker,
};
use crate::{
    config::QueueConfig,
    ids::{SessionId, WorkerId},
    store::{
        PgConnection, StoreError,
        claims::{self, ClaimRequest, ClaimedJob, Promotion},
        limited_claims::{Claim, claim_within},
        limits::Limits,
        line::{Line, bounded},
        own_claims::claim_own,
        rates,
    },
};

/// Most jobs of one promotion.
const PROMOTE_BATCH: i64 = 1000;

/// How soon a claim is tried again that concurrency limits may have kept short, doubled while it brings nothing: another
/// worker's claim may have been in the way, or another worker's job may end.
const LIMITED_AGAIN: Duration = Duration::from_millis(25);
const LIMITED_AGAIN_MOST: Duration = Duration::from_millis(400);
/// How often watches are asked for. What comes between waits for the next time, or the next look.
const WATCHES_EVERY: Duration = Duration::from_millis(200);

/// Most statements of one round that bring jobs into a limit key's line.
const LINE_STATEMENTS: usize = 20;

/// Everything the loop needs.
pub struct Dispatcher {
    pub line: Line,
    pub config: QueueConfig,
    pub worker: WorkerId,
    pub sessions: Arc<dyn Sessions>,
    pub flights: Arc<Flights>,
    pub endings: Endings,
    pub jobs: mpsc::UnboundedSender<Dispatched>,
    pub waker: Waker,
    pub outage: Outage,
    pub random: Arc<dyn Random>,
    /// Set when a claim's answer was lost: jobs may be ours without our knowing.
    pub in_doubt: Arc<AtomicBool>,
    /// What the latest promotion said, for the rescue.
    pub rescue_wanted: Arc<AtomicBool>,
    /// Rung when a schedule is to be looked at.
    pub ticks_due: Arc<Notify>,
    /// Nothing is claimed once this is cancelled.
    pub stop: CancellationToken,
}

/// What the loop knows from one round to the next.
#[expect(clippy::struct_excessive_bools, reason = "facts that change apart from each other")]
struct Memory {
    held: Vec<Arc<HeldSession>>,
    /// Whether `held` is out of date.
    changed: watch::Receiver<u64>,
    /// The lanes that some kind uses, and those of this round.
    lanes: Vec<Lane>,
    asked_lanes: Vec<Lane>,
    /// When watches are asked for again: they last, and beginning one takes calls.
    watches_at: Instant,
    first: usize,
    /// When the next scheduled job is due, counted from the moment it was learnt.
    next_due: Option<Instant>,
    promote: bool,
    /// A slot that comes free may find a ready job.
    hungry: bool,
    /// Too many ends are not stored: nothing is claimed until they are.
    held_back: bool,
    failures: u32,
    control: Control,
    /// The version that the latest promotion saw, and the one that `control` is not older than.
    control_version: Option<i64>,
    control_known: Option<i64>,
    /// When the first pause ends by itself.
    pause_ends: Option<Instant>,
    poll_at: Instant,
    /// The latest jobs were their sessions' own, so the next ones may be.
    own_first: bool,
    /// When a claim is tried again that limits kept short.
    again_at: Option<Instant>,
    again_in: Duration,
}

impl Dispatcher {
    /// Runs until `stop`. Dropping the dispatcher ends the stream of claimed jobs.
    pub async fn run(mut self) {
        // Subscribed to before the first look: a change that comes during it is seen.
        let changed = self.sessions.changed();
        let mut memory = Memory {
            held: self.held(),
            changed,
            lanes: plan::lanes(),
            asked_lanes: Vec::new(),
            watches_at: Instant::now(),
            first: 0,
            next_due: None,
            promote: true,
            hungry: false,
            held_back: false,
            failures: 0,
            control: Control::default(),
            control_version: None,
            control_known: None,
            pause_ends: None,
            poll_at: Instant::now() + self.poll(),
            own_first: true,
            again_at: None,
            again_in: LIMITED_AGAIN,
        };
        while !self.stop.is_cancelled() {
            match self.round(&mut memory).await {
                Ok(()) => {
                    memory.failures = 0;
                    self.outage.worked();
                }
                Err(error) => {
                    self.line.hang_up();
                    self.in_doubt.store(true, Ordering::Release);
                    self.rescue_wanted.store(true, Ordering::Release);
                    memory.promote = true;
                    tokio::select! {
                        () = self.outage.failed(&error, memory.failures) => {}
                        () = self.stop.cancelled() => {}
                    }
                    memory.failures += 1;
                    continue;
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.waker.woken() => {}
                () = self.flights.slot_freed(), if memory.hungry && !memory.held_back => {}
                () = self.endings.at_most(self.most_unstored()), if memory.held_back => {}
                Ok(()) = memory.changed.changed() => memory.held = self.held(),
                () = until(memory.next_due) => memory.promote = true,
                () = until(memory.again_at) => {}
                () = until(memory.pause_ends) => {
                    memory.pause_ends = None;
                    memory.control_known = None;
                    memory.promote = true;
                }
                () = until(Some(memory.poll_at)) => {}
            }
            // Not as one event among others: under load another one is always there.
            if Instant::now() >= memory.poll_at {
                memory.poll_at = Instant::now() + self.poll();
                memory.promote = true;
                memory.held = self.held();
            }
            memory.promote |= self.waker.take_scheduled();
        }
        // From here on nobody looks whether it is wanted.
        self.rescue_wanted.store(true, Ordering::Release);
    }

    /// How often what is due is looked for, and whether a pause or a limit was changed.
    fn poll(&self) -> Duration {
        self.config.poll.min(LOOK_EVERY)
    }

    fn held(&self) -> Vec<Arc<HeldSession>> {
        self.sessions.held().into_iter().map(Arc::new).collect()
    }

    async fn round(&mut self, memory: &mut Memory) -> Result<(), StoreError> {
        memory.again_at = None;
        if memory.promote {
            let promotion = self.promote().await?;
            memory.promote = promotion.next_in == Some(Duration::ZERO);
            memory.next_due = promotion.next_in.map(|next_in| Instant::now() + next_in);
            memory.control_version = Some(promotion.control_version);
            self.rescue_wanted.store(promotion.rescue_wanted, Ordering::Release);
            if promotion.tick_in.is_some_and(|tick_in| tick_in < self.poll()) {
                self.ticks_due.notify_one();
            }
            if promotion.promoted > 0 {
                // The sessions of these jobs may be held elsewhere.
                self.waker.ready();
            }
            if !promotion.any_ready {
                // What is enqueued from now on rings, or is found by the next promotion.
                memory.hungry = false;
                return Ok(());
            }
        }
        self.learn_control(memory).await?;
        memory.choose_lanes();
        memory.hungry = false;
        let mut turn = 0;
        memory.held_back = false;
        while !self.stop.is_cancelled() {
            if self.endings.waiting() > self.most_unstored() {
                memory.held_back = true;
                return Ok(());
            }
            let Some(more) = self.claim(memory, turn).await? else {
                break;
            };
            if !more {
                break;
            }
            turn += 1;
        }
        memory.first = memory.first.wrapping_add(1);
        Ok(())
    }

    /// Reads pauses and limits again when they changed, or may have.
    async fn learn_control(&mut self, memory: &mut Memory) -> Result<(), StoreError> {
        // Taken before the read: a change that comes during it is read again.
        if self.waker.take_control() {
            memory.control_known = None;
        }
        let ended = memory.pause_ends.is_some_and(|ends| Instant::now() >= ends);
        if ended || memory.control_known.is_none() || memory.control_known != memory.control_version {
            // Unknown until it is read, whatever becomes of the reading.
            memory.control_known = None;
            let (control, ends_in) = bounded("control", Control::load(self.line.open("control").await?)).await?;
            memory.control = control;
            memory.control_known = memory.control_version;
            memory.pause_ends = ends_in.map(|ends_in| Instant::now() + ends_in);
        }
        Ok(())
    }

    /// Claims stop while more ends than this cannot be stored: what is in memory stays bounded.
    fn most_unstored(&self) -> usize {
        usize::try_from(self.config.claim_batch).unwrap_or(0).saturating_mul(4)
    }

    async fn promote(&mut self) -> Result<Promotion, StoreError> {
        bounded(
            "promote",
            claims::promote(self.line.open("promote").await?, PROMOTE_BATCH),
        )
        .await
    }

    /// Claims for one turn; tells whether there are more turns, or `None` when nobody has room in this one.
    async fn claim(&mut self, memory: &mut Memory, turn: usize) -> Result<Option<bool>, StoreError> {
        let take_suspect = !self.flights.has_suspect();
        let plan = {
            let taken = self.flights.taken();
            // Looked at while no slot comes free: what an attempt found out about its session is known before its slot is given
            // to the next job.
            if memory.changed.has_changed().unwrap_or(false) {
                drop(memory.changed.borrow_and_update());
                memory.held = self.held();
            }
            let room = Room {
                worker: self.worker,
                held: &memory.held,
                first: memory.first,
                batch: self.config.claim_batch,
                take_suspect,
                control: &memory.control,
            };
            plan::plan(&room, &memory.asked_lanes, turn, |session, lane| {
                taken.of(session, lane)
            })
        };
        let Some(plan) = plan else {
            memory.hungry |= !memory.held.is_empty();
            return Ok(None);
        };
        memory.hungry |= plan.left_out || !take_suspect;
        if !plan.request.members.is_empty() {
            let limits = &memory.control.limits;
            let claim = claim(self.line.open("claim").await?, &plan.request, limits, memory.own_first).await?;
            let brought = !claim.jobs.is_empty();
            if brought {
                memory.own_first = !claim.jobs.iter().any(|job| job.pooled);
            }
            let counted = !limits.concurrency.is_empty();
            if brought {
                self.dispatch(claim.jobs, &memory.held);
            }
            // A full claim may have left jobs behind; so may one that took only the first of several suspects.
            memory.hungry |= brought;
            if counted {
                memory.try_again_soon(brought);
            }
            if !claim.spent_keys.is_empty() {
                self.stand_in_line(&claim.spent_keys).await?;
                // When the first turn comes is for the promotion to learn; and the slots are still free.
                memory.next_due = Some(Instant::now());
            }
        }
        Ok(Some(plan.more_turns))
    }

    /// Brings what is ready of spent keys into their lines; what is too much for one round follows with the next.
    async fn stand_in_line(&mut self, keys: &[String]) -> Result<(), StoreError> {
        let mut statements = 0;
        for key in keys {
            loop {
                let conn = self.line.open("stand_in_line").await?;
                let moved = bounded("stand_in_line", rates::stand_in_line(conn, key)).await?;
                statements += 1;
                if statements >= LINE_STATEMENTS {
                    return Ok(());
                }
                if moved < rates::BATCH {
                    break;
                }
            }
        }
        Ok(())
    }

    fn dispatch(&self, claimed: impl IntoIterator<Item = Box<ClaimedJob>>, held: &[Arc<HeldSession>]) {
        let sessions: HashMap<SessionId, &Arc<HeldSession>> = held.iter().map(|held| (held.id, held)).collect();
        for job in claimed {
            match sessions.get(&job.session) {
                Some(session) if !self.stop.is_cancelled() => self.launch(job, session),
                _ => self.give_back(&job),
            }
        }
    }

    fn launch(&self, job: Box<ClaimedJob>, session: &Arc<HeldSession>) {
        let cancellation = session.stop_of(job.lane);
        self.flights.begin(&job, cancellation.clone());
        let key = (job.id, job.fence);
        let dispatched = Dispatched {
            in_use: Some(session.tracker_of(job.lane).token()),
            session: session.clone(),
            cancellation,
            job,
        };
        if let Err(mpsc::error::SendError(dispatched)) = self.jobs.send(dispatched) {
            tracing::error!("nothing runs the claimed jobs any more; claiming stops");
            self.stop.cancel();
            self.flights.end(key);
            self.give_back(&dispatched.job);
        }
    }

    /// A job that came after the stop goes back at once, its attempt refunded.
    fn give_back(&self, job: &ClaimedJob) {
        let facts = AttemptFacts {
            id: job.id,
            fence: job.fence,
            kind: job.kind,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
        };
        self.endings.push(Ended {
            ending: endings::of(facts, Outcome::Cancelled, true, self.random.as_ref()),
            in_use: None,
        });
    }
}

impl Memory {
    /// All lanes, or all but the watches' when those were asked for a moment ago.
    fn choose_lanes(&mut self) {
        let now = Instant::now();
        let with_watches = now >= self.watches_at;
        if with_watches {
            self.watches_at = now + WATCHES_EVERY;
        }
        let asked = self.lanes.iter().filter(|lane| with_watches || **lane != Lane::Watch);
        self.asked_lanes.clear();
        self.asked_lanes.extend(asked);
    }

    fn try_again_soon(&mut self, brought: bool) {
        if brought {
            self.again_in = LIMITED_AGAIN;
        }
        let again_at = Instant::now() + self.again_in;
        self.again_at = Some(self.again_at.map_or(again_at, |planned| planned.min(again_at)));
        self.again_in = (self.again_in * 2).min(LIMITED_AGAIN_MOST);
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Claims what is asked for: by the smaller statement when that may do, and by the one for everything when it brings nothing.
async fn claim(
    conn: &mut PgConnection,
    request: &ClaimRequest,
    limits: &Limits,
    own_first: bool,
) -> Result<Claim, StoreError> {
    if own_first && limits.is_empty() {
        let jobs = bounded("claim_own", claim_own(conn, request)).await?;
        if !jobs.is_empty() {
            return Ok(Claim {
                jobs,
                ..Claim::default()
            });
        }
    }
    bounded("claim", claim_within(conn, request, limits)).await
}
