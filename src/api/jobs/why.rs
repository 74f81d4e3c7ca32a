//! `GET /v1/jobs/{id}/why`: why a job is not running, and when it will, in words and data.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

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
    store::job_reads::{self, JobRecord, JobState, PlaceFacts},
};

/// Why a job is not running.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Why")]
pub struct WhyView {
    pub id: Uuid,
    pub state: StateView,
    /// What is in its way, or what it does; a stable word in `code`.
    pub reason: WaitView,
    /// How the sessions stand on which it can run; null when that is not what it waits for.
    pub sessions: Option<PlaceView>,
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

pub struct WhyApi;

#[OpenApi]
impl WhyApi {
    /// Explain a job
    ///
    /// Says why a job is not running, and when it will. Scope: viewer.
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
        let facts = match view::place(&job) {
            Some(place) => job_reads::place_facts(&state.pool, &[place]).await?.pop(),
            None => None,
        };
        Ok(Json(Typed(WhyView {
            id: job.id.0,
            state: job.state.into(),
            reason: reason(&job, facts.as_ref()).unwrap_or_else(|| nothing_in_the_way(&job)),
            sessions: facts.map(|facts| PlaceView {
                total: facts.sessions,
                ready: facts.ready,
                held: facts.held,
                open: facts.open,
                opens_at: facts.opens_at,
            }),
        })))
    }
}

/// What keeps a job from running; `None` when nothing does.
pub fn reason(job: &JobRecord, facts: Option<&PlaceFacts>) -> Option<WaitView> {
    match job.state {
        JobState::Scheduled => Some(scheduled(job)),
        JobState::Queued => facts.and_then(|facts| queued(job, facts)),
        _ => None,
    }
}

fn scheduled(job: &JobRecord) -> WaitView {
    let text = |key: &str| job.wait_reason.as_ref()?.get(key)?.as_str().map(str::to_owned);
    WaitView {
        code: text("code").unwrap_or_else(|| "scheduled".to_owned()),
        message: text("message").unwrap_or_else(|| "The job is not due yet.".to_owned()),
        until: Some(job.run_at),
    }
}

fn queued(job: &JobRecord, facts: &PlaceFacts) -> Option<WaitView> {
    if job.session.is_some() {
        return pinned(facts);
    }
    let pool = &job.pool;
    if facts.sessions == 0 {
        return Some(wait("pool_empty", format!("The pool {pool} has no sessions.")));
    }
    if facts.ready == 0 {
        let message = format!("None of the {} sessions of the pool {pool} is ready.", facts.sessions);
        return Some(wait("no_ready_session", message));
    }
    if facts.held == 0 {
        let message = format!(
            "No worker holds a session of the pool {pool}; {} would be ready.",
            facts.ready
        );
        return Some(wait("no_worker", message));
    }
    gated(facts, "Every session of the pool that a worker holds")
}

fn pinned(facts: &PlaceFacts) -> Option<WaitView> {
    let Some(state) = &facts.session_state else {
        return Some(wait(
            "session_gone",
            "The job's session is not there any more.".to_owned(),
        ));
    };
    if facts.ready == 0 {
        let because = facts
            .session_state_reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        return Some(wait(
            "session_not_ready",
            format!("The job's session is {state}{because}."),
        ));
    }
    if facts.held == 0 {
        return Some(wait("no_worker", "No worker holds the job's session.".to_owned()));
    }
    gated(facts, "The job's session")
}

fn gated(facts: &PlaceFacts, who: &str) -> Option<WaitView> {
    if facts.open > 0 {
        return None;
    }
    let reason = facts.gate_reason.as_deref().unwrap_or("a gate is closed");
    Some(WaitView {
        code: "gate_closed".to_owned(),
        message: format!("{who} may not do this for now ({reason})."),
        until: facts.opens_at,
    })
}

fn wait(code: &str, message: String) -> WaitView {
    WaitView {
        code: code.to_owned(),
        message,
        until: None,
    }
}

fn nothing_in_the_way(job: &JobRecord) -> WaitView {
    let error = |key: &str| {
        job.error
            .as_ref()
            .and_then(|error| error.get(key))
            .and_then(Value::as_str)
    };
    let (code, message) = match job.state {
        JobState::Scheduled => ("scheduled", "The job is not due yet.".to_owned()),
        JobState::Queued => (
            "queued",
            "Nothing is in its way: it runs when a session it may use has a free slot.".to_owned(),
        ),
        JobState::Running if job.cancel_requested_at.is_some() => {
            ("cancelling", "It runs, and was asked to stop.".to_owned())
        }
        JobState::Running => ("running", "It runs.".to_owned()),
        JobState::Succeeded => ("succeeded", "It has run, and succeeded.".to_owned()),
        JobState::Failed => (
            error("code").unwrap_or("failed"),
            error("message").unwrap_or("It failed.").to_owned(),
        ),
        JobState::Cancelled => ("cancelled", "It was cancelled.".to_owned()),
    };
    WaitView {
        code: code.to_owned(),
        message,
        until: None,
    }
}
