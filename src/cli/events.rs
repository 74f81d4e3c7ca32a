//! What a role does about events: every one moves them to the log and hears how far that goes; those with the master keys
//! deliver them to the subscriptions.

use std::sync::Arc;

use anyhow::Context;
use wireroom_jobs::ports::Clock;

use super::worker;
use crate::{
    config::Config,
    events::{Announce, Deliverer, DelivererDeps, Sequencer},
    lifecycle::Shutdown,
    queue::Waker,
    store::PgPool,
};

/// The readers of this process at once, those of the others by a notification.
struct Bell(Waker);

impl Announce for Bell {
    fn logged(&self, position: i64, is_news: bool) {
        self.0.events_logged(position, is_news);
    }
}

/// Starts moving events; one per process, until it is dropped.
pub fn sequencer(pool: &PgPool, waker: &Waker) -> Sequencer {
    Sequencer::start(pool.clone(), Arc::new(Bell(waker.clone())), waker.events())
}

/// Starts delivering events, until the soft step.
pub fn deliverer(
    config: &Config,
    pool: &PgPool,
    waker: &Waker,
    sequencer: &Sequencer,
    clock: Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> anyhow::Result<Deliverer> {
    let deps = DelivererDeps {
        pool: pool.clone(),
        vault: worker::vault(config)?,
        clock,
        logged: waker.logged_events(),
        has_subscriptions: sequencer.has_subscriptions(),
        config: config.events.clone(),
    };
    Deliverer::start(deps, shutdown.soft().child_token()).context("webhooks cannot be sent from this machine")
}
