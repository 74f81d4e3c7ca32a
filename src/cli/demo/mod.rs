//! `dev --demo`: one job of each kind over the HTTP API, each one's life printed as it happens, and the events of all that
//! come to a webhook meanwhile.

mod calls;
mod campaign;
mod webhooks;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use wireroom_jobs::JobKind;

use self::{calls::Calls, webhooks::Webhooks};
use super::stdout;
use crate::{
    config::Secret,
    sandbox::{Controls, call::UserId, world::PeerKey},
};

/// How long one job may take over the sandbox.
const BOUND: Duration = Duration::from_mins(1);
/// How often a job is looked at: its life is what the demo shows, so it does not wait for the end alone.
const LOOK: Duration = Duration::from_millis(20);
/// What the demo has sent to its webhook.
const TYPES: [&str; 5] = ["job.*", "message.*", "watch.*", "campaign.*", "suppression.*"];
/// Who runs the demo's group, and writes there.
const WRITER: &str = "judy";

/// As whom the demo calls, and where.
pub struct Demo {
    calls: Calls,
    /// The session every job runs on, so that the one who writes is the one who joined.
    session: String,
    account: UserId,
    chat: &'static str,
    /// The people of the made-up Telegram, who answer.
    people: Controls,
}

/// Whose session it is.
pub struct Actor {
    pub session: String,
    pub account: UserId,
}

impl Demo {
    pub fn new(url: String, key: Secret, actor: Actor, chat: &'static str, people: Controls) -> anyhow::Result<Self> {
        Ok(Self {
            calls: Calls::new(url, key)?,
            session: actor.session,
            account: actor.account,
            chat,
            people,
        })
    }

    /// Waits until the API says that it is ready.
    pub async fn wait_until_ready(&self, bound: Duration) -> anyhow::Result<()> {
        timeout(bound, self.calls.until_ready())
            .await
            .with_context(|| format!("the API was not ready within {} s", bound.as_secs()))
    }

    /// Runs one job of each kind; fails with the reason of the first that does not succeed.
    pub async fn run(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let webhooks = Webhooks::listen().await?;
        let head = self.calls.get("/v1/events?limit=1").await?["head"]
            .as_i64()
            .context("the API's answer names no last event")?;
        let body = json!({ "url": webhooks.url(), "types": TYPES, "description": "wireroom dev --demo" });
        let made = self.calls.post("/v1/subscriptions", &body, StatusCode::CREATED).await?;
        webhooks.expect_signatures_under(text(&made, "secret"))?;
        said(begun, "events", &format!("go to {}, signed", webhooks.url()))?;
        let shown = self.show(&webhooks, head).await;
        // Nobody listens there after this.
        let path = format!("/v1/subscriptions/{}", text(&made["subscription"], "id"));
        let removed = self.calls.delete(&path).await;
        shown.and(removed)
    }

    async fn show(&self, webhooks: &Webhooks, head: i64) -> anyhow::Result<()> {
        let mut scan = None;
        for kind in JobKind::ALL {
            let done = match kind {
                JobKind::Join | JobKind::Publish => self.one(kind).await.map(drop),
                JobKind::Scan => self.one(kind).await.map(|id| scan = Some(id)),
                JobKind::Invite => self.campaign(scan.as_deref(), webhooks).await,
                JobKind::Monitor => self.watch(webhooks).await,
            };
            done.with_context(|| format!("the demo's {} job", kind.as_str()))?;
        }
        self.compare(webhooks, head).await.context("the demo's events")?;
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

    async fn create(&self, kind: JobKind) -> anyhow::Result<Value> {
        let body = json!({ "kind": kind.as_str(), "session": self.session, "args": self.args(kind) });
        self.calls.post("/v1/jobs", &body, StatusCode::ACCEPTED).await
    }

    /// Runs a job to its end; its id.
    async fn one(&self, kind: JobKind) -> anyhow::Result<String> {
        let begun = Instant::now();
        let job = self.create(kind).await?;
        let id = text(&job, "id").to_owned();
        said(begun, kind.as_str(), &format!("accepted as {id}"))?;
        self.calls.follow(job, kind.as_str(), begun).await?;
        Ok(id)
    }

    /// Watches the chat while somebody writes in it, and stops once a webhook has told of that.
    async fn watch(&self, webhooks: &Webhooks) -> anyhow::Result<()> {
        let begun = Instant::now();
        let say = |what: String| said(begun, JobKind::Monitor.as_str(), &what);
        let job = self.create(JobKind::Monitor).await?;
        let mut id = text(&job, "id").to_owned();
        say(format!("accepted as {id}"))?;
        if let Some(other) = self.watched_by(&id).await? {
            say(format!("is watched already, by {other}"))?;
            id = other;
        }
        let path = format!("/v1/watches/{id}");
        self.watch_when(&path, |watch| watch["running"] == true && watch["filling"] == false)
            .await
            .context("the watch did not begin")?;
        say("watches the chat".into())?;
        let words = "Fresh fish at the third stall";
        self.writes(WRITER, self.chat, words)?;
        say(format!("@{WRITER} writes there: {words}"))?;
        let told = webhooks
            .when(|event| event["type"] == "message.new" && event["data"]["message"]["text"] == words)
            .await
            .context("no webhook told of the message")?;
        say(format!("webhook  {}", brief(&told)))?;
        let seen = self
            .watch_when(&path, |watch| watch["completeness"]["seen"].as_i64() > Some(0))
            .await
            .context("the watch did not count the message")?;
        say(format!("saw {}", seen["completeness"]))?;
        let stopped = self
            .calls
            .post(&format!("{path}/stop"), &Value::Null, StatusCode::OK)
            .await?;
        say(text(&stopped, "state").to_owned())?;
        let ended = webhooks
            .when(|event| event["type"] == "job.cancelled" && event["data"]["job"] == id.as_str())
            .await
            .context("no webhook told that the watch's job has ended")?;
        say(format!("webhook  {}", brief(&ended)))
    }

    /// Somebody of the made-up Telegram writes, to a chat or a person.
    fn writes(&self, who: &str, to: &str, words: &str) -> anyhow::Result<()> {
        let written = self.people.with_world(|world| {
            let Some(PeerKey::User(who)) = world.find_peer(who) else {
                bail!("the sandbox has nobody of the name {who}")
            };
            let to = world
                .find_peer(to)
                .with_context(|| format!("the sandbox has no {to}"))?;
            Ok(world.post_as(who, to, words))
        });
        ensure!(written?.is_ok(), "@{who} may not write to {to} in the sandbox");
        Ok(())
    }

    /// Waits until the watch has begun; `Some`: the chat has another one, of a demo that was broken off.
    async fn watched_by(&self, id: &str) -> anyhow::Result<Option<String>> {
        let begun = Instant::now();
        loop {
            let job = self.calls.get(&format!("/v1/jobs/{id}")).await?;
            match text(&job, "state") {
                "running" if self.calls.is_there(&format!("/v1/watches/{id}")).await? => return Ok(None),
                "succeeded" => return Ok(job["result"]["watch"].as_str().map(str::to_owned)),
                "failed" | "cancelled" => bail!("it ended {}: {}", text(&job, "state"), job["error"]),
                _ if begun.elapsed() > BOUND => bail!("it did not begin within {} s: {job}", BOUND.as_secs()),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn watch_when(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let watch = self.calls.get(path).await?;
            if wanted(&watch) {
                return Ok(watch);
            }
            if begun.elapsed() > BOUND {
                bail!("not within {} s: {watch}", BOUND.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What a reader of the list has of the demo's events, the webhook has too.
    async fn compare(&self, webhooks: &Webhooks, head: i64) -> anyhow::Result<()> {
        let begun = Instant::now();
        let path = format!("/v1/events?after={head}&type={}&limit=1000", TYPES.join(","));
        let page = self.calls.get(&path).await?;
        let events = page["items"].as_array().context("the API's answer has no events")?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for event in events {
            *counts.entry(text(event, "type")).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        said(
            begun,
            "events",
            &format!("{} since the demo began: {}", events.len(), counts.join(", ")),
        )?;
        for event in events {
            webhooks
                .when(|one| one["position"] == event["position"])
                .await
                .with_context(|| format!("no webhook brought {}", event["position"]))?;
        }
        said(begun, "events", "each of them came by webhook, with a good signature")
    }
}

/// A line of the demo: the time since its part began, the part, and what happened.
fn said(begun: Instant, part: &str, what: &str) -> anyhow::Result<()> {
    stdout::line(format_args!(
        "{:>7} {part:<8} {what}",
        format!("{} ms", begun.elapsed().as_millis())
    ))
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

/// An event as a line shows it.
fn brief(event: &Value) -> String {
    let said = event["data"]["message"]["text"].as_str();
    format!(
        "{} evt_{} of {}{}",
        text(event, "type"),
        event["position"],
        text(event, "subject"),
        said.map(|said| format!(": {said}")).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_in_a_line() {
        let event = json!({ "type": "watch.stopped", "position": 7, "subject": "watch:1", "data": {} });
        assert_eq!(brief(&event), "watch.stopped evt_7 of watch:1");
        let event = json!({ "type": "message.new", "position": 8, "subject": "chat:-1", "data": { "message": { "text": "Fish" } } });
        assert_eq!(brief(&event), "message.new evt_8 of chat:-1: Fish");
    }
}
