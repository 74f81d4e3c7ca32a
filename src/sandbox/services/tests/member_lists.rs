//! Lists of members: pages, the cap, hidden lists and filters.

use std::collections::BTreeSet;

use grammers_tl_types as tl;
use tl::enums::{ChannelParticipant, ChannelParticipantsFilter as Filter};

use super::*;

type Rows = tl::types::channels::ChannelParticipants;

fn list(stage: &mut Stage, who: &str, chat: &str, filter: Filter, offset: i32, limit: i32) -> Answer<Rows> {
    let channel = stage.input_channel(who, chat);
    let request = tl::functions::channels::GetParticipants {
        channel,
        filter,
        offset,
        limit,
        hash: 0,
    };
    match stage.call(who, channels::get_participants, request)? {
        tl::enums::channels::ChannelParticipants::Participants(rows) => Ok(rows),
        tl::enums::channels::ChannelParticipants::NotModified => panic!("there is no hash"),
    }
}

fn user_of(participant: &ChannelParticipant) -> UserId {
    match participant {
        ChannelParticipant::Participant(p) => p.user_id,
        ChannelParticipant::ParticipantSelf(p) => p.user_id,
        ChannelParticipant::Creator(p) => p.user_id,
        ChannelParticipant::Admin(p) => p.user_id,
        other => panic!("no member: {other:?}"),
    }
}

/// All that can be had of a list, page by page, with how many pages it took.
fn all(stage: &mut Stage, who: &str, chat: &str) -> (BTreeSet<UserId>, usize, i32) {
    let (mut seen, mut offset, mut pages) = (BTreeSet::new(), 0, 0);
    loop {
        let rows = list(stage, who, chat, Filter::ChannelParticipantsRecent, offset, 500).expect("a list");
        if rows.participants.is_empty() {
            return (seen, pages, rows.count);
        }
        assert!(rows.participants.len() <= 200);
        let users: BTreeSet<i64> = rows.users.iter().map(tl::enums::User::id).collect();
        assert!(
            rows.participants.iter().all(|row| users.contains(&user_of(row))),
            "each row comes with its user"
        );
        let before = seen.len();
        seen.extend(rows.participants.iter().map(user_of));
        assert_eq!(seen.len(), before + rows.participants.len(), "nobody twice");
        offset += i32::try_from(rows.participants.len()).expect("a short page");
        pages += 1;
    }
}

#[test]
fn a_group_is_listed_in_pages_of_two_hundred() {
    let (seen, pages, count) = all(&mut Stage::new(), "alice", "harbour_market");
    assert_eq!((seen.len(), pages, count), (1250, 7, 1250));
}

#[test]
fn a_list_stops_at_ten_thousand_and_still_counts_all() {
    let (seen, pages, count) = all(&mut Stage::new(), "alice", "big_bazaar");
    assert_eq!((seen.len(), pages, count), (10_000, 50, 12_000));
}

#[test]
fn the_newest_member_comes_first_as_oneself() {
    let mut stage = Stage::new();
    stage.join("alice", "harbour_market").expect("it is public");
    let rows = list(
        &mut stage,
        "alice",
        "harbour_market",
        Filter::ChannelParticipantsRecent,
        0,
        1,
    )
    .expect("a list");
    assert_eq!(rows.count, 1251);
    assert!(matches!(
        rows.participants.as_slice(),
        [ChannelParticipant::ParticipantSelf(_)]
    ));
    let none = list(
        &mut stage,
        "alice",
        "harbour_market",
        Filter::ChannelParticipantsRecent,
        0,
        0,
    )
    .expect("a list");
    assert!(none.participants.is_empty());
}

#[test]
fn a_broadcast_channel_shows_its_members_to_admins_only() {
    let mut stage = Stage::new();
    stage.join("alice", "morning_news").expect("it is public");
    let recent = || Filter::ChannelParticipantsRecent;
    refused(
        list(&mut stage, "alice", "morning_news", recent(), 0, 10),
        400,
        "CHAT_ADMIN_REQUIRED",
    );
    let (seen, _, count) = all(&mut stage, "judy", "morning_news");
    assert_eq!((seen.len(), count), (200, 3001));
}

#[test]
fn a_hidden_list_shows_who_runs_the_chat() {
    let mut stage = Stage::new();
    let (seen, _, _) = all(&mut stage, "alice", "quiet_quay");
    assert!(seen.contains(&stage.id("judy")) && seen.len() < 10, "{}", seen.len());
    let (seen, _, _) = all(&mut stage, "judy", "quiet_quay");
    assert_eq!(seen.len(), 600);
    let channel = stage.input_channel("alice", "quiet_quay");
    let request = tl::functions::channels::GetFullChannel { channel };
    let tl::enums::messages::ChatFull::Full(full) = stage
        .call("alice", channels::get_full_channel, request)
        .expect("it is public");
    let tl::enums::ChatFull::ChannelFull(full) = full.full_chat else {
        panic!("a channel's page")
    };
    assert!(full.participants_hidden && !full.can_view_participants);
    assert_eq!(full.participants_count, Some(600));
}

#[test]
fn filters_pick_their_members() {
    let mut stage = Stage::new();
    let mut ids = |who: &str, filter| -> Vec<UserId> {
        let rows = list(&mut stage, who, "harbour_market", filter, 0, 200).expect("a list");
        assert_eq!(usize::try_from(rows.count), Ok(rows.participants.len()));
        rows.participants.iter().map(user_of).collect()
    };
    let admins = ids("alice", Filter::ChannelParticipantsAdmins);
    let bots = ids("alice", Filter::ChannelParticipantsBots);
    let contacts = ids(
        "alice",
        tl::types::ChannelParticipantsContacts { q: String::new() }.into(),
    );
    let strangers = ids(
        "niaj",
        tl::types::ChannelParticipantsContacts { q: String::new() }.into(),
    );
    let judys = ids(
        "alice",
        tl::types::ChannelParticipantsSearch { q: "JUDY".into() }.into(),
    );
    assert_eq!(admins.len(), 3);
    assert_eq!(bots, [stage.id("harbour_bot"), stage.id("quiz_bot")]);
    assert!(contacts.len() > 10);
    assert!(strangers.is_empty());
    assert_eq!(judys, [stage.id("judy")]);
    let kicked = tl::types::ChannelParticipantsKicked { q: String::new() };
    refused(
        list(&mut stage, "alice", "harbour_market", kicked.into(), 0, 9),
        400,
        "CHAT_ADMIN_REQUIRED",
    );
}

#[test]
fn a_page_shows_the_phones_of_contacts_and_no_other() {
    let mut stage = Stage::new();
    let (mut contacts, mut offset) = (0, 0);
    while offset < 1250 {
        let rows = list(
            &mut stage,
            "alice",
            "harbour_market",
            Filter::ChannelParticipantsRecent,
            offset,
            200,
        );
        for user in rows.expect("a list").users {
            let tl::enums::User::User(user) = user else {
                panic!("everyone exists")
            };
            assert_eq!(user.phone.is_some(), user.contact);
            contacts += usize::from(user.contact);
        }
        offset += 200;
    }
    assert!(contacts > 10);
}

#[test]
fn one_member_can_be_looked_up() {
    let mut stage = Stage::new();
    let lookup = |stage: &mut Stage, who: &str, chat: &str, participant| {
        let channel = stage.input_channel(who, chat);
        let request = tl::functions::channels::GetParticipant { channel, participant };
        stage.call(who, channels::get_participant, request)
    };
    let judy = stage.peer_of("alice", "judy");
    let tl::enums::channels::ChannelParticipant::Participant(found) =
        lookup(&mut stage, "alice", "harbour_market", judy).expect("she runs it");
    assert!(matches!(found.participant, ChannelParticipant::Creator(_)));
    refused(
        lookup(&mut stage, "alice", "harbour_market", InputPeer::PeerSelf),
        400,
        "USER_NOT_PARTICIPANT",
    );
    let bob = stage.peer_of("alice", "bob");
    refused(
        lookup(&mut stage, "alice", "quiet_quay", bob),
        400,
        "CHAT_ADMIN_REQUIRED",
    );
}
