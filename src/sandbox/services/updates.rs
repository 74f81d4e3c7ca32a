//! `updates.*`: where a client is, and what it missed.

use grammers_tl_types as tl;
use tl::functions::updates::{GetChannelDifference, GetDifference, GetState};

use super::messages::inbox;
use crate::sandbox::call::{Answer, Call, UserId};
use crate::sandbox::world::World;
use crate::sandbox::world::boxes::{Difference, Event, EventKind, MessageBox};
use crate::sandbox::world::hearing::Named;
use crate::sandbox::world::peers::PeerKey;
use crate::sandbox::world::refusal::bad;
use crate::sandbox::world::view::dialogs::DialogRow;
use crate::sandbox::world::view::messages::tl_message;

/// Events in one slice, when the client does not say.
const SLICE: usize = 100;
/// The most that a client may ask for at once.
const LONGEST_SLICE: usize = 10_000;
/// After how many seconds a client may ask for a channel's difference again.
const CHANNEL_TIMEOUT: i32 = 30;

/// The state of the caller's common box.
pub fn get_state(call: &mut Call<'_>, _request: GetState) -> Answer<tl::enums::updates::State> {
    let me = call.caller.signed_in()?;
    let pts = inbox(call.world, me)?.pts();
    Ok(state(call.world, me, pts))
}

fn state(world: &World, me: UserId, pts: i32) -> tl::enums::updates::State {
    let unread = world
        .dialog_rows(me)
        .iter()
        .map(|row| world.tl_dialog(me, row).unread_count)
        .sum();
    tl::types::updates::State {
        pts,
        qts: 0,
        date: world.now(),
        seq: 0,
        unread_count: unread,
    }
    .into()
}

/// What happened in private chats and basic groups after `pts`; and, by `date`, in which channels something did.
///
/// # Errors
/// `PERSISTENT_TIMESTAMP_EMPTY` for 0, `PERSISTENT_TIMESTAMP_INVALID` for a `pts` of the future.
pub fn get_difference(call: &mut Call<'_>, request: GetDifference) -> Answer<tl::enums::updates::Difference> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    if request.pts <= 0 {
        return Err(bad("PERSISTENT_TIMESTAMP_EMPTY"));
    }
    let messages = inbox(world, me)?;
    let behind = i64::from(messages.pts()) - i64::from(request.pts);
    if request.pts_total_limit.is_some_and(|limit| behind > i64::from(limit)) {
        return Ok(tl::types::updates::DifferenceTooLong { pts: messages.pts() }.into());
    }
    let (events, last) = match messages.since(request.pts, slice_of(request.pts_limit.unwrap_or(0))) {
        Difference::Ahead => return Err(bad("PERSISTENT_TIMESTAMP_INVALID")),
        Difference::TooLong => return Ok(tl::types::updates::DifferenceTooLong { pts: messages.pts() }.into()),
        Difference::Empty => (Vec::new(), true),
        Difference::Events { events, last } => (events, last),
    };
    let mut news = News::default();
    news.gather(me, messages, &events, |event, named| {
        world.tl_inbox_event(me, event, named)
    });
    if last {
        news.channels_since(world, me, request.date);
    }
    if last && events.is_empty() && news.updates.is_empty() {
        return Ok(tl::types::updates::DifferenceEmpty {
            date: world.now(),
            seq: 0,
        }
        .into());
    }
    let pts = events.last().map_or(messages.pts(), |event| event.pts);
    let (chats, users) = (world.named_chats(me, &news.named), world.named_users(me, &news.named));
    let (new_messages, other_updates) = (news.messages, news.updates);
    let new_encrypted_messages = Vec::new();
    let state = state(world, me, pts);
    if last {
        return Ok(tl::types::updates::Difference {
            new_messages,
            new_encrypted_messages,
            other_updates,
            chats,
            users,
            state,
        }
        .into());
    }
    Ok(tl::types::updates::DifferenceSlice {
        new_messages,
        new_encrypted_messages,
        other_updates,
        chats,
        users,
        intermediate_state: state,
    }
    .into())
}

fn slice_of(limit: i32) -> usize {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit.min(LONGEST_SLICE),
        _ => SLICE,
    }
}

/// The content of a difference.
#[derive(Default)]
struct News {
    messages: Vec<tl::enums::Message>,
    updates: Vec<tl::enums::Update>,
    named: Named,
}

impl News {
    /// Sorts events into new messages and the rest. What was deleted since is left out: its deletion is among them.
    fn gather(
        &mut self,
        me: UserId,
        messages: &MessageBox,
        events: &[Event],
        update: impl Fn(&Event, &mut Named) -> Option<tl::enums::Update>,
    ) {
        for event in events {
            if let EventKind::New(id) = event.kind {
                let Some(message) = messages.get(id) else { continue };
                self.named.message(message);
                self.messages.push(tl_message(me, message));
            } else {
                self.updates.extend(update(event, &mut self.named));
            }
        }
    }

    /// The channels that let the account in or put it out since `date`, and those where something happened: each has
    /// a difference of its own.
    fn channels_since(&mut self, world: &World, me: UserId, date: i32) {
        let changes = world
            .accounts
            .get(&me)
            .into_iter()
            .flat_map(|account| &account.membership_changes);
        let mut channels: Vec<i64> = changes
            .filter(|(at, _)| *at >= date)
            .map(|(_, channel)| *channel)
            .collect();
        channels.sort_unstable();
        channels.dedup();
        for channel_id in channels {
            self.named.peer(PeerKey::Channel(channel_id));
            self.updates.push(tl::types::UpdateChannel { channel_id }.into());
        }
        let joined = world.channels.values().filter(|channel| channel.members.contains(me));
        for channel in joined.filter(|channel| channel.posts.last_event_date().is_some_and(|at| at >= date)) {
            self.named.peer(PeerKey::Channel(channel.id));
            // Without a pts: a client would take it for its own and skip what it missed.
            self.updates.push(
                tl::types::UpdateChannelTooLong {
                    channel_id: channel.id,
                    pts: None,
                }
                .into(),
            );
        }
    }
}

/// What happened in a channel after `pts`.
///
/// # Errors
/// `CHANNEL_PRIVATE`, `PERSISTENT_TIMESTAMP_EMPTY`, `PERSISTENT_TIMESTAMP_INVALID`.
pub fn get_channel_difference(
    call: &mut Call<'_>,
    request: GetChannelDifference,
) -> Answer<tl::enums::updates::ChannelDifference> {
    let me = call.caller.signed_in()?;
    let world = &*call.world;
    let id = world.input_channel(me, &request.channel)?;
    let channel = world.open_channel(me, id)?;
    if request.pts <= 0 {
        return Err(bad("PERSISTENT_TIMESTAMP_EMPTY"));
    }
    let timeout = Some(CHANNEL_TIMEOUT);
    match channel.posts.since(request.pts, slice_of(request.limit)) {
        Difference::Ahead => Err(bad("PERSISTENT_TIMESTAMP_INVALID")),
        Difference::TooLong => Ok(too_long(world, me, id, &channel.posts)),
        Difference::Empty => {
            let pts = channel.posts.pts();
            Ok(tl::types::updates::ChannelDifferenceEmpty {
                r#final: true,
                pts,
                timeout,
            }
            .into())
        }
        Difference::Events { events, last } => {
            let mut news = News::default();
            news.named.peer(PeerKey::Channel(id));
            news.gather(me, &channel.posts, &events, |event, named| {
                world.tl_channel_event(me, id, event, named)
            });
            Ok(tl::types::updates::ChannelDifference {
                r#final: last,
                pts: events.last().map_or(channel.posts.pts(), |event| event.pts),
                timeout,
                new_messages: news.messages,
                other_updates: news.updates,
                chats: world.named_chats(me, &news.named),
                users: world.named_users(me, &news.named),
            }
            .into())
        }
    }
}

/// The newest messages and the present state, for a client that was away for too long.
fn too_long(world: &World, me: UserId, id: i64, posts: &MessageBox) -> tl::enums::updates::ChannelDifference {
    let newest: Vec<_> = posts.newest_first().take(SLICE).collect();
    let top = newest.first();
    let row = DialogRow {
        chat: PeerKey::Channel(id),
        top_message: top.map_or(0, |message| message.id),
        date: top.map_or(0, |message| message.date),
    };
    let mut named = Named::default();
    named.peer(row.chat);
    for message in &newest {
        named.message(message);
    }
    tl::types::updates::ChannelDifferenceTooLong {
        r#final: true,
        timeout: Some(CHANNEL_TIMEOUT),
        dialog: world.tl_dialog(me, &row).into(),
        messages: newest.into_iter().map(|message| tl_message(me, message)).collect(),
        chats: world.named_chats(me, &named),
        users: world.named_users(me, &named),
    }
    .into()
}
