use chrono::TimeDelta;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom_jobs::ports::Clock as _;

use super::{join, with};
use crate::{
    api::testing::{TestApi, send},
    ids::SessionId,
};

#[tokio::test]
async fn a_body_that_cannot_be_read_says_where() {
    let api = TestApi::new().await;
    let publish = |args: Value| json!({ "kind": "publish", "args": args });
    let cases: Vec<(Value, &str, &str, &str)> = vec![
        (json!([]), "wrong_type", "", "object"),
        (json!("join"), "wrong_type", "", "object"),
        (json!(null), "wrong_type", "", "object"),
        (json!({}), "missing_field", "kind", "missing"),
        (json!({ "kind": "join" }), "missing_field", "args", "missing"),
        (
            json!({ "kind": "join", "args": {} }),
            "missing_field",
            "args.chat",
            "missing",
        ),
        (json!({ "kind": "join", "args": null }), "wrong_type", "args", "object"),
        (
            json!({ "kind": "join", "args": ["@reading_club"] }),
            "wrong_type",
            "args",
            "object",
        ),
        (
            json!({ "kind": "join", "args": { "chatt": "@x" } }),
            "unknown_field",
            "args.chatt",
            "known are chat",
        ),
        (
            json!({ "kind": "join", "args": { "chat": 7 } }),
            "wrong_type",
            "args.chat",
            "must be a string, not an integer",
        ),
        (
            json!({ "kind": "join", "args": { "chat": "" } }),
            "invalid_value",
            "args.chat",
            "chat",
        ),
        (
            json!({ "kind": "walk", "args": {} }),
            "unknown_kind",
            "kind",
            "join, scan, publish",
        ),
        (json!({ "kind": 1, "args": {} }), "wrong_type", "kind", "a string"),
        (with("prio", json!(1)), "unknown_field", "prio", "priority"),
        (
            with("priority", json!("high")),
            "wrong_type",
            "priority",
            "an integer, not a string",
        ),
        (with("priority", json!(1.5)), "wrong_type", "priority", "an integer"),
        (with("priority", json!(101)), "invalid_value", "priority", "-100 to 100"),
        (
            with("priority", json!(u64::MAX)),
            "invalid_value",
            "priority",
            "an integer",
        ),
        (
            with("max_attempts", json!(0)),
            "invalid_value",
            "max_attempts",
            "1 to 100",
        ),
        (
            with("max_attempts", json!(101)),
            "invalid_value",
            "max_attempts",
            "1 to 100",
        ),
        (with("run_at", json!("tomorrow")), "invalid_value", "run_at", "RFC 3339"),
        (
            with("run_at", json!("2999-01-01T00:00:00Z")),
            "invalid_value",
            "run_at",
            "366 days",
        ),
        (
            with("run_at", json!("2030-01-01T00:00:00")),
            "invalid_value",
            "run_at",
            "offset",
        ),
        (
            with("deadline", json!("2001-01-01T00:00:00Z")),
            "invalid_value",
            "deadline",
            "in the future",
        ),
        (with("tags", json!("a")), "wrong_type", "tags", "an array"),
        (with("tags", json!(["ok", "Not"])), "invalid_value", "tags[1]", "a-z"),
        (with("tags", json!(["ok", 1])), "wrong_type", "tags[1]", "a string"),
        (
            with("tags", json!(vec!["a"; 21])),
            "invalid_value",
            "tags",
            "at most 20",
        ),
        (with("tags", json!(["x".repeat(65)])), "invalid_value", "tags[0]", "64"),
        (with("pool", json!("nowhere")), "unknown_pool", "pool", "pool"),
        (with("pool", json!("")), "invalid_value", "pool", "name"),
        (with("pool", json!(1)), "wrong_type", "pool", "a string"),
        (
            with("session", json!("nobody")),
            "unknown_session",
            "session",
            "session",
        ),
        (
            with("session", json!(SessionId::generate())),
            "unknown_session",
            "session",
            "session",
        ),
        (
            publish(json!({ "chat": "@x", "text": 5 })),
            "wrong_type",
            "args.text",
            "a string",
        ),
        (
            publish(json!({ "chat": "@reading_club", "text": "x", "format": "rtf" })),
            "invalid_value",
            "args.format",
            "plain, markdown, html",
        ),
        (
            publish(json!({ "chat": "@reading_club", "text": "" })),
            "invalid_value",
            "args.text",
            "text",
        ),
        (
            publish(json!({ "chat": "@reading_club", "text": "a\u{0}b" })),
            "invalid_value",
            "args.text",
            "NUL",
        ),
        (with("tags", json!(["a", "\u{0}"])), "invalid_value", "tags[1]", "NUL"),
        (
            publish(json!({ "chat": "@reading_club", "text": "x".repeat(4097) })),
            "invalid_value",
            "args.text",
            "text",
        ),
    ];
    for (body, code, field, says) in cases {
        let answer = api.post_job(&body).await;
        let problem = answer.problem(code);
        assert_eq!(
            problem["field"].as_str().unwrap_or_default(),
            field,
            "{body}: {problem}"
        );
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(says), "{body}: {detail}");
    }
    assert_eq!(api.count("jobs").await, 0);
    assert_eq!(api.count("audit_log").await, 1, "of the key alone");
}

#[tokio::test]
async fn a_deadline_comes_after_run_at() {
    let api = TestApi::new().await;
    let at = |hours| (api.clock.now() + TimeDelta::hours(hours)).to_rfc3339();
    let mut body = with("run_at", json!(at(2)));
    body["deadline"] = json!(at(1));
    assert_eq!(api.post_job(&body).await.problem("invalid_value")["field"], "deadline");
    body["deadline"] = json!(at(3));
    let job = api.post_job(&body).await.json();
    assert_eq!(job["state"], "scheduled");
    assert_eq!(job["wait_reason"]["code"], "scheduled");
    assert_eq!(job["wait_reason"]["until"], job["run_at"]);
}

#[tokio::test]
async fn what_is_not_json_is_refused_before_it_is_looked_at() {
    let api = TestApi::new().await;
    let post = || api.request(Method::POST, "/v1/jobs");
    for broken in [
        "",
        "{",
        "{\"kind\": \"join\"",
        "kind=join",
        "{\"a\":1}x",
        "\u{0}",
        &"[".repeat(10_000),
    ] {
        let request = post().content_type("application/json").body(broken.to_owned());
        let problem = send(request).await.problem("invalid_json");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("line 1"))
        );
    }
    let not_utf8 = post().content_type("application/json").body(vec![b'"', 0xff, b'"']);
    send(not_utf8).await.problem("invalid_json");
    let text = post().content_type("text/plain").body(join().to_string());
    send(text).await.problem("unsupported_media_type");
    let untyped = post().body(join().to_string());
    send(untyped).await.problem("unsupported_media_type");

    let padding = " ".repeat(1024 * 1024 - join().to_string().len());
    let fits = post()
        .content_type("application/json")
        .body(format!("{}{padding}", join()));
    assert_eq!(send(fits).await.status, StatusCode::ACCEPTED);
    let large = post()
        .content_type("application/json")
        .body(format!("{} {padding}", join()));
    send(large).await.problem("body_too_large");
    assert_eq!(api.count("jobs").await, 1);
}

#[tokio::test]
async fn an_error_never_repeats_the_text_of_a_message() {
    let api = TestApi::new().await;
    let secret = "the-parcel-is-under-the-bridge";
    for args in [
        json!({ "chat": "@reading_club", "text": { "body": secret } }),
        json!({ "chat": "@reading_club", "text": "x", "silent": secret }),
        json!({ "chat": "@reading_club", "text": "x", "format": secret }),
        json!({ "chat": "@reading_club", "text": [secret] }),
    ] {
        let answer = api.post_job(&json!({ "kind": "publish", "args": args })).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(!answer.text.contains(secret), "{}", answer.text);
    }
    let broken = format!("{{\"kind\":\"publish\",\"args\":{{\"text\":\"{secret}\" oops");
    let request = api
        .request(Method::POST, "/v1/jobs")
        .content_type("application/json")
        .body(broken);
    assert!(!send(request).await.text.contains(secret));
}

#[tokio::test]
async fn an_idempotency_key_is_not_silently_ignored() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Idempotency-Key", "1")
        .body_json(&join());
    send(request).await.problem("idempotency_not_supported");
    assert_eq!(api.count("jobs").await, 0);
}

#[tokio::test]
async fn a_session_is_named_by_id_or_label_and_must_be_usable() {
    let api = TestApi::new().await;
    let ready = api.session("Anna", "ready").await;
    for name in [json!("Anna"), json!(ready)] {
        let job = api.post_job(&with("session", name)).await.json();
        assert_eq!(job["session"], json!(ready));
        assert_eq!(job["pool"], "default");
        assert_eq!(job["wait_reason"]["code"], "no_worker");
    }
    for state in ["logged_out", "banned", "disabled", "code_needed", "quarantined"] {
        api.session(state, state).await;
        let problem = api
            .post_job(&with("session", json!(state)))
            .await
            .problem("session_not_ready");
        assert_eq!(problem["field"], "session");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(
            detail.contains(state) && detail.contains("as the test says"),
            "{detail}"
        );
    }
    api.execute("INSERT INTO pools (name) VALUES ('other')").await;
    let mut elsewhere = with("session", json!("Anna"));
    elsewhere["pool"] = json!("other");
    let problem = api.post_job(&elsewhere).await.problem("session_not_in_pool");
    assert_eq!(problem["field"], "pool");
}
