//! `GET /v1/jobs/{id}`.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};

use super::{
    job_id, not_found,
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        problem::Problem,
        typed::Typed,
    },
    store::job_reads,
};

pub struct GetApi;

#[OpenApi]
impl GetApi {
    /// Look at a job
    ///
    /// Shows a job, live or finished, with all that is known of it. Scope: viewer.
    #[oai(path = "/v1/jobs/:id", method = "get", operation_id = "get_job", tag = "Tag::Jobs")]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The job's id.
        id: Path<String>,
    ) -> Result<Json<Typed<JobView>>, Problem> {
        let job = job_reads::get(&state.pool, job_id(&id)?).await?.ok_or_else(not_found)?;
        Ok(Json(Typed(view::with_wait_reason(&state, job).await?)))
    }
}
