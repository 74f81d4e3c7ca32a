use std::sync::atomic::Ordering;

use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    letterbox::Opener,
    store::api_keys::Scope,
};

/// An API beside a worker that has run, with the opener of its letterbox and an admin's key.
struct Bed {
    api: TestApi,
    opener: Opener,
    admin: String,
}

impl Bed {
    async fn new() -> Self {
        let api = TestApi::new().await;
        let opener = Opener::generate().expect("randomness");
        sqlx::query(
            "INSERT INTO vault_keys (id, check_sealed, slot, sealing_at) VALUES ('k1', '', $1, wireroom_now())",
        )
        .bind(opener.slot().as_bytes().as_slice())
        .execute(api.pool())
        .await
        .expect("a slot");
        let admin = api.key(Scope::Admin).await;
        Self { api, opener, admin }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self
            .api
            .bare(method, path)
            .header("Authorization", format!("Bearer {}", self.admin));
        send(match body {
            Some(body) => request.body_json(&body),
            None => request,
        })
        .await
    }

    async fn create(&self, body: Value) -> Answer {
        self.ask(Method::POST, "/v1/subscriptions", Some(body)).await
    }
}

#[tokio::test]
async fn a_subscription_is_made_with_a_secret_that_is_shown_once_and_sealed() {
    let bed = Bed::new().await;
    let body = json!({ "url": "https://example.com/hook", "types": ["session.*", "job.failed"], "description": "crm" });
    let made = bed.create(body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(
        bed.api.signals.events_asked.load(Ordering::SeqCst),
        1,
        "the workers are told of it"
    );
    let secret = made.json()["secret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("whsec_"));
    let subscription = &made.json()["subscription"];
    let id = subscription["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        (&subscription["enabled"], &subscription["lag"]),
        (&json!(true), &json!(0))
    );
    let path = format!("/v1/subscriptions/{id}");
    for text in [
        bed.ask(Method::GET, &path, None).await.text,
        bed.api.get("/v1/subscriptions").await.text,
    ] {
        assert!(
            text.contains("https://example.com/hook") && !text.contains("whsec_"),
            "{text}"
        );
    }
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT secret_sealed FROM subscriptions")
        .fetch_one(bed.api.pool())
        .await
        .expect("sealed");
    let opened = bed
        .opener
        .open(&format!("subscription:{id}:secret"), &sealed)
        .expect("for the workers");
    assert_eq!(opened.as_slice(), secret.as_bytes());
    let wants: bool = sqlx::query_scalar("SELECT wants_jobs FROM subscriptions")
        .fetch_one(bed.api.pool())
        .await
        .expect("read");
    assert!(wants, "ends of jobs are written for it");

    let rotated = bed
        .ask(
            Method::POST,
            &format!("{path}/secret"),
            Some(json!({ "overlap_seconds": 60 })),
        )
        .await
        .json();
    assert_ne!(rotated["secret"].as_str().expect("a secret"), secret);
    assert!(rotated["subscription"]["old_secret_until"].is_string());
    let old: Vec<u8> = sqlx::query_scalar("SELECT old_secret_sealed FROM subscriptions")
        .fetch_one(bed.api.pool())
        .await
        .expect("sealed");
    assert_eq!(old, sealed);

    let patched = bed
        .ask(
            Method::PATCH,
            &path,
            Some(json!({ "enabled": false, "types": ["batch.*"] })),
        )
        .await
        .json();
    assert_eq!(
        (&patched["enabled"], &patched["types"]),
        (&json!(false), &json!(["batch.*"]))
    );
    assert_eq!(patched["url"], "https://example.com/hook", "what is left out stays");
    let left = bed.ask(Method::DELETE, &path, None).await.json();
    assert_eq!(left["items"], json!([]));
    bed.ask(Method::GET, &path, None)
        .await
        .problem("subscription_not_found");
    assert_eq!(bed.api.count("audit_log WHERE action LIKE 'subscription.%'").await, 4);
    assert_eq!(bed.api.count("audit_log WHERE details::text LIKE '%whsec_%'").await, 0);
}

#[tokio::test]
async fn what_cannot_be_subscribed_is_refused() {
    let bed = Bed::new().await;
    for (body, field) in [
        (json!({ "url": "http://example.com/" }), "url"),
        (json!({ "url": "https://10.0.0.1/" }), "url"),
        (json!({ "url": "https://example.com/", "types": ["walks.*"] }), "types"),
        (
            json!({ "url": "https://example.com/", "subjects": ["session:1", "x"] }),
            "subjects[1]",
        ),
        (json!({ "url": "https://example.com/", "after": 1 }), "after"),
    ] {
        assert_eq!(bed.create(body).await.problem("invalid_value")["field"], field);
    }
    bed.create(json!({ "url": "https://example.com/", "secret": "x" }))
        .await
        .problem("unknown_field");
    assert_eq!(bed.api.count("subscriptions").await, 0);
    let operator = bed.api.request(Method::POST, "/v1/subscriptions");
    send(operator.body_json(&json!({ "url": "https://example.com/" })))
        .await
        .problem("forbidden");
    let nobody = "/v1/subscriptions/0190c5a0-0000-7000-8000-000000000000";
    for (method, path, body) in [
        (Method::PATCH, nobody.to_owned(), Some(json!({ "enabled": true }))),
        (Method::DELETE, nobody.to_owned(), None),
        (Method::POST, format!("{nobody}/secret"), Some(json!({}))),
        (Method::POST, format!("{nobody}/test"), None),
        (Method::POST, format!("{nobody}/redeliver"), Some(json!({ "from": 1 }))),
        (Method::GET, format!("{nobody}/deliveries"), None),
    ] {
        bed.ask(method, &path, body).await.problem("subscription_not_found");
    }
    bed.api.execute("UPDATE vault_keys SET slot = NULL").await;
    bed.create(json!({ "url": "https://example.com/" }))
        .await
        .problem("no_worker");
}

#[tokio::test]
async fn deliveries_are_listed_by_state_and_sent_once_more() {
    let bed = Bed::new().await;
    let made = bed.create(json!({ "url": "https://example.com/" })).await.json();
    let id = made["subscription"]["id"].as_str().expect("an id");
    bed.api
        .execute(
            "INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
             SELECT n, wireroom_now(), wireroom_now(), 'session.state_changed', 1, 'session:1', '{}' FROM generate_series(1, 5) n",
        )
        .await;
    bed.api.execute("UPDATE event_sequence SET position = 5").await;
    bed.api
        .execute("INSERT INTO event_days (day, first_position) VALUES (wireroom_now()::date, 1)")
        .await;
    bed.api.execute("UPDATE subscription_progress SET position = 5").await;
    bed.api
        .execute(
            "INSERT INTO deliveries (subscription_id, position, type, subject, state, attempts, last_status)
             SELECT id, n, 'session.state_changed', 'session:1', CASE WHEN n < 3 THEN 'delivered' ELSE 'failed' END, 3, 500
             FROM subscriptions, generate_series(1, 4) n",
        )
        .await;
    let path = format!("/v1/subscriptions/{id}/deliveries");
    let positions = |page: &Value| -> Vec<i64> {
        let items = page["items"].as_array().expect("items").iter();
        items.filter_map(|row| row["position"].as_i64()).collect()
    };
    let first = bed.api.get(&format!("{path}?limit=3")).await.json();
    assert_eq!(positions(&first), [4, 3, 2]);
    assert_eq!(first["items"][0]["webhook_id"], "evt_4");
    let cursor = first["next_cursor"].as_str().expect("more");
    assert_eq!(
        positions(&bed.api.get(&format!("{path}?cursor={cursor}")).await.json()),
        [1]
    );
    assert_eq!(
        positions(&bed.api.get(&format!("{path}?state=failed")).await.json()),
        [4, 3]
    );
    bed.api
        .get(&format!("{path}?state=lost"))
        .await
        .problem("invalid_parameter");

    let again = format!("/v1/subscriptions/{id}/redeliver");
    let asked = bed
        .ask(Method::POST, &again, Some(json!({ "from": 3, "to": 9 })))
        .await
        .json();
    assert_eq!((&asked["count"], &asked["last"]), (&json!(3), &json!(5)));
    assert_eq!(
        positions(&bed.api.get(&format!("{path}?state=pending")).await.json()),
        [5, 4, 3]
    );
    let twice = bed
        .ask(Method::POST, &again, Some(json!({ "from": 3, "to": 9 })))
        .await
        .json();
    assert_eq!(twice["count"], 0, "they wait already");
    assert_eq!(
        bed.ask(Method::POST, &again, Some(json!({ "from": 1 }))).await.json()["count"],
        1
    );
    assert_eq!(twice["next"], Value::Null, "it was all looked at");
    bed.ask(Method::POST, &again, Some(json!({ "from": 2, "to": 1 })))
        .await
        .problem("invalid_value");
    bed.ask(Method::POST, &again, Some(json!({ "from": 0 })))
        .await
        .problem("invalid_value");
    bed.api.execute("UPDATE event_days SET first_position = 4").await;
    let problem = bed.ask(Method::POST, &again, Some(json!({ "from": 1, "to": 3 }))).await;
    assert_eq!(problem.problem("events_expired")["field"], "to");
    let subscription = bed.api.get(&format!("/v1/subscriptions/{id}")).await.json();
    assert_eq!(subscription["has_missed"], false);
    bed.api.execute("UPDATE subscription_progress SET position = 2").await;
    let subscription = bed.api.get(&format!("/v1/subscriptions/{id}")).await.json();
    assert_eq!(subscription["has_missed"], true, "event 3 is gone");
    bed.api.execute("UPDATE subscription_progress SET position = 5").await;
    for (after, position) in [(0, Some(3)), (3, Some(3)), (2, None)] {
        let made = bed
            .create(json!({ "url": "https://example.com/", "after": after }))
            .await;
        match position {
            Some(position) => assert_eq!(made.json()["subscription"]["position"], position),
            None => assert_eq!(made.problem("events_expired")["field"], "after"),
        }
    }
    bed.api.execute("UPDATE deliveries SET state = 'delivered'").await;
    let kept = bed
        .ask(Method::POST, &again, Some(json!({ "from": 1, "to": 5 })))
        .await
        .json();
    assert_eq!(
        (&kept["count"], &kept["next"]),
        (&json!(2), &Value::Null),
        "those that are kept"
    );
}

#[tokio::test]
async fn a_range_that_is_too_long_for_a_request_says_where_to_go_on() {
    let bed = Bed::new().await;
    let made = bed.create(json!({ "url": "https://example.com/" })).await.json();
    let id = made["subscription"]["id"].as_str().expect("an id").to_owned();
    bed.api
        .execute(
            "INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
             SELECT n, wireroom_now(), wireroom_now(), 'session.state_changed', 1, 'session:1', '{}'
             FROM generate_series(1, 12000) n",
        )
        .await;
    bed.api.execute("UPDATE event_sequence SET position = 12000").await;
    bed.api
        .execute("INSERT INTO event_days (day, first_position) VALUES (wireroom_now()::date, 1)")
        .await;
    bed.api
        .execute("UPDATE subscription_progress SET position = 12000")
        .await;
    let again = format!("/v1/subscriptions/{id}/redeliver");
    let (mut from, mut counts) = (json!(1), Vec::new());
    while !from.is_null() {
        let asked = json!({ "from": from, "to": 1_000_000_000 });
        let answer = bed.ask(Method::POST, &again, Some(asked)).await.json();
        counts.push(answer["count"].clone());
        from = answer["next"].clone();
    }
    assert_eq!(counts, [10_000, 2_000]);
    assert_eq!(bed.api.count("deliveries WHERE state = 'pending'").await, 12_000);
}
