//! `GET /v1/jobs/{id}/events`: a job's life as server-sent events, until its final one.

mod stream;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::{
    IntoResponse, Response,
    http::{StatusCode, header},
    web::Data,
};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Path},
    payload::Payload,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use wireroom_jobs::JobError;

pub use self::stream::Pace;
use self::stream::Place;
use super::{job_id, not_found, view::StateView};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        problem::{Code, Problem},
        typed::Typed,
    },
    store::job_reads,
};

/// What `data` of an event holds, by the event's name.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "JobEvent")]
pub enum EventView {
    /// `state`: the job is in another state, or waits for something else.
    State(StateEvent),
    /// `progress`: how far it is. Only the latest counts: none is sent again to a client that comes back.
    Progress(#[schemars(schema_with = "progress_schema")] Value),
    /// `log`: a line of the running job.
    Log(LogEvent),
    /// `final`: the job has ended, and so does the stream.
    Final(FinalEvent),
}

/// A change of a job's state.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StateEvent {
    pub state: StateView,
    pub attempt: i32,
    /// The worker that runs it.
    pub worker: Option<Uuid>,
    /// The session it stays with, or runs on.
    pub session: Option<Uuid>,
    /// When it is, or was, due.
    pub run_at: DateTime<Utc>,
    /// What made it wait.
    #[schemars(schema_with = "wait_schema")]
    pub wait_reason: Option<Value>,
}

/// A line of a running job.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LogEvent {
    pub at: DateTime<Utc>,
    pub attempt: i32,
    #[schemars(extend("enum" = ["info", "warn"]))]
    pub level: String,
    /// A stable word.
    #[schemars(example = &"page_stored")]
    pub code: String,
    /// One sentence, always the same for a code.
    pub message: String,
    /// The numbers that go with it, by name.
    #[schemars(schema_with = "super::view::object_schema")]
    pub data: Value,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FinalEvent {
    pub state: StateView,
    pub attempt: i32,
    pub finished_at: Option<DateTime<Utc>>,
    /// What a succeeded job brought.
    #[schemars(schema_with = "super::view::result_schema")]
    pub result: Option<Value>,
    /// Why a failed job failed.
    #[schemars(schema_with = "error_schema")]
    pub error: Option<Value>,
}

fn progress_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<super::progress::ProgressView>()
}

fn wait_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<super::attempts::AttemptWait>>()
}

fn error_schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Option<JobError>>()
}

/// The stream, or the word that there is nothing more to come.
struct Events(Response);

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Events {
    fn meta() -> MetaResponses {
        let response = |status, description, content| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content,
            headers: vec![],
        };
        let events = MetaMediaType {
            content_type: "text/event-stream",
            schema: <poem_openapi::payload::Json<Typed<EventView>> as Payload>::schema_ref(),
        };
        MetaResponses {
            responses: vec![
                response(
                    200,
                    "The events, each with its name (`state`, `progress`, `log`, `final`) and its data as JSON.",
                    vec![events],
                ),
                response(
                    204,
                    "The client has seen the final event: nothing more will come, and it need not connect again.",
                    vec![],
                ),
            ],
        }
    }

    fn register(registry: &mut Registry) {
        <poem_openapi::payload::Json<Typed<EventView>> as Payload>::register(registry);
    }
}

pub struct EventsApi;

#[OpenApi]
impl EventsApi {
    /// Follow a job
    ///
    /// Streams the job's changes of state, its progress and its lines as server-sent events, and ends with the event
    /// `final`; of a finished job, its lines and that. Ids grow within a job: a client that comes back with the last one in
    /// `Last-Event-ID` gets what it missed (as far as lines are kept: the newest 500 of a job, for 7 days), and 204 when it
    /// had seen the end. A comment comes every 15 s when nothing else does; after 10 minutes without an event, and after an
    /// hour in any case, the stream ends and the client connects again. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/events",
        method = "get",
        operation_id = "follow_job",
        tag = "Tag::Jobs"
    )]
    async fn events(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The job's id.
        id: Path<String>,
        /// The id of the last event the client has seen.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<String>>,
    ) -> Result<Events, Problem> {
        let id = job_id(&id)?;
        let place = place(last_event_id.as_deref())?;
        let job = job_reads::get(&state.pool, id).await?.ok_or_else(not_found)?;
        if place.is_the_end() {
            return if job.state.is_finished() {
                Ok(Events(StatusCode::NO_CONTENT.into_response()))
            } else {
                Err(not_an_id())
            };
        }
        let following = state.followers.follow(id)?;
        let body = stream::open(state.pool.clone(), following, place, state.pace);
        let response = Response::builder()
            .content_type("text/event-stream")
            .header(header::CACHE_CONTROL, "no-store")
            // A proxy that collects a response before it passes it on would hold every event back.
            .header("X-Accel-Buffering", "no")
            .body(body);
        Ok(Events(response))
    }
}

fn place(last_event_id: Option<&str>) -> Result<Place, Problem> {
    let Some(text) = last_event_id.filter(|text| !text.is_empty()) else {
        return Ok(Place::START);
    };
    Place::parse(text).ok_or_else(not_an_id)
}

fn not_an_id() -> Problem {
    let detail = "Pass the id of an event of this job, unchanged, or leave the header out to begin at the start.";
    Problem::new(Code::InvalidParameter, detail).field("Last-Event-ID")
}

/// What is usual outside of tests.
pub const PACE: Pace = Pace {
    keep_alive: Duration::from_secs(15),
    quiet_keep_alives: 40,
    age: Duration::from_hours(1),
    patience: Duration::from_secs(30),
};

#[cfg(test)]
mod tests;
