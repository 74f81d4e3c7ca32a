//! What is easily sent twice, or told wrongly: retried broadcasts, sends whose answer was lost, and numbers that are shared
//! with other chats.

use super::*;
use crate::support::stack::JOB_BOUND;
use wireroom::sandbox::world::hearing::Actor;

/// Waits until the chat has the message.
async fn delivered(stack: &Stack, chat: &str, text: &str) {
    eventually(JOB_BOUND, async || match stack.count_messages(chat, text) {
        1 => Ok(()),
        count => Err(format!("{count} of them")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_broadcast_goes_on_where_it_ended() {
    let stack = with_accounts(vec!["alice"]).await;
    add_stalls(&stack, 4, "alice");
    let _worker = stack.worker().await;
    let chats: Vec<String> = (0..4).map(|number| format!("@{}", stall(number))).collect();
    stack.fault(Fault::once("messages.sendMessage", Effect::Delay { ms: 0 }).times(3));
    let slow = Effect::Error {
        code: 420,
        name: "SLOWMODE_WAIT_8".into(),
    };
    stack.fault(Fault::once("messages.sendMessage", slow));
    let id = stack
        .post("publish", json!({ "chats": chats, "text": "Once each" }))
        .await;
    let waiting = stack.job_when(&id, "waiting", |job| job["state"] == "scheduled").await;
    assert_eq!(waiting["progress"]["done"], 3, "{waiting}");
    let request = stack.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
    request.send().await.expect("answered");
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    let request = stack.request(Method::POST, &format!("/v1/jobs/{id}/retry"));
    let retried: Value = request.send().await.expect("answered").json().await.expect("JSON");
    let again = retried["id"].as_str().expect("an id");
    let sent = stack.get(&format!("/v1/jobs/{again}/targets?outcome=sent")).await;
    assert_eq!(sent["items"].as_array().map(Vec::len), Some(3), "{sent}");
    let job = stack.finished(again).await;
    assert_eq!(job["result"]["counts"], json!({ "sent": 4 }), "{job}");
    for number in 0..4 {
        assert_eq!(stack.count_messages(&stall(number), "Once each"), 1, "{number}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basic_group_loses_its_own_messages_alone() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    let group = stack.chat("Quay friends");
    let (alice, bob) = (stack.account("alice"), stack.account("bob"));
    let own = stack
        .succeed(
            "publish",
            json!({ "chat": group.marked().to_string(), "text": "To the friends" }),
        )
        .await;
    let own = own["message_id"].as_i64().expect("a number");
    let (private, of_bob) = stack.sandbox.controls().with_world(|world| {
        world
            .post_as(bob, PeerKey::User(alice), "Between us")
            .expect("alice takes letters");
        let find = |whose| {
            let rows = world.messages_of(PeerKey::User(whose));
            rows.into_iter().find(|row| row.text == "Between us").expect("there").id
        };
        (find(alice), find(bob))
    });
    let args = json!({
        "action": "delete", "chat": group.marked().to_string(), "message_ids": [private, own, 2_000_000],
    });
    let result = stack.succeed("publish", args).await;
    assert_eq!(
        (&result["status"], &result["deleted"]),
        (&json!("deleted"), &json!(1)),
        "{result}"
    );
    assert_eq!(stack.count_messages("Quay friends", "To the friends"), 0);
    stack.sandbox.controls().with_world(|world| {
        for (whose, id) in [(alice, private), (bob, of_bob)] {
            let rows = world.messages_of(PeerKey::User(whose));
            assert!(rows.iter().any(|row| row.id == id), "a letter of {whose} is gone");
        }
    });
    let foreign = json!({ "action": "delete", "chat": group.marked().to_string(), "message_ids": [private] });
    assert_eq!(stack.succeed("publish", foreign).await["status"], "unchanged");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_is_lost_in_the_middle_of_a_send_is_no_refusal() {
    let stack = with_accounts(vec!["alice"]).await;
    add_stalls(&stack, 2, "alice");
    let worker = stack.worker().await;
    stack.fault(Fault::once("messages.sendMessage", Effect::BlackholeAfter));
    let chats = [format!("@{}", stall(0)), format!("@{}", stall(1))];
    let id = stack
        .post("publish", json!({ "chats": chats, "text": "Was it?" }))
        .await;
    delivered(&stack, &stall(0), "Was it?").await;
    worker.kill();
    let (chat, alice) = (stack.chat(&stall(0)), stack.account("alice"));
    let banned = stack.sandbox.controls().with_world(|world| world.ban(chat, alice));
    banned.expect("banned");
    let _next = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(
        job["result"]["counts"],
        json!({ "outcome_unknown": 1, "sent": 1 }),
        "{job}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_whose_source_is_gone_may_have_been_made() {
    let stack = with_accounts(vec!["judy", "alice"]).await;
    let _worker = stack.worker().await;
    let as_alice = |args: Value| json!({ "kind": "publish", "session": "alice", "args": args });
    let joined = json!({ "kind": "join", "session": "alice", "args": { "chat": "@harbour_market" } });
    let joined = stack.post_job(joined).await;
    assert_eq!(stack.finished(&joined).await["state"], "succeeded");
    let posted = stack
        .post_job(as_alice(in_market(json!({ "text": "Read and burn" }))))
        .await;
    let source = stack.finished(&posted).await["result"]["message_id"].clone();
    stack.fault(Fault::once("messages.forwardMessages", Effect::BlackholeAfter));
    let forward = json!({ "kind": "publish", "session": "judy", "args": {
        "action": "forward", "chat": "@big_bazaar", "from_chat": "@harbour_market", "message_ids": [source],
    }});
    let id = stack.post_job(forward).await;
    delivered(&stack, "big_bazaar", "Read and burn").await;
    // At once: before the worker has lost its patience, and looks.
    let PeerKey::Channel(market) = stack.chat("harbour_market") else {
        panic!("a supergroup")
    };
    let alice = Actor::offstage(stack.account("alice"));
    let source = i32::try_from(source.as_i64().expect("an id")).expect("in range");
    let deleted = stack
        .sandbox
        .controls()
        .with_world(|world| world.delete_in_channel(alice, market, &[source]));
    assert!(deleted.expect("her own").is_some());
    let job = stack.finished(&id).await;
    assert_eq!(job["error"]["code"], "outcome_unknown", "{job}");
    assert_eq!(stack.calls("messages.forwardMessages"), 1);
    assert_eq!(stack.count_messages("big_bazaar", "Read and burn"), 1);
    stack.finish().await;
}
