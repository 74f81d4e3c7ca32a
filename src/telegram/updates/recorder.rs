//! One writer per process for what all its sessions read: what is there is stored in one transaction, many sessions
//! together, and a lone update at once. Whoever says stop in a private message is suppressed in the same transaction, whether
//! or not anybody watches the session's private messages.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use wireroom_jobs::stop::StopWords;

use crate::{
    person_key::PersonKey,
    store::{
        StoreError, failed,
        intake::{self, Arrival, Filters, Recorded},
        said_stop,
    },
};

/// How much one transaction takes in, so that none lasts long.
const MOST: usize = 1_000;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where sessions hand over what they have read. Ends with the last session that knows it.
#[derive(Debug)]
pub struct Recorder {
    queue: mpsc::UnboundedSender<Handover>,
}

/// Each session waits for its answer, so there is at most one per session under way.
#[derive(Debug)]
struct Handover {
    arrival: Arrival,
    answer: oneshot::Sender<Recorded>,
}

impl Recorder {
    /// Starts the writer on this database; with these words people ask to be left alone, and by `key` those are known again
    /// who were erased.
    pub fn start(database: PgPool, words: Arc<StopWords>, key: Option<PersonKey>) -> Arc<Self> {
        let (queue, waiting) = mpsc::unbounded_channel();
        tokio::spawn(write(Place { database, words, key }, waiting));
        Arc::new(Self { queue })
    }

    /// Returns when it is committed, however long that takes; or when the session's lease is over.
    pub async fn record(&self, arrival: Arrival) -> Recorded {
        let (answer, recorded) = oneshot::channel();
        let is_over = self.queue.send(Handover { arrival, answer }).is_err();
        // The writer only ends when the process does: then nothing was stored.
        if is_over {
            return Recorded::Fenced;
        }
        recorded.await.unwrap_or(Recorded::Fenced)
    }
}

/// Where what was read goes.
#[derive(Clone)]
struct Place {
    database: PgPool,
    words: Arc<StopWords>,
    key: Option<PersonKey>,
}

async fn write(place: Place, mut waiting: mpsc::UnboundedReceiver<Handover>) {
    let mut filters = Filters::default();
    while let Some(first) = waiting.recv().await {
        let mut size = first.arrival.incoming.len() + 1;
        let mut batch = vec![first];
        while size < MOST
            && let Ok(next) = waiting.try_recv()
        {
            size += next.arrival.incoming.len() + 1;
            batch.push(next);
        }
        // In a task of its own: a panic costs this batch, whose sessions read it again, and nothing else.
        let stored = tokio::spawn(store(place.clone(), filters, batch)).await;
        filters = stored.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "storing updates broke off");
            Filters::default()
        });
    }
}

/// Stores a batch. What one session's part makes impossible must not hold the others up.
async fn store(place: Place, mut filters: Filters, mut batch: Vec<Handover>) -> Filters {
    let mut pause = FIRST_PAUSE;
    loop {
        let (arrivals, answers): (Vec<Arrival>, Vec<_>) =
            batch.into_iter().map(|each| (each.arrival, each.answer)).unzip();
        let error = match try_store(&place, &mut filters, &arrivals).await {
            Ok(recorded) => {
                for (answer, recorded) in answers.into_iter().zip(recorded) {
                    // Whoever does not wait any more need not know.
                    let _ = answer.send(recorded);
                }
                return filters;
            }
            Err(error) => error,
        };
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "updates were not stored; trying again"
        );
        if error.is_closed() {
            return filters;
        }
        batch = arrivals
            .into_iter()
            .zip(answers)
            .map(|(arrival, answer)| Handover { arrival, answer })
            .collect();
        if !error.is_unavailable() {
            for alone in batch {
                tokio::spawn(store_alone(place.clone(), alone, pause));
            }
            return filters;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn store_alone(place: Place, handover: Handover, first_pause: Duration) {
    let mut filters = Filters::default();
    let mut pause = first_pause;
    let arrivals = [handover.arrival];
    // Whoever does not wait any more has started again from what is stored.
    while !handover.answer.is_closed() {
        match try_store(&place, &mut filters, &arrivals).await {
            Ok(recorded) => {
                if let Some(recorded) = recorded.first() {
                    let _ = handover.answer.send(*recorded);
                }
                return;
            }
            Err(error) if error.is_closed() => return,
            Err(error) => tracing::error!(
                session.id = %arrivals[0].lease.session, error = &error as &dyn std::error::Error,
                "a session's updates were not stored; trying again"
            ),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn try_store(place: &Place, filters: &mut Filters, arrivals: &[Arrival]) -> Result<Vec<Recorded>, StoreError> {
    const OPERATION: &str = "record_arrivals";
    let mut transaction = place.database.begin().await.map_err(failed(OPERATION))?;
    let recorded = intake::record(&mut transaction, filters, place.key.as_ref(), arrivals).await?;
    let left_alone = said_stop::heard(&mut transaction, &place.words, place.key.as_ref(), arrivals, &recorded).await?;
    transaction.commit().await.map_err(failed(OPERATION))?;
    if left_alone > 0 {
        tracing::info!(people = left_alone, "people said stop, and are left alone from here on");
    }
    Ok(recorded)
}
