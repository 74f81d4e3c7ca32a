//! Each kind over the sandbox, from an HTTP call to its result.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom::sandbox::world::PeerKey;

use crate::support::{
    stack::{Options, Stack},
    wait::eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn join_takes_every_form_of_link_and_says_what_it_joined() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let joined = stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    assert_eq!(joined["status"], "joined", "{joined}");
    assert_eq!(joined["chat"]["title"], "Harbour market");
    assert_eq!(joined["chat"]["type"], "supergroup");
    assert_eq!(joined["chat"]["member_count"], 1251);
    for again in [
        "t.me/harbour_market",
        "https://t.me/harbour_market",
        "tg://resolve?domain=harbour_market",
    ] {
        let result = stack.succeed("join", json!({ "chat": again })).await;
        assert_eq!(result["status"], "already_member", "{again}: {result}");
        assert_eq!(result["chat"]["id"], joined["chat"]["id"], "{again}");
    }
    let private = stack
        .succeed("join", json!({ "chat": "https://t.me/+SandboxHarbour01" }))
        .await;
    assert_eq!(private["status"], "joined", "{private}");
    assert_eq!(private["chat"]["title"], "Harbour board");
    let again = stack
        .succeed("join", json!({ "chat": "tg://join?invite=SandboxHarbour01" }))
        .await;
    assert_eq!(again["status"], "already_member", "{again}");
    let chat = stack.get(&format!("/v1/chats/{}", joined["chat"]["id"])).await;
    assert_eq!(chat["title"], "Harbour market", "{chat}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_request_is_looked_at_again_until_it_is_approved() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let id = stack
        .post("join", json!({ "chat": "https://t.me/+SandboxLantern02" }))
        .await;
    let waiting = stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    assert_eq!(waiting["state"], "scheduled", "{waiting}");
    assert_eq!(waiting["attempt"], 0, "waiting costs no attempt: {waiting}");
    let (chat, alice) = (stack.chat("Lantern club"), stack.account("alice"));
    stack
        .sandbox
        .controls()
        .with_world(|world| world.approve_join(chat, alice))
        .expect("approved");
    sqlx::query("UPDATE jobs SET run_at = wireroom_now()")
        .execute(stack.database.pool())
        .await
        .expect("changed");
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["status"], "approved", "{job}");
    assert_eq!(stack.calls("messages.importChatInvite"), 1, "asked once");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_request_that_nobody_answers_ends_at_the_deadline() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let deadline = chrono::DateTime::from_timestamp_millis(now_ms() + 6_000).expect("in range");
    let id = stack
        .post_job(json!({
            "kind": "join", "args": { "chat": "https://t.me/+SandboxLantern02" }, "deadline": deadline,
        }))
        .await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error"]["code"], "approval_expired", "{job}");
    stack.finish().await;
}

fn now_ms() -> i64 {
    let elapsed = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(elapsed.as_millis()).expect("in range")
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_sends_each_format_once_and_links_to_it() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    for (format, text, visible) in [
        ("plain", "Tide at *six*", "Tide at *six*"),
        ("markdown", "Tide at **seven**", "Tide at seven"),
        ("html", "Tide at <b>eight</b>", "Tide at eight"),
    ] {
        let args = json!({ "chat": "@harbour_market", "text": text, "format": format });
        let result = stack.succeed("publish", args).await;
        let id = result["message_id"].as_i64().expect("an id");
        assert_eq!(result["link"], format!("https://t.me/harbour_market/{id}"), "{result}");
        assert_eq!(stack.count_messages("harbour_market", visible), 1, "{format}");
    }
    assert_eq!(
        stack
            .figure("SELECT count(*) FROM job_effects WHERE message_id IS NOT NULL")
            .await,
        3
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_where_only_admins_write_fails_without_a_second_try() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_notices" })).await;
    let args = json!({ "chat": "@harbour_notices", "text": "May I?" });
    assert_eq!(stack.fail("publish", args).await, "write_forbidden");
    assert_eq!(stack.calls("messages.sendMessage"), 0, "looked up, and not tried");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_mode_puts_off_that_chat_alone() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    for chat in ["@slow_pier", "@harbour_market"] {
        stack.succeed("join", json!({ "chat": chat })).await;
    }
    stack
        .succeed("publish", json!({ "chat": "@slow_pier", "text": "one" }))
        .await;
    let id = stack
        .post("publish", json!({ "chat": "@slow_pier", "text": "two" }))
        .await;
    let waiting = stack.job_when(&id, "waiting", |job| job["state"] == "scheduled").await;
    assert_eq!(waiting["wait_reason"]["code"], "slow_mode", "{waiting}");
    stack
        .succeed("publish", json!({ "chat": "@harbour_market", "text": "three" }))
        .await;
    assert_eq!(
        stack.figure("SELECT count(*) FROM gates").await,
        0,
        "it was looked up, and not met"
    );
    stack
        .request(Method::POST, &format!("/v1/jobs/{id}/cancel"))
        .send()
        .await
        .expect("answered");
    assert_eq!(stack.finished(&id).await["state"], "cancelled");
    stack.finish().await;
}

fn scan(chat: &str) -> Value {
    json!({ "what": "members", "chat": chat, "purpose": "a count for the harbour's yearly report" })
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_sees_every_member_and_no_phone_number() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let id = stack.post("scan", scan("@harbour_market")).await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["complete"], true, "{job}");
    assert_eq!(job["result"]["seen"], 1250, "{job}");
    assert_eq!(job["progress"]["done"], 1250, "{job}");
    let mut members = 0;
    let mut path = format!("/v1/jobs/{id}/members?limit=500");
    loop {
        let page = stack.get(&path).await;
        members += page["items"].as_array().expect("a list").len();
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/jobs/{id}/members?limit=500&cursor={cursor}");
    }
    assert_eq!(members, 1250);
    for (format, lines) in [("text/csv", 1251), ("application/x-ndjson", 1250)] {
        let request = stack.request(Method::GET, &format!("/v1/jobs/{id}/members"));
        let text = request
            .header("Accept", format)
            .send()
            .await
            .expect("answered")
            .text()
            .await
            .expect("text");
        assert_eq!(text.lines().count(), lines, "{format}");
        assert!(!text.contains("99966"), "a phone number in {format}");
    }
    let phones = stack
        .figure("SELECT count(*) FROM people p WHERE p::text LIKE '%99966%'")
        .await;
    assert_eq!(phones, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_telegram_cuts_short_says_so_and_why() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let cases = [
        ("@big_bazaar", "cap_10000", 10_000),
        ("@quiet_quay", "participants_hidden", 0),
        ("@morning_news", "broadcast_channel", 0),
    ];
    for (chat, reason, seen) in cases {
        let result = stack.succeed("scan", scan(chat)).await;
        assert_eq!(result["complete"], false, "{chat}: {result}");
        assert_eq!(result["reason"], reason, "{chat}: {result}");
        assert_eq!(result["seen"], seen, "{chat}: {result}");
        assert!(result["counted"].as_i64().expect("a number") > seen, "{chat}: {result}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_scan_does_not_change_what_an_earlier_one_saw() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let first = stack.post("scan", scan("@slow_pier")).await;
    stack.finished(&first).await;
    let before = stack.get(&format!("/v1/jobs/{first}/members?limit=1000")).await;
    stack.succeed("join", json!({ "chat": "@slow_pier" })).await;
    let second = stack.succeed("scan", scan("@slow_pier")).await;
    assert_eq!(second["seen"], 151, "{second}");
    assert_eq!(stack.get(&format!("/v1/jobs/{first}/members?limit=1000")).await, before);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scanned_people_are_gone_when_their_time_is_over() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.succeed("scan", scan("@slow_pier")).await;
    assert_eq!(stack.figure("SELECT count(*) FROM people").await, 150);
    for table in ["scans", "people", "chat_members"] {
        let statement = sqlx::AssertSqlSafe(format!("UPDATE {table} SET expires_at = wireroom_now()"));
        sqlx::query(statement)
            .execute(stack.database.pool())
            .await
            .expect("changed");
    }
    // The sweep is the worker's: a fresh one does it at its start.
    let _fresh = stack.worker().await;
    eventually(Duration::from_secs(30), async || {
        let left = stack
            .figure(
                "SELECT (SELECT count(*) FROM people) + (SELECT count(*) FROM scan_members)
            + (SELECT count(*) FROM chat_members) + (SELECT count(*) FROM scans)",
            )
            .await;
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} rows are left"))
        }
    })
    .await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefer_wait_answers_with_the_result_like_a_function_call() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let body = json!({ "kind": "join", "args": { "chat": "@harbour_market" } });
    let request = stack
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=20")
        .json(&body);
    let response = request.send().await.expect("answered");
    assert_eq!(response.status(), StatusCode::OK);
    let job: Value = response.json().await.expect("JSON");
    assert_eq!(job["result"]["status"], "joined", "{job}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_job_stays_with_its_session_from_its_first_call_on() {
    let stack = Stack::with(Options {
        accounts: vec!["alice", "bob"],
        ..Options::default()
    })
    .await;
    let _worker = stack.worker().await;
    let id = stack
        .post("join", json!({ "chat": "https://t.me/+SandboxLantern02" }))
        .await;
    let waiting = stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    let session = waiting["session"].as_str().expect("bound").to_owned();
    for _ in 0..5 {
        sqlx::query("UPDATE jobs SET run_at = wireroom_now()")
            .execute(stack.database.pool())
            .await
            .expect("changed");
        let looks = stack.calls("messages.checkChatInvite");
        eventually(Duration::from_secs(20), async || {
            let now = stack.calls("messages.checkChatInvite");
            if now > looks {
                Ok(())
            } else {
                Err(format!("{now} looks"))
            }
        })
        .await;
        let job = stack
            .job_when(&id, "waiting again", |job| job["state"] == "scheduled")
            .await;
        assert_eq!(job["session"], session, "{job}");
    }
    let request = stack.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
    assert!(request.send().await.expect("answered").status().is_success());
    assert!(matches!(stack.chat("Lantern club"), PeerKey::Channel(_)));
    stack.finish().await;
}
