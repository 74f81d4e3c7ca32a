//! What Swagger UI has in its boxes is sent as it is: every example of the document, through the routes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::bed::{Answer, TestApi, send};
use crate::{api::document, config::Secret, store::api_keys::Scope};

/// Refusals that are about what there is, and not about what was sent.
const OF_STATE: [&str; 10] = [
    "subscription_not_found",
    "no_worker",
    "application_invalid",
    "watch_not_found",
    "login_not_found",
    "event_position_unknown",
    "session_state_conflict",
    "session_not_held",
    "session_busy",
    "login_in_progress",
];

/// An installation with one of each thing that a path can name.
pub struct Place {
    api: TestApi,
    key: String,
    ids: Vec<(&'static str, String)>,
}

impl Place {
    pub async fn new() -> Self {
        let api =
            TestApi::with(|config| config.outreach.person_key = Some(Secret::new(STANDARD.encode([7; 32])))).await;
        let key = api.key(Scope::Admin).await;
        let session = api.session("alice", "ready").await;
        api.session("bob", "ready").await;
        let job = api.stored_job().await;
        let mut place = Self {
            api,
            key,
            ids: vec![("/jobs/", job.to_string()), ("/sessions/", session.to_string())],
        };
        for (under, body) in [
            (
                "/schedules/",
                json!({ "name": "weekly", "cron": "@weekly",
                    "job": { "kind": "join", "args": { "chat": "@reading_club" } } }),
            ),
            (
                "/campaigns/",
                json!({ "name": "Autumn", "chat": "@chess_club", "text": "Come in: {link}" }),
            ),
        ] {
            let path = format!("/v1{}", under.trim_end_matches('/'));
            let made = place.send("post", &path, "application/json", body.to_string()).await;
            let made = made.json();
            let id = made["id"]
                .as_str()
                .unwrap_or_else(|| panic!("{under}: {made}"))
                .to_owned();
            place.ids.push((under, id));
        }
        place
    }

    /// The path with something that is there in the place of each parameter.
    pub fn path(&self, path: &str) -> String {
        let id = self.ids.iter().find(|(under, _)| path.contains(under));
        let id = id.map_or("0190b8a0-0000-7000-8000-000000000000", |(_, id)| id.as_str());
        path.replace("/chats/{id}", "/chats/-1001234567890")
            .replace("/people/{id}", "/people/1234567890")
            .replace("{id}", id)
            .replace("{scope}", "pool")
            .replace("/limits/kind/{target}", "/limits/kind/join")
            .replace("{target}", "default")
            .replace("{action}", "join")
            .replace("/consumers/{name}", "/consumers/billing")
            .replace("/templates/{name}", "/templates/weekly_digest")
    }

    pub async fn send(&self, method: &str, path: &str, media_type: &str, body: String) -> Answer {
        let method: Method = method.to_uppercase().parse().expect("a method");
        let request = self.api.bare(method, path).content_type(media_type);
        send(
            request
                .header("Authorization", format!("Bearer {}", self.key))
                .body(body),
        )
        .await
    }
}

/// The examples of a body: each as it is sent.
fn examples(content: &Value) -> Vec<String> {
    let named = content["examples"].as_object().into_iter().flatten();
    let all = named
        .map(|(_, example)| &example["value"])
        .chain(content.get("example"));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    all.map(text).collect()
}

#[tokio::test]
async fn every_example_of_the_document_is_taken_as_it_is() {
    let document = document();
    let place = Place::new().await;
    let (mut sent, mut wrong) = (0, Vec::new());
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            for (media_type, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                if media_type == "application/octet-stream" {
                    continue;
                }
                let examples = examples(content);
                if examples.is_empty() {
                    wrong.push(format!("{method} {path} {media_type} has no example"));
                }
                for example in examples {
                    prepare(&place, method, path).await;
                    let answer = place.send(method, &place.path(path), media_type, example.clone()).await;
                    sent += 1;
                    let problem: Value = serde_json::from_str(&answer.text).unwrap_or_default();
                    let code = problem["code"].as_str().unwrap_or_default();
                    let refused = answer.status != StatusCode::OK && !answer.status.is_success();
                    // Nothing has happened yet that could be acknowledged.
                    let is_ahead = problem["detail"]
                        .as_str()
                        .is_some_and(|detail| detail.contains("the newest event"));
                    if refused && !is_ahead && !OF_STATE.contains(&code) {
                        wrong.push(format!("{method} {path} {example}: {}", answer.text));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(sent > 50, "{sent}");
}

/// What an operation changes, where its path names it by a word.
async fn prepare(place: &Place, method: &str, path: &str) {
    let json = "application/json";
    let body = match (method, path) {
        ("put", "/v1/templates/{name}") => ("/v1/templates", json!({ "name": "weekly_digest", "text": "x" })),
        ("post", "/v1/events/ack") => ("/v1/events/consumers/billing", json!({})),
        _ => return,
    };
    let method = if path == "/v1/events/ack" { "put" } else { "post" };
    let made = place.send(method, body.0, json, body.1.to_string()).await;
    // By the second example it is there.
    assert!(
        made.status.is_success() || made.status == StatusCode::CONFLICT,
        "{}",
        made.text
    );
}
