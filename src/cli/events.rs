//! What a role does about events: every one moves them to the log and hears how far that goes.

use std::sync::Arc;

use crate::{
    events::{Announce, Sequencer},
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
    Sequencer::start(pool.clone(), Arc::new(Bell(waker.clone())))
}
