//! `GET /v1/jobs/{id}/attempts`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use wireroom_jobs::{JobError, WaitReason};

use super::{job_id, not_found};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::{self, List, Page},
        problem::Problem,
        typed::Typed,
    },
    store::{
        attempt_reads::{self, AttemptRecord},
        job_reads,
    },
};

/// How an attempt ended.
const OUTCOMES: [&str; 8] = [
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "retry",
    "snooze",
    "handed_over",
    "orphaned",
];

/// One execution of a job by one worker.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Attempt")]
pub struct AttemptView {
    /// Its number, from 1. An attempt that only waited or was handed over does not count: the next one has its number.
    pub attempt: i32,
    /// Grows from attempt to attempt.
    pub fence: i64,
    /// `running`; `retry`, `snooze` or `handed_over` when the job went back to wait; `orphaned` when its worker or session
    /// was lost; else the job's final state.
    #[schemars(extend("enum" = OUTCOMES))]
    pub outcome: String,
    pub worker: Option<Uuid>,
    pub session: Option<Uuid>,
    /// When its function was called, or else when a worker took it.
    pub started_at: Option<DateTime<Utc>>,
    /// Null while it runs.
    pub ended_at: Option<DateTime<Utc>>,
    /// What went wrong.
    #[schemars(schema_with = "error_schema")]
    pub error: Option<Value>,
    /// What the job waited for after it.
    #[schemars(schema_with = "wait_schema")]
    pub wait: Option<Value>,
}

impl From<AttemptRecord> for AttemptView {
    fn from(attempt: AttemptRecord) -> Self {
        Self {
            attempt: attempt.attempt,
            fence: attempt.fence,
            outcome: attempt.outcome,
            worker: attempt.worker.map(|id| id.0),
            session: attempt.session.map(|id| id.0),
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            error: attempt.error,
            wait: attempt.wait_reason,
        }
    }
}

fn error_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<JobError>>()
}

fn wait_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<AttemptWait>>()
}

/// What a job waited for after an attempt.
#[derive(JsonSchema)]
#[serde(transparent)]
#[expect(dead_code, reason = "for its schema: the API's other WaitReason has a time too")]
pub(super) struct AttemptWait(WaitReason);

pub struct AttemptsApi;

#[OpenApi]
impl AttemptsApi {
    /// List a job's attempts
    ///
    /// Lists the attempts that have begun, the latest first: the one that runs, or was the last, and those before it. They
    /// are kept as long as finished jobs are. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/attempts",
        method = "get",
        operation_id = "list_attempts",
        tag = "Tag::Jobs"
    )]
    async fn attempts(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The job's id.
        id: Path<String>,
        /// Most attempts of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<AttemptView>>>, Problem> {
        let job = job_id(&id)?;
        let limit = page::limit(limit.as_deref())?;
        let before = page::decode(List::Attempts, cursor.as_deref())?;
        let attempts = attempt_reads::page(&state.pool, job, before, i64::from(limit) + 1).await?;
        if attempts.is_empty() && job_reads::get(&state.pool, job).await?.is_none() {
            return Err(not_found());
        }
        let (attempts, next_cursor) = page::cut(attempts, limit, List::Attempts, |attempt| attempt.fence.to_string());
        let items = attempts.into_iter().map(AttemptView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }
}

#[cfg(test)]
mod tests;
