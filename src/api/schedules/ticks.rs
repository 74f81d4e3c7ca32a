//! `GET /v1/schedules/{id}/ticks`: what became of past ticks, and when the next ones are.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{edit, not_found, schedule_id, timetable, view::TickView};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::{self, List},
        problem::Problem,
        typed::Typed,
    },
    store::{schedule_ticks, schedules},
};

/// How many of the ticks to come are shown.
const UPCOMING: usize = 10;

/// Past ticks, the latest first, and the next ones.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TickPage {
    pub items: Vec<TickView>,
    /// Pass it as `cursor` to read on; null at the end.
    pub next_cursor: Option<String>,
    /// The next ten ticks, as the schedule is now.
    pub upcoming: Vec<UpcomingTick>,
}

/// A tick to come.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct UpcomingTick {
    pub tick_at: DateTime<Utc>,
    /// The tick and its jitter.
    pub due_at: DateTime<Utc>,
    /// The tick as the clocks of the schedule's zone show it.
    #[schemars(example = &"2026-10-25T02:30:00+02:00")]
    pub local: String,
}

pub struct TicksApi;

#[OpenApi]
impl TicksApi {
    /// Look at a schedule's ticks
    ///
    /// Lists past ticks, the latest first, each with its job or the reason why it has none, and the next ten. Ticks are kept
    /// as long as finished jobs, of a schedule that fires often the newest 1,000 and those of the last day. Scope: viewer.
    #[oai(
        path = "/v1/schedules/:id/ticks",
        method = "get",
        operation_id = "list_ticks",
        tag = "Tag::Schedules"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The schedule's id.
        id: Path<String>,
        /// Most ticks of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<TickPage>>, Problem> {
        let id = schedule_id(&id)?;
        let limit = page::limit(limit.as_deref())?;
        let before: Option<i64> = page::decode(List::Ticks, cursor.as_deref())?;
        let before = before.and_then(DateTime::<Utc>::from_timestamp_micros);
        let schedule = schedules::get(&state.pool, id).await?.ok_or_else(not_found)?;
        let ticks = schedule_ticks::history(&state.pool, id, before, i64::from(limit) + 1).await?;
        let (ticks, next_cursor) = page::cut(ticks, limit, List::Ticks, |tick| tick.at.timestamp_micros().to_string());
        let timetable = timetable(&schedule.settings.cron, &schedule.settings.time_zone)?;
        let upcoming = edit::upcoming(&schedule, &timetable, UPCOMING).into_iter();
        Ok(Json(Typed(TickPage {
            items: ticks.into_iter().map(TickView::from).collect(),
            next_cursor,
            upcoming: upcoming
                .map(|tick| UpcomingTick {
                    tick_at: tick.at,
                    due_at: tick.due,
                    local: timetable.local(tick.at).to_rfc3339_opts(SecondsFormat::Secs, false),
                })
                .collect(),
        })))
    }
}
