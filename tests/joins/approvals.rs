//! Requests to join: asked once, looked at again, woken by Telegram's update, and ended.

use super::*;
use crate::support::{stack::JOB_BOUND, wait::eventually};

async fn waiting(stack: &Stack, args: Value) -> String {
    let id = stack.post("join", args).await;
    stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    id
}

fn lantern() -> Value {
    json!({ "chat": "https://t.me/+SandboxLantern02" })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_wakes_the_job_before_its_next_look() {
    let (stack, _worker) = started(vec!["alice"]).await;
    for (args, chat, looks) in [
        (lantern(), "Lantern club", "messages.checkChatInvite"),
        (json!({ "chat": "@gatehouse" }), "gatehouse", "contacts.resolveUsername"),
    ] {
        let id = waiting(&stack, args).await;
        let job = stack.job(&id).await;
        assert_eq!(
            (&job["state"], &job["attempt"]),
            (&json!("scheduled"), &json!(0)),
            "{job}"
        );
        let before = stack.calls(looks);
        let (chat, alice) = (stack.chat(chat), stack.account("alice"));
        let posted = tokio::time::Instant::now();
        world(&stack, |world| world.approve_join(chat, alice)).expect("approved");
        let job = stack.finished(&id).await;
        assert_eq!(job["result"]["status"], "approved", "{job}");
        assert!(job["result"]["requested_at"].is_string(), "{job}");
        // The first look by itself would have been after a minute.
        assert!(posted.elapsed().as_secs() < 30, "{:?}", posted.elapsed());
        assert_eq!(stack.calls(looks) - before, 1, "one look");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_survives_the_worker_and_is_sent_once() {
    let (stack, worker) = started(vec!["alice"]).await;
    let id = waiting(&stack, lantern()).await;
    worker.kill();
    let _next = stack.worker().await;
    let (chat, alice) = (stack.chat("Lantern club"), stack.account("alice"));
    world(&stack, |world| world.approve_join(chat, alice)).expect("approved");
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["status"], "approved", "{job}");
    assert_eq!(stack.calls("messages.importChatInvite"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_expires_when_the_args_say_so() {
    let (stack, _worker) = started(vec!["alice"]).await;
    let args = json!({ "chat": "https://t.me/+SandboxLantern02", "approval_timeout": 3 });
    assert_eq!(stack.fail("join", args).await, "approval_expired");
    // Declined quietly: Telegram shows no more of it.
    let args = json!({ "chat": "@gatehouse", "approval_timeout": 6 });
    let id = stack.post("join", args).await;
    let (gatehouse, alice) = (stack.chat("gatehouse"), stack.account("alice"));
    eventually(JOB_BOUND, async || {
        world(&stack, |world| world.decline_join(gatehouse, alice))
    })
    .await;
    assert_eq!(stack.finished(&id).await["error"]["code"], "approval_expired");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_while_the_request_waits_is_a_refusal() {
    let (stack, _worker) = started(vec!["alice"]).await;
    for (args, name) in [
        (lantern(), "Lantern club"),
        (json!({ "chat": "@gatehouse" }), "gatehouse"),
    ] {
        let id = waiting(&stack, args).await;
        let (chat, alice) = (stack.chat(name), stack.account("alice"));
        world(&stack, |world| {
            world.decline_join(chat, alice)?;
            world.put_in(chat, alice)?;
            world.ban(chat, alice)
        })
        .expect("banned");
        let job = stack.finished(&id).await;
        assert_eq!(job["error"]["code"], "approval_refused", "{job}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_is_looked_at_no_more() {
    let (stack, _worker) = started(vec!["alice"]).await;
    let id = waiting(&stack, lantern()).await;
    let path = format!("/v1/jobs/{id}/cancel");
    stack.request(Method::POST, &path).send().await.expect("answered");
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    let chat = stack.chat("Lantern club");
    let requests = world(&stack, |world| {
        let rows = world.chats();
        rows.into_iter().find(|row| row.chat == chat).map(|row| row.requests)
    });
    assert_eq!(requests, Some(1), "Telegram has no call that takes a request back");
    stack.finish().await;
}
