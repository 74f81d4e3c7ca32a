//! `PATCH /v1/jobs/{id}`: the priority and the time of a job that waits.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    body, job_id, not_found,
    view::{self, JobView},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator},
        document::Tag,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        audit, failed, files, job_reads,
        reorder::{self, Change, Changed},
    },
};

/// What to change of a waiting job; what is left out stays.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobChange")]
pub struct ChangeBody {
    /// Higher runs earlier.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100), example = 10)]
    priority: Option<i64>,
    /// Not before this time (RFC 3339), at most 366 days ahead; a time that has passed: at once.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    run_at: Option<String>,
}

pub struct PatchApi;

#[OpenApi]
impl PatchApi {
    /// Change a waiting job
    ///
    /// Changes the priority or the time of a job that is `queued` or `scheduled`; its place in line follows. A job that
    /// runs is refused (409, `job_running`), one that has ended too (409, `job_finished`). Scope: operator.
    #[oai(
        path = "/v1/jobs/:id",
        method = "patch",
        operation_id = "change_job",
        tag = "Tag::Jobs"
    )]
    async fn change(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The job's id.
        id: Path<String>,
        body: Sent<ChangeBody>,
    ) -> Result<Json<Typed<JobView>>, Problem> {
        let (state, id) = (state.0, job_id(&id)?);
        let change = parsed(&body, state)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_change_job"))?;
        match reorder::change(&mut transaction, id, change, state.config.queue.ageing_step).await? {
            Changed::Done => {}
            Changed::Unknown => return Err(not_found()),
            Changed::Running => {
                let detail = "The job runs already. Cancel it if it must not.";
                return Err(Problem::new(Code::JobRunning, detail));
            }
            Changed::Finished => return Err(Problem::new(Code::JobFinished, "The job has ended already.")),
            Changed::PastDeadline => return Err(body::invalid("run_at", "must be before the job's deadline.")),
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "job.changed",
            subject: &format!("job:{id}"),
            request_id: Some(context.id()),
            details: json!({ "priority": change.priority, "run_at": change.run_at }),
        };
        audit::record(&mut transaction, entry).await?;
        let job = job_reads::get(&mut *transaction, id).await?.ok_or_else(not_found)?;
        let files = files_of(&job.args);
        if change.run_at.is_some() && !files.is_empty() {
            files::keep_until(&mut transaction, &files, change.run_at, state.files.keep_days()).await?;
        }
        transaction.commit().await.map_err(failed("commit_change_job"))?;
        state.signals.changed();
        Ok(Json(Typed(view::with_wait_reason(state, job).await?)))
    }
}

/// The uploaded files of a job's message.
fn files_of(args: &Value) -> Vec<Uuid> {
    let media = args["media"].as_array().into_iter().flatten();
    media.filter_map(|item| item["file"].as_str()?.parse().ok()).collect()
}

fn parsed(body: &Sent<ChangeBody>, state: &State) -> Result<Change, Problem> {
    let body = body.read()?;
    let change = Change {
        priority: body::within("priority", body.priority, -100, 100)?,
        run_at: body::time("run_at", body.run_at.as_deref())?,
    };
    body::check_run_at(change.run_at, state.clock.now())?;
    if change.priority.is_none() && change.run_at.is_none() {
        return Err(Problem::new(
            Code::MissingField,
            "Say what to change: priority, run_at or both.",
        ));
    }
    Ok(change)
}
