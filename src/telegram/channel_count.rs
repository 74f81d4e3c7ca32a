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
    pub fn get(&self, now: Instant) -> Option<ChannelRoom> {
        let counted = (*self.lock())?;
        let keeps = match (counted.room.is_full(), counted.exact) {
            (false, _) => KEEPS,
            (true, true) => KEEPS_FULL,
            // More than there may be, and perhaps fewer than that.
            (true, false) => return None,
        };
        (now.saturating_duration_since(counted.at) < keeps).then_some(counted.room)
    }

    /// `exact`: it is the number itself, and not a bound above it.
    pub fn set(&self, room: ChannelRoom, exact: bool, at: Instant) {
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

    #[test]
    fn a_count_keeps_for_a_while_and_follows_the_session() {
        let (count, start) = (ChannelCount::default(), Instant::now());
        assert_eq!(count.get(start), None);
        count.set(room(498), false, start);
        count.change(1);
        assert_eq!(count.get(start), Some(room(499)));
        count.change(1);
        assert_eq!(count.get(start), None, "a bound above it is no count");
        count.set(room(500), true, start);
        assert_eq!(count.get(start), Some(room(500)));
        assert_eq!(count.get(start + KEEPS_FULL), None);
        count.change(-1);
        assert_eq!(count.get(start + KEEPS_FULL), Some(room(499)));
        assert_eq!(count.get(start + KEEPS), None);
        count.forget();
        assert_eq!(count.get(start), None);
    }
}
