//! The invariants, looked at after every step: by SQL in one snapshot, and by what the sandbox saw.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use tokio::time::{Duration, Instant};
use uuid::Uuid;
use wireroom::sandbox::Misuse;

use super::{bed::Bed, model::Rated, plan::Work, watch};

/// By when every worker knows of a limit.
const KNOWN: Duration = Duration::from_secs(3);

/// What is remembered from look to look.
#[derive(Default)]
pub struct Checker {
    finals: HashMap<Uuid, Final>,
    fences: HashMap<Uuid, i64>,
    leases: HashMap<Uuid, i64>,
    pub looks: usize,
}

#[derive(Clone, PartialEq, Debug)]
struct Final {
    state: String,
    fence: i64,
    result: Option<Value>,
    error: Option<Value>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, FromRow)]
pub struct JobRow {
    pub id: Uuid,
    #[expect(dead_code, reason = "shown by failures")]
    kind: String,
    pub state: String,
    #[expect(dead_code, reason = "shown by failures")]
    pool: String,
    #[expect(dead_code, reason = "shown by failures")]
    session_id: Option<Uuid>,
    pub fence: i64,
    pub attempt: i32,
    pub max_attempts: i32,
    pub text: Option<String>,
    pub limit_key: Option<String>,
    pub result: Option<Value>,
    pub error: Option<Value>,
    pub finished_at: Option<DateTime<Utc>>,
    /// A send of it has begun.
    pub sending: bool,
}

impl JobRow {
    pub fn is_live(&self) -> bool {
        matches!(self.state.as_str(), "scheduled" | "queued" | "running")
    }

    fn error_code(&self) -> &str {
        self.error
            .as_ref()
            .and_then(|error| error["code"].as_str())
            .unwrap_or_default()
    }

    /// A message of it may be in Telegram without anybody knowing.
    fn is_in_doubt(&self) -> bool {
        (self.is_live() && self.sending) || (self.state == "failed" && self.error_code() == "outcome_unknown")
    }
}

/// One snapshot.
pub struct Look {
    pub jobs: Vec<JobRow>,
    leases: Vec<(Uuid, i64)>,
    pub now: DateTime<Utc>,
}

impl Look {
    pub async fn at(pool: &PgPool) -> Self {
        let mut transaction = pool.begin().await.expect("a transaction");
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut *transaction)
            .await
            .expect("a snapshot");
        let jobs = sqlx::query_as(
            "SELECT j.id, j.kind, j.state, j.pool, j.session_id, j.fence, j.attempt, j.max_attempts,
                j.args ->> 'text' AS text, o.limit_key, j.result, j.error, j.finished_at,
                EXISTS (SELECT FROM job_effects e WHERE e.job_id = j.id AND e.attempted_at IS NOT NULL) AS sending
             FROM all_jobs j LEFT JOIN job_origins o ON o.job_id = j.id",
        )
        .fetch_all(&mut *transaction)
        .await
        .expect("jobs");
        let leases = sqlx::query_as("SELECT session_id, fence FROM session_leases")
            .fetch_all(&mut *transaction)
            .await
            .expect("leases");
        let now = sqlx::query_scalar("SELECT wireroom_now()")
            .fetch_one(&mut *transaction)
            .await
            .expect("the time");
        transaction.rollback().await.expect("the snapshot ends");
        Self { jobs, leases, now }
    }
}

impl Bed {
    /// Looks at everything.
    pub async fn check(&mut self) {
        let before = Look::at(&self.pool).await;
        let messages = self.messages();
        let after = Look::at(&self.pool).await;
        check_effects(&before, &messages, &after);
        self.check_watches().await;
        self.check_outreach().await;
        self.check_jobs(&after);
        self.check_fences(&after);
        self.check_rates(&after);
        self.check_keys(&after);
        self.check_ticks().await;
        self.check_leases(&after);
        self.check_sessions().await;
        self.check_workers().await;
        assert_eq!(watch::offences(&self.pool).await, Vec::<String>::new());
        self.check_why(&after).await;
        for job in &after.jobs {
            self.checker.fences.insert(job.id, job.fence);
        }
        self.checker.looks += 1;
    }

    /// How many messages say what, of all that begin as ours do.
    fn messages(&self) -> HashMap<String, usize> {
        let ours = format!("Simulation {},", self.seed);
        self.sandbox.controls().with_world(|world| {
            let mut counts = HashMap::new();
            for chat in world.chats() {
                for message in world.messages_of(chat.chat) {
                    if message.text.starts_with(&ours) {
                        *counts.entry(message.text).or_default() += 1;
                    }
                }
            }
            counts
        })
    }

    /// Each job is in one place, what was acknowledged is there, and an end stays as it is.
    fn check_jobs(&mut self, look: &Look) {
        let mut seen = HashSet::new();
        for job in &look.jobs {
            assert!(seen.insert(job.id), "job {} is there twice: {job:?}", job.id);
            assert!(job.attempt <= job.max_attempts, "too many attempts: {job:?}");
            let end = Final {
                state: job.state.clone(),
                fence: job.fence,
                result: job.result.clone(),
                error: job.error.clone(),
                finished_at: job.finished_at,
            };
            match self.checker.finals.get(&job.id) {
                Some(known) => assert_eq!(*known, end, "job {} ended twice", job.id),
                None if job.is_live() => {}
                None => drop(self.checker.finals.insert(job.id, end)),
            }
        }
        let lost: Vec<_> = self
            .model
            .acknowledged
            .iter()
            .filter(|id| !seen.contains(*id))
            .collect();
        assert!(lost.is_empty(), "acknowledged, and not there: {lost:?}");
        let gone: Vec<_> = self.checker.fences.keys().filter(|id| !seen.contains(*id)).collect();
        assert!(gone.is_empty(), "there before, and not any more: {gone:?}");
    }

    fn check_fences(&self, look: &Look) {
        for job in &look.jobs {
            let before = self.checker.fences.get(&job.id).copied().unwrap_or(0);
            assert!(job.fence >= before, "a fence went back from {before}: {job:?}");
        }
    }

    fn check_leases(&mut self, look: &Look) {
        for (session, fence) in &look.leases {
            let before = self.checker.leases.insert(*session, *fence).unwrap_or(0);
            assert!(*fence >= before, "the lease fence of {session} went back from {before}");
        }
    }

    /// Starts of a key since the first look at it, against what its bucket can have given.
    fn check_rates(&mut self, look: &Look) {
        let mut claims: BTreeMap<&str, i64> = BTreeMap::new();
        for job in &look.jobs {
            if let Some(key) = &job.limit_key {
                *claims.entry(key).or_default() += job.fence;
            }
        }
        for (key, count) in claims {
            let class = key.split(':').next().unwrap_or_default();
            let name = [key, class]
                .into_iter()
                .find(|name| self.model.rates.contains_key(name));
            if let Some(rated) = name.and_then(|name| self.model.rates.get_mut(name)) {
                check_rate(rated, key, count, look.now);
            }
        }
    }

    /// Of the jobs with one unique key of the scope `live`, one lives.
    fn check_keys(&self, look: &Look) {
        let live: HashSet<Uuid> = look.jobs.iter().filter(|job| job.is_live()).map(|job| job.id).collect();
        for (key, jobs) in self.model.live_keys() {
            let live: Vec<_> = jobs.intersection(&live.iter().copied().collect()).copied().collect();
            assert!(live.len() <= 1, "{key:?} is the unique key of {live:?}");
        }
    }

    /// No key was used from two places; but the connection of a frozen worker stands open beside its successor's.
    async fn check_sessions(&mut self) {
        for incident in self.sandbox.controls().take_incidents() {
            let excused = incident.kind == Misuse::OpenTwice
                && self
                    .model
                    .frozen
                    .iter()
                    .any(|(account, _)| Some(*account) == incident.account);
            assert!(excused, "a key was used from two places: {incident:?}");
        }
        let now = Instant::now();
        self.model
            .frozen
            .retain(|(_, until)| until.is_none_or(|until| until > now));
        let lost: Vec<(String, String)> =
            sqlx::query_as("SELECT label, state FROM sessions WHERE state NOT IN ('ready', 'limited')")
                .fetch_all(&self.pool)
                .await
                .expect("sessions");
        assert!(lost.is_empty(), "sessions were lost: {lost:?}");
    }

    /// A worker ends when it is told to, and not before.
    async fn check_workers(&mut self) {
        for slot in &mut self.workers {
            if slot.as_ref().is_some_and(super::worker::Worker::has_ended) {
                let worker = slot.take().expect("it is there");
                panic!("a worker ended by itself: {}", worker.end().await);
            }
        }
    }

    /// The API has a reason for each of the jobs that were asked about, another one at each look.
    async fn check_why(&self, look: &Look) {
        let live: Vec<&JobRow> = look.jobs.iter().filter(|job| job.is_live()).collect();
        let Some(job) = live.get(self.checker.looks % live.len().max(1)) else {
            return;
        };
        let path = format!("/v1/jobs/{}/why", job.id);
        let why = self.expect(Method::GET, &path, None, &[200]).await;
        let reasons = why["reasons"].as_array().expect("reasons");
        let told = |reason: &Value| {
            [&reason["code"], &reason["message"]]
                .iter()
                .all(|text| text.as_str() > Some(""))
        };
        assert!(!reasons.is_empty() && reasons.iter().all(told), "{why}");
    }

    /// How many drafts publish.
    pub fn drafts_that_publish(&self) -> usize {
        let drafts = self.model.drafts.iter();
        drafts
            .filter(|drafted| matches!(drafted.draft.work, Work::Publish(_)))
            .count()
    }
}

/// A message for each job that succeeded, and none for one that ended otherwise, unless it says that nobody knows.
fn check_effects(before: &Look, messages: &HashMap<String, usize>, after: &Look) {
    let count = |look: &Look, counts: fn(&JobRow) -> bool| {
        let mut texts: HashMap<String, usize> = HashMap::new();
        for job in look.jobs.iter().filter(|job| counts(job)) {
            if let Some(text) = &job.text {
                *texts.entry(text.clone()).or_default() += 1;
            }
        }
        texts
    };
    let is_sent = |job: &JobRow| job.state == "succeeded";
    for (text, least) in count(before, is_sent) {
        let sent = messages.get(&text).copied().unwrap_or(0);
        assert!(sent >= least, "{least} jobs sent {text:?}, and {sent} messages say so");
    }
    let most = count(after, |job| job.state == "succeeded" || job.is_in_doubt());
    for (text, sent) in messages {
        let most = most.get(text).copied().unwrap_or(0);
        let jobs: Vec<_> = after
            .jobs
            .iter()
            .filter(|job| job.text.as_ref() == Some(text))
            .collect();
        assert!(*sent <= most, "{sent} messages say {text:?}, and {most} may: {jobs:#?}");
    }
}

fn check_rate(rated: &mut Rated, key: &str, count: i64, now: DateTime<Utc>) {
    if rated.since.elapsed() < KNOWN {
        return;
    }
    let (base, at) = *rated.base.entry(key.to_owned()).or_insert((count, now));
    let elapsed = now - at;
    // A burst of one, one for the edges of the look, and the refill.
    let most = 2 + (elapsed.num_milliseconds() * rated.starts) / (rated.period * 1000);
    assert!(
        count - base <= most,
        "{} starts of {key} in {elapsed}, of at most {most} by {} in {} s",
        count - base,
        rated.starts,
        rated.period
    );
}
