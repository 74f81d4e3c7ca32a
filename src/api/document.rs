//! The `OpenAPI` document: poem-openapi's operations with schemars' schemas. The args of a job are a union by `kind`, made of
//! the structs in `jobs`: the same that are parsed.

mod examples;

use poem_openapi::{OpenApi, OpenApiService, Tags};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use wireroom_jobs::{
    JobArgs, JobKind,
    invite::{InviteArgs, InviteResult},
    join::{JoinArgs, JoinResult},
    message::MediaKind,
    monitor::{MonitorArgs, MonitorResult},
    publish::{PublishArgs, PublishResult},
    scan::{ScanArgs, ScanResult},
};

use super::{
    applications::{ApplicationBody, ApplicationView, ApplicationsApi, ApplicationsView},
    audit::{AuditApi, AuditEntryView},
    batches::{BatchView, BatchesApi},
    campaigns::{
        CampaignChangeApi, CampaignControlApi, CampaignPatch, CampaignPeopleApi, CampaignView, CampaignsApi,
        LedgerImportView, LedgerRowBody, ListedPersonView, NewCampaignBody, NewPersonBody, PauseCampaignBody,
        PeopleAddedView, PreflightView, ReportView,
    },
    chat_scans::{ChatScansApi, CountView, KnownMemberView},
    chats::{ChatView, ChatsApi},
    events::{
        self, AckBody, AckView, ConsumerBody, ConsumerView, ConsumersApi, ConsumersView, EventListApi, EventPage,
        EventStreamApi, StoredEvent,
    },
    files::{FileView, FilesApi},
    floods::{FloodView, FloodsApi},
    health::{Health, HealthApi},
    jobs::{
        AttemptView, AttemptsApi, BatchApi, BatchCreated, BulkApi, BulkCancelBody, BulkCancelView, BulkRetryBody,
        BulkRetryView, CancelApi, ChangeBody, CreateApi, EventView, EventsApi, FindsApi, FoundChatView, GetApi,
        JobSummary, JobView, ListApi, MemberView, MembersApi, NewBatchBody, NewJobBody, PatchApi, ProfileView,
        RetryApi, ScannedMessageView, ScannedMessagesApi, StatisticsApi, StatisticsView, TargetView, TargetsApi,
        WhyApi, WhyView,
    },
    limits::{ConcurrencyBody, ConcurrencyView, LimitsApi, LimitsView, RateBody, RateView},
    logins::{
        BeginApi, CodeBody, DeleteView, EnableBody, ExportBody, ExportView, FollowLoginApi, ImportBody, LoginBody,
        LoginView, ManageSessionApi, PasswordBody, ProxyApi, ProxyBody, QrBody, StepsApi,
    },
    outreach::{
        ImportView as SuppressionImportView, LimitsBody, OutreachApi, OutreachBody, OutreachView, SuppressionBody,
        SuppressionView, SuppressionsApi,
    },
    page::{DEFAULT_LIMIT, MAX_LIMIT, Page},
    pauses::{PauseBody, PauseView, PausesApi, PausesView},
    people::{ErasureView, ExportView as PersonExportView, PeopleApi},
    pools::{MoveBody, NewPoolBody, PoolView, PoolsApi, PoolsView},
    prefer::MAX_WAIT_SECONDS,
    problem::{Code, ProblemBody},
    rows::ListBody,
    schedules::{ManageApi, NewScheduleBody, RunApi, SchedulePatch, ScheduleView, TickPage, TickView, TicksApi},
    session_caps::{CapBody, CapView, CapsView, SessionCapsApi, TimeZoneBody},
    session_health::{CheckView, SessionDetail, SessionHealthApi},
    sessions::{self, SessionView, SessionsApi},
    subscriptions::{
        self, DeliveriesApi, DeliveryView, NewSubscriptionBody, RedeliverBody, RedeliverView, RotateBody, SecretApi,
        SubscriptionCreated, SubscriptionPatch, SubscriptionView, SubscriptionsApi, SubscriptionsView, TestView,
    },
    templates::{NewTemplateBody, TemplateTextBody, TemplateView, TemplatesApi},
    watches::{self, SwitchBody, WatchView, WatchesApi},
    workers::{WorkerView, WorkersApi},
};
use crate::store::{batches::BatchMode, job_reads::JobState};

/// Groups of operations.
#[derive(Tags)]
pub enum Tag {
    /// Units of work.
    Jobs,
    /// What operators hold back, and what admins limit.
    Control,
    /// Inviting people, and leaving them alone.
    Outreach,
    /// Cron expressions whose ticks make jobs.
    Schedules,
    /// Jobs that are enqueued together.
    Batches,
    /// Telegram sessions.
    Sessions,
    /// What happened, in order, for those who subscribe.
    Events,
    /// Processes that run jobs.
    Workers,
    /// Chats that monitor jobs watch.
    Watches,
    /// Pictures, videos and documents to be published.
    Files,
    /// Texts with variables.
    Templates,
    /// Chats that sessions have met.
    Chats,
    /// Who changed what.
    Audit,
    /// Whether the process is well.
    Health,
}

/// Where a reference to a schema begins.
pub const SCHEMAS: &str = "#/components/schemas/";

// In groups, because poem-openapi joins at most sixteen.
macro_rules! resources {
    ($(($($api:ident),+ $(,)?)),+ $(,)?) => {
        /// The service behind all described routes.
        pub fn service() -> OpenApiService<impl OpenApi + use<>, ()> {
            service_of(($(($($api,)+),)+))
        }

        /// What poem-openapi says of each resource. Asked for all at once, it writes a path once for each resource that
        /// has operations there, and a reader sees the last only.
        fn resource_documents() -> Vec<Value> {
            vec![$($(described(&service_of($api))),+),+]
        }
    };
}

resources!(
    (
        CreateApi,
        ListApi,
        GetApi,
        CancelApi,
        RetryApi,
        PatchApi,
        BulkApi,
        AttemptsApi,
        EventsApi,
        MembersApi,
        ScannedMessagesApi,
        FindsApi,
        StatisticsApi,
        TargetsApi,
        WhyApi,
    ),
    (ManageApi, TicksApi, RunApi, BatchApi, BatchesApi, PausesApi, LimitsApi),
    (
        SessionsApi,
        SessionHealthApi,
        SessionCapsApi,
        PoolsApi,
        FloodsApi,
        AuditApi
    ),
    (
        WorkersApi,
        ChatsApi,
        ChatScansApi,
        WatchesApi,
        FilesApi,
        TemplatesApi,
        HealthApi
    ),
    (
        EventListApi,
        EventStreamApi,
        ConsumersApi,
        SubscriptionsApi,
        SecretApi,
        DeliveriesApi
    ),
    (
        BeginApi,
        StepsApi,
        FollowLoginApi,
        ManageSessionApi,
        ProxyApi,
        ApplicationsApi
    ),
    (
        OutreachApi,
        SuppressionsApi,
        CampaignsApi,
        CampaignControlApi,
        CampaignChangeApi,
        CampaignPeopleApi,
        PeopleApi
    ),
);

fn service_of<T: OpenApi>(api: T) -> OpenApiService<T, ()> {
    OpenApiService::new(api, "Wireroom", env!("CARGO_PKG_VERSION")).description(DESCRIPTION)
}

fn described<T: OpenApi>(service: &OpenApiService<T, ()>) -> Value {
    // poem-openapi writes JSON that serde_json reads.
    serde_json::from_str(&service.spec()).unwrap_or_default()
}

/// Adds what `other` has; lists are those of tags, which are put together without repeats.
fn merge(into: &mut Value, other: Value) {
    match (into, other) {
        (Value::Object(into), Value::Object(other)) => {
            for (key, value) in other {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(other)) => {
            for value in other {
                if !into.contains(&value) {
                    into.push(value);
                }
            }
        }
        (into, other) => *into = other,
    }
}

const DESCRIPTION: &str = "Runs Telegram work: post a job, and read its result.\n\n\
    Every `/v1` route needs a key: `Authorization: Bearer wr_<id>_<secret>`. Every response carries `X-Request-Id`; a request \
    may bring its own. A request is answered within 10 s, or 5 s after the wait it asked for.\n\n\
    Every error is `application/problem+json` (RFC 9457). Programs read its `code`, which never changes its meaning; the \
    schema `ProblemCode` lists them all.";

/// Every code with its status and its title.
fn table_of_codes() -> String {
    let rows = Code::ALL.iter().map(|code| {
        let status = code.status().as_u16();
        format!("| `{}` | {status} | {} |", code.as_str(), code.title())
    });
    let rows: Vec<String> = rows.collect();
    format!("| code | status | |\n| --- | --- | --- |\n{}", rows.join("\n"))
}

/// Jobs first, since that is what people come for; the state of the process last.
fn order_tags(document: &mut Value) {
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.sort_by_key(|tag| match tag["name"].as_str() {
            Some("Jobs") => 0,
            Some("Health") => 2,
            _ => 1,
        });
    }
}

/// The `OpenAPI` document, the same at every call: what `/openapi.json` answers and `wireroom openapi` prints.
pub fn document() -> Value {
    let mut document = Value::Null;
    for resource in resource_documents() {
        merge(&mut document, resource);
    }
    let mut schemas = schemas();
    add_unions(&mut schemas);
    if let Some(known) = document["components"]["schemas"].as_object_mut() {
        known.extend(schemas);
    }
    describe_parameters(&mut document);
    order_tags(&mut document);
    if let Some(code) = document.pointer_mut("/components/schemas/ProblemCode") {
        code["description"] = json!(table_of_codes());
    }
    tidy(&mut document);
    examples::add(&mut document);
    document["servers"] = json!([{ "url": "/" }]);
    document
}

/// The document as text, with a line's end: what `openapi/openapi.json` holds.
pub fn document_text() -> String {
    format!("{:#}\n", document())
}

/// The schemas of every type in a request or a response.
fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| settings.meta_schema = None);
    let mut requests = settings.clone().into_generator();
    let mut responses = settings.for_serialize().into_generator();

    requests.subschema_for::<NewJobBody>();
    requests.subschema_for::<NewScheduleBody>();
    requests.subschema_for::<SchedulePatch>();
    requests.subschema_for::<NewBatchBody>();
    requests.subschema_for::<JobKind>();
    add::<SwitchBody>(&mut requests);
    add::<ChangeBody>(&mut requests);
    add::<BulkCancelBody>(&mut requests);
    add::<BulkRetryBody>(&mut requests);
    add::<PauseBody>(&mut requests);
    add::<ConcurrencyBody>(&mut requests);
    add::<RateBody>(&mut requests);
    add::<CapBody>(&mut requests);
    add::<TimeZoneBody>(&mut requests);
    add::<NewPoolBody>(&mut requests);
    add::<MoveBody>(&mut requests);
    add::<ApplicationBody>(&mut requests);
    add::<LoginBody>(&mut requests);
    add::<QrBody>(&mut requests);
    add::<ImportBody>(&mut requests);
    add::<CodeBody>(&mut requests);
    add::<PasswordBody>(&mut requests);
    add::<EnableBody>(&mut requests);
    add::<ExportBody>(&mut requests);
    add::<AckBody>(&mut requests);
    add::<ConsumerBody>(&mut requests);
    add::<NewSubscriptionBody>(&mut requests);
    add::<SubscriptionPatch>(&mut requests);
    add::<RotateBody>(&mut requests);
    add::<RedeliverBody>(&mut requests);
    add::<SubscriptionView>(&mut responses);
    add::<SubscriptionsView>(&mut responses);
    add::<SubscriptionCreated>(&mut responses);
    add::<TestView>(&mut responses);
    add::<Page<DeliveryView>>(&mut responses);
    add::<RedeliverView>(&mut responses);
    add::<AckView>(&mut responses);
    add::<ConsumerView>(&mut responses);
    add::<ConsumersView>(&mut responses);
    add::<StoredEvent>(&mut responses);
    add::<EventPage>(&mut responses);
    outreach_schemas(&mut requests, &mut responses);
    rows_and_files(&mut requests, &mut responses);
    add::<ProxyBody>(&mut requests);
    add::<JobView>(&mut responses);
    add::<Page<JobSummary>>(&mut responses);
    add::<WhyView>(&mut responses);
    add::<BatchView>(&mut responses);
    add::<BatchCreated>(&mut responses);
    add::<Page<AttemptView>>(&mut responses);
    add::<EventView>(&mut responses);
    add::<BulkCancelView>(&mut responses);
    add::<BulkRetryView>(&mut responses);
    add::<PauseView>(&mut responses);
    add::<PausesView>(&mut responses);
    add::<LimitsView>(&mut responses);
    add::<ConcurrencyView>(&mut responses);
    add::<RateView>(&mut responses);
    add::<ApplicationView>(&mut responses);
    add::<ApplicationsView>(&mut responses);
    add::<LoginView>(&mut responses);
    add::<ExportView>(&mut responses);
    add::<DeleteView>(&mut responses);
    add::<Page<MemberView>>(&mut responses);
    add::<ScheduleView>(&mut responses);
    add::<Page<ScheduleView>>(&mut responses);
    add::<TickView>(&mut responses);
    add::<TickPage>(&mut responses);
    add::<SessionView>(&mut responses);
    add::<SessionDetail>(&mut responses);
    add::<CheckView>(&mut responses);
    add::<CapView>(&mut responses);
    add::<CapsView>(&mut responses);
    add::<PoolView>(&mut responses);
    add::<PoolsView>(&mut responses);
    add::<Page<FloodView>>(&mut responses);
    add::<Page<SessionView>>(&mut responses);
    add::<Page<WorkerView>>(&mut responses);
    add::<ChatView>(&mut responses);
    add::<WatchView>(&mut responses);
    add::<Page<WatchView>>(&mut responses);
    add::<Health>(&mut responses);
    add::<ProblemBody>(&mut responses);
    for kind in JobKind::ALL {
        match kind {
            JobKind::Join => kind_schemas::<JoinArgs, JoinResult>(&mut requests, &mut responses),
            JobKind::Scan => kind_schemas::<ScanArgs, ScanResult>(&mut requests, &mut responses),
            JobKind::Publish => kind_schemas::<PublishArgs, PublishResult>(&mut requests, &mut responses),
            JobKind::Invite => kind_schemas::<InviteArgs, InviteResult>(&mut requests, &mut responses),
            JobKind::Monitor => kind_schemas::<MonitorArgs, MonitorResult>(&mut requests, &mut responses),
        }
    }

    let mut all = responses.take_definitions(true);
    all.extend(requests.take_definitions(true));
    all
}

/// The rows of scans, and what messages are made of.
fn rows_and_files(requests: &mut SchemaGenerator, responses: &mut SchemaGenerator) {
    add::<MemberView>(responses);
    add::<ScannedMessageView>(responses);
    add::<Page<ScannedMessageView>>(responses);
    add::<FoundChatView>(responses);
    add::<Page<FoundChatView>>(responses);
    add::<ProfileView>(responses);
    add::<CountView>(responses);
    add::<Page<CountView>>(responses);
    add::<KnownMemberView>(responses);
    add::<Page<KnownMemberView>>(responses);
    add::<Page<TargetView>>(responses);
    add::<StatisticsView>(responses);
    add::<Page<StatisticsView>>(responses);
    add::<FileView>(responses);
    add::<Page<FileView>>(responses);
    add::<NewTemplateBody>(requests);
    add::<TemplateTextBody>(requests);
    add::<TemplateView>(responses);
    add::<Page<TemplateView>>(responses);
}

fn outreach_schemas(requests: &mut SchemaGenerator, responses: &mut SchemaGenerator) {
    add::<OutreachBody>(requests);
    add::<LimitsBody>(requests);
    add::<SuppressionBody>(requests);
    add::<ListBody<SuppressionBody>>(requests);
    add::<NewCampaignBody>(requests);
    add::<Page<AuditEntryView>>(responses);
    add::<CampaignPatch>(requests);
    add::<PauseCampaignBody>(requests);
    add::<NewPersonBody>(requests);
    add::<ListBody<NewPersonBody>>(requests);
    add::<LedgerRowBody>(requests);
    add::<ListBody<LedgerRowBody>>(requests);
    add::<OutreachView>(responses);
    add::<SuppressionView>(responses);
    add::<Page<SuppressionView>>(responses);
    add::<SuppressionImportView>(responses);
    add::<CampaignView>(responses);
    add::<Page<CampaignView>>(responses);
    add::<ReportView>(responses);
    add::<PreflightView>(responses);
    add::<PeopleAddedView>(responses);
    add::<Page<ListedPersonView>>(responses);
    add::<LedgerImportView>(responses);
    add::<PersonExportView>(responses);
    add::<ErasureView>(responses);
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

fn kind_schemas<Args: JsonSchema, Output: JsonSchema>(requests: &mut SchemaGenerator, responses: &mut SchemaGenerator) {
    add::<Args>(requests);
    add::<Output>(responses);
}

/// The names of the schemas of a kind's args and result.
pub fn names(kind: JobKind) -> (String, String) {
    match kind {
        JobKind::Join => (name::<JoinArgs>(), name::<JoinResult>()),
        JobKind::Scan => (name::<ScanArgs>(), name::<ScanResult>()),
        JobKind::Publish => (name::<PublishArgs>(), name::<PublishResult>()),
        JobKind::Invite => (name::<InviteArgs>(), name::<InviteResult>()),
        JobKind::Monitor => (name::<MonitorArgs>(), name::<MonitorResult>()),
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
    events::register_data(schemas);
    schemas.insert("EventData".to_owned(), events::data_union());
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
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
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
        (
            "/v1/chats/{id}"
            | "/v1/chats/{id}/counts"
            | "/v1/chats/{id}/members"
            | "/v1/people/{id}"
            | "/v1/people/{id}/export",
            "id",
        ) => json!({ "type": "integer", "format": "int64" }),
        ("/v1/jobs/{id}/messages", "media") => {
            json!({ "type": "string", "enum": MediaKind::ALL })
        }
        ("/v1/jobs/{id}/messages", "post_id" | "sender_id") | ("/v1/jobs/{id}/chats", "min_members") => {
            json!({ "type": "integer" })
        }
        ("/v1/jobs/{id}/chats", "type") => one_of(&["group", "supergroup", "channel"]),
        ("/v1/chats/{id}/counts", "what") => one_of(&["members", "history", "comments", "profile"]),
        (_, "role") => one_of(&["creator", "admin", "member", "restricted", "banned", "left"]),
        (_, "is_bot" | "is_deleted" | "is_premium") => json!({ "type": "boolean" }),
        ("/v1/pauses/{scope}/{target}", "scope") => one_of(&["pool", "session", "kind"]),
        (_, "id" | "session" | "batch") => json!({ "type": "string", "format": "uuid" }),
        (_, "kind") => one_of(&JobKind::ALL.map(JobKind::as_str)),
        ("/v1/jobs", "state") => one_of(&JobState::ALL.map(JobState::as_str)),
        ("/v1/watches", "state") => one_of(&watches::STATES),
        ("/v1/subscriptions/{id}/deliveries", "state") => one_of(&subscriptions::DELIVERY_STATES),
        (_, "state") => one_of(&sessions::STATES),
        ("/v1/events" | "/v1/events/stream", "after") => json!({ "type": "integer", "minimum": 0 }),
        (_, "wait") => json!({ "type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0 }),
        ("/v1/audit", "action") => return None,
        (_, "action") => one_of(&["join", "invite", "message", "dialogue"]),
        (_, "mode") => one_of(&BatchMode::ALL.map(BatchMode::as_str)),
        (_, "format") => one_of(&["json", "csv", "ndjson"]),
        ("/v1/jobs/{id}/messages", "from" | "to") | (_, "since" | "until") => {
            json!({ "type": "string", "format": "date-time" })
        }
        (_, "alive") => json!({ "type": "boolean", "default": false }),
        (_, "log_out") => json!({ "type": "boolean", "default": true }),
        (_, "limit") => {
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT })
        }
        _ => return None,
    })
}

/// Puts poem-openapi's and schemars' habits right where clients and Swagger UI show something else better.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(tidy),
        Value::Object(object) => {
            if let Some(json) = object.remove("application/json; charset=utf-8") {
                object.insert("application/json".to_owned(), json);
            }
            if let Some(Value::Object(headers)) = object.get_mut("headers") {
                *headers = std::mem::take(headers)
                    .into_iter()
                    .map(|(name, header)| (header_name(&name), header))
                    .collect();
            }
            if object.get("description").is_some_and(|description| description == "") {
                object.insert("description".to_owned(), json!("Success."));
            }
            make_nullable(object);
            make_enum(object);
            object.values_mut().for_each(tidy);
        }
        _ => {}
    }
}

/// `LOCATION` as `Location`.
fn header_name(name: &str) -> String {
    let words: Vec<String> = name.split('-').map(|word| capitalised(&word.to_lowercase())).collect();
    words.join("-")
}

/// `nullable` instead of a union with null.
fn make_nullable(schema: &mut Map<String, Value>) {
    let is_null = |member: &Value| member["enum"] == json!([null]);
    let Some([member, null]) = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) else {
        return;
    };
    if is_null(null) {
        let member = member.clone();
        schema.remove("anyOf");
        schema.insert("allOf".to_owned(), json!([member]));
        schema.insert("nullable".to_owned(), json!(true));
    }
}

/// One list of words instead of a union with a described member for each word; the description lists them.
fn make_enum(schema: &mut Map<String, Value>) {
    let Some(members) = schema.get("oneOf").and_then(Value::as_array) else {
        return;
    };
    if !members
        .iter()
        .all(|member| member["enum"].is_array() && member["type"] == "string")
    {
        return;
    }
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let (mut words, mut meanings) = (Vec::new(), Vec::new());
    for member in members {
        for word in member["enum"].as_array().into_iter().flatten() {
            if let (Some(word), Some(meaning)) = (word.as_str(), member["description"].as_str()) {
                meanings.push(format!("- `{word}`: {meaning}"));
            }
            words.push(word.clone());
        }
    }
    let description = format!("{description}\n\n{}", meanings.join("\n"));
    schema.remove("oneOf");
    schema.insert("type".to_owned(), json!("string"));
    schema.insert("enum".to_owned(), Value::Array(words));
    schema.insert("description".to_owned(), json!(description));
}

#[cfg(test)]
mod tests;
