//! A schedule and its ticks, as the API shows them.

use chrono::{DateTime, TimeDelta, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::store::{
    schedule_ticks::{Reason, TickRecord},
    schedules::{Pause, ScheduleRecord},
};

/// A schedule: what it was posted as, and where it is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Schedule")]
pub struct ScheduleView {
    pub id: Uuid,
    pub name: String,
    pub state: ScheduleState,
    pub cron: String,
    pub time_zone: String,
    pub job: TemplateView,
    #[schemars(extend("enum" = ["skip", "once", "all"]))]
    pub missed: String,
    pub missed_max: i32,
    pub missed_after_seconds: i32,
    #[schemars(extend("enum" = ["allow", "skip", "queue"]))]
    pub overlap: String,
    pub jitter_seconds: i32,
    pub starts_at: Option<DateTime<Utc>>,
    pub ends_at: Option<DateTime<Utc>>,
    pub paused: Option<PauseView>,
    /// Grows with every edit; ticks say under which they were taken.
    pub version: i32,
    /// The first tick that was not taken yet; null when none is to come.
    pub next_tick_at: Option<DateTime<Utc>>,
    /// The same and its jitter: when it is taken.
    pub next_due_at: Option<DateTime<Utc>>,
    /// The key that made it: `key:<id>`.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Where a schedule is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// Its ticks get jobs.
    Active,
    /// Its ticks go by without a job.
    Paused,
    /// No tick is to come.
    Ended,
}

/// The job of each tick.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "ScheduleJob")]
pub struct TemplateView {
    #[schemars(schema_with = "kind_schema")]
    pub kind: String,
    /// As they were read; lists leave the text of messages out.
    #[schemars(schema_with = "object_schema")]
    pub args: Value,
    pub pool: Option<String>,
    pub session: Option<Uuid>,
    pub priority: i16,
    /// Null: as the kind says.
    pub max_attempts: Option<i32>,
    /// Counted from the tick.
    pub deadline_seconds: Option<i32>,
    pub tags: Vec<String>,
    /// What rate limits count the jobs by.
    pub limit_key: Option<String>,
}

/// A pause, and who began it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SchedulePause")]
pub struct PauseView {
    pub reason: String,
    pub since: DateTime<Utc>,
    /// `key:<id>`.
    pub by: String,
}

/// A tick that was taken, with its job or the reason why it has none.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Tick")]
pub struct TickView {
    pub tick_at: DateTime<Utc>,
    /// `manual` is a run that somebody asked for.
    #[schemars(extend("enum" = ["cron", "manual"]))]
    pub trigger: String,
    /// The tick and its jitter.
    pub due_at: DateTime<Utc>,
    /// When it was taken.
    pub decided_at: DateTime<Utc>,
    /// How many seconds after `due_at` that was.
    pub drift_seconds: f64,
    /// `waiting` becomes one of the others when the schedule's jobs before it are finished.
    #[schemars(extend("enum" = ["job", "waiting", "skipped", "failed"]))]
    pub outcome: String,
    pub job: Option<Uuid>,
    /// Why it has no job.
    pub reason: Option<ReasonView>,
    /// The schedule's version under which it was taken.
    pub version: i32,
    /// The key that asked for a manual run: `key:<id>`.
    pub requested_by: Option<String>,
}

/// Why a tick has no job.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "TickReason")]
pub struct ReasonView {
    /// A stable word: `missed`, `overlap`, `overlap_full`, `paused`, `deadline`, `job_refused` or `unknown_kind`.
    #[schemars(example = &"missed")]
    pub code: String,
    /// One sentence for a person.
    #[schemars(example = &"No worker took the tick in time: it was 320 s late.")]
    pub message: String,
}

fn kind_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/JobKind" })
}

fn object_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": true })
}

impl ScheduleView {
    pub fn of(schedule: ScheduleRecord) -> Self {
        let state = match (&schedule.pause, &schedule.next) {
            (_, None) => ScheduleState::Ended,
            (Some(_), Some(_)) => ScheduleState::Paused,
            (None, Some(_)) => ScheduleState::Active,
        };
        let settings = schedule.settings;
        let job = settings.template;
        Self {
            id: schedule.id.0,
            name: settings.name,
            state,
            cron: settings.cron,
            time_zone: settings.time_zone,
            job: TemplateView {
                kind: job.kind,
                args: job.args,
                pool: job.pool,
                session: job.session.map(|id| id.0),
                priority: job.priority,
                max_attempts: job.max_attempts,
                deadline_seconds: job.deadline_seconds,
                tags: job.tags,
                limit_key: job.limit_key,
            },
            missed: settings.missed.as_str().to_owned(),
            missed_max: settings.missed_max,
            missed_after_seconds: settings.missed_after_seconds,
            overlap: settings.overlap.as_str().to_owned(),
            jitter_seconds: settings.jitter_seconds,
            starts_at: settings.starts_at,
            ends_at: settings.ends_at,
            paused: schedule.pause.map(PauseView::from),
            version: schedule.version,
            next_tick_at: schedule.next.map(|tick| tick.at),
            next_due_at: schedule.next.map(|tick| tick.due),
            created_by: schedule.created_by,
            created_at: schedule.created_at,
            updated_at: schedule.updated_at,
        }
    }

    /// As lists show it: without the text of messages.
    pub fn listed(mut schedule: ScheduleRecord) -> Self {
        if let Some(args) = schedule.settings.template.args.as_object_mut() {
            for field in ["text", "variables", "targets"] {
                args.remove(field);
            }
        }
        Self::of(schedule)
    }
}

impl From<Pause> for PauseView {
    fn from(pause: Pause) -> Self {
        Self {
            reason: pause.reason,
            since: pause.at,
            by: pause.by,
        }
    }
}

impl From<&Reason> for ReasonView {
    fn from(reason: &Reason) -> Self {
        Self {
            code: reason.code.clone(),
            message: reason.message.clone(),
        }
    }
}

impl From<TickRecord> for TickView {
    fn from(tick: TickRecord) -> Self {
        Self {
            tick_at: tick.at,
            trigger: tick.trigger.as_str().to_owned(),
            due_at: tick.due_at,
            decided_at: tick.decided_at,
            drift_seconds: seconds(tick.decided_at - tick.due_at),
            outcome: tick.outcome.as_str().to_owned(),
            job: tick.outcome.job().map(|id| id.0),
            reason: tick.outcome.reason().map(ReasonView::from),
            version: tick.version,
            requested_by: tick.requested_by,
        }
    }
}

fn seconds(delta: TimeDelta) -> f64 {
    delta.as_seconds_f64()
}
