//! `join` over the sandbox, from an HTTP call to its result: every outcome of docs/JOIN.md.

mod approvals;
mod crashes;
mod lists;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom::sandbox::{
    Effect, Fault,
    world::{PeerKey, World, invites::InviteTerms, members::Role},
};

use crate::support::{
    process::Process,
    stack::{Options, Stack},
};

/// A stack with a worker.
async fn started(accounts: Vec<&'static str>) -> (Stack, Process) {
    let stack = Stack::with(Options {
        accounts,
        ..Options::default()
    })
    .await;
    let worker = stack.worker().await;
    (stack, worker)
}

fn world<T>(stack: &Stack, act: impl FnOnce(&mut World) -> T) -> T {
    stack.sandbox.controls().with_world(act)
}

fn is_in(stack: &Stack, chat: &str, account: &str) -> bool {
    let (chat, account) = (stack.chat(chat), stack.account(account));
    world(stack, |world| world.members_of(chat)).contains(&account)
}

fn leave(chat: &str) -> Value {
    json!({ "chat": chat, "action": "leave" })
}

fn check(chat: &str) -> Value {
    json!({ "chat": chat, "action": "check" })
}

fn error(name: &str) -> Effect {
    Effect::Error {
        code: 400,
        name: name.to_owned(),
    }
}

/// What a check says: its status and code.
async fn checked(stack: &Stack, chat: &str) -> (String, Value) {
    let result = stack.succeed("join", check(chat)).await;
    (
        result["status"].as_str().expect("a status").to_owned(),
        result["code"].clone(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_says_all_about_the_chat() {
    let (stack, _worker) = started(vec!["alice"]).await;
    let result = stack.succeed("join", json!({ "chat": "@slow_pier" })).await;
    let chat = &result["chat"];
    assert_eq!(
        (&chat["access"], &chat["type"], &chat["username"], &chat["member_count"]),
        (&json!("public"), &json!("supergroup"), &json!("slow_pier"), &json!(151)),
        "{result}"
    );
    assert_eq!(
        chat["rights"],
        json!({ "post": true, "send_media": true, "invite": true, "pin": false, "admin": false, "creator": false })
    );
    assert_eq!(
        (&chat["slow_mode_seconds"], &chat["forum"]),
        (&json!(30), &json!(false))
    );
    assert!(chat["joined_at"].is_string(), "{result}");
    let notices = stack.succeed("join", json!({ "chat": "@harbour_notices" })).await;
    assert_eq!(notices["chat"]["rights"]["post"], false, "{notices}");
    let news = stack.succeed("join", json!({ "chat": "@morning_news" })).await;
    assert_eq!(
        (&news["chat"]["type"], &news["chat"]["rights"]["post"]),
        (&json!("channel"), &json!(false)),
        "{news}"
    );
    let board = stack
        .succeed("join", json!({ "chat": "https://t.me/joinchat/SandboxHarbour01" }))
        .await;
    assert_eq!(board["chat"]["access"], "invite", "{board}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_into_a_chat_join_it_and_name_the_topic() {
    let (stack, _worker) = started(vec!["alice"]).await;
    let market = stack.chat("harbour_market");
    world(&stack, |world| world.set_topics(market, &[(12, "Boats"), (13, "Fish")])).expect("a forum");
    let joined = stack
        .succeed("join", json!({ "chat": "https://t.me/harbour_market/12/345" }))
        .await;
    assert_eq!(joined["chat"]["forum"], true, "{joined}");
    assert_eq!(
        joined["chat"]["topic"],
        json!({ "id": 12, "title": "Boats" }),
        "{joined}"
    );
    let id = joined["chat"]["id"].as_i64().expect("an id");
    let bare = -1_000_000_000_000 - id;
    for (link, topic) in [
        (
            format!("https://t.me/c/{bare}/13/400"),
            json!({ "id": 13, "title": "Fish" }),
        ),
        (
            format!("tg://privatepost?channel={bare}&post=400&thread=99"),
            Value::Null,
        ),
        ("harbour_market.t.me".to_owned(), Value::Null),
        (
            "telegram.dog/harbour_market?thread=13".to_owned(),
            json!({ "id": 13, "title": "Fish" }),
        ),
    ] {
        let again = stack.succeed("join", json!({ "chat": link })).await;
        assert_eq!(again["status"], "already_member", "{link}: {again}");
        assert_eq!(again["chat"]["topic"], topic, "{link}: {again}");
    }
    let unknown = json!({ "chat": "https://t.me/c/1234567890/5" });
    assert_eq!(stack.fail("join", unknown).await, "chat_not_found");
    let folder = json!({ "kind": "join", "args": { "chat": "https://t.me/addlist/AbCdEf" } });
    let refused = stack
        .request(Method::POST, "/v1/jobs")
        .json(&folder)
        .send()
        .await
        .expect("answered");
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().await.expect("text").contains("folder"));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_joined_with_its_discussion_group() {
    let (stack, _worker) = started(vec!["alice", "bob"]).await;
    let (news, market) = (stack.chat("morning_news"), stack.chat("harbour_market"));
    world(&stack, |world| world.link_discussion(news, market)).expect("linked");
    let args = json!({ "chat": "@morning_news", "discussion": true });
    let job = stack
        .post_job(json!({ "kind": "join", "session": "alice", "args": args }))
        .await;
    let job = stack.finished(&job).await;
    let result = &job["result"];
    assert_eq!(result["status"], "joined", "{job}");
    assert_eq!(result["discussion"]["outcome"], "joined", "{job}");
    assert_eq!(result["discussion"]["chat_id"], market.marked(), "{job}");
    assert_eq!(result["chat"]["linked_chat_id"], market.marked(), "{job}");
    assert!(is_in(&stack, "harbour_market", "alice"));
    let bob = stack.account("bob");
    world(&stack, |world| {
        world.put_in(market, bob)?;
        world.ban(market, bob)
    })
    .expect("banned");
    let args = json!({ "chat": "@morning_news", "discussion": true });
    let job = stack
        .post_job(json!({ "kind": "join", "session": "bob", "args": args }))
        .await;
    let job = stack.finished(&job).await;
    assert_eq!(job["result"]["status"], "joined", "{job}");
    assert_eq!(job["result"]["discussion"]["outcome"], "chat_inaccessible", "{job}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_twice_is_no_failure_and_uses_no_cap() {
    let (stack, _worker) = started(vec!["alice"]).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let left = stack.succeed("join", leave("@harbour_market")).await;
    assert_eq!(
        (&left["status"], &left["was"]),
        (&json!("left"), &json!("member")),
        "{left}"
    );
    assert!(!is_in(&stack, "harbour_market", "alice"));
    let again = stack.succeed("join", leave("@harbour_market")).await;
    assert_eq!(
        (&again["status"], &again["was"]),
        (&json!("not_member"), &Value::Null),
        "{again}"
    );
    assert_eq!(stack.calls("channels.leaveChannel"), 1);
    let counted = "SELECT count(*) FROM session_cap_usage WHERE action = 'join'";
    assert_eq!(stack.figure(counted).await, 1, "the join alone");
    // By its id, and after it was closed to those outside.
    let board = stack.succeed("join", json!({ "chat": "t.me/+SandboxHarbour01" })).await["chat"]["id"].to_string();
    for status in ["left", "not_member"] {
        assert_eq!(stack.succeed("join", leave(&board)).await["status"], status);
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creators_and_admins_who_leave_are_told_apart() {
    let (stack, _worker) = started(vec!["judy", "ivan"]).await;
    let run = async |session: &str| {
        let body = json!({ "kind": "join", "session": session, "args": leave("@harbour_notices") });
        let id = stack.post_job(body).await;
        stack.finished(&id).await
    };
    let creator = run("judy").await;
    assert_eq!(creator["error"]["code"], "creator_cannot_leave", "{creator}");
    let notices = stack.chat("harbour_notices");
    let admin = run("ivan").await;
    assert_eq!(admin["result"]["was"], "admin", "{admin}");
    // Nobody but ivan runs it any more.
    let (judy, ivan) = (stack.account("judy"), stack.account("ivan"));
    world(&stack, |world| {
        for user in world.members_of(notices) {
            let role = if user == judy { Role::Admin } else { Role::Member };
            world.set_role(notices, user, role)?;
        }
        world.put_in(notices, ivan)?;
        world.set_role(notices, judy, Role::Member)?;
        world.set_role(notices, ivan, Role::Admin)
    })
    .expect("arranged");
    let last = run("ivan").await;
    assert_eq!(last["result"]["was"], "last_admin", "{last}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_groups_are_joined_by_link_left_and_followed_to_their_supergroup() {
    let (stack, _worker) = started(vec!["erin", "bob"]).await;
    let friends = stack.chat("Quay friends");
    let hash = world(&stack, |world| world.make_invite(friends, InviteTerms::default())).expect("a link");
    let link = format!("https://t.me/+{hash}");
    let run = async |session: &str, args: Value| {
        let id = stack
            .post_job(json!({ "kind": "join", "session": session, "args": args }))
            .await;
        stack.finished(&id).await
    };
    let joined = run("erin", json!({ "chat": link })).await;
    assert_eq!(joined["result"]["status"], "joined", "{joined}");
    assert_eq!(joined["result"]["chat"]["type"], "group", "{joined}");
    assert_eq!(joined["result"]["chat"]["rights"]["post"], true, "{joined}");
    assert!(joined["result"]["chat"]["joined_at"].is_string(), "{joined}");
    let left = run("erin", leave(&link)).await;
    assert_eq!(left["result"]["status"], "left", "{left}");
    assert_eq!(stack.calls("messages.deleteChatUser"), 1);
    let again = run("erin", leave(&link)).await;
    assert_eq!(again["result"]["status"], "not_member", "{again}");
    // Bob is in it, and knows it by its id only when he has met it.
    let met = run("bob", json!({ "chat": link })).await;
    assert_eq!(met["result"]["status"], "already_member", "{met}");
    let PeerKey::Group(group) = friends else {
        panic!("a basic group is {friends:?}")
    };
    let supergroup = world(&stack, |world| world.migrate_group(group)).expect("a supergroup");
    let left = run("bob", leave(&friends.marked().to_string())).await;
    assert_eq!(left["result"]["status"], "left", "{left}");
    assert_eq!(
        left["result"]["chat"]["id"],
        PeerKey::Channel(supergroup).marked(),
        "{left}"
    );
    let joined = run("erin", json!({ "chat": link })).await;
    assert_eq!(joined["result"]["chat"]["type"], "supergroup", "{joined}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_what_would_happen_and_changes_nothing() {
    let (stack, _worker) = started(vec!["alice"]).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let board = stack.chat("Harbour board");
    let (market, bazaar) = (stack.chat("harbour_market"), stack.chat("big_bazaar"));
    let alice = stack.account("alice");
    let paid = world(&stack, |world| {
        world.put_in(bazaar, alice)?;
        world.ban(bazaar, alice)?;
        let terms = InviteTerms {
            subscription: Some(50),
            ..InviteTerms::default()
        };
        world.make_invite(board, terms)
    })
    .expect("arranged");
    let ok = |status: &str| (status.to_owned(), Value::Null);
    let fails = |code: &str| ("would_fail".to_owned(), json!(code));
    assert_eq!(checked(&stack, "@harbour_market").await, ok("already_member"));
    assert_eq!(checked(&stack, "@slow_pier").await, ok("would_join"));
    assert_eq!(checked(&stack, "@gatehouse").await, ok("would_request"));
    assert_eq!(checked(&stack, "t.me/+SandboxHarbour01").await, ok("would_join"));
    assert_eq!(checked(&stack, "t.me/+SandboxLantern02").await, ok("would_request"));
    assert_eq!(
        checked(&stack, "t.me/+SandboxExpired03").await,
        fails("invite_link_expired")
    );
    assert_eq!(
        checked(&stack, "t.me/+NobodyMadeThis").await,
        fails("invite_link_invalid")
    );
    assert_eq!(
        checked(&stack, &format!("t.me/+{paid}")).await,
        fails("payment_required")
    );
    assert_eq!(checked(&stack, "@big_bazaar").await, fails("banned_from_chat"));
    assert_eq!(checked(&stack, "@nobody_is_here").await, fails("chat_not_found"));
    assert_eq!(checked(&stack, "@friendly_person").await, fails("chat_is_person"));
    assert_eq!(checked(&stack, "t.me/c/1234567890/5").await, fails("chat_not_found"));
    assert_eq!(stack.calls("channels.joinChannel"), 1, "the first one alone");
    assert_eq!(stack.calls("messages.importChatInvite"), 0);
    let counted = "SELECT count(*) FROM session_cap_usage WHERE action = 'join'";
    assert_eq!(stack.figure(counted).await, 1);
    assert!(matches!(market, PeerKey::Channel(_)));
    // A join says the same.
    let join = async |chat: &str| stack.fail("join", json!({ "chat": chat })).await;
    assert_eq!(join(&format!("t.me/+{paid}")).await, "payment_required");
    assert_eq!(join("@big_bazaar").await, "banned_from_chat");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_is_known_before_telegram_says_so() {
    let (stack, _worker) = started(vec!["alice"]).await;
    world(&stack, |world| world.set_channels_limit(2));
    for chat in ["@harbour_market", "@slow_pier"] {
        stack.succeed("join", json!({ "chat": chat })).await;
    }
    let asked = stack.calls("channels.joinChannel");
    assert_eq!(
        stack.fail("join", json!({ "chat": "@quiet_quay" })).await,
        "channel_limit"
    );
    assert_eq!(
        stack.fail("join", json!({ "chat": "t.me/+SandboxHarbour01" })).await,
        "channel_limit"
    );
    let checked = stack.succeed("join", check("@quiet_quay")).await;
    assert_eq!(checked["code"], "channel_limit", "{checked}");
    assert!(
        checked["message"].as_str().expect("a message").contains("may be in 2"),
        "{checked}"
    );
    assert_eq!(stack.calls("channels.joinChannel"), asked);
    assert_eq!(stack.calls("messages.importChatInvite"), 0);
    assert_eq!(stack.figure("SELECT count(*) FROM gates").await, 0);
    stack.succeed("join", leave("@slow_pier")).await;
    let joined = stack.succeed("join", json!({ "chat": "@quiet_quay" })).await;
    assert_eq!(joined["status"], "joined", "{joined}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_may_leave_and_joins_again_then() {
    let (stack, _worker) = started(vec!["alice"]).await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    stack.fault(Fault::once("channels.joinChannel", error("CHANNELS_TOO_MUCH")));
    assert_eq!(
        stack.fail("join", json!({ "chat": "@slow_pier" })).await,
        "channel_limit"
    );
    let asked = stack.calls("channels.joinChannel");
    // By name and by a link; neither waits for a day, nor asks again.
    for chat in ["@quiet_quay", "t.me/+SandboxHarbour01"] {
        assert_eq!(stack.fail("join", json!({ "chat": chat })).await, "channel_limit");
    }
    let checked = stack.succeed("join", check("@quiet_quay")).await;
    assert_eq!(checked["code"], "channel_limit", "{checked}");
    assert_eq!(stack.calls("channels.joinChannel"), asked);
    assert_eq!(stack.calls("messages.importChatInvite"), 0);
    let closed = "SELECT count(*) FROM gates WHERE action = 'join_channel' AND reason = 'CHANNELS_TOO_MUCH'";
    assert_eq!(stack.figure(closed).await, 1);
    let left = stack.succeed("join", leave("@harbour_market")).await;
    assert_eq!(left["status"], "left", "{left}");
    assert_eq!(stack.figure(closed).await, 0);
    let joined = stack.succeed("join", json!({ "chat": "@quiet_quay" })).await;
    assert_eq!(joined["status"], "joined", "{joined}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_of_a_premium_account_is_counted_over_all_pages_of_its_chats() {
    let stack = Stack::start().await;
    let (judy, alice, bob) = (stack.account("judy"), stack.account("alice"), stack.account("bob"));
    world(&stack, |world| {
        world.set_channels_limit(60);
        world.set_premium(alice);
        for stall in world.add_stalls(119, &[bob]) {
            world.post_as(judy, stall, "Open").expect("posted");
        }
    });
    let _worker = stack.worker().await;
    let joined = stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    assert_eq!(joined["status"], "joined", "{joined}");
    assert_eq!(stack.calls("messages.getDialogs"), 2, "120 chats are two pages");
    let asked = stack.calls("channels.joinChannel");
    assert_eq!(
        stack.fail("join", json!({ "chat": "@slow_pier" })).await,
        "channel_limit"
    );
    let checked = stack.succeed("join", check("@slow_pier")).await;
    assert!(
        checked["message"]
            .as_str()
            .expect("a message")
            .contains("may be in 120"),
        "{checked}"
    );
    assert_eq!(stack.calls("channels.joinChannel"), asked);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_asks_in_a_mini_app_is_left_to_a_person() {
    let (stack, _worker) = started(vec!["alice"]).await;
    let (pier, board, bot) = (
        stack.chat("slow_pier"),
        stack.chat("Harbour board"),
        stack.account("harbour_bot"),
    );
    world(&stack, |world| {
        world.set_join_app(pier, bot)?;
        world.set_join_app(board, bot)
    })
    .expect("arranged");
    for chat in ["@slow_pier", "t.me/+SandboxHarbour01"] {
        assert_eq!(stack.fail("join", json!({ "chat": chat })).await, "join_needs_app");
    }
    let list = json!({ "chats": ["@slow_pier", "@quiet_quay"] });
    let result = stack.succeed("join", list).await;
    let outcomes = result["targets"].as_array().expect("rows").iter();
    let outcomes: Vec<&Value> = outcomes.map(|row| &row["outcome"]).collect();
    assert_eq!(outcomes, ["join_needs_app", "joined"], "{result}");
    assert!(!is_in(&stack, "slow_pier", "alice"));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_error_that_joining_meets_has_its_code() {
    let (stack, _worker) = started(vec!["alice"]).await;
    for (name, code) in [
        ("INVITE_HASH_EXPIRED", "invite_link_expired"),
        ("INVITE_HASH_INVALID", "invite_link_invalid"),
        ("INVITE_HASH_EMPTY", "invite_link_empty"),
        ("USERS_TOO_MUCH", "chat_full"),
        ("CHANNEL_PRIVATE", "chat_inaccessible"),
        ("USER_BANNED_IN_CHANNEL", "account_restricted"),
        ("CHAT_INVALID", "chat_invalid"),
        ("STARS_PAYMENT_REQUIRED", "payment_required"),
        ("USER_CHANNELS_TOO_MUCH", "channel_limit"),
        ("SOMETHING_NEW", "telegram_error"),
        // Closes the gate of a full account, so it comes last.
        ("CHANNELS_TOO_MUCH", "channel_limit"),
    ] {
        stack.fault(Fault::once("channels.joinChannel", error(name)));
        let told = stack.fail("join", json!({ "chat": "@harbour_market" })).await;
        assert_eq!(told, code, "{name}");
    }
    stack.finish().await;
}
