//! Campaigns as the API keeps them, without a worker.

mod change;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    config::Secret,
};

async fn api() -> TestApi {
    TestApi::with(|config| config.outreach.person_key = Some(Secret::new(STANDARD.encode([7; 32])))).await
}

async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, path).body_json(body)).await
}

fn new() -> Value {
    json!({ "name": "Spring readers", "chat": "@reading_club", "text": "You asked for it: {link}" })
}

async fn made(api: &TestApi) -> String {
    let made = post(api, "/v1/campaigns", &new()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    format!("/v1/campaigns/{}", made.json()["id"].as_str().expect("an id"))
}

async fn list(api: &TestApi, campaign: &str, people: Value) -> Value {
    post(api, &format!("{campaign}/people"), &json!({ "items": people }))
        .await
        .json()
}

#[tokio::test]
async fn a_campaign_is_made_paused_and_without_its_text_in_sight() {
    let api = api().await;
    let path = made(&api).await;
    let campaign = api.get(&path).await;
    assert!(!campaign.text.contains("asked for it"), "{}", campaign.text);
    let campaign = campaign.json();
    assert_eq!(
        (
            &campaign["state"],
            &campaign["code"],
            &campaign["mode"],
            &campaign["per_day"]
        ),
        (&json!("paused"), &json!("new"), &json!("message"), &json!(20))
    );
    assert_eq!(
        api.count("campaigns WHERE text = 'You asked for it: https://t.me/reading_club'")
            .await,
        1
    );
    post(&api, "/v1/campaigns", &new()).await.problem("campaign_exists");
    assert_eq!(
        api.get("/v1/campaigns").await.json()["items"].as_array().map(Vec::len),
        Some(1)
    );
    let unknown = format!("/v1/campaigns/{}", uuid::Uuid::nil());
    api.get(&unknown).await.problem("campaign_not_found");
    api.get("/v1/campaigns/x").await.problem("invalid_parameter");
}

#[tokio::test]
async fn a_campaign_that_cannot_work_is_refused_by_its_field() {
    let api = api().await;
    for (change, field) in [
        (json!({ "name": " " }), "name"),
        (json!({ "chat": "+999662" }), "chat"),
        (json!({ "chat": "-1001234567890" }), "link"),
        (json!({ "mode": "call" }), "mode"),
        (json!({ "mode": "add" }), "text"),
        (json!({ "text": "no link" }), "text"),
        (json!({ "text": null }), "text"),
        (json!({ "text": format!("{{link}}{}", "a".repeat(4096)) }), "text"),
        (json!({ "text": "**{link}", "format": "markdown" }), "text"),
        (json!({ "per_day": 0 }), "per_day"),
        (json!({ "stop_ratio": 0 }), "stop_ratio"),
        (json!({ "quiet_from": "22:00" }), "quiet_until"),
        (json!({ "quiet_from": "25:00", "quiet_until": "08:00" }), "quiet_from"),
        (json!({ "quiet_from": "08:00", "quiet_until": "08:00" }), "quiet_until"),
        (json!({ "time_zone": "Mars/Olympus" }), "time_zone"),
    ] {
        let mut body = new();
        let fields = change.as_object().expect("fields").clone();
        body.as_object_mut().expect("fields").extend(fields);
        let problem = post(&api, "/v1/campaigns", &body).await.problem("invalid_value");
        assert_eq!(problem["field"], field, "{change}");
    }
    let mut body = new();
    body["pool"] = json!("nowhere");
    post(&api, "/v1/campaigns", &body).await.problem("unknown_pool");
    body = new();
    body["session"] = json!("nobody");
    post(&api, "/v1/campaigns", &body).await.problem("unknown_session");
    assert_eq!(api.count("campaigns").await, 0);
}

#[tokio::test]
async fn nobody_is_listed_without_a_reason_to_contact_them() {
    let api = api().await;
    let path = made(&api).await;
    api.execute(
        "INSERT INTO people (id, username, is_bot, is_deleted, is_premium, expires_at)
            VALUES (7, 'Harbour_Seen', false, false, false, wireroom_now() + interval '1 day')",
    )
    .await;
    let added = list(
        &api,
        &path,
        json!([
            { "user_id": 7 },
            { "username": "@harbour_seen" },
            { "user_id": 8 },
            { "user_id": 9, "basis": "import" },
            { "user_id": 10, "basis": "import", "proof": "a letter", "supplied_by": "Maria" },
            { "username": "harbour_friend", "basis": "contact" },
            { "username": "@Harbour_Friend", "basis": "dialogue" },
        ]),
    )
    .await;
    assert_eq!(
        added,
        json!({ "added": 2, "already_there": 1, "refused": [
            { "index": 0, "code": "only_scanned" },
            { "index": 1, "code": "only_scanned" },
            { "index": 2, "code": "basis_missing" },
            { "index": 3, "code": "proof_missing" },
        ] })
    );
    let people = api.get(&format!("{path}/people")).await.json();
    assert_eq!(people["items"][0]["proof"], "a letter");
    assert_eq!(people["items"][0]["outcome"], Value::Null);
    assert_eq!(people["items"].as_array().map(Vec::len), Some(2));
    let wrong = json!({ "items": [{ "user_id": 1, "basis": "hearsay" }] });
    let problem = post(&api, &format!("{path}/people"), &wrong)
        .await
        .problem("invalid_value");
    assert_eq!(problem["field"], "items[0].basis");
    let csv = "username,basis,time_zone\n@harbour_third,join_request,Europe/Lisbon\n";
    let request = api
        .request(Method::POST, &format!("{path}/people"))
        .content_type("text/csv");
    assert_eq!(send(request.body(csv)).await.json()["added"], 1);
}

#[tokio::test]
async fn the_preflight_says_why_the_rest_is_not_eligible() {
    let api = api().await;
    let path = made(&api).await;
    let people: Vec<Value> = (1..=6).map(|id| json!({ "user_id": id, "basis": "contact" })).collect();
    list(&api, &path, json!(people)).await;
    list(
        &api,
        &path,
        json!([{ "username": "@harbour_friend", "basis": "contact" }]),
    )
    .await;
    for who in [json!({ "user_id": 1 }), json!({ "username": "harbour_friend" })] {
        let mut body = who;
        body["reason"] = json!("x");
        post(&api, "/v1/suppressions", &body).await.json();
    }
    let ahead = json!({ "items": [{ "user_id": 2, "invited_at": "2999-01-01T00:00:00Z" }] });
    let refused = post(&api, &format!("{path}/ledger/import"), &ahead)
        .await
        .problem("invalid_value");
    assert_eq!(refused["field"], "items[0].invited_at", "{refused}");
    let ledger = json!({ "items": [{ "user_id": 2 }, { "user_id": 2, "invited_at": "2026-01-01T00:00:00Z" }] });
    let imported = post(&api, &format!("{path}/ledger/import"), &ledger).await.json();
    assert_eq!(
        imported,
        json!({ "added": 1, "already_there": 1 }),
        "one is named twice"
    );
    api.execute(
        "WITH other AS (INSERT INTO campaigns (id, name, chat, mode, per_day, stop_ratio, stop_after, state_by, created_by)
            VALUES (gen_random_uuid(), 'other', '@x', 'add', 1, 0.5, 1, 'key:x', 'key:x') RETURNING id)
        INSERT INTO campaign_ledger (campaign_id, user_id, state, outcome, attempted_at)
        SELECT id, 3, 'invited', 'invited', wireroom_now() - interval '29 days' FROM other
        UNION ALL SELECT id, 4, 'invited', 'invited', wireroom_now() - interval '31 days' FROM other",
    )
    .await;
    let preflight = api.get(&format!("{path}/preflight")).await.json();
    assert_eq!(preflight["eligible"], 3, "{preflight}");
    assert_eq!(
        preflight["left_out"],
        json!({ "suppressed": 2, "invited_lately": 1 }),
        "{preflight}"
    );
    let report = api.get(&format!("{path}/report")).await.json();
    assert_eq!(
        (
            &report["people"],
            &report["waiting"],
            &report["outcomes"]["already_invited"]
        ),
        (&json!(7), &json!(6), &json!(1)),
        "{report}"
    );
}

#[tokio::test]
async fn a_campaign_that_is_resumed_has_one_job() {
    let api = api().await;
    let path = made(&api).await;
    let resume = format!("{path}/resume");
    let running = post(&api, &resume, &json!({})).await.json();
    assert_eq!(
        (&running["state"], &running["code"]),
        (&json!("running"), &json!("running")),
        "{running}"
    );
    let again = post(&api, &resume, &json!({})).await.json();
    assert_eq!(again["job"], running["job"]);
    assert_eq!(api.count("jobs WHERE kind = 'invite'").await, 1);
    let pause = json!({ "reason": "a mistake in the text" });
    let paused = post(&api, &format!("{path}/pause"), &pause).await.json();
    assert_eq!(
        (&paused["state"], &paused["reason"]),
        (&json!("paused"), &json!("a mistake in the text"))
    );
    let resumed = post(&api, &resume, &json!({})).await.json();
    assert_eq!(resumed["job"], running["job"], "it has not seen the pause");
    assert_eq!(api.count("jobs WHERE kind = 'invite'").await, 1);
    api.execute("DELETE FROM jobs").await;
    assert_eq!(api.get(&path).await.json()["state"], "stalled");
    let anew = post(&api, &resume, &json!({})).await.json();
    assert_ne!(anew["job"], running["job"]);
    assert_eq!(api.count("audit_log WHERE action LIKE 'campaign.%'").await, 5);
    assert_eq!(api.count("events WHERE type = 'campaign.resumed'").await, 3);
    assert_eq!(
        api.count("events WHERE type = 'campaign.paused' AND data ? 'by'").await,
        1
    );
}
