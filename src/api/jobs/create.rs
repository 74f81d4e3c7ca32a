//! `POST /v1/jobs`: stores a job, and waits for its result when the client asks for that.

use std::{sync::Arc, time::Duration};

use poem::{http::HeaderMap, web::Data};
use poem_openapi::{ApiResponse, OpenApi, param::Header, payload::Json};
use serde_json::json;

use super::{
    body::{DEFAULT_POOL, JobBody, JobRequest},
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Caller, Operator},
        document::Tag,
        prefer,
        problem::{Code, Problem},
        shell::RequestContext,
        typed::Typed,
        wait::{Seat, Waiting},
    },
    ids::{JobId, SessionId},
    store::{
        audit, failed,
        job_reads::{self, JobRecord},
        jobs::{self, EnqueueError, NewJob},
        session_reads,
    },
};

/// States in which a session takes no jobs until a person has seen to it.
const UNUSABLE: [&str; 8] = [
    "new",
    "code_needed",
    "password_needed",
    "logged_out",
    "banned",
    "frozen",
    "quarantined",
    "disabled",
];

#[derive(ApiResponse)]
enum Created {
    /// The job is finished: only with `Prefer: wait`. `state` says how it ended.
    #[oai(status = 200)]
    Finished(
        Json<Typed<JobView>>,
        /// Where the job is.
        #[oai(header = "Location")]
        String,
        /// The wait that was granted.
        #[oai(header = "Preference-Applied")]
        String,
    ),
    /// The job is stored, and nothing will lose it.
    #[oai(status = 202)]
    Accepted(
        Json<Typed<JobView>>,
        /// Where the job is.
        #[oai(header = "Location")]
        String,
        /// The wait that was granted.
        #[oai(header = "Preference-Applied")]
        Option<String>,
    ),
}

pub struct CreateApi;

#[OpenApi]
impl CreateApi {
    /// Create a job
    ///
    /// Stores a job and answers 202 with it, once it is durable. With `Prefer: wait=N` the answer is the finished job (200)
    /// when it ends within N seconds; else 202, and the job goes on. A job for a session that is logged out, banned or the
    /// like is refused (409, `session_not_ready`); one for a pool without a ready session is taken, waits, and says so in
    /// `wait_reason`. Scope: operator.
    #[oai(path = "/v1/jobs", method = "post", operation_id = "create_job", tag = "Tag::Jobs")]
    async fn create(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for the result, at most 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        body: JobBody,
    ) -> Result<Created, Problem> {
        let (state, context) = (state.0, context.0);
        if headers.contains_key("idempotency-key") {
            let detail = "Leave the header out: ignoring it could do something twice.";
            return Err(Problem::new(Code::IdempotencyNotSupported, detail).field("Idempotency-Key"));
        }
        let wait = prefer::wait(headers)?;
        let request = JobRequest::parse(&body.0, state.clock.now())?;
        let job = new_job(state, &caller.0, request).await?;
        let seat = wait
            .map(|wait| state.waiters.seat().map(|seat| (seat, wait)))
            .transpose()?;
        let (stored, waiting) = store(state, &caller.0, context, &job, seat).await?;
        state.signals.enqueued(std::slice::from_ref(&job));
        let finished = match waiting {
            Some((waiting, wait)) => waiting.result(wait).await,
            None => None,
        };
        let location = location(state, stored.id);
        let applied = wait.map(|wait| format!("wait={}", wait.as_secs()));
        Ok(match finished {
            Some(job) => Created::Finished(
                Json(Typed(JobView::of(job, None))),
                location,
                applied.unwrap_or_default(),
            ),
            None => Created::Accepted(
                Json(Typed(current(state, stored, wait.is_some()).await)),
                location,
                applied,
            ),
        })
    }
}

async fn new_job(state: &State, caller: &Caller, request: JobRequest) -> Result<NewJob, Problem> {
    let session = match &request.session {
        Some(session) => Some(usable_session(state, session).await?),
        None => None,
    };
    Ok(NewJob {
        id: JobId::generate(),
        kind: request.args.kind(),
        args: serde_json::to_value(&request.args).map_err(Problem::internal)?,
        pool: match session {
            None => request.pool.or_else(|| Some(DEFAULT_POOL.to_owned())),
            Some(_) => request.pool,
        },
        session,
        priority: request.priority,
        run_at: request.run_at,
        max_attempts: request.max_attempts,
        deadline: request.deadline,
        tags: request.tags,
        limit_key: request.limit_key,
        created_by: Some(caller.actor()),
    })
}

/// The session of that id or label, if it can run jobs.
pub async fn usable_session(state: &State, id_or_label: &str) -> Result<SessionId, Problem> {
    let session = session_reads::find_target(&state.pool, id_or_label)
        .await?
        .ok_or_else(|| Problem::new(Code::UnknownSession, "No session has that id or label.").field("session"))?;
    if UNUSABLE.contains(&session.state.as_str()) {
        let because = session
            .state_reason
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        let detail = format!(
            "The session is {}{because}. It takes jobs again once that is put right.",
            session.state
        );
        return Err(Problem::new(Code::SessionNotReady, detail).field("session"));
    }
    Ok(session.id)
}

/// The job as it was committed, and the place in line for its result.
async fn store(
    state: &State,
    caller: &Caller,
    context: &RequestContext,
    job: &NewJob,
    seat: Option<(Seat, Duration)>,
) -> Result<(JobRecord, Option<(Waiting, Duration)>), Problem> {
    let mut transaction = state.pool.begin().await.map_err(failed("begin_create_job"))?;
    jobs::enqueue(
        &mut transaction,
        std::slice::from_ref(job),
        state.config.queue.ageing_step,
    )
    .await
    .map_err(refused)?;
    let entry = audit::Entry {
        actor: &caller.actor(),
        action: "job.created",
        subject: &format!("job:{}", job.id),
        request_id: Some(context.id()),
        details: json!({ "kind": job.kind.as_str(), "pool": job.pool, "session": job.session }),
    };
    audit::record(&mut transaction, entry).await?;
    let stored = job_reads::get(&mut *transaction, job.id)
        .await?
        .ok_or_else(|| Problem::internal("the job that was just stored is not there"))?;
    let waiting = seat.map(|(seat, wait)| (seat.wait_for(job.id), wait));
    transaction.commit().await.map_err(failed("commit_create_job"))?;
    Ok((stored, waiting))
}

/// What a refused job is answered with.
pub fn refused(error: EnqueueError) -> Problem {
    match error {
        EnqueueError::Store(error) => error.into(),
        EnqueueError::PoolUnknown { .. } => Problem::new(Code::UnknownPool, "No pool has that name.").field("pool"),
        EnqueueError::SessionUnknown { .. } => {
            Problem::new(Code::UnknownSession, "No session has that id or label.").field("session")
        }
        EnqueueError::SessionElsewhere { is_in, .. } => {
            let detail = format!("The session is in the pool {is_in}: name that, or leave pool out.");
            Problem::new(Code::SessionNotInPool, detail).field("pool")
        }
    }
}

/// The job is stored whatever happens now: when it cannot be read again, it is shown as it was stored.
async fn current(state: &State, stored: JobRecord, has_waited: bool) -> JobView {
    let latest = if has_waited {
        job_reads::get(&state.pool, stored.id).await.ok().flatten()
    } else {
        None
    };
    let job = latest.unwrap_or(stored);
    match view::with_wait_reason(state, job.clone()).await {
        Ok(view) => view,
        Err(_) => JobView::of(job, None),
    }
}

pub(super) fn location(state: &State, id: JobId) -> String {
    let base = state.config.api.public_url.as_deref().unwrap_or_default();
    format!("{}/v1/jobs/{id}", base.trim_end_matches('/'))
}
