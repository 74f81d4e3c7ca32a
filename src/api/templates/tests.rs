//! Templates over HTTP.

use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::tests::bed::{Answer, TestApi, send};

async fn put(api: &TestApi, body: Value) -> Answer {
    send(api.request(Method::PUT, "/v1/templates/digest").body_json(&body)).await
}

#[tokio::test]
async fn a_new_text_keeps_the_format_that_is_left_out() {
    let api = TestApi::new().await;
    let template = json!({ "name": "digest", "text": "Dear **{{name}}**", "format": "markdown" });
    let made = send(api.request(Method::POST, "/v1/templates").body_json(&template)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let replaced = put(&api, json!({ "text": "Hello **{{name}}**" })).await.json();
    assert_eq!(replaced["format"], "markdown", "{replaced}");
    // And is read in it.
    let problem = put(&api, json!({ "text": "Hello **{{name}}" }))
        .await
        .problem("invalid_value");
    assert_eq!(problem["field"], "text");
    let stored = api.get("/v1/templates/digest").await.json();
    assert_eq!(stored["text"], "Hello **{{name}}**", "what is refused changes nothing");
    let plain = put(&api, json!({ "text": "Hello **{{name}}", "format": "plain" }))
        .await
        .json();
    assert_eq!(plain["format"], "plain", "{plain}");
}

#[tokio::test]
async fn a_job_that_would_be_too_long_is_refused_before_it_is_filled_in() {
    let api = TestApi::new().await;
    let template = json!({ "name": "digest", "text": "{{a}}".repeat(6_500) });
    let made = send(api.request(Method::POST, "/v1/templates").body_json(&template)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let args = json!({ "chat": "@reading_club", "template": "digest", "variables": { "a": "x".repeat(1_000) } });
    let answer = api.post_job(&json!({ "kind": "publish", "args": args })).await;
    let problem = answer.problem("invalid_value");
    assert_eq!(problem["field"], "args.variables", "{problem}");
    let detail = problem["detail"].as_str().expect("words");
    assert!(detail.contains("6500000") && detail.contains("32768"), "{detail}");
}
