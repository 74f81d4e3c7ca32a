//! A request of ours that an admin approves with a client of theirs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_with_telethon_lets_our_session_in() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let id = stack.post("join", json!({ "chat": "@gatehouse" })).await;
    stack
        .job_when(&id, "pending", |job| job["wait_reason"]["code"] == "approval_pending")
        .await;
    TELETHON
        .check(
            "telethon_approves.py",
            &stack.sandbox,
            &[&phone(&stack, "judy"), "gatehouse"],
            "",
        )
        .await;
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["status"], "approved", "{job}");
    stack.finish().await;
}
