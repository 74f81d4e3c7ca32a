//! The world as it is at the start: who lives in it, which chats there are, and what was written in them.
//!
//! Everything is drawn from the seed, and dates end on a fixed day, so that two runs see the same world.
//!
//! | who and what | special about it |
//! | --- | --- |
//! | `@alice` to `@niaj` | twelve accounts, +999 66 2 0001 to 0012; `@carol` has the password "sandbox" |
//! | `@judy`, `@ivan` | creator and admin of every group and channel below; `@alice` made "Quay friends" |
//! | `@shy_person`, `@premium_only`, `@blocks_strangers`, `@busy_person` | cannot be invited, each for its reason |
//! | `@friendly_person` | can |
//! | `@harbour_bot`, `@quiz_bot` | bots, in all groups |
//! | `@harbour_market` | public supergroup of 1,250 |
//! | `@big_bazaar` | public supergroup of 12,000: lists stop at 10,000 |
//! | `@morning_news` | broadcast channel with 300 posts; its members are for admins |
//! | "Harbour board" | private supergroup behind a link, see [`links`](super::links) |
//! | "Lantern club", "Harbour insiders" | private; an admin approves who follows the link |
//! | `@gatehouse` | public supergroup; an admin approves who joins |
//! | `@quiet_quay` | hides its members |
//! | `@harbour_notices` | only admins write |
//! | `@slow_pier` | one message in 30 seconds |
//! | `@reading_club`, `@chess_club`, `@library_news` | the groups and the channel of the documentation's examples |
//! | "Quay friends" | basic group with `@alice`, `@bob`, `@carol` and `@dave` |

pub(super) mod cast;
mod crowd;
mod places;
pub(super) mod stalls;

use super::World;

pub use cast::{KnownAccount, known_accounts};

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
    places::found_documented(world, &extras, &crowd);
}
