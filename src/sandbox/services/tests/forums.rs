//! Topics, the limit of channels, and groups that were made into supergroups.

use super::*;
use crate::sandbox::services::{chats, forums};

fn topics(stage: &mut Stage, who: &str, ids: &[i32]) -> Answer<Vec<tl::enums::ForumTopic>> {
    let request = tl::functions::messages::GetForumTopicsById {
        peer: stage.peer_of(who, "harbour_market"),
        topics: ids.to_vec(),
    };
    stage
        .call(who, forums::get_forum_topics_by_id, request)
        .map(|tl::enums::messages::ForumTopics::Topics(answer)| answer.topics)
}

#[test]
fn a_forum_tells_its_topics_and_anything_else_has_none() {
    let mut stage = Stage::new();
    refused(topics(&mut stage, "alice", &[12]), 400, "CHANNEL_FORUM_MISSING");
    let market = PeerKey::Channel(stage.channel("harbour_market"));
    stage.world.set_topics(market, &[(12, "Boats")]).expect("a supergroup");
    let told = topics(&mut stage, "alice", &[1, 12, 13]).expect("a forum");
    let titles: Vec<Option<&str>> = told
        .iter()
        .map(|topic| match topic {
            tl::enums::ForumTopic::Topic(topic) => Some(topic.title.as_str()),
            tl::enums::ForumTopic::Deleted(_) => None,
        })
        .collect();
    assert_eq!(titles, [Some("General"), Some("Boats"), None]);
    let id = stage.channel("harbour_market");
    match stage.world.tl_chat(stage.id("alice"), PeerKey::Channel(id)) {
        Some(tl::enums::Chat::Channel(channel)) => assert!(channel.forum),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_limit_of_channels_is_what_it_was_set_to() {
    let mut stage = Stage::new();
    stage.world.set_channels_limit(1);
    stage.join("alice", "harbour_market").expect("room for one");
    refused(stage.join("alice", "slow_pier"), 400, "CHANNELS_TOO_MUCH");
    stage.world.set_channels_limit(2);
    stage.join("alice", "slow_pier").expect("room for another");
}

#[test]
fn only_its_creator_makes_a_group_a_supergroup_and_it_names_its_successor() {
    let mut stage = Stage::new();
    let Some(PeerKey::Group(chat_id)) = stage.world.find_peer("Quay friends") else {
        panic!("no group")
    };
    let request = || tl::functions::messages::MigrateChat { chat_id };
    refused(
        stage.call("bob", forums::migrate_chat, request()),
        400,
        "CHAT_ADMIN_REQUIRED",
    );
    let made = stage
        .call("alice", forums::migrate_chat, request())
        .expect("it is hers");
    let updates = parts(&made);
    assert!(
        matches!(updates.updates.as_slice(), [Update::Channel(_)]),
        "{updates:?}"
    );
    let known = tl::functions::messages::GetChats { id: vec![chat_id] };
    let tl::enums::messages::Chats::Chats(told) = stage.call("bob", chats::get_chats, known).expect("a member") else {
        panic!("all of them")
    };
    let [tl::enums::Chat::Chat(group)] = told.chats.as_slice() else {
        panic!("{told:?}")
    };
    let successor = group.migrated_to.clone().expect("a successor");
    assert!(group.deactivated);
    let request = tl::functions::channels::GetChannels { id: vec![successor] };
    stage
        .call("bob", channels::get_channels, request)
        .expect("the access hash is bob's");
    refused(
        stage.call(
            "alice",
            forums::migrate_chat,
            tl::functions::messages::MigrateChat { chat_id },
        ),
        400,
        "CHAT_NOT_MODIFIED",
    );
}
