//! Many small supergroups, and one as large as is wanted, for whoever needs others than the founders made.

use super::{DAY, EVE, crowd};
use crate::sandbox::{
    call::UserId,
    world::{
        World,
        channels::{Channel, ChannelKind},
        members::{Member, Role},
        peers::PeerKey,
    },
};

/// Apart from all others.
const CROWDED: i64 = 1_949_999_999;
/// Apart from the chats of the founders, and from those that tests make.
const FIRST_STALL: i64 = 1_950_000_001;

/// Makes the public supergroup `@stall1`, `@stall2` and so on, the next that is not there yet: `members` are in it, and the
/// first of them is its creator.
pub(in crate::sandbox::world) fn found_stall(world: &mut World, members: &[UserId]) -> PeerKey {
    let stalls = world.channels.range(FIRST_STALL..);
    let number = stalls.clone().count() + 1;
    let id = stalls.last().map_or(FIRST_STALL, |(last, _)| last + 1);
    let created = EVE - DAY;
    let mut channel = Channel::new(id, ChannelKind::Supergroup, format!("Stall {number}"), created);
    let username = format!("stall{number}");
    world.usernames.insert(username.as_str().into(), PeerKey::Channel(id));
    channel.username = Some(username);
    for (place, user) in members.iter().enumerate() {
        channel.members.add(Member {
            user: *user,
            inviter: *user,
            date: created,
            role: if place == 0 { Role::Creator } else { Role::Member },
            via_request: false,
        });
    }
    world.channels.insert(id, channel);
    PeerKey::Channel(id)
}

/// Makes the public supergroup `@crowd`: beside its creator, `size` people who are in no other chat.
pub(in crate::sandbox::world) fn found_crowded(world: &mut World, creator: UserId, size: u32) -> PeerKey {
    let created = EVE - DAY;
    let mut channel = Channel::new(CROWDED, ChannelKind::Supergroup, "Crowd", created);
    channel.settings.listed = Some(usize::MAX);
    channel.username = Some("crowd".to_owned());
    world.usernames.insert("crowd".into(), PeerKey::Channel(CROWDED));
    let people = crowd::found_more(world, size);
    for (place, user) in [creator].into_iter().chain(people).enumerate() {
        channel.members.add(Member {
            user,
            inviter: user,
            date: created,
            role: if place == 0 { Role::Creator } else { Role::Member },
            via_request: false,
        });
    }
    world.channels.insert(CROWDED, channel);
    PeerKey::Channel(CROWDED)
}
