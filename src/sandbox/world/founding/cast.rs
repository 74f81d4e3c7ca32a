//! The named few: accounts that can sign in, bots, and people who stand for one kind of refusal each.

use rand::Rng;

use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::accounts::Account;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::people::{Name, Nature, Person};

/// Accounts are numbered from here, in the order of [`ACCOUNTS`].
const FIRST_ACCOUNT: UserId = 7_000_000_001;
const FIRST_EXTRA: UserId = 7_100_000_001;
/// How many people of the crowd each account has among its contacts.
const CONTACTS: usize = 40;

/// (username, first name, last name); the phone is +999 66 2 and the number, from 0001.
const ACCOUNTS: [(&str, &str, &str); 12] = [
    ("alice", "Alice", "Anchorby"),
    ("bob", "Bob", "Brinewell"),
    ("carol", "Carol", "Calder"),
    ("dave", "Dave", "Dunmore"),
    ("erin", "Erin", "Eastquay"),
    ("frank", "Frank", "Fairlead"),
    ("grace", "Grace", "Gullane"),
    ("heidi", "Heidi", "Hawser"),
    ("ivan", "Ivan", "Inshaw"),
    ("judy", "Judy", "Jettison"),
    ("mallory", "Mallory", "Mooring"),
    ("niaj", "Niaj", "Northsea"),
];

/// The one with two-factor authentication.
const WITH_PASSWORD: (&str, &str) = ("carol", "sandbox");

/// People by the refusal they stand for, and bots.
const EXTRAS: [(&str, &str, &str, Nature); 7] = [
    ("shy_person", "Shy", "Shoreman", Nature::RefusesInvites),
    ("premium_only", "Prim", "Pilotte", Nature::PremiumOnly),
    ("blocks_strangers", "Blake", "Bulwark", Nature::BlocksStrangers),
    ("busy_person", "Busy", "Barge", Nature::TooManyChannels),
    ("friendly_person", "Fred", "Friendly", Nature::Ordinary),
    ("harbour_bot", "Harbour Bot", "", Nature::Bot),
    ("quiz_bot", "Quiz Bot", "", Nature::Bot),
];

/// How to sign in as one of the accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAccount {
    pub username: &'static str,
    /// Digits only.
    pub phone: String,
    pub password: Option<&'static str>,
}

/// The accounts that every world has, whatever its seed.
pub fn known_accounts() -> Vec<KnownAccount> {
    ACCOUNTS
        .iter()
        .zip(1..)
        .map(|((username, ..), number)| KnownAccount {
            username,
            phone: phone(number),
            password: (*username == WITH_PASSWORD.0).then_some(WITH_PASSWORD.1),
        })
        .collect()
}

fn phone(number: usize) -> String {
    format!("999662{number:04}")
}

/// Makes the accounts.
pub(super) fn found_accounts(world: &mut World) {
    for (index, (id, (username, first, last))) in (FIRST_ACCOUNT..).zip(ACCOUNTS).enumerate() {
        settle(world, id, username, first, last, Nature::Ordinary);
        let password = (username == WITH_PASSWORD.0).then(|| WITH_PASSWORD.1.to_owned());
        world.accounts.insert(id, Account::new(id, phone(index + 1), password));
    }
}

/// Makes one more account, named by its number, without chats, contacts or a password.
pub(in crate::sandbox::world) fn found_spare_account(world: &mut World) -> UserId {
    // Bots have accounts too once they have signed in, with ids of their own.
    let people = world.accounts.range(..FIRST_EXTRA);
    let number = people.clone().count() + 1;
    let id = people.last().map_or(FIRST_ACCOUNT, |(last, _)| last + 1);
    settle(
        world,
        id,
        &format!("sailor{number}"),
        "Sailor",
        &number.to_string(),
        Nature::Ordinary,
    );
    world
        .accounts
        .insert(id, Account::new(id, format!("999662{number:04}"), None));
    id
}

/// Makes the people of [`EXTRAS`], and returns their ids in that order.
pub(super) fn found_extras(world: &mut World) -> Vec<UserId> {
    let mut ids = Vec::new();
    for (id, (username, first, last, nature)) in (FIRST_EXTRA..).zip(EXTRAS) {
        settle(world, id, username, first, last, nature);
        ids.push(id);
    }
    ids
}

fn settle(world: &mut World, id: UserId, username: &str, first: &str, last: &str, nature: Nature) {
    let last = (!last.is_empty()).then(|| last.into());
    let name = Name::Own {
        first: first.into(),
        last,
    };
    let person = Person {
        id,
        name,
        username: Some(username.into()),
        phone: None,
        nature,
    };
    world.usernames.insert(username.into(), PeerKey::User(id));
    world.people.insert(id, person);
}

/// Gives each account contacts: the next account in turn, both ways, and people of the crowd, whose numbers it sees.
///
/// The last account has no contacts at all.
pub(super) fn found_contacts(world: &mut World, crowd: &[UserId]) {
    let ids: Vec<UserId> = world.accounts.keys().copied().collect();
    let social = &ids[..ids.len() - 1];
    for (index, id) in social.iter().enumerate() {
        let friend = social[(index + 1) % social.len()];
        let before = social[(index + social.len() - 1) % social.len()];
        let mut contacts = vec![friend, before];
        for number in 0..CONTACTS {
            // From the front of the crowd, which is in every large group, and from what lists of the largest show.
            let part = if number % 2 == 0 { 0..1000 } else { 2500..11_500 };
            contacts.push(crowd[world.rng.random_range(part)]);
        }
        if let Some(account) = world.accounts.get_mut(id) {
            account.contacts.extend(contacts);
        }
    }
}

/// The id of an account by its username.
pub(in crate::sandbox::world) fn account(username: &str) -> UserId {
    let at = ACCOUNTS.iter().position(|(name, ..)| *name == username);
    (FIRST_ACCOUNT..).nth(at.unwrap_or(0)).unwrap_or(FIRST_ACCOUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_accounts_are_the_worlds() {
        let world = World::new(1);
        let rows = world.accounts();
        let known = known_accounts();
        assert_eq!(known.len(), rows.len());
        for (known, row) in known.iter().zip(rows) {
            assert_eq!(row.username.as_deref(), Some(known.username));
            assert_eq!(row.phone, known.phone);
            assert_eq!(world.password_of(row.id), known.password);
        }
    }
}
