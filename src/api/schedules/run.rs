//! `POST /v1/schedules/{id}/run`: a tick of its own, at once.

use std::sync::Arc;

use poem::{http::HeaderMap, web::Data};
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use serde_json::json;

use super::{manage::note, not_found, schedule_id, view::TickView};
use crate::{
    api::{
        State,
        auth::{Allowed, Caller, Operator},
        document::Tag,
        jobs::refused,
        problem::{Code, Problem},
        shell::RequestContext,
        typed::Typed,
    },
    ids::ScheduleId,
    store::{
        PgConnection, audit, failed,
        jobs::{self, NewJob},
        schedule_ticks::{self, Outcome, Reason, TickRecord, Trigger},
        schedules::{self, Overlap, ScheduleRecord},
    },
};

#[derive(ApiResponse)]
enum Run {
    /// The tick is stored, and so is its job, unless it waits for the one before.
    #[oai(status = 202)]
    Accepted(Json<Typed<TickView>>),
}

pub struct RunApi;

#[OpenApi]
impl RunApi {
    /// Run a schedule now
    ///
    /// Makes a tick of this moment and its job, also while the schedule is paused or has ended; its other ticks stay as they
    /// are. While a job of the schedule is not finished, `overlap` holds: with `skip` the run is refused (409,
    /// `schedule_busy`), with `queue` its job comes after. Scope: operator.
    #[oai(
        path = "/v1/schedules/:id/run",
        method = "post",
        operation_id = "run_schedule",
        tag = "Tag::Schedules"
    )]
    async fn run(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The schedule's id.
        id: Path<String>,
        headers: &HeaderMap,
    ) -> Result<Run, Problem> {
        let (state, id) = (state.0, schedule_id(&id)?);
        if headers.contains_key("idempotency-key") {
            let detail = "Leave the header out: a run is not known by a key, and ignoring it could run twice.";
            return Err(Problem::new(Code::InvalidParameter, detail).field("Idempotency-Key"));
        }
        let mut transaction = state.pool.begin().await.map_err(failed("begin_run_schedule"))?;
        let schedule = schedules::lock(&mut transaction, id).await?.ok_or_else(not_found)?;
        let (tick, job) = tick_now(state, &mut transaction, &caller.0, &schedule).await?;
        schedule_ticks::record(&mut transaction, id, std::slice::from_ref(&tick)).await?;
        note_run(&mut transaction, &caller.0, context.0, id, &tick).await?;
        transaction.commit().await.map_err(failed("commit_run_schedule"))?;
        if let Some(job) = job {
            state.signals.enqueued(&[job], None);
        }
        Ok(Run::Accepted(Json(Typed(TickView::from(tick)))))
    }
}

/// The tick of now, and its job, which is stored.
async fn tick_now(
    state: &State,
    conn: &mut PgConnection,
    caller: &Caller,
    schedule: &ScheduleRecord,
) -> Result<(TickRecord, Option<NewJob>), Problem> {
    let at = schedule_ticks::manual_tick(conn, schedule.id).await?;
    let load = schedule_ticks::load(conn, schedule.id).await?;
    let job = match (schedule.settings.overlap, load.live) {
        (Overlap::Skip, Some(live)) => {
            let detail = format!("The schedule's job {live} is not finished, and its overlap is skip.");
            return Err(Problem::new(Code::ScheduleBusy, detail));
        }
        (Overlap::Queue, Some(_)) => None,
        (Overlap::Queue, None) if load.waiting > 0 => None,
        (Overlap::Allow | Overlap::Skip | Overlap::Queue, _) => Some(stored_job(state, conn, schedule, at).await?),
    };
    let outcome = job.as_ref().map_or_else(
        || {
            let message = "A job of the schedule is not finished yet: this run's comes after it.";
            Outcome::Waiting(Reason::new("overlap", message))
        },
        |job| Outcome::Job(job.id),
    );
    let tick = TickRecord {
        at,
        trigger: Trigger::Manual,
        due_at: at,
        decided_at: at,
        version: schedule.version,
        outcome,
        requested_by: Some(caller.actor()),
    };
    Ok((tick, job))
}

async fn stored_job(
    state: &State,
    conn: &mut PgConnection,
    schedule: &ScheduleRecord,
    at: chrono::DateTime<chrono::Utc>,
) -> Result<NewJob, Problem> {
    let job = schedule
        .job(at)
        .ok_or_else(|| Problem::new(Code::UnknownKind, "This version does not know the schedule's kind."))?;
    jobs::enqueue(conn, std::slice::from_ref(&job), state.config.queue.ageing_step)
        .await
        .map_err(|error| refused(error).within("job"))?;
    Ok(job)
}

/// The run and, when there is one, its job.
async fn note_run(
    conn: &mut PgConnection,
    caller: &Caller,
    context: &RequestContext,
    id: ScheduleId,
    tick: &TickRecord,
) -> Result<(), Problem> {
    note(
        conn,
        caller,
        context,
        "schedule.run",
        id,
        json!({ "job": tick.outcome.job() }),
    )
    .await?;
    let Some(job) = tick.outcome.job() else { return Ok(()) };
    let entry = audit::Entry {
        actor: &caller.actor(),
        action: "job.created",
        subject: &format!("job:{job}"),
        request_id: Some(context.id()),
        details: json!({ "schedule": id }),
    };
    Ok(audit::record(conn, entry).await?)
}
