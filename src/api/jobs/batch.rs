//! `POST /v1/jobs/batch`: up to 10,000 jobs in one transaction, read as they come in.

mod body;
mod intake;
mod parts;

use std::{sync::Arc, time::Duration};

use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

pub use self::body::NewBatchBody;
use self::{body::BatchBody, intake::Intake};
use crate::api::{
    State,
    auth::{Allowed, Operator},
    batches::BatchView,
    document::Tag,
    idempotency,
    problem::{Code, Problem},
    shell::RequestContext,
    typed::Answered,
};

/// Most jobs of a batch.
pub const MAX_JOBS: usize = 10_000;

/// The path of the operation, which has a time limit of its own.
pub const PATH: &str = "/v1/jobs/batch";

/// How long a batch may take: a large one comes in over a slow line, too.
pub const TIME_LIMIT: Duration = Duration::from_mins(1);

/// Batches that a process takes in at a time. Each holds a connection, and some megabytes.
pub const AT_A_TIME: usize = 4;

/// A stored batch, and what became of each of its items.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BatchCreated {
    pub batch: BatchView,
    /// In the order of the request.
    pub items: Vec<ItemView>,
}

/// What became of one item of a batch.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "BatchItem")]
pub struct ItemView {
    /// Its place in the request, from 0.
    pub index: usize,
    /// Its line in the body, from 1, of NDJSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    pub outcome: ItemOutcome,
    /// The job there is for it; of a `unique_key_conflict` the one that has the key.
    pub job: Option<Uuid>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemOutcome {
    /// A job was stored; it belongs to the batch.
    Created,
    /// A job that had the `unique_key` before stands for it.
    Existing,
    /// A job that had the `unique_key` before has its args now.
    Replaced,
    /// It was not stored.
    Refused,
}

/// Why an item was refused.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ItemError {
    pub code: Code,
    /// What is wrong, and how to put it right.
    pub detail: String,
    /// The path of the field in the item.
    pub field: Option<String>,
}

impl From<&Problem> for ItemError {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code(),
            detail: problem.detail().to_owned(),
            field: problem.wrong_field().map(str::to_owned),
        }
    }
}

#[derive(ApiResponse)]
enum Reply {
    /// The batch is stored, and nothing will lose it.
    #[oai(status = 202)]
    Accepted(
        Json<Answered<BatchCreated>>,
        /// Where the batch is.
        #[oai(header = "Location")]
        String,
        /// `true` when an equal request with this `Idempotency-Key` was answered before.
        #[oai(header = "Idempotency-Replayed")]
        Option<String>,
    ),
}

pub struct BatchApi;

#[OpenApi]
impl BatchApi {
    /// Create many jobs
    ///
    /// Stores up to 10,000 jobs in one transaction and answers 202 with a batch, whose progress `GET /v1/batches/{id}` tells
    /// and whose end is the event `batch.finished`. The body is JSON, or NDJSON with a job per line, up to 64 MiB; either is
    /// read as it comes in. `all_or_nothing` (the default) stores no job when one cannot be stored, and answers which
    /// (`batch_refused`); `per_item` stores the others. An `Idempotency-Key` works as it does for one job, for the batch as a
    /// whole. Scope: operator.
    #[oai(
        path = "/v1/jobs/batch",
        method = "post",
        operation_id = "create_batch",
        tag = "Tag::Batches"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the documented request")]
    async fn create(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `all_or_nothing` or `per_item`; a JSON body may name it itself.
        mode: Query<Option<String>>,
        /// 1 to 255 visible ASCII characters, such as a UUID: the same for every try of one request.
        #[oai(name = "Idempotency-Key")]
        _idempotency_key: Header<Option<String>>,
        body: BatchBody,
    ) -> Result<Reply, Problem> {
        let state = state.0;
        let key = idempotency::key(headers)?;
        let mode = mode.0.as_deref().map(body::read_mode).transpose()?;
        let _place = state.batches.try_acquire().map_err(|_| {
            let detail = format!("A process takes in {AT_A_TIME} batches at a time. Nothing was stored; try again.");
            Problem::new(Code::TooManyBatches, detail)
        })?;
        let mut intake = Intake::new(state, &caller.0, context.0, key.as_deref(), mode);
        let mut parts = body.parts();
        while let Some(part) = parts.recv().await {
            intake.take(part?).await?;
        }
        let done = intake.finish().await?;
        state.signals.enqueued(&done.wakes, None);
        let replayed = done.is_replayed.then(|| "true".to_owned());
        Ok(Reply::Accepted(Json(done.answer), done.location, replayed))
    }
}
