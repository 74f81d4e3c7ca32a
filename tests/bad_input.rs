//! What a person gets wrong, and what they are told.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::stack::{Options, Stack};

async fn refused(stack: &Stack, body: Value) -> (StatusCode, Value) {
    let response = stack
        .request(Method::POST, "/v1/jobs")
        .json(&body)
        .send()
        .await
        .expect("answered");
    let status = response.status();
    let problem: Value = response.json().await.expect("problem+json");
    (status, problem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_does_not_exist_fails_the_job_with_its_name() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    let job = stack.run("join", json!({ "chat": "@nobody_is_here" })).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error"]["code"], "chat_not_found");
    assert_eq!(job["error"]["retryable"], false);
    assert_eq!(job["attempt"], 1, "tried once: trying again would not help");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_or_revoked_link_fails_the_job() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    for link in ["https://t.me/+SandboxExpired03", "tg://join?invite=SandboxRevoked05"] {
        assert_eq!(
            stack.fail("join", json!({ "chat": link })).await,
            "invite_link_expired",
            "{link}"
        );
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_the_wrong_shape_is_refused_before_a_job_is_made() {
    let stack = Stack::with(Options {
        accounts: vec![],
        ..Options::default()
    })
    .await;
    for chat in [
        "harbour",
        "@a",
        "@has space",
        "https://example.com/x",
        "t.me/",
        "+99966200001",
        "",
    ] {
        let (status, problem) = refused(&stack, json!({ "kind": "join", "args": { "chat": chat } })).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{chat}: {problem}");
        assert_eq!(problem["code"], "invalid_value", "{chat}: {problem}");
        assert_eq!(problem["field"], "args.chat", "{chat}: {problem}");
    }
    assert_eq!(stack.figure("SELECT count(*) FROM all_jobs").await, 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_long_or_empty_is_refused_by_length() {
    let stack = Stack::start().await;
    for text in ["", "   \n", &"x".repeat(4097)] {
        let body = json!({ "kind": "publish", "args": { "chat": "@harbour_market", "text": text } });
        let (status, problem) = refused(&stack, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert_eq!(problem["field"], "args.text", "{problem}");
    }
    // It is the text that counts, and not its markup.
    for (length, status) in [(4097, StatusCode::UNPROCESSABLE_ENTITY), (4096, StatusCode::ACCEPTED)] {
        let bold = format!("<b>{}</b>", "x".repeat(length));
        let body = json!({ "kind": "publish", "args": { "chat": "@harbour_market", "text": bold, "format": "html" } });
        let response = stack.request(Method::POST, "/v1/jobs").json(&body).send().await;
        assert_eq!(response.expect("answered").status(), status, "{length}");
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_a_session_that_is_not_ready_is_refused_with_its_state() {
    let stack = Stack::start().await;
    let sessions = stack.get("/v1/sessions").await;
    let id = sessions["items"][0]["id"].as_str().expect("an id").to_owned();
    sqlx::query("UPDATE sessions SET state = 'logged_out', state_reason = 'SESSION_REVOKED'")
        .execute(stack.database.pool())
        .await
        .expect("changed");
    let body = json!({ "kind": "join", "args": { "chat": "@harbour_market" }, "session": id });
    let (status, problem) = refused(&stack, body).await;
    assert!(status.is_client_error(), "{problem}");
    assert_eq!(problem["code"], "session_not_ready", "{problem}");
    assert_eq!(problem["field"], "session", "{problem}");
    assert!(
        problem["detail"].as_str().expect("words").contains("logged_out"),
        "{problem}"
    );
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_a_pool_without_sessions_waits_and_says_so() {
    let stack = Stack::with(Options {
        accounts: vec![],
        ..Options::default()
    })
    .await;
    let _worker = stack.worker().await;
    let id = stack.post("join", json!({ "chat": "@harbour_market" })).await;
    let job = stack.job(&id).await;
    assert_eq!(job["state"], "queued", "{job}");
    assert_eq!(job["wait_reason"]["code"], "pool_empty", "{job}");
    stack.finish().await;
}
