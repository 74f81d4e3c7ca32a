//! Templates: made, filled in when a job comes in, and strict about it.

use super::*;

async fn send(stack: &Stack, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let response = stack.request(method, path).json(&body).send().await.expect("answered");
    let status = response.status();
    (status, response.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_filled_in_from_a_template_or_refused() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let template = json!({ "name": "digest", "text": "Dear **{{name}}**, see you on {{day}}", "format": "markdown" });
    let (status, made) = send(&stack, Method::POST, "/v1/templates", template.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(made["variables"], json!(["day", "name"]), "{made}");
    assert_eq!(
        send(&stack, Method::POST, "/v1/templates", template).await.0,
        StatusCode::CONFLICT
    );
    let filled = json!({ "template": "digest", "variables": { "name": "A*d*a", "day": "Friday" } });
    let id = stack.post("publish", in_market(filled.clone())).await;
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["args"]["template"], Value::Null, "{job}");
    assert_eq!(
        stack.count_messages("harbour_market", "Dear A*d*a, see you on Friday"),
        1
    );
    for (variables, word) in [
        (json!({ "name": "Ada" }), "day"),
        (json!({ "name": "Ada", "day": "Friday", "hour": "six" }), "hour"),
    ] {
        let problem = refused(
            &stack,
            in_market(json!({ "template": "digest", "variables": variables })),
        )
        .await;
        assert_eq!(problem["field"], "args.variables", "{problem}");
        assert!(problem["detail"].as_str().expect("words").contains(word), "{problem}");
        assert!(!problem.to_string().contains("Friday"), "{problem}");
    }
    for args in [
        json!({ "template": "nothing" }),
        json!({ "template": "digest", "text": "Both" }),
    ] {
        refused(&stack, in_market(args)).await;
    }
    let jobs = json!({ "jobs": [{ "kind": "publish", "args": in_market(filled) }] });
    let (status, batch) = send(&stack, Method::POST, "/v1/jobs/batch", jobs).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{batch}");
    let job = stack.finished(batch["items"][0]["job"].as_str().expect("an id")).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let text = json!({ "text": "{{name", "format": "plain" });
    let (status, problem) = send(&stack, Method::PUT, "/v1/templates/digest", text).await;
    assert_eq!(
        (status, &problem["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("text"))
    );
    let text = json!({ "text": "Hello" });
    assert_eq!(
        send(&stack, Method::PUT, "/v1/templates/digest", text).await.1["text"],
        "Hello"
    );
    assert_eq!(stack.get("/v1/templates").await["items"][0]["name"], "digest");
    let gone = send(&stack, Method::DELETE, "/v1/templates/digest", Value::Null).await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
    let again = stack.request(Method::GET, "/v1/templates/digest").send().await;
    assert_eq!(again.expect("answered").status(), StatusCode::NOT_FOUND);
    stack.finish().await;
}
