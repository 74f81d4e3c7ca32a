use std::sync::atomic::Ordering;

use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::tests::bed::{Answer, TestApi, send},
    store::api_keys::Scope,
};

struct Admin {
    api: TestApi,
    key: String,
}

impl Admin {
    async fn new() -> Self {
        let api = TestApi::new().await;
        let key = api.key(Scope::Admin).await;
        Self { api, key }
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self.api.bare(Method::PUT, path).body_json(body);
        send(request.header("Authorization", format!("Bearer {}", self.key))).await
    }
}

fn cap<'a>(body: &'a Value, action: &str) -> &'a Value {
    let caps = body["caps"]
        .as_array()
        .or_else(|| body["items"].as_array())
        .expect("caps");
    caps.iter().find(|cap| cap["action"] == action).expect("that cap")
}

#[tokio::test]
async fn caps_are_set_for_all_and_for_one_and_shown_with_what_is_left() {
    let admin = Admin::new().await;
    let id = admin.api.session("one", "ready").await;
    let body = json!({ "per_minute": 4, "per_hour": 5, "per_day": 6 });
    let all = admin.put("/v1/caps/join", &body).await;
    assert_eq!(all.status, StatusCode::OK, "{}", all.text);
    assert_eq!(cap(&all.json(), "join")["minute"]["cap"], 4);
    let path = format!("/v1/sessions/{id}/caps/join");
    let body = json!({ "per_minute": 1, "per_hour": 2, "per_day": 3 });
    let one = admin.put(&path, &body).await.json();
    assert_eq!(
        cap(&one, "join")["day"],
        json!({ "cap": 3, "used": 0, "left": 3 }),
        "{one}"
    );
    assert_eq!(cap(&one, "join")["is_default"], false);
    assert_eq!(cap(&one, "message")["is_default"], true);
    let request = admin.api.bare(Method::DELETE, &path);
    let gone = send(request.header("Authorization", format!("Bearer {}", admin.key)))
        .await
        .json();
    assert_eq!(cap(&gone, "join")["hour"]["cap"], 5);
    let request = admin.api.bare(Method::DELETE, &path);
    send(request.header("Authorization", format!("Bearer {}", admin.key)))
        .await
        .problem("cap_not_found");
    let zone = format!("/v1/sessions/{id}/time-zone");
    let set = admin.put(&zone, &json!({ "time_zone": "Europe/Lisbon" })).await.json();
    assert_eq!(set["time_zone"], "Europe/Lisbon");
    admin
        .put(&zone, &json!({ "time_zone": "Lisbon" }))
        .await
        .problem("invalid_value");
    assert_eq!(admin.api.signals.sessions_changed.load(Ordering::SeqCst), 4);
    assert_eq!(
        admin
            .api
            .count("audit_log WHERE action LIKE '%cap%' OR action LIKE '%zone%'")
            .await,
        4
    );
}

#[tokio::test]
async fn only_an_admin_sets_them_and_only_what_there_is() {
    let admin = Admin::new().await;
    let body = json!({ "per_minute": 1, "per_hour": 2, "per_day": 3 });
    admin.put("/v1/caps/dance", &body).await.problem("invalid_parameter");
    let nobody = "/v1/sessions/01890000-0000-7000-8000-000000000000/caps/join";
    admin.put(nobody, &body).await.problem("session_not_found");
    let wrong = json!({ "per_minute": -1, "per_hour": 2, "per_day": 3 });
    let problem = admin.put("/v1/caps/join", &wrong).await.problem("invalid_value");
    assert_eq!(problem["field"], "per_minute");
    let operator = admin.api.request(Method::PUT, "/v1/caps/join").body_json(&body);
    send(operator).await.problem("forbidden");
}
