//! The list of those who must not be contacted and the switch, without a worker.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    config::Secret,
    store::api_keys::Scope,
};

const PHONE: &str = "+999 66 2 0001";

async fn api() -> TestApi {
    TestApi::with(|config| config.outreach.person_key = Some(Secret::new(STANDARD.encode([7; 32])))).await
}

async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, path).body_json(body)).await
}

async fn import(api: &TestApi, media_type: &str, body: &str) -> Answer {
    let request = api.request(Method::POST, "/v1/suppressions/import");
    send(request.content_type(media_type).body(body.to_owned())).await
}

async fn put(api: &TestApi, key: &str, body: &Value) -> Answer {
    let request = api.bare(Method::PUT, "/v1/outreach");
    send(request.header("Authorization", format!("Bearer {key}")).body_json(body)).await
}

#[tokio::test]
async fn whoever_is_added_twice_is_there_once() {
    let api = api().await;
    for who in [
        json!({ "user_id": 7 }),
        json!({ "username": "@Harbour_Friend" }),
        json!({ "phone": PHONE }),
    ] {
        let mut body = who.clone();
        body["reason"] = json!("asked for it");
        let first = post(&api, "/v1/suppressions", &body).await;
        assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
        body["reason"] = json!("again");
        let second = post(&api, "/v1/suppressions", &body).await;
        assert_eq!(second.status, StatusCode::OK, "{}", second.text);
        assert_eq!(second.json(), first.json(), "as it was");
    }
    assert_eq!(api.count("suppressions").await, 3);
    assert_eq!(api.count("audit_log WHERE action = 'suppression.added'").await, 3);
    let list = api.get("/v1/suppressions").await.json();
    assert_eq!(list["items"][1]["username"], "harbour_friend");
}

#[tokio::test]
async fn a_phone_number_is_nowhere_and_found_again_however_it_is_written() {
    let api = api().await;
    let body = json!({ "phone": PHONE, "reason": "asked for it" });
    let hash = post(&api, "/v1/suppressions", &body).await.json()["phone_hash"].clone();
    let again = post(
        &api,
        "/v1/suppressions",
        &json!({ "phone": "999662-0001", "reason": "x" }),
    )
    .await;
    assert_eq!((again.status, &again.json()["phone_hash"]), (StatusCode::OK, &hash));
    let rows = "suppressions s WHERE s::text LIKE '%999%66%0001%' OR s::text LIKE '%9996620001%'";
    assert_eq!(api.count(rows).await, 0);
    assert_eq!(api.count("audit_log a WHERE a::text LIKE '%9996620001%'").await, 0);
}

#[tokio::test]
async fn a_phone_number_is_taken_as_telegram_shows_it_or_not_at_all() {
    let api = api().await;
    let body = json!({ "phone": PHONE, "reason": "asked for it" });
    let hash = post(&api, "/v1/suppressions", &body).await.json()["phone_hash"].clone();
    for same in [
        "00999 66 2 0001",
        "0099966-2-0001",
        "+00999 66 2 0001",
        "+999 (66) 2.0001",
    ] {
        let again = post(&api, "/v1/suppressions", &json!({ "phone": same, "reason": "x" })).await;
        assert_eq!(
            (again.status, &again.json()["phone_hash"]),
            (StatusCode::OK, &hash),
            "{same}"
        );
    }
    for never in [
        "+999 (0)66 2 0001",
        "066 2 0001 99",
        "+066 2 0001 99",
        "(066) 20001",
        "000999 66 2 0001",
        "999+6620001",
    ] {
        let body = json!({ "phone": never, "reason": "x" });
        let refused = post(&api, "/v1/suppressions", &body).await;
        assert_eq!(refused.problem("invalid_value")["field"], "phone", "{never}");
    }
    assert_eq!(api.count("suppressions").await, 1);
}

#[tokio::test]
async fn without_the_key_or_with_another_one_no_number_is_taken() {
    let bare = TestApi::new().await;
    let body = json!({ "phone": PHONE, "reason": "x" });
    post(&bare, "/v1/suppressions", &body)
        .await
        .problem("person_key_missing");
    post(&bare, "/v1/suppressions", &json!({ "user_id": 7, "reason": "x" }))
        .await
        .json();
    assert_eq!(bare.count("suppressions").await, 1, "an id needs no key");
    let api = api().await;
    api.execute("UPDATE outreach_switch SET key_check = decode(repeat('ab', 32), 'hex')")
        .await;
    post(&api, "/v1/suppressions", &body)
        .await
        .problem("person_key_missing");
}

#[tokio::test]
async fn what_names_nobody_is_refused_and_not_quoted() {
    let api = api().await;
    for (body, field) in [
        (json!({ "reason": "x" }), "user_id"),
        (json!({ "user_id": 7, "username": "@abcd", "reason": "x" }), "user_id"),
        (json!({ "user_id": -7, "reason": "x" }), "user_id"),
        (json!({ "username": "no name", "reason": "x" }), "username"),
        (json!({ "phone": "call me 999662", "reason": "x" }), "phone"),
        (json!({ "phone_hash": "z".repeat(64), "reason": "x" }), "phone_hash"),
        (json!({ "user_id": 7, "reason": " " }), "reason"),
    ] {
        let answer = post(&api, "/v1/suppressions", &body).await;
        let problem = answer.problem("invalid_value");
        assert_eq!(problem["field"], field, "{body}");
        assert!(!answer.text.contains("call me"), "{}", answer.text);
    }
    post(&api, "/v1/suppressions", &json!({ "user_id": 7 }))
        .await
        .problem("missing_field");
    assert_eq!(api.count("suppressions").await, 0);
}

#[tokio::test]
async fn what_was_exported_can_be_imported_elsewhere() {
    let api = api().await;
    let csv = format!("user_id,username,phone,reason\n7,,,a\n,@harbour_friend,,=b\n,,{PHONE},c\n");
    let imported = import(&api, "text/csv", &csv).await;
    assert_eq!(
        imported.json(),
        json!({ "added": 3, "already_there": 0 }),
        "{}",
        imported.text
    );
    let again = import(&api, "text/csv; charset=utf-8", &csv).await.json();
    assert_eq!(again, json!({ "added": 0, "already_there": 3 }));
    for (format, media_type) in [("csv", "text/csv"), ("ndjson", "application/x-ndjson")] {
        let exported = api.get(&format!("/v1/suppressions?format={format}")).await;
        assert_eq!(exported.status, StatusCode::OK);
        assert!(!exported.text.contains("0001"), "a phone number in {}", exported.text);
        api.execute("DELETE FROM suppressions").await;
        let imported = import(&api, media_type, &exported.text).await;
        assert_eq!(imported.json()["added"], 3, "{format}: {}", imported.text);
    }
    assert!(
        api.get("/v1/suppressions?format=csv").await.text.contains("'=b"),
        "no formula"
    );
    let all_or_none = import(
        &api,
        "application/x-ndjson",
        "{\"user_id\":8,\"reason\":\"a\"}\n{\"user_id\":0,\"reason\":\"a\"}",
    )
    .await;
    assert_eq!(all_or_none.problem("invalid_value")["field"], "items[1].user_id");
    assert_eq!(api.count("suppressions").await, 3);
    import(&api, "text/plain", "x").await.problem("unsupported_media_type");
}

#[tokio::test]
async fn only_an_admin_takes_somebody_off_the_list() {
    let api = api().await;
    let body = json!({ "user_id": 7, "reason": "asked for it" });
    let id = post(&api, "/v1/suppressions", &body).await.json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/v1/suppressions/{id}");
    send(api.request(Method::DELETE, &path)).await.problem("forbidden");
    let admin = api.key(Scope::Admin).await;
    let delete = || {
        api.bare(Method::DELETE, &path)
            .header("Authorization", format!("Bearer {admin}"))
    };
    assert_eq!(send(delete()).await.status, StatusCode::NO_CONTENT);
    send(delete()).await.problem("suppression_not_found");
    assert_eq!(api.count("audit_log WHERE action = 'suppression.removed'").await, 1);
    assert_eq!(
        api.count(
            "audit_log WHERE details::text LIKE '%7%' AND action = 'suppression.removed' AND details ? 'user_id'"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn anybody_who_works_may_stop_and_an_admin_resumes() {
    let api = api().await;
    let admin = api.key(Scope::Admin).await;
    let stop = json!({ "state": "stopped", "reason": "a complaint" });
    let stopped = put(&api, &api.key, &stop).await.json();
    assert_eq!(
        (&stopped["state"], &stopped["calls_in_flight"]),
        (&json!("stopped"), &json!(0))
    );
    assert_eq!(api.get("/v1/outreach").await.json()["reason"], "a complaint");
    let go = json!({ "state": "running", "reason": "settled" });
    put(&api, &api.key, &go).await.problem("forbidden");
    assert_eq!(put(&api, &admin, &go).await.json()["state"], "running");
    assert_eq!(api.count("audit_log WHERE action LIKE 'outreach.%'").await, 2);
    put(&api, &admin, &json!({ "state": "off", "reason": "x" }))
        .await
        .problem("invalid_value");
}

#[tokio::test]
async fn calls_that_nobody_has_seen_answered_are_counted() {
    let api = api().await;
    api.execute(
        "INSERT INTO outreach_calls SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),
            wireroom_now() + interval '1 minute'",
    )
    .await;
    assert_eq!(api.get("/v1/outreach").await.json()["calls_in_flight"], 1);
}

#[tokio::test]
async fn the_limits_of_all_campaigns_are_an_admins() {
    let api = api().await;
    let body = json!({ "per_target_per_day": 5, "person_rest_days": 90 });
    let path = "/v1/outreach/limits";
    send(api.request(Method::PUT, path).body_json(&body))
        .await
        .problem("forbidden");
    let admin = api.key(Scope::Admin).await;
    let set = |body: &Value| {
        api.bare(Method::PUT, path)
            .header("Authorization", format!("Bearer {admin}"))
            .body_json(body)
    };
    assert_eq!(send(set(&body)).await.json()["per_target_per_day"], 5);
    let wrong = json!({ "per_target_per_day": -1, "person_rest_days": 90 });
    assert_eq!(
        send(set(&wrong)).await.problem("invalid_value")["field"],
        "per_target_per_day"
    );
}
