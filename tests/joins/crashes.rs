//! kill -9 before, during and after the call: no target is joined twice, and each has the outcome that it had.

use std::time::Duration;

use super::*;
use crate::support::wait::eventually;

const CHATS: [&str; 3] = ["@harbour_market", "@slow_pier", "@quiet_quay"];

/// The worker is killed while the job is at the call number `at` of `method`, which `effect` hits; another one goes on.
async fn killed_at(args: Value, method: &'static str, at: u64, effect: Effect) -> (Stack, Value) {
    killed_in(Stack::start().await, args, method, at, effect).await
}

async fn killed_in(stack: Stack, args: Value, method: &'static str, at: u64, effect: Effect) -> (Stack, Value) {
    // The second target, so that there is something to keep and something to come.
    for _ in 1..at {
        stack.fault(Fault::once(method, Effect::Delay { ms: 0 }));
    }
    stack.fault(Fault::once(method, effect));
    let worker = stack.worker().await;
    let id = stack.post("join", args).await;
    eventually(Duration::from_secs(30), async || match stack.calls(method) {
        calls if calls >= at => Ok(()),
        calls => Err(calls),
    })
    .await;
    worker.kill();
    stack.sandbox.controls().clear_faults();
    let _next = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    (stack, job["result"].clone())
}

fn all_joined(stack: &Stack, result: &Value) {
    for (row, chat) in result["targets"].as_array().expect("rows").iter().zip(CHATS) {
        assert_eq!(row["outcome"], "joined", "{result}");
        assert!(is_in(stack, chat.trim_start_matches('@'), "alice"), "{chat}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_call_each_target_is_joined_once() {
    let (stack, result) = killed_at(
        json!({ "chats": CHATS }),
        "contacts.resolveUsername",
        2,
        Effect::Blackhole,
    )
    .await;
    all_joined(&stack, &result);
    assert_eq!(stack.calls("channels.joinChannel"), 3);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_call_is_on_its_way_it_is_made_again() {
    let (stack, result) = killed_at(json!({ "chats": CHATS }), "channels.joinChannel", 2, Effect::Blackhole).await;
    all_joined(&stack, &result);
    assert_eq!(stack.calls("channels.joinChannel"), 4, "one was never run");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_call_the_target_is_found_joined_by_this_job() {
    let (stack, result) = killed_at(json!({ "chats": CHATS }), "channels.joinChannel", 2, Effect::LoseAnswer).await;
    all_joined(&stack, &result);
    assert_eq!(stack.calls("channels.joinChannel"), 3, "found by looking");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_single_join_or_leave_the_job_says_what_it_did() {
    let args = json!({ "chat": "@harbour_market" });
    let (stack, result) = killed_at(args, "channels.joinChannel", 1, Effect::LoseAnswer).await;
    assert_eq!(result["status"], "joined", "{result}");
    assert_eq!(stack.calls("channels.joinChannel"), 1);
    let _worker = stack.worker().await;
    stack.fault(Fault::once("channels.leaveChannel", Effect::DropAfter));
    let left = stack.succeed("join", leave("@harbour_market")).await;
    assert_eq!(left["status"], "left", "{left}");
    assert_eq!(stack.calls("channels.leaveChannel"), 1);
    stack.finish().await;
}

/// A list of chats to leave, of which the second one's call is hit; how often chats were left.
async fn killed_leaving(effect: Effect) -> u64 {
    let stack = Stack::start().await;
    let alice = stack.account("alice");
    for chat in CHATS {
        let chat = stack.chat(chat.trim_start_matches('@'));
        world(&stack, |world| world.put_in(chat, alice)).expect("in the chat");
    }
    let args = json!({ "chats": CHATS, "action": "leave" });
    let (stack, result) = killed_in(stack, args, "channels.leaveChannel", 2, effect).await;
    for (row, chat) in result["targets"].as_array().expect("rows").iter().zip(CHATS) {
        assert_eq!(row["outcome"], "left", "{result}");
        assert!(!is_in(&stack, chat.trim_start_matches('@'), "alice"), "{chat}");
    }
    let calls = stack.calls("channels.leaveChannel");
    stack.finish().await;
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_or_after_it_leaves_each_chat_is_left_once() {
    assert_eq!(killed_leaving(Effect::Blackhole).await, 4, "one was never run");
    assert_eq!(killed_leaving(Effect::LoseAnswer).await, 3, "found by looking");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_request_was_sent_it_is_waited_for() {
    let stack = Stack::start().await;
    stack.fault(Fault::once("messages.importChatInvite", Effect::LoseAnswer));
    let worker = stack.worker().await;
    let id = stack.post("join", json!({ "chat": "t.me/+SandboxLantern02" })).await;
    eventually(Duration::from_secs(30), async || {
        match stack.calls("messages.importChatInvite") {
            0 => Err("not asked"),
            _ => Ok(()),
        }
    })
    .await;
    worker.kill();
    let _next = stack.worker().await;
    stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    let lantern = stack.chat("Lantern club");
    let rows = world(&stack, |world| world.chats());
    let row = rows.iter().find(|row| row.chat == lantern).expect("it is there");
    assert_eq!(row.requests, 1, "asked twice, and it is one request");
    stack
        .request(Method::POST, &format!("/v1/jobs/{id}/cancel"))
        .send()
        .await
        .expect("answered");
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    stack.finish().await;
}
