//! Jobs over HTTP: what is taken, what is refused and how, what is shown.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::TimeDelta;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use wireroom_jobs::ports::Clock as _;

use crate::{
    api::testing::{TestApi, send},
    ids::{JobId, SessionId},
};

fn join() -> Value {
    json!({ "kind": "join", "args": { "chat": "@reading_club" } })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = join();
    body[field] = value;
    body
}

fn id_of(job: &Value) -> JobId {
    job["id"].as_str().expect("an id").parse().expect("a UUID")
}

async fn wait_for_job(api: &TestApi) -> JobId {
    let found = async {
        loop {
            let id: Option<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM jobs LIMIT 1")
                .fetch_optional(api.pool())
                .await
                .expect("a look");
            if let Some(id) = id {
                return JobId(id);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .expect("the job is stored in time")
}

#[tokio::test]
async fn a_job_is_stored_and_shown() {
    let api = TestApi::new().await;
    let mut body = join();
    body["priority"] = json!(5);
    body["tags"] = json!(["launch", "a:b", "launch"]);
    body["max_attempts"] = json!(3);
    let answer = api.post_job(&body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    let job = answer.json();
    let id = id_of(&job);
    assert_eq!(answer.header("location"), format!("/v1/jobs/{id}"));
    assert_eq!(answer.header("preference-applied"), "");
    assert_eq!(job["state"], "queued");
    assert_eq!(job["kind"], "join");
    assert_eq!(job["args"], json!({ "chat": "@reading_club" }));
    assert_eq!(job["pool"], "default");
    assert_eq!(job["priority"], 5);
    assert_eq!(job["tags"], json!(["launch", "a:b"]));
    assert_eq!(job["max_attempts"], 3);
    assert_eq!(job["wait_reason"]["code"], "pool_empty");
    for absent in [
        "session",
        "started_at",
        "finished_at",
        "worker",
        "progress",
        "result",
        "error",
        "deadline",
    ] {
        assert_eq!(job.get(absent), Some(&Value::Null), "{absent}");
    }
    assert_eq!(api.signals.enqueued.load(Ordering::SeqCst), 1);
    assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.json(), job);

    let (actor, subject): (String, String) =
        sqlx::query_as("SELECT actor, subject FROM audit_log WHERE action = 'job.created'")
            .fetch_one(api.pool())
            .await
            .expect("an audit row");
    assert_eq!(subject, format!("job:{id}"));
    assert_eq!(job["created_by"], actor);
}

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

#[tokio::test]
async fn a_waiting_job_says_what_it_waits_for() {
    let api = TestApi::new().await;
    let id = id_of(&api.post_job(&join()).await.json());
    let job = format!("/v1/jobs/{id}");
    let reason = async || api.get(&job).await.json()["wait_reason"]["code"].clone();
    assert_eq!(reason().await, "pool_empty");
    let session = api.session("Anna", "disabled").await;
    assert_eq!(reason().await, "no_ready_session");
    api.execute("UPDATE sessions SET state = 'ready'").await;
    assert_eq!(reason().await, "no_worker");
    api.execute(
        "INSERT INTO session_leases (session_id, owner, fence, expires_at)
         SELECT id, gen_random_uuid(), 1, wireroom_now() + interval '1 minute' FROM sessions",
    )
    .await;
    assert_eq!(reason().await, Value::Null);
    assert_eq!(api.get(&format!("{job}/why")).await.json()["reason"]["code"], "queued");
    api.execute(
        "INSERT INTO gates (session_id, action, reason, opens_at)
         SELECT id, 'join', 'FLOOD_WAIT', wireroom_now() + interval '1 hour' FROM sessions",
    )
    .await;
    assert_eq!(reason().await, "gate_closed");
    let why = api.get(&format!("{job}/why")).await.json();
    assert!(why["reason"]["until"].is_string(), "{why}");
    assert_eq!(
        why["sessions"],
        json!({ "total": 1, "ready": 1, "held": 1, "open": 0, "opens_at": why["reason"]["until"] })
    );
    assert_eq!(
        api.get("/v1/jobs").await.json()["items"][0]["wait_reason"]["code"],
        "gate_closed"
    );
    let shown = api.get(&format!("/v1/sessions/{session}")).await.json();
    assert_eq!(shown["gates"][0]["action"], "join");
    assert_eq!(shown["gates"][0]["chat_id"], Value::Null);
}

#[tokio::test]
async fn a_wait_ends_with_the_finished_job() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=30")
        .body_json(&join());
    let worker = async {
        let id = wait_for_job(&api).await;
        api.finish(id).await;
        // Nobody announces: polling finds it.
        id
    };
    let (answer, id) = tokio::join!(send(request), worker);
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.header("preference-applied"), "wait=30");
    assert_eq!(answer.header("location"), format!("/v1/jobs/{id}"));
    let job = answer.json();
    assert_eq!(job["state"], "succeeded");
    assert_eq!(job["result"], json!({ "status": "joined" }));
}

#[tokio::test]
async fn a_wait_that_ends_first_gives_the_job_as_it_is() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=1")
        .body_json(&join());
    let answer = send(request).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header("preference-applied"), "wait=1");
    assert_eq!(answer.json()["state"], "queued");
    let wrong = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=soon")
        .body_json(&join());
    assert_eq!(send(wrong).await.problem("invalid_parameter")["field"], "Prefer");
}

#[tokio::test]
async fn waiters_are_bounded_and_whoever_is_refused_leaves_no_job() {
    let api = TestApi::with(|config| config.api.max_waiters = 1).await;
    let waits = || {
        api.request(Method::POST, "/v1/jobs")
            .header("Prefer", "wait=30")
            .body_json(&join())
    };
    let others = async {
        let id = wait_for_job(&api).await;
        let refused = send(waits()).await;
        refused.problem("too_many_waiters");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(api.count("jobs").await, 1);
        api.finish(id).await;
    };
    let (first, ()) = tokio::join!(send(waits()), others);
    assert_eq!(first.status, StatusCode::OK);
}

#[tokio::test]
async fn waiters_hold_no_connection() {
    let api = TestApi::new().await;
    let waits: Vec<_> = (0..40)
        .map(|_| {
            send(
                api.request(Method::POST, "/v1/jobs")
                    .header("Prefer", "wait=30")
                    .body_json(&join()),
            )
        })
        .collect();
    let worker = async {
        // More than the pool has connections: none of them is held while they wait.
        let stored = async {
            while api.count("jobs").await < 40 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stored)
            .await
            .expect("all are stored");
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM jobs")
            .fetch_all(api.pool())
            .await
            .expect("ids");
        for id in ids {
            api.finish(JobId(id)).await;
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(waits), worker);
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
}

#[tokio::test]
async fn a_page_is_stable_while_jobs_come_in() {
    let api = TestApi::new().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(id_of(&api.post_job(&join()).await.json()));
    }
    api.finish(made[2]).await;
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=3".to_owned();
    loop {
        let page = api.get(&path).await.json();
        seen.extend(page["items"].as_array().expect("items").iter().map(id_of));
        api.post_job(&join()).await;
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/v1/jobs?limit=3&cursor={cursor}");
    }
    made.reverse();
    assert_eq!(seen, made);
}

#[tokio::test]
async fn lists_are_filtered_and_leave_the_text_of_messages_out() {
    let api = TestApi::new().await;
    let session = api.session("Anna", "ready").await;
    let mut publish = json!({
        "kind": "publish", "args": { "chat": "@reading_club", "text": "the parcel" }, "session": "Anna", "tags": ["t"],
    });
    let published = id_of(&api.post_job(&publish).await.json());
    let joined = id_of(&api.post_job(&join()).await.json());
    api.finish(joined).await;

    let list = async |query: String| {
        let answer = api.get(&format!("/v1/jobs{query}")).await;
        assert!(!answer.text.contains("the parcel"));
        let items = answer.json()["items"].clone();
        items.as_array().expect("items").iter().map(id_of).collect::<Vec<_>>()
    };
    assert_eq!(list(String::new()).await, [joined, published]);
    for (query, expected) in [
        ("?kind=publish".to_owned(), Some(published)),
        ("?kind=scan".to_owned(), None),
        ("?state=succeeded".to_owned(), Some(joined)),
        ("?state=queued".to_owned(), Some(published)),
        (format!("?session={session}"), Some(published)),
        ("?tag=t".to_owned(), Some(published)),
        ("?tag=u".to_owned(), None),
        ("?pool=other".to_owned(), None),
        ("?since=2999-01-01T00:00:00Z".to_owned(), None),
        ("?until=2001-01-01T00:00:00Z".to_owned(), None),
        ("?kind=join&until=2999-01-01T00:00:00%2B02:00".to_owned(), Some(joined)),
    ] {
        assert_eq!(list(query.clone()).await, Vec::from_iter(expected), "{query}");
    }
    publish["args"]["text"] = json!("the parcel");
    let whole = api.get(&format!("/v1/jobs/{published}")).await.json();
    assert_eq!(whole["args"]["text"], "the parcel");
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked() {
    let api = TestApi::new().await;
    let cancel = async |id: JobId| send(api.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await;
    let waiting = id_of(&api.post_job(&join()).await.json());
    let answer = cancel(waiting).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["state"], "cancelled");
    assert_eq!(
        cancel(waiting).await.status,
        StatusCode::OK,
        "once more changes nothing"
    );

    let running = id_of(&api.post_job(&join()).await.json());
    api.execute("UPDATE jobs SET state = 'running'").await;
    let answer = cancel(running).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert!(answer.json()["cancel_requested_at"].is_string());
    assert_eq!(*api.signals.cancelled.lock().expect("the list"), [running]);
    assert_eq!(
        api.get(&format!("/v1/jobs/{running}/why")).await.json()["reason"]["code"],
        "cancelling"
    );

    let ended = id_of(&api.post_job(&join()).await.json());
    api.finish(ended).await;
    cancel(ended).await.problem("job_finished");
    cancel(JobId::generate()).await.problem("job_not_found");
    let audited: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE action = 'job.cancelled'")
        .fetch_one(api.pool())
        .await
        .expect("a count");
    assert_eq!(audited, 2);
}

#[tokio::test]
async fn who_waits_for_a_job_hears_that_it_was_cancelled() {
    let api = TestApi::new().await;
    let request = api
        .request(Method::POST, "/v1/jobs")
        .header("Prefer", "wait=30")
        .body_json(&join());
    let canceller = async {
        let id = wait_for_job(&api).await;
        send(api.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await
    };
    let (answer, cancelled) = tokio::join!(send(request), canceller);
    assert_eq!(cancelled.status, StatusCode::OK);
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["state"], "cancelled");
}
