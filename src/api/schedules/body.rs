//! The bodies of `POST /v1/schedules` and of `PATCH`. A patch is laid over what the schedule would be posted as, and the
//! result goes through the same parser: so an edit is refused for the same reasons as a new schedule.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaRequest, Registry},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::timetable;
use crate::{
    api::{
        jobs::{JobBody, JobRequest, invalid, not_json, nul, read, time, within},
        problem::Problem,
        typed::Typed,
    },
    cron::Timetable,
    store::schedules::{Missed, Overlap, Settings},
};

const DEFAULT_ZONE: &str = "UTC";
const DEFAULT_MISSED_MAX: i32 = 100;
const DEFAULT_MISSED_AFTER: i32 = 60;
const MAX_NAME: usize = 100;
const MAX_REASON: usize = 500;
const MAX_CRON: usize = 1000;
const MAX_ZONE: usize = 100;
/// A year.
const MAX_DEADLINE: i64 = 366 * 86_400;

/// A cron expression in a time zone, and the job that each of its ticks makes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewSchedule")]
pub struct NewScheduleBody {
    /// A name of its own, for people.
    #[schemars(example = &"morning digest", length(min = 1, max = 100))]
    name: String,
    /// Five fields as in crontab (minute, hour, day of month, month, day of week), six with seconds in front, or one of
    /// `@yearly`, `@monthly`, `@weekly`, `@daily`, `@hourly`. Lists, ranges, steps and English names are understood; a day fits
    /// when the day of month or that of week does, if neither begins with `*`.
    #[schemars(example = &"0 9 * * mon-fri", length(min = 1, max = 1000))]
    cron: String,
    /// A zone of IANA's database; null: UTC. Where clocks are set forward, a fixed time that is left out fires at the first
    /// moment after; where they are set back, a fixed time that comes twice fires once. An expression whose minute or hour
    /// begins with `*` follows the clock on the wall.
    #[serde(default)]
    #[schemars(example = &"Europe/Berlin", length(min = 1, max = 100))]
    time_zone: Option<String>,
    /// The job of each tick.
    job: TemplateBody,
    /// What becomes of ticks that no worker took in time: `skip` (nothing), `once` (the latest gets its job, unless a later
    /// one is in time; the default) or `all` (each gets its job, the latest up to `missed_max`).
    #[serde(default)]
    #[schemars(extend("enum" = ["skip", "once", "all", null]))]
    missed: Option<String>,
    /// Most jobs that `all` makes up for at once; null: 100.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    missed_max: Option<i64>,
    /// How many seconds late a tick may be before it counts as missed; null: 60.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86400))]
    missed_after_seconds: Option<i64>,
    /// What becomes of a tick while a job of the schedule is not finished: `allow` (it gets its job; the default), `skip` (it
    /// gets none) or `queue` (its job comes after; at most 100 wait).
    #[serde(default)]
    #[schemars(extend("enum" = ["allow", "skip", "queue", null]))]
    overlap: Option<String>,
    /// Each tick is taken up to so many seconds later, by an amount that is always the same for the same tick; null: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    jitter_seconds: Option<i64>,
    /// No tick before this time (RFC 3339).
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    starts_at: Option<String>,
    /// No tick after this time (RFC 3339).
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    ends_at: Option<String>,
    /// While it is paused, its ticks go by without a job; null: it is not.
    #[serde(default)]
    paused: Option<PauseBody>,
}

/// The job of each tick: the fields of a new job, with the deadline counted from the tick.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ScheduledJob")]
struct TemplateBody {
    #[schemars(schema_with = "kind_schema")]
    kind: String,
    #[schemars(schema_with = "args_schema")]
    args: Value,
    /// Any ready session of this pool may run the job; null: the pool of `session`, or `default`.
    #[serde(default)]
    pool: Option<Value>,
    /// The id or the label of the one session that may run the job; null: any of the pool.
    #[serde(default)]
    session: Option<Value>,
    /// From -100 to 100: higher runs earlier; null: 0.
    #[serde(default)]
    priority: Option<Value>,
    /// From 1 to 100; null: as the kind says.
    #[serde(default)]
    max_attempts: Option<Value>,
    /// The job fails when it has not been started so many seconds after the tick; null: never.
    #[serde(default)]
    #[schemars(range(min = 1, max = 31_622_400))]
    deadline_seconds: Option<i64>,
    /// Words to find the jobs by.
    #[serde(default)]
    tags: Option<Value>,
    /// What rate limits count the jobs by, as in a new job; null: nothing.
    #[serde(default)]
    limit_key: Option<Value>,
}

/// Why a schedule is paused.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewPause")]
struct PauseBody {
    /// For whoever wonders later.
    #[schemars(example = &"holidays", length(min = 1, max = 500))]
    reason: String,
}

fn kind_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/JobKind" })
}

fn args_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": "#/components/schemas/JobArgs" })
}

/// A change of a schedule: fields that are left out stay, null stands for the default. `job` is changed field by field
/// likewise, its `args` as a whole.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct SchedulePatch(Value);

impl JsonSchema for SchedulePatch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SchedulePatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = NewScheduleBody::json_schema(generator);
        schema.remove("required");
        let description = "A change of a schedule: fields that are left out stay, null stands for the default. `job` is \
                           changed field by field likewise, its `args` as a whole.";
        schema.insert("description".to_owned(), description.into());
        let mut job = TemplateBody::json_schema(generator);
        job.remove("required");
        if let Some(properties) = schema.get_mut("properties") {
            properties["job"] = job.to_value();
        }
        schema
    }
}

/// A schedule that has been read and found good, as far as that goes without the database.
#[derive(Debug)]
pub struct ScheduleRequest {
    /// Its session is not found yet.
    pub settings: Settings,
    /// An id or a label.
    pub session: Option<String>,
    /// The reason of a pause.
    pub paused: Option<String>,
    /// The uploaded files of its message, each with its place in `job.args.media`.
    pub files: Vec<(usize, Uuid)>,
    pub timetable: Timetable,
}

/// The JSON of a body.
pub fn json_of(body: &[u8]) -> Result<Value, Problem> {
    let body: Value = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    match nul(&body) {
        Some(field) => Err(invalid(field, "may not contain NUL.")),
        None => Ok(body),
    }
}

impl ScheduleRequest {
    /// Reads a schedule at the time `now`.
    pub fn parse(body: &Value, now: DateTime<Utc>) -> Result<Self, Problem> {
        let body: NewScheduleBody = read(body, "", "NewSchedule", |source| NewScheduleBody::deserialize(source))?;
        let zone = text(
            "time_zone",
            body.time_zone.unwrap_or_else(|| DEFAULT_ZONE.to_owned()),
            MAX_ZONE,
        )?;
        let cron = text("cron", body.cron, MAX_CRON)?;
        let timetable = timetable(&cron, &zone)?;
        let starts_at = time("starts_at", body.starts_at.as_deref())?;
        let ends_at = time("ends_at", body.ends_at.as_deref())?;
        if starts_at.zip(ends_at).is_some_and(|(start, end)| end < start) {
            return Err(invalid("ends_at", "must not be before starts_at."));
        }
        let deadline = within("job.deadline_seconds", body.job.deadline_seconds, 1, MAX_DEADLINE)?;
        let fixed_attempts = body.job.max_attempts.as_ref().is_some_and(|value| !value.is_null());
        let job = template(&body.job, now)?;
        let files = job.files().collect();
        let settings = Settings {
            name: text("name", body.name, MAX_NAME)?,
            cron,
            time_zone: zone,
            template: crate::store::schedules::Template {
                kind: job.args.kind().as_str().to_owned(),
                args: serde_json::to_value(&job.args).map_err(Problem::internal)?,
                pool: job.pool,
                session: None,
                priority: job.priority,
                max_attempts: fixed_attempts.then_some(job.max_attempts),
                tags: job.tags,
                deadline_seconds: deadline,
                limit_key: job.limit_key,
            },
            missed: policy(
                "missed",
                body.missed.as_deref(),
                Missed::Once,
                Missed::parse,
                &Missed::ALL.map(Missed::as_str),
            )?,
            missed_max: within("missed_max", body.missed_max, 1, 1000)?.unwrap_or(DEFAULT_MISSED_MAX),
            missed_after_seconds: within("missed_after_seconds", body.missed_after_seconds, 1, 86_400)?
                .unwrap_or(DEFAULT_MISSED_AFTER),
            overlap: policy(
                "overlap",
                body.overlap.as_deref(),
                Overlap::Allow,
                Overlap::parse,
                &Overlap::ALL.map(Overlap::as_str),
            )?,
            jitter_seconds: within("jitter_seconds", body.jitter_seconds, 0, 3600)?.unwrap_or(0),
            starts_at,
            ends_at,
        };
        let paused = body.paused.map(|pause| text("paused.reason", pause.reason, MAX_REASON));
        Ok(Self {
            settings,
            session: job.session,
            paused: paused.transpose()?,
            files,
            timetable,
        })
    }
}

/// The template goes through the parser of a new job: it refuses what that would.
fn template(body: &TemplateBody, now: DateTime<Utc>) -> Result<JobRequest, Problem> {
    let job = json!({
        "kind": body.kind,
        "args": body.args,
        "pool": body.pool,
        "session": body.session,
        "priority": body.priority,
        "max_attempts": body.max_attempts,
        "tags": body.tags,
        "limit_key": body.limit_key,
    });
    JobRequest::read(&job, now).map_err(|problem| problem.within("job"))
}

fn text(field: &str, value: String, most: usize) -> Result<String, Problem> {
    let length = value.chars().count();
    if value.trim().is_empty() || length > most {
        return Err(invalid(field, format!("must have 1 to {most} characters.")));
    }
    Ok(value)
}

fn policy<P>(
    field: &str,
    value: Option<&str>,
    default: P,
    parse: impl Fn(&str) -> Option<P>,
    known: &[&str],
) -> Result<P, Problem> {
    match value {
        None => Ok(default),
        Some(value) => parse(value).ok_or_else(|| invalid(field, format!("must be one of {}.", known.join(", ")))),
    }
}

/// What the schedule would be posted as.
pub fn as_posted(settings: &Settings, paused: Option<&str>) -> Value {
    let job = &settings.template;
    let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    json!({
        "name": settings.name,
        "cron": settings.cron,
        "time_zone": settings.time_zone,
        "job": {
            "kind": job.kind,
            "args": job.args,
            "pool": job.pool,
            "session": job.session.map(|id| id.to_string()),
            "priority": job.priority,
            "max_attempts": job.max_attempts,
            "deadline_seconds": job.deadline_seconds,
            "tags": job.tags,
            "limit_key": job.limit_key,
        },
        "missed": settings.missed.as_str(),
        "missed_max": settings.missed_max,
        "missed_after_seconds": settings.missed_after_seconds,
        "overlap": settings.overlap.as_str(),
        "jitter_seconds": settings.jitter_seconds,
        "starts_at": time(settings.starts_at),
        "ends_at": time(settings.ends_at),
        "paused": paused.map(|reason| json!({ "reason": reason })),
    })
}

/// Lays a patch over that.
pub fn patched(mut posted: Value, patch: Value) -> Result<Value, Problem> {
    let Value::Object(patch) = patch else {
        return Err(Problem::new(
            crate::api::problem::Code::WrongType,
            "The body must be an object of what changes.",
        ));
    };
    for (name, value) in patch {
        match (name.as_str(), value) {
            ("job", Value::Object(job)) => {
                for (name, value) in job {
                    posted["job"][name] = value;
                }
            }
            (_, value) => posted[name] = value,
        }
    }
    Ok(posted)
}

/// The first tick at or after `from` of a schedule that starts and ends as its settings say.
pub fn first_tick(settings: &Settings, timetable: &Timetable, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let before_start = settings.starts_at.map(|start| start - TimeDelta::microseconds(1));
    let after = before_start.map_or(from, |start| start.max(from));
    timetable
        .next_after(after)
        .filter(|tick| settings.ends_at.is_none_or(|end| *tick <= end))
}

macro_rules! body {
    ($(#[$doc:meta])* $name:ident of $type:ty) => {
        $(#[$doc])*
        pub struct $name(pub Vec<u8>);

        impl<'a> ApiExtractor<'a> for $name {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                <Json<Typed<$type>> as Payload>::register(registry);
            }

            fn request_meta() -> Option<MetaRequest> {
                Some(MetaRequest {
                    description: None,
                    content: vec![MetaMediaType {
                        content_type: <Json<Typed<$type>> as Payload>::CONTENT_TYPE,
                        schema: <Json<Typed<$type>> as Payload>::schema_ref(),
                    }],
                    required: true,
                })
            }

            async fn from_request(
                request: &'a Request,
                body: &mut RequestBody,
                options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                // The same media type, size and time as for a job.
                JobBody::from_request(request, body, options).await.map(|body| Self(body.0))
            }
        }
    };
}

body!(
    /// The bytes of a new schedule.
    NewBody of NewScheduleBody
);
body!(
    /// The bytes of a change.
    PatchBody of SchedulePatch
);
