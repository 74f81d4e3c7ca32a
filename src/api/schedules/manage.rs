//! `POST`, `GET`, `PATCH` and `DELETE` of schedules.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use serde_json::{Value, json};

use super::{
    body::{NewBody, PatchBody, ScheduleRequest, as_posted, json_of, patched},
    edit, not_found, schedule_id, timetable,
    view::ScheduleView,
};
use crate::{
    api::{
        State,
        auth::{Allowed, Caller, Operator, Viewer},
        document::Tag,
        page::{self, List, Page},
        problem::{Code, Problem},
        shell::RequestContext,
        templates,
        typed::Typed,
    },
    ids::ScheduleId,
    store::{
        PgConnection, audit, failed, schedule_ticks,
        schedules::{self, SaveError, ScheduleRecord},
    },
};

#[derive(ApiResponse)]
enum Created {
    /// The schedule is stored.
    #[oai(status = 201)]
    Created(
        Json<Typed<ScheduleView>>,
        /// Where the schedule is.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum Deleted {
    /// The schedule is gone; its jobs go on.
    #[oai(status = 204)]
    Gone,
}

pub struct ManageApi;

#[OpenApi]
impl ManageApi {
    /// Create a schedule
    ///
    /// Stores a cron expression in a time zone, and the job that each of its ticks makes. However many workers there are,
    /// whatever their restarts and whatever the clock does, a tick has one job. The args of a `publish` may name a template,
    /// which is filled in now: a missing variable is refused here, and no tick meets it. Scope: operator.
    #[oai(
        path = "/v1/schedules",
        method = "post",
        operation_id = "create_schedule",
        tag = "Tag::Schedules"
    )]
    async fn create(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: NewBody,
    ) -> Result<Created, Problem> {
        let (state, context, actor) = (state.0, context.0, caller.0.actor());
        let body = json_of(&body.0)?;
        let body = templates::filled_schedule(&state.pool, &body).await?;
        let mut request = ScheduleRequest::parse(&body, state.clock.now())?;
        edit::resolve(state, &mut request, None).await?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_create_schedule"))?;
        let now = schedules::now(&mut transaction).await?;
        edit::keep_files(state, &mut transaction, &request, None).await?;
        let id = ScheduleId::generate();
        let schedule = ScheduleRecord {
            id,
            next: Some(edit::first(id, &request, now)?),
            pause: edit::pause(None, request.paused.as_ref(), now, &actor),
            settings: request.settings,
            version: 1,
            created_by: actor,
            created_at: now,
            updated_at: now,
        };
        schedules::create(&mut transaction, &schedule)
            .await
            .map_err(not_saved)?;
        let details = json!({
            "name": schedule.settings.name,
            "cron": schedule.settings.cron,
            "time_zone": schedule.settings.time_zone,
            "kind": schedule.settings.template.kind,
        });
        note(&mut transaction, &caller.0, context, "schedule.created", id, details).await?;
        transaction.commit().await.map_err(failed("commit_create_schedule"))?;
        let base = state.config.api.public_url.as_deref().unwrap_or_default();
        let location = format!("{}/v1/schedules/{id}", base.trim_end_matches('/'));
        Ok(Created::Created(Json(Typed(ScheduleView::of(schedule))), location))
    }

    /// List schedules
    ///
    /// Lists schedules, those made last first; the text of messages is left out. Scope: viewer.
    #[oai(
        path = "/v1/schedules",
        method = "get",
        operation_id = "list_schedules",
        tag = "Tag::Schedules"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Most schedules of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<ScheduleView>>>, Problem> {
        let limit = page::limit(limit.as_deref())?;
        let before: Option<ScheduleId> = page::decode(List::Schedules, cursor.as_deref())?;
        let rows = schedules::list(&state.pool, before, i64::from(limit) + 1).await?;
        let (rows, next_cursor) = page::cut(rows, limit, List::Schedules, |row| row.id.to_string());
        let items = rows.into_iter().map(ScheduleView::listed).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Look at a schedule
    ///
    /// Shows a schedule and when it fires next. Scope: viewer.
    #[oai(
        path = "/v1/schedules/:id",
        method = "get",
        operation_id = "get_schedule",
        tag = "Tag::Schedules"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The schedule's id.
        id: Path<String>,
    ) -> Result<Json<Typed<ScheduleView>>, Problem> {
        let schedule = schedules::get(&state.pool, schedule_id(&id)?).await?;
        schedule
            .map(|schedule| Json(Typed(ScheduleView::of(schedule))))
            .ok_or_else(not_found)
    }

    /// Change a schedule
    ///
    /// Changes what is named and leaves the rest: to pause, send `{"paused": {"reason": "…"}}`, and to resume,
    /// `{"paused": null}`. Another expression, zone, start or end counts from now on, but a tick that is due already is still
    /// taken; jobs that were made stay as they are. The version grows. Scope: operator.
    #[oai(
        path = "/v1/schedules/:id",
        method = "patch",
        operation_id = "change_schedule",
        tag = "Tag::Schedules"
    )]
    async fn change(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The schedule's id.
        id: Path<String>,
        body: PatchBody,
    ) -> Result<Json<Typed<ScheduleView>>, Problem> {
        let (state, id, patch) = (state.0, schedule_id(&id)?, json_of(&body.0)?);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_change_schedule"))?;
        let before = schedules::lock(&mut transaction, id).await?.ok_or_else(not_found)?;
        let after = changed(state, &mut transaction, &caller.0, &before, patch).await?;
        let changes = edit::changes(&before, &after);
        if changes.is_empty() {
            return Ok(Json(Typed(ScheduleView::of(before))));
        }
        schedules::update(&mut transaction, &after).await.map_err(not_saved)?;
        note_passed(&mut transaction, &before, &after).await?;
        let details = json!({ "version": after.version, "changed": changes });
        note(&mut transaction, &caller.0, context.0, "schedule.changed", id, details).await?;
        transaction.commit().await.map_err(failed("commit_change_schedule"))?;
        Ok(Json(Typed(ScheduleView::of(after))))
    }

    /// Remove a schedule
    ///
    /// Removes a schedule and its history. Jobs that it made go on; ticks that waited for one get none. Scope: operator.
    #[oai(
        path = "/v1/schedules/:id",
        method = "delete",
        operation_id = "delete_schedule",
        tag = "Tag::Schedules"
    )]
    async fn delete(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The schedule's id.
        id: Path<String>,
    ) -> Result<Deleted, Problem> {
        let (state, id) = (state.0, schedule_id(&id)?);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_delete_schedule"))?;
        let schedule = schedules::lock(&mut transaction, id).await?.ok_or_else(not_found)?;
        schedules::delete(&mut transaction, id).await?;
        let details = json!({ "name": schedule.settings.name });
        note(&mut transaction, &caller.0, context.0, "schedule.deleted", id, details).await?;
        transaction.commit().await.map_err(failed("commit_delete_schedule"))?;
        Ok(Deleted::Gone)
    }
}

/// What the patch makes of the schedule, which the transaction has locked.
async fn changed(
    state: &State,
    conn: &mut PgConnection,
    caller: &Caller,
    before: &ScheduleRecord,
    patch: Value,
) -> Result<ScheduleRecord, Problem> {
    let reason = before.pause.as_ref().map(|pause| pause.reason.as_str());
    let body = patched(as_posted(&before.settings, reason), patch)?;
    let body = templates::filled_schedule(&state.pool, &body).await?;
    let mut request = ScheduleRequest::parse(&body, state.clock.now())?;
    edit::resolve(state, &mut request, Some(&before.settings)).await?;
    edit::keep_files(state, conn, &request, Some(&before.settings)).await?;
    let now = schedules::now(conn).await?;
    Ok(ScheduleRecord {
        next: edit::next_after_edit(before, &request, now)?,
        pause: edit::pause(before.pause.as_ref(), request.paused.as_ref(), now, &caller.actor()),
        settings: request.settings,
        version: before.version + 1,
        updated_at: now,
        ..before.clone()
    })
}

/// Keeps a row for each tick that a pause swallowed: the history has a reason for every one.
async fn note_passed(conn: &mut PgConnection, before: &ScheduleRecord, after: &ScheduleRecord) -> Result<(), Problem> {
    // One that this version cannot read has had no ticks either.
    let Ok(timetable) = timetable(&before.settings.cron, &before.settings.time_zone) else {
        return Ok(());
    };
    let mut passed = edit::passed_in_pause(before, &timetable, after, after.updated_at);
    if passed.is_empty() {
        return Ok(());
    }
    let at: Vec<_> = passed.iter().map(|tick| tick.at).collect();
    let taken = schedule_ticks::taken_before(conn, before.id, &at).await?;
    passed.retain(|tick| !taken.contains(&tick.at));
    Ok(schedule_ticks::record(conn, before.id, &passed).await?)
}

fn not_saved(error: SaveError) -> Problem {
    match error {
        SaveError::NameTaken => Problem::new(Code::ScheduleExists, "name: another schedule has it.").field("name"),
        SaveError::Store(error) => error.into(),
    }
}

/// The audit row of a change, in its transaction.
pub async fn note(
    conn: &mut PgConnection,
    caller: &Caller,
    context: &RequestContext,
    action: &str,
    id: ScheduleId,
    details: Value,
) -> Result<(), Problem> {
    let entry = audit::Entry {
        actor: &caller.actor(),
        action,
        subject: &format!("schedule:{id}"),
        request_id: Some(context.id()),
        details,
    };
    Ok(audit::record(conn, entry).await?)
}
