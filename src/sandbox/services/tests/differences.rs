//! What a client that was away is told when it comes back.

use grammers_tl_types as tl;

use super::*;
use crate::sandbox::services::updates;

type Common = tl::enums::updates::Difference;
type OfChannel = tl::enums::updates::ChannelDifference;

fn state(stage: &mut Stage, who: &str) -> tl::types::updates::State {
    let answer = stage.call(who, updates::get_state, tl::functions::updates::GetState {});
    let tl::enums::updates::State::State(place) = answer.expect("signed in");
    place
}

fn difference(stage: &mut Stage, who: &str, pts: i32, date: i32) -> Answer<Common> {
    let request = tl::functions::updates::GetDifference {
        pts,
        pts_limit: None,
        pts_total_limit: None,
        date,
        qts: 0,
        qts_limit: None,
    };
    stage.call(who, updates::get_difference, request)
}

fn channel_difference(stage: &mut Stage, who: &str, chat: &str, pts: i32, limit: i32) -> Answer<OfChannel> {
    let request = tl::functions::updates::GetChannelDifference {
        force: false,
        channel: stage.input_channel(who, chat),
        filter: tl::enums::ChannelMessagesFilter::Empty,
        pts,
        limit,
    };
    stage.call(who, updates::get_channel_difference, request)
}

fn messages_in(messages: &[tl::enums::Message]) -> Vec<&str> {
    messages.iter().filter_map(text).collect()
}

/// A date after which nothing happened in any channel.
fn later(stage: &Stage) -> i32 {
    stage.world.now() + 1000
}

#[test]
fn missed_private_messages_come_in_the_difference() {
    let mut stage = Stage::new();
    let start = state(&mut stage, "bob");
    let bob = stage.peer_of("alice", "bob");
    for number in 1..=3 {
        stage
            .send("alice", bob.clone(), &format!("letter {number}"), number)
            .expect("nobody refuses");
    }
    let date = later(&stage);
    let Common::Difference(missed) = difference(&mut stage, "bob", start.pts, date).expect("a known pts") else {
        panic!("three messages are one slice")
    };
    assert_eq!(messages_in(&missed.new_messages), ["letter 1", "letter 2", "letter 3"]);
    assert!(missed.users.iter().any(|user| user.id() == stage.id("alice")));
    let tl::enums::updates::State::State(now) = missed.state;
    assert_eq!(now.pts, start.pts + 3);
    assert!(matches!(
        difference(&mut stage, "bob", now.pts, date),
        Ok(Common::Empty(_))
    ));
}

#[test]
fn a_long_absence_comes_in_slices() {
    let mut stage = Stage::new();
    let start = state(&mut stage, "bob").pts;
    let bob = stage.peer_of("alice", "bob");
    for number in 1..=250 {
        stage
            .send("alice", bob.clone(), &number.to_string(), number)
            .expect("nobody refuses");
    }
    let (mut pts, mut seen, mut slices) = (start, 0, 0);
    let date = later(&stage);
    loop {
        match difference(&mut stage, "bob", pts, date).expect("a known pts") {
            Common::Slice(slice) => {
                let tl::enums::updates::State::State(place) = slice.intermediate_state;
                (pts, seen, slices) = (place.pts, seen + slice.new_messages.len(), slices + 1);
            }
            Common::Difference(last) => {
                seen += last.new_messages.len();
                break;
            }
            other => panic!("neither slice nor end: {other:?}"),
        }
    }
    assert_eq!((seen, slices), (250, 2));
}

#[test]
fn what_is_deleted_since_is_not_shown_any_more() {
    let mut stage = Stage::new();
    let start = state(&mut stage, "alice").pts;
    let bob = stage.peer_of("alice", "bob");
    for number in 1..=2 {
        stage
            .send("alice", bob.clone(), &format!("letter {number}"), number)
            .expect("nobody refuses");
    }
    let rows = stage.world.messages_of(PeerKey::User(stage.id("alice")));
    let first = rows.iter().find(|row| row.text == "letter 1").expect("it was sent").id;
    let request = tl::functions::messages::DeleteMessages {
        revoke: true,
        id: vec![first],
    };
    stage
        .call("alice", messages::delete_messages, request)
        .expect("her own");
    let date = later(&stage);
    let Ok(Common::Difference(missed)) = difference(&mut stage, "alice", start, date) else {
        panic!("one slice")
    };
    assert_eq!(messages_in(&missed.new_messages), ["letter 2"]);
    assert!(matches!(
        missed.other_updates.as_slice(),
        [Update::DeleteMessages(update)] if update.messages == [first] && update.pts == start + 3
    ));
}

#[test]
fn an_unknown_place_is_refused() {
    let mut stage = Stage::new();
    let pts = state(&mut stage, "alice").pts;
    refused(difference(&mut stage, "alice", 0, 1), 400, "PERSISTENT_TIMESTAMP_EMPTY");
    refused(
        difference(&mut stage, "alice", pts + 1, 1),
        400,
        "PERSISTENT_TIMESTAMP_INVALID",
    );
    refused(
        channel_difference(&mut stage, "alice", "big_bazaar", 0, 9),
        400,
        "PERSISTENT_TIMESTAMP_EMPTY",
    );
    refused(
        channel_difference(&mut stage, "alice", "big_bazaar", 99_999, 9),
        400,
        "PERSISTENT_TIMESTAMP_INVALID",
    );
    refused(
        channel_difference(&mut stage, "alice", "Harbour board", 1, 9),
        400,
        "CHANNEL_PRIVATE",
    );
}

#[test]
fn a_forgotten_past_is_too_long() {
    let mut stage = Stage::new();
    let start = state(&mut stage, "bob").pts;
    let bob = stage.peer_of("alice", "bob");
    for number in 1..=5 {
        stage
            .send("alice", bob.clone(), "hello", number)
            .expect("nobody refuses");
    }
    stage.world.set_events_kept(2);
    let date = later(&stage);
    assert!(matches!(difference(&mut stage, "bob", start, date), Ok(Common::TooLong(d)) if d.pts == start + 5));
    let mut request = tl::functions::updates::GetDifference {
        pts: start + 3,
        pts_limit: None,
        pts_total_limit: Some(1),
        date,
        qts: 0,
        qts_limit: None,
    };
    assert!(matches!(
        stage.call("bob", updates::get_difference, request.clone()),
        Ok(Common::TooLong(_))
    ));
    request.pts_total_limit = Some(2);
    assert!(matches!(
        stage.call("bob", updates::get_difference, request),
        Ok(Common::Difference(_))
    ));
}

#[test]
fn a_channel_tells_what_was_missed_in_order() {
    let mut stage = Stage::new();
    stage.join("alice", "harbour_market").expect("it is public");
    let market = stage.channel("harbour_market");
    let start = stage.world.channels[&market].posts.pts();
    let judy = stage.id("judy");
    for number in 1..=5 {
        stage
            .world
            .post_as(judy, PeerKey::Channel(market), &format!("notice {number}"))
            .expect("she runs it");
    }
    let Ok(OfChannel::Difference(first)) = channel_difference(&mut stage, "alice", "harbour_market", start, 3) else {
        panic!("a part")
    };
    assert_eq!(messages_in(&first.new_messages), ["notice 1", "notice 2", "notice 3"]);
    assert_eq!((first.r#final, first.pts), (false, start + 3));
    let Ok(OfChannel::Difference(rest)) = channel_difference(&mut stage, "alice", "harbour_market", first.pts, 3)
    else {
        panic!("the rest")
    };
    assert_eq!(messages_in(&rest.new_messages), ["notice 4", "notice 5"]);
    assert_eq!((rest.r#final, rest.pts), (true, start + 5));
    let end = channel_difference(&mut stage, "alice", "harbour_market", rest.pts, 3);
    assert!(matches!(end, Ok(OfChannel::Empty(empty)) if empty.r#final && empty.pts == start + 5));
}

#[test]
fn a_channel_too_far_ahead_gives_its_newest_messages() {
    let mut stage = Stage::new();
    let bazaar = stage.channel("big_bazaar");
    let pts = stage.world.channels[&bazaar].posts.pts();
    // What was there at the founding is not in any log.
    let answer = channel_difference(&mut stage, "alice", "big_bazaar", 1, 100).expect("it is public");
    let OfChannel::TooLong(too_long) = answer else {
        panic!("too long: {answer:?}")
    };
    assert!(too_long.r#final);
    let tl::enums::Dialog::Dialog(dialog) = &too_long.dialog else {
        panic!("a dialog")
    };
    assert_eq!((dialog.pts, dialog.top_message), (Some(pts), 250));
    assert_eq!(too_long.messages.len(), 100);
    assert_eq!(too_long.messages[0].id(), 250);
}

#[test]
fn the_difference_names_channels_where_something_happened() {
    let mut stage = Stage::new();
    let start = state(&mut stage, "alice");
    stage.join("alice", "harbour_market").expect("it is public");
    let market = stage.channel("harbour_market");
    let Ok(Common::Difference(missed)) = difference(&mut stage, "alice", start.pts, start.date) else {
        panic!("there is news")
    };
    assert!(matches!(
        missed.other_updates.as_slice(),
        [Update::Channel(joined), Update::ChannelTooLong(active)]
            if joined.channel_id == market && active.channel_id == market && active.pts.is_none()
    ));
    let date = later(&stage);
    assert!(matches!(
        difference(&mut stage, "alice", start.pts, date),
        Ok(Common::Empty(_))
    ));
}

#[test]
fn every_push_continues_the_box_it_belongs_to() {
    let mut stage = Stage::new();
    stage.join("bob", "harbour_market").expect("it is public");
    stage.join("alice", "harbour_market").expect("it is public");
    stage.world.take_pushes();
    let market = stage.channel("harbour_market");
    let (mut channel_pts, mut common_pts) = (stage.world.channels[&market].posts.pts(), state(&mut stage, "bob").pts);
    let (peer, bob) = (stage.peer_of("alice", "harbour_market"), stage.peer_of("alice", "bob"));
    for number in 1..=4 {
        stage
            .send("alice", peer.clone(), "to all", number)
            .expect("members may write");
        stage
            .send("alice", bob.clone(), "to you", -number)
            .expect("nobody refuses");
    }
    for push in stage.pushes_to("bob") {
        for update in &parts(&push.updates).updates {
            match update {
                Update::NewChannelMessage(update) => {
                    assert_eq!(update.pts, channel_pts + update.pts_count);
                    channel_pts = update.pts;
                }
                Update::NewMessage(update) => {
                    assert_eq!(update.pts, common_pts + update.pts_count);
                    common_pts = update.pts;
                }
                other => panic!("nothing else happened: {other:?}"),
            }
        }
    }
    assert_eq!(channel_pts, stage.world.channels[&market].posts.pts());
    assert_eq!(common_pts, state(&mut stage, "bob").pts);
}
