//! The API side of logins, without a worker: who may ask, what is stored, and what is refused at once.

use std::sync::atomic::Ordering;

use poem::http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    ids::ErrandId,
    letterbox::Opener,
    store::{
        api_keys::Scope,
        errands::{self, Step},
    },
};

/// An API with an admin's key, on a database that a worker has started on.
async fn api_with_slot() -> (TestApi, String, Opener) {
    let api = TestApi::new().await;
    let opener = Opener::generate().unwrap();
    sqlx::query("INSERT INTO vault_keys (id, check_sealed, slot, sealing_at) VALUES ('k1', '', $1, wireroom_now())")
        .bind(opener.slot().as_bytes().as_slice())
        .execute(api.pool())
        .await
        .unwrap();
    let admin = api.key(Scope::Admin).await;
    (api, admin, opener)
}

/// Asks and waits for nobody.
async fn ask(api: &TestApi, key: &str, method: Method, path: &str, body: &Value) -> Answer {
    let request = api
        .bare(method, path)
        .header("Authorization", format!("Bearer {key}"))
        .header("Prefer", "wait=0")
        .body_json(body);
    send(request).await
}

#[tokio::test]
async fn only_an_admin_may_log_in() {
    let api = TestApi::new().await;
    let operator = api.key(Scope::Operator).await;
    let id = api.session("alpha", "ready").await;
    let of = |rest: &str| format!("/v1/sessions/{id}{rest}");
    for (method, path, body) in [
        (
            Method::POST,
            "/v1/sessions".to_owned(),
            json!({ "label": "x", "phone": "+9996620001" }),
        ),
        (Method::POST, "/v1/sessions/qr".to_owned(), json!({ "label": "x" })),
        (
            Method::POST,
            "/v1/sessions/import".to_owned(),
            json!({ "label": "x", "session": "x" }),
        ),
        (Method::GET, of("/login"), json!({})),
        (Method::GET, of("/login/events"), json!({})),
        (Method::DELETE, of("/login"), json!({})),
        (Method::POST, of("/code"), json!({ "code": "1" })),
        (Method::POST, of("/password"), json!({ "password": "1" })),
        (Method::POST, of("/resend"), json!({})),
        (Method::POST, of("/enable"), json!({ "stopped_elsewhere": true })),
        (Method::POST, of("/export"), json!({ "format": "telethon" })),
        (Method::POST, of("/log-out"), json!({})),
        (Method::DELETE, of(""), json!({})),
        (
            Method::POST,
            "/v1/applications".to_owned(),
            json!({ "label": "x", "api_id": 1, "api_hash": "0".repeat(32) }),
        ),
        (Method::DELETE, format!("/v1/applications/{id}"), json!({})),
    ] {
        ask(&api, &operator, method, &path, &body).await.problem("forbidden");
    }
    assert_eq!(api.count("errands").await, 0);
    assert_eq!(api.signals.errands_asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_a_worker_that_ever_started_nothing_is_stored() {
    let api = TestApi::new().await;
    let admin = api.key(Scope::Admin).await;
    let body = json!({ "label": "x", "phone": "+9996620001" });
    let refused = ask(&api, &admin, Method::POST, "/v1/sessions", &body).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    refused.problem("no_worker");
    assert_eq!(api.count("sessions").await, 0);
}

#[tokio::test]
async fn what_is_asked_is_sealed_for_a_worker_and_one_thing_at_a_time() {
    let (api, admin, opener) = api_with_slot().await;
    let body = json!({ "label": "x", "phone": "+999 66 2 0001" });
    let pending = ask(&api, &admin, Method::POST, "/v1/sessions", &body).await;
    assert_eq!(pending.status, StatusCode::GATEWAY_TIMEOUT);
    let session = pending.problem("login_pending")["session"].as_str().unwrap().to_owned();
    assert_eq!(pending.header("location"), format!("/v1/sessions/{session}/login"));
    assert_eq!(api.signals.errands_asked.load(Ordering::SeqCst), 1);
    let (id, letter): (Uuid, Vec<u8>) = sqlx::query_as("SELECT id, input_sealed FROM errands")
        .fetch_one(api.pool())
        .await
        .unwrap();
    let opened = opener.open(&errands::input_owner(ErrandId(id), Step::Start), &letter);
    assert_eq!(opened.unwrap().as_slice(), b"+9996620001");

    let of = |rest: &str| format!("/v1/sessions/{session}{rest}");
    for (method, path, body) in [
        (Method::POST, "/v1/sessions".to_owned(), body),
        (Method::POST, "/v1/sessions/qr".to_owned(), json!({ "label": "x" })),
        (Method::POST, of("/code"), json!({ "code": "1" })),
        (Method::DELETE, of(""), json!({})),
    ] {
        ask(&api, &admin, method, &path, &body)
            .await
            .problem("login_in_progress");
    }
    let given_up = ask(&api, &admin, Method::DELETE, &of("/login"), &json!({})).await;
    assert_eq!(given_up.json()["problem"], "login_cancelled");
    assert_eq!(api.count("errands WHERE input_sealed IS NOT NULL").await, 0, "erased");
    assert_eq!(api.count("audit_log WHERE action LIKE 'session.login_%'").await, 2);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let (api, admin, _) = api_with_slot().await;
    let ready = api.session("alpha", "ready").await;
    let nobody = Uuid::now_v7();
    let enable = json!({ "stopped_elsewhere": true });
    for (path, body, code) in [
        (
            format!("/v1/sessions/{ready}/enable"),
            enable.clone(),
            "session_state_conflict",
        ),
        (
            format!("/v1/sessions/{ready}/enable"),
            json!({ "stopped_elsewhere": false }),
            "confirmation_needed",
        ),
        (
            format!("/v1/sessions/{ready}/export"),
            json!({ "format": "telethon" }),
            "session_state_conflict",
        ),
        (
            format!("/v1/sessions/{ready}/export"),
            json!({ "format": "pdf" }),
            "invalid_value",
        ),
        (
            format!("/v1/sessions/{ready}/log-out"),
            json!({}),
            "session_state_conflict",
        ),
        (
            format!("/v1/sessions/{ready}/code"),
            json!({ "code": "1" }),
            "login_not_found",
        ),
        (
            format!("/v1/sessions/{ready}/code"),
            json!({ "code": " - " }),
            "invalid_value",
        ),
        (
            format!("/v1/sessions/{nobody}/code"),
            json!({ "code": "1" }),
            "session_not_found",
        ),
        (format!("/v1/sessions/{nobody}/enable"), enable, "session_not_found"),
        (
            "/v1/sessions/x/code".to_owned(),
            json!({ "code": "1" }),
            "invalid_parameter",
        ),
        (
            "/v1/sessions".to_owned(),
            json!({ "label": "alpha", "phone": "+9996620001" }),
            "session_exists",
        ),
        (
            "/v1/sessions".to_owned(),
            json!({ "label": "b", "phone": "+9996620001", "bot_token": "1:abcdef" }),
            "missing_field",
        ),
        (
            "/v1/sessions/qr".to_owned(),
            json!({ "label": "b", "proxy": {} }),
            "wrong_type",
        ),
        (
            "/v1/sessions/qr".to_owned(),
            json!({ "label": "b", "proxy": "proxy.example.com:1080" }),
            "invalid_value",
        ),
        (
            "/v1/sessions/qr".to_owned(),
            json!({ "label": ready.to_string() }),
            "invalid_value",
        ),
        (
            "/v1/sessions/import".to_owned(),
            json!({ "label": "b", "session": "text" }),
            "session_format_unknown",
        ),
    ] {
        ask(&api, &admin, Method::POST, &path, &body).await.problem(code);
    }
    let path = format!("/v1/sessions/{ready}?log_out=perhaps");
    ask(&api, &admin, Method::DELETE, &path, &json!({}))
        .await
        .problem("invalid_parameter");
    assert_eq!(api.count("errands").await, 0);
}
