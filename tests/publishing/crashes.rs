//! Workers killed before, during and after a send to one of many chats: every chat gets its message, once.

use super::*;
use crate::support::{process::Process, stack::JOB_BOUND};

const STALLS: usize = 30;
/// Calls that nothing happens to, so that there is something to keep and something to come.
const BEFORE: u32 = 12;

/// A job to all stalls that has come to the call after [`BEFORE`] of `method`, which `effect` hits; its id, and the workers.
async fn come_to(method: &'static str, effect: Effect, text: &str) -> (Stack, String, [Process; 2]) {
    let stack = Stack::patient().await;
    add_stalls(&stack, STALLS, "alice");
    let chats: Vec<String> = (0..STALLS).map(|number| format!("@{}", stall(number))).collect();
    let workers = [stack.worker().await, stack.worker().await];
    stack.fault(Fault::once(method, Effect::Delay { ms: 0 }).times(BEFORE));
    stack.fault(Fault::once(method, effect));
    let id = stack.post("publish", json!({ "chats": chats, "text": text })).await;
    eventually(JOB_BOUND, async || match stack.calls(method) {
        calls if calls > u64::from(BEFORE) => Ok(()),
        calls => Err(calls),
    })
    .await;
    (stack, id, workers)
}

async fn killed_at(method: &'static str, effect: Effect, text: &str) {
    let (stack, id, workers) = come_to(method, effect, text).await;
    let _survivor = kill_the_worker_of(&stack, &id, workers).await;
    each_has_it_once(stack, &id, text).await;
}

async fn each_has_it_once(stack: Stack, id: &str, text: &str) {
    let job = stack.finished(id).await;
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

/// The answer has come, and is about to be written down.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_send() {
    let (stack, id, workers) = come_to("messages.sendMessage", Effect::Hold, "After").await;
    let mut lock = stack.database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE publish_targets IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .expect("locked");
    stack.sandbox.controls().clear_faults();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND query LIKE '-- save_publish_target%'";
    eventually(JOB_BOUND, async || match stack.figure(waiting).await {
        0 => Err("nothing waits to be written"),
        _ => Ok(()),
    })
    .await;
    let _survivor = kill_the_worker_of(&stack, &id, workers).await;
    lock.rollback().await.expect("unlocked");
    each_has_it_once(stack, &id, "After").await;
}
