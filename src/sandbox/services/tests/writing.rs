//! Sending, reading, searching, editing and deleting.

use grammers_tl_types as tl;

use super::*;
use crate::sandbox::call::RpcError;

const HOUR: i64 = 3600;

fn market(stage: &mut Stage, who: &str) -> InputPeer {
    stage.join(who, "harbour_market").expect("it is public");
    stage.world.take_pushes();
    stage.peer_of(who, "harbour_market")
}

fn sent_id(updates: &tl::enums::Updates, random_id: i64) -> i32 {
    let found = parts(updates).updates.iter().find_map(|update| match update {
        Update::MessageId(update) if update.random_id == random_id => Some(update.id),
        _ => None,
    });
    found.expect("the answer names the message")
}

#[test]
fn a_sent_message_is_answered_and_pushed_to_everyone_else() {
    let mut stage = Stage::new();
    market(&mut stage, "bob");
    let peer = market(&mut stage, "alice");
    let answer = stage
        .send("alice", peer, "  a fine day  ", 42)
        .expect("members may write");
    let id = sent_id(&answer, 42);
    let updates = parts(&answer);
    assert_eq!(texts(&updates.updates), ["a fine day"]);
    let Some(Update::NewChannelMessage(new)) = updates.updates.last() else {
        panic!("the message is last")
    };
    let channel = stage.channel("harbour_market");
    assert_eq!(
        (new.pts, new.pts_count),
        (stage.world.channels[&channel].posts.pts(), 1)
    );
    let tl::enums::Message::Message(message) = &new.message else {
        panic!("a text")
    };
    assert!(message.out && !message.post);

    let pushes = stage.world.take_pushes();
    let mut heard: Vec<UserId> = pushes.iter().map(|push| push.account).collect();
    heard.sort_unstable();
    assert_eq!(heard, ["alice", "bob", "ivan", "judy"].map(|name| stage.id(name)));
    for push in &pushes {
        let own = push.account == stage.id("alice");
        assert_eq!(push.except, own.then(|| key("alice")));
        assert_eq!(texts(&parts(&push.updates).updates), ["a fine day"]);
        let Update::NewChannelMessage(new) = &parts(&push.updates).updates[0] else {
            panic!("a message")
        };
        assert!(matches!(&new.message, tl::enums::Message::Message(message) if message.out == own));
    }
    let row = stage
        .world
        .messages_of(PeerKey::Channel(channel))
        .pop()
        .expect("it is the newest");
    assert_eq!(
        (row.id, row.text.as_str(), row.random_id, row.sender),
        (id, "a fine day", Some(42), stage.id("alice"))
    );
}

#[test]
fn a_random_id_sends_once_within_the_window() {
    let mut stage = Stage::new();
    let peer = market(&mut stage, "alice");
    let others = market(&mut stage, "bob");
    stage.send("alice", peer.clone(), "once", 5).expect("the first time");
    refused(stage.send("alice", peer.clone(), "once", 5), 500, "RANDOM_ID_DUPLICATE");
    stage
        .send("bob", others, "his own", 5)
        .expect("each account has its own");
    stage.world.set_clock_offset(299);
    refused(stage.send("alice", peer.clone(), "once", 5), 500, "RANDOM_ID_DUPLICATE");
    stage.world.set_clock_offset(301);
    stage
        .send("alice", peer.clone(), "forgotten", 5)
        .expect("the window is over");
    stage.world.forget_random_ids();
    stage
        .send("alice", peer.clone(), "wiped", 5)
        .expect("nothing is remembered");
    refused(stage.send("alice", peer.clone(), "none", 0), 400, "RANDOM_ID_EMPTY");
    refused(stage.send("alice", peer, "", 6), 400, "MESSAGE_EMPTY");
}

#[test]
fn a_refused_message_does_not_use_up_its_random_id() {
    let mut stage = Stage::new();
    let peer = stage.peer_of("alice", "harbour_market");
    refused(
        stage.send("alice", peer.clone(), "too early", 9),
        403,
        "CHAT_WRITE_FORBIDDEN",
    );
    market(&mut stage, "alice");
    stage.send("alice", peer, "in time", 9).expect("members may write");
}

#[test]
fn only_some_may_write_in_some_chats() {
    let mut stage = Stage::new();
    for chat in ["harbour_notices", "morning_news"] {
        stage.join("alice", chat).expect("it is public");
        let peer = stage.peer_of("alice", chat);
        refused(stage.send("alice", peer, "me too", 1), 403, "CHAT_WRITE_FORBIDDEN");
        let peer = stage.peer_of("judy", chat);
        stage
            .send("judy", peer, "an announcement", i64::from(chat == "morning_news") + 1)
            .expect("she runs it");
    }
    let news = stage.world.messages_of(PeerKey::Channel(stage.channel("morning_news")));
    let post = news.last().expect("there are posts");
    assert_eq!(
        PeerKey::from_marked(post.sender),
        PeerKey::Channel(stage.channel("morning_news"))
    );
}

#[test]
fn slow_mode_asks_for_a_pause() {
    let mut stage = Stage::new();
    stage.join("alice", "slow_pier").expect("it is public");
    let peer = stage.peer_of("alice", "slow_pier");
    stage
        .send("alice", peer.clone(), "first", 1)
        .expect("nobody wrote before");
    let Err(RpcError { code: 420, name }) = stage.send("alice", peer.clone(), "second", 2) else {
        panic!("it is slow here")
    };
    let left: i32 = name
        .strip_prefix("SLOWMODE_WAIT_")
        .expect("a wait")
        .parse()
        .expect("seconds");
    assert!((29..=30).contains(&left), "{left}");
    stage.world.set_clock_offset(31);
    stage.send("alice", peer, "second", 2).expect("the pause is over");
}

#[test]
fn private_messages_reach_both_boxes() {
    let mut stage = Stage::new();
    let bob = stage.peer_of("alice", "bob");
    let answer = stage.send("alice", bob.clone(), "hello", 1).expect("nobody refuses");
    let Some(Update::NewMessage(new)) = parts(&answer).updates.last() else {
        panic!("a message")
    };
    assert_eq!(
        (new.pts_count, new.pts),
        (1, stage.world.accounts[&stage.id("alice")].inbox.pts())
    );
    let heard = stage.pushes_to("bob");
    let Update::NewMessage(new) = &parts(&heard[0].updates).updates[0] else {
        panic!("a message")
    };
    let tl::enums::Message::Message(message) = &new.message else {
        panic!("a text")
    };
    assert!(!message.out);
    assert_eq!(message.peer_id, PeerKey::User(stage.id("alice")).to_tl());

    // He answers to it; the reply points to the message in each one's own box.
    let alice = stage.peer_of("bob", "alice");
    let mut request = sending(alice, "hello yourself", 1);
    let reply = tl::types::InputReplyToMessage {
        reply_to_msg_id: message.id,
        top_msg_id: None,
        reply_to_peer_id: None,
        quote_text: None,
        quote_entities: None,
        quote_offset: None,
        monoforum_peer_id: None,
        todo_item_id: None,
        poll_option: None,
    };
    request.reply_to = Some(reply.into());
    stage
        .call("bob", messages::send_message, request)
        .expect("nobody refuses");
    let (page, count) = page(
        stage
            .call("alice", messages::get_history, history(bob, 10))
            .expect("her own chat"),
    );
    assert_eq!(
        (page.iter().filter_map(text).collect::<Vec<_>>(), count),
        (vec!["hello yourself", "hello"], 2)
    );
    let tl::enums::Message::Message(reply) = &page[0] else {
        panic!("a text")
    };
    let Some(tl::enums::MessageReplyHeader::Header(header)) = &reply.reply_to else {
        panic!("a reply")
    };
    assert_eq!(header.reply_to_msg_id, Some(page[1].id()));
}

#[test]
fn some_people_cannot_be_written_to() {
    let mut stage = Stage::new();
    let peer = stage.peer_of("niaj", "blocks_strangers");
    refused(stage.send("niaj", peer, "hi", 1), 400, "USER_IS_BLOCKED");
    let peer = stage.peer_of("niaj", "premium_only");
    refused(stage.send("niaj", peer, "hi", 1), 403, "PRIVACY_PREMIUM_REQUIRED");
    let deleted = stage
        .world
        .people
        .values()
        .find(|person| person.is_deleted())
        .expect("some are")
        .id;
    let peer = stage.peer("niaj", PeerKey::User(deleted));
    refused(stage.send("niaj", peer, "hi", 1), 400, "INPUT_USER_DEACTIVATED");
    let peer = stage.peer_of("niaj", "friendly_person");
    stage
        .send("niaj", peer, "hi", 1)
        .expect("somebody who cannot sign in still gets mail");
}

#[test]
fn history_is_read_in_pages() {
    let mut stage = Stage::new();
    let peer = stage.peer_of("alice", "morning_news");
    let (mut seen, mut offset_id) = (Vec::new(), 0);
    loop {
        let mut request = history(peer.clone(), 100);
        request.offset_id = offset_id;
        let (messages, count) = page(
            stage
                .call("alice", messages::get_history, request)
                .expect("it is public"),
        );
        assert_eq!(count, 300);
        let Some(last) = messages.last() else { break };
        offset_id = last.id();
        seen.extend(messages.iter().map(tl::enums::Message::id));
    }
    assert_eq!(seen, (1..=300).rev().collect::<Vec<_>>());
}

#[test]
fn a_search_finds_ones_own_messages_since_a_time() {
    let mut stage = Stage::new();
    let peer = market(&mut stage, "alice");
    stage
        .send("alice", peer.clone(), "Fresh bread", 1)
        .expect("members may write");
    let early = stage.world.now();
    stage.world.set_clock_offset(HOUR);
    stage
        .send("alice", peer.clone(), "Stale bread", 2)
        .expect("members may write");
    let id = stage.world.find_peer("harbour_market").expect("it is there");
    stage
        .world
        .post_as(stage.id("judy"), id, "Her bread")
        .expect("she runs it");

    let found = |stage: &mut Stage, change: &dyn Fn(&mut tl::functions::messages::Search)| {
        let mut request = searching(peer.clone(), "bread");
        change(&mut request);
        let (messages, count) = page(stage.call("alice", messages::search, request).expect("a good query"));
        assert_eq!(usize::try_from(count), Ok(messages.len()));
        messages.iter().filter_map(text).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(found(&mut stage, &|_| ()), ["Her bread", "Stale bread", "Fresh bread"]);
    let own = |request: &mut tl::functions::messages::Search| request.from_id = Some(InputPeer::PeerSelf);
    assert_eq!(found(&mut stage, &own), ["Stale bread", "Fresh bread"]);
    let since = move |request: &mut tl::functions::messages::Search| {
        own(request);
        request.min_date = early + 60;
    };
    assert_eq!(found(&mut stage, &since), ["Stale bread"]);
    let until = move |request: &mut tl::functions::messages::Search| request.max_date = early + 60;
    assert_eq!(found(&mut stage, &until), ["Fresh bread"]);
    let photos = |request: &mut tl::functions::messages::Search| {
        request.filter = tl::enums::MessagesFilter::InputMessagesFilterPhotos;
    };
    assert!(found(&mut stage, &photos).is_empty());
}

fn editing(peer: InputPeer, id: i32, text: &str) -> tl::functions::messages::EditMessage {
    tl::functions::messages::EditMessage {
        no_webpage: false,
        invert_media: false,
        peer,
        id,
        message: Some(text.to_owned()),
        media: None,
        reply_markup: None,
        entities: None,
        schedule_date: None,
        schedule_repeat_period: None,
        quick_reply_shortcut_id: None,
        rich_message: None,
    }
}

#[test]
fn an_edit_reaches_everyone_and_only_ones_own() {
    let mut stage = Stage::new();
    let peer = market(&mut stage, "alice");
    let id = sent_id(
        &stage
            .send("alice", peer.clone(), "fisrt", 1)
            .expect("members may write"),
        1,
    );
    stage.world.take_pushes();
    stage
        .call("alice", messages::edit_message, editing(peer.clone(), id, "first"))
        .expect("her own");
    let heard = stage.pushes_to("judy");
    assert!(matches!(
        parts(&heard[0].updates).updates.as_slice(),
        [Update::EditChannelMessage(update)] if text(&update.message) == Some("first")
    ));
    let again = stage.call("alice", messages::edit_message, editing(peer.clone(), id, "first"));
    refused(again, 400, "MESSAGE_NOT_MODIFIED");
    refused(
        stage.call("alice", messages::edit_message, editing(peer.clone(), 1, "mine")),
        403,
        "MESSAGE_AUTHOR_REQUIRED",
    );
    refused(
        stage.call("alice", messages::edit_message, editing(peer.clone(), 99_999, "?")),
        400,
        "MESSAGE_ID_INVALID",
    );
    stage.world.set_clock_offset(49 * HOUR);
    let late = stage.call("alice", messages::edit_message, editing(peer, id, "late"));
    refused(late, 400, "MESSAGE_EDIT_TIME_EXPIRED");
}

#[test]
fn a_private_edit_and_a_revoked_message_change_both_boxes() {
    let mut stage = Stage::new();
    let bob = stage.peer_of("alice", "bob");
    let id = sent_id(&stage.send("alice", bob.clone(), "one", 1).expect("nobody refuses"), 1);
    stage
        .call("alice", messages::edit_message, editing(bob.clone(), id, "two"))
        .expect("her own");
    let texts_of = |stage: &Stage, who: &str| -> Vec<String> {
        let rows = stage.world.messages_of(PeerKey::User(stage.id(who)));
        rows.into_iter()
            .filter(|row| row.random_id.is_some())
            .map(|row| row.text)
            .collect()
    };
    assert_eq!(texts_of(&stage, "bob"), ["two"]);
    let before = stage.world.accounts[&stage.id("alice")].inbox.pts();
    let request = tl::functions::messages::DeleteMessages {
        revoke: true,
        id: vec![id, 12_345],
    };
    let tl::enums::messages::AffectedMessages::Messages(done) = stage
        .call("alice", messages::delete_messages, request)
        .expect("her own");
    assert_eq!((done.pts, done.pts_count), (before + 1, 1));
    assert!(texts_of(&stage, "alice").is_empty() && texts_of(&stage, "bob").is_empty());
    let request = tl::functions::messages::GetMessages {
        id: vec![tl::types::InputMessageId { id }.into()],
    };
    let (gone, _) = page(stage.call("alice", messages::get_messages, request).expect("her box"));
    assert!(matches!(gone.as_slice(), [tl::enums::Message::Empty(empty)] if empty.id == id));
}

#[test]
fn deleting_in_a_group_needs_the_right_to() {
    let mut stage = Stage::new();
    let peer = market(&mut stage, "alice");
    let own = sent_id(&stage.send("alice", peer, "oops", 1).expect("members may write"), 1);
    let delete = |stage: &mut Stage, who: &str, id| {
        let channel = stage.input_channel(who, "harbour_market");
        stage.call(
            who,
            channels::delete_messages,
            tl::functions::channels::DeleteMessages { channel, id },
        )
    };
    refused(delete(&mut stage, "alice", vec![1]), 403, "MESSAGE_DELETE_FORBIDDEN");
    delete(&mut stage, "alice", vec![own]).expect("her own");
    stage.world.take_pushes();
    let tl::enums::messages::AffectedMessages::Messages(done) =
        delete(&mut stage, "judy", vec![1, 2]).expect("she runs it");
    assert_eq!(done.pts_count, 2);
    let heard = stage.pushes_to("alice");
    assert!(matches!(
        parts(&heard[0].updates).updates.as_slice(),
        [Update::DeleteChannelMessages(update)] if update.messages == [1, 2] && update.pts_count == 2
    ));
}

#[test]
fn reading_moves_marks_and_tells_the_writer() {
    let mut stage = Stage::new();
    let bob = stage.peer_of("alice", "bob");
    stage.send("alice", bob, "read me", 1).expect("nobody refuses");
    stage.world.take_pushes();
    let alice = stage.peer_of("bob", "alice");
    let read = |stage: &mut Stage| {
        let request = tl::functions::messages::ReadHistory {
            peer: alice.clone(),
            max_id: 0,
        };
        let done = stage
            .call("bob", messages::read_history, request)
            .expect("his own chat");
        let tl::enums::messages::AffectedMessages::Messages(done) = done;
        (done.pts, done.pts_count)
    };
    let first = read(&mut stage);
    assert_eq!(first.1, 1);
    let heard = stage.pushes_to("alice");
    assert!(matches!(
        parts(&heard[0].updates).updates.as_slice(),
        [Update::ReadHistoryOutbox(_)]
    ));
    assert_eq!(read(&mut stage), (first.0, 0), "nothing is left to read");
}

#[test]
fn a_message_keeps_its_entities_and_silence() {
    let mut stage = Stage::new();
    let peer = market(&mut stage, "alice");
    let mention = tl::types::InputMessageEntityMentionName {
        offset: 0,
        length: 4,
        user_id: stage.input_user("alice", stage.id("judy")),
    };
    let mut request = sending(peer.clone(), "Judy, look", 1);
    request.entities = Some(vec![mention.into()]);
    request.silent = true;
    let answer = stage
        .call("alice", messages::send_message, request)
        .expect("members may write");
    let Some(Update::NewChannelMessage(new)) = parts(&answer).updates.last() else {
        panic!("a message")
    };
    let tl::enums::Message::Message(message) = &new.message else {
        panic!("a text")
    };
    assert!(message.silent);
    let shown = tl::types::MessageEntityMentionName {
        offset: 0,
        length: 4,
        user_id: stage.id("judy"),
    };
    assert_eq!(message.entities, Some(vec![shown.into()]));
    let mut request = sending(peer, "short", 2);
    request.entities = Some(vec![tl::types::MessageEntityBold { offset: 3, length: 3 }.into()]);
    refused(
        stage.call("alice", messages::send_message, request),
        400,
        "ENTITY_BOUNDS_INVALID",
    );
}

#[test]
fn dialogs_come_newest_first_with_their_pts() {
    let mut stage = Stage::new();
    market(&mut stage, "alice");
    stage.join("alice", "morning_news").expect("it is public");
    stage.world.set_clock_offset(HOUR);
    let bob = stage.peer_of("alice", "bob");
    stage.send("alice", bob, "hello", 1).expect("nobody refuses");
    let mut request = tl::functions::messages::GetDialogs {
        exclude_pinned: false,
        folder_id: None,
        offset_date: 0,
        offset_id: 0,
        offset_peer: InputPeer::Empty,
        limit: 2,
        hash: 0,
    };
    let dialogs = stage
        .call("alice", messages::get_dialogs, request.clone())
        .expect("her own");
    let tl::enums::messages::Dialogs::Slice(first) = dialogs else {
        panic!("there are more")
    };
    let peers = |dialogs: &[tl::enums::Dialog]| -> Vec<(tl::enums::Peer, Option<i32>)> {
        let dialog = |dialog: &tl::enums::Dialog| match dialog {
            tl::enums::Dialog::Dialog(dialog) => (dialog.peer.clone(), dialog.pts),
            other => panic!("a plain dialog: {other:?}"),
        };
        dialogs.iter().map(dialog).collect()
    };
    let market = stage.channel("harbour_market");
    let market_pts = stage.world.channels[&market].posts.pts();
    assert_eq!(first.count, 4);
    assert_eq!(
        peers(&first.dialogs),
        [
            (PeerKey::User(stage.id("bob")).to_tl(), None),
            (PeerKey::Channel(market).to_tl(), Some(market_pts))
        ]
    );
    let tl::enums::Message::Service(last) = &first.messages[1] else {
        panic!("she joined")
    };
    (request.offset_id, request.offset_date) = (last.id, last.date);
    request.offset_peer = stage.peer_of("alice", "harbour_market");
    let dialogs = stage.call("alice", messages::get_dialogs, request).expect("her own");
    let tl::enums::messages::Dialogs::Slice(rest) = dialogs else {
        panic!("a part")
    };
    let rest: Vec<_> = peers(&rest.dialogs).into_iter().map(|(peer, _)| peer).collect();
    let news = stage.channel("morning_news");
    let friends = stage.world.find_peer("Quay friends").expect("it is there");
    assert_eq!(rest, [PeerKey::Channel(news).to_tl(), friends.to_tl()]);
}
