//! `POST /v1/jobs/{id}/retry`: a new job that does what a finished one was asked to do.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use serde_json::json;

use super::{
    create, job_id, not_found,
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator},
        document::Tag,
        problem::{Code, Problem},
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        audit,
        bulk::{self, NotRetried},
        failed, job_reads,
    },
};

#[derive(ApiResponse)]
enum RetryReply {
    /// The new job is stored, and nothing will lose it.
    #[oai(status = 202)]
    Accepted(
        Json<Typed<JobView>>,
        /// Where the new job is.
        #[oai(header = "Location")]
        String,
    ),
}

pub struct RetryApi;

#[OpenApi]
impl RetryApi {
    /// Retry a finished job
    ///
    /// Makes a new job that names the finished one in `retry_of`, with its args, pool, priority, tags and limit key, due at
    /// once and without a deadline. A job that ran on a session stays with it. A job is retried once (409,
    /// `already_retried`): to try again, retry its retry. Look at `error` first: a job whose outcome is unknown may have
    /// done its work. A publish to several chats goes on where it ended: chats that have the message do not get it again,
    /// and those whose outcome is unknown keep it: look there, and make a new job for those that lack the message. A list of
    /// joins finds the session in the chats that it joined; an invite goes by its campaign's ledger. Scope: operator.
    #[oai(
        path = "/v1/jobs/:id/retry",
        method = "post",
        operation_id = "retry_job",
        tag = "Tag::Jobs"
    )]
    async fn retry(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The job's id.
        id: Path<String>,
    ) -> Result<RetryReply, Problem> {
        let (state, id) = (state.0, job_id(&id)?);
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_retry_job"))?;
        let retried = bulk::retry(&mut transaction, &[id], &actor, state.config.queue.ageing_step).await?;
        let Some(retried) = retried.first() else {
            let why = bulk::why_not_retried(&mut transaction, id).await?;
            return Err(refused(why));
        };
        let entry = audit::Entry {
            actor: &actor,
            action: "job.retried",
            subject: &format!("job:{}", retried.id),
            request_id: Some(context.id()),
            details: json!({ "retry_of": retried.retry_of }),
        };
        audit::record(&mut transaction, entry).await?;
        let job = job_reads::get(&mut *transaction, retried.id)
            .await?
            .ok_or_else(|| Problem::internal("the job that was just stored is not there"))?;
        transaction.commit().await.map_err(failed("commit_retry_job"))?;
        state.signals.changed();
        let location = create::location(state, job.id);
        // The job is stored whatever happens now.
        let view = match view::with_wait_reason(state, job.clone()).await {
            Ok(view) => view,
            Err(_) => JobView::of(job, None),
        };
        Ok(RetryReply::Accepted(Json(Typed(view)), location))
    }
}

fn refused(why: Option<NotRetried>) -> Problem {
    match why {
        Some(NotRetried::Unknown) => not_found(),
        Some(NotRetried::Live(state)) => {
            let detail = format!("The job is {}: there is nothing to retry yet.", state.as_str());
            Problem::new(Code::JobNotFinished, detail)
        }
        Some(NotRetried::Already(by)) => Problem::new(
            Code::AlreadyRetried,
            format!("The job {by} repeats it: retry that one."),
        ),
        Some(NotRetried::SessionNotReady(session, found)) => {
            let found = found.map_or_else(|| "gone".to_owned(), |found| format!("in the state {found}"));
            let detail = format!(
                "The job stays with the session {session}, which is {found}. Make a new job for another session instead."
            );
            Problem::new(Code::SessionNotReady, detail)
        }
        // Whatever stood in the way went while we looked.
        None => Problem::new(Code::JobNotFinished, "The job is changing at this moment. Try again."),
    }
}
