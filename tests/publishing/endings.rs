//! Outcomes of docs/PUBLISH.md that Telegram has a hand in and no other test has.

use super::*;

fn refuse(stack: &Stack, method: &str, code: i32, name: &str) {
    let name = name.to_owned();
    stack.fault(Fault::once(method, Effect::Error { code, name }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_is_named_twice_has_the_message_once() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 1, "alice");
    // By its id the chat is known to a session that has met it.
    let first = stack
        .succeed("publish", json!({ "chat": "@stall1", "text": "before" }))
        .await;
    let id = first["chat"]["id"].as_i64().expect("an id");
    let chats = json!(["@stall1", id.to_string()]);
    let result = stack
        .succeed("publish", json!({ "chats": chats, "text": "once" }))
        .await;
    assert_eq!(result["counts"], json!({ "sent": 1, "duplicate": 1 }), "{result}");
    assert_eq!(stack.count_messages("stall1", "once"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_posted_the_job_fails_and_says_why() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    let (pier, alice) = (stack.chat("slow_pier"), stack.account("alice"));
    stack.sandbox.controls().with_world(|world| {
        world.put_in(pier, alice).expect("in the chat");
        world.ban(pier, alice).expect("put out");
    });
    for (chat, code) in [
        ("@friendly_person", "chat_is_person"),
        ("@slow_pier", "chat_inaccessible"),
        ("@nobody_is_here", "chat_not_found"),
    ] {
        let args = json!({ "chat": chat, "text": "Hello" });
        assert_eq!(stack.fail("publish", args).await, code, "{chat}");
    }
    assert_eq!(stack.calls("messages.sendMessage"), 0, "nothing is tried");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_telegram_refuses_of_an_edit_or_a_text_has_its_own_code() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let sent = stack
        .succeed("publish", in_market(json!({ "text": "to be changed" })))
        .await;
    for (name, code) in [
        ("MESSAGE_EDIT_TIME_EXPIRED", "edit_too_late"),
        ("MESSAGE_TOO_LONG", "message_too_long"),
        ("ENTITY_BOUNDS_INVALID", "message_invalid"),
    ] {
        refuse(&stack, "messages.editMessage", 400, name);
        let edit = json!({ "action": "edit", "message_id": sent["message_id"], "text": "changed" });
        assert_eq!(stack.fail("publish", in_market(edit)).await, code, "{name}");
    }
    for (status, name, code) in [
        (400, "CHAT_FORWARDS_RESTRICTED", "forwards_restricted"),
        (400, "TOPIC_CLOSED", "topic_closed"),
        (403, "CHAT_SEND_PHOTOS_FORBIDDEN", "media_forbidden"),
        (403, "ALLOW_PAYMENT_REQUIRED", "payment_required"),
        (400, "MESSAGE_EMPTY", "message_empty"),
        (400, "BUTTON_URL_INVALID", "buttons_invalid"),
    ] {
        refuse(&stack, "messages.sendMessage", status, name);
        let args = in_market(json!({ "text": "refused" }));
        assert_eq!(stack.fail("publish", args).await, code, "{name}");
    }
    assert_eq!(stack.count_messages("harbour_market", "refused"), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_trouble_after_progress_puts_the_rest_off() {
    let stack = with_accounts(vec!["alice"]).await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 3, "alice");
    let chats: Vec<String> = (0..3).map(|number| format!("@{}", stall(number))).collect();
    // The third chat cannot be looked up for a while.
    let third = Fault::once("contacts.resolveUsername", Effect::Drop).forever();
    let fault = stack
        .sandbox
        .controls()
        .add_fault(Fault::once("contacts.resolveUsername", Effect::Delay { ms: 1 }).times(2));
    let trouble = stack.sandbox.controls().add_fault(third);
    let id = stack
        .post("publish", json!({ "chats": chats, "text": "all of them" }))
        .await;
    let waiting = stack.job_when(&id, "put off", |job| job["state"] == "scheduled").await;
    assert_eq!(waiting["wait_reason"]["code"], "trouble", "{waiting}");
    assert_eq!(waiting["attempt"], 0, "it costs no attempt: {waiting}");
    stack.sandbox.controls().remove_fault(fault);
    stack.sandbox.controls().remove_fault(trouble);
    sqlx::query("UPDATE jobs SET run_at = wireroom_now() WHERE state = 'scheduled'")
        .execute(stack.database.pool())
        .await
        .expect("changed");
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["counts"], json!({ "sent": 3 }), "{job}");
    for number in 0..3 {
        assert_eq!(stack.count_messages(&stall(number), "all of them"), 1);
    }
    stack.finish().await;
}
