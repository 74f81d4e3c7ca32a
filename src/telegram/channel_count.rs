//! How many supergroups and channels an account is in, so that it knows its limit before it meets it. Counted once in a
//! while, because others may use the account too; what this session does itself is added in between.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use wireroom_jobs::ports::ChannelRoom;

/// How long a count is taken for true.
const KEEPS: Duration = Duration::from_hours(1);
/// The same when there was no room: somebody may have left a chat since.
const KEEPS_FULL: Duration = Duration::from_mins(5);

/// The last count of one session.
#[derive(Debug, Default)]
pub struct ChannelCount(Mutex<Option<Counted>>);

/// A count, or a bound above one.
#[derive(Debug, Clone, Copy)]
struct Counted {
    room: ChannelRoom,
    /// It is the number itself.
    exact: bool,
    at: Instant,
}

impl ChannelCount {
    /// The room, unless it has to be counted again.
    pub fn get(&self) -> Option<ChannelRoom> {
        let counted = (*self.lock())?;
        let keeps = match (counted.room.is_full(), counted.exact) {
            (false, _) => KEEPS,
            (true, true) => KEEPS_FULL,
            // More than there may be, and perhaps fewer than that.
            (true, false) => return None,
        };
        (counted.at.elapsed() < keeps).then_some(counted.room)
    }

    pub fn set(&self, room: ChannelRoom, exact: bool) {
        let at = Instant::now();
        *self.lock() = Some(Counted { room, exact, at });
    }

    /// The session has joined (1) or left (-1) one.
    pub fn change(&self, by: i32) {
        if let Some(counted) = self.lock().as_mut() {
            counted.room.used = counted.room.used.saturating_add(by).max(0);
        }
    }

    /// Telegram says something else: count anew.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(used: i32) -> ChannelRoom {
        ChannelRoom { used, limit: 500 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_keeps_for_a_while_and_follows_the_session() {
        let count = ChannelCount::default();
        assert_eq!(count.get(), None);
        count.set(room(498), false);
        count.change(1);
        assert_eq!(count.get(), Some(room(499)));
        count.change(1);
        assert_eq!(count.get(), None, "a bound above it is no count");
        count.set(room(500), true);
        assert_eq!(count.get(), Some(room(500)));
        tokio::time::advance(KEEPS_FULL).await;
        assert_eq!(count.get(), None);
        count.set(room(10), true);
        tokio::time::advance(KEEPS_FULL).await;
        assert_eq!(count.get(), Some(room(10)));
        tokio::time::advance(KEEPS).await;
        assert_eq!(count.get(), None);
    }
}
