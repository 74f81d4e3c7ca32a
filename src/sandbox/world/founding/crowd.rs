//! The many: people with drawn names, who fill the groups.

use rand::Rng;

use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::names;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::people::{Name, Nature, Person};

/// Enough for the largest group, and some to spare for invitations.
const PEOPLE: i64 = 12_600;
const FIRST_PERSON: UserId = 5_200_000_001;
/// Numbers of the range no country has: +999 7 and eight digits.
const FIRST_PHONE: u64 = 999_700_000_000;

/// Makes the crowd, and returns its ids in order.
pub(super) fn found_crowd(world: &mut World) -> Vec<UserId> {
    (0..PEOPLE).map(|index| found_person(world, index)).collect()
}

/// Makes so many more, who have no phone, and returns their ids.
pub(super) fn found_more(world: &mut World, count: u32) -> Vec<UserId> {
    let found = |index| {
        let id = found_person(world, index);
        if let Some(person) = world.people.get_mut(&id) {
            person.phone = None;
        }
        id
    };
    (PEOPLE..PEOPLE + i64::from(count)).map(found).collect()
}

fn found_person(world: &mut World, index: i64) -> UserId {
    // Gaps between the ids, as there are between Telegram's.
    let id = FIRST_PERSON + index * 7 + world.rng.random_range(0..7);
    let first = world.rng.random_range(0..names::COUNT);
    let last = world
        .rng
        .random_bool(0.7)
        .then(|| world.rng.random_range(0..names::COUNT));
    let nature = draw_nature(world);
    let named = world.rng.random_bool(0.35) && nature != Nature::Deleted;
    let username = named.then(|| username_of(first, last, index));
    let phone = FIRST_PHONE + index.unsigned_abs() * 7919;
    if let Some(username) = &username {
        world.usernames.insert(username.clone(), PeerKey::User(id));
    }
    world.people.insert(
        id,
        Person {
            id,
            name: Name::Drawn { first, last },
            username,
            phone: Some(phone),
            nature,
        },
    );
    id
}

fn draw_nature(world: &mut World) -> Nature {
    match world.rng.random_range(0..100) {
        0 => Nature::Deleted,
        1..=8 => Nature::RefusesInvites,
        9 | 10 => Nature::PremiumOnly,
        11 => Nature::BlocksStrangers,
        12 => Nature::TooManyChannels,
        _ => Nature::Ordinary,
    }
}

fn username_of(first: u8, last: Option<u8>, index: i64) -> Box<str> {
    let mut username = names::first(first).to_lowercase();
    if let Some(last) = last {
        username.push('_');
        username.push_str(&names::last(last).to_lowercase());
    }
    username.push_str(&index.to_string());
    username.into()
}
