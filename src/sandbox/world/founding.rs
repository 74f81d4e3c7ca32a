//! The world as it is at the start: who lives in it, which chats there are, and what was written in them.
//!
//! Everything is drawn from the seed, and dates end on a fixed day, so that two runs see the same world.

mod cast;
mod crowd;
mod places;

use super::World;

/// All that was there at the start happened before 2025-11-01 00:00 UTC.
pub(super) const EVE: i32 = 1_761_955_200;
pub(super) const HOUR: i32 = 3600;
pub(super) const DAY: i32 = 86_400;

/// Fills an empty world.
pub(super) fn found(world: &mut World) {
    cast::found_accounts(world);
    let extras = cast::found_extras(world);
    let crowd = crowd::found_crowd(world);
    places::found_places(world, &extras, &crowd);
    cast::found_contacts(world, &crowd);
}
