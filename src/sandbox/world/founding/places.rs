//! The chats: one for every way in which a chat can differ.

use rand::Rng;

use super::cast::account;
use super::{DAY, EVE, HOUR};
use crate::sandbox::call::UserId;
use crate::sandbox::world::World;
use crate::sandbox::world::channels::{Channel, ChannelKind, Settings};
use crate::sandbox::world::groups::Group;
use crate::sandbox::world::invites::Invite;
use crate::sandbox::world::links;
use crate::sandbox::world::members::{Member, Role};
use crate::sandbox::world::messages::{Content, Message};
use crate::sandbox::world::peers::PeerKey;

const FIRST_CHANNEL: i64 = 1_900_000_001;
const FIRST_GROUP: i64 = 4_000_001;

use ChannelKind::{Broadcast, Supergroup};

/// What is special about one channel.
struct Plan {
    kind: ChannelKind,
    title: &'static str,
    username: Option<&'static str>,
    about: &'static str,
    settings: Settings,
    /// How many members in all.
    size: usize,
    /// Accounts that are in it from the start; the first is the creator, the second an admin.
    staff: &'static [&'static str],
    /// How many messages were written.
    messages: usize,
}

fn plan(
    kind: ChannelKind,
    (title, username): (&'static str, Option<&'static str>),
    about: &'static str,
    (size, messages): (usize, usize),
) -> Plan {
    let (settings, staff) = (Settings::default(), &["judy", "ivan"]);
    Plan {
        kind,
        title,
        username,
        about,
        settings,
        size,
        staff,
        messages,
    }
}

fn ordinary_plans() -> [Plan; 4] {
    let (market, bazaar) = (Some("harbour_market"), Some("big_bazaar"));
    [
        plan(
            Supergroup,
            ("Harbour market", market),
            "Buy and sell by the water.",
            (1250, 420),
        ),
        plan(
            Supergroup,
            ("Big bazaar", bazaar),
            "Everything, and more of it.",
            (12_000, 250),
        ),
        plan(
            Broadcast,
            ("Morning news", Some("morning_news")),
            "What the tide brought in.",
            (3000, 300),
        ),
        plan(Supergroup, ("Harbour board", None), "By link only.", (240, 120)),
    ]
}

fn special_plans() -> [Plan; 6] {
    let with = |settings, plan: Plan| Plan { settings, ..plan };
    let asks = || Settings {
        join_request: true,
        ..Settings::default()
    };
    let hidden = Settings {
        hidden_members: true,
        ..Settings::default()
    };
    let read_only = Settings {
        read_only: true,
        ..Settings::default()
    };
    let slow = Settings {
        slow_mode: Some(30),
        ..Settings::default()
    };
    let (quay, notices) = (Some("quiet_quay"), Some("harbour_notices"));
    [
        with(
            asks(),
            plan(Supergroup, ("Lantern club", None), "Ask at the door.", (90, 60)),
        ),
        with(
            asks(),
            plan(
                Broadcast,
                ("Harbour insiders", None),
                "For those in the know.",
                (410, 75),
            ),
        ),
        with(
            hidden,
            plan(Supergroup, ("Quiet quay", quay), "Nobody sees who is here.", (600, 80)),
        ),
        with(
            read_only,
            plan(
                Supergroup,
                ("Harbour notices", notices),
                "Only admins write.",
                (310, 40),
            ),
        ),
        with(
            slow,
            plan(
                Supergroup,
                ("Slow pier", Some("slow_pier")),
                "One message in half a minute.",
                (150, 50),
            ),
        ),
        with(
            asks(),
            plan(
                Supergroup,
                ("Gatehouse", Some("gatehouse")),
                "Public, but ask first.",
                (75, 30),
            ),
        ),
    ]
}

/// The chats that examples name. Made after all others, which stay as they are for every seed.
fn documented_plans() -> [Plan; 3] {
    let (reading, chess) = (Some("reading_club"), Some("chess_club"));
    [
        plan(Supergroup, ("Reading club", reading), "A book a month.", (140, 60)),
        plan(Supergroup, ("Chess club", chess), "A game a week.", (85, 40)),
        plan(
            Broadcast,
            ("Library news", Some("library_news")),
            "What is new on the shelves.",
            (260, 30),
        ),
    ]
}

/// Makes them.
pub(super) fn found_documented(world: &mut World, extras: &[UserId], crowd: &[UserId]) {
    let taken = ordinary_plans().len() + special_plans().len();
    for (id, plan) in (FIRST_CHANNEL..).skip(taken).zip(documented_plans()) {
        found_channel(world, id, &plan, extras, crowd);
    }
}

/// Makes all chats and the links into them.
pub(super) fn found_places(world: &mut World, extras: &[UserId], crowd: &[UserId]) {
    for (id, plan) in (FIRST_CHANNEL..).zip(ordinary_plans().into_iter().chain(special_plans())) {
        found_channel(world, id, &plan, extras, crowd);
    }
    found_links(world);
    found_friends(world, extras, crowd);
}

fn found_channel(world: &mut World, id: i64, plan: &Plan, extras: &[UserId], crowd: &[UserId]) {
    let created = EVE - 400 * DAY - i32::try_from(plan.size).unwrap_or(0);
    let mut channel = Channel::new(id, plan.kind, plan.title, created);
    channel.about = plan.about.into();
    channel.settings = plan.settings.clone();
    channel.username = plan.username.map(str::to_owned);
    if let Some(username) = plan.username {
        world.usernames.insert(username.into(), PeerKey::Channel(id));
    }
    gather(world, &mut channel, plan, extras, crowd);
    write_history(world, &mut channel, plan.messages);
    for name in plan.staff {
        channel.read.insert(account(name), channel.top_message());
    }
    channel.posts.forget_log();
    world.channels.insert(id, channel);
}

/// Brings the members in, at times that grow towards the eve.
fn gather(world: &mut World, channel: &mut Channel, plan: &Plan, extras: &[UserId], crowd: &[UserId]) {
    let creator = plan.staff.first().map_or(crowd[0], |name| account(name));
    let mut arrivals: Vec<(UserId, Role)> = Vec::with_capacity(plan.size);
    for (index, name) in plan.staff.iter().enumerate() {
        arrivals.push((account(name), if index == 0 { Role::Creator } else { Role::Admin }));
    }
    if plan.kind == Supergroup {
        // The last of the extras are the bots.
        arrivals.extend(extras.iter().rev().take(2).map(|bot| (*bot, Role::Member)));
        arrivals.push((crowd[0], Role::Admin));
    }
    arrivals.extend(
        crowd[1..]
            .iter()
            .take(plan.size - arrivals.len())
            .map(|user| (*user, Role::Member)),
    );
    let step = (EVE - DAY - channel.created) / i32::try_from(plan.size).unwrap_or(i32::MAX).max(1);
    let mut date = channel.created;
    for (user, role) in arrivals {
        let added = role != Role::Member || world.rng.random_bool(0.1);
        let inviter = if added { creator } else { user };
        channel.members.add(Member {
            user,
            inviter,
            date,
            role,
            via_request: plan.settings.join_request,
        });
        date += step;
    }
}

fn write_history(world: &mut World, channel: &mut Channel, messages: usize) {
    let chat = PeerKey::Channel(channel.id);
    let people: Vec<UserId> = channel.members.oldest_first().map(|member| member.user).collect();
    let writers: Vec<UserId> = people
        .into_iter()
        .filter(|user| writes(world, channel, *user))
        .collect();
    let mut date = EVE - DAY - i32::try_from(messages).unwrap_or(0) * HOUR;
    for number in 1..=messages {
        date += world.rng.random_range(HOUR / 2..HOUR);
        let writer = writers[world.rng.random_range(0..writers.len())];
        let sender = if channel.is_broadcast() {
            chat
        } else {
            PeerKey::User(writer)
        };
        let text = if channel.is_broadcast() {
            headline(world, number)
        } else {
            offer(world)
        };
        world.last_origin += 1;
        channel.posts.add(Message {
            id: 0,
            origin: world.last_origin,
            chat,
            sender,
            date,
            edit_date: None,
            reply_to: None,
            silent: false,
            random_id: None,
            extras: None,
            content: Content::Text {
                text,
                entities: Vec::new(),
            },
        });
    }
}

/// Accounts keep still at first: what they are found to have written later is from a test.
fn writes(world: &World, channel: &Channel, user: UserId) -> bool {
    let able = !channel.settings.read_only || channel.members.is_admin(user);
    able && !world.accounts.contains_key(&user)
        && world.people.get(&user).is_some_and(|p| !p.is_bot() && !p.is_deleted())
        || channel.is_broadcast()
}

const THINGS: [&str; 12] = [
    "a coil of rope",
    "two brass lanterns",
    "a rowing boat",
    "smoked herring",
    "an old sextant",
    "a crate of oranges",
    "sailcloth",
    "a barometer",
    "oilskins, size L",
    "a ship in a bottle",
    "fresh oysters",
    "a fog bell",
];

fn offer(world: &mut World) -> String {
    let thing = THINGS[world.rng.random_range(0..THINGS.len())];
    let price = world.rng.random_range(3..400);
    match world.rng.random_range(0..5) {
        0 => format!("Selling {thing}, {price} crowns."),
        1 => format!("Who has {thing}? I pay up to {price}."),
        2 => format!("{thing} is gone, thank you all."),
        3 => format!("Is {thing} still there?"),
        _ => format!("Swap {thing} for something worth {price}?"),
    }
}

fn headline(world: &mut World, number: usize) -> String {
    let thing = THINGS[world.rng.random_range(0..THINGS.len())];
    let wind = world.rng.random_range(1..9);
    format!("No. {number}: wind {wind}, high water at dawn. On the quay: {thing}.")
}

/// The links that [`links`] names.
fn found_links(world: &mut World) {
    let channel = |world: &World, title: &str| {
        let found = world.channels.values().find(|channel| channel.title == title);
        PeerKey::Channel(found.map_or(0, |channel| channel.id))
    };
    let (board, lantern) = (channel(world, "Harbour board"), channel(world, "Lantern club"));
    let insiders = channel(world, "Harbour insiders");
    let plain = |hash: &str, chat| Invite {
        hash: hash.to_owned(),
        chat,
        creator: account("judy"),
        date: EVE - 30 * DAY,
        expires: None,
        usage_limit: None,
        usage: 0,
        request_needed: false,
        revoked: false,
        subscription: None,
        title: None,
    };
    let invites = [
        plain(links::PRIVATE_GROUP, board),
        Invite {
            request_needed: true,
            ..plain(links::APPROVAL_GROUP, lantern)
        },
        Invite {
            expires: Some(EVE - DAY),
            ..plain(links::EXPIRED, board)
        },
        Invite {
            request_needed: true,
            ..plain(links::APPROVAL_CHANNEL, insiders)
        },
        Invite {
            revoked: true,
            ..plain(links::REVOKED, board)
        },
    ];
    for invite in invites {
        world.invites.insert(invite.hash.clone(), invite);
    }
}

/// The basic group "Quay friends": four accounts, a bot and some of the crowd.
fn found_friends(world: &mut World, extras: &[UserId], crowd: &[UserId]) {
    let created = EVE - 60 * DAY;
    let mut group = Group::new(FIRST_GROUP, "Quay friends", created);
    let creator = account("alice");
    let friends = ["alice", "bob", "carol", "dave"].map(account);
    let bot = extras.last().copied();
    for (index, user) in friends
        .into_iter()
        .chain(bot)
        .chain(crowd[1..8].iter().copied())
        .enumerate()
    {
        let role = if index == 0 { Role::Creator } else { Role::Member };
        group.members.add(Member {
            user,
            inviter: creator,
            date: created,
            role,
            via_request: false,
        });
    }
    world.groups.insert(group.id, group);
    for (number, writer) in crowd[1..7].iter().enumerate() {
        let text = offer(world);
        world.last_origin += 1;
        let date = EVE - 10 * DAY + i32::try_from(number).unwrap_or(0) * HOUR;
        for friend in friends {
            let Some(account) = world.accounts.get_mut(&friend) else {
                continue;
            };
            account.inbox.add(Message {
                id: 0,
                origin: world.last_origin,
                chat: PeerKey::Group(FIRST_GROUP),
                sender: PeerKey::User(*writer),
                date,
                edit_date: None,
                reply_to: None,
                silent: false,
                random_id: None,
                extras: None,
                content: Content::Text {
                    text: text.clone(),
                    entities: Vec::new(),
                },
            });
            account.inbox.forget_log();
        }
    }
}
