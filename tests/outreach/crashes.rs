//! kill -9 before, during and after the call, answers that never come, and two workers at one list: nobody is invited twice.

use wireroom::sandbox::{Effect, Fault};

use super::*;
use crate::support::process::Process;

/// The worker is killed while the campaign is at `method`, which `effect` hits; another one goes on.
async fn killed_at(change: Value, method: &'static str, effect: Effect) -> (Stack, String) {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, change).await;
    list(&stack, &path, &["friendly_person", "dave"]).await;
    stack.fault(Fault::once(method, effect));
    let worker: Process = stack.worker().await;
    let calls = stack.calls(method);
    let job = resume(&stack, &path).await;
    until(method, async || stack.calls(method) > calls).await;
    worker.kill();
    stack.sandbox.controls().clear_faults();
    let _next = stack.worker().await;
    let result = done(&stack, &job).await;
    assert_eq!(result["ended"], "exhausted", "{result}");
    for name in ["friendly_person", "dave"] {
        let outcome = outcome(&stack, &path, name).await;
        assert!(outcome == "invited" || outcome == "added", "{name}: {outcome}");
    }
    (stack, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_call_everybody_is_invited_once() {
    // The look at who is in the chat comes after the ledger and before the call.
    let (stack, _) = killed_at(json!({}), "channels.getParticipant", Effect::Blackhole).await;
    assert_eq!(invitations_of(&stack, "alice"), 2);
    assert_eq!(stack.calls("messages.sendMessage"), 2);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_message_is_on_its_way_it_is_sent_once() {
    let (stack, _) = killed_at(json!({}), "messages.sendMessage", Effect::Blackhole).await;
    assert_eq!(
        invitations_of(&stack, "alice"),
        2,
        "one never arrived, and was sent again"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_message_arrived_it_is_found_and_not_sent_again() {
    let (stack, _) = killed_at(json!({}), "messages.sendMessage", Effect::LoseAnswer).await;
    assert_eq!(invitations_of(&stack, "alice"), 2);
    assert_eq!(stack.calls("messages.sendMessage"), 2, "found by looking");
    let found = "SELECT count(*) FROM campaign_ledger WHERE state = 'invited' AND message_id IS NOT NULL";
    assert_eq!(stack.figure(found).await, 2);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_somebody_was_added_they_are_found_in_the_chat() {
    let (stack, path) = killed_at(json!({ "mode": "add" }), "channels.inviteToChannel", Effect::LoseAnswer).await;
    assert_eq!(outcome(&stack, &path, "friendly_person").await, "added");
    assert_eq!(stack.calls("channels.inviteToChannel"), 2);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_somebody_was_added_they_are_added_once() {
    let (stack, path) = killed_at(json!({ "mode": "add" }), "channels.inviteToChannel", Effect::Blackhole).await;
    assert_eq!(outcome(&stack, &path, "friendly_person").await, "added");
    assert_eq!(stack.calls("channels.inviteToChannel"), 3, "one was never run");
    stack.finish().await;
}

/// "Quay friends", a basic group that alice has made.
const FRIENDS: &str = "-4000001";

/// Where the worker of a campaign that adds people to a basic group dies, about the first of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Between the ledger and the call.
    Before,
    /// The call never reaches Telegram.
    NotArrived,
    /// The call is made, and its answer lost.
    Unanswered,
    /// The same, and the person leaves before anybody has looked.
    Left,
    /// The answer is there, and what it says not in the ledger.
    NotStored,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_nobody_is_added_to_a_basic_group_twice() {
    let stack = stack_of(vec!["alice"]).await;
    stack.sandbox.controls().with_world(|world| world.add_accounts(10));
    let points = [
        Point::Before,
        Point::NotArrived,
        Point::Unanswered,
        Point::Left,
        Point::NotStored,
    ];
    let mut worker = stack.worker().await;
    for (turn, point) in points.into_iter().enumerate() {
        let names = [13 + 2 * turn, 14 + 2 * turn].map(|number| format!("sailor{number}"));
        let change = json!({ "mode": "add", "chat": FRIENDS, "name": format!("{point:?}") });
        let path = campaign(&stack, change).await;
        list(&stack, &path, &names.each_ref().map(String::as_str)).await;
        let calls = stack.calls(ADD);
        let job = killed_adding(&stack, worker, &path, &names[0], point).await;
        worker = stack.worker().await;
        assert_eq!(done(&stack, &job).await["ended"], "exhausted");
        for name in &names {
            assert_eq!(outcome(&stack, &path, name).await, "added", "{point:?}: {name}");
            assert_eq!(times_added(&stack, name), 1, "{point:?}: {name}");
        }
        let expected = if point == Point::NotArrived { 3 } else { 2 };
        assert_eq!(stack.calls(ADD) - calls, expected, "{point:?}");
    }
    stack.finish().await;
}

const ADD: &str = "messages.addChatUser";

async fn killed_adding(stack: &Stack, worker: Process, path: &str, name: &str, point: Point) -> String {
    let (method, effect) = match point {
        // The look at who is in the chat comes after the ledger and before the call.
        Point::Before => ("messages.getFullChat", Effect::Blackhole),
        Point::NotArrived => (ADD, Effect::Blackhole),
        Point::Unanswered | Point::Left => (ADD, Effect::LoseAnswer),
        Point::NotStored => (ADD, Effect::Delay { ms: 1_000 }),
    };
    stack.fault(Fault::once(method, effect));
    let job = resume(stack, path).await;
    until("the call", async || stack.sandbox.controls().faults().is_empty()).await;
    if point == Point::NotStored {
        kill_with_the_ledger_held(stack, worker, name).await;
    } else {
        worker.kill();
    }
    if point == Point::Left {
        let (friends, user) = (stack.chat("Quay friends"), stack.account(name));
        let left = stack
            .sandbox
            .controls()
            .with_world(|world| world.leave_as(user, friends));
        left.expect("was in it");
    }
    job
}

async fn kill_with_the_ledger_held(stack: &Stack, worker: Process, name: &str) {
    let mut lock = stack.database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE campaign_ledger IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .expect("locked");
    until("added", async || times_added(stack, name) == 1).await;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%campaign_ledger%'";
    until("a row to wait", async || stack.figure(waiting).await > 0).await;
    worker.kill();
    // A statement that has reached the database would still be run.
    let cut_off = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    assert!(stack.figure(cut_off).await > 0);
    lock.rollback().await.expect("unlocked");
}

/// How often the group's record says that somebody was added to it.
fn times_added(stack: &Stack, name: &str) -> usize {
    let (friends, user) = (stack.chat("Quay friends"), stack.account(name));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.times_added(user, friends))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialogue_that_cannot_be_read_leaves_the_outcome_unknown() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["friendly_person"]).await;
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    let name = "PEER_ID_INVALID".to_owned();
    stack.fault(Fault::once("messages.search", Effect::Error { code: 400, name }).forever());
    let _worker = stack.worker().await;
    let result = done(&stack, &resume(&stack, &path).await).await;
    assert_eq!(result["outcomes"], json!({ "outcome_unknown": 1 }), "{result}");
    assert_eq!(stack.calls("messages.sendMessage"), 1, "never again");
    assert_eq!(stack.get(&format!("{path}/report")).await["outcome_unknown"], 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_one_list_invite_everybody_once() {
    let stack = stack_of(vec!["alice", "bob"]).await;
    let path = campaign(&stack, json!({ "session": null, "pool": "default" })).await;
    stack.sandbox.controls().with_world(|world| world.add_accounts(20));
    let names: Vec<String> = (13..33).map(|number| format!("sailor{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    list(&stack, &path, &names).await;
    // The same people once more, by their ids: another row of the list, the same row of the ledger.
    let again: Vec<Value> = names
        .iter()
        .map(|name| json!({ "user_id": stack.account(name), "basis": "import", "proof": "a form", "supplied_by": "Maria" }))
        .collect();
    post(&stack, &format!("{path}/people"), &json!({ "items": again })).await;
    let _workers = [stack.worker().await, stack.worker().await];
    let id = path.rsplit('/').next().expect("an id");
    let second = json!({ "kind": "invite", "session": "bob", "args": { "campaign": id } });
    let first = resume(&stack, &path).await;
    let second = stack.post_job(second).await;
    stack.finished(&first).await;
    stack.finished(&second).await;
    until("everybody was dealt with", async || {
        stack
            .figure("SELECT count(*) FROM campaign_people WHERE state = 'waiting'")
            .await
            == 0
    })
    .await;
    let invited = invitations_of(&stack, "alice") + invitations_of(&stack, "bob");
    assert_eq!(invited, 20, "each of twenty once");
    for name in &names {
        let user = stack.chat(name);
        let got = stack
            .sandbox
            .controls()
            .with_world(|world| world.messages_of(user).len());
        assert_eq!(got, 1, "{name}");
    }
    stack.finish().await;
}
