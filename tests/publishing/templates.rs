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

#[tokio::test(flavor = "multi_thread")]
async fn each_chat_has_its_own_text_and_all_are_checked_at_the_door() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    add_stalls(&stack, 3, "judy");
    let template = json!({ "name": "digest", "text": "**{{name}}**: {{day}}", "format": "markdown" });
    send(&stack, Method::POST, "/v1/templates", template).await;
    let with = |second: Value| {
        json!({ "template": "digest", "variables": { "day": "Friday" }, "targets": [
            { "chat": "@stall1", "variables": { "name": "O*n*e" } },
            { "chat": "@stall2", "variables": second },
        ] })
    };
    for (second, word) in [(json!({}), "name"), (json!({ "name": "Two", "hour": "six" }), "hour")] {
        let problem = refused(&stack, with(second)).await;
        assert_eq!(problem["field"], "args.targets[1].variables", "{problem}");
        assert!(problem["detail"].as_str().expect("words").contains(word), "{problem}");
    }
    let args = with(json!({ "name": "Two", "day": "Sunday" }));
    stack.fault(Fault::once("messages.sendMessage", Effect::DropAfter));
    let id = stack.post("publish", args).await;
    let job = stack.finished(&id).await;
    assert_eq!(job["result"]["counts"], json!({ "sent": 2 }), "{job}");
    assert_eq!(stack.count_messages("stall1", "O*n*e: Friday"), 1);
    assert_eq!(stack.count_messages("stall2", "Two: Sunday"), 1);
    let listed = stack.get("/v1/jobs").await.to_string();
    assert!(!listed.contains("Sunday") && !listed.contains("Friday"), "{listed}");
    let inline = json!({ "text": "See {{what}}", "targets": [{ "chat": "@stall3", "variables": { "what": "this" } }] });
    stack.succeed("publish", inline).await;
    assert_eq!(stack.count_messages("stall3", "See this"), 1);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_filled_in_when_it_is_stored() {
    let stack = judy().await;
    let _worker = stack.worker().await;
    let template = json!({ "name": "digest", "text": "Good morning, {{name}}" });
    send(&stack, Method::POST, "/v1/templates", template).await;
    let schedule = |variables: Value| {
        let args = in_market(json!({ "template": "digest", "variables": variables }));
        json!({ "name": "mornings", "cron": "0 9 * * *", "job": { "kind": "publish", "args": args } })
    };
    let (status, problem) = send(&stack, Method::POST, "/v1/schedules", schedule(json!({}))).await;
    assert_eq!(
        (status, &problem["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("job.args.variables")),
        "{problem}"
    );
    let (status, made) = send(
        &stack,
        Method::POST,
        "/v1/schedules",
        schedule(json!({ "name": "Ada" })),
    )
    .await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(made["job"]["args"]["text"], "Good morning, Ada", "{made}");
    assert_eq!(made["job"]["args"]["template"], Value::Null, "{made}");
    let id = made["id"].as_str().expect("an id");
    let text = json!({ "text": "Good evening, {{name}}" });
    send(&stack, Method::PUT, "/v1/templates/digest", text).await;
    let (status, run) = send(&stack, Method::POST, &format!("/v1/schedules/{id}/run"), json!({})).await;
    assert!(status.is_success(), "{run}");
    eventually(Duration::from_mins(1), async || {
        match stack.count_messages("harbour_market", "Good morning, Ada") {
            1 => Ok(()),
            _ => Err("not sent yet"),
        }
    })
    .await;
    let args = in_market(json!({ "template": "digest", "variables": { "name": "Bo" } }));
    let patch = json!({ "job": { "args": args } });
    let (status, changed) = send(&stack, Method::PATCH, &format!("/v1/schedules/{id}"), patch).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["job"]["args"]["text"], "Good evening, Bo", "{changed}");
    stack.finish().await;
}
