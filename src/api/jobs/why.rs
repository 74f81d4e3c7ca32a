//! `GET /v1/jobs/{id}/why`: what keeps a job from running, and when that ends, in words and data; or what it does, or how
//! it ended.

mod reasons;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

pub use self::reasons::reason;
use self::reasons::{Facts, reasons};
use super::{
    job_id, not_found,
    view::{self, StateView, WaitView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        problem::Problem,
        typed::Typed,
    },
    store::{
        self, audit, holds,
        job_reads::{self, JobState},
    },
};

/// Why a job is not running, or what became of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Why")]
pub struct WhyView {
    pub id: Uuid,
    pub state: StateView,
    /// The first of `reasons`.
    pub reason: WaitView,
    /// Everything that holds the job now, what must be resolved first in front; of a job that runs or has ended, that.
    pub reasons: Vec<ReasonView>,
    /// How the sessions stand on which it can run; null when that is not what it waits for.
    pub sessions: Option<PlaceView>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "WhyReason")]
pub struct ReasonView {
    /// A stable word.
    #[schemars(example = &"limit_reached")]
    pub code: String,
    /// One sentence for a person.
    pub message: String,
    /// When that ends by itself, where it is known.
    pub until: Option<DateTime<Utc>>,
    /// What the sentence says, for a program; its fields depend on `code`.
    #[schemars(schema_with = "data_schema")]
    pub data: Value,
}

/// The sessions on which a queued job can run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "JobPlace")]
pub struct PlaceView {
    /// How many there are.
    pub total: i64,
    /// How many of them are ready.
    pub ready: i64,
    /// How many of the ready ones a worker holds.
    pub held: i64,
    /// How many of the held ones may do what the job does now.
    pub open: i64,
    /// When the first gate of the others opens.
    pub opens_at: Option<DateTime<Utc>>,
}

fn data_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": true })
}

pub struct WhyApi;

#[OpenApi]
impl WhyApi {
    /// Explain a job
    ///
    /// Says everything that keeps a job from running, and when that ends; of a job that runs where it does, and of one that
    /// has ended how. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/why",
        method = "get",
        operation_id = "explain_job",
        tag = "Tag::Jobs"
    )]
    async fn why(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The job's id.
        id: Path<String>,
    ) -> Result<Json<Typed<WhyView>>, Problem> {
        let job = job_reads::get(&state.pool, job_id(&id)?).await?.ok_or_else(not_found)?;
        let place = match view::place(&job) {
            Some(place) => job_reads::place_facts(&state.pool, &[place]).await?.pop(),
            None => None,
        };
        let mut conn = store::connection(&state.pool, "job_holds").await?;
        let facts = Facts {
            holds: holds::of_job(&mut conn, job.id).await?.unwrap_or_default(),
            controls: if job.state.is_finished() {
                holds::Controls::default()
            } else {
                holds::controls(&mut conn).await?
            },
            cancel_wait: state.config.queue.cancel_wait,
            cancelled_by: if job.state == JobState::Cancelled || job.cancel_requested_at.is_some() {
                audit::actor_of(&mut conn, "job.cancelled", &format!("job:{}", job.id)).await?
            } else {
                None
            },
        };
        let reasons = reasons(&job, place.as_ref(), &facts);
        let first = reasons
            .first()
            .ok_or_else(|| Problem::internal("a job without any reason"))?;
        Ok(Json(Typed(WhyView {
            id: job.id.0,
            state: job.state.into(),
            reason: WaitView {
                code: first.code.clone(),
                message: first.message.clone(),
                until: first.until,
            },
            reasons,
            sessions: place.map(|facts| PlaceView {
                total: facts.sessions,
                ready: facts.ready,
                held: facts.held,
                open: facts.open,
                opens_at: facts.opens_at,
            }),
        })))
    }
}
