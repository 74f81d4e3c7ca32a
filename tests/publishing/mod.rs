//! `publish` over the sandbox, from an HTTP call to what is in the chats: texts, options, many chats, changes, media.

mod changes;
mod crashes;
mod doubts;
mod endings;
mod many;
mod media;
mod plan;
mod statistics;
mod templates;

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom::sandbox::{Effect, Fault, world::PeerKey};

use crate::support::{
    stack::{Options, Stack},
    wait::eventually,
};

/// Runs every chat of the sandbox, where slow mode does not bind her.
async fn judy() -> Stack {
    with_accounts(vec!["judy"]).await
}

async fn with_accounts(accounts: Vec<&'static str>) -> Stack {
    Stack::with(Options {
        accounts,
        variables: vec![("WIREROOM_SESSIONS_PACE_SECONDS", "0".to_owned())],
        ..Options::default()
    })
    .await
}

/// The public groups `@stall1` and so on, with this account in each.
fn add_stalls(stack: &Stack, count: usize, account: &str) {
    let account = stack.account(account);
    stack
        .sandbox
        .controls()
        .with_world(|world| world.add_stalls(count, &[account]));
}

fn stall(number: usize) -> String {
    format!("stall{}", number + 1)
}

fn in_market(mut args: Value) -> Value {
    args["chat"] = "@harbour_market".into();
    args
}

async fn refused(stack: &Stack, args: Value) -> Value {
    let body = json!({ "kind": "publish", "args": args });
    let response = stack.request(Method::POST, "/v1/jobs").json(&body).send().await;
    let response = response.expect("answered");
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{args}");
    response.json().await.expect("a problem")
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_markup_is_refused_at_the_door_with_its_place() {
    let stack = judy().await;
    for (format, text, place) in [
        ("markdown", "Tide at **seven", "line 1, column 9"),
        ("html", "Tide\nat <b>seven", "line 2, column 4"),
        ("html", "Tide at <i>seven</b>", "line 1, column 17"),
        ("markdown", "[Tides](harbour)", "https://example.com"),
    ] {
        let problem = refused(&stack, in_market(json!({ "text": text, "format": format }))).await;
        assert_eq!(problem["field"], "args.text", "{problem}");
        assert_eq!(problem["code"], "invalid_value", "{problem}");
        let detail = problem["detail"].as_str().expect("words");
        assert!(detail.contains(place), "{detail}");
        assert!(!detail.contains("seven") && !detail.contains("harbour"), "{detail}");
    }
    let long = refused(&stack, in_market(json!({ "text": "a".repeat(4097) }))).await;
    assert!(long["detail"].as_str().expect("words").contains("4096"), "{long}");
    let caption =
        json!({ "text": "a".repeat(1025), "media": [{ "type": "photo", "url": "https://example.com/a.jpg" }] });
    let caption = refused(&stack, in_market(caption)).await;
    assert!(caption["detail"].as_str().expect("words").contains("1024"), "{caption}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_answers_is_protected_and_hangs_in_its_topic() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let first = stack
        .succeed("publish", in_market(json!({ "text": "Topic of the day" })))
        .await;
    let topic = first["message_id"].as_i64().expect("an id");
    let args = json!({ "text": "In it", "topic": topic, "protect": true, "silent": true });
    let second = stack.succeed("publish", in_market(args)).await;
    let answered = second["message_id"].as_i64().expect("an id");
    stack
        .succeed(
            "publish",
            in_market(json!({ "text": "Yes", "topic": topic, "reply_to": answered })),
        )
        .await;
    let found = message(&stack, answered);
    assert!(found.extras.as_ref().is_some_and(|extras| extras.protected));
    assert!(found.silent);
    assert_eq!(found.reply_to.map(i64::from), Some(topic));
    let args = in_market(json!({ "text": "To nobody", "reply_to": 2_000_000 }));
    assert_eq!(stack.fail("publish", args).await, "message_not_found");
    stack.finish().await;
}

fn message(stack: &Stack, id: i64) -> wireroom::sandbox::world::messages::Message {
    let PeerKey::Channel(channel) = stack.chat("harbour_market") else {
        panic!("a channel");
    };
    let id = i32::try_from(id).expect("in range");
    let found = stack.sandbox.controls().with_world(|world| {
        let channel = world.channel(channel).expect("there");
        channel.posts.get(id).cloned()
    });
    found.expect("the message is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn telegram_keeps_a_message_for_later_once() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    let at = chrono::DateTime::from_timestamp_millis(now_ms() + 3_600_000).expect("in range");
    let args = json!({ "text": "In an hour", "schedule_at": at });
    let result = stack.succeed("publish", in_market(args)).await;
    assert_eq!(result["status"], "scheduled", "{result}");
    assert_eq!(result["link"], Value::Null, "{result}");
    assert_eq!(
        stack.calls("messages.sendMessage"),
        1,
        "looked for among those that wait"
    );
    assert_eq!(stack.count_messages("harbour_market", "In an hour"), 0);
    stack
        .sandbox
        .controls()
        .with_world(|world| world.set_clock_offset(3_700));
    stack
        .sandbox
        .controls()
        .with_world(wireroom::sandbox::world::World::show_due);
    assert_eq!(stack.count_messages("harbour_market", "In an hour"), 1);
    let past = json!({ "text": "Yesterday", "schedule_at": "2026-01-01T00:00:00Z" });
    assert_eq!(stack.fail("publish", in_market(past)).await, "schedule_invalid");
    stack.finish().await;
}

fn now_ms() -> i64 {
    let elapsed = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(elapsed.as_millis()).expect("in range")
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_are_for_bots() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let args = json!({ "text": "Press", "buttons": [[{ "text": "Here", "url": "https://example.com" }]] });
    assert_eq!(stack.fail("publish", in_market(args)).await, "buttons_need_bot");
    assert_eq!(stack.calls("messages.sendMessage"), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_edited_pinned_forwarded_and_deleted() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let sent = stack.succeed("publish", in_market(json!({ "text": "Draft" }))).await;
    let id = sent["message_id"].clone();
    for (args, status) in [
        (
            json!({ "action": "edit", "message_id": id, "text": "**Final**", "format": "markdown" }),
            "edited",
        ),
        (
            json!({ "action": "edit", "message_id": id, "text": "**Final**", "format": "markdown" }),
            "unchanged",
        ),
        (json!({ "action": "pin", "message_id": id, "silent": true }), "pinned"),
        (json!({ "action": "pin", "message_id": id }), "unchanged"),
        (json!({ "action": "unpin", "message_id": id }), "unpinned"),
    ] {
        let result = stack.succeed("publish", in_market(args.clone())).await;
        assert_eq!(result["status"], status, "{args}: {result}");
    }
    assert_eq!(stack.count_messages("harbour_market", "Final"), 1);
    let forward = json!({
        "action": "forward", "chat": "@big_bazaar", "from_chat": "@harbour_market", "message_ids": [id],
    });
    let forwarded = stack.succeed("publish", forward).await;
    assert_eq!(forwarded["status"], "forwarded", "{forwarded}");
    assert_eq!(stack.count_messages("big_bazaar", "Final"), 1);
    let delete = in_market(json!({ "action": "delete", "message_ids": [id] }));
    assert_eq!(stack.succeed("publish", delete.clone()).await["status"], "deleted");
    assert_eq!(stack.succeed("publish", delete).await["status"], "unchanged");
    assert_eq!(stack.count_messages("harbour_market", "Final"), 0);
    for action in ["edit", "pin"] {
        let mut args = in_market(json!({ "action": action, "message_id": id }));
        if action == "edit" {
            args["text"] = "Gone".into();
        }
        assert_eq!(stack.fail("publish", args).await, "message_not_found", "{action}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_may_not_change_what_others_wrote() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let (chat, judy) = (stack.chat("harbour_market"), stack.account("judy"));
    let posted = stack
        .sandbox
        .controls()
        .with_world(|world| world.post_as(judy, chat, "Judy's"));
    let id = posted.expect("posted");
    for (args, code) in [
        (
            json!({ "action": "edit", "message_id": id, "text": "Mine" }),
            "not_the_author",
        ),
        (json!({ "action": "delete", "message_ids": [id] }), "delete_forbidden"),
        (json!({ "action": "pin", "message_id": id }), "admin_required"),
    ] {
        assert_eq!(stack.fail("publish", in_market(args)).await, code);
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_forwards_survive_a_lost_answer_once() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let sent = stack.succeed("publish", in_market(json!({ "text": "Before" }))).await;
    let id = sent["message_id"].clone();
    stack.fault(Fault::once("messages.editMessage", Effect::DropAfter));
    let edit = json!({ "action": "edit", "message_id": id, "text": "After" });
    assert_eq!(stack.succeed("publish", in_market(edit)).await["status"], "edited");
    stack.fault(Fault::once("messages.forwardMessages", Effect::DropAfter));
    let forward = json!({
        "action": "forward", "chat": "@big_bazaar", "from_chat": "@harbour_market", "message_ids": [id],
    });
    let forwarded = stack.succeed("publish", forward).await;
    assert!(forwarded["message_id"].is_i64(), "{forwarded}");
    assert_eq!(stack.calls("messages.forwardMessages"), 1, "found by looking");
    assert_eq!(stack.count_messages("big_bazaar", "After"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_mode_is_looked_up_before_a_single_chat_too() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@slow_pier" })).await;
    let args = |text: &str| json!({ "chat": "@slow_pier", "text": text });
    stack.succeed("publish", args("first")).await;
    let sent = stack.calls("messages.sendMessage");
    let id = stack.post("publish", args("second")).await;
    let waiting = stack.job_when(&id, "waiting", |job| job["state"] == "scheduled").await;
    assert_eq!(waiting["wait_reason"]["code"], "slow_mode", "{waiting}");
    assert_eq!(waiting["attempt"], 0, "{waiting}");
    assert_eq!(
        stack.calls("messages.sendMessage"),
        sent,
        "it was looked up, and nothing tried"
    );
    let response = stack
        .request(Method::POST, &format!("/v1/jobs/{id}/cancel"))
        .send()
        .await;
    response.expect("answered");
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bots_message_has_its_buttons() {
    let stack = with_accounts(Vec::new()).await;
    let _worker = stack.worker().await;
    let bot = stack.account("harbour_bot");
    let token = json!({ "label": "bot", "bot_token": format!("{bot}:harbour_bot-sandbox") });
    let response = stack.request(Method::POST, "/v1/sessions").json(&token).send().await;
    assert!(response.expect("answered").status().is_success());
    let buttons = json!([
        [{ "text": "Read", "url": "https://example.com/tides" }],
        [{ "text": "Yes", "data": "yes" }, { "text": "No", "data": "no" }],
    ]);
    let args = in_market(json!({ "text": "Coming?", "buttons": buttons }));
    let sent = stack.succeed("publish", args).await;
    let id = sent["message_id"].as_i64().expect("an id");
    let markup = message(&stack, id).extras.and_then(|extras| extras.markup);
    let shown = format!("{:?}", markup.expect("buttons"));
    for part in ["https://example.com/tides", "Read", "Yes", "No"] {
        assert!(shown.contains(part), "{shown}");
    }
    let edit = in_market(json!({
        "action": "edit", "message_id": id, "text": "Come!", "buttons": [[{ "text": "Map", "url": "https://example.com" }]],
    }));
    assert_eq!(stack.succeed("publish", edit).await["status"], "edited");
    stack.finish().await;
}
