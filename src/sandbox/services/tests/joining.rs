//! Joining, asking to join, inviting, leaving, being banned.

use std::collections::BTreeSet;

use grammers_tl_types as tl;
use tl::enums::{ChatInvite, MessageAction};

use super::*;
use crate::sandbox::services::invites;
use crate::sandbox::world::people::Nature;
use crate::sandbox::world::{known_links, links};

fn check(stage: &mut Stage, who: &str, hash: &str) -> Answer<ChatInvite> {
    stage.call(
        who,
        invites::check_chat_invite,
        tl::functions::messages::CheckChatInvite { hash: hash.into() },
    )
}

fn import(stage: &mut Stage, who: &str, hash: &str) -> Answer<tl::enums::messages::ChatInviteJoinResult> {
    stage.call(
        who,
        invites::import_chat_invite,
        tl::functions::messages::ImportChatInvite { hash: hash.into() },
    )
}

fn invite(stage: &mut Stage, who: &str, chat: &str, users: &[UserId]) -> Answer<tl::types::messages::InvitedUsers> {
    let channel = stage.input_channel(who, chat);
    let users = users.iter().map(|user| stage.input_user(who, *user)).collect();
    let request = tl::functions::channels::InviteToChannel { channel, users };
    stage
        .call(who, channels::invite_to_channel, request)
        .map(|tl::enums::messages::InvitedUsers::Users(done)| done)
}

fn service(updates: &[Update]) -> Option<&MessageAction> {
    updates.iter().find_map(|update| match update {
        Update::NewChannelMessage(update) => match &update.message {
            tl::enums::Message::Service(message) => Some(&message.action),
            _ => None,
        },
        _ => None,
    })
}

fn has_channel_update(updates: &[Update], id: i64) -> bool {
    updates
        .iter()
        .any(|update| matches!(update, Update::Channel(update) if update.channel_id == id))
}

/// Somebody who is not in the market, by how they take invitations.
fn outsider(stage: &Stage, nature: Nature) -> UserId {
    let market = &stage.world.channels[&stage.channel("harbour_market")].members;
    let mut people = stage.world.people.values().filter(|person| person.id < 7_000_000_000);
    people
        .find(|p| p.nature == nature && !market.contains(p.id))
        .expect("the crowd is large")
        .id
}

#[test]
fn joining_answers_with_the_chat_and_tells_its_members() {
    let mut stage = Stage::new();
    let market = stage.channel("harbour_market");
    let before = stage.world.channels[&market].posts.pts();
    let result = stage.join("alice", "harbour_market").expect("it is public");
    let updates = joined_parts(&result);
    assert!(has_channel_update(&updates.updates, market));
    assert!(matches!(service(&updates.updates), Some(MessageAction::ChatAddUser(a)) if a.users == [stage.id("alice")]));
    let [tl::enums::Chat::Channel(channel)] = updates.chats.as_slice() else {
        panic!("the channel comes along")
    };
    assert!(!channel.left);
    assert_eq!(stage.world.channels[&market].posts.pts(), before + 1);
    assert_eq!(stage.world.channels[&market].members.len(), 1251);

    let pushes = stage.world.take_pushes();
    let own: Vec<&Push> = pushes.iter().filter(|push| push.account == stage.id("alice")).collect();
    assert_eq!(own.len(), 1, "the account's other connections hear of it once");
    assert_eq!(own[0].except, Some(key("alice")));
    let others: BTreeSet<UserId> = pushes
        .iter()
        .map(|push| push.account)
        .filter(|id| *id != stage.id("alice"))
        .collect();
    assert_eq!(
        others,
        BTreeSet::from([stage.id("ivan"), stage.id("judy")]),
        "accounts among the members, and nobody else"
    );

    refused(stage.join("alice", "harbour_market"), 400, "USER_ALREADY_PARTICIPANT");
}

#[test]
fn joining_a_broadcast_channel_writes_nothing_into_it() {
    let mut stage = Stage::new();
    let news = stage.channel("morning_news");
    let result = stage.join("alice", "morning_news").expect("it is public");
    assert!(has_channel_update(&joined_parts(&result).updates, news));
    assert_eq!(stage.world.messages_of(PeerKey::Channel(news)).len(), 300);
}

#[test]
fn a_private_chat_is_closed_without_its_link() {
    let mut stage = Stage::new();
    refused(stage.join("alice", "Harbour board"), 400, "CHANNEL_PRIVATE");
    let board = stage.peer_of("alice", "Harbour board");
    refused(
        stage.call("alice", messages::get_history, history(board.clone(), 1)),
        400,
        "CHANNEL_PRIVATE",
    );
    refused(stage.send("alice", board, "hi", 1), 400, "CHANNEL_PRIVATE");

    let preview = check(&mut stage, "alice", links::PRIVATE_GROUP).expect("the link works");
    let ChatInvite::Invite(preview) = preview else {
        panic!("not a preview: {preview:?}")
    };
    assert_eq!(
        (preview.title.as_str(), preview.participants_count),
        ("Harbour board", 240)
    );
    assert!(preview.megagroup && !preview.request_needed);
    let result = import(&mut stage, "alice", links::PRIVATE_GROUP).expect("the link works");
    assert!(matches!(
        service(&joined_parts(&result).updates),
        Some(MessageAction::ChatJoinedByLink(_))
    ));
    refused(
        import(&mut stage, "alice", links::PRIVATE_GROUP),
        400,
        "USER_ALREADY_PARTICIPANT",
    );
    assert!(matches!(
        check(&mut stage, "alice", links::PRIVATE_GROUP),
        Ok(ChatInvite::Already(_))
    ));
}

#[test]
fn dead_links_say_so() {
    let mut stage = Stage::new();
    for hash in [links::EXPIRED, links::REVOKED] {
        refused(check(&mut stage, "alice", hash), 400, "INVITE_HASH_EXPIRED");
        refused(import(&mut stage, "alice", hash), 400, "INVITE_HASH_EXPIRED");
    }
    refused(check(&mut stage, "alice", "nothing"), 400, "INVITE_HASH_INVALID");
    refused(check(&mut stage, "alice", ""), 400, "INVITE_HASH_EMPTY");
    assert!(
        known_links()
            .iter()
            .all(|(hash, _)| stage.world.invites.contains_key(*hash))
    );
}

#[test]
fn a_request_waits_until_an_admin_says_yes() {
    let mut stage = Stage::new();
    let club = PeerKey::Channel(stage.channel("Lantern club"));
    let alice = stage.id("alice");
    refused(
        import(&mut stage, "alice", links::APPROVAL_GROUP),
        400,
        "INVITE_REQUEST_SENT",
    );
    let told = stage.pushes_to("judy");
    assert!(matches!(
        parts(&told[0].updates).updates.as_slice(),
        [Update::PendingJoinRequests(update)] if update.recent_requesters == [alice]
    ));
    refused(
        import(&mut stage, "alice", links::APPROVAL_GROUP),
        400,
        "INVITE_REQUEST_SENT",
    );
    assert!(stage.pushes_to("judy").is_empty(), "asking again is no news");
    assert!(matches!(check(&mut stage, "alice", links::APPROVAL_GROUP), Ok(ChatInvite::Invite(i)) if i.request_needed));

    stage.world.approve_join(club, alice).expect("she waits");
    let told = stage.pushes_to("alice");
    let updates = parts(&told[0].updates);
    assert!(has_channel_update(&updates.updates, stage.channel("Lantern club")));
    assert!(matches!(
        service(&updates.updates),
        Some(MessageAction::ChatJoinedByRequest)
    ));
    assert!(matches!(
        check(&mut stage, "alice", links::APPROVAL_GROUP),
        Ok(ChatInvite::Already(_))
    ));
    refused(stage.world.approve_join(club, alice), 400, "USER_ALREADY_PARTICIPANT");
    refused(
        stage.world.approve_join(club, stage.id("bob")),
        400,
        "HIDE_REQUESTER_MISSING",
    );
}

#[test]
fn a_declined_person_may_ask_again() {
    let mut stage = Stage::new();
    let gatehouse = PeerKey::Channel(stage.channel("gatehouse"));
    refused(stage.join("alice", "gatehouse"), 400, "INVITE_REQUEST_SENT");
    stage
        .world
        .decline_join(gatehouse, stage.id("alice"))
        .expect("she waits");
    refused(
        stage.world.decline_join(gatehouse, stage.id("alice")),
        400,
        "HIDE_REQUESTER_MISSING",
    );
    refused(stage.join("alice", "gatehouse"), 400, "INVITE_REQUEST_SENT");
    assert_eq!(
        stage
            .world
            .chats()
            .iter()
            .find(|row| row.chat == gatehouse)
            .map(|row| row.requests),
        Some(1)
    );
}

#[test]
fn an_admin_settles_requests_through_the_api() {
    let mut stage = Stage::new();
    refused(
        import(&mut stage, "bob", links::APPROVAL_CHANNEL),
        400,
        "INVITE_REQUEST_SENT",
    );
    let list = |stage: &mut Stage, who: &str| {
        let request = tl::functions::messages::GetChatInviteImporters {
            requested: true,
            subscription_expired: false,
            peer: stage.peer_of(who, "Harbour insiders"),
            link: Some(format!("https://t.me/+{}", links::APPROVAL_CHANNEL)),
            q: None,
            offset_date: 0,
            offset_user: InputUser::Empty,
            limit: 10,
        };
        stage.call(who, invites::get_chat_invite_importers, request)
    };
    let tl::enums::messages::ChatInviteImporters::Importers(waiting) = list(&mut stage, "judy").expect("she runs it");
    assert_eq!((waiting.count, waiting.importers.len()), (1, 1));
    refused(list(&mut stage, "alice"), 400, "CHANNEL_PRIVATE");
    let request = tl::functions::messages::HideChatJoinRequest {
        approved: true,
        peer: stage.peer_of("judy", "Harbour insiders"),
        user_id: stage.input_user("judy", stage.id("bob")),
    };
    stage
        .call("judy", invites::hide_chat_join_request, request)
        .expect("he waits");
    assert!(matches!(
        check(&mut stage, "bob", links::APPROVAL_CHANNEL),
        Ok(ChatInvite::Already(_))
    ));
}

#[test]
fn a_link_with_a_limit_is_used_up() {
    let mut stage = Stage::new();
    let request = tl::functions::messages::ExportChatInvite {
        legacy_revoke_permanent: false,
        request_needed: false,
        peer: stage.peer_of("judy", "Harbour board"),
        expire_date: None,
        usage_limit: Some(1),
        title: None,
        subscription_pricing: None,
    };
    let made = stage
        .call("judy", invites::export_chat_invite, request)
        .expect("she runs it");
    let tl::enums::ExportedChatInvite::ChatInviteExported(made) = made else {
        panic!("a link")
    };
    let hash = made
        .link
        .rsplit('+')
        .next()
        .expect("a link ends with its hash")
        .to_owned();
    import(&mut stage, "alice", &hash).expect("the first one");
    refused(import(&mut stage, "bob", &hash), 400, "INVITE_HASH_EXPIRED");
}

#[test]
fn inviting_adds_the_willing_and_names_the_others() {
    let mut stage = Stage::new();
    stage.join("alice", "harbour_market").expect("it is public");
    let willing = outsider(&stage, Nature::Ordinary);
    let shy = stage.id("shy_person");
    let premium = stage.id("premium_only");
    let done = invite(&mut stage, "alice", "harbour_market", &[willing, shy, premium]).expect("members may invite");
    let missing: Vec<_> = done
        .missing_invitees
        .iter()
        .map(|tl::enums::MissingInvitee::Invitee(m)| (m.user_id, m.premium_would_allow_invite))
        .collect();
    assert_eq!(missing, [(shy, false), (premium, true)]);
    assert!(
        matches!(service(&parts(&done.updates).updates), Some(MessageAction::ChatAddUser(a)) if a.users == [willing])
    );
    assert_eq!(
        stage.world.channels[&stage.channel("harbour_market")].members.len(),
        1252
    );

    refused(
        invite(&mut stage, "alice", "harbour_market", &[willing]),
        400,
        "USER_ALREADY_PARTICIPANT",
    );
    let gone = outsider(&stage, Nature::Deleted);
    refused(
        invite(&mut stage, "alice", "harbour_market", &[gone]),
        400,
        "INPUT_USER_DEACTIVATED",
    );
    let busy = stage.id("busy_person");
    refused(
        invite(&mut stage, "alice", "harbour_market", &[busy]),
        403,
        "USER_CHANNELS_TOO_MUCH",
    );
}

#[test]
fn inviting_needs_the_right_to() {
    let mut stage = Stage::new();
    let user = stage.id("friendly_person");
    refused(
        invite(&mut stage, "bob", "harbour_market", &[user]),
        403,
        "CHAT_WRITE_FORBIDDEN",
    );
    stage.join("bob", "morning_news").expect("it is public");
    refused(
        invite(&mut stage, "bob", "morning_news", &[user]),
        400,
        "CHAT_ADMIN_REQUIRED",
    );
    let bot = stage.id("quiz_bot");
    refused(invite(&mut stage, "judy", "morning_news", &[bot]), 400, "USER_BOT");
}

#[test]
fn an_invited_account_hears_of_its_new_chat() {
    let mut stage = Stage::new();
    let alice = stage.id("alice");
    invite(&mut stage, "judy", "Harbour board", &[alice]).expect("she runs it");
    let told = stage.pushes_to("alice");
    let updates = parts(&told[0].updates);
    assert!(has_channel_update(&updates.updates, stage.channel("Harbour board")));
    assert_eq!(told[0].except, None);
    assert!(matches!(updates.chats.as_slice(), [tl::enums::Chat::Channel(channel)] if !channel.left));
}

#[test]
fn leaving_closes_a_private_chat_again() {
    let mut stage = Stage::new();
    import(&mut stage, "alice", links::PRIVATE_GROUP).expect("the link works");
    let leave = |stage: &mut Stage| {
        let channel = stage.input_channel("alice", "Harbour board");
        stage.call(
            "alice",
            channels::leave_channel,
            tl::functions::channels::LeaveChannel { channel },
        )
    };
    let updates = leave(&mut stage).expect("she is in it");
    assert!(matches!(
        parts(&updates).chats.as_slice(),
        [tl::enums::Chat::ChannelForbidden(_)]
    ));
    refused(leave(&mut stage), 400, "USER_NOT_PARTICIPANT");
    let channel = stage.input_channel("judy", "Harbour board");
    let creator = stage.call(
        "judy",
        channels::leave_channel,
        tl::functions::channels::LeaveChannel { channel },
    );
    refused(creator, 400, "USER_CREATOR");
    import(&mut stage, "alice", links::PRIVATE_GROUP).expect("who left may come back");
}

#[test]
fn a_banned_account_is_told_and_stays_out() {
    let mut stage = Stage::new();
    stage.join("alice", "harbour_market").expect("it is public");
    stage.world.take_pushes();
    let market = stage.channel("harbour_market");
    stage
        .world
        .ban(PeerKey::Channel(market), stage.id("alice"))
        .expect("she is in it");
    let told = stage.pushes_to("alice");
    assert_eq!(told.len(), 1);
    assert!(has_channel_update(&parts(&told[0].updates).updates, market));
    assert!(matches!(
        parts(&told[0].updates).chats.as_slice(),
        [tl::enums::Chat::ChannelForbidden(_)]
    ));
    refused(stage.join("alice", "harbour_market"), 400, "CHANNEL_PRIVATE");
    let peer = stage.peer_of("alice", "harbour_market");
    refused(stage.send("alice", peer, "let me in", 1), 400, "CHANNEL_PRIVATE");
}
