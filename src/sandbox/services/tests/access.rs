//! The world from its seed, access hashes, names, and what each account may see of people.

use grammers_tl_types as tl;

use super::*;
use crate::sandbox::services::{contacts, users};

fn tl_user(user: tl::enums::User) -> tl::types::User {
    match user {
        tl::enums::User::User(user) => user,
        tl::enums::User::Empty(user) => panic!("nobody: {user:?}"),
    }
}

fn resolve(stage: &mut Stage, who: &str, username: &str) -> Answer<tl::enums::contacts::ResolvedPeer> {
    let request = tl::functions::contacts::ResolveUsername {
        username: username.into(),
        referer: None,
    };
    stage.call(who, contacts::resolve_username, request)
}

#[test]
fn the_same_seed_founds_the_same_world() {
    let (one, other, third) = (World::new(1), World::new(1), World::new(2));
    let look = |world: &World| {
        let market = world.find_peer("@harbour_market").expect("the market is there");
        let people: Vec<_> = world.people.values().map(|p| format!("{p:?}")).collect();
        (
            world.messages_of(market),
            people,
            world.accounts(),
            world.access_hash(7_000_000_001, market),
        )
    };
    assert_eq!(look(&one), look(&other));
    assert_ne!(look(&one), look(&third));
}

#[test]
fn the_world_is_as_large_as_it_says() {
    let stage = Stage::new();
    let size = |name: &str| {
        stage
            .world
            .chats()
            .into_iter()
            .find(|row| row.title == name)
            .map(|row| row.members)
    };
    assert_eq!(size("Harbour market"), Some(1250));
    assert_eq!(size("Big bazaar"), Some(12_000));
    assert_eq!(
        stage
            .world
            .messages_of(PeerKey::Channel(stage.channel("morning_news")))
            .len(),
        300
    );
    assert_eq!(stage.world.accounts().len(), 12);
    assert_eq!(stage.world.account_by_phone("+999 66 2 0001"), Some(stage.id("alice")));
    assert_eq!(stage.world.account_by_phone("9996620099"), None);
    assert_eq!(stage.world.password_of(stage.id("carol")), Some("sandbox"));
    assert_eq!(stage.world.password_of(stage.id("alice")), None);
}

#[test]
fn a_hash_of_another_account_is_refused() {
    let mut stage = Stage::new();
    let bobs = stage.input_channel("bob", "harbour_market");
    let request = tl::functions::channels::GetFullChannel { channel: bobs };
    refused(
        stage.call("alice", channels::get_full_channel, request),
        400,
        "CHANNEL_INVALID",
    );
    let market = stage.peer_of("bob", "harbour_market");
    refused(
        stage.call("alice", messages::get_history, history(market, 1)),
        400,
        "CHANNEL_INVALID",
    );
    let carol = stage.peer_of("bob", "carol");
    refused(stage.send("alice", carol, "hi", 1), 400, "PEER_ID_INVALID");
    let request = tl::functions::users::GetFullUser {
        id: stage.input_user("bob", stage.id("carol")),
    };
    refused(
        stage.call("alice", users::get_full_user, request),
        400,
        "USER_ID_INVALID",
    );
}

#[test]
fn without_signing_in_nothing_answers() {
    let mut stage = Stage::new();
    let caller = Caller {
        key_id: [1; 8],
        account: None,
        dc: 2,
        layer: tl::LAYER,
    };
    let request = tl::functions::users::GetUsers {
        id: vec![InputUser::UserSelf],
    };
    refused(
        users::get_users(
            &mut Call {
                world: &mut stage.world,
                caller,
            },
            request,
        ),
        401,
        "AUTH_KEY_UNREGISTERED",
    );
}

#[test]
fn usernames_resolve_to_what_can_be_used() {
    let mut stage = Stage::new();
    let tl::enums::contacts::ResolvedPeer::Peer(found) =
        resolve(&mut stage, "alice", "Harbour_Market").expect("it is public");
    let [tl::enums::Chat::Channel(channel)] = found.chats.as_slice() else {
        panic!("one channel: {found:?}")
    };
    assert!(channel.left && channel.megagroup && !channel.broadcast);
    assert_eq!(
        channel.access_hash,
        Some(stage.world.access_hash(stage.id("alice"), PeerKey::Channel(channel.id)))
    );
    refused(
        resolve(&mut stage, "alice", "nobody_has_this"),
        400,
        "USERNAME_NOT_OCCUPIED",
    );
    for wrong in ["", "a", "no spaces", "1digit", "ünïcode"] {
        refused(resolve(&mut stage, "alice", wrong), 400, "USERNAME_INVALID");
    }
}

#[test]
fn phones_are_shown_of_contacts_alone() {
    let mut stage = Stage::new();
    let request = tl::functions::users::GetUsers {
        id: ["alice", "bob", "dave"]
            .map(|name| stage.input_user("alice", stage.id(name)))
            .to_vec(),
    };
    let users = stage
        .call("alice", users::get_users, request)
        .expect("all can be named");
    let [alice, bob, dave] = users
        .try_into()
        .map(|users: [_; 3]| users.map(tl_user))
        .expect("three users");
    assert!(alice.is_self);
    assert_eq!(alice.phone.as_deref(), Some("9996620001"));
    assert!(bob.contact && bob.mutual_contact);
    assert_eq!(bob.phone.as_deref(), Some("9996620002"));
    assert!(!dave.contact);
    assert_eq!(dave.phone, None);
}

#[test]
fn a_search_finds_contacts_and_public_names() {
    let mut stage = Stage::new();
    let request = |q: &str| tl::functions::contacts::Search {
        broadcasts: false,
        bots: false,
        q: q.into(),
        limit: 10,
    };
    let tl::enums::contacts::Found::Found(found) = stage
        .call("alice", contacts::search, request("harb"))
        .expect("a good query");
    assert!(found.my_results.is_empty());
    assert!(
        found
            .chats
            .iter()
            .any(|chat| chat.id() == stage.channel("harbour_market"))
    );
    assert!(
        found
            .chats
            .iter()
            .all(|chat| chat.id() != stage.channel("Harbour board")),
        "private"
    );
    let tl::enums::contacts::Found::Found(found) = stage
        .call("alice", contacts::search, request("Bob B"))
        .expect("a good query");
    assert_eq!(found.my_results, [PeerKey::User(stage.id("bob")).to_tl()]);
    refused(
        stage.call("alice", contacts::search, request(" ")),
        400,
        "SEARCH_QUERY_EMPTY",
    );
}

#[test]
fn more_accounts_can_be_made() {
    let mut stage = Stage::new();
    let new = stage.world.add_accounts(3);
    assert_eq!(new[0].phone, "9996620013");
    assert_eq!(stage.world.account_by_phone("+999 66 2 0015"), Some(new[2].id));
    stage.join("sailor14", "harbour_market").expect("it is public");
    assert_eq!(stage.world.accounts().len(), 15);
}
