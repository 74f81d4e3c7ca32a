//! Moves committed events from the outbox to the log. Whoever writes events is the first to look for them, so that no other
//! process need be woken for it; what a writer that died leaves behind is found by anybody's look every few seconds.
//!
//! A writer rings before it commits. So the looks after a ring come at growing distances, and the first one after the commit
//! finds the event.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::store::{
    PgPool, StoreError,
    line::{Line, bounded, event_pool},
    outbox::{self, Sequenced},
};

/// Events of one statement.
const BATCH: i64 = 1_000;
/// How long after a ring the first look is, and how long one look is after another at least.
const FIRST: Duration = Duration::from_millis(2);
/// How long after a look that brought something the next is, when nobody rings.
const AGAIN: Duration = Duration::from_millis(5);
/// How long after a look the next is at most, when this process has ended jobs.
const MAYBE: Duration = Duration::from_secs(1);
/// The longest time between two looks: a thousand processes that have nothing to do shall cost the database little.
const POLL: Duration = Duration::from_secs(10);
/// How long after a failure the next look is.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Who hears how far the log goes.
pub trait Announce: Send + Sync {
    /// Every event up to `position` can be read; `is_news`: this process has just moved some there. May not block; it is told
    /// again every few seconds.
    fn logged(&self, position: i64, is_news: bool);
}

/// The process's sequencer; it ends when this is dropped.
pub struct Sequencer {
    has_subscriptions: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Sequencer {
    /// Starts looking; at once when `asked` is rung.
    pub fn start(pool: PgPool, announce: Arc<dyn Announce>, asked: Arc<Notify>) -> Self {
        let (sender, has_subscriptions) = watch::channel(false);
        Self {
            has_subscriptions,
            _task: AbortOnDropHandle::new(tokio::spawn(run(pool, announce, asked, sender))),
        }
    }

    /// Whether somebody subscribes to events, as of the last look.
    pub fn has_subscriptions(&self) -> watch::Receiver<bool> {
        self.has_subscriptions.clone()
    }
}

async fn run(pool: PgPool, announce: Arc<dyn Announce>, asked: Arc<Notify>, has_subscriptions: watch::Sender<bool>) {
    let mut line = Line::new(event_pool(&pool));
    let mut delay = Duration::ZERO;
    let mut is_failing = false;
    loop {
        match look(&mut line).await {
            Ok(sequenced) => {
                announce.logged(sequenced.position, sequenced.moved > 0);
                has_subscriptions.send_replace(sequenced.has_subscriptions);
                delay = next(delay, &sequenced);
                if is_failing {
                    is_failing = false;
                    tracing::info!("events are moved to the log again");
                }
            }
            Err(error) => {
                line.hang_up();
                if error.is_closed() || pool.is_closed() {
                    return;
                }
                if !is_failing {
                    is_failing = true;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "events could not be moved to the log; trying again"
                    );
                }
                delay = AFTER_FAILURE;
            }
        }
        tokio::select! {
            () = pool.close_event() => return,
            () = due(delay) => {}
            () = asked.notified() => delay = FIRST,
            () = outbox::told() => {
                delay = FIRST;
                tokio::time::sleep(FIRST).await;
            }
        }
    }
}

/// Resolves when `delay` is over; earlier when this process ends jobs meanwhile.
async fn due(delay: Duration) {
    let now = Instant::now();
    tokio::select! {
        () = sleep_until(now + delay) => {}
        () = outbox::maybe_told() => sleep_until(now + delay.min(MAYBE)).await,
    }
}

async fn look(line: &mut Line) -> Result<Sequenced, StoreError> {
    bounded("sequence_events", async {
        outbox::sequence(line.open("sequence_events").await?, BATCH).await
    })
    .await
}

/// How long after a look the next is: at once after a full one; soon while there was something; else twice as long as before.
fn next(delay: Duration, sequenced: &Sequenced) -> Duration {
    if sequenced.moved >= BATCH {
        Duration::ZERO
    } else if sequenced.moved > 0 || sequenced.is_busy {
        AGAIN
    } else {
        (delay * 2).clamp(AGAIN, POLL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_grow_rare_when_they_bring_nothing() {
        let looked = |moved, is_busy| Sequenced {
            moved,
            position: 0,
            is_busy,
            has_subscriptions: false,
        };
        assert_eq!(next(POLL, &looked(BATCH, false)), Duration::ZERO);
        assert_eq!(next(POLL, &looked(1, false)), AGAIN);
        assert_eq!(next(POLL, &looked(0, true)), AGAIN);
        let mut delay = FIRST;
        let mut looks = 0;
        while delay < POLL {
            delay = next(delay, &looked(0, false));
            looks += 1;
        }
        assert!((5..20).contains(&looks), "{looks} looks");
        assert_eq!(next(delay, &looked(0, false)), POLL);
    }

    #[tokio::test]
    async fn the_end_of_a_job_brings_the_next_look_nearer() {
        let begun = Instant::now();
        outbox::a_job_may_have_told();
        due(Duration::from_mins(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(30), "and not a minute later");
        assert!(
            begun.elapsed() >= MAYBE,
            "a queue that drains is not looked at for each job"
        );
        outbox::a_job_may_have_told();
        let begun = Instant::now();
        due(FIRST).await;
        assert!(begun.elapsed() < MAYBE, "and never further away");
    }
}
