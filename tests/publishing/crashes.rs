//! Workers killed before, during and after a send to one of many chats: every chat gets its message, once.

use super::*;
use crate::support::{process::Process, stack::JOB_BOUND};

const STALLS: usize = 30;

async fn killed_at(method: &'static str, effect: Effect, text: &'static str) {
    let stack = with_accounts(vec!["alice"]).await;
    add_stalls(&stack, STALLS, "alice");
    let chats: Vec<String> = (0..STALLS).map(|number| format!("@{}", stall(number))).collect();
    let workers = [stack.worker().await, stack.worker().await];
    // Slow enough to be caught in the middle.
    stack.fault(Fault::once("messages.sendMessage", Effect::Delay { ms: 60 }).times(12));
    let id = stack.post("publish", json!({ "chats": chats, "text": text })).await;
    stack
        .job_when(&id, "some way in", |job| job["progress"]["done"].as_i64() >= Some(10))
        .await;
    let hits = stack.calls(method);
    stack.fault(Fault::once(method, effect));
    eventually(JOB_BOUND, async || {
        if stack.calls(method) > hits {
            Ok(())
        } else {
            Err("not hit yet")
        }
    })
    .await;
    let _survivor = kill_the_worker_of(&stack, &id, workers).await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["counts"], json!({ "sent": STALLS }), "{job}");
    for number in 0..STALLS {
        let count = stack.count_messages(&stall(number), text);
        assert_eq!(count, 1, "stall {number}");
    }
    stack.finish().await;
}

/// Two workers; the one that runs the job is killed, and the other one returned.
async fn kill_the_worker_of(stack: &Stack, id: &str, workers: [Process; 2]) -> Process {
    let job = stack.job(id).await;
    let worker = job["worker"].as_str().expect("a worker").to_owned();
    let listed = stack.get("/v1/workers").await;
    let rows = listed["items"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["id"] == worker.as_str()).expect("listed");
    let pid = row["pid"].as_u64().expect("a pid");
    let [first, second] = workers;
    let (victim, survivor) = if u64::from(first.pid()) == pid {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(u64::from(victim.pid()), pid);
    victim.kill();
    survivor
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_send() {
    killed_at("contacts.resolveUsername", Effect::Blackhole, "Before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_send() {
    killed_at("messages.sendMessage", Effect::BlackholeAfter, "During").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_send_that_never_arrived() {
    killed_at("messages.sendMessage", Effect::Blackhole, "Lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_send() {
    killed_at("messages.sendMessage", Effect::Delay { ms: 0 }, "After").await;
}
