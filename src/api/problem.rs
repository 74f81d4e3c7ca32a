//! Every error the API answers: problem+json (RFC 9457) with a stable code. What went wrong inside is kept as the source,
//! logged once by [`shell`](super::shell) and never sent.

use std::{error::Error as StdError, fmt};

use poem::{Response, error::ResponseError, http::StatusCode};
use poem_openapi::{
    ApiResponse,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{jobs::ItemView, typed::Typed};
use crate::{
    ids::{JobId, SessionId},
    store::StoreError,
};

/// Seconds after which a client may try again when something is missing for the moment.
const RETRY_AFTER_SECONDS: u32 = 1;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $status:ident, $title:literal;)+) => {
        /// What went wrong, as a program reads it. Codes never change their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[schemars(rename = "ProblemCode")]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)+
                }
            }

            /// A short summary, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)+
                }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not UTF-8.
    InvalidJson = BAD_REQUEST, "The body is not JSON";
    /// A parameter of the path, the query or a header has not the right form.
    InvalidParameter = BAD_REQUEST, "A parameter is not valid";
    /// The query names a parameter that the operation has not.
    UnknownParameter = BAD_REQUEST, "The operation has no such parameter";
    /// The cursor is not one that this list gave out.
    InvalidCursor = BAD_REQUEST, "The cursor is not valid";
    /// The HTTP request itself cannot be used.
    BadRequest = BAD_REQUEST, "The request cannot be used";
    /// There is no key, or it is unknown or revoked.
    Unauthorized = UNAUTHORIZED, "A valid API key is needed";
    /// The key's scope does not allow this.
    Forbidden = FORBIDDEN, "The key's scope does not allow this";
    /// There is no such route.
    RouteNotFound = NOT_FOUND, "There is no such route";
    /// There is no such job, or its retention is over.
    JobNotFound = NOT_FOUND, "There is no such job";
    /// The job has no members to show: it is not a scan, has not begun, or its retention is over.
    MembersNotFound = NOT_FOUND, "The job has no members to show";
    /// The job has no such rows to show: it is another kind of scan or none, has not begun, or its retention is over.
    RowsNotFound = NOT_FOUND, "The job has no such rows to show";
    /// There is no such schedule.
    ScheduleNotFound = NOT_FOUND, "There is no such schedule";
    /// There is no such batch, or its retention is over.
    BatchNotFound = NOT_FOUND, "There is no such batch";
    /// There is no such session.
    SessionNotFound = NOT_FOUND, "There is no such session";
    /// The session has no such cap of its own.
    CapNotFound = NOT_FOUND, "The session has no such cap";
    /// There is no such watch, or its monitor job has not begun.
    WatchNotFound = NOT_FOUND, "There is no such watch";
    /// The watch has ended, or is one of private messages.
    WatchNotSwitchable = CONFLICT, "The watch cannot be switched";
    /// There is no such pause.
    PauseNotFound = NOT_FOUND, "There is no such pause";
    /// There is no consumer of events of that name.
    ConsumerNotFound = NOT_FOUND, "There is no such consumer";
    /// There is no such subscription.
    SubscriptionNotFound = NOT_FOUND, "There is no such subscription";
    /// No process has sent the test event in time.
    SubscriptionTestTimeout = GATEWAY_TIMEOUT, "The test event was not sent in time";
    /// Events after that position were deleted by age.
    EventsExpired = GONE, "Events were deleted by age";
    /// There is no event at that position yet: it was numbered before the database was restored from a copy.
    EventPositionUnknown = CONFLICT, "There is no event at that position";
    /// There is no template of that name.
    TemplateNotFound = NOT_FOUND, "There is no such template";
    /// A template of that name exists.
    TemplateExists = CONFLICT, "A template of that name exists";
    /// There is no such file, or its time is over.
    FileNotFound = NOT_FOUND, "There is no such file";
    /// The file is larger than this installation takes.
    FileTooLarge = PAYLOAD_TOO_LARGE, "The file is too large";
    /// There is no such limit.
    LimitNotFound = NOT_FOUND, "There is no such limit";
    /// There is no such suppression.
    SuppressionNotFound = NOT_FOUND, "There is no such suppression";
    /// There is no such campaign.
    CampaignNotFound = NOT_FOUND, "There is no such campaign";
    /// There is no such erasure.
    ErasureNotFound = NOT_FOUND, "There is no such erasure";
    /// A campaign of that name exists.
    CampaignExists = CONFLICT, "A campaign of that name exists";
    /// This of a campaign cannot be changed; `detail` says why.
    CampaignFixed = UNPROCESSABLE_ENTITY, "This of a campaign cannot be changed";
    /// The campaign's job is not finished, and keeps its pool and its session.
    CampaignBusy = CONFLICT, "The campaign's job is not finished";
    /// The person is the account of a session.
    PersonIsSession = CONFLICT, "The person is the account of a session";
    /// The process has no key to mark people with, or another one than they are marked with.
    PersonKeyMissing = SERVICE_UNAVAILABLE, "The key that marks people is missing";
    /// No session has met such a chat.
    ChatNotFound = NOT_FOUND, "No session has met such a chat";
    /// The route does not have this method; `Allow` names those it has.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "The route does not have this method";
    /// None of the media types in `Accept` can be made.
    NotAcceptable = NOT_ACCEPTABLE, "No acceptable media type";
    /// The body did not come in in time.
    BodyTimeout = REQUEST_TIMEOUT, "The body did not come in in time";
    /// The job is finished, so it cannot be cancelled or changed.
    JobFinished = CONFLICT, "The job is finished";
    /// The job runs, so that it cannot be changed any more.
    JobRunning = CONFLICT, "The job runs";
    /// The job is not finished, so that there is nothing to retry.
    JobNotFinished = CONFLICT, "The job is not finished";
    /// The job was retried before; `detail` names the job that repeats it.
    AlreadyRetried = CONFLICT, "The job was retried before";
    /// Another schedule has that name.
    ScheduleExists = CONFLICT, "A schedule of that name exists";
    /// A job of the schedule is not finished, and the schedule's jobs may not overlap.
    ScheduleBusy = CONFLICT, "A job of the schedule is not finished";
    /// The `Idempotency-Key` was used with another request within 24 hours; nothing was done.
    IdempotencyKeyReused = CONFLICT, "The Idempotency-Key was used with another request";
    /// Another job has the `unique_key`: `job` names it.
    UniqueKeyConflict = CONFLICT, "Another job has the unique_key";
    /// A pool of that name exists.
    PoolExists = CONFLICT, "A pool of that name exists";
    /// No worker holds the session, so that nobody can check it.
    SessionNotHeld = CONFLICT, "No worker holds the session";
    /// The session is not limited, so that there is nothing to resume.
    SessionNotLimited = CONFLICT, "The session is not limited";
    /// Telegram takes the application, as far as is known, so that there is nothing to resume.
    ApplicationNotRefused = CONFLICT, "The application is not refused";
    /// The worker that holds the session did not answer in time.
    CheckTimeout = GATEWAY_TIMEOUT, "The check was not answered in time";
    /// The named session cannot run jobs until a person has seen to it.
    SessionNotReady = CONFLICT, "The session cannot run jobs";
    /// The named session is a bot's, and bots cannot read what the job has to read.
    SessionIsBot = CONFLICT, "The session is a bot's";
    /// A session of that label exists and is in use.
    SessionExists = CONFLICT, "A session of that label exists";
    /// Something else is being done for the session: a login, an export, a log-out. `session` names it.
    LoginInProgress = CONFLICT, "Something else is being done for the session";
    /// The login waits for another step than this; `detail` says for which.
    LoginOutOfTurn = CONFLICT, "The login waits for another step";
    /// The session is not in a state that allows this.
    SessionStateConflict = CONFLICT, "The session is in another state";
    /// Unfinished jobs need the session.
    SessionBusy = CONFLICT, "Unfinished jobs need the session";
    /// Two sessions were given one authorisation: connecting both would end it.
    AuthorisationShared = CONFLICT, "Another session has the same authorisation";
    /// The account that logged in is not the session's.
    OtherAccount = CONFLICT, "The account is another one";
    /// An application of that label exists.
    ApplicationExists = CONFLICT, "An application of that label exists";
    /// Sessions belong to the application, or the workers' environment names it.
    ApplicationInUse = CONFLICT, "The application is in use";
    /// Nobody waits for a step of this session any more: the login ended, or was never begun.
    LoginNotFound = NOT_FOUND, "The session has no login in progress";
    /// There is no such application.
    ApplicationNotFound = NOT_FOUND, "There is no such application";
    /// The login was given up, or waited too long; begin anew.
    LoginExpired = GONE, "The login is over";
    /// The login was given up by somebody; begin anew.
    LoginCancelled = GONE, "The login was given up";
    /// The code is too old: ask for another with `/resend`.
    LoginCodeExpired = GONE, "The login code is too old";
    /// Telegram asks to wait, as `Retry-After` says, before this number or token is tried again.
    LoginFlooded = TOO_MANY_REQUESTS, "Telegram asks to wait";
    /// Telegram lets this number try no more for now: wait a day.
    PhoneNumberFlooded = TOO_MANY_REQUESTS, "The number was tried too often";
    /// Five codes or passwords were wrong: begin anew, later.
    LoginTooManyTries = TOO_MANY_REQUESTS, "Too many wrong codes or passwords";
    /// Another code was asked for five times: enter the last one, or begin anew, later.
    LoginResendLimit = TOO_MANY_REQUESTS, "The code was sent again too often";
    /// The body is larger than it may be: 1 MiB, and 64 MiB of a batch with 1 MiB for a job.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body's media type is not `application/json`, nor, of a batch, `application/x-ndjson`.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    /// The body has a field that is not known there; `detail` lists those that are.
    UnknownField = UNPROCESSABLE_ENTITY, "The body has an unknown field";
    /// A field is missing.
    MissingField = UNPROCESSABLE_ENTITY, "A field is missing";
    /// A field's value has another JSON type than it must have.
    WrongType = UNPROCESSABLE_ENTITY, "A field has the wrong type";
    /// A field's value has the right type, but cannot be used.
    InvalidValue = UNPROCESSABLE_ENTITY, "A field's value cannot be used";
    /// There is no such kind of job; `detail` lists those there are.
    UnknownKind = UNPROCESSABLE_ENTITY, "There is no such kind of job";
    /// There is no such pool.
    UnknownPool = UNPROCESSABLE_ENTITY, "There is no such pool";
    /// There is no session of that id or label.
    UnknownSession = UNPROCESSABLE_ENTITY, "There is no such session";
    /// There is no application of that id or label.
    UnknownApplication = UNPROCESSABLE_ENTITY, "There is no such application";
    /// Telegram does not take the number: write it in the international form.
    PhoneNumberInvalid = UNPROCESSABLE_ENTITY, "The phone number is not valid";
    /// Telegram banned the number.
    PhoneNumberBanned = UNPROCESSABLE_ENTITY, "The phone number is banned";
    /// Nobody has registered the number; Wireroom makes no accounts.
    PhoneNumberUnregistered = UNPROCESSABLE_ENTITY, "Nobody has registered the phone number";
    /// The code is not that one.
    LoginCodeWrong = UNPROCESSABLE_ENTITY, "The login code is wrong";
    /// The password is not that one.
    PasswordWrong = UNPROCESSABLE_ENTITY, "The password is wrong";
    /// Telegram does not take the bot's token.
    BotTokenInvalid = UNPROCESSABLE_ENTITY, "The bot's token is not valid";
    /// Telegram does not take the application's id and hash, or there are none.
    ApplicationInvalid = UNPROCESSABLE_ENTITY, "The application is not valid";
    /// The authorisation is over: logged out, revoked, or used from two places.
    AuthorisationOver = UNPROCESSABLE_ENTITY, "The authorisation is over";
    /// Telegram banned or froze the account.
    AccountBanned = UNPROCESSABLE_ENTITY, "The account is banned";
    /// Telegram asks for a way of logging in that this version does not know.
    LoginUnsupported = UNPROCESSABLE_ENTITY, "This way of logging in is not supported";
    /// Telegram refused for a reason that `detail` names.
    LoginRefused = UNPROCESSABLE_ENTITY, "Telegram refused the login";
    /// The session must have been stopped elsewhere before it may be connected here.
    ConfirmationNeeded = UNPROCESSABLE_ENTITY, "A confirmation is needed";
    /// The text is not a session of a format that is known.
    SessionFormatUnknown = UNPROCESSABLE_ENTITY, "The session's format is not known";
    /// The session belongs to another pool than the one named.
    SessionNotInPool = UNPROCESSABLE_ENTITY, "The session is not in the pool";
    /// The cron expression cannot be read; `detail` says where it is wrong and why.
    InvalidCron = UNPROCESSABLE_ENTITY, "The cron expression is wrong";
    /// There is no such time zone.
    UnknownTimeZone = UNPROCESSABLE_ENTITY, "There is no such time zone";
    /// No time fits the schedule's expression between its start and its end.
    ScheduleNeverFires = UNPROCESSABLE_ENTITY, "The schedule never fires";
    /// The batch has more than 10,000 jobs.
    TooManyJobs = UNPROCESSABLE_ENTITY, "The batch has too many jobs";
    /// Jobs of the batch cannot be stored, so none was: `items` says which, and why.
    BatchRefused = UNPROCESSABLE_ENTITY, "Jobs of the batch cannot be stored";
    /// A fault of Wireroom's; the request id finds it in the log.
    Internal = INTERNAL_SERVER_ERROR, "Something went wrong";
    /// The database does not answer for the moment.
    DatabaseUnavailable = SERVICE_UNAVAILABLE, "The database does not answer";
    /// The request was not answered in time. What it asked for may have happened.
    Timeout = SERVICE_UNAVAILABLE, "The request was not answered in time";
    /// Too many requests wait for their results already.
    TooManyWaiters = SERVICE_UNAVAILABLE, "Too many requests wait for results";
    /// The process takes in as many batches as it can already.
    TooManyBatches = SERVICE_UNAVAILABLE, "Too many batches are coming in";
    /// Two requests stood in each other's way, and this one was undone. Nothing is left of it.
    Collision = SERVICE_UNAVAILABLE, "Two requests stood in each other's way";
    /// Too many streams of events are open in this process already.
    TooManyStreams = SERVICE_UNAVAILABLE, "Too many streams of events";
    /// No worker has ever started on this database, so that nothing can be sealed for one.
    NoWorker = SERVICE_UNAVAILABLE, "No worker has started yet";
    /// Telegram did not answer the worker in time.
    TelegramUnavailable = BAD_GATEWAY, "Telegram does not answer";
    /// The session's SOCKS5 proxy gave the worker no connection; `detail` says why.
    ProxyFailed = BAD_GATEWAY, "The session's proxy fails";
    /// No worker has answered within the wait. The login goes on: look with GET, and continue it.
    LoginPending = GATEWAY_TIMEOUT, "No worker has answered yet";
    /// The process cannot serve yet, or not with this database; `part` names what fails.
    NotReady = SERVICE_UNAVAILABLE, "Not ready";
}

impl Code {
    /// The code's word, as it is sent.
    pub fn as_str(self) -> String {
        // A variant without fields serializes to its word.
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// An error, as it is sent: RFC 9457.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody {
    /// `urn:wireroom:problem:` and the code.
    #[serde(rename = "type")]
    #[schemars(example = &"urn:wireroom:problem:unknown_field")]
    pub problem_type: String,
    pub code: Code,
    /// A short summary, the same for every occurrence of the code.
    #[schemars(example = &"The body has an unknown field")]
    pub title: String,
    /// The HTTP status.
    #[schemars(example = 422)]
    pub status: u16,
    /// What is wrong this time, and how to put it right.
    #[schemars(example = &"args.chatt is not a field; known are chat.")]
    pub detail: String,
    /// The path of the request.
    #[schemars(example = &"/v1/jobs")]
    pub instance: String,
    /// The request, as the log names it.
    pub request_id: String,
    /// The path of the field in the body, or the name of the parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"args.chatt")]
    pub field: Option<String>,
    /// The part that fails, of `not_ready`: `database` or `migrations`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<&'static str>,
    /// The job that has the key, of `unique_key_conflict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<Uuid>,
    /// The session that the problem is about, of problems with logins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Uuid>,
    /// The jobs that cannot be stored, of `batch_refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ItemView>>,
}

/// What few problems name; apart, since every result has room for a problem.
#[derive(Debug, Default)]
struct About {
    job: Option<JobId>,
    session: Option<SessionId>,
    items: Option<Vec<ItemView>>,
}

/// An error on its way to the client.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    field: Option<String>,
    part: Option<&'static str>,
    about: Option<Box<About>>,
    headers: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let problem = Self {
            code,
            detail: detail.into(),
            field: None,
            part: None,
            about: None,
            headers: Vec::new(),
            source: None,
        };
        if code.status() == StatusCode::SERVICE_UNAVAILABLE {
            return problem.header("Retry-After", RETRY_AFTER_SECONDS.to_string());
        }
        problem
    }

    /// A fault of ours: the source is logged, the client reads only that there is one.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(
            Code::Internal,
            "This is a fault of Wireroom's. The request id finds it in the log.",
        )
        .source(source)
    }

    /// Names the field or the parameter that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same of a field that is inside of `parent`.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        if let Some(field) = self.field.take() {
            let nested = format!("{parent}.{field}");
            if let Some(rest) = self.detail.strip_prefix(&field) {
                self.detail = format!("{nested}{rest}");
            }
            self.field = Some(nested);
        }
        self
    }

    /// Names the part that fails.
    #[must_use]
    pub fn part(mut self, part: &'static str) -> Self {
        self.part = Some(part);
        self
    }

    /// Names the job that is in the way.
    #[must_use]
    pub fn job(mut self, job: JobId) -> Self {
        self.about.get_or_insert_default().job = Some(job);
        self
    }

    /// Names the session that it is about.
    #[must_use]
    pub fn session(mut self, session: SessionId) -> Self {
        self.about.get_or_insert_default().session = Some(session);
        self
    }

    /// Names the items of a batch that are wrong.
    #[must_use]
    pub fn items(mut self, items: Vec<ItemView>) -> Self {
        self.about.get_or_insert_default().items = Some(items);
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    /// What is wrong this time, as the client reads it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The field or the parameter that is wrong.
    pub fn wrong_field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Whether the log must tell of it.
    pub fn is_fault(&self) -> bool {
        self.code.status().is_server_error() && self.source.is_some()
    }

    /// The response to the request of that path and id.
    pub fn to_response(&self, path: &str, request_id: &str) -> Response {
        let body = ProblemBody {
            problem_type: format!("urn:wireroom:problem:{}", self.code.as_str()),
            code: self.code,
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            instance: path.to_owned(),
            request_id: request_id.to_owned(),
            field: self.field.clone(),
            part: self.part,
            job: self.about.as_ref().and_then(|about| about.job).map(|id| id.0),
            session: self.about.as_ref().and_then(|about| about.session).map(|id| id.0),
            items: self.about.as_ref().and_then(|about| about.items.clone()),
        };
        let mut response = Response::builder()
            .status(self.code.status())
            .content_type("application/problem+json");
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        // A struct of strings and numbers always serializes.
        response.body(serde_json::to_vec(&body).unwrap_or_default())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.title())
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.code.status()
    }

    fn as_response(&self) -> Response {
        self.to_response("", "")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            let detail = "The database does not answer for the moment. Try again.";
            return Self::new(Code::DatabaseUnavailable, detail).source(error);
        }
        if error.is_collision() {
            return Self::new(Code::Collision, "Try again: the other request is through.").source(error);
        }
        Self::internal(error)
    }
}

impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "A problem (RFC 9457): `code` says which.",
                status: None,
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "application/problem+json",
                    schema: <Typed<ProblemBody> as poem_openapi::types::Type>::schema_ref(),
                }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        <Typed<ProblemBody> as poem_openapi::types::Type>::register(registry);
    }
}
