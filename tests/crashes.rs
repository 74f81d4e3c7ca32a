//! Workers that die, networks that fall silent, databases that restart: nothing is lost, nothing is done twice, and no
//! session is used from two places.

use std::time::Duration;

use serde_json::{Value, json};
use wireroom::sandbox::{Effect, Fault};

use crate::support::{
    process::Process,
    stack::{JOB_BOUND, Options, Stack},
    wait::eventually,
};

fn scan(chat: &str) -> Value {
    json!({ "what": "members", "chat": chat, "purpose": "a count for the harbour's yearly report" })
}

/// Two workers; the one that runs the job is killed, and the other one returned.
async fn kill_the_worker_of(stack: &Stack, id: &str, workers: [Process; 2]) -> Process {
    let job = stack.job(id).await;
    let worker = job["worker"].as_str().expect("a worker").to_owned();
    let listed = stack.get("/v1/workers").await;
    let row = listed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["id"] == worker.as_str())
        .cloned();
    let pid = row.expect("the worker is listed")["pid"].as_u64().expect("a pid");
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
async fn a_scan_goes_on_where_a_killed_worker_left_it() {
    let stack = Stack::patient().await;
    let workers = [stack.worker().await, stack.worker().await];
    // One page may be on its way while the one before is stored.
    stack.fault(Fault::once("channels.getParticipants", Effect::Delay { ms: 0 }).times(6));
    stack.fault(Fault::once("channels.getParticipants", Effect::Hold));
    let id = stack.post("scan", scan("@big_bazaar")).await;
    eventually(JOB_BOUND, async || {
        match stack.figure("SELECT count(*) FROM scan_members").await {
            rows if rows >= 1000 => Ok(()),
            rows => Err(rows),
        }
    })
    .await;
    let _survivor = kill_the_worker_of(&stack, &id, workers).await;
    let before = stack.calls("channels.getParticipants");
    stack.sandbox.controls().clear_faults();
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["seen"], 10_000, "{job}");
    let after = stack.calls("channels.getParticipants") - before;
    assert!(
        after <= 47,
        "it began again: {after} pages after the first 1,000 rows of 10,000"
    );
    assert_eq!(stack.figure("SELECT count(*) FROM scan_members").await, 10_000);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_sending_and_reporting_leaves_one_message() {
    one_message_after_a_kill(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn also_when_telegram_has_forgotten_the_random_id() {
    one_message_after_a_kill(true).await;
}

async fn one_message_after_a_kill(forget: bool) {
    let stack = Stack::patient().await;
    let workers = [stack.worker().await, stack.worker().await];
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    // Sent, and the answer never comes.
    stack.fault(Fault::once("messages.sendMessage", Effect::LoseAnswer));
    let text = "Fish market opens at six";
    let id = stack
        .post("publish", json!({ "chat": "@harbour_market", "text": text }))
        .await;
    eventually(JOB_BOUND, async || {
        if stack.count_messages("harbour_market", text) == 1 {
            Ok(())
        } else {
            Err("not sent")
        }
    })
    .await;
    let _survivor = kill_the_worker_of(&stack, &id, workers).await;
    if forget {
        stack
            .sandbox
            .controls()
            .with_world(wireroom::sandbox::world::World::forget_random_ids);
    }
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(job["result"]["message_id"].is_i64(), "{job}");
    assert_eq!(stack.count_messages("harbour_market", text), 1);
    assert_eq!(
        stack.calls("messages.sendMessage"),
        1,
        "found by looking, not by sending again"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_cannot_be_read_ends_the_outcome_unknown() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    for method in ["messages.search", "messages.getHistory"] {
        stack.fault(
            Fault::once(
                method,
                Effect::Error {
                    code: 400,
                    name: "CHANNEL_PRIVATE".into(),
                },
            )
            .forever(),
        );
    }
    let args = json!({ "chat": "@harbour_market", "text": "Once or never" });
    assert_eq!(stack.fail("publish", args).await, "outcome_unknown");
    assert_eq!(stack.calls("messages.sendMessage"), 1, "never sent again");
    assert_eq!(stack.count_messages("harbour_market", "Once or never"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_cancelled_while_it_sends_does_not_say_that_nothing_was_sent() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    stack.fault(Fault::once("messages.sendMessage", Effect::BlackholeAfter));
    let text = "Too late to stop";
    let id = stack
        .post("publish", json!({ "chat": "@harbour_market", "text": text }))
        .await;
    eventually(JOB_BOUND, async || {
        if stack.count_messages("harbour_market", text) == 1 {
            Ok(())
        } else {
            Err("not sent")
        }
    })
    .await;
    let cancel = stack.request(reqwest::Method::POST, &format!("/v1/jobs/{id}/cancel"));
    let answer = cancel.send().await.expect("answered");
    assert_eq!(answer.status(), reqwest::StatusCode::ACCEPTED);
    let job = stack.finished(&id).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("outcome_unknown")),
        "{job}"
    );
    assert_eq!(stack.calls("messages.sendMessage"), 1, "never sent again");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_never_arrived_is_sent_again() {
    sent_once_all_the_same(Effect::Drop).await;
}

/// The call that sends meets `effect`, which keeps it from being run; the job succeeds.
async fn sent_once_all_the_same(effect: Effect) {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    stack.fault(Fault::once("messages.sendMessage", effect));
    let result = stack
        .succeed("publish", json!({ "chat": "@harbour_market", "text": "Second try" }))
        .await;
    assert!(result["message_id"].is_i64(), "{result}");
    assert_eq!(stack.count_messages("harbour_market", "Second try"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_during_a_scan_closes_a_gate_and_costs_no_attempt() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    // The sixth page meets it: 1,000 rows are stored by then.
    stack.fault(Fault::once("channels.getParticipants", Effect::Delay { ms: 1 }).times(5));
    stack.fault(Fault::once("channels.getParticipants", Effect::flood_wait(6)));
    let id = stack.post("scan", scan("@harbour_market")).await;
    let waiting = stack
        .job_when(&id, "snoozed", |job| job["wait_reason"]["code"] == "flood")
        .await;
    assert_eq!(waiting["state"], "scheduled", "{waiting}");
    assert_eq!(waiting["attempt"], 0, "refunded: {waiting}");
    let pages = stack.calls("channels.getParticipants");
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["seen"], 1250, "{job}");
    assert!(
        stack.calls("channels.getParticipants") - pages <= 3,
        "it resumed at its checkpoint"
    );
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM floods WHERE seconds = 6 AND NOT waited_in_place")
            .await,
        1
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_flood_is_waited_out_in_place_and_recorded() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.fault(Fault::once("channels.joinChannel", Effect::flood_wait(1)));
    let job = stack.run("join", json!({ "chat": "@harbour_market" })).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["attempt"], 1, "{job}");
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM floods WHERE seconds = 1 AND waited_in_place")
            .await,
        1
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_crashes_under_load_loses_nothing() {
    let mut stack = Stack::with(Options {
        own_server: true,
        ..Options::default()
    })
    .await;
    let _workers = [stack.worker().await, stack.worker().await];
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let post = |text: String| {
        let body = json!({ "kind": "publish", "args": { "chat": "@harbour_market", "text": text } });
        stack.request(reqwest::Method::POST, "/v1/jobs").json(&body).send()
    };
    // Some are accepted before the crash, some refused during it: only a 202 promises anything.
    let mut accepted = Vec::new();
    for number in 0..40 {
        accepted.push((number, post(format!("Lot {number}")).await.expect("answered")));
    }
    stack.database.crash().await;
    let mut ids = Vec::new();
    for (number, response) in accepted {
        if response.status() == reqwest::StatusCode::ACCEPTED {
            let job: Value = response.json().await.expect("JSON");
            ids.push((number, job["id"].as_str().expect("an id").to_owned()));
        }
    }
    assert!(!ids.is_empty());
    eventually(JOB_BOUND, async || {
        match stack.request(reqwest::Method::GET, "/readyz").send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for (number, id) in ids {
        let job = stack.finished(&id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        assert_eq!(
            stack.count_messages("harbour_market", &format!("Lot {number}")),
            1,
            "lot {number}"
        );
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed_and_replaced() {
    sent_once_all_the_same(Effect::Blackhole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_a_long_job_over_and_exits_0() {
    let variables = vec![("WIREROOM_SHUTDOWN_SOFT_SECONDS", "1".to_owned())];
    let stack = Stack::with(Options {
        variables,
        ..Options::default()
    })
    .await;
    let mut worker = stack.worker().await;
    stack.fault(Fault::once("channels.getParticipants", Effect::Delay { ms: 400 }).forever());
    let id = stack.post("scan", scan("@big_bazaar")).await;
    stack
        .job_when(&id, "some way in", |job| job["progress"]["done"].as_i64() >= Some(400))
        .await;
    worker.terminate();
    let status = worker.wait_for_end(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{}", worker.output());
    let job = stack.job(&id).await;
    assert_eq!(job["state"], "queued", "handed over at once: {job}");
    assert_eq!(job["attempt"], 0, "refunded: {job}");
    stack.sandbox.controls().clear_faults();
    let _next = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["seen"], 10_000, "{job}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_master_key_is_refused_by_name_before_anything_is_touched() {
    let stack = Stack::start().await;
    let wrong = wireroom::vault::Vault::generate("test")
        .expect("random")
        .expose()
        .to_owned();
    let mut variables: Vec<(&str, &str)> = stack
        .variables()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    variables.retain(|(name, _)| *name != "WIREROOM_MASTER_KEYS");
    for keys in [wrong.as_str(), ""] {
        let mut with = variables.clone();
        with.push(("WIREROOM_MASTER_KEYS", keys));
        let mut worker = Process::wireroom(&["worker"], &with);
        let status = worker.wait_for_end(Duration::from_secs(20)).await;
        assert!(!status.success());
        let output = worker.output();
        assert!(output.contains("WIREROOM_MASTER_KEYS"), "{output}");
        assert!(
            !output.contains(wrong.split_once(':').expect("id:key").1),
            "the key is shown"
        );
    }
    assert_eq!(stack.figure("SELECT count(*) FROM workers").await, 0);
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM session_leases WHERE owner IS NOT NULL")
            .await,
        0
    );
    stack.finish().await;
}
