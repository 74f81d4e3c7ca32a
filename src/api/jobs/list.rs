//! `GET /v1/jobs`: the latest first, filtered, by keyset.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, param::Query, payload::Json};
use wireroom_jobs::JobKind;

use super::view::{self, JobSummary};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::{self, List, Page},
        problem::{Code, Problem},
        typed::Typed,
    },
    ids::{BatchId, JobId, SessionId},
    store::job_reads::{self, JobFilter, JobState},
};

pub struct ListApi;

#[OpenApi]
impl ListApi {
    /// List jobs
    ///
    /// Lists jobs, the latest first; the text of messages is left out. Jobs that are made meanwhile do not shift a page.
    /// Scope: viewer.
    #[oai(path = "/v1/jobs", method = "get", operation_id = "list_jobs", tag = "Tag::Jobs")]
    #[expect(clippy::too_many_arguments, reason = "one per filter")]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only jobs of this kind.
        kind: Query<Option<String>>,
        /// Only jobs in this state.
        #[oai(name = "state")]
        in_state: Query<Option<String>>,
        /// Only jobs of this pool.
        pool: Query<Option<String>>,
        /// Only jobs of the session with this id.
        session: Query<Option<String>>,
        /// Only jobs with this tag.
        tag: Query<Option<String>>,
        /// Only jobs of the batch with this id.
        batch: Query<Option<String>>,
        /// Only jobs made at this time (RFC 3339) or later.
        since: Query<Option<String>>,
        /// Only jobs made before this time (RFC 3339).
        until: Query<Option<String>>,
        /// Most jobs of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<JobSummary>>>, Problem> {
        let filter = JobFilter {
            kind: kind.as_deref().map(known_kind).transpose()?,
            state: in_state.as_deref().map(known_state).transpose()?,
            pool: pool.as_deref(),
            session: session.as_deref().map(session_id).transpose()?,
            tag: tag.as_deref(),
            since: page::time("since", since.as_deref())?,
            until: page::time("until", until.as_deref())?,
            batch: batch.as_deref().map(batch_id).transpose()?,
        };
        let limit = page::limit(limit.as_deref())?;
        let before: Option<JobId> = page::decode(List::Jobs, cursor.as_deref())?;
        let jobs = job_reads::list(&state.pool, &filter, before, i64::from(limit) + 1).await?;
        let (jobs, next_cursor) = page::cut(jobs, limit, List::Jobs, |job| job.id.to_string());
        let items = view::with_wait_reasons(&state, jobs)
            .await?
            .into_iter()
            .map(|(job, reason)| JobSummary::of(job, reason))
            .collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }
}

fn known_kind(name: &str) -> Result<&'static str, Problem> {
    JobKind::parse(name)
        .map(JobKind::as_str)
        .ok_or_else(|| one_of("kind", &JobKind::ALL.map(JobKind::as_str)))
}

fn known_state(name: &str) -> Result<JobState, Problem> {
    JobState::parse(name).ok_or_else(|| one_of("state", &JobState::ALL.map(JobState::as_str)))
}

fn one_of(parameter: &str, values: &[&str]) -> Problem {
    let detail = format!("{parameter} takes one of {}.", values.join(", "));
    Problem::new(Code::InvalidParameter, detail).field(parameter)
}

fn session_id(text: &str) -> Result<SessionId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A session's id is a UUID.").field("session"))
}

fn batch_id(text: &str) -> Result<BatchId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A batch's id is a UUID.").field("batch"))
}
