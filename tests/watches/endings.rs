//! How a watch ends, or does not begin: the rows of docs/WATCHES.md that no other test has.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_is_refused_by_its_reason() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    for (chat, code) in [
        ("@friendly_person", "chat_is_person"),
        ("@nobody_is_here", "chat_not_found"),
    ] {
        assert_eq!(stack.fail("monitor", json!({ "chat": chat })).await, code, "{chat}");
    }
    assert_eq!(stack.figure("SELECT count(*) FROM watches").await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_no_member_is_tried_and_then_nobody_is_left() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let args = json!({ "chat": "@harbour_market", "failover": { "delay_seconds": 0, "tries": 2 } });
    let job = stack.run("monitor", args).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("exhausted")),
        "{job}"
    );
    let message = job["error"]["message"].as_str().expect("a message");
    assert!(message.contains("not_a_member"), "{message}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_under_which_worker_after_worker_dies_is_given_up() {
    let stack = two_members().await;
    let mut worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    stack.say("judy", "message 0");
    stack.told_when(&texts(0..1)).await;
    for death in 1..=3 {
        // An attempt that has not started is refunded, and is no crash.
        let before = stack
            .job_when(&id, "started", |job| job["started_at"].is_string())
            .await;
        worker.kill();
        worker.wait_for_end(Duration::from_secs(20)).await;
        worker = stack.worker().await;
        if death < 3 {
            let is_next = |job: &Value| job["state"] == "running" && job["worker"] != before["worker"];
            stack.job_when(&id, "claimed by the next worker", is_next).await;
        }
    }
    let job = stack.finished(&id).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("worker_crashed")),
        "{job}"
    );
    // The watch ends with its job, and the chat may be watched anew.
    let watch = stack.get(&format!("/v1/watches/{id}")).await;
    assert_ne!(watch["state"], "active", "{watch}");
    let again = stack.monitor("bob", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&again, "bob").await;
    stop(&stack, &again).await;
    stack.finished(&again).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_history_is_not_given_the_stream_is_recorded_all_the_same() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    // What was read is compared with what exists in the background; a scan meets the flood.
    stack.fault(Fault::once("channels.getParticipants", Effect::flood_wait(900)));
    let scan = json!({ "what": "members", "chat": "@harbour_market", "purpose": "a count" });
    let scan = stack
        .post_job(json!({ "kind": "scan", "session": "alice", "args": scan }))
        .await;
    let waiting = stack
        .job_when(&scan, "waiting", |job| job["state"] == "scheduled")
        .await;
    assert_eq!(waiting["wait_reason"]["code"], "flood", "{waiting}");
    let wanted = texts(0..10);
    for text in &wanted {
        stack.say("judy", text);
    }
    stack.told_when(&wanted).await;
    stop(&stack, &id).await;
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    let cancel = stack.request(Method::POST, &format!("/v1/jobs/{scan}/cancel"));
    cancel.send().await.expect("answered");
    stack.finished(&scan).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_watch_is_told_from_its_start_to_its_end() {
    let stack = two_members().await;
    let _worker = stack.worker().await;
    let args = json!({ "chat": "@harbour_market", "failover": { "delay_seconds": 0, "tries": 1 } });
    let id = stack.monitor("alice", args).await;
    stack.watched(&id, "alice").await;
    let switch = stack.request(Method::POST, &format!("/v1/watches/{id}/switch"));
    let answer = switch
        .json(&json!({ "session": "bob" }))
        .send()
        .await
        .expect("answered");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    stack.watched(&id, "bob").await;
    let chat = stack.chat(CHAT);
    for session in ["alice", "bob"] {
        let account = stack.account(session);
        let controls = stack.sandbox.controls();
        controls.with_world(|world| world.ban(chat, account)).expect("put out");
    }
    let job = stack.finished(&id).await;
    assert_eq!(job["error"]["code"], "exhausted", "{job}");
    let path = format!("/v1/events?after=0&subject=watch:{id}");
    let told = eventually(JOB_BOUND, async || {
        let page = stack.get(&path).await;
        let items = page["items"].as_array().expect("events");
        let types: Vec<String> = items
            .iter()
            .filter_map(|event| event["type"].as_str().map(str::to_owned))
            .collect();
        if types.iter().any(|event| event == "watch.exhausted") {
            Ok(types)
        } else {
            Err(types)
        }
    })
    .await;
    assert_eq!(told[..2], ["watch.started", "watch.switched"], "{told:?}");
    assert!(told.contains(&"watch.access_lost".to_owned()), "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("watch.exhausted"), "{told:?}");
    stack.finish().await;
}
