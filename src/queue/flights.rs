//! The attempts this process has in its hands, and the slots they take.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use wireroom_jobs::Lane;

use crate::{
    ids::{JobId, SessionId},
    store::claims::{self, ClaimedJob},
};

/// How long an attempt of a suspect job runs alone among them: whatever killed a worker at its start has shown by then. Watches
/// last, and a worker may have had hundreds.
const fn trial(lane: Lane) -> Duration {
    match lane {
        Lane::Watch => claims::WATCH_TRIAL,
        Lane::Interactive | Lane::Bulk => Duration::from_mins(1),
    }
}

/// An attempt: a job may be here twice, once under a fence that is over.
pub type AttemptKey = (JobId, i64);

struct Flight {
    session: SessionId,
    lane: Lane,
    cancellation: CancellationToken,
}

/// Ids are ours and random already: to mix them as if a stranger had chosen them costs more than the look-up.
type ById = BuildHasherDefault<IdHasher>;

#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // An odd number without a pattern: the map takes its bits from both ends.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_i64(&mut self, word: i64) {
        self.write_u64(word.cast_unsigned());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

#[derive(Default)]
struct Inner {
    attempts: HashMap<AttemptKey, Flight, ById>,
    /// By session: slots taken per lane, in the order of [`Lane::ALL`].
    taken: HashMap<SessionId, [i32; 3], ById>,
    /// Those that an earlier worker died under, and until when each runs alone among them.
    suspects: HashMap<AttemptKey, Instant>,
    /// Started, and not yet written to the job's row.
    started: Vec<AttemptKey>,
}

/// All attempts of one process.
#[derive(Default)]
pub struct Flights {
    inner: Mutex<Inner>,
    freed: Notify,
    ended: Notify,
    start_seen: Notify,
}

impl Flights {
    /// Takes a slot for a claimed job.
    pub fn begin(&self, job: &ClaimedJob, cancellation: CancellationToken) {
        let mut inner = self.lock();
        inner.taken.entry(job.session).or_default()[lane_index(job.lane)] += 1;
        if job.suspect {
            inner
                .suspects
                .insert((job.id, job.fence), Instant::now() + trial(job.lane));
        }
        let flight = Flight {
            session: job.session,
            lane: job.lane,
            cancellation,
        };
        inner.attempts.insert((job.id, job.fence), flight);
    }

    /// The attempt's function is about to be called.
    pub fn started(&self, key: AttemptKey) {
        let mut inner = self.lock();
        inner.started.push(key);
        let first = inner.started.len() == 1;
        drop(inner);
        if first {
            self.start_seen.notify_one();
        }
    }

    /// Gives the attempt's slot back.
    pub fn end(&self, key: AttemptKey) {
        let mut inner = self.lock();
        let Some(flight) = inner.attempts.remove(&key) else {
            return;
        };
        inner.suspects.remove(&key);
        if let Some(taken) = inner.taken.get_mut(&flight.session) {
            taken[lane_index(flight.lane)] -= 1;
            if taken.iter().all(|count| *count == 0) {
                inner.taken.remove(&flight.session);
            }
        }
        let none_left = inner.attempts.is_empty();
        drop(inner);
        self.freed.notify_one();
        if none_left {
            self.ended.notify_waiters();
        }
    }

    /// Resolves when a slot came free since the last time.
    pub async fn slot_freed(&self) {
        self.freed.notified().await;
    }

    /// Waits for starts, gives them `delay` to end by themselves, and returns those that have not.
    pub async fn starts_to_store(&self, delay: Duration) -> Vec<AttemptKey> {
        self.start_seen.notified().await;
        tokio::time::sleep(delay).await;
        let mut inner = self.lock();
        let started = std::mem::take(&mut inner.started);
        started
            .into_iter()
            .filter(|key| inner.attempts.contains_key(key))
            .collect()
    }

    /// Puts starts back that could not be stored.
    pub fn starts_not_stored(&self, keys: Vec<AttemptKey>) {
        self.lock().started.extend(keys);
        self.start_seen.notify_one();
    }

    /// The slots that are taken, for one look at many sessions; nothing begins or ends while it is held.
    pub fn taken(&self) -> Taken<'_> {
        Taken(self.lock())
    }

    /// Whether a job is on trial that an earlier worker died under: no other one of them begins.
    pub fn has_suspect(&self) -> bool {
        self.has_suspect_at(Instant::now())
    }

    fn has_suspect_at(&self, now: Instant) -> bool {
        self.lock().suspects.values().any(|until| *until > now)
    }

    pub fn len(&self) -> usize {
        self.lock().attempts.len()
    }

    pub fn keys(&self) -> Vec<AttemptKey> {
        self.lock().attempts.keys().copied().collect()
    }

    /// Asks one attempt to stop.
    pub fn cancel(&self, key: AttemptKey) {
        if let Some(flight) = self.lock().attempts.get(&key) {
            flight.cancellation.cancel();
        }
    }

    /// Asks every attempt of a job to stop.
    pub fn cancel_job(&self, id: JobId) {
        self.cancel_where(|key, _| key.0 == id);
    }

    /// Asks all attempts to stop, or those of one lane.
    pub fn cancel_all(&self, only: Option<Lane>) {
        self.cancel_where(|_, flight| only.is_none_or(|lane| flight.lane == lane));
    }

    /// Resolves when no attempt is left.
    pub async fn none_left(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn cancel_where(&self, chosen: impl Fn(&AttemptKey, &Flight) -> bool) {
        for (key, flight) in &self.lock().attempts {
            if chosen(key, flight) {
                flight.cancellation.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that panics runs under the lock, and counts are never left half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Flights::taken`].
pub struct Taken<'a>(MutexGuard<'a, Inner>);

impl Taken<'_> {
    /// Slots taken of a session.
    pub fn of(&self, session: SessionId, lane: Lane) -> i32 {
        let taken = self.0.taken.get(&session);
        taken.map_or(0, |taken| taken[lane_index(lane)])
    }
}

const fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Interactive => 0,
        Lane::Bulk => 1,
        Lane::Watch => 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use wireroom_jobs::JobKind;

    use super::*;

    fn suspect(lane: Lane) -> ClaimedJob {
        ClaimedJob {
            id: JobId::generate(),
            kind: JobKind::Scan,
            args: to_raw_value(&()).expect("JSON"),
            lane,
            session: SessionId::generate(),
            session_fence: 1,
            attempt: 1,
            max_attempts: 1,
            fence: 1,
            created_at: chrono::DateTime::UNIX_EPOCH,
            deadline: None,
            suspect: true,
            pooled: false,
        }
    }

    #[test]
    fn a_suspect_is_alone_until_its_trial_is_over() {
        for lane in Lane::ALL {
            let flights = Flights::default();
            let (before, job) = (Instant::now(), suspect(lane));
            flights.begin(&job, CancellationToken::new());
            assert!(
                flights.has_suspect_at(before + trial(lane) - Duration::from_millis(1)),
                "{lane:?}"
            );
            assert!(
                !flights.has_suspect_at(Instant::now() + trial(lane)),
                "{lane:?}: it may run for ever"
            );
            flights.end((job.id, job.fence));
            assert!(!flights.has_suspect(), "{lane:?}: it has ended");
        }
    }
}
