//! The deliveries of one subscription: many subjects at a time, each in order. What is sent is an event that nobody has
//! settled; what was settled is stored, with how far the subscription is, in one statement. A process that is killed between
//! the two sends the event again under the same id.
//!
//! An event that fails leaves a row, and those of its subject after it are rows behind it: so the subscription goes on with
//! other subjects. The later events of a subject that fills memory become rows, too. Memory holds a bounded number of events
//! whatever an endpoint does, and however many wait.

mod fate;
mod look;
mod queues;

use std::{
    collections::{BTreeSet, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use self::{
    fate::Fate,
    look::Looking,
    queues::{Queues, Work},
};
use super::{
    backoff::{self, DISABLE_AFTER, GIVE_UP_AFTER},
    sender::{Attempt, Sender},
    signature::SigningKey,
};
use crate::{
    ids::SubscriptionId,
    store::{
        self, PgPool, StoreError,
        deliveries::{self, DeliveryState, DisableReason, Held, Settled},
        event_log::{self, EventFilter, EventRecord},
        waiting_deliveries,
    },
};

/// With so many events in memory no more are taken up: with those of the last read, there are never more than 1,500 that wait.
const BUFFER: usize = 1_000;
/// How far the log is read past an event on its way: what a process that takes over has to know of what was settled beyond.
const AHEAD: i64 = 100_000;
/// Events of one read.
const READ: i64 = 500;
/// What was settled is stored when it is so much, or so old.
const FLUSH_AT: usize = 250;
const FLUSH_AFTER: Duration = Duration::from_millis(20);

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

type Sending = Pin<Box<dyn Future<Output = (Work, Attempt)> + Send>>;

pub struct Runner {
    shared: Shared,
    id: SubscriptionId,
    endpoint: Endpoint,
    /// Read up to here.
    read_to: i64,
    /// The place that is stored.
    noted: i64,
    /// Where a process before had settled events already, after its place, and the last of these.
    settled_before: HashSet<i64>,
    settled_to: i64,
    /// Read, and neither settled nor stored.
    outstanding: BTreeSet<i64>,
    queues: Queues,
    sending: FuturesUnordered<Sending>,
    settled: Vec<Settled>,
    settled_since: Option<Instant>,
    /// Subjects of which something that is not stored yet waits as a row.
    held: HashSet<String>,
    /// Deliveries wait as rows, as far as is known.
    has_waiting: bool,
    looking: Looking,
    fate: Fate,
    is_off: bool,
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
            settled_to: settled_before.last().copied().unwrap_or(position),
            settled_before: settled_before.into_iter().collect(),
            outstanding: BTreeSet::new(),
            queues: Queues::default(),
            sending: FuturesUnordered::new(),
            settled: Vec::new(),
            settled_since: None,
            held: HashSet::new(),
            has_waiting: true,
            looking: Looking::new(),
            fate: Fate::new(failures),
            is_off: false,
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
            if self.wants_look() {
                self.look().await?;
            }
            self.read().await?;
            self.launch();
            if self.settled.len() >= FLUSH_AT {
                self.flush().await?;
            }
            if self.is_off || self.fate.is_gone {
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
                () = until(flush_at) => self.flush().await?,
                told = news, if wants_more => if !told {
                    break Over::Stopped;
                },
                () = tokio::time::sleep_until(self.looking.at) => {}
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
        let is_near = self
            .outstanding
            .first()
            .is_none_or(|first| self.read_to - first < AHEAD);
        is_near && !self.fate.is_open && self.queues.len() < BUFFER && self.settled.len() < FLUSH_AT
    }

    /// How many may be on their way: one while nobody knows whether the endpoint is well again.
    fn most(&self) -> usize {
        if self.fate.is_open || Instant::now() >= *self.shared.trusted_until.borrow() {
            0
        } else if self.fate.is_in_doubt() {
            1
        } else {
            self.shared.concurrency
        }
    }

    /// Reads on in the log, as far as there is room.
    async fn read(&mut self) -> Result<(), StoreError> {
        let head = *self.shared.logged.borrow();
        if self.read_to >= head || !self.has_room() {
            return Ok(());
        }
        let mut conn = store::connection(&self.shared.pool, "read_events").await?;
        let batch = event_log::read(&mut conn, &self.endpoint.filter, self.read_to, head, READ).await?;
        let held = if self.has_waiting {
            let mut subjects: Vec<&str> = batch.events.iter().map(|event| event.subject.as_str()).collect();
            subjects.sort_unstable();
            subjects.dedup();
            waiting_deliveries::held_among(&mut conn, self.id, &subjects).await?
        } else {
            Vec::new()
        };
        drop(conn);
        self.held.extend(held);
        for event in batch.events {
            if !self.settled_before.remove(&event.position) {
                self.take(event);
            }
        }
        self.read_to = batch.position;
        if self.read_to >= self.settled_to {
            self.settled_before.clear();
        }
        Ok(())
    }

    /// Takes up an event that was read: it is to be sent, or it waits as a row behind others of its subject.
    fn take(&mut self, event: EventRecord) {
        if self.held.contains(&event.subject) || self.queues.has_rows(&event.subject) {
            self.queues.rows_follow(&event.subject);
            if self.read_to < self.settled_to {
                // The rows that it waits for may be later ones, which a process before has left: then it is the first.
                self.looking.ended.insert(event.subject.clone());
            }
            self.settle(behind(&event));
            return;
        }
        self.outstanding.insert(event.position);
        self.queues.push(Work {
            event,
            attempts: 0,
            age: Duration::ZERO,
            since: Instant::now(),
            is_stored: false,
        });
    }

    fn launch(&mut self) {
        let most = self.most();
        while self.sending.len() < most {
            let Some(work) = self.queues.next() else {
                self.make_room();
                return;
            };
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

    /// More could be sent, and memory is full of subjects of which one event each is on its way: those of the one that has most
    /// become rows behind it, so that others are read.
    fn make_room(&mut self) {
        let is_more = self.looking.more || self.read_to < *self.shared.logged.borrow();
        if self.queues.len() < BUFFER || !is_more || self.endpoint.filter.is_of_one_subject() {
            return;
        }
        for work in self.queues.spill() {
            if !work.is_stored {
                self.settle(behind(&work.event));
            }
        }
    }

    fn ended(&mut self, work: Work, attempt: &Attempt) {
        self.fate.saw(attempt);
        let attempts = work.attempts.saturating_add(1);
        let state = if attempt.is_taken() {
            DeliveryState::Delivered
        } else if work.age + work.since.elapsed() >= GIVE_UP_AFTER {
            DeliveryState::Failed
        } else {
            let pause = backoff::retry(attempts, (self.shared.jitter)());
            DeliveryState::Pending(Some(pause.max(attempt.rest.unwrap_or_default())))
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
            DeliveryState::Pending(_) => self.hold_back(&subject),
            DeliveryState::Delivered | DeliveryState::Failed => {
                if self.queues.go_on(&subject) {
                    self.looking.ended.insert(subject);
                }
            }
        }
    }

    /// The subject's other events wait behind the one that failed.
    fn hold_back(&mut self, subject: &str) {
        for work in self.queues.remove(subject) {
            if !work.is_stored {
                self.settle(behind(&work.event));
            }
        }
    }

    fn settle(&mut self, settled: Settled) {
        self.outstanding.remove(&settled.position);
        if matches!(settled.state, DeliveryState::Pending(_)) {
            self.has_waiting = true;
            self.held.insert(settled.subject.clone());
        }
        self.settled_since.get_or_insert_with(Instant::now);
        self.settled.push(settled);
    }

    /// Stores what was settled and how far the subscription is, if there is news, and switches it off when it has failed for too long.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let position = self.outstanding.first().map_or(self.read_to, |first| first - 1);
        self.held.clear();
        if self.settled.is_empty() && position <= self.noted {
            return Ok(());
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
            return Ok(());
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
        self.is_off = true;
        Ok(())
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
