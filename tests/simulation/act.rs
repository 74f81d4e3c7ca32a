//! Carries out one step, and holds the answers to what was promised at the moment of the request.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;
use wireroom_jobs::ports::Clock;

use super::{
    bed::Bed,
    model::{Drafted, Rated},
    plan::{ACCOUNTS, Draft, Op, Place, Scope, Unique, Work},
};

/// An answer is kept for a day; the clocks need not agree to the minute.
const KEY_IS_KEPT: TimeDelta = TimeDelta::minutes(24 * 60 - 5);

impl Bed {
    pub async fn act(&mut self, op: &Op) {
        match op {
            Op::Enqueue(draft) => self.enqueue(draft).await,
            Op::Twice(draft) => self.enqueue_twice(draft).await,
            Op::Again(number) => self.enqueue_again(*number).await,
            Op::Clash(number) => self.clash(*number).await,
            Op::Batch { jobs, per_item } => self.batch(jobs, *per_item).await,
            Op::Cancel(number) => self.cancel(*number).await,
            Op::Retry(number) => self.retry(*number).await,
            Op::Change { job, priority, run_in } => self.change(*job, *priority, *run_in).await,
            Op::Schedule(plan) => self.schedule(plan).await,
            Op::Recast { schedule, cron, zone } => {
                self.edit(*schedule, json!({ "cron": cron, "time_zone": zone })).await;
            }
            Op::PauseSchedule(number) => self.edit(*number, json!({ "paused": { "reason": "simulated" } })).await,
            Op::ResumeSchedule(number) => self.edit(*number, json!({ "paused": null })).await,
            Op::RunSchedule(number) => self.run_schedule(*number).await,
            Op::DeleteSchedule(number) => self.delete_schedule(*number).await,
            Op::Advance(seconds) => self.advance(*seconds).await,
            Op::LeapTo(time) => {
                let time: DateTime<Utc> = time.parse().expect("a time");
                self.advance((time - self.clock.now()).num_seconds().max(0)).await;
            }
            Op::Pause { scope, seconds } => self.pause(*scope, *seconds).await,
            Op::Resume(scope) => self.resume(*scope).await,
            Op::LimitRunning { scope, most } => self.limit_running(*scope, *most).await,
            Op::LimitRate { key, rate } => self.limit_rate(key, *rate).await,
            Op::Watch { chat, session } => self.watch(chat, *session).await,
            Op::Say { chat, count } => self.say(chat, *count),
            Op::SwitchWatch { watch, session } => self.switch_watch(*watch, *session).await,
            Op::StopWatch(number) => self.stop_watch(*number).await,
            Op::PutOut(session) => self.put_out(*session),
            Op::LetIn(session) => self.let_in(*session),
            Op::Campaign { .. }
            | Op::PauseCampaign(_)
            | Op::ResumeCampaign(_)
            | Op::Suppress { .. }
            | Op::StopOutreach
            | Op::ResumeOutreach => self.act_on_outreach(op).await,
            Op::Settle => self.settle().await,
            Op::Start(_)
            | Op::Kill(_)
            | Op::Stop(_)
            | Op::Deploy { .. }
            | Op::Freeze(_)
            | Op::Thaw(_)
            | Op::CutDatabase(_)
            | Op::StallDatabase(_)
            | Op::HealDatabase(_) => self.act_on_workers(op).await,
            Op::Fault { .. } | Op::Slow(_) | Op::Disconnect(_) | Op::Silence(_) | Op::ForgetRandomIds => {
                self.act_on_telegram(op);
            }
        }
    }

    async fn enqueue(&mut self, draft: &Draft) {
        let number = self.draft(draft);
        self.post(number).await;
    }

    /// Notes the draft, with the body of its request.
    fn draft(&mut self, draft: &Draft) -> usize {
        let number = self.model.drafts.len();
        let text = format!("Simulation {}, job {number}.", self.seed);
        let now = self.clock.now();
        let key = draft.keyed.then(|| format!("request-{number}"));
        self.model.drafts.push(Drafted {
            draft: draft.clone(),
            body: body(draft, &text, now),
            key,
            job: None,
        });
        number
    }

    async fn post(&mut self, number: usize) {
        let drafted = &self.model.drafts[number];
        let (status, answer) = self
            .call(Method::POST, "/v1/jobs", Some(&drafted.body), drafted.key.as_deref())
            .await;
        self.posted(number, status, &answer);
    }

    fn posted(&mut self, number: usize, status: u16, answer: &Value) {
        match status {
            200 | 202 => self.model.acknowledge(number, id_of(answer), self.clock.now()),
            409 if answer["code"] == "unique_key_conflict" => {}
            _ => panic!("job {number}: {status} {answer}"),
        }
    }

    async fn enqueue_twice(&mut self, draft: &Draft) {
        let number = self.draft(draft);
        let drafted = &self.model.drafts[number];
        let request = || self.call(Method::POST, "/v1/jobs", Some(&drafted.body), drafted.key.as_deref());
        let ((first, one), (second, other)) = tokio::join!(request(), request());
        assert_eq!(
            one["id"], other["id"],
            "two equal requests made two jobs: {one} {other}"
        );
        self.posted(number, first, &one);
        self.posted(number, second, &other);
    }

    /// The job of a request whose answer is kept.
    fn kept(&self, number: usize) -> Option<Uuid> {
        let drafted = &self.model.drafts[number];
        let (job, at) = drafted.job.filter(|_| drafted.key.is_some())?;
        (self.clock.now() < at + KEY_IS_KEPT).then_some(job)
    }

    async fn enqueue_again(&mut self, number: usize) {
        let drafted = &self.model.drafts[number];
        let Some(key) = drafted.key.as_deref() else { return };
        let (status, answer) = self
            .call(Method::POST, "/v1/jobs", Some(&drafted.body), Some(key))
            .await;
        match self.kept(number) {
            Some(job) => assert_eq!(
                (matches!(status, 200 | 202), id_of(&answer)),
                (true, job),
                "the answer of job {number} is not given again: {status} {answer}"
            ),
            None if matches!(status, 200 | 202) => self.model.acknowledge(number, id_of(&answer), self.clock.now()),
            None => assert!(matches!(status, 409 | 422), "{status} {answer}"),
        }
    }

    async fn clash(&mut self, number: usize) {
        let Some(key) = self.model.drafts[number].key.clone() else {
            return;
        };
        let was_kept = self.kept(number).is_some();
        let mut body = self.model.drafts[number].body.clone();
        body["tags"] = json!(["clash"]);
        if body["args"]["text"].is_string() {
            body["args"]["text"] = json!(format!("Simulation {}, clash with job {number}.", self.seed));
        }
        let (status, answer) = self.call(Method::POST, "/v1/jobs", Some(&body), Some(&key)).await;
        if was_kept {
            assert_eq!(
                (status, &answer["code"]),
                (409, &json!("idempotency_key_reused")),
                "{answer}"
            );
        } else if matches!(status, 200 | 202) {
            // The key is that request's from now on.
            self.model.acknowledged.insert(id_of(&answer));
            self.model.drafts[number].key = None;
        }
    }

    async fn batch(&mut self, jobs: &[Draft], per_item: bool) {
        let numbers: Vec<usize> = jobs.iter().map(|draft| self.draft(draft)).collect();
        let bodies: Vec<&Value> = numbers.iter().map(|number| &self.model.drafts[*number].body).collect();
        let mode = if per_item { "per_item" } else { "all_or_nothing" };
        let body = json!({ "mode": mode, "jobs": bodies });
        let (status, answer) = self.call(Method::POST, "/v1/jobs/batch", Some(&body), None).await;
        for number in &numbers {
            self.model.drafts[*number].key = None;
        }
        if status == 202 {
            let items = answer["items"].as_array().expect("items");
            assert_eq!(items.len(), numbers.len(), "{answer}");
            for (number, item) in numbers.into_iter().zip(items) {
                if item["outcome"] != "refused" {
                    let job = item["job"].as_str().and_then(|id| id.parse().ok()).expect("an id");
                    self.model.acknowledge(number, job, self.clock.now());
                }
            }
            self.model.batches.push(id_of(&answer["batch"]));
        } else {
            assert!(!per_item && matches!(status, 409 | 422), "{status} {answer}");
        }
    }

    /// The path of a draft's job, if it has one.
    fn job_path(&self, number: usize, rest: &str) -> Option<String> {
        let (job, _) = self.model.drafts.get(number)?.job?;
        Some(format!("/v1/jobs/{job}{rest}"))
    }

    async fn cancel(&mut self, number: usize) {
        let Some(path) = self.job_path(number, "/cancel") else {
            return;
        };
        self.expect(Method::POST, &path, None, &[200, 202, 409]).await;
    }

    async fn retry(&mut self, number: usize) {
        let Some(path) = self.job_path(number, "/retry") else {
            return;
        };
        let (status, answer) = self.call(Method::POST, &path, None, None).await;
        if status == 202 {
            self.model.acknowledged.insert(id_of(&answer));
        } else {
            assert_eq!(status, 409, "{answer}");
        }
    }

    async fn change(&mut self, number: usize, priority: Option<i64>, run_in: Option<i64>) {
        let Some(path) = self.job_path(number, "") else { return };
        let mut body = json!({});
        if let Some(priority) = priority {
            body["priority"] = json!(priority);
        }
        if let Some(seconds) = run_in {
            body["run_at"] = json!(self.clock.now() + TimeDelta::seconds(seconds));
        }
        self.expect(Method::PATCH, &path, Some(&body), &[200, 409, 422]).await;
    }

    async fn pause(&mut self, scope: Scope, seconds: Option<i64>) {
        let until = seconds.map(|seconds| self.clock.now() + TimeDelta::seconds(seconds));
        let body = json!({ "reason": "simulated", "until": until });
        let path = format!("/v1/pauses/{}", scope_path(scope));
        self.expect(Method::PUT, &path, Some(&body), &[200]).await;
        self.model.pauses.insert(scope);
    }

    pub async fn resume(&mut self, scope: Scope) {
        self.model.pauses.remove(&scope);
        let path = format!("/v1/pauses/{}", scope_path(scope));
        self.expect(Method::DELETE, &path, None, &[200, 404]).await;
    }

    pub async fn limit_running(&mut self, scope: Scope, most: Option<i64>) {
        let path = format!("/v1/limits/{}", scope_path(scope));
        self.model.limits.remove(&scope);
        match most {
            None => {
                self.expect(Method::DELETE, &path, None, &[200, 404]).await;
            }
            Some(most) => {
                let body = json!({ "max_running": most });
                self.expect(Method::PUT, &path, Some(&body), &[200]).await;
                self.model.limits.insert(scope);
            }
        }
    }

    pub async fn limit_rate(&mut self, key: &'static str, rate: Option<(i64, i64)>) {
        let path = format!("/v1/limits/key/{key}");
        self.model.rates.remove(key);
        match rate {
            None => {
                self.expect(Method::DELETE, &path, None, &[200, 404]).await;
            }
            Some((starts, period)) => {
                let body = json!({ "starts": starts, "period_seconds": period });
                self.expect(Method::PUT, &path, Some(&body), &[200]).await;
                let rated = Rated {
                    starts,
                    period,
                    since: Instant::now(),
                    base: std::collections::HashMap::default(),
                };
                self.model.rates.insert(key, rated);
            }
        }
        // A bucket that is left without its limit, or gets another one, begins full.
        for rated in self.model.rates.values_mut() {
            rated.base.clear();
            rated.since = Instant::now();
        }
    }
}

pub fn id_of(answer: &Value) -> Uuid {
    let id = answer["id"].as_str().and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("no id in {answer}"))
}

fn scope_path(scope: Scope) -> String {
    match scope {
        Scope::Everything => "everything".to_owned(),
        Scope::Pool(pool) => format!("pool/{pool}"),
        Scope::Session(session) => format!("session/{}", ACCOUNTS[session].0),
        Scope::Kind(kind) => format!("kind/{kind}"),
    }
}

/// The args of work; a publish says `text`.
pub fn args(work: &Work, text: &str) -> Value {
    match work {
        Work::Publish(chat) => json!({ "chat": chat, "text": text }),
        Work::Join(chat) => json!({ "chat": chat }),
        Work::Scan { chat, limit } => {
            json!({ "what": "members", "chat": chat, "purpose": "a simulation", "limit": limit })
        }
    }
}

fn body(draft: &Draft, text: &str, now: DateTime<Utc>) -> Value {
    let at = |seconds: Option<i64>| seconds.map(|seconds| now + TimeDelta::seconds(seconds));
    let mut body = json!({
        "kind": draft.work.kind(),
        "args": args(&draft.work, text),
        "priority": draft.priority,
        "run_at": at(draft.run_in),
        "deadline": at(draft.deadline_in),
        "max_attempts": draft.attempts,
        "limit_key": draft.limit_key,
    });
    match draft.place {
        Place::Pool(pool) => body["pool"] = json!(pool),
        Place::Session(session) => body["session"] = json!(ACCOUNTS[session].0),
    }
    if let Some(unique) = &draft.unique {
        unique_fields(unique, &mut body);
    }
    body
}

fn unique_fields(unique: &Unique, body: &mut Value) {
    body["unique_key"] = json!(format!("unique-{}", unique.key));
    body["unique_scope"] = json!(unique.scope);
    body["unique_seconds"] = json!(unique.seconds);
    body["on_conflict"] = json!(unique.on_conflict);
}

/// A moment between two looks.
pub async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}
