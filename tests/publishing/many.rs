//! One job, many chats.

use super::*;

/// `count` groups that alice is in and judy runs.
fn stalls(stack: &Stack, count: usize) -> Vec<String> {
    add_stalls(stack, count, "alice");
    (0..count).map(|number| format!("@{}", stall(number))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_chat_has_its_own_outcome() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    let mut chats = stalls(&stack, 3);
    stack.succeed("join", json!({ "chat": "@harbour_notices" })).await;
    chats.extend([
        "@harbour_notices".into(),
        "@nobody_is_here".into(),
        "@morning_news".into(),
        "t.me/stall9".into(),
    ]);
    let id = stack.post("publish", json!({ "chats": chats, "text": "To all" })).await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let counts = &job["result"]["counts"];
    assert_eq!(
        *counts,
        json!({ "sent": 3, "write_forbidden": 2, "chat_not_found": 2 }),
        "{job}"
    );
    assert_eq!(job["progress"]["done"], 7, "{job}");
    assert_eq!(
        stack.calls("messages.sendMessage"),
        3,
        "what is not allowed is not tried"
    );
    for number in 0..3 {
        assert_eq!(stack.count_messages(&stall(number), "To all"), 1);
    }
    let page = stack.get(&format!("/v1/jobs/{id}/targets?limit=2")).await;
    assert_eq!(page["items"][1]["position"], 1, "{page}");
    assert!(page["items"][1]["message_id"].is_i64(), "{page}");
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    let rest = stack.get(&format!("/v1/jobs/{id}/targets?cursor={cursor}")).await;
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(5), "{rest}");
    let refused = stack
        .get(&format!("/v1/jobs/{id}/targets?outcome=write_forbidden"))
        .await;
    assert_eq!(refused["items"].as_array().map(Vec::len), Some(2), "{refused}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_mode_is_looked_up_and_puts_off_one_chat() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    let mut chats = stalls(&stack, 2);
    stack.succeed("join", json!({ "chat": "@slow_pier" })).await;
    stack
        .succeed("publish", json!({ "chat": "@slow_pier", "text": "first" }))
        .await;
    chats.insert(0, "@slow_pier".into());
    let sent = stack.calls("messages.sendMessage");
    let id = stack.post("publish", json!({ "chats": chats, "text": "second" })).await;
    let waiting = stack.job_when(&id, "waiting", |job| job["state"] == "scheduled").await;
    assert_eq!(waiting["wait_reason"]["code"], "slow_mode", "{waiting}");
    assert_eq!(waiting["progress"]["done"], 2, "{waiting}");
    assert_eq!(stack.calls("messages.sendMessage") - sent, 2, "it was looked up");
    assert_eq!(stack.count_messages("slow_pier", "second"), 0);
    let response = stack
        .request(Method::POST, &format!("/v1/jobs/{id}/cancel"))
        .send()
        .await;
    response.expect("answered");
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "cancelled", "everything it did is known: {job}");
    let targets = stack.get(&format!("/v1/jobs/{id}/targets?outcome=sent")).await;
    assert_eq!(targets["items"].as_array().map(Vec::len), Some(2), "{targets}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_the_middle_keeps_what_was_done() {
    let stack = with_accounts(vec!["alice"]).await;
    let chats = stalls(&stack, 20);
    let _worker = stack.worker().await;
    stack.fault(Fault::once("messages.sendMessage", Effect::Delay { ms: 0 }).times(10));
    stack.fault(Fault::once("messages.sendMessage", Effect::flood_wait(4)));
    let id = stack.post("publish", json!({ "chats": chats, "text": "Floods" })).await;
    let job = stack.finished(&id).await;
    assert_eq!(stack.calls("messages.sendMessage"), 21, "one of them again");
    assert_eq!(job["result"]["counts"], json!({ "sent": 20 }), "{job}");
    for number in 0..20 {
        assert_eq!(stack.count_messages(&stall(number), "Floods"), 1, "{number}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_chats_get_their_message_once_and_the_result_names_each() {
    let stack = with_accounts(vec!["alice"]).await;
    let chats = stalls(&stack, 1000);
    let _worker = stack.worker().await;
    let begun = tokio::time::Instant::now();
    let id = stack
        .post("publish", json!({ "chats": chats, "text": "To a thousand" }))
        .await;
    eventually(Duration::from_mins(5), async || {
        let job = stack.job(&id).await;
        if job["finished_at"].is_string() {
            Ok(())
        } else {
            Err(job["progress"].to_string())
        }
    })
    .await;
    println!("1000 chats took {:?}", begun.elapsed());
    let job = stack.job(&id).await;
    assert_eq!(job["result"]["counts"], json!({ "sent": 1000 }), "{}", job["error"]);
    assert_eq!(job["result"]["targets"].as_array().map(Vec::len), Some(1000));
    assert_eq!(stack.calls("messages.sendMessage"), 1000);
    let once = (0..1000).all(|number| stack.count_messages(&stall(number), "To a thousand") == 1);
    assert!(once);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_list_is_refused_at_the_door() {
    let stack = with_accounts(vec!["alice"]).await;
    for (args, field) in [
        (
            json!({ "chats": ["@club_one", "t.me/Club_One"], "text": "x" }),
            "args.chats[1]",
        ),
        (json!({ "chats": ["@club_one", "club"], "text": "x" }), "args.chats[1]"),
        (
            json!({ "chats": ["@club_one"], "chat": "@club_two", "text": "x" }),
            "args.chats",
        ),
        (
            json!({ "chats": ["@club_one"], "text": "x", "reply_to": 5 }),
            "args.reply_to",
        ),
        (
            json!({ "chats": ["@club_one"], "action": "pin", "message_id": 5 }),
            "args.chats",
        ),
        (json!({ "chat": "@club_one", "action": "pin" }), "args.message_id"),
        (
            json!({ "chat": "@club_one", "action": "pin", "message_id": 5, "text": "x" }),
            "args.text",
        ),
        (
            json!({ "chat": "@club_one", "action": "forward", "message_ids": [1] }),
            "args.from_chat",
        ),
        (json!({ "text": "x" }), "args.chat"),
    ] {
        let problem = refused(&stack, args.clone()).await;
        assert_eq!(problem["field"], field, "{args}: {problem}");
    }
    let many: Vec<String> = (0..1001).map(|number| format!("@{}", stall(number))).collect();
    let problem = refused(&stack, json!({ "chats": many, "text": "x" })).await;
    assert_eq!(problem["field"], "args.chats", "{problem}");
    stack.finish().await;
}
