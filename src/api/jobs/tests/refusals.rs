use chrono::TimeDelta;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom_jobs::ports::Clock as _;

use super::{join, with};
use crate::{
    api::tests::bed::{TestApi, send},
    ids::SessionId,
};

/// A body, and of its problem: the code, the field, and words of the detail.
type Case = (Value, &'static str, &'static str, &'static str);

async fn check(cases: Vec<Case>) {
    let api = TestApi::new().await;
    for (body, code, field, says) in cases {
        let problem = api.post_job(&body).await.problem(code);
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
async fn a_body_of_the_wrong_shape_is_refused() {
    let kind = |kind: Value| json!({ "kind": kind, "args": {} });
    check(vec![
        (json!([]), "wrong_type", "", "object"),
        (json!("join"), "wrong_type", "", "object"),
        (json!(null), "wrong_type", "", "object"),
        (json!({}), "missing_field", "kind", "missing"),
        (json!({ "kind": "join" }), "missing_field", "args", "missing"),
        (kind(json!("walk")), "unknown_kind", "kind", "join, scan, publish"),
        (kind(json!(1)), "wrong_type", "kind", "one of invite, join"),
        (with("prio", json!(1)), "unknown_field", "prio", "priority"),
        (with("args", json!(null)), "wrong_type", "args", "object"),
        (with("args", json!(["@reading_club"])), "wrong_type", "args", "object"),
    ])
    .await;
}

#[tokio::test]
async fn args_are_refused_by_the_path_of_the_field() {
    let join = |args: Value| with("args", args);
    let publish = |field: &str, value: Value| {
        let mut args = json!({ "chat": "@reading_club", "text": "x" });
        args[field] = value;
        json!({ "kind": "publish", "args": args })
    };
    let scan = |field: &str, value: Value| {
        let mut args = json!({ "chat": "@reading_club", "purpose": "research" });
        args[field] = value;
        json!({ "kind": "scan", "args": args })
    };
    let (wrong, invalid) = ("wrong_type", "invalid_value");
    check(vec![
        (join(json!({})), "missing_field", "args.chat", "missing"),
        (
            join(json!({ "chatt": "@x" })),
            "unknown_field",
            "args.chatt",
            "known are chat",
        ),
        (
            join(json!({ "chat": 7 })),
            wrong,
            "args.chat",
            "must be a string of 1 to 256 characters, or null, not an integer",
        ),
        (join(json!({ "chat": "" })), invalid, "args.chat", "chat"),
        (join(json!({ "chat": "no name" })), invalid, "args.chat", "chat"),
        (publish("text", json!(5)), wrong, "args.text", "a string"),
        (publish("text", json!("")), invalid, "args.text", "text"),
        (publish("text", json!("a\u{0}b")), invalid, "args.text", "NUL"),
        (publish("text", json!("x".repeat(4097))), invalid, "args.text", "text"),
        (
            publish("format", json!("rtf")),
            invalid,
            "args.format",
            "plain, markdown, html",
        ),
        (publish("silent", json!("yes")), wrong, "args.silent", "a boolean"),
        (scan("purpose", json!("")), invalid, "args.purpose", "purpose"),
        (
            scan("retention_days", json!(0)),
            invalid,
            "args.retention_days",
            "retention_days",
        ),
        (
            scan("retention_days", json!(1e3)),
            wrong,
            "args.retention_days",
            "an integer",
        ),
        (scan("limit", json!(0)), invalid, "args.limit", "limit"),
        (
            json!({ "kind": "scan", "args": { "chat": "@reading_club" } }),
            "missing_field",
            "args.purpose",
            "say in at most 200 characters why these data about people are collected",
        ),
        (
            json!({ "kind": "scan", "args": {
                "what": "history", "chat": "@reading_club", "purpose": "research", "history": { "from": "yesterday" } } }),
            invalid,
            "args.history.from",
            "RFC 3339), such as 2030-01-31T12:00:00Z",
        ),
        (
            publish("schedule_at", json!("tomorrow")),
            invalid,
            "args.schedule_at",
            "RFC 3339), such as 2030-01-31T12:00:00Z",
        ),
        (publish("schedule_at", json!("2030-01-31")), invalid, "args.schedule_at", "RFC 3339"),
        (
            publish("media", json!([{ "type": "photo", "file": "tide.png" }])),
            invalid,
            "args.media[0].file",
            "as POST /v1/files answered it",
        ),
        (
            publish("media", json!([{ "type": "photo", "file": 7 }])),
            wrong,
            "args.media[0].file",
            "as POST /v1/files answered it",
        ),
    ])
    .await;
}

#[tokio::test]
async fn options_out_of_bounds_are_refused() {
    let (wrong, invalid) = ("wrong_type", "invalid_value");
    let option = |field: &'static str, value: Value, code, says| (with(field, value), code, field, says);
    check(vec![
        option(
            "priority",
            json!("high"),
            wrong,
            "an integer from -100 to 100, or null, not a string",
        ),
        option("priority", json!(1.5), wrong, "an integer"),
        option("priority", json!(101), invalid, "-100 to 100"),
        option("priority", json!(u64::MAX), invalid, "an integer"),
        option("max_attempts", json!(0), invalid, "1 to 100"),
        option("max_attempts", json!(101), invalid, "1 to 100"),
        option("run_at", json!("tomorrow"), invalid, "RFC 3339"),
        option("run_at", json!("2999-01-01T00:00:00Z"), invalid, "366 days"),
        option("run_at", json!("2030-01-01T00:00:00"), invalid, "offset"),
        option("deadline", json!("2001-01-01T00:00:00Z"), invalid, "in the future"),
        option("tags", json!("a"), wrong, "an array"),
        option("tags", json!(vec!["a"; 21]), invalid, "at most 20"),
        (with("tags", json!(["ok", 1])), wrong, "tags[1]", "a string"),
        (with("tags", json!(["ok", "Not"])), invalid, "tags[1]", "a-z"),
        (with("tags", json!(["x".repeat(65)])), invalid, "tags[0]", "64"),
        (with("tags", json!(["a", "\u{0}"])), invalid, "tags[1]", "NUL"),
        option("pool", json!("nowhere"), "unknown_pool", "pool"),
        option("pool", json!(""), invalid, "name"),
        option("pool", json!(1), wrong, "a string"),
        option("session", json!("nobody"), "unknown_session", "session"),
        option("session", json!(SessionId::generate()), "unknown_session", "session"),
    ])
    .await;
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
