//! `GET /v1/batches/{id}`: how far jobs are that were enqueued together.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Viewer},
    document::Tag,
    problem::{Code, Problem},
    typed::Typed,
};
use crate::{
    ids::BatchId,
    store::batches::{self, BatchMode, BatchRecord},
};

/// Jobs that were enqueued together.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Batch")]
pub struct BatchView {
    pub id: Uuid,
    pub mode: ModeView,
    pub state: BatchState,
    /// Jobs it was made of: those that were stored for it. The counts add up to it.
    pub total: i32,
    pub counts: BatchCounts,
    /// The key that made it: `key:<id>`.
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    /// When its last job finished; then the event `batch.finished` was written.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What happens when some jobs of a batch cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "BatchMode")]
pub enum ModeView {
    /// None is.
    AllOrNothing,
    /// The others are.
    PerItem,
}

/// How a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Some of its jobs have not finished.
    Running,
    /// All of its jobs have, one way or another.
    Finished,
}

/// How many jobs of a batch are in each state, at one moment.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BatchCounts {
    pub scheduled: i64,
    pub queued: i64,
    pub running: i64,
    pub succeeded: i32,
    pub failed: i32,
    pub cancelled: i32,
}

impl From<BatchMode> for ModeView {
    fn from(mode: BatchMode) -> Self {
        match mode {
            BatchMode::AllOrNothing => Self::AllOrNothing,
            BatchMode::PerItem => Self::PerItem,
        }
    }
}

impl From<BatchRecord> for BatchView {
    fn from(batch: BatchRecord) -> Self {
        Self {
            id: batch.id.0,
            mode: batch.mode.into(),
            state: match batch.finished_at {
                None => BatchState::Running,
                Some(_) => BatchState::Finished,
            },
            total: batch.total,
            counts: BatchCounts {
                scheduled: batch.scheduled,
                queued: batch.queued,
                running: batch.running,
                succeeded: batch.succeeded,
                failed: batch.failed,
                cancelled: batch.cancelled,
            },
            created_by: batch.created_by,
            created_at: batch.created_at,
            finished_at: batch.finished_at,
        }
    }
}

pub struct BatchesApi;

#[OpenApi]
impl BatchesApi {
    /// Look at a batch
    ///
    /// Shows how many of its jobs are in each state. A batch is kept as long as its jobs. Scope: viewer.
    #[oai(
        path = "/v1/batches/:id",
        method = "get",
        operation_id = "get_batch",
        tag = "Tag::Batches"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The batch's id.
        id: Path<String>,
    ) -> Result<Json<Typed<BatchView>>, Problem> {
        let id: BatchId = id
            .parse()
            .map_err(|_| Problem::new(Code::InvalidParameter, "A batch's id is a UUID.").field("id"))?;
        let batch = batches::get(&state.pool, id).await?.ok_or_else(|| {
            let detail = "There is no batch of that id. Finished batches are kept for a limited time.";
            Problem::new(Code::BatchNotFound, detail)
        })?;
        Ok(Json(Typed(batch.into())))
    }
}
