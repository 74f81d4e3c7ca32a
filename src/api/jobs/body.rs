//! The body of `POST /v1/jobs`: one parser, serde with the path of the field, for the job's options and for its args.

use chrono::{DateTime, TimeDelta, Utc};
use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaRequest, Registry},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::{Deserializer, Track};
use uuid::Uuid;
use wireroom_jobs::{ArgsError, JobArgs, JobKind};
use zeroize::Zeroize;

use super::{
    field_error::{FieldError, field_error},
    unique,
};
use crate::{
    api::{
        document::names,
        problem::{Code, Problem},
        sent,
        typed::Typed,
    },
    store::unique_keys::Unique,
};

const MAX_TAGS: usize = 20;
const MAX_TAG_LENGTH: usize = 64;
const MAX_LIMIT_KEY_LENGTH: usize = 128;

/// How far ahead a job may be scheduled, in days.
const MAX_DAYS_AHEAD: i64 = 366;

/// The pool of a job whose client names neither a pool nor a session.
pub const DEFAULT_POOL: &str = "default";

/// A job to be run: its kind, what it needs to know, and when and where it may run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewJob")]
pub struct NewJobBody {
    /// What to do.
    #[schemars(example = &"join")]
    kind: String,
    /// What the kind needs to know.
    args: Value,
    /// Any ready session of this pool may run the job. Left out: the pool of `session`, or `default`.
    #[serde(default)]
    #[schemars(example = &"default", length(min = 1, max = 63))]
    pool: Option<String>,
    /// The id or the label of the one session that may run the job; null: any of the pool.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    session: Option<String>,
    /// Higher runs earlier. Jobs age: a low priority is not starved.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100), example = 0)]
    priority: Option<i64>,
    /// Not before this time (RFC 3339), at most 366 days ahead; null: at once.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    run_at: Option<String>,
    /// How often the job is tried before it fails; null: as the kind says. Waiting for Telegram does not count.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    max_attempts: Option<i64>,
    /// The job fails when it has not been started by this time (RFC 3339); null: never.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    deadline: Option<String>,
    /// Words to find the job by, of `a-z 0-9 _ . : -`. They are shown in lists: put nothing private in them.
    #[serde(default)]
    #[schemars(
        length(max = 20),
        inner(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9_.:-]+$"))
    )]
    tags: Option<Vec<String>>,
    /// A word of the client's: of the jobs of a kind with the same one, and the same scope, there is one.
    #[serde(default)]
    #[schemars(example = &"digest-2030-01-31", length(min = 1, max = 200))]
    unique_key: Option<String>,
    /// How long the key keeps other jobs out: `queued`, while the job waits; `live`, until it has finished (the default);
    /// `period`, for `unique_seconds` from now. Keys of different scopes never meet.
    #[serde(default)]
    #[schemars(extend("enum" = ["queued", "live", "period", null]))]
    unique_scope: Option<String>,
    /// The length of a `period`, at most 30 days.
    #[serde(default)]
    #[schemars(range(min = 1, max = 2_592_000))]
    unique_seconds: Option<i64>,
    /// What happens when another job has the key. `reject` (the default): 409, with the other job in `job`.
    /// `return_existing`: 200, with the other job. `replace`: 200, with the other job, which takes over these `args` and this
    /// `run_at` when no attempt of it has begun; else as `reject`.
    #[serde(default)]
    #[schemars(extend("enum" = ["reject", "return_existing", "replace", null]))]
    on_conflict: Option<String>,
    /// What rate limits count the job by, such as a chat or a campaign: `campaign:spring`. What stands before the first
    /// colon is its class. Of `a-z A-Z 0-9 _ . : @ + -`; shown in lists: put nothing private in it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_.:@+-]+$"))]
    limit_key: Option<String>,
}

/// A body that has been read and found good, as far as that goes without the database.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    pub args: JobArgs,
    pub pool: Option<String>,
    /// An id or a label.
    pub session: Option<String>,
    pub priority: i16,
    pub run_at: Option<DateTime<Utc>>,
    pub max_attempts: i32,
    pub deadline: Option<DateTime<Utc>>,
    pub tags: Vec<String>,
    pub unique: Option<Unique>,
    pub limit_key: Option<String>,
}

/// Reads the bytes of a body.
pub fn json(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| not_json(&error))
}

impl JobRequest {
    /// Reads a body at the time `now`.
    pub fn read(body: &Value, now: DateTime<Utc>) -> Result<Self, Problem> {
        refuse_nul(body)?;
        let envelope: NewJobBody = read(body, "", "NewJob", |source| NewJobBody::deserialize(source))?;
        let kind = JobKind::parse(&envelope.kind).ok_or_else(unknown_kind)?;
        let args = read(&envelope.args, "args", &names(kind).0, |source| {
            JobArgs::deserialize(kind, source)
        })?;
        args.job()
            .validate()
            .map_err(|error| refuse_args(&envelope.args, error))?;
        let run_at = time("run_at", envelope.run_at.as_deref())?;
        check_run_at(run_at, now)?;
        let deadline = time("deadline", envelope.deadline.as_deref())?;
        check_deadline(deadline, run_at, now)?;
        let max_attempts = within("max_attempts", envelope.max_attempts, 1, 100)?;
        let unique = unique::read(
            envelope.unique_key,
            envelope.unique_scope.as_deref(),
            envelope.unique_seconds,
            envelope.on_conflict.as_deref(),
        )?;
        Ok(Self {
            args,
            pool: name("pool", envelope.pool)?,
            session: name("session", envelope.session)?,
            priority: within("priority", envelope.priority, -100, 100)?.unwrap_or(0),
            run_at,
            max_attempts: max_attempts.unwrap_or(kind.default_max_attempts()),
            deadline,
            tags: tags(envelope.tags.unwrap_or_default())?,
            unique,
            limit_key: envelope.limit_key.map(limit_key).transpose()?,
        })
    }

    /// Whether nothing that is stored has a say in it: no job with its key, and no file.
    pub fn stands_alone(&self) -> bool {
        self.unique.is_none() && self.files().next().is_none()
    }

    /// The uploaded files that its message has, each with its place in `args.media`.
    pub fn files(&self) -> impl Iterator<Item = (usize, Uuid)> {
        let media = match &self.args {
            JobArgs::Publish(args) => args.media.as_slice(),
            _ => &[],
        };
        media
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((index, item.file?)))
    }

    /// The args of a body that was found good once, as its job has them; whatever has become too late since.
    pub fn args_again(body: &Value) -> Option<Value> {
        let kind = JobKind::parse(body["kind"].as_str()?)?;
        if body["args"].get("template").is_some_and(|template| !template.is_null()) {
            // The job has what it was filled in with.
            return None;
        }
        let args = read(&body["args"], "args", &names(kind).0, |source| {
            JobArgs::deserialize(kind, source)
        })
        .ok()?;
        serde_json::to_value(args).ok()
    }
}

/// A body of any type as serde reads it.
pub fn parse<T: DeserializeOwned + JsonSchema>(body: &[u8]) -> Result<T, Problem> {
    let body = Wiped(json(body)?);
    refuse_nul(&body.0)?;
    read(&body.0, "", &T::schema_name(), |source| T::deserialize(source))
}

/// A body on its way to its type, wiped when it is dropped: it may hold a code or a password.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn refuse_nul(body: &Value) -> Result<(), Problem> {
    match nul(body) {
        Some(field) => Err(invalid(field, "may not contain NUL.")),
        None => Ok(()),
    }
}

/// Deserializes `value`, and turns serde's error into a problem that names the field below `prefix`, and what the document's
/// schema of that name has there.
pub fn read<'v, T>(
    value: &'v Value,
    prefix: &str,
    schema: &str,
    deserialize: impl FnOnce(Deserializer<'_, '_, &'v Value>) -> Result<T, serde_json::Error>,
) -> Result<T, Problem> {
    // serde would take an array for a struct.
    if !value.is_object() {
        return Err(FieldError::not_an_object(prefix, schema, value).into());
    }
    let mut track = Track::new();
    deserialize(Deserializer::new(value, &mut track))
        .map_err(|error| field_error(prefix, &track.path(), &error.to_string(), value, schema).into())
}

/// Never quotes the body: it may hold the text of a message.
pub fn not_json(error: &serde_json::Error) -> Problem {
    let detail = format!(
        "The body cannot be read as JSON: see line {}, column {}.",
        error.line(),
        error.column()
    );
    Problem::new(Code::InvalidJson, detail)
}

/// The path of the first string with a NUL in it, which Postgres cannot store.
pub fn nul(value: &Value) -> Option<String> {
    let below = |step: String, value: &Value| {
        nul(value).map(|rest| match rest.as_str() {
            "" => step,
            index if index.starts_with('[') => format!("{step}{index}"),
            _ => format!("{step}.{rest}"),
        })
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(values) => {
            let mut values = values.iter().enumerate();
            values.find_map(|(index, value)| below(format!("[{index}]"), value))
        }
        // A field with NUL in its name is not known, and refused for that.
        Value::Object(fields) => fields.iter().find_map(|(name, value)| below(name.clone(), value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn unknown_kind() -> Problem {
    let kinds = JobKind::ALL.map(JobKind::as_str).join(", ");
    Problem::new(Code::UnknownKind, format!("The kinds there are: {kinds}.")).field("kind")
}

/// What is wrong with the args; a field that has to be there in one form or another and is in none is missing.
fn refuse_args(args: &Value, error: ArgsError) -> Problem {
    let name = error
        .field
        .strip_prefix("args.")
        .filter(|name| !name.contains(['.', '[']));
    let code = match name.map(|name| args.get(name)) {
        Some(None | Some(Value::Null)) => Code::MissingField,
        _ => Code::InvalidValue,
    };
    Problem::new(code, format!("{}: {}", error.field, error.message)).field(error.field)
}

pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Problem {
    let (field, message) = (field.into(), message.into());
    Problem::new(Code::InvalidValue, format!("{field}: {message}")).field(field)
}

pub fn within<T: TryFrom<i64>>(field: &str, value: Option<i64>, min: i64, max: i64) -> Result<Option<T>, Problem> {
    let Some(value) = value else { return Ok(None) };
    if !(min..=max).contains(&value) {
        return Err(invalid(field, format!("must be from {min} to {max}.")));
    }
    T::try_from(value)
        .map(Some)
        .map_err(|_| invalid(field, format!("must be from {min} to {max}.")))
}

pub fn time(field: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    text.map(|text| {
        DateTime::parse_from_rfc3339(text)
            .map(|time| time.to_utc())
            .map_err(|_| {
                invalid(
                    field,
                    "must be a time with its offset (RFC 3339), such as 2030-01-31T12:00:00Z.",
                )
            })
    })
    .transpose()
}

/// Refuses a time that is too far ahead.
pub fn check_run_at(run_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), Problem> {
    match run_at {
        Some(run_at) if run_at > now + TimeDelta::days(MAX_DAYS_AHEAD) => {
            Err(invalid("run_at", format!("at most {MAX_DAYS_AHEAD} days ahead")))
        }
        _ => Ok(()),
    }
}

fn check_deadline(
    deadline: Option<DateTime<Utc>>,
    run_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    match (deadline, run_at) {
        (Some(deadline), _) if deadline <= now => Err(invalid("deadline", "must be in the future.")),
        (Some(deadline), Some(run_at)) if deadline <= run_at => Err(invalid("deadline", "must be after run_at.")),
        _ => Ok(()),
    }
}

fn name(field: &str, value: Option<String>) -> Result<Option<String>, Problem> {
    match value {
        Some(value) if value.is_empty() || value.len() > 400 || value.contains('\0') => {
            Err(invalid(field, "must be a name or null."))
        }
        value => Ok(value),
    }
}

/// A limit key that can be counted by.
pub fn limit_key(key: String) -> Result<String, Problem> {
    let fits = (1..=MAX_LIMIT_KEY_LENGTH).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'@' | b'+' | b'-'));
    if fits {
        return Ok(key);
    }
    let message = format!("must be 1 to {MAX_LIMIT_KEY_LENGTH} characters of a-z A-Z 0-9 _ . : @ + -");
    Err(invalid("limit_key", message))
}

fn tags(tags: Vec<String>) -> Result<Vec<String>, Problem> {
    if tags.len() > MAX_TAGS {
        return Err(invalid("tags", format!("at most {MAX_TAGS}.")));
    }
    let mut kept: Vec<String> = Vec::with_capacity(tags.len());
    for (index, tag) in tags.into_iter().enumerate() {
        let fits = (1..=MAX_TAG_LENGTH).contains(&tag.len())
            && tag
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b':' | b'-'));
        if !fits {
            let message = format!("must be 1 to {MAX_TAG_LENGTH} characters of a-z 0-9 _ . : -");
            return Err(invalid(format!("tags[{index}]"), message));
        }
        if !kept.contains(&tag) {
            kept.push(tag);
        }
    }
    Ok(kept)
}

/// The bytes of a body of the right media type and size; [`JobRequest::read`] reads them.
pub struct JobBody(pub Vec<u8>);

impl<'a> ApiExtractor<'a> for JobBody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Json<Typed<NewJobBody>> as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest {
            description: None,
            content: vec![MetaMediaType {
                content_type: <Json<Typed<NewJobBody>> as Payload>::CONTENT_TYPE,
                schema: <Json<Typed<NewJobBody>> as Payload>::schema_ref(),
            }],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(sent::bytes::<NewJobBody>(request, body).await?))
    }
}
