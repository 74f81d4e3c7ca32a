//! Campaigns that are changed or deleted while they run.

use wireroom::sandbox::{Effect, Fault};

use super::*;

/// The text that takes the place of the usual one, and as it arrives.
const OTHER: &str = "The market moved. Come in: {link}";
const OTHER_SENT: &str = "The market moved. Come in: https://t.me/harbour_market";

async fn change(stack: &Stack, path: &str, change: Value) -> Value {
    let (status, answer) = send(stack, Method::PATCH, path, &change).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn another_text_is_sent_from_the_next_person_on_and_nobody_gets_both() {
    let stack = stack_with(vec!["alice"], vec![patience()]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["friendly_person", "dave"]).await;
    // It arrives, and nobody sees that it did: the next attempt looks, and gets no answer before the text is another one.
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    stack.fault(Fault::once("messages.search", Effect::Hold));
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    until("it arrived", async || invitations_of(&stack, "alice") == 1).await;
    change(&stack, &path, json!({ "text": OTHER })).await;
    stack.sandbox.controls().clear_faults();
    let result = done(&stack, &job).await;
    assert_eq!(result["outcomes"], json!({ "invited": 2 }), "{result}");
    assert_eq!(invitations_of(&stack, "alice"), 1);
    assert_eq!(stack.count_messages("alice", OTHER_SENT), 1);
    assert_eq!(
        stack.calls("messages.sendMessage"),
        2,
        "the first was found by what it said"
    );
    let kept = "SELECT count(*) FROM campaign_ledger WHERE said IS NOT NULL";
    assert_eq!(stack.figure(kept).await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_the_cap_goes_on_when_it_is_raised() {
    let stack = stack_of(vec!["alice"]).await;
    stack.noon().await;
    let path = campaign(&stack, json!({ "per_day": 1 })).await;
    list(&stack, &path, &["friendly_person", "dave", "erin"]).await;
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    stack
        .job_when(&job, "capped", |job| job["wait_reason"]["code"] == "campaign_cap")
        .await;
    change(&stack, &path, json!({ "per_day": 2 })).await;
    until("one more", async || invitations_of(&stack, "alice") == 2).await;
    stack
        .job_when(&job, "capped again", |job| job["wait_reason"]["code"] == "campaign_cap")
        .await;
    assert_eq!(invitations_of(&stack, "alice"), 2);
    change(&stack, &path, json!({ "per_day": 20 })).await;
    done(&stack, &job).await;
    assert_eq!(invitations_of(&stack, "alice"), 3);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_while_it_runs_nobody_else_is_contacted_and_nobody_sooner_by_another() {
    let stack = stack_with(vec!["alice"], vec![patience()]).await;
    let path = campaign(&stack, json!({})).await;
    list(&stack, &path, &["friendly_person", "dave"]).await;
    stack.fault(Fault::once("messages.sendMessage", Effect::Hold));
    let _worker = stack.worker().await;
    let job = resume(&stack, &path).await;
    until("one is on its way", async || stack.calls("messages.sendMessage") > 0).await;
    let (status, _) = send(&stack, Method::DELETE, &path, &json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    stack.sandbox.controls().clear_faults();
    let result = done(&stack, &job).await;
    assert_eq!(
        (&result["ended"], &result["code"]),
        (&json!("halted"), &json!("deleted"))
    );
    assert_eq!(stack.calls("messages.sendMessage"), 1, "finished, and no other");
    assert_eq!(
        stack
            .request(Method::GET, &path)
            .send()
            .await
            .expect("answered")
            .status(),
        404
    );
    // The same name, the same people: whoever was contacted is left alone.
    let again = campaign(&stack, json!({})).await;
    list(&stack, &again, &["friendly_person", "dave"]).await;
    done(&stack, &resume(&stack, &again).await).await;
    assert_eq!(outcome(&stack, &again, "friendly_person").await, "invited_lately");
    assert_eq!(outcome(&stack, &again, "dave").await, "invited");
    assert_eq!(invitations_of(&stack, "alice"), 2);
    stack.finish().await;
}
