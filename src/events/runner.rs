//! The deliveries of one subscription: many subjects at a time, each in order. What is sent is an event that nobody has
//! settled; what was settled is stored, with how far the subscription is, in one statement. A process that is killed between
//! the two sends the event again under the same id.
//!
//! An event that fails leaves a row, and those of its subject after it are rows behind it: so the subscription goes on with
//! other subjects, and memory holds a bounded number of events whatever an endpoint does.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::{
    backoff::{self, BREAK_AFTER, DISABLE_AFTER, GIVE_UP_AFTER},
    sender::{Attempt, Sender},
    signature::SigningKey,
};
use crate::{
    ids::SubscriptionId,
    store::{
        self, PgPool, StoreError,
        deliveries::{self, DeliveryState, DisableReason, Fortune, Held, Settled},
        event_log::{self, EventFilter, EventRecord},
    },
};

/// Events in memory.
const BUFFER: usize = 1_000;
/// Events of one read.
const READ: i64 = 500;
/// What was settled is stored when it is so much, or so old.
const FLUSH_AT: usize = 250;
const FLUSH_AFTER: Duration = Duration::from_millis(20);
/// How often deliveries that wait are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the runners of a process share.
#[derive(Clone)]
pub struct Shared {
    pub pool: PgPool,
    pub owner: Uuid,
    pub sender: Sender,
    pub concurrency: usize,
    /// How far the log of events goes.
    pub logged: watch::Receiver<i64>,
    /// Until then the subscriptions are surely this process's.
    pub trusted_until: watch::Receiver<Instant>,
    /// From 0 to 1.
    pub jitter: fn() -> f64,
}

/// Where events go, and the keys that sign them.
pub struct Endpoint {
    pub url: Url,
    pub filter: EventFilter,
    pub keys: Arc<Keys>,
    /// When the old key does not sign any more.
    pub until: Option<Instant>,
}

/// The key that signs, and the one before while both do.
pub struct Keys {
    pub key: SigningKey,
    pub old: Option<SigningKey>,
}

impl Keys {
    pub fn all(&self) -> Vec<&SigningKey> {
        std::iter::once(&self.key).chain(&self.old).collect()
    }
}

/// Why a runner has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Over {
    /// It was told to.
    Stopped,
    /// The subscription was changed: read it again.
    Changed,
    /// It was switched off.
    Disabled,
}

/// An event on its way.
struct Work {
    event: EventRecord,
    attempts: i32,
    /// How long it has been tried, as of `since`.
    age: Duration,
    since: Instant,
    /// It has a row already.
    is_stored: bool,
}

type Sending = Pin<Box<dyn Future<Output = (Work, Attempt)> + Send>>;

pub struct Runner {
    shared: Shared,
    id: SubscriptionId,
    endpoint: Endpoint,
    /// Read up to here.
    read_to: i64,
    /// The place that is stored.
    noted: i64,
    /// Where a process before had settled events already, after its place.
    settled_before: HashSet<i64>,
    /// Read, and neither settled nor stored.
    outstanding: BTreeSet<i64>,
    /// By subject; one that is here has an event on its way, or in `ready`.
    queues: HashMap<String, VecDeque<Work>>,
    /// Subjects whose next event may be sent.
    ready: VecDeque<String>,
    /// Subjects with deliveries that wait as rows.
    held: HashSet<String>,
    queued: usize,
    sending: FuturesUnordered<Sending>,
    settled: Vec<Settled>,
    settled_since: Option<Instant>,
    look_at: Instant,
    fate: Fate,
}

/// How the endpoint fares.
#[derive(Debug, Default)]
struct Fate {
    failures: i32,
    succeeded: bool,
    opens: u32,
    is_open: bool,
    /// To be stored.
    open_for: Option<Duration>,
    is_gone: bool,
    last_status: Option<u16>,
}

impl Runner {
    /// Takes up a subscription where its rows say that it is.
    pub async fn new(
        shared: Shared,
        held: Held,
        endpoint: Endpoint,
        position: i64,
        failures: i32,
    ) -> Result<Self, StoreError> {
        let mut conn = store::connection(&shared.pool, "deliveries_settled_after").await?;
        let settled_before = deliveries::settled_after(&mut conn, held.id, position).await?;
        Ok(Self {
            id: held.id,
            endpoint,
            read_to: position,
            noted: position,
            settled_before: settled_before.into_iter().collect(),
            outstanding: BTreeSet::new(),
            queues: HashMap::new(),
            ready: VecDeque::new(),
            held: HashSet::new(),
            queued: 0,
            sending: FuturesUnordered::new(),
            settled: Vec::new(),
            settled_since: None,
            look_at: Instant::now(),
            fate: Fate {
                failures,
                ..Fate::default()
            },
            shared,
        })
    }

    /// Delivers until it is told to stop, the subscription is changed, or another process has it. What is on its way then
    /// comes to its end.
    pub async fn run(
        mut self,
        stop: &CancellationToken,
        mut version: watch::Receiver<i32>,
    ) -> Result<Over, StoreError> {
        let mut logged = self.shared.logged.clone();
        let over = loop {
            if Instant::now() >= self.look_at {
                self.look().await?;
            }
            self.read().await?;
            self.launch();
            if self.settled.len() >= FLUSH_AT {
                self.flush().await?;
            }
            if self.fate.is_gone {
                break Over::Disabled;
            }
            let flush_at = self.settled_since.map(|since| since + FLUSH_AFTER);
            let wants_more = self.has_room();
            let read_to = self.read_to;
            let news = async { logged.wait_for(|position| *position > read_to).await.is_ok() };
            tokio::select! {
                biased;
                () = stop.cancelled() => break Over::Stopped,
                _ = version.changed() => break Over::Changed,
                Some((work, attempt)) = self.sending.next(), if !self.sending.is_empty() => self.ended(work, &attempt),
                () = until(flush_at) => {
                    if let Some(over) = self.flush().await? {
                        break over;
                    }
                }
                told = news, if wants_more => if !told {
                    break Over::Stopped;
                },
                () = tokio::time::sleep_until(self.look_at) => {}
                () = until(self.endpoint.until) => break Over::Changed,
            }
        };
        while let Some((work, attempt)) = self.sending.next().await {
            self.ended(work, &attempt);
        }
        self.flush().await?;
        Ok(over)
    }

    fn has_room(&self) -> bool {
        !self.fate.is_open && self.queued < BUFFER && self.settled.len() < FLUSH_AT
    }

    /// How many may be on their way: one while nobody knows whether the endpoint is well again.
    fn most(&self) -> usize {
        if self.fate.is_open || Instant::now() >= *self.shared.trusted_until.borrow() {
            0
        } else if self.fate.failures >= BREAK_AFTER {
            1
        } else {
            self.shared.concurrency
        }
    }

    /// Looks at what waits as rows, and takes up what is due.
    async fn look(&mut self) -> Result<(), StoreError> {
        self.flush().await?;
        self.look_at = Instant::now() + LOOK_EVERY;
        let busy: Vec<String> = self.queues.keys().cloned().collect();
        let room = i64::try_from(BUFFER.saturating_sub(self.queued)).unwrap_or(0);
        let mut conn = store::connection(&self.shared.pool, "waiting_deliveries").await?;
        let waiting = deliveries::waiting(&mut conn, self.id, &busy, room).await?;
        self.fate.is_open = waiting.is_open;
        self.held = waiting.subjects.into_iter().collect();
        if waiting.due.is_empty() {
            return Ok(());
        }
        let positions: Vec<i64> = waiting.due.iter().map(|due| due.position).collect();
        let events = event_log::at(&mut conn, &positions).await?;
        drop(conn);
        let mut events: HashMap<i64, EventRecord> = events.into_iter().map(|event| (event.position, event)).collect();
        for due in waiting.due {
            let Some(event) = events.remove(&due.position) else {
                self.settle(Settled {
                    position: due.position,
                    event_type: due.event_type,
                    subject: due.subject,
                    state: DeliveryState::Failed,
                    attempts: due.attempts,
                    status: None,
                    error: Some("the event was deleted by age".to_owned()),
                    took: None,
                });
                continue;
            };
            self.queue(Work {
                event,
                attempts: due.attempts,
                age: due.age,
                since: Instant::now(),
                is_stored: true,
            });
        }
        Ok(())
    }

    /// Reads on in the log, as far as there is room.
    async fn read(&mut self) -> Result<(), StoreError> {
        let head = *self.shared.logged.borrow();
        if self.read_to >= head || !self.has_room() {
            return Ok(());
        }
        let mut conn = store::connection(&self.shared.pool, "read_events").await?;
        let batch = event_log::read(&mut conn, &self.endpoint.filter, self.read_to, head, READ).await?;
        drop(conn);
        for event in batch.events {
            if self.settled_before.remove(&event.position) {
                continue;
            }
            if self.held.contains(&event.subject) {
                self.settle(behind(&event));
                continue;
            }
            self.outstanding.insert(event.position);
            self.queue(Work {
                event,
                attempts: 0,
                age: Duration::ZERO,
                since: Instant::now(),
                is_stored: false,
            });
        }
        self.read_to = batch.position;
        Ok(())
    }

    fn queue(&mut self, work: Work) {
        self.queued += 1;
        let subject = work.event.subject.clone();
        let queue = self.queues.entry(subject.clone()).or_insert_with(|| {
            self.ready.push_back(subject);
            VecDeque::new()
        });
        queue.push_back(work);
    }

    fn launch(&mut self) {
        let most = self.most();
        while self.sending.len() < most {
            let Some(subject) = self.ready.pop_front() else { return };
            let Some(work) = self.queues.get_mut(&subject).and_then(VecDeque::pop_front) else {
                continue;
            };
            self.queued -= 1;
            let (sender, url, keys) = (
                self.shared.sender.clone(),
                self.endpoint.url.clone(),
                Arc::clone(&self.endpoint.keys),
            );
            self.sending.push(Box::pin(async move {
                let id = format!("evt_{}", work.event.position);
                // The types of the store have string keys only, and numbers that JSON knows: they always serialize.
                let body = serde_json::to_vec(&work.event).unwrap_or_default();
                let attempt = sender.send(&url, &keys.all(), &id, body).await;
                (work, attempt)
            }));
        }
    }

    fn ended(&mut self, work: Work, attempt: &Attempt) {
        self.fate.last_status = attempt.status;
        self.fate.is_gone |= attempt.is_gone();
        let attempts = work.attempts.saturating_add(1);
        let state = if attempt.is_taken() {
            self.fate.worked();
            DeliveryState::Delivered
        } else {
            self.fate.failed();
            if work.age + work.since.elapsed() >= GIVE_UP_AFTER {
                DeliveryState::Failed
            } else {
                let pause = backoff::retry(attempts, (self.shared.jitter)());
                DeliveryState::Pending(Some(pause.max(attempt.rest.unwrap_or_default())))
            }
        };
        let subject = work.event.subject.clone();
        self.settle(Settled {
            position: work.event.position,
            event_type: work.event.event_type,
            subject: work.event.subject,
            state,
            attempts,
            status: attempt.status,
            error: attempt.error.clone(),
            took: Some(attempt.took),
        });
        match state {
            DeliveryState::Pending(_) => self.hold_back(subject),
            DeliveryState::Delivered | DeliveryState::Failed => self.go_on(subject, work.is_stored),
        }
    }

    /// The subject's next event may be sent.
    fn go_on(&mut self, subject: String, was_stored: bool) {
        if self.queues.get(&subject).is_some_and(|queue| !queue.is_empty()) {
            self.ready.push_back(subject);
            return;
        }
        self.queues.remove(&subject);
        if was_stored {
            // More of it may wait as rows.
            self.look_at = Instant::now();
        }
    }

    /// The subject's other events wait behind the one that failed.
    fn hold_back(&mut self, subject: String) {
        for work in self.queues.remove(&subject).unwrap_or_default() {
            self.queued -= 1;
            if !work.is_stored {
                self.settle(behind(&work.event));
            }
        }
        self.held.insert(subject);
    }

    fn settle(&mut self, settled: Settled) {
        self.outstanding.remove(&settled.position);
        self.settled_since.get_or_insert_with(Instant::now);
        self.settled.push(settled);
    }

    /// Stores what was settled and how far the subscription is, if there is news, and switches it off when it has failed for too long.
    async fn flush(&mut self) -> Result<Option<Over>, StoreError> {
        let position = self.outstanding.first().map_or(self.read_to, |first| first - 1);
        if self.settled.is_empty() && position <= self.noted {
            return Ok(None);
        }
        self.settled_since = None;
        let settled = std::mem::take(&mut self.settled);
        self.noted = position;
        let fortune = self.fate.fortune();
        let mut conn = store::connection(&self.shared.pool, "settle_deliveries").await?;
        let failing = deliveries::settle(&mut conn, self.shared.owner, self.id, &settled, position, fortune).await?;
        let reason = if self.fate.is_gone {
            DisableReason::Gone
        } else if failing.is_some_and(|failing| failing >= DISABLE_AFTER) {
            DisableReason::Failing
        } else {
            return Ok(None);
        };
        let mut transaction = store::begin(&mut conn, "disable_subscription").await?;
        deliveries::disable(
            &mut transaction,
            self.shared.owner,
            self.id,
            reason,
            self.fate.last_status,
        )
        .await?;
        transaction
            .commit()
            .await
            .map_err(store::failed("disable_subscription"))?;
        tracing::warn!(
            subscription.id = %self.id,
            reason = reason.as_str(),
            "a subscription was switched off: its endpoint takes nothing"
        );
        Ok(Some(Over::Disabled))
    }
}

impl Fate {
    fn worked(&mut self) {
        self.failures = 0;
        self.opens = 0;
        self.succeeded = true;
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        // Those that were on their way when it opened say nothing new.
        if self.failures >= BREAK_AFTER && !self.is_open {
            self.opens = self.opens.saturating_add(1);
            self.is_open = true;
            self.open_for = Some(backoff::rest(self.opens));
        }
    }

    fn fortune(&mut self) -> Fortune {
        Fortune {
            failures: self.failures,
            succeeded: std::mem::take(&mut self.succeeded),
            open_for: self.open_for.take(),
        }
    }
}

/// An event that waits for another of its subject.
fn behind(event: &EventRecord) -> Settled {
    Settled {
        position: event.position,
        event_type: event.event_type.clone(),
        subject: event.subject.clone(),
        state: DeliveryState::Pending(None),
        attempts: 0,
        status: None,
        error: None,
        took: None,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
