//! A newcomer's first hour with `wireroom dev`: the examples of its documentation work as they are, and after Ctrl-C and a second
//! start everything goes on.

use std::{collections::HashMap, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    commands::dev,
    support::{stack::http_client, wait::eventually},
};

const BOUND: Duration = Duration::from_mins(1);

struct Dev(HashMap<String, String>);

impl Dev {
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let mut request = http_client()
            .request(method, format!("{}{path}", self.0["WIREROOM_URL"]))
            .bearer_auth(&self.0["WIREROOM_API_KEY"])
            .header("Prefer", "wait=30");
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.expect("answered");
        (response.status(), response.json().await.expect("JSON"))
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.1
    }

    /// Runs a job that must succeed.
    async fn succeed(&self, kind: &str, session: &str, args: Value) {
        let job = json!({ "kind": kind, "session": session, "args": args });
        let done = self.post("/v1/jobs", &job).await;
        assert_eq!(done["state"], "succeeded", "{done}");
    }

    async fn session(&self, label: &str) -> Value {
        let all = self.get("/v1/sessions").await;
        let sessions = all["items"].as_array().expect("sessions");
        let found = sessions.iter().find(|session| session["label"] == label);
        found.unwrap_or_else(|| panic!("no session {label}: {all}")).clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_work_and_a_second_start_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut process, env) = dev(dir.path()).await;
    assert!(!process.output().contains("Started again"), "{}", process.output());
    let first = Dev(env);
    examples_work(&first).await;

    first
        .succeed("join", "alice", json!({ "chat": "@harbour_market" }))
        .await;
    // A session of one's own, under a label of one's own.
    let login = first
        .post("/v1/sessions", &json!({ "label": "mine", "phone": "+999 66 2 0002" }))
        .await;
    let code = format!("/v1/sessions/{}/code", login["session"].as_str().expect("an id"));
    let logged_in = first.post(&code, &json!({ "code": "22222" })).await;
    assert_eq!(logged_in["state"], "done", "{logged_in}");
    first
        .succeed("join", "mine", json!({ "chat": "@harbour_market" }))
        .await;
    let before = first.session("mine").await;

    process.interrupt();
    let ended = process.wait_for_end(BOUND).await;
    assert_eq!(ended.code(), Some(0), "{}", process.output());
    let (mut process, env) = dev(dir.path()).await;
    process
        .wait_for_line("Started again: the database is as it was.", BOUND)
        .await;
    let second = Dev(env);
    let after = second.session("mine").await;
    assert_eq!(
        (&after["id"], &after["state"]),
        (&before["id"], &json!("ready")),
        "{after}"
    );
    for session in ["alice", "mine"] {
        let args = json!({ "chat": "@harbour_market", "text": format!("{session} again") });
        second.succeed("publish", session, args).await;
    }
    process.interrupt();
    let ended = process.wait_for_end(BOUND).await;
    assert_eq!(ended.code(), Some(0), "{}", process.output());
}

/// What Swagger UI has in the box of `POST /v1/jobs`, kind by kind, on whatever session is free.
async fn examples_work(dev: &Dev) {
    let document = dev.get("/openapi.json").await;
    let body = &document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"];
    let examples = body["examples"].as_object().expect("an example for each kind");
    assert_eq!(examples.len(), 5);
    for (kind, example) in examples {
        let job = match kind.as_str() {
            // It runs until it is cancelled.
            "monitor" => {
                let (status, job) = dev.call(Method::POST, "/v1/jobs", Some(&example["value"])).await;
                assert!(status.is_success(), "{job}");
                watched(dev, &job).await;
                continue;
            }
            // Its campaign is nobody's: an id cannot be known beforehand.
            "invite" => {
                let (_, job) = dev.call(Method::POST, "/v1/jobs", Some(&example["value"])).await;
                let code = job["error"]["code"].as_str().or_else(|| job["code"].as_str());
                assert_eq!(code, Some("campaign_not_found"), "{job}");
                continue;
            }
            _ => dev.post("/v1/jobs", &example["value"]).await,
        };
        assert_eq!(job["state"], "succeeded", "{kind}: {job}");
    }
}

async fn watched(dev: &Dev, job: &Value) {
    let path = format!("/v1/watches/{}", job["id"].as_str().expect("an id"));
    eventually(BOUND, async || {
        let watch = dev.get(&path).await;
        match watch["state"].as_str() {
            Some("active") => Ok(()),
            _ => Err(format!("{watch}")),
        }
    })
    .await;
}
