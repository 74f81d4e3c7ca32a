//! What somebody does with a client of theirs in a chat that we watch.

use super::*;
use crate::support::{stack::JOB_BOUND, wait::eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_telethon_does_in_a_watched_chat_is_told_as_events() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let head = stack.get("/v1/events?limit=1").await["head"]
        .as_i64()
        .expect("a number");
    let id = stack.post("monitor", json!({ "chat": "@harbour_market" })).await;
    eventually(JOB_BOUND, async || {
        let answer = stack.request(Method::GET, &format!("/v1/watches/{id}")).send().await;
        let watch: Value = answer.expect("answered").json().await.expect("JSON");
        if watch["running"] == true && watch["filling"] == false {
            Ok(())
        } else {
            Err(watch)
        }
    })
    .await;
    let bob = phone(&stack, "bob");
    TELETHON
        .check("telethon_watched.py", &stack.sandbox, &[&bob, "harbour_market"], "")
        .await;
    let path = format!("/v1/events?after={head}&type=message.*,member.*");
    let events = eventually(JOB_BOUND, async || {
        let page = stack.get(&path).await;
        let events = page["items"].as_array().expect("events").clone();
        if events.iter().any(|event| event["type"] == "member.left") {
            Ok(events)
        } else {
            Err(page)
        }
    })
    .await;
    let told: Vec<(&str, &str)> = events
        .iter()
        .map(|event| {
            let text = event["data"]["message"]["text"].as_str().unwrap_or_default();
            (event["type"].as_str().expect("a type"), text)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("member.joined", ""),
            ("message.new", "From Telethon, 0"),
            ("message.new", "From Telethon, 1"),
            ("message.new", "From Telethon, 2"),
            ("message.edited", "From Telethon, corrected"),
            ("message.deleted", ""),
            ("member.left", ""),
        ]
    );
    let bob = stack.account("bob");
    for event in events
        .iter()
        .filter(|event| event["type"].as_str() > Some("member") && event["data"]["user_id"].is_i64())
    {
        assert_eq!(event["data"]["user_id"], bob, "{event}");
    }
    post(&stack, &format!("/v1/watches/{id}/stop"), Value::Null).await;
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    stack.finish().await;
}
