//! How the job of a campaign ends without having dealt with everybody.

use wireroom::sandbox::{Effect, Fault};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_cannot_be_found_stops_the_campaign_and_nobody_is_contacted() {
    let stack = stack_of(vec!["alice"]).await;
    let _worker = stack.worker().await;
    let (pier, alice) = (stack.chat("slow_pier"), stack.account("alice"));
    stack.sandbox.controls().with_world(|world| {
        world.put_in(pier, alice).expect("in the chat");
        world.ban(pier, alice).expect("put out");
    });
    for (chat, code) in [
        ("@nobody_is_here", "chat_not_found"),
        ("@slow_pier", "chat_inaccessible"),
        ("@friendly_person", "chat_is_person"),
    ] {
        let path = campaign(&stack, json!({ "name": code, "chat": chat })).await;
        list(&stack, &path, &["dave"]).await;
        let job = stack.finished(&resume(&stack, &path).await).await;
        assert_eq!(
            (&job["state"], &job["error"]["code"]),
            (&json!("failed"), &json!(code)),
            "{job}"
        );
        assert_eq!(outcome(&stack, &path, "dave").await, Value::Null, "{code}");
        let stopped = stack.get(&path).await;
        assert_eq!(
            (&stopped["state"], &stopped["code"]),
            (&json!("stopped"), &json!(code)),
            "{stopped}"
        );
    }
    assert_eq!(stack.calls("messages.sendMessage"), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_another_chat_stops_the_campaign() {
    let stack = stack_with(vec!["alice"], vec![patience()]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["dave"]).await;
    stack.fault(Fault::once("contacts.resolveUsername", Effect::Hold));
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    until("the chat is looked up", async || {
        stack.calls("contacts.resolveUsername") > 0
    })
    .await;
    // As another job of the campaign would that found the name elsewhere a moment ago.
    sqlx::query("UPDATE campaigns SET chat_id = -1001999999999")
        .execute(stack.database.pool())
        .await
        .expect("changed");
    stack.sandbox.controls().clear_faults();
    let job = stack.finished(&job).await;
    assert_eq!(job["error"]["code"], "chat_changed", "{job}");
    let stopped = stack.get(&path).await;
    assert_eq!(
        (&stopped["state"], &stopped["code"]),
        (&json!("stopped"), &json!("chat_changed")),
        "{stopped}"
    );
    assert_eq!(outcome(&stack, &path, "dave").await, Value::Null);
    assert_eq!(stack.calls("messages.sendMessage"), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_puts_the_job_off_and_whoever_was_next_stays_next() {
    let stack = stack_of(vec!["alice"]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["dave", "erin"]).await;
    stack.fault(Fault::once("messages.sendMessage", Effect::flood_wait(900)));
    let mut worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    let waiting = stack.job_when(&job, "waiting", |job| job["state"] == "scheduled").await;
    assert_eq!(
        (&waiting["wait_reason"]["code"], &waiting["attempt"]),
        (&json!("flood"), &json!(0)),
        "{waiting}"
    );
    assert_eq!(outcome(&stack, &path, "dave").await, Value::Null);
    assert_eq!(invitations_of(&stack, "alice"), 0);
    // When the time has passed; a worker that starts looks the gates up.
    worker.terminate();
    worker.wait_for_end(JOB_BOUND).await;
    sqlx::query("DELETE FROM gates")
        .execute(stack.database.pool())
        .await
        .expect("opened");
    hurry(&stack).await;
    let _worker = stack.worker().await;
    let result = done(&stack, &job).await;
    assert_eq!(result["outcomes"], json!({ "invited": 2 }), "{result}");
    assert_eq!(invitations_of(&stack, "alice"), 2);
    stack.finish().await;
}
