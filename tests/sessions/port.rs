//! What a job's calls meet: names, links, floods, slow mode, dropped connections.

use wireroom::sandbox::world::PeerKey;

use super::*;
use wireroom_jobs::scan::ports::{MemberList, ScanTelegram};

#[tokio::test]
async fn what_nobody_has_met_is_a_target_that_fails() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let nobody = telegram.resolve_username("nobody_by_that_name_here").await.unwrap_err();
    assert_eq!(
        (nobody.code.as_str(), nobody.decision),
        ("USERNAME_NOT_OCCUPIED", Decision::Target)
    );
    let unknown = telegram.chat_by_id(-1_001_111_111_111).await.unwrap_err();
    assert_eq!(
        (unknown.code.as_str(), unknown.decision),
        ("PEER_ID_INVALID", Decision::Target)
    );
    let dead = telegram.check_invite("nosuchinvite").await;
    assert!(
        matches!(&dead, Err(error) if error.decision == Decision::Target),
        "{dead:?}"
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_short_flood_is_waited_out_and_a_long_one_closes_the_gate() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let name = public_group(&world, 1000);
    let faults = world.sandbox.controls();

    faults.add_fault(Fault::once("contacts.resolveUsername", Effect::flood_wait(1)));
    let chat = telegram.resolve_username(&name).await.unwrap();
    assert_eq!(
        world
            .count("SELECT count(*) FROM floods WHERE waited_in_place AND seconds = 1")
            .await,
        1
    );

    let mut changed = holder.changed();
    changed.mark_unchanged();
    faults.add_fault(Fault::once("channels.getParticipants", Effect::flood_wait(60)));
    let flooded = telegram.members(&chat, &MemberList::Recent, 0, 10).await.unwrap_err();
    assert!(matches!(flooded.decision, Decision::Gate { until } if until > SystemClock.now() + TimeDelta::seconds(50)));
    assert_eq!(flooded.code, "FLOOD_WAIT");
    assert!(changed.has_changed().unwrap());
    assert_eq!(session.closed_actions(), [Action::Read]);
    let calls = faults.calls();
    let gated = telegram.members(&chat, &MemberList::Recent, 0, 10).await.unwrap_err();
    assert!(matches!(gated.decision, Decision::Gate { .. }));
    assert_eq!(faults.calls(), calls, "a closed gate costs no call");
    assert_eq!(world.count("SELECT count(*) FROM floods").await, 2);
    assert_eq!(
        world
            .count("SELECT count(*) FROM gates WHERE action = 'read' AND chat_id = 0")
            .await,
        1
    );

    // The next holder starts from the store.
    holder.shutdown(BOUND).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    assert_eq!(session.closed_actions(), [Action::Read]);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_dropped_connection_is_an_unknown_outcome() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let Joined::Joined(chat) = telegram.join_chat(&chat).await.unwrap() else {
        panic!("not a member before");
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    let since = SystemClock.now() - TimeDelta::seconds(5);
    let lost = telegram.send_message(&chat, 1234, &draft("once")).await.unwrap_err();
    assert_eq!(lost.decision, Decision::Retry, "{lost}");
    let look = async || telegram.own_messages_like(&chat, &draft("once"), since).await.ok();
    assert_eq!(until("looked", look).await.len(), 1, "it was sent");
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_reference_that_went_stale_is_resolved_again_with_this_session() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    holder.shutdown(BOUND).await;
    sqlx::query("UPDATE session_peers SET access_hash = access_hash + 1 WHERE peer_id = $1")
        .bind(chat.id)
        .execute(world.database.pool())
        .await
        .unwrap();
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    assert_eq!(
        telegram
            .members(&chat, &MemberList::Recent, 0, 10)
            .await
            .unwrap()
            .returned,
        10
    );
    holder.shutdown(BOUND).await;
    // Without a name there is nothing to resolve by.
    sqlx::raw_sql("DELETE FROM session_peers")
        .execute(world.database.pool())
        .await
        .unwrap();
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let nameless = wireroom_jobs::ports::Chat { username: None, ..chat };
    let failed = telegram.chat_details(&nameless).await.unwrap_err();
    assert_eq!(
        (failed.code.as_str(), failed.decision),
        ("PEER_ID_INVALID", Decision::Target)
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn slow_mode_closes_one_chat_for_one_session() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let Joined::Joined(chat) = telegram.join_chat(&chat).await.unwrap() else {
        panic!("not a member before");
    };
    let slow = Effect::Error {
        code: 420,
        name: "SLOWMODE_WAIT_30".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("messages.sendMessage", slow));
    let first = telegram.send_message(&chat, 1, &draft("hello")).await.unwrap_err();
    assert!(
        matches!(first.decision, Decision::Gate { .. }) && first.code == "SLOWMODE_WAIT",
        "{first}"
    );
    let second = telegram.send_message(&chat, 1, &draft("hello")).await.unwrap_err();
    assert!(
        matches!(second.decision, Decision::Gate { .. }) && second.code == "slow_mode",
        "{second}"
    );
    assert_eq!(session.closed_actions(), [], "other chats are open");
    let Joined::Joined(other) = telegram.join_by_invite(INVITES[0]).await.unwrap() else {
        panic!("not a member before");
    };
    telegram.send_message(&other, 2, &draft("hello")).await.unwrap();
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_join_request_waits_for_an_admin() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let link = wireroom::sandbox::world::links::APPROVAL_GROUP;
    let Invite::Preview { request_needed, .. } = telegram.check_invite(link).await.unwrap() else {
        panic!("not a member before");
    };
    assert!(request_needed);
    assert_eq!(telegram.join_by_invite(link).await.unwrap(), Joined::ApprovalPending);
    let plain = wireroom::sandbox::world::links::PRIVATE_GROUP;
    let Joined::Joined(chat) = telegram.join_by_invite(plain).await.unwrap() else {
        panic!("nobody has to approve");
    };
    assert!(chat.member);
    assert_eq!(telegram.join_by_invite(plain).await.unwrap(), Joined::AlreadyMember);
    assert!(matches!(telegram.check_invite(plain).await.unwrap(), Invite::Member(known) if known.id == chat.id));
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn names_and_links_say_what_they_are() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let chats = world.sandbox.controls().with_world(|world| world.chats());
    let broadcast = chats.iter().find(|chat| chat.username.is_some() && chat.members > 0);
    assert!(broadcast.is_some());
    let mut kinds = Vec::new();
    for name in chats.iter().filter_map(|chat| chat.username.as_deref()) {
        kinds.push(telegram.resolve_username(name).await.unwrap().chat_type);
    }
    assert!(
        kinds.contains(&ChatType::Channel) && kinds.contains(&ChatType::Supergroup),
        "{kinds:?}"
    );
    for link in INVITES {
        match telegram.check_invite(link).await {
            Ok(Invite::Preview { title, .. }) => assert!(!title.is_empty()),
            Ok(Invite::Member(chat) | Invite::Peek(chat)) => assert!(!chat.title.is_empty()),
            Err(error) => assert_eq!(error.decision, Decision::Target, "{error}"),
        }
    }
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn what_comes_while_private_chats_are_looked_for_is_past_what_they_are_read_up_to() {
    const DIALOGS: &str = "messages.getDialogs";
    let world = World::with_accounts(1).await;
    let alice = world.imported[0].account_id;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let telegram = Arc::new(port_of(&session).0);
    let controls = world.sandbox.controls();
    let write = |name: &str, text: &str| {
        controls.with_world(|world| {
            let Some(PeerKey::User(writer)) = world.find_peer(name) else {
                panic!("a person")
            };
            world.post_as(writer, PeerKey::User(alice), text).expect("written");
        });
    };
    let after = telegram.newest_message(None).await.unwrap();
    write("erin", "one");
    write("judy", "two");
    controls.add_fault(Fault::once(DIALOGS, Effect::Delay { ms: 0 }));
    controls.add_fault(Fault::once(DIALOGS, Effect::Hold));
    let asked = || controls.calls().by_method.get(DIALOGS).copied().unwrap_or(0);
    let before = asked();
    let looking = {
        let telegram = telegram.clone();
        tokio::spawn(async move { telegram.private_news(after).await })
    };
    until("the newest message is known, and the chats are asked for", async || {
        (asked() >= before + 2).then_some(())
    })
    .await;
    write("judy", "three");
    write("erin", "four");
    controls.clear_faults();
    let news = looking.await.expect("no panic").expect("found");
    let mut read = Vec::new();
    for chat in &news.chats {
        read.extend(telegram.history_after(chat, after).await.expect("read").messages);
    }
    read.sort_unstable_by_key(|message| message.id);
    let text: Vec<&str> = read.iter().map(|message| message.text.as_str()).collect();
    assert_eq!(text, ["one", "two", "three", "four"]);
    assert_eq!(
        news.reaches, read[1].id,
        "a later one is not what all chats are read up to"
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}
