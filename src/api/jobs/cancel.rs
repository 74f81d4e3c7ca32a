//! `POST /v1/jobs/{id}/cancel`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use serde_json::json;

use super::{
    job_id, not_found,
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Caller, Operator},
        document::Tag,
        problem::{Code, Problem},
        shell::RequestContext,
        typed::Typed,
    },
    ids::JobId,
    store::{
        audit, failed,
        job_reads::{self, JobRecord},
        jobs::{self, Cancelled},
    },
};

#[derive(ApiResponse)]
enum CancelReply {
    /// The job waited, and is cancelled; or `failed` with `outcome_unknown`, when an earlier attempt may have sent its
    /// message.
    #[oai(status = 200)]
    Done(Json<Typed<JobView>>),
    /// The job runs, and was asked to stop: it is `cancelled` when it has, `succeeded` when it was faster, and
    /// `failed` with `outcome_unknown` when it stopped without knowing whether its message was sent.
    #[oai(status = 202)]
    Requested(Json<Typed<JobView>>),
}

pub struct CancelApi;

#[OpenApi]
impl CancelApi {
    /// Cancel a job
    ///
    /// Cancels a waiting job at once, and asks a running one to stop. A job that was cancelled already is answered as it
    /// is; one that has ended otherwise is refused (409, `job_finished`). Scope: operator.
    #[oai(
        path = "/v1/jobs/:id/cancel",
        method = "post",
        operation_id = "cancel_job",
        tag = "Tag::Jobs"
    )]
    async fn cancel(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The job's id.
        id: Path<String>,
    ) -> Result<CancelReply, Problem> {
        let (state, id) = (state.0, job_id(&id)?);
        let (outcome, job) = cancel(state, &caller.0, context.0, id).await?;
        tell(state, outcome, id);
        match outcome {
            Cancelled::AtOnce => Ok(CancelReply::Done(Json(Typed(JobView::of(job, None))))),
            Cancelled::Requested => {
                let view = view::with_wait_reason(state, job).await?;
                Ok(CancelReply::Requested(Json(Typed(view))))
            }
            Cancelled::Finished if job.state == job_reads::JobState::Cancelled => {
                Ok(CancelReply::Done(Json(Typed(JobView::of(job, None)))))
            }
            Cancelled::Finished => {
                let detail = format!("The job has ended already: it is {}.", job.state.as_str());
                Err(Problem::new(Code::JobFinished, detail))
            }
            Cancelled::Unknown => Err(not_found()),
        }
    }
}

/// Cancels a job, or leaves one that has ended as it is.
pub async fn stop_job(state: &State, caller: &Caller, context: &RequestContext, id: JobId) -> Result<(), Problem> {
    let (outcome, _) = cancel(state, caller, context, id).await?;
    tell(state, outcome, id);
    Ok(())
}

fn tell(state: &State, outcome: Cancelled, id: JobId) {
    match outcome {
        Cancelled::AtOnce => state.signals.finished(&[id]),
        Cancelled::Requested => state.signals.cancelled(id),
        Cancelled::Finished | Cancelled::Unknown => {}
    }
}

async fn cancel(
    state: &State,
    caller: &Caller,
    context: &RequestContext,
    id: JobId,
) -> Result<(Cancelled, JobRecord), Problem> {
    let mut transaction = state.pool.begin().await.map_err(failed("begin_cancel_job"))?;
    let outcome = jobs::cancel(&mut transaction, id).await?;
    if matches!(outcome, Cancelled::AtOnce | Cancelled::Requested) {
        let entry = audit::Entry {
            actor: &caller.actor(),
            action: "job.cancelled",
            subject: &format!("job:{id}"),
            request_id: Some(context.id()),
            details: json!({ "was_running": outcome == Cancelled::Requested }),
        };
        audit::record(&mut transaction, entry).await?;
    }
    let job = job_reads::get(&mut *transaction, id).await?.ok_or_else(not_found)?;
    transaction.commit().await.map_err(failed("commit_cancel_job"))?;
    Ok((outcome, job))
}
