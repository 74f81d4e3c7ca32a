//! Chats that are watched, over the sandbox: what is posted there is told once and in order, whoever watches.

mod accounts;
mod crashes;
mod endings;
mod fills;

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom::sandbox::{Effect, Fault};

use crate::support::{
    stack::{JOB_BOUND, Options, Stack},
    wait::eventually,
};

const CHAT: &str = "harbour_market";

/// A stack whose two sessions are members of the chat.
async fn two_members() -> Stack {
    let stack = Stack::with(Options {
        accounts: vec!["alice", "bob"],
        ..Options::default()
    })
    .await;
    let worker = stack.worker().await;
    for session in ["alice", "bob"] {
        let body = json!({ "kind": "join", "session": session, "args": { "chat": "@harbour_market" } });
        let id = stack.post_job(body).await;
        assert_eq!(stack.finished(&id).await["state"], "succeeded");
    }
    drop(worker);
    stack
}

trait Watching {
    async fn monitor(&self, session: &str, args: Value) -> String;
    async fn watch_when(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value;
    async fn watched(&self, id: &str, session: &str) -> Value;
    async fn told(&self) -> Vec<(String, String)>;
    async fn told_when(&self, texts: &[String]);
    fn say(&self, who: &str, text: &str) -> i32;
}

impl Watching for Stack {
    async fn monitor(&self, session: &str, args: Value) -> String {
        self.post_job(json!({ "kind": "monitor", "session": session, "args": args }))
            .await
    }

    async fn watch_when(&self, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(JOB_BOUND, async || {
            let answer = self.request(Method::GET, &format!("/v1/watches/{id}")).send().await;
            let watch: Value = answer.expect("answered").json().await.expect("JSON");
            if wanted(&watch) {
                Ok(watch)
            } else {
                Err(format!("not {what}: {watch}; job {}", self.job(id).await))
            }
        })
        .await
    }

    /// Waits until that session watches, and has read the history to its end.
    async fn watched(&self, id: &str, session: &str) -> Value {
        let query = "SELECT id::text FROM sessions WHERE label = $1";
        let session: String = sqlx::query_scalar(query)
            .bind(session)
            .fetch_one(self.database.pool())
            .await
            .expect("a session");
        self.watch_when(id, "watched", |watch| {
            watch["running"] == true && watch["filling"] == false && watch["session"] == json!(session)
        })
        .await
    }

    /// The types and texts of what was told of messages, in order.
    async fn told(&self) -> Vec<(String, String)> {
        let query = "SELECT type, coalesce(data -> 'message' ->> 'text', '') FROM events WHERE type LIKE 'message.%' ORDER BY id";
        sqlx::query_as(query)
            .fetch_all(self.database.pool())
            .await
            .expect("events")
    }

    /// Waits until as many new messages were told, and checks that they are these, once each and in this order.
    async fn told_when(&self, texts: &[String]) {
        eventually(JOB_BOUND, async || {
            let told = self.told().await;
            if told.len() >= texts.len() { Ok(()) } else { Err(told) }
        })
        .await;
        let told: Vec<String> = self.told().await.into_iter().map(|(_, text)| text).collect();
        assert_eq!(told, texts);
    }

    fn say(&self, who: &str, text: &str) -> i32 {
        let (who, chat) = (self.account(who), self.chat(CHAT));
        let said = self
            .sandbox
            .controls()
            .with_world(|world| world.post_as(who, chat, text));
        said.expect("posted")
    }
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("message {number}")).collect()
}

async fn stop(stack: &Stack, id: &str) -> Value {
    let request = stack.request(Method::POST, &format!("/v1/watches/{id}/stop"));
    let answer = request.send().await.expect("answered");
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_chat_is_told_once_and_in_order_until_it_is_stopped() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    stack.say("bob", "before the watch");
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    // The second session of the chat sees each message too.
    let wanted = texts(0..40);
    for text in &wanted {
        stack.say("bob", text);
    }
    stack.told_when(&wanted).await;
    let again = stack.monitor("bob", json!({ "chat": "@harbour_market" })).await;
    let again = stack.finished(&again).await;
    assert_eq!(
        (&again["state"], &again["result"]["watch"]),
        (&json!("succeeded"), &json!(id)),
        "{again}"
    );
    let watch = stack.get(&format!("/v1/watches/{id}")).await;
    assert_eq!(watch["completeness"]["seen"], 40, "{watch}");
    assert_eq!(stop(&stack, &id).await["state"], "stopped");
    stack.say("bob", "after the watch");
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    stack.told_when(&wanted).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_tells_what_it_takes_and_the_rest_is_counted() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let args = json!({ "chat": "@harbour_market", "filter": { "keywords": ["fish"] } });
    let id = stack.monitor("alice", args).await;
    stack.watched(&id, "alice").await;
    for text in ["bread", "fresh FISH", "apples", "fishing rods"] {
        stack.say("bob", text);
    }
    stack
        .told_when(&["fresh FISH".to_owned(), "fishing rods".to_owned()])
        .await;
    let watch = stack.get(&format!("/v1/watches/{id}")).await;
    assert_eq!(watch["completeness"]["seen"], 4, "{watch}");
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_in_the_middle_of_it_all_misses_nothing_and_doubles_nothing() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    let wanted = texts(0..120);
    for (number, text) in wanted.iter().enumerate() {
        stack.say("judy", text);
        if number % 40 == 20 {
            let to = if number % 80 == 20 { "bob" } else { "alice" };
            let request = stack.request(Method::POST, &format!("/v1/watches/{id}/switch"));
            let answer = request.json(&json!({ "session": to })).send().await.expect("answered");
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            stack.say("bob", "between");
        }
    }
    let last = stack.watched(&id, "bob").await;
    eventually(JOB_BOUND, async || match stack.told().await.len() {
        told if told >= 123 => Ok(()),
        told => Err(told),
    })
    .await;
    let mut ours: Vec<String> = stack.told().await.into_iter().map(|(_, text)| text).collect();
    ours.retain(|text| text != "between");
    assert_eq!(ours, wanted, "{last}");
    assert_eq!(stack.told().await.len(), 123);
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_put_out_hands_over_and_the_hole_is_filled() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let args = json!({ "chat": "@harbour_market", "backups": ["bob"], "failover": { "delay_seconds": 0, "tries": 1 } });
    let id = stack.monitor("alice", args).await;
    stack.watched(&id, "alice").await;
    let mut wanted = texts(0..5);
    for text in &wanted {
        stack.say("judy", text);
    }
    stack.told_when(&wanted).await;
    let (chat, alice) = (stack.chat(CHAT), stack.account("alice"));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.ban(chat, alice))
        .expect("banned");
    for text in texts(5..10) {
        stack.say("judy", &text);
        wanted.push(text);
    }
    stack.watched(&id, "bob").await;
    for text in texts(10..15) {
        stack.say("judy", &text);
        wanted.push(text);
    }
    stack.told_when(&wanted).await;
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM events WHERE type = 'watch.access_lost'")
            .await,
        1
    );
    // The last one that could see it is put out as well.
    let bob = stack.account("bob");
    stack
        .sandbox
        .controls()
        .with_world(|world| world.ban(chat, bob))
        .expect("banned");
    let job = stack.finished(&id).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("exhausted")),
        "{job}"
    );
    assert_eq!(stack.get(&format!("/v1/watches/{id}")).await["state"], "exhausted");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_session_it_began_on() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let args = json!({ "chat": "@harbour_market", "backups": ["bob"] });
    let id = stack.monitor("alice", args).await;
    stack.watched(&id, "alice").await;
    let alice = stack.account("alice");
    stack
        .sandbox
        .controls()
        .revoke_keys(alice, wireroom::sandbox::Revocation::SignOut);
    stack.sandbox.controls().drop_connections(None);
    stack.say("judy", "message 0");
    stack.watched(&id, "bob").await;
    stack.say("judy", "message 1");
    stack.told_when(&texts(0..2)).await;
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_die_and_workers_that_go_cost_a_watch_nothing() {
    let stack = two_members().await;
    let mut worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    let mut wanted = Vec::new();
    for round in 0..4 {
        for text in texts(round * 20..round * 20 + 10) {
            stack.say("judy", &text);
            wanted.push(text);
        }
        if round % 2 == 0 {
            worker.kill();
        } else {
            worker.terminate();
        }
        worker.wait_for_end(Duration::from_secs(20)).await;
        for text in texts(round * 20 + 10..round * 20 + 20) {
            stack.say("judy", &text);
            wanted.push(text);
        }
        worker = stack.worker().await;
        stack.watched(&id, "alice").await;
    }
    stack.told_when(&wanted).await;
    let job = stack.job(&id).await;
    assert!(job["attempt"].as_i64() <= Some(3), "two workers died under it: {job}");
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_messages_are_watched_without_backups() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "private" })).await;
    stack.watched(&id, "alice").await;
    let (alice, bob) = (stack.chat("alice"), stack.account("bob"));
    let wanted = texts(0..5);
    for text in &wanted {
        stack
            .sandbox
            .controls()
            .with_world(|world| world.post_as(bob, alice, text))
            .expect("written");
        stack.say("bob", "in the group, which is not watched");
    }
    stack.told_when(&wanted).await;
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_of_the_account_that_is_too_long_is_filled_from_the_private_histories() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "private" })).await;
    stack.watched(&id, "alice").await;
    let alice = stack.chat("alice");
    let write = |who: &str, text: &str| {
        let who = stack.account(who);
        let controls = stack.sandbox.controls();
        let written = controls.with_world(|world| world.post_as(who, alice, text));
        written.expect("written");
    };
    write("bob", "before the gap");
    stack.told_when(&["before the gap".to_owned()]).await;
    let controls = stack.sandbox.controls();
    let lost = controls.add_fault(Fault {
        method: "*".to_owned(),
        account: Some(stack.account("alice")),
        count: None,
        effect: Effect::LoseUpdates,
    });
    // More of one writer than a page of a history, in turns with others.
    let mut wanted = texts(0..140);
    for (number, text) in wanted.iter().enumerate() {
        let writer = ["bob", "bob", "bob", "bob", "carol", "judy", "bob"][number % 7];
        write(writer, text);
    }
    controls.with_world(|world| world.set_events_kept(1));
    controls.remove_fault(lost);
    // Its place in the sequence tells the session that it has missed something.
    wanted.push("after the gap".to_owned());
    write("carol", "after the gap");
    wanted.insert(0, "before the gap".to_owned());
    stack.told_when(&wanted).await;
    let gaps: Vec<String> = sqlx::query_scalar("SELECT data ->> 'reason' FROM events WHERE type = 'watch.gap'")
        .fetch_all(stack.database.pool())
        .await
        .expect("events");
    assert_eq!(gaps, ["differenceTooLong"]);
    stack.watched(&id, "alice").await;
    // What comes afterwards is told as it comes, and nothing that was filled in is told again.
    wanted.push("later".to_owned());
    write("judy", "later");
    stack.told_when(&wanted).await;
    let stored: Vec<String> = sqlx::query_scalar("SELECT content ->> 'text' FROM messages ORDER BY message_id")
        .fetch_all(stack.database.pool())
        .await
        .expect("messages");
    assert_eq!(stored, wanted);
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_private_chats_than_a_page_are_all_read_after_a_gap() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "private" })).await;
    stack.watched(&id, "alice").await;
    let (alice, controls) = (stack.chat("alice"), stack.sandbox.controls());
    let lost = controls.add_fault(Fault {
        method: "*".to_owned(),
        account: Some(stack.account("alice")),
        count: None,
        effect: Effect::LoseUpdates,
    });
    let mut wanted = texts(0..230);
    controls.with_world(|world| {
        let writers = world.add_accounts(215);
        for (number, text) in wanted.iter().enumerate() {
            let writer = writers[number % writers.len()].id;
            world.post_as(writer, alice, text).expect("written");
        }
        world.set_events_kept(1);
    });
    controls.remove_fault(lost);
    wanted.push("after the gap".to_owned());
    let bob = stack.account("bob");
    controls
        .with_world(|world| world.post_as(bob, alice, "after the gap"))
        .expect("written");
    stack.told_when(&wanted).await;
    assert!(stack.calls("messages.getDialogs") >= 3, "one page cannot name them all");
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_is_told_once_in_groups_and_in_channels() {
    let stack = Stack::with(Options {
        accounts: vec!["judy"],
        ..Options::default()
    })
    .await;
    let _worker = stack.worker().await;
    let (erin, frank) = (stack.account("erin"), stack.account("frank"));
    let mut watches = Vec::new();
    for chat in ["morning_news", CHAT] {
        let id = stack.monitor("judy", json!({ "chat": format!("@{chat}") })).await;
        stack.watched(&id, "judy").await;
        watches.push(id);
    }
    let controls = stack.sandbox.controls();
    for chat in ["morning_news", CHAT] {
        let chat = stack.chat(chat);
        // In the group there is a message besides; in both the admins are told of the participants.
        controls.with_world(|world| {
            world.put_in(chat, erin).expect("added");
            world.put_in(chat, frank).expect("added");
            world.ban(chat, erin).expect("put out");
        });
    }
    let query =
        "SELECT type, subject, (data ->> 'user_id')::bigint, data ->> 'by' IS NOT NULL, data ->> 'message_id' IS NULL
        FROM events WHERE type LIKE 'member.%' ORDER BY id";
    let told: Vec<(String, String, i64, bool, bool)> = eventually(JOB_BOUND, async || {
        let rows = sqlx::query_as(query).fetch_all(stack.database.pool()).await;
        let rows: Vec<(String, String, i64, bool, bool)> = rows.expect("events");
        if rows.len() >= 6 { Ok(rows) } else { Err(rows) }
    })
    .await;
    // What is told after it was told before all else.
    stack.say("judy", "the end");
    stack.told_when(&["the end".to_owned()]).await;
    let all = stack
        .figure("SELECT count(*) FROM events WHERE type LIKE 'member.%'")
        .await;
    assert_eq!(all, 6);
    for (chat, is_channel) in [("morning_news", true), (CHAT, false)] {
        let subject = format!("chat:{}", stack.chat(chat).marked());
        let of_chat: Vec<_> = told.iter().filter(|row| row.1 == subject).collect();
        let each: Vec<(&str, i64)> = of_chat.iter().map(|row| (row.0.as_str(), row.2)).collect();
        assert_eq!(
            each,
            [("member.joined", erin), ("member.joined", frank), ("member.left", erin)],
            "{chat}"
        );
        assert!(of_chat.iter().all(|row| row.3 && row.4 == is_channel), "{of_chat:?}");
    }
    for id in &watches {
        stop(&stack, id).await;
        stack.finished(id).await;
    }
    stack.finish().await;
}
