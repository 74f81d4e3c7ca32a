//! `dev --demo`: one job of each kind over the HTTP API, each one's life printed as it happens.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use wireroom_jobs::JobKind;

use super::stdout;
use crate::config::Secret;

/// How long one job may take over the sandbox.
const BOUND: Duration = Duration::from_mins(1);
/// How often a job is looked at: its life is what the demo shows, so it does not wait for the end alone.
const LOOK: Duration = Duration::from_millis(20);

/// Where and as whom the demo calls.
pub struct Demo {
    client: Client,
    url: String,
    key: Secret,
    /// The session every job runs on, so that the one who writes is the one who joined.
    session: String,
    chat: &'static str,
}

impl Demo {
    pub fn new(url: String, key: Secret, session: String, chat: &'static str) -> anyhow::Result<Self> {
        let client = Client::builder()
            .timeout(Duration::from_secs(15))
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self {
            client,
            url,
            key,
            session,
            chat,
        })
    }

    /// Waits until the API says that it is ready.
    pub async fn wait_until_ready(&self, bound: Duration) -> anyhow::Result<()> {
        let url = format!("{}/readyz", self.url);
        let ready = async {
            loop {
                match self.client.get(&url).send().await {
                    Ok(answer) if answer.status().is_success() => return,
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(bound, ready)
            .await
            .with_context(|| format!("the API was not ready within {} s", bound.as_secs()))
    }

    /// Runs one job of each kind; fails with the reason of the first that does not succeed.
    pub async fn run(&self) -> anyhow::Result<()> {
        for kind in JobKind::ALL {
            let done = match kind {
                JobKind::Join | JobKind::Publish | JobKind::Scan => self.one(kind).await,
                JobKind::Monitor => self.watch().await,
                // It takes a campaign, and a reason to contact somebody.
                JobKind::Invite => continue,
            };
            done.with_context(|| format!("the demo's {} job", kind.as_str()))?;
        }
        stdout::line(format_args!("Each kind did its work."))
    }

    /// The args a newcomer would write.
    fn args(&self, kind: JobKind) -> Value {
        match kind {
            JobKind::Join | JobKind::Monitor => json!({ "chat": self.chat }),
            JobKind::Publish => json!({ "chat": self.chat, "text": "Hello from Wireroom" }),
            JobKind::Scan => json!({ "chat": self.chat, "purpose": "a first look at the demo's group" }),
            JobKind::Invite => json!({ "campaign": uuid::Uuid::nil() }),
        }
    }

    /// Watches the chat, posts in it, and stops once the watch has seen that.
    async fn watch(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let say = |what: String| said(begun, JobKind::Monitor, &what);
        let job = self.create(JobKind::Monitor).await?;
        let mut id = text(&job, "id").to_owned();
        say(format!("accepted as {id}"))?;
        if let Some(other) = self.watched_by(&id).await? {
            say(format!("is watched already, by {other}"))?;
            id = other;
        }
        self.watch_when(&id, |watch| watch["running"] == true && watch["filling"] == false)
            .await
            .context("the watch did not begin")?;
        say("watches the chat".into())?;
        self.one(JobKind::Publish).await?;
        let seen = self
            .watch_when(&id, |watch| watch["completeness"]["seen"].as_i64() > Some(0))
            .await
            .context("the watch did not see the message")?;
        say(format!("saw {}", seen["completeness"]))?;
        let request = self.client.post(format!("{}/v1/watches/{id}/stop", self.url));
        let stopped = self.send(request, StatusCode::OK).await?;
        say(text(&stopped, "state").to_owned())
    }

    /// Waits until the watch has begun; `Some`: the chat has another one, of a demo that was broken off.
    async fn watched_by(&self, id: &str) -> anyhow::Result<Option<String>> {
        let begun = Instant::now();
        loop {
            let job = self.look(id).await?;
            match text(&job, "state") {
                "running" if self.has_watch(id).await? => return Ok(None),
                "succeeded" => return Ok(job["result"]["watch"].as_str().map(str::to_owned)),
                "failed" | "cancelled" => bail!("it ended {}: {}", text(&job, "state"), job["error"]),
                _ if begun.elapsed() > BOUND => bail!("it did not begin within {} s: {job}", BOUND.as_secs()),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn has_watch(&self, id: &str) -> anyhow::Result<bool> {
        let url = format!("{}/v1/watches/{id}", self.url);
        let answer = self.client.get(&url).bearer_auth(self.key.expose()).send().await;
        Ok(answer.context("the API did not answer")?.status() == StatusCode::OK)
    }

    async fn watch_when(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let url = format!("{}/v1/watches/{id}", self.url);
        let begun = Instant::now();
        loop {
            let watch = self.send(self.client.get(&url), StatusCode::OK).await?;
            if wanted(&watch) {
                return Ok(watch);
            }
            if begun.elapsed() > BOUND {
                bail!("not within {} s: {}", BOUND.as_secs(), self.look(id).await?);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn one(&self, kind: JobKind) -> anyhow::Result<()> {
        let begun = Instant::now();
        let say = |what: String| said(begun, kind, &what);
        let mut job = self.create(kind).await?;
        let id = text(&job, "id").to_owned();
        say(format!("accepted as {id}"))?;
        let mut shown: Vec<String> = Vec::new();
        loop {
            for line in life(&job) {
                if !shown.contains(&line) {
                    say(line.clone())?;
                    shown.push(line);
                }
            }
            match text(&job, "state") {
                "succeeded" => return Ok(()),
                "failed" | "cancelled" => bail!("it ended {}: {}", text(&job, "state"), job["error"]),
                _ if begun.elapsed() > BOUND => bail!("it did not end within {} s: {job}", BOUND.as_secs()),
                _ => tokio::time::sleep(LOOK).await,
            }
            job = self.look(&id).await?;
        }
    }

    async fn create(&self, kind: JobKind) -> anyhow::Result<Value> {
        let body = json!({ "kind": kind.as_str(), "session": self.session, "args": self.args(kind) });
        let request = self.client.post(format!("{}/v1/jobs", self.url)).json(&body);
        self.send(request, StatusCode::ACCEPTED).await
    }

    async fn look(&self, id: &str) -> anyhow::Result<Value> {
        self.send(self.client.get(format!("{}/v1/jobs/{id}", self.url)), StatusCode::OK)
            .await
    }

    async fn send(&self, request: reqwest::RequestBuilder, expected: StatusCode) -> anyhow::Result<Value> {
        let answer = request
            .bearer_auth(self.key.expose())
            .send()
            .await
            .context("the API did not answer")?;
        let status = answer.status();
        let body: Value = answer.json().await.context("the API's answer is not JSON")?;
        if status != expected {
            bail!("the API answered {status}: {body}");
        }
        Ok(body)
    }
}

fn said(begun: Instant, kind: JobKind, what: &str) -> anyhow::Result<()> {
    stdout::line(format_args!(
        "{:>7} {:<8} {what}",
        format!("{} ms", begun.elapsed().as_millis()),
        kind.as_str()
    ))
}

fn text<'a>(job: &'a Value, field: &str) -> &'a str {
    job[field].as_str().unwrap_or_default()
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
