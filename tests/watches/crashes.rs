//! Workers that die while a watch begins, records, is switched and fails over: what is said there is told once and in order.

use super::*;

const HISTORY: &str = "messages.getHistory";

async fn calls_more(stack: &Stack, method: &str, before: u64) {
    eventually(JOB_BOUND, async || match stack.calls(method) {
        calls if calls > before => Ok(()),
        calls => Err(calls),
    })
    .await;
}

fn say_all(stack: &Stack, texts: &[String]) {
    for text in texts {
        stack.say("judy", text);
    }
}

async fn switch(stack: &Stack, id: &str, to: &str) {
    let request = stack.request(Method::POST, &format!("/v1/watches/{id}/switch"));
    let answer = request.json(&json!({ "session": to })).send().await.expect("answered");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}

async fn end(stack: Stack, id: &str) {
    stop(&stack, id).await;
    stack.finished(id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_as_it_begins_the_watch_begins_once() {
    let stack = two_members().await;
    let worker = stack.worker().await;
    // Where it begins is not known yet.
    stack.fault(Fault::once(HISTORY, Effect::Blackhole));
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    calls_more(&stack, HISTORY, 0).await;
    worker.kill();
    stack.sandbox.controls().clear_faults();
    stack.say("judy", "before the watch");
    let _next = stack.worker().await;
    stack.watched(&id, "alice").await;
    say_all(&stack, &texts(0..5));
    stack.told_when(&texts(0..5)).await;
    let begun = "SELECT count(*) FROM events WHERE type = 'watch.started'";
    assert_eq!(stack.figure(begun).await, 1);
    end(stack, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_what_it_read_is_committed_it_is_read_again() {
    let stack = two_members().await;
    let worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    say_all(&stack, &texts(0..5));
    stack.told_when(&texts(0..5)).await;
    // A lock that the statement has to wait for.
    let mut lock = stack.database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE messages IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .expect("locked");
    say_all(&stack, &texts(5..10));
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '-- insert_messages%'";
    eventually(JOB_BOUND, async || match stack.figure(waiting).await {
        0 => Err("nothing waits"),
        _ => Ok(()),
    })
    .await;
    worker.kill();
    lock.rollback().await.expect("unlocked");
    say_all(&stack, &texts(10..15));
    let _next = stack.worker().await;
    stack.told_when(&texts(0..15)).await;
    end(stack, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_as_it_is_switched_the_other_session_goes_on() {
    let stack = two_members().await;
    let worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    say_all(&stack, &texts(0..5));
    stack.told_when(&texts(0..5)).await;
    switch(&stack, &id, "bob").await;
    worker.kill();
    say_all(&stack, &texts(5..10));
    let _next = stack.worker().await;
    stack.watched(&id, "bob").await;
    say_all(&stack, &texts(10..15));
    stack.told_when(&texts(0..15)).await;
    end(stack, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_other_session_reads_the_hole_it_is_read_again() {
    let stack = two_members().await;
    let worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    say_all(&stack, &texts(0..5));
    stack.told_when(&texts(0..5)).await;
    let read = stack.calls(HISTORY);
    stack.fault(Fault::once(HISTORY, Effect::Blackhole).forever());
    switch(&stack, &id, "bob").await;
    calls_more(&stack, HISTORY, read).await;
    say_all(&stack, &texts(5..10));
    worker.kill();
    stack.sandbox.controls().clear_faults();
    let _next = stack.worker().await;
    stack.watched(&id, "bob").await;
    say_all(&stack, &texts(10..15));
    stack.told_when(&texts(0..15)).await;
    end(stack, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_as_it_fails_over_the_loss_is_told_once_and_the_backup_goes_on() {
    let stack = two_members().await;
    let worker = stack.worker().await;
    let args = json!({ "chat": "@harbour_market", "backups": ["bob"], "failover": { "delay_seconds": 0, "tries": 1 } });
    let id = stack.monitor("alice", args).await;
    stack.watched(&id, "alice").await;
    say_all(&stack, &texts(0..5));
    stack.told_when(&texts(0..5)).await;
    let (chat, alice) = (stack.chat(CHAT), stack.account("alice"));
    // What the backup reads does not come before the kill.
    stack.fault(Fault::once(HISTORY, Effect::Blackhole).forever());
    stack
        .sandbox
        .controls()
        .with_world(|world| world.ban(chat, alice))
        .expect("banned");
    say_all(&stack, &texts(5..10));
    let lost = "SELECT count(*) FROM events WHERE type = 'watch.access_lost'";
    eventually(JOB_BOUND, async || match stack.figure(lost).await {
        0 => Err("not lost yet"),
        _ => Ok(()),
    })
    .await;
    worker.kill();
    stack.sandbox.controls().clear_faults();
    let _next = stack.worker().await;
    stack.watched(&id, "bob").await;
    say_all(&stack, &texts(10..15));
    stack.told_when(&texts(0..15)).await;
    assert_eq!(stack.figure(lost).await, 1);
    end(stack, &id).await;
}
