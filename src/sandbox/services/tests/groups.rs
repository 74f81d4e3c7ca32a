//! Making chats, and basic groups.

use grammers_tl_types as tl;

use super::*;
use crate::sandbox::services::chats;

fn group_of(updates: &tl::enums::Updates) -> i64 {
    let chats = &parts(updates).chats;
    assert!(matches!(chats.as_slice(), [tl::enums::Chat::Chat(_)]), "{chats:?}");
    chats[0].id()
}

fn create(stage: &mut Stage, who: &str, with: &[&str]) -> Answer<tl::types::messages::InvitedUsers> {
    let users = with.iter().map(|name| stage.input_user(who, stage.id(name))).collect();
    let request = tl::functions::messages::CreateChat {
        users,
        title: "Crew".into(),
        ttl_period: None,
    };
    stage
        .call(who, chats::create_chat, request)
        .map(|tl::enums::messages::InvitedUsers::Users(made)| made)
}

#[test]
fn a_new_channel_belongs_to_its_maker() {
    let mut stage = Stage::new();
    let request = tl::functions::channels::CreateChannel {
        broadcast: true,
        megagroup: false,
        for_import: false,
        forum: false,
        title: " Gulls ".into(),
        about: "About gulls".into(),
        geo_point: None,
        address: None,
        ttl_period: None,
    };
    let made = stage
        .call("alice", channels::create_channel, request.clone())
        .expect("anyone may");
    let updates = parts(&made);
    let [tl::enums::Chat::Channel(channel)] = updates.chats.as_slice() else {
        panic!("one channel")
    };
    assert!(channel.creator && channel.broadcast && !channel.left);
    assert_eq!(channel.title, "Gulls");
    assert!(matches!(
        updates.updates.as_slice(),
        [Update::Channel(_), Update::NewChannelMessage(_)]
    ));
    let peer = stage.peer("alice", PeerKey::Channel(channel.id));
    stage.send("alice", peer, "First post", 1).expect("it is hers");
    let untitled = tl::functions::channels::CreateChannel {
        title: " ".into(),
        ..request
    };
    refused(
        stage.call("alice", channels::create_channel, untitled),
        400,
        "CHAT_TITLE_EMPTY",
    );
}

#[test]
fn a_new_group_is_told_to_the_accounts_in_it() {
    let mut stage = Stage::new();
    let made = create(&mut stage, "erin", &["frank", "shy_person"]).expect("anyone may");
    assert_eq!(made.missing_invitees.len(), 1);
    let id = group_of(&made.updates);
    let heard = stage.pushes_to("frank");
    assert!(matches!(
        parts(&heard[0].updates).updates.as_slice(),
        [Update::NewMessage(_)]
    ));
    let peer = stage.peer("frank", PeerKey::Group(id));
    stage.send("frank", peer.clone(), "Ahoy", 1).expect("he is in it");
    let (messages, _) = page(
        stage
            .call("frank", messages::get_history, history(peer, 10))
            .expect("he is in it"),
    );
    assert_eq!(messages.iter().filter_map(text).collect::<Vec<_>>(), ["Ahoy"]);
    assert_eq!(
        stage.world.messages_of(PeerKey::Group(id)).len(),
        2,
        "each message once"
    );
    let outsider = stage.peer("grace", PeerKey::Group(id));
    refused(stage.send("grace", outsider, "hi", 1), 400, "PEER_ID_INVALID");
    refused(create(&mut stage, "erin", &[]), 400, "USERS_TOO_FEW");
}

#[test]
fn people_come_into_a_group_and_go() {
    let mut stage = Stage::new();
    let id = group_of(&create(&mut stage, "erin", &["frank"]).expect("anyone may").updates);
    let add = |stage: &mut Stage, who: &str, name: &str| {
        let user_id = stage.input_user(who, stage.id(name));
        let request = tl::functions::messages::AddChatUser {
            chat_id: id,
            user_id,
            fwd_limit: 0,
        };
        stage.call(who, chats::add_chat_user, request)
    };
    add(&mut stage, "frank", "grace").expect("members may add");
    refused(add(&mut stage, "frank", "grace"), 400, "USER_ALREADY_PARTICIPANT");
    refused(add(&mut stage, "alice", "bob"), 400, "CHAT_ID_INVALID");
    let full = |stage: &mut Stage, who: &str| {
        stage.call(
            who,
            chats::get_full_chat,
            tl::functions::messages::GetFullChat { chat_id: id },
        )
    };
    let members = |full: tl::enums::messages::ChatFull| {
        let tl::enums::messages::ChatFull::Full(full) = full;
        let tl::enums::ChatFull::Full(chat) = full.full_chat else {
            panic!("a basic group's page")
        };
        match chat.participants {
            tl::enums::ChatParticipants::Participants(shown) => Some((shown.participants.len(), full.users.len())),
            tl::enums::ChatParticipants::Forbidden(_) => None,
        }
    };
    assert_eq!(members(full(&mut stage, "grace").expect("she is in it")), Some((3, 3)));

    let remove = |stage: &mut Stage, who: &str, name: &str| {
        let user_id = stage.input_user(who, stage.id(name));
        let request = tl::functions::messages::DeleteChatUser {
            revoke_history: false,
            chat_id: id,
            user_id,
        };
        stage.call(who, chats::delete_chat_user, request)
    };
    refused(remove(&mut stage, "grace", "frank"), 400, "CHAT_ADMIN_REQUIRED");
    stage.world.take_pushes();
    remove(&mut stage, "erin", "grace").expect("she made it");
    let heard = stage.pushes_to("grace");
    assert!(matches!(
        parts(&heard[0].updates).chats.as_slice(),
        [tl::enums::Chat::Forbidden(_)]
    ));
    assert_eq!(members(full(&mut stage, "grace").expect("she was in it")), None);
    let peer = stage.peer("grace", PeerKey::Group(id));
    refused(stage.send("grace", peer, "hey!", 1), 403, "CHAT_WRITE_FORBIDDEN");
    let updates = remove(&mut stage, "frank", "frank").expect("anyone may leave");
    assert!(matches!(
        parts(&updates).chats.as_slice(),
        [tl::enums::Chat::Forbidden(_)]
    ));
    let request = tl::functions::messages::GetChats { id: vec![id] };
    refused(stage.call("alice", chats::get_chats, request), 400, "CHAT_ID_INVALID");
}
