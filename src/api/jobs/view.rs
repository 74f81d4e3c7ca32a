//! A job as the API shows it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use wireroom_jobs::{JobError, JobKind};

use super::{
    progress::{ProgressView, timed},
    why,
};
use crate::{
    api::{State, problem::Problem},
    store::{
        self, PgConnection,
        job_reads::{self, JobRecord, JobState, Place, PlaceFacts},
        pauses::{self, Pause},
    },
};

/// A job, with everything that is known of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Job")]
pub struct JobView {
    #[serde(flatten)]
    pub facts: JobFacts,
    /// What the kind was asked to do, as it was read.
    #[schemars(schema_with = "args_schema")]
    pub args: Value,
}

/// A job as lists show it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct JobSummary {
    #[serde(flatten)]
    pub facts: JobFacts,
    /// What the kind was asked to do, without the text of messages.
    #[schemars(schema_with = "object_schema")]
    pub args: Value,
}

/// What is known of a job beside its args.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct JobFacts {
    pub id: Uuid,
    #[schemars(schema_with = "kind_schema")]
    pub kind: String,
    pub state: StateView,
    /// The pool whose sessions may run it.
    pub pool: String,
    /// The session it stays with: named by the client, or taken with its first call to Telegram.
    pub session: Option<Uuid>,
    pub priority: i16,
    pub tags: Vec<String>,
    /// What rate limits count it by.
    pub limit_key: Option<String>,
    /// The finished job that it repeats.
    pub retry_of: Option<Uuid>,
    /// How many attempts have begun; those that only waited are not counted.
    pub attempt: i32,
    pub max_attempts: i32,
    pub created_at: DateTime<Utc>,
    /// When it is, or was, due.
    pub run_at: DateTime<Utc>,
    /// It fails when it has not been started by then.
    pub deadline: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// A running job was asked to stop then.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// The worker that runs it, or ran it last.
    pub worker: Option<Uuid>,
    /// Why it does not run yet; null when nothing is in its way.
    pub wait_reason: Option<WaitView>,
    /// How far it is, where the kind can say.
    #[schemars(schema_with = "progress_schema")]
    pub progress: Option<Value>,
    /// What a succeeded job brought: which fields, the kind says.
    #[schemars(schema_with = "result_schema")]
    pub result: Option<Value>,
    /// Why a failed job failed; of a job that is still to run, how its last attempt ended.
    #[schemars(schema_with = "error_schema")]
    pub error: Option<Value>,
    /// The key that made it: `key:<id>`.
    pub created_by: Option<String>,
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "JobState")]
pub enum StateView {
    /// Not due yet.
    Scheduled,
    /// Due, and waiting for a session with a free slot.
    Queued,
    /// A worker runs it.
    Running,
    /// It ended well: see `result`.
    Succeeded,
    /// It ended badly: see `error`.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// Why a job does not run yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "WaitReason")]
pub struct WaitView {
    /// A stable word.
    #[schemars(example = &"no_ready_session")]
    pub code: String,
    /// One sentence for a person.
    #[schemars(example = &"No session of the pool default is ready.")]
    pub message: String,
    /// When that ends by itself, where it is known.
    pub until: Option<DateTime<Utc>>,
}

impl From<JobState> for StateView {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Scheduled => Self::Scheduled,
            JobState::Queued => Self::Queued,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

impl JobView {
    pub fn of(mut job: JobRecord, wait_reason: Option<WaitView>) -> Self {
        let args = job.args.take();
        Self {
            facts: JobFacts::of(job, wait_reason),
            args,
        }
    }
}

impl JobSummary {
    pub fn of(mut job: JobRecord, wait_reason: Option<WaitView>) -> Self {
        let args = job.args.take();
        Self {
            facts: JobFacts::of(job, wait_reason),
            args,
        }
    }
}

impl JobFacts {
    fn of(job: JobRecord, wait_reason: Option<WaitView>) -> Self {
        Self {
            id: job.id.0,
            kind: job.kind,
            state: job.state.into(),
            pool: job.pool,
            session: job.session.map(|id| id.0),
            priority: job.priority,
            tags: job.tags,
            limit_key: job.limit_key,
            retry_of: job.retry_of.map(|id| id.0),
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            created_at: job.created_at,
            run_at: job.run_at,
            deadline: job.deadline,
            started_at: job.started_at,
            finished_at: job.finished_at,
            cancel_requested_at: job.cancel_requested_at,
            worker: job.worker.map(|id| id.0),
            wait_reason,
            progress: job.progress.map(timed),
            result: job.result,
            error: job.error,
            created_by: job.created_by,
        }
    }
}

/// Where a queued job of a known kind can run.
pub fn place(job: &JobRecord) -> Option<Place> {
    let kind = JobKind::parse(&job.kind)?;
    (job.state == JobState::Queued).then(|| Place {
        session: job.session,
        pool: job.pool.clone(),
        action: kind.action().as_str(),
        people: kind == JobKind::Monitor,
    })
}

/// The jobs with the reasons why they wait, which one statement finds for all of them.
pub async fn with_wait_reasons(
    state: &State,
    jobs: Vec<JobRecord>,
) -> Result<Vec<(JobRecord, Option<WaitView>)>, Problem> {
    if jobs.iter().all(|job| place(job).is_none()) {
        return Ok(reasons(jobs, &HashMap::new(), &[]));
    }
    let mut conn = store::connection(&state.pool, "wait_reasons").await?;
    all_within(&mut conn, jobs).await
}

/// The same as the caller's transaction sees them.
pub async fn all_within(
    conn: &mut PgConnection,
    jobs: Vec<JobRecord>,
) -> Result<Vec<(JobRecord, Option<WaitView>)>, Problem> {
    let mut places: Vec<Place> = Vec::new();
    for place in jobs.iter().filter_map(place) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    if places.is_empty() {
        return Ok(reasons(jobs, &HashMap::new(), &[]));
    }
    let pauses = pauses::active(conn).await?.0;
    let facts = job_reads::place_facts(conn, &places).await?;
    let facts = places.into_iter().zip(facts).collect();
    Ok(reasons(jobs, &facts, &pauses))
}

fn reasons(
    jobs: Vec<JobRecord>,
    facts: &HashMap<Place, PlaceFacts>,
    pauses: &[Pause],
) -> Vec<(JobRecord, Option<WaitView>)> {
    jobs.into_iter()
        .map(|job| {
            let at = place(&job).and_then(|place| facts.get(&place));
            let reason = why::reason(&job, at, pauses);
            (job, reason)
        })
        .collect()
}

/// One job with its reason.
pub async fn with_wait_reason(state: &State, job: JobRecord) -> Result<JobView, Problem> {
    one(with_wait_reasons(state, vec![job]).await?)
}

/// One job with its reason, as the caller's transaction sees it.
pub async fn within(conn: &mut PgConnection, job: JobRecord) -> Result<JobView, Problem> {
    one(all_within(conn, vec![job]).await?)
}

fn one(mut jobs: Vec<(JobRecord, Option<WaitView>)>) -> Result<JobView, Problem> {
    let (job, reason) = jobs
        .pop()
        .ok_or_else(|| Problem::internal("a job went missing between two lines"))?;
    Ok(JobView::of(job, reason))
}

fn args_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/JobArgs" })
}

pub(super) fn object_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": true })
}

fn kind_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/JobKind" })
}

pub(super) fn result_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "$ref": "#/components/schemas/JobResult" }, { "type": "null" }] })
}

fn progress_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<ProgressView>>()
}

fn error_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<JobError>>()
}
