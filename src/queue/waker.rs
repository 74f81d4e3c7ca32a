//! Waking: the dispatcher of this process directly, those of the others by one coalesced NOTIFY, sent by a task of its own
//! outside of any transaction. The same channel carries cancels, and, while somebody waits for a job to finish, the ids of
//! finished jobs. A notification that is lost is found by polling: it makes things faster, never possible.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::{Uuid, fmt::Simple};

use super::{backoff::SystemRandom, outage::Outage};
use crate::{
    ids::JobId,
    store::{
        PgPool, StoreError,
        jobs::NewJob,
        line::{Line, bounded},
        notifications::{self, Listener, Ring},
    },
};

/// The shortest time between two NOTIFY statements.
const COALESCE: Duration = Duration::from_millis(3);
/// The shortest time between two rings: longer than a commit takes, so that hardly ever two of them wait for each other.
const RING_EVERY: Duration = Duration::from_millis(10);
/// The topic of jobs that may be claimed.
const READY: &str = "ready";
/// The topic of events that can be read, with how far.
const LOGGED: &str = "logged";
/// How often a process says that somebody in it waits for finished jobs.
const WAITING_EVERY: Duration = Duration::from_secs(1);
/// For how many of those the others believe it.
const WAITING_FOR: u8 = 3;

/// The process's bell; clones are the same bell. The last one dropped ends its tasks.
#[derive(Clone)]
pub struct Waker {
    bell: Arc<Bell>,
    _tasks: Arc<DropGuard>,
}

struct Bell {
    origin: Uuid,
    ready: Notify,
    scheduled: AtomicBool,
    control: AtomicBool,
    sessions: Notify,
    errands: Arc<Notify>,
    events: Arc<Notify>,
    cancelled: broadcast::Sender<JobId>,
    finished: broadcast::Sender<Arc<[JobId]>>,
    /// How far the log of events goes.
    logged: watch::Sender<i64>,
    waiters: AtomicUsize,
    /// Counts down each second since another process last said that somebody waits there.
    others_wait: AtomicU8,
    outbox: Mutex<Outbox>,
    posted: Notify,
    /// When the latest ring was given out.
    rung_at: Mutex<Option<Instant>>,
    outage: Outage,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one flag per topic, each set or not by itself"
)]
struct Outbox {
    ready: bool,
    scheduled: bool,
    control: bool,
    sessions: bool,
    errands: bool,
    events: bool,
    waiting: bool,
    cancelled: Vec<JobId>,
    finished: Vec<JobId>,
    logged: Option<i64>,
}

impl Waker {
    /// Starts the process's one listener and its sender. One per process.
    pub fn start(pool: PgPool) -> Self {
        let bell = Arc::new(Bell {
            origin: Uuid::new_v4(),
            ready: Notify::new(),
            scheduled: AtomicBool::new(false),
            control: AtomicBool::new(false),
            sessions: Notify::new(),
            errands: Arc::default(),
            events: Arc::default(),
            cancelled: broadcast::channel(1024).0,
            finished: broadcast::channel(4096).0,
            logged: watch::Sender::new(0),
            waiters: AtomicUsize::new(0),
            others_wait: AtomicU8::new(0),
            outbox: Mutex::default(),
            posted: Notify::new(),
            rung_at: Mutex::default(),
            outage: Outage::new(Arc::new(SystemRandom)),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(send(bell.clone(), pool.clone())));
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen(bell.clone(), pool)));
        Self {
            bell,
            _tasks: Arc::new(stop.drop_guard()),
        }
    }

    /// A ring for the transaction that is about to store these jobs: for a single one that is due, when none was given out in the
    /// last moments. What comes faster than that shares a notification of its own, since commits that notify wait for
    /// each other.
    pub fn ring(&self, jobs: &[NewJob]) -> Option<Ring> {
        let [job] = jobs else { return None };
        if job.run_at.is_some() || !self.bell.may_ring(Instant::now()) {
            return None;
        }
        Some(Ring::new(payload(self.bell.origin.simple(), READY)))
    }

    /// Call it after the commit of an enqueue, with the ring that went along.
    pub fn enqueued(&self, jobs: &[NewJob], ring: Option<&Ring>) {
        let scheduled = jobs.iter().any(|job| job.run_at.is_some());
        if scheduled {
            self.scheduled();
        }
        if jobs.iter().any(|job| job.run_at.is_none()) {
            match ring {
                // The others have heard.
                Some(_) => self.bell.ready.notify_one(),
                None => self.ready(),
            }
        }
    }

    /// There are jobs that may be claimed.
    pub fn ready(&self) {
        self.bell.ready.notify_one();
        self.bell.post(|outbox| outbox.ready = true);
    }

    /// There are jobs with a time ahead.
    pub fn scheduled(&self) {
        self.bell.scheduled.store(true, Ordering::Release);
        self.bell.ready.notify_one();
        self.bell.post(|outbox| outbox.scheduled = true);
    }

    /// Call it after the commit of a change to a pause or a limit.
    pub fn control_changed(&self) {
        self.bell.control.store(true, Ordering::Release);
        self.bell.ready.notify_one();
        self.bell.post(|outbox| outbox.control = true);
    }

    /// Call it after the commit of a change to a session that its holder must know of.
    pub fn sessions_changed(&self) {
        self.bell.sessions.notify_one();
        self.bell.post(|outbox| outbox.sessions = true);
    }

    /// Resolves when sessions were changed since the last time, or may have been.
    pub async fn sessions_told(&self) {
        self.bell.sessions.notified().await;
    }

    /// Call it after the commit of something asked of the workers for a session, a login above all.
    pub fn errand_asked(&self) {
        self.bell.errands.notify_one();
        self.bell.post(|outbox| outbox.errands = true);
    }

    /// Rung when something was asked, here or elsewhere. For one listener.
    pub fn errands(&self) -> Arc<Notify> {
        Arc::clone(&self.bell.errands)
    }

    /// Call it after the commit of a change that the processes' looks at events have to notice: a subscription above all.
    pub fn events_asked(&self) {
        self.bell.events.notify_one();
        self.bell.post(|outbox| outbox.events = true);
    }

    /// Rung when events have to be looked at, since something was asked here or elsewhere. For one listener.
    pub fn events(&self) -> Arc<Notify> {
        Arc::clone(&self.bell.events)
    }

    /// Call it after the commit of a cancel that answered `Requested`.
    pub fn cancelled(&self, id: JobId) {
        // Nobody listens in a process without a worker.
        let _ = self.bell.cancelled.send(id);
        self.bell.post(|outbox| outbox.cancelled.push(id));
    }

    /// Jobs have finished; tells those who wait, here and elsewhere, if there are any.
    pub fn finished(&self, ids: &[JobId]) {
        if ids.is_empty() {
            return;
        }
        if self.bell.waiters.load(Ordering::Relaxed) > 0 {
            let _ = self.bell.finished.send(ids.into());
        }
        if self.bell.others_wait.load(Ordering::Relaxed) > 0 {
            self.bell.post(|outbox| outbox.finished.extend_from_slice(ids));
        }
    }

    /// The log of events goes up to there; `is_news`: since this process has just moved some, so that the others have to hear
    /// of it.
    pub fn events_logged(&self, position: i64, is_news: bool) {
        self.bell.raise_logged(position);
        if is_news {
            self.bell
                .post(|outbox| outbox.logged = outbox.logged.max(Some(position)));
        }
    }

    /// How far the log of events goes, as far as this process has heard.
    pub fn logged_events(&self) -> watch::Receiver<i64> {
        self.bell.logged.subscribe()
    }

    /// Begins to hear of finished jobs. Begin before the job's state is read, and read it each second all the same.
    pub fn watch_finished(&self) -> FinishedWatch {
        let finished = self.bell.finished.subscribe();
        if self.bell.waiters.fetch_add(1, Ordering::Relaxed) == 0 {
            self.bell.post(|outbox| outbox.waiting = true);
        }
        FinishedWatch {
            bell: self.bell.clone(),
            finished,
        }
    }

    /// Resolves when this process was woken since the last time.
    pub(super) async fn woken(&self) {
        self.bell.ready.notified().await;
    }

    /// Whether jobs with a time ahead were announced since the last time.
    pub(super) fn take_scheduled(&self) -> bool {
        self.bell.scheduled.swap(false, Ordering::AcqRel)
    }

    /// Whether a change to pauses or limits was announced since the last time.
    pub(super) fn take_control(&self) -> bool {
        self.bell.control.swap(false, Ordering::AcqRel)
    }

    /// The process's one knowledge of whether the database answers.
    pub(super) fn outage(&self) -> Outage {
        self.bell.outage.clone()
    }

    pub(super) fn cancels(&self) -> broadcast::Receiver<JobId> {
        self.bell.cancelled.subscribe()
    }
}

/// Hears of finished jobs for as long as it lives.
pub struct FinishedWatch {
    bell: Arc<Bell>,
    finished: broadcast::Receiver<Arc<[JobId]>>,
}

impl FinishedWatch {
    /// The jobs of the next announcement; none when announcements were missed: read the state of all one waits for then.
    pub async fn next(&mut self) -> Arc<[JobId]> {
        self.finished.recv().await.unwrap_or_default()
    }

    /// Resolves when `id` was announced, or when announcements were missed: read the job's state then.
    pub async fn finished(&mut self, id: JobId) {
        while let Ok(ids) = self.finished.recv().await {
            if ids.contains(&id) {
                return;
            }
        }
    }
}

impl Drop for FinishedWatch {
    fn drop(&mut self) {
        self.bell.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bell {
    fn post(&self, put: impl FnOnce(&mut Outbox)) {
        put(&mut self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.posted.notify_one();
    }

    /// Positions come by several ways; a reader sees the highest.
    fn raise_logged(&self, position: i64) {
        self.logged.send_if_modified(|logged| {
            let is_later = position > *logged;
            *logged = position.max(*logged);
            is_later
        });
    }

    /// Whether a ring may be given out at this moment, which it then is.
    fn may_ring(&self, now: Instant) -> bool {
        let mut rung_at = self.rung_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = rung_at.is_none_or(|at| now.duration_since(at) >= RING_EVERY);
        if may {
            *rung_at = Some(now);
        }
        may
    }

    fn take_payloads(&self) -> Vec<String> {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *outbox).payloads(self.origin)
    }

    /// Acts on another process's payload; one that cannot be read comes from a newer version and is left alone.
    fn heard(&self, payload: &str) {
        let mut words = payload.split_ascii_whitespace();
        if words
            .next()
            .is_none_or(|origin| origin == self.origin.simple().to_string())
        {
            return;
        }
        let topic = words.next().unwrap_or_default();
        if topic == LOGGED {
            if let Some(position) = words.next().and_then(|position| position.parse().ok()) {
                self.raise_logged(position);
            }
            return;
        }
        let ids = words.filter_map(|id| id.parse().ok());
        match topic {
            READY => self.ready.notify_one(),
            "scheduled" => {
                self.scheduled.store(true, Ordering::Release);
                self.ready.notify_one();
            }
            "control" => {
                self.control.store(true, Ordering::Release);
                self.ready.notify_one();
            }
            "sessions" => self.sessions.notify_one(),
            "errands" => self.errands.notify_one(),
            "events" => self.events.notify_one(),
            "waiting" => self.others_wait.store(WAITING_FOR, Ordering::Relaxed),
            "cancelled" => ids.for_each(|id| {
                let _ = self.cancelled.send(id);
            }),
            "finished" => {
                let _ = self.finished.send(ids.collect());
            }
            _ => {}
        }
    }

    /// Whatever was missed is looked for.
    fn missed(&self) {
        self.sessions.notify_one();
        self.control.store(true, Ordering::Release);
        self.scheduled.store(true, Ordering::Release);
        self.ready.notify_one();
        self.errands.notify_one();
        self.events.notify_one();
    }
}

fn payload(origin: Simple, topic: &str) -> String {
    format!("{origin} {topic}")
}

impl Outbox {
    fn payloads(self, origin: Uuid) -> Vec<String> {
        let origin = origin.simple();
        let flags = [
            (READY, self.ready && !self.scheduled),
            ("scheduled", self.scheduled),
            ("control", self.control),
            ("sessions", self.sessions),
            ("errands", self.errands),
            ("events", self.events),
            ("waiting", self.waiting),
        ];
        let mut payloads: Vec<String> = flags
            .into_iter()
            .filter(|(_, set)| *set)
            .map(|(topic, _)| payload(origin, topic))
            .collect();
        if let Some(position) = self.logged {
            payloads.push(format!("{origin} {LOGGED} {position}"));
        }
        for (topic, ids) in [("cancelled", self.cancelled), ("finished", self.finished)] {
            // A UUID and its space take 37 bytes; the origin and the topic less than 60.
            for chunk in ids.chunks((notifications::PAYLOAD - 60) / 37) {
                let ids: Vec<String> = chunk.iter().map(ToString::to_string).collect();
                payloads.push(format!("{origin} {topic} {}", ids.join(" ")));
            }
        }
        payloads
    }
}

/// Sends what was posted, at most once per [`COALESCE`]. What cannot be sent is dropped: polling finds it.
async fn send(bell: Arc<Bell>, pool: PgPool) {
    let mut second = tokio::time::interval(WAITING_EVERY);
    // Its own connection: to get one of the pool, and have it checked, takes longer than the statement.
    let mut line = Line::new(pool.clone());
    loop {
        tokio::select! {
            // A pool that closes waits for this connection.
            () = pool.close_event() => return,
            () = bell.posted.notified() => {}
            _ = second.tick() => {
                let _ = bell.others_wait.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                if bell.waiters.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                bell.post(|outbox| outbox.waiting = true);
            }
        }
        let payloads = bell.take_payloads();
        if payloads.is_empty() {
            continue;
        }
        if let Err(error) = send_now(&mut line, &payloads).await {
            line.hang_up();
            tracing::debug!(error = &error as &dyn std::error::Error, "a notification was not sent");
        }
        tokio::time::sleep(COALESCE).await;
    }
}

async fn send_now(line: &mut Line, payloads: &[String]) -> Result<(), StoreError> {
    let notify = async { notifications::notify(line.open("notify").await?, payloads).await };
    bounded("notify", notify).await
}

async fn listen(bell: Arc<Bell>, pool: PgPool) {
    let mut failures = 0;
    loop {
        match listen_until_failure(&bell, &pool, &mut failures).await {
            Ok(never) => match never {},
            Err(error) => {
                bell.outage.failed(&error, failures).await;
                failures += 1;
            }
        }
    }
}

async fn listen_until_failure(
    bell: &Bell,
    pool: &PgPool,
    failures: &mut u32,
) -> Result<std::convert::Infallible, StoreError> {
    let mut listener = Listener::connect(pool).await?;
    bell.outage.worked();
    *failures = 0;
    bell.missed();
    loop {
        match listener.next().await? {
            Some(payload) => bell.heard(&payload),
            None => bell.missed(),
        }
    }
}

#[cfg(test)]
mod tests;
