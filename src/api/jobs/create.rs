//! `POST /v1/jobs`: stores a job, and waits for its result when the client asks for that.

use std::{sync::Arc, time::Duration};

use poem::{http::HeaderMap, web::Data};
use poem_openapi::{ApiResponse, OpenApi, param::Header, payload::Json};
use serde_json::{Value, json};

use super::{
    admission,
    body::{self, JobBody, JobRequest},
    gather::Gather,
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Caller, Operator},
        document::Tag,
        idempotency::{self, Fingerprint},
        prefer,
        problem::Problem,
        shell::RequestContext,
        templates,
        typed::Answered,
        wait::{Seat, Waiting},
    },
    ids::JobId,
    store::{
        self, PgConnection, audit, failed,
        idempotency::{Answer, Claim, RequestKey, answer, claim},
        job_reads,
        jobs::NewJob,
        unique_keys::{self, Enqueued},
    },
};

#[derive(ApiResponse)]
enum Created {
    /// The job is finished (only with `Prefer: wait`), or it is one that had the `unique_key` before. `state` says how it
    /// is.
    #[oai(status = 200)]
    There(
        Json<Answered<JobView>>,
        /// Where the job is.
        #[oai(header = "Location")]
        String,
        /// The wait that was granted.
        #[oai(header = "Preference-Applied")]
        Option<String>,
        /// `true` when an equal request with this `Idempotency-Key` was answered before.
        #[oai(header = "Idempotency-Replayed")]
        Option<String>,
    ),
    /// The job is stored, and nothing will lose it.
    #[oai(status = 202)]
    Accepted(
        Json<Answered<JobView>>,
        /// Where the job is.
        #[oai(header = "Location")]
        String,
        /// The wait that was granted.
        #[oai(header = "Preference-Applied")]
        Option<String>,
        /// `true` when an equal request with this `Idempotency-Key` was answered before.
        #[oai(header = "Idempotency-Replayed")]
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
    /// `wait_reason`.
    ///
    /// With an `Idempotency-Key` the request may be sent again: for 24 hours an equal one under the same API key is given
    /// the first one's answer and stores nothing; with `Prefer: wait` it waits for the first one's job. One that was refused
    /// is tried anew. The same key with another body is refused (409, `idempotency_key_reused`). Scope: operator.
    #[oai(path = "/v1/jobs", method = "post", operation_id = "create_job", tag = "Tag::Jobs")]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the documented request")]
    async fn create(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for the result, at most 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// 1 to 255 visible ASCII characters, such as a UUID: the same for every try of one request.
        #[oai(name = "Idempotency-Key")]
        _idempotency_key: Header<Option<String>>,
        body: JobBody,
    ) -> Result<Created, Problem> {
        let state = state.0;
        let key = idempotency::key(headers)?;
        let wait = prefer::wait(headers)?;
        let size = body.0.len();
        let body = body::json(&body.0)?;
        let request = match templates::filled(&state.pool, &body).await {
            Ok(body) => JobRequest::read(&body, state.clock.now()),
            Err(problem) => Err(problem),
        };
        let intake = Intake {
            state,
            caller: &caller.0,
            context: context.0,
            key: key.as_deref(),
            body: &body,
        };
        let seat = match request {
            // An equal request may have been in time.
            Err(problem) if key.is_none() => return Err(problem),
            _ => wait.map(|_| state.waiters.seat()).transpose()?,
        };
        let stored = match request {
            Ok(request) if request.stands_alone() && key.is_none() => intake.gather(request, size, seat).await?,
            request => intake.store(request, seat).await?,
        };
        if let Some(job) = &stored.wakes {
            state.signals.enqueued(std::slice::from_ref(job), None);
        }
        stored.reply(state, wait).await
    }
}

/// A request on its way in.
struct Intake<'a> {
    state: &'a Arc<State>,
    caller: &'a Caller,
    context: &'a RequestContext,
    key: Option<&'a str>,
    body: &'a Value,
}

/// What was committed, now or by an equal request before.
struct Stored {
    job: JobId,
    is_new: bool,
    is_replayed: bool,
    answer: Answered<JobView>,
    location: String,
    waiting: Option<Waiting>,
    /// The queue is still to be told of it.
    wakes: Option<NewJob>,
}

impl Intake<'_> {
    /// A job that no earlier one decides about: it is stored together with those that come in at the same time.
    async fn gather(&self, request: JobRequest, size: usize, seat: Option<Seat>) -> Result<Stored, Problem> {
        let session = match &request.session {
            Some(_) => {
                let mut conn = store::connection(&self.state.pool, "find_session").await?;
                admission::session_of(&mut conn, &request).await?
            }
            None => None,
        };
        let job = admission::job(self.caller, request, session)?.job;
        let id = job.id;
        let waiting = seat.map(|seat| seat.wait_for(id));
        let view = Gather::store(self.state, job, size, self.context.id()).await?;
        Ok(Stored {
            job: id,
            is_new: true,
            is_replayed: false,
            answer: Answered::of(&view).map_err(Problem::internal)?,
            location: location(self.state, id),
            waiting,
            wakes: None,
        })
    }

    async fn store(&self, request: Result<JobRequest, Problem>, seat: Option<Seat>) -> Result<Stored, Problem> {
        let begun = self.state.pool.begin().await;
        let mut transaction = begun.map_err(failed("begin_create_job"))?;
        if let Some(key) = self.request_key()
            && let Claim::Answered(answer) = claim(&mut transaction, key).await?
        {
            return self.replay(&mut transaction, answer, seat).await;
        }
        let request = request?;
        let session = admission::session_of(&mut transaction, &request).await?;
        admission::keep_files(&mut transaction, &request, self.state.files.keep_days()).await?;
        let keyed = admission::job(self.caller, request, session)?;
        let ageing_step = self.state.config.queue.ageing_step;
        let outcome = unique_keys::enqueue(&mut transaction, None, std::slice::from_ref(&keyed), ageing_step)
            .await
            .map_err(admission::refused)?
            .pop()
            .ok_or_else(|| Problem::internal("nothing became of a job"))?;
        self.audit(&mut transaction, outcome, &keyed.job).await?;
        let id = outcome.job();
        let there = job_reads::get(&mut *transaction, id).await?;
        let stored = match (outcome, there) {
            (Enqueued::Conflict(_), _) | (Enqueued::Existing(_), None) => return Err(admission::key_taken(id)),
            (_, None) => return Err(Problem::internal("the job that was just stored is not there")),
            (_, Some(stored)) => stored,
        };
        let view = view::within(&mut transaction, stored).await?;
        let stored = Stored {
            job: id,
            is_new: matches!(outcome, Enqueued::Created(_)),
            is_replayed: false,
            answer: Answered::of(&view).map_err(Problem::internal)?,
            location: location(self.state, id),
            waiting: seat.map(|seat| seat.wait_for(id)),
            wakes: (!matches!(outcome, Enqueued::Existing(_))).then_some(keyed.job),
        };
        self.remember(&mut transaction, &stored, outcome).await?;
        transaction.commit().await.map_err(failed("commit_create_job"))?;
        Ok(stored)
    }

    fn request_key(&self) -> Option<RequestKey<'_>> {
        let owner = &self.caller.key_id;
        self.key.map(|key| RequestKey { owner, key })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = Fingerprint::new("create_job");
        fingerprint.add(self.body);
        fingerprint.hash()
    }

    async fn audit(&self, conn: &mut PgConnection, outcome: Enqueued, job: &NewJob) -> Result<(), Problem> {
        let action = match outcome {
            Enqueued::Created(_) => "job.created",
            Enqueued::Replaced(_) => "job.replaced",
            Enqueued::Existing(_) | Enqueued::Conflict(_) => return Ok(()),
        };
        let entry = audit::Entry {
            actor: &self.caller.actor(),
            action,
            subject: &format!("job:{}", outcome.job()),
            request_id: Some(self.context.id()),
            details: json!({ "kind": job.kind.as_str(), "pool": job.pool, "session": job.session }),
        };
        Ok(audit::record(conn, entry).await?)
    }

    /// Keeps the answer for equal requests; its args stay with the job and with the request.
    async fn remember(&self, conn: &mut PgConnection, stored: &Stored, outcome: Enqueued) -> Result<(), Problem> {
        let Some(key) = self.request_key() else { return Ok(()) };
        let mut body = stored.answer.body().clone();
        body["args"] = Value::Null;
        let kept = Answer {
            request_hash: self.fingerprint(),
            status: if stored.is_new { 202 } else { 200 },
            location: Some(stored.location.clone()),
            body,
            args_of: matches!(outcome, Enqueued::Existing(_)).then_some(stored.job),
        };
        Ok(answer(conn, key, &kept).await?)
    }

    /// The answer of an equal request.
    async fn replay(&self, conn: &mut PgConnection, answer: Answer, seat: Option<Seat>) -> Result<Stored, Problem> {
        if answer.request_hash != self.fingerprint() {
            return Err(idempotency::reused());
        }
        let job = serde_json::from_value(answer.body["id"].clone()).map_err(Problem::internal)?;
        let args = match answer.args_of {
            None => JobRequest::args_again(self.body),
            Some(_) => None,
        };
        let args = match args {
            Some(args) => Some(args),
            None => job_reads::get(conn, job).await?.map(|job| job.args),
        };
        let mut again = Answered::again(answer.body);
        again.body_mut()["args"] = args.unwrap_or_default();
        Ok(Stored {
            job,
            is_new: answer.status == 202,
            is_replayed: true,
            answer: again,
            location: answer.location.unwrap_or_else(|| location(self.state, job)),
            waiting: seat.map(|seat| seat.wait_for(job)),
            wakes: None,
        })
    }
}

impl Stored {
    async fn reply(self, state: &State, wait: Option<Duration>) -> Result<Created, Problem> {
        let applied = wait.map(|wait| format!("wait={}", wait.as_secs()));
        let replayed = self.is_replayed.then(|| "true".to_owned());
        let (mut answer, mut is_there) = (self.answer, !self.is_new);
        if let (Some(waiting), Some(wait)) = (self.waiting, wait) {
            let latest = match waiting.result(wait).await {
                Some(job) => {
                    is_there = true;
                    Some(JobView::of(job, None))
                }
                None => latest(state, self.job).await,
            };
            if let Some(latest) = latest {
                answer = Answered::of(&latest).map_err(Problem::internal)?;
            }
        }
        let body = Json(answer);
        Ok(if is_there {
            Created::There(body, self.location, applied, replayed)
        } else {
            Created::Accepted(body, self.location, applied, replayed)
        })
    }
}

/// The job as it is now; it is stored whatever happens, so when it cannot be read it is shown as it was stored.
async fn latest(state: &State, id: JobId) -> Option<JobView> {
    let job = job_reads::get(&state.pool, id).await.ok().flatten()?;
    view::with_wait_reason(state, job).await.ok()
}

pub(super) fn location(state: &State, id: JobId) -> String {
    let base = state.config.api.public_url.as_deref().unwrap_or_default();
    format!("{}/v1/jobs/{id}", base.trim_end_matches('/'))
}
