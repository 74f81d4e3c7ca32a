//! `GET /v1/workers`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Query, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Viewer},
    document::Tag,
    page::{self, List, Page},
    problem::{Code, Problem},
    typed::Typed,
};
use crate::{
    ids::WorkerId,
    store::worker_reads::{self, WorkerRecord},
};

/// One start of a worker process.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Worker")]
pub struct WorkerView {
    /// Fresh for every start.
    pub id: Uuid,
    pub host: String,
    pub pid: i32,
    pub version: String,
    #[schemars(extend("enum" = ["running", "draining", "stopped"]))]
    pub state: String,
    /// It has not stopped, and its heart beat lately.
    pub alive: bool,
    /// How many sessions it holds.
    pub sessions: i64,
    pub running_jobs: i64,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
}

impl From<WorkerRecord> for WorkerView {
    fn from(worker: WorkerRecord) -> Self {
        Self {
            id: worker.id.0,
            host: worker.host,
            pid: worker.pid,
            version: worker.version,
            state: worker.state,
            alive: worker.alive,
            sessions: worker.sessions,
            running_jobs: worker.running_jobs,
            started_at: worker.started_at,
            heartbeat_at: worker.heartbeat_at,
        }
    }
}

pub struct WorkersApi;

#[OpenApi]
impl WorkersApi {
    /// List workers
    ///
    /// Lists starts of worker processes, the latest first. Scope: viewer.
    #[oai(
        path = "/v1/workers",
        method = "get",
        operation_id = "list_workers",
        tag = "Tag::Workers"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only those that are alive (`true`), or all (`false`, the default).
        alive: Query<Option<String>>,
        /// Most workers of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<WorkerView>>>, Problem> {
        let only_alive = match alive.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                return Err(Problem::new(Code::InvalidParameter, "alive takes true or false.").field("alive"));
            }
        };
        let limit = page::limit(limit.as_deref())?;
        let before: Option<WorkerId> = page::decode(List::Workers, cursor.as_deref())?;
        let dead_after = state.config.queue.worker_dead;
        let workers = worker_reads::list(&state.pool, dead_after, only_alive, before, i64::from(limit) + 1).await?;
        let (workers, next_cursor) = page::cut(workers, limit, List::Workers, |worker| worker.id.to_string());
        let items = workers.into_iter().map(WorkerView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }
}
