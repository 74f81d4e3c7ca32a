//! Workers killed at every step of a change or a forward: six sessions are each in the middle of one, their worker dies, and
//! another one goes on. Nothing is forwarded twice, and each job says what became of it.

use super::*;
use crate::support::{process::Process, stack::JOB_BOUND};

const ACCOUNTS: [&str; 6] = ["alice", "bob", "judy", "ivan", "dave", "erin"];
/// Where the last session forwards to.
const STALLS: usize = 3;

/// Where the worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Before,
    /// The call never reaches Telegram.
    NotArrived,
    /// The call is made, and its answer lost.
    Unanswered,
    /// The answer is there, and what it says not in the database.
    NotStored,
}

/// What each session does, and the call that it is made by.
struct Change {
    account: &'static str,
    method: &'static str,
    args: Value,
}

/// The messages that are there before.
struct Messages {
    edited: i32,
    deleted: [i32; 2],
    pinned: i32,
    unpinned: i32,
    forwarded: i32,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_call_each_change_is_made_once() {
    killed_at(Point::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_call_is_on_its_way_each_change_is_made_once() {
    killed_at(Point::NotArrived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_the_call_each_change_is_told_as_made() {
    killed_at(Point::Unanswered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_row_each_change_is_told_as_made() {
    killed_at(Point::NotStored).await;
}

async fn killed_at(point: Point) {
    let stack = with_accounts(ACCOUNTS.to_vec()).await;
    let worker = stack.worker().await;
    let messages = written(&stack).await;
    let changes = changes(&messages);
    for change in &changes {
        let (method, effect) = match point {
            Point::Before => ("contacts.resolveUsername", Effect::Blackhole),
            Point::NotArrived => (change.method, Effect::Blackhole),
            Point::Unanswered => (change.method, Effect::LoseAnswer),
            // Long enough for the rows to be held.
            Point::NotStored => (change.method, Effect::Delay { ms: 2_000 }),
        };
        stack.fault(Fault::once(method, effect).of(stack.account(change.account)));
    }
    let before = ["messages.editMessage", "messages.forwardMessages"].map(|method| stack.calls(method));
    let mut ids = Vec::new();
    for change in &changes {
        let job = json!({ "kind": "publish", "session": change.account, "args": change.args });
        ids.push(stack.post_job(job).await);
    }
    eventually(JOB_BOUND, async || match stack.sandbox.controls().faults().len() {
        0 => Ok(()),
        left => Err(format!("{left} are not at their calls")),
    })
    .await;
    if point == Point::NotStored {
        kill_with_rows_held(&stack, worker, &messages).await;
    } else {
        worker.kill();
    }
    let _next = stack.worker().await;
    let mut results = Vec::new();
    for id in &ids {
        let job = stack.finished(id).await;
        assert_eq!(job["state"], "succeeded", "{point:?}: {job}");
        results.push(job["result"].clone());
    }
    told(point, &results);
    assert_eq!(missing(&stack, &messages), [""; 0], "{point:?}");
    let (edits, forwards) = match point {
        Point::Before => (1, 4),
        Point::NotArrived => (2, 6),
        // A change is made again, which does no harm; a forward is found by looking.
        Point::Unanswered | Point::NotStored => (2, 4),
    };
    let after = ["messages.editMessage", "messages.forwardMessages"].map(|method| stack.calls(method));
    assert_eq!(
        [after[0] - before[0], after[1] - before[1]],
        [edits, forwards],
        "{point:?}"
    );
    stack.finish().await;
}

/// What the jobs say they did.
fn told(point: Point, results: &[Value]) {
    let statuses: Vec<&str> = results.iter().filter_map(|result| result["status"].as_str()).collect();
    let expected = ["edited", "deleted", "pinned", "unpinned", "forwarded", "finished"];
    assert_eq!(statuses, expected, "{point:?}: {results:?}");
    let counted = match point {
        Point::Before | Point::NotArrived => json!(2),
        // What the call of a worker that died took out, nobody can count any more.
        Point::Unanswered | Point::NotStored => Value::Null,
    };
    assert_eq!(results[1]["deleted"], counted, "{point:?}: {}", results[1]);
    assert!(results[4]["message_id"].is_i64(), "{point:?}: {}", results[4]);
    assert_eq!(
        results[5]["counts"],
        json!({ "sent": STALLS }),
        "{point:?}: {}",
        results[5]
    );
}

async fn written(stack: &Stack) -> Messages {
    add_stalls(stack, STALLS, "erin");
    let (market, bazaar) = (stack.chat("harbour_market"), stack.chat("big_bazaar"));
    let [alice, bob, judy, _, dave, erin] = ACCOUNTS.map(|account| stack.account(account));
    let messages = stack.sandbox.controls().with_world(|world| {
        for account in [alice, bob, dave, erin] {
            world.put_in(market, account).expect("in the chat");
        }
        world.put_in(bazaar, dave).expect("in the chat");
        let mut post = |account, text| world.post_as(account, market, text).expect("posted");
        Messages {
            edited: post(alice, "Draft"),
            deleted: [post(bob, "Taken back"), post(bob, "This one, too")],
            pinned: post(judy, "To be pinned"),
            unpinned: post(judy, "Pinned until now"),
            forwarded: post(judy, "To be passed on"),
        }
    });
    let pin = json!({ "action": "pin", "message_id": messages.unpinned });
    let pin = json!({ "kind": "publish", "session": "judy", "args": in_market(pin) });
    let id = stack.post_job(pin).await;
    assert_eq!(stack.finished(&id).await["result"]["status"], "pinned");
    messages
}

/// In the order of the accounts.
fn changes(messages: &Messages) -> Vec<Change> {
    let forward = |mut args: Value| {
        args["action"] = "forward".into();
        args["from_chat"] = "@harbour_market".into();
        args["message_ids"] = json!([messages.forwarded]);
        ("messages.forwardMessages", args)
    };
    let pin = |action: &str, id: i32| {
        let args = in_market(json!({ "action": action, "message_id": id }));
        ("messages.updatePinnedMessage", args)
    };
    let stalls: Vec<String> = (0..STALLS).map(|number| format!("@{}", stall(number))).collect();
    let parts = [
        (
            "messages.editMessage",
            in_market(json!({ "action": "edit", "message_id": messages.edited, "text": "Final" })),
        ),
        (
            "channels.deleteMessages",
            in_market(json!({ "action": "delete", "message_ids": messages.deleted })),
        ),
        pin("pin", messages.pinned),
        pin("unpin", messages.unpinned),
        forward(json!({ "chat": "@big_bazaar" })),
        forward(json!({ "chats": stalls })),
    ];
    let parts = ACCOUNTS.into_iter().zip(parts);
    parts
        .map(|(account, (method, args))| Change { account, method, args })
        .collect()
}

/// What is not as it should be when each change was made once.
fn missing(stack: &Stack, messages: &Messages) -> Vec<&'static str> {
    let is_pinned = |id: i32| {
        let extras = message(stack, id.into()).extras;
        extras.is_some_and(|extras| extras.pinned)
    };
    let in_market = |text: &str| stack.count_messages("harbour_market", text);
    let in_stalls = (0..STALLS).map(|number| stack.count_messages(&stall(number), "To be passed on"));
    let checks = [
        ("edited", in_market("Final") == 1 && in_market("Draft") == 0),
        ("deleted", in_market("Taken back") + in_market("This one, too") == 0),
        ("pinned", is_pinned(messages.pinned)),
        ("unpinned", !is_pinned(messages.unpinned)),
        ("forwarded", stack.count_messages("big_bazaar", "To be passed on") == 1),
        ("forwarded to each", in_stalls.into_iter().all(|count| count == 1)),
    ];
    checks
        .into_iter()
        .filter(|(_, is_so)| !is_so)
        .map(|(what, _)| what)
        .collect()
}

/// The worker has every answer, but for those that it did not ask for yet, and dies while what they say waits to be written.
async fn kill_with_rows_held(stack: &Stack, worker: Process, messages: &Messages) {
    let mut lock = stack.database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE finished_jobs, job_effects IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .expect("locked");
    eventually(JOB_BOUND, async || match missing(stack, messages).as_slice() {
        [] | ["forwarded to each"] => Ok(()),
        left => Err(format!("not yet {left:?}")),
    })
    .await;
    // The end of a change, and each of the two forwards.
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND (query LIKE '-- finish%' OR query LIKE '%job_effects%')";
    eventually(JOB_BOUND, async || match stack.figure(waiting).await {
        3.. => Ok(()),
        count => Err(format!("{count} statements wait")),
    })
    .await;
    worker.kill();
    // A statement that has reached the database would still be run.
    let cut_off = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    assert!(stack.figure(cut_off).await >= 3);
    lock.rollback().await.expect("unlocked");
}
