//! `POST /v1/jobs/bulk/cancel` and `POST /v1/jobs/bulk/retry`: many jobs by filter, with a dry run that counts.

use std::{sync::Arc, time::Duration};

use poem::web::Data;
use poem_openapi::{OpenApi, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wireroom_jobs::JobKind;

use super::body;
use crate::{
    api::{
        State,
        auth::{Allowed, Caller, Operator},
        document::Tag,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::JobId,
    store::{
        self, PgConnection, audit,
        bulk::{self, BulkCancelled},
        failed,
        job_reads::{JobFilter, JobState},
    },
};

/// Most jobs of one request, and how many when it does not say.
const MOST: i64 = 100_000;
const DEFAULT: i64 = 10_000;

/// How long a request goes on; what it leaves it says.
const TIME_BUDGET: Duration = Duration::from_secs(7);

/// Which jobs; at least one field. A job must meet all that are given.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobFilter")]
pub struct FilterBody {
    /// Only jobs of this kind.
    #[serde(default)]
    #[schemars(example = &"publish")]
    kind: Option<String>,
    /// Only jobs in this state.
    #[serde(default)]
    state: Option<String>,
    /// Only jobs of this pool.
    #[serde(default)]
    pool: Option<String>,
    /// Only jobs of the session with this id.
    #[serde(default)]
    #[schemars(extend("format" = "uuid"))]
    session: Option<String>,
    /// Only jobs with this tag.
    #[serde(default)]
    #[schemars(example = &"campaign:spring")]
    tag: Option<String>,
    /// Only jobs of the batch with this id.
    #[serde(default)]
    #[schemars(extend("format" = "uuid"))]
    batch: Option<String>,
    /// Only jobs made at this time (RFC 3339) or later.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Only jobs made before this time (RFC 3339).
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    until: Option<String>,
}

/// Which jobs to cancel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BulkCancel")]
pub struct BulkCancelBody {
    filter: FilterBody,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
    /// Most jobs of this request; 10,000 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    limit: Option<i64>,
}

/// Which jobs to retry.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BulkRetry")]
pub struct BulkRetryBody {
    /// Its `state` is `failed` when left out, and may be `cancelled`.
    filter: FilterBody,
    /// Only count.
    #[serde(default)]
    dry_run: bool,
    /// Most jobs of this request; 10,000 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    limit: Option<i64>,
}

/// What a bulk cancel did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "BulkCancelled")]
pub struct BulkCancelView {
    pub dry_run: bool,
    /// Waiting jobs that are cancelled (`failed` with `outcome_unknown` where an earlier attempt may have sent).
    pub cancelled: i64,
    /// Running jobs that were asked to stop.
    pub requested: i64,
    /// Jobs that the filter still meets: send the request again for them. Of a dry run those beyond `limit`.
    pub left: i64,
}

/// What a bulk retry did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "BulkRetried")]
pub struct BulkRetryView {
    pub dry_run: bool,
    /// New jobs.
    pub retried: i64,
    /// Jobs that are left alone because their session cannot run jobs.
    pub session_not_ready: i64,
    /// Jobs that the filter still meets: send the request again for them. Of a dry run those beyond `limit`.
    pub left: i64,
}

pub struct BulkApi;

#[OpenApi]
impl BulkApi {
    /// Cancel many jobs
    ///
    /// Cancels the live jobs that the filter meets and that were made before the request: waiting ones at once, running
    /// ones are asked to stop. In batches, each of which holds whatever happens to the next. Scope: operator.
    #[oai(
        path = "/v1/jobs/bulk/cancel",
        method = "post",
        operation_id = "cancel_jobs",
        tag = "Tag::Jobs"
    )]
    async fn cancel(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<BulkCancelBody>,
    ) -> Result<Json<Typed<BulkCancelView>>, Problem> {
        let body = body.read()?;
        let filter = parsed(&body.filter)?;
        if filter.state.is_some_and(JobState::is_finished) {
            return Err(body::invalid("filter.state", "must be scheduled, queued or running."));
        }
        let bulk = Bulk::new(state.0, &caller.0, context.0, &body.filter, body.limit)?;
        let mut conn = store::connection(&state.pool, "cancel_batch").await?;
        let filter = made_until_now(&mut conn, filter).await?;
        let view = if body.dry_run {
            bulk.count_cancel(&mut conn, &filter).await?
        } else {
            drop(conn);
            bulk.cancel(&filter).await?
        };
        Ok(Json(Typed(view)))
    }

    /// Retry many jobs
    ///
    /// Makes a new job for each finished job that the filter meets and that nobody has retried yet, as
    /// `POST /v1/jobs/{id}/retry` does for one. In batches, each of which holds whatever happens to the next. Scope:
    /// operator.
    #[oai(
        path = "/v1/jobs/bulk/retry",
        method = "post",
        operation_id = "retry_jobs",
        tag = "Tag::Jobs"
    )]
    async fn retry(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<BulkRetryBody>,
    ) -> Result<Json<Typed<BulkRetryView>>, Problem> {
        let body = body.read()?;
        let mut filter = parsed(&body.filter)?;
        match filter.state {
            None => filter.state = Some(JobState::Failed),
            Some(JobState::Failed | JobState::Cancelled) => {}
            Some(_) => return Err(body::invalid("filter.state", "must be failed or cancelled.")),
        }
        let bulk = Bulk::new(state.0, &caller.0, context.0, &body.filter, body.limit)?;
        let mut conn = store::connection(&state.pool, "retry_batch").await?;
        let filter = made_until_now(&mut conn, filter).await?;
        let view = if body.dry_run {
            bulk.count_retry(&mut conn, &filter).await?
        } else {
            drop(conn);
            bulk.retry(&filter).await?
        };
        Ok(Json(Typed(view)))
    }
}

/// One request on its way.
struct Bulk<'a> {
    state: &'a State,
    actor: String,
    request_id: &'a str,
    filter_told: Value,
    limit: i64,
}

impl<'a> Bulk<'a> {
    fn new(
        state: &'a State,
        caller: &Caller,
        context: &'a RequestContext,
        filter: &FilterBody,
        limit: Option<i64>,
    ) -> Result<Self, Problem> {
        Ok(Self {
            state,
            actor: caller.actor(),
            request_id: context.id(),
            filter_told: told(filter),
            limit: body::within("limit", limit, 1, MOST)?.unwrap_or(DEFAULT),
        })
    }

    async fn count_cancel(&self, conn: &mut PgConnection, filter: &JobFilter<'_>) -> Result<BulkCancelView, Problem> {
        let mut view = BulkCancelView {
            dry_run: true,
            ..BulkCancelView::default()
        };
        for (state, jobs) in bulk::count_live(conn, filter).await? {
            if state == JobState::Running {
                view.requested += jobs;
            } else {
                view.cancelled += jobs;
            }
        }
        view.left = (view.cancelled + view.requested - self.limit).max(0);
        Ok(view)
    }

    async fn cancel(&self, filter: &JobFilter<'_>) -> Result<BulkCancelView, Problem> {
        let mut view = BulkCancelView::default();
        let started = tokio::time::Instant::now();
        let mut left = self.limit;
        while left > 0 && started.elapsed() < TIME_BUDGET {
            let batch = self.cancel_batch(filter, left.min(bulk::BATCH)).await?;
            if batch.is_empty() {
                break;
            }
            left -= count(batch.len());
            self.announce(&batch, &mut view);
        }
        let mut conn = store::connection(&self.state.pool, "count_live").await?;
        let counts = bulk::count_live(&mut conn, filter).await?;
        view.left = counts.into_iter().map(|(_, jobs)| jobs).sum();
        Ok(view)
    }

    async fn cancel_batch(&self, filter: &JobFilter<'_>, limit: i64) -> Result<Vec<BulkCancelled>, Problem> {
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_cancel_batch"))?;
        let batch = bulk::cancel_batch(&mut transaction, filter, limit).await?;
        if !batch.is_empty() {
            self.record(&mut transaction, "jobs.cancelled", batch.len()).await?;
        }
        transaction.commit().await.map_err(failed("commit_cancel_batch"))?;
        Ok(batch)
    }

    fn announce(&self, batch: &[BulkCancelled], view: &mut BulkCancelView) {
        let (running, waiting): (Vec<BulkCancelled>, Vec<BulkCancelled>) = batch.iter().partition(|job| job.running);
        for job in &running {
            self.state.signals.cancelled(job.id);
        }
        let over: Vec<JobId> = waiting.iter().map(|job| job.id).collect();
        self.state.signals.finished(&over);
        view.requested += count(running.len());
        view.cancelled += count(over.len());
    }

    async fn count_retry(&self, conn: &mut PgConnection, filter: &JobFilter<'_>) -> Result<BulkRetryView, Problem> {
        let counted = bulk::count_retryable(conn, filter).await?;
        Ok(BulkRetryView {
            dry_run: true,
            retried: counted.jobs,
            session_not_ready: counted.session_not_ready,
            left: (counted.jobs - self.limit).max(0),
        })
    }

    async fn retry(&self, filter: &JobFilter<'_>) -> Result<BulkRetryView, Problem> {
        let mut view = BulkRetryView::default();
        let started = tokio::time::Instant::now();
        while view.retried < self.limit && started.elapsed() < TIME_BUDGET {
            let made = self
                .retry_batch(filter, (self.limit - view.retried).min(bulk::BATCH))
                .await?;
            if made == 0 {
                break;
            }
            view.retried += made;
            self.state.signals.changed();
        }
        let mut conn = store::connection(&self.state.pool, "count_retryable").await?;
        let counted = bulk::count_retryable(&mut conn, filter).await?;
        view.left = counted.jobs;
        view.session_not_ready = counted.session_not_ready;
        Ok(view)
    }

    async fn retry_batch(&self, filter: &JobFilter<'_>, limit: i64) -> Result<i64, Problem> {
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_retry_batch"))?;
        let ids = bulk::find_retryable(&mut transaction, filter, limit).await?;
        if ids.is_empty() {
            return Ok(0);
        }
        let ageing_step = self.state.config.queue.ageing_step;
        let made = bulk::retry(&mut transaction, &ids, &self.actor, ageing_step).await?;
        self.record(&mut transaction, "jobs.retried", made.len()).await?;
        transaction.commit().await.map_err(failed("commit_retry_batch"))?;
        Ok(count(made.len()))
    }

    /// One row for each batch, in its transaction.
    async fn record(&self, conn: &mut PgConnection, action: &str, jobs: usize) -> Result<(), Problem> {
        let entry = audit::Entry {
            actor: &self.actor,
            action,
            subject: "jobs",
            request_id: Some(self.request_id),
            details: json!({ "jobs": jobs, "filter": self.filter_told }),
        };
        Ok(audit::record(conn, entry).await?)
    }
}

fn count(jobs: usize) -> i64 {
    i64::try_from(jobs).unwrap_or(i64::MAX)
}

/// What is made while the request runs is not the request's.
async fn made_until_now<'f>(conn: &mut PgConnection, filter: JobFilter<'f>) -> Result<JobFilter<'f>, Problem> {
    let now = bulk::now(conn).await?;
    Ok(JobFilter {
        until: Some(filter.until.map_or(now, |until| until.min(now))),
        ..filter
    })
}

/// The filter as the audit log keeps it; tags and names hold nothing private.
fn told(filter: &FilterBody) -> Value {
    serde_json::to_value(filter).unwrap_or_default()
}

fn parsed(filter: &FilterBody) -> Result<JobFilter<'_>, Problem> {
    let kind = filter.kind.as_deref().map(|kind| {
        JobKind::parse(kind)
            .map(JobKind::as_str)
            .ok_or_else(|| Problem::new(Code::UnknownKind, "No kind has that name.").field("filter.kind"))
    });
    let state = filter.state.as_deref().map(|state| {
        JobState::parse(state).ok_or_else(|| {
            let states = JobState::ALL.map(JobState::as_str).join(", ");
            body::invalid("filter.state", format!("must be one of {states}."))
        })
    });
    let session = filter.session.as_deref().map(|session| {
        session
            .parse()
            .map_err(|_| body::invalid("filter.session", "must be a session's id: a UUID."))
    });
    let batch = filter.batch.as_deref().map(|batch| {
        batch
            .parse()
            .map_err(|_| body::invalid("filter.batch", "must be a batch's id: a UUID."))
    });
    let parsed = JobFilter {
        kind: kind.transpose()?,
        state: state.transpose()?,
        pool: filter.pool.as_deref(),
        session: session.transpose()?,
        tag: filter.tag.as_deref(),
        since: body::time("filter.since", filter.since.as_deref())?,
        until: body::time("filter.until", filter.until.as_deref())?,
        batch: batch.transpose()?,
    };
    let empty = told(filter)
        .as_object()
        .is_none_or(|fields| fields.values().all(Value::is_null));
    if empty {
        return Err(body::invalid(
            "filter",
            "must name something: every job is too many to mean.",
        ));
    }
    Ok(parsed)
}
