//! The demo's calls to the API, and a job followed to its end.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{BOUND, LOOK, said, text};
use crate::config::Secret;

/// Where the API is, and the key to it.
pub struct Calls {
    client: Client,
    url: String,
    key: Secret,
}

impl Calls {
    pub fn new(url: String, key: Secret) -> anyhow::Result<Self> {
        let client = Client::builder()
            .timeout(Duration::from_secs(15))
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self { client, url, key })
    }

    pub async fn until_ready(&self) {
        let url = format!("{}/readyz", self.url);
        loop {
            match self.client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return,
                _ => sleep(LOOK).await,
            }
        }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.client.get(format!("{}{path}", self.url));
        self.send(request, &[StatusCode::OK]).await
    }

    /// Posts a body, if there is one.
    pub async fn post(&self, path: &str, body: &Value, expected: StatusCode) -> anyhow::Result<Value> {
        self.post_any(path, body, &[expected]).await
    }

    /// The same, where more than one answer is a good one.
    pub async fn post_any(&self, path: &str, body: &Value, expected: &[StatusCode]) -> anyhow::Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url));
        let request = if body.is_null() { request } else { request.json(body) };
        self.send(request, expected).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let request = self.client.delete(format!("{}{path}", self.url));
        self.send(request, &[StatusCode::OK, StatusCode::NO_CONTENT])
            .await
            .map(drop)
    }

    pub async fn is_there(&self, path: &str) -> anyhow::Result<bool> {
        let request = self.client.get(format!("{}{path}", self.url));
        let answer = request.bearer_auth(self.key.expose()).send().await;
        Ok(answer.context("the API did not answer")?.status() == StatusCode::OK)
    }

    /// Tells a job's life, a line for each thing that is new, until it has succeeded.
    pub async fn follow(&self, mut job: Value, part: &str, begun: Instant) -> anyhow::Result<()> {
        let path = format!("/v1/jobs/{}", text(&job, "id"));
        let mut shown: Vec<String> = Vec::new();
        loop {
            for line in life(&job) {
                if !shown.contains(&line) {
                    said(begun, part, &line)?;
                    shown.push(line);
                }
            }
            match text(&job, "state") {
                "succeeded" => return Ok(()),
                "failed" | "cancelled" => bail!("it ended {}: {}", text(&job, "state"), job["error"]),
                _ if begun.elapsed() > BOUND => bail!("it did not end within {} s: {job}", BOUND.as_secs()),
                _ => sleep(LOOK).await,
            }
            job = self.get(&path).await?;
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder, expected: &[StatusCode]) -> anyhow::Result<Value> {
        let answer = request
            .bearer_auth(self.key.expose())
            .send()
            .await
            .context("the API did not answer")?;
        let status = answer.status();
        let body = answer.bytes().await.context("the API's answer broke off")?;
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).context("the API's answer is not JSON")?
        };
        if !expected.contains(&status) {
            bail!("the API answered {status}: {body}");
        }
        Ok(body)
    }
}

/// What is known of a job's life, a line each: who claimed it is told by the finished job too.
fn life(job: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(worker) = job["worker"].as_str() {
        lines.push(format!("claimed by worker {worker}, attempt {}", job["attempt"]));
    }
    match text(job, "state") {
        "queued" => lines.push("queued".into()),
        "scheduled" => lines.push(format!("waits: {}", text(&job["wait_reason"], "message"))),
        "running" => lines.extend(job["progress"]["done"].as_i64().map(|done| format!("{done} done"))),
        state => {
            let outcome = if job["result"].is_null() {
                &job["error"]
            } else {
                &job["result"]
            };
            lines.push(format!("{state}: {outcome}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_life_is_told_from_the_job() {
        assert_eq!(life(&json!({ "state": "queued" })), ["queued"]);
        assert_eq!(
            life(&json!({ "state": "running", "worker": "w", "attempt": 1, "progress": { "done": 200 } })),
            ["claimed by worker w, attempt 1", "200 done"]
        );
        assert_eq!(
            life(&json!({ "state": "failed", "worker": "w", "attempt": 2, "result": null, "error": { "code": "x" } })),
            ["claimed by worker w, attempt 2", r#"failed: {"code":"x"}"#]
        );
    }
}
