//! The OpenAPI document: poem-openapi's operations with schemars' schemas. The args of a job are a union by `kind`, made of
//! the structs in `jobs`: the same that are parsed.

use poem_openapi::{OpenApi, OpenApiService, Tags};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use wireroom_jobs::{
    JobArgs, JobKind,
    join::{JoinArgs, JoinResult},
    publish::{PublishArgs, PublishResult},
    scan::{ScanArgs, ScanResult},
};

use super::{
    chats::{ChatView, ChatsApi},
    health::{Health, HealthApi},
    jobs::{
        CancelApi, CreateApi, GetApi, JobSummary, JobView, ListApi, MemberView, MembersApi, NewJobBody, WhyApi, WhyView,
    },
    page::{DEFAULT_LIMIT, MAX_LIMIT, Page},
    problem::{Code, ProblemBody},
    sessions::{self, SessionView, SessionsApi},
    workers::{WorkerView, WorkersApi},
};
use crate::store::job_reads::JobState;

/// Groups of operations.
#[derive(Tags)]
pub enum Tag {
    /// Units of work.
    Jobs,
    /// Telegram sessions.
    Sessions,
    /// Processes that run jobs.
    Workers,
    /// Chats that sessions have met.
    Chats,
    /// Whether the process is well.
    Health,
}

const SCHEMAS: &str = "#/components/schemas/";

/// The service behind all described routes.
pub fn service() -> OpenApiService<impl OpenApi + use<>, ()> {
    let apis = (
        CreateApi,
        ListApi,
        GetApi,
        CancelApi,
        MembersApi,
        WhyApi,
        SessionsApi,
        WorkersApi,
        ChatsApi,
        HealthApi,
    );
    OpenApiService::new(apis, "Wireroom", env!("CARGO_PKG_VERSION")).description(description())
}

fn description() -> String {
    let codes: String = Code::ALL
        .iter()
        .map(|code| {
            format!(
                "| `{}` | {} | {} |\n",
                code.as_str(),
                code.status().as_u16(),
                code.title()
            )
        })
        .collect();
    format!(
        "Runs Telegram work: post a job, and read its result.\n\n\
         Every `/v1` route needs a key: `Authorization: Bearer wr_<id>_<secret>`. Every response carries `X-Request-Id`; a \
         request may bring its own. A request is answered within 10 s, or 5 s after the wait it asked for.\n\n\
         Every error is `application/problem+json` (RFC 9457). Programs read `code`, which never changes its meaning:\n\n\
         | code | status | |\n| --- | --- | --- |\n{codes}"
    )
}

/// The OpenAPI document, the same at every call: what `/openapi.json` answers and `wireroom openapi` prints.
pub fn document() -> Value {
    // poem-openapi writes JSON that serde_json reads.
    let mut document: Value = serde_json::from_str(&service().spec()).unwrap_or_default();
    let mut schemas = schemas();
    add_unions(&mut schemas);
    if let Some(known) = document["components"]["schemas"].as_object_mut() {
        known.extend(schemas);
    }
    describe_parameters(&mut document);
    tidy(&mut document);
    document
}

/// The schemas of every type in a request or a response.
fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| settings.meta_schema = None);
    let mut requests = settings.clone().into_generator();
    let mut responses = settings.for_serialize().into_generator();

    requests.subschema_for::<NewJobBody>();
    requests.subschema_for::<JobKind>();
    add::<JobView>(&mut responses);
    add::<Page<JobSummary>>(&mut responses);
    add::<WhyView>(&mut responses);
    add::<MemberView>(&mut responses);
    add::<Page<MemberView>>(&mut responses);
    add::<SessionView>(&mut responses);
    add::<Page<SessionView>>(&mut responses);
    add::<Page<WorkerView>>(&mut responses);
    add::<ChatView>(&mut responses);
    add::<Health>(&mut responses);
    add::<ProblemBody>(&mut responses);
    for kind in JobKind::ALL {
        match kind {
            JobKind::Join => kind_schemas::<JoinArgs, JoinResult>(&mut requests, &mut responses),
            JobKind::Scan => kind_schemas::<ScanArgs, ScanResult>(&mut requests, &mut responses),
            JobKind::Publish => kind_schemas::<PublishArgs, PublishResult>(&mut requests, &mut responses),
        }
    }

    let mut all = responses.take_definitions(true);
    all.extend(requests.take_definitions(true));
    all
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

fn kind_schemas<Args: JsonSchema, Output: JsonSchema>(requests: &mut SchemaGenerator, responses: &mut SchemaGenerator) {
    add::<Args>(requests);
    add::<Output>(responses);
}

/// The names of the schemas of a kind's args and result.
fn names(kind: JobKind) -> (String, String) {
    match kind {
        JobKind::Join => (name::<JoinArgs>(), name::<JoinResult>()),
        JobKind::Scan => (name::<ScanArgs>(), name::<ScanResult>()),
        JobKind::Publish => (name::<PublishArgs>(), name::<PublishResult>()),
    }
}

fn name<T: JsonSchema>() -> String {
    T::schema_name().into_owned()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{SCHEMAS}{name}") })
}

/// Makes `NewJob` a union by `kind`, and adds the unions of all args and of all results.
fn add_unions(schemas: &mut Map<String, Value>) {
    let body = schemas.remove("NewJob").unwrap_or_default();
    let (mut members, mut mapping) = (Vec::new(), Map::new());
    let (mut args, mut results) = (Vec::new(), Vec::new());
    for kind in JobKind::ALL {
        let (args_name, result_name) = names(kind);
        let member = format!("New{}Job", capitalised(kind.as_str()));
        schemas.insert(member.clone(), new_job_of(&body, kind, &args_name, schemas));
        mapping.insert(kind.as_str().to_owned(), Value::from(format!("{SCHEMAS}{member}")));
        members.push(reference(&member));
        args.push(reference(&args_name));
        results.push(reference(&result_name));
    }
    let union = json!({
        "description": body["description"],
        "oneOf": members,
        "discriminator": { "propertyName": "kind", "mapping": mapping },
    });
    schemas.insert("NewJob".to_owned(), union);
    // A schema may take another's args too: not exactly one need fit.
    let args = json!({ "description": "The args of the job's kind.", "anyOf": args });
    schemas.insert("JobArgs".to_owned(), args);
    let results = json!({ "description": "The result of the job's kind.", "anyOf": results });
    schemas.insert("JobResult".to_owned(), results);
}

fn new_job_of(body: &Value, kind: JobKind, args: &str, schemas: &Map<String, Value>) -> Value {
    let mut schema = body.clone();
    schema["description"] = schemas
        .get(args)
        .and_then(|args| args.get("description"))
        .cloned()
        .unwrap_or_default();
    schema["properties"]["kind"] = json!({
        "type": "string",
        "enum": [kind.as_str()],
        "description": "What to do.",
    });
    schema["properties"]["args"] = reference(args);
    schema["example"] = json!({ "kind": kind.as_str(), "args": example(kind) });
    schema
}

/// The first of the kind's documented examples.
fn example(kind: JobKind) -> Value {
    JobArgs::schema(kind)
        .get("examples")
        .and_then(|examples| examples.get(0))
        .cloned()
        .unwrap_or_default()
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// Says of parameters what their Rust type, a string that is read with better errors, does not.
fn describe_parameters(document: &mut Value) {
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap_or_default().to_owned();
                if let Some(schema) = parameter_schema(path, &name) {
                    parameter["schema"] = schema;
                }
            }
        }
    }
}

fn parameter_schema(path: &str, name: &str) -> Option<Value> {
    let one_of = |values: &[&str]| json!({ "type": "string", "enum": values });
    Some(match (path, name) {
        ("/v1/chats/{id}", "id") => json!({ "type": "integer", "format": "int64" }),
        (_, "id" | "session") => json!({ "type": "string", "format": "uuid" }),
        (_, "kind") => one_of(&JobKind::ALL.map(JobKind::as_str)),
        ("/v1/jobs", "state") => one_of(&JobState::ALL.map(JobState::as_str)),
        (_, "state") => one_of(&sessions::STATES),
        (_, "format") => one_of(&["json", "csv", "ndjson"]),
        (_, "since" | "until") => json!({ "type": "string", "format": "date-time" }),
        (_, "alive") => json!({ "type": "boolean", "default": false }),
        (_, "limit") => {
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT })
        }
        _ => return None,
    })
}

/// Puts poem-openapi's and schemars' habits right: media types without a charset, and `nullable` instead of a union with
/// null, which clients and Swagger UI show better.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Object(object) => {
            if let Some(json) = object.remove("application/json; charset=utf-8") {
                object.insert("application/json".to_owned(), json);
            }
            make_nullable(object);
            object.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

fn make_nullable(schema: &mut Map<String, Value>) {
    let is_null = |member: &Value| member["enum"] == json!([null]);
    let Some(members) = schema.get("anyOf").and_then(Value::as_array) else {
        return;
    };
    if let [member, null] = members.as_slice()
        && is_null(null)
    {
        let member = member.clone();
        schema.remove("anyOf");
        schema.insert("allOf".to_owned(), json!([member]));
        schema.insert("nullable".to_owned(), json!(true));
    }
}
