//! What every request passes through: its id, its time limit, its log line, the headers of every response, and the one
//! place where an error of any origin, a panic included, becomes a [`Problem`].

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::FutureExt;
use poem::{
    Endpoint, Request, Response,
    error::{MethodNotAllowedError, NotFoundError},
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
};
use poem_openapi::error::{ContentTypeError, ParseParamError};
use uuid::Uuid;

use super::{
    State,
    auth::Caller,
    events, files,
    jobs::batches,
    logins, prefer,
    problem::{Code, Problem},
};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than its wait a request may take.
const BEYOND_WAIT: Duration = Duration::from_secs(5);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id taken over from a client.
const REQUEST_ID_LENGTH: usize = 128;

/// Sent with every response that does not set its own.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// A request's identity, in its extensions.
#[derive(Debug, Clone)]
pub struct RequestContext {
    id: Arc<str>,
    uri: Uri,
    caller: Arc<OnceLock<String>>,
}

impl RequestContext {
    fn new(request: &Request) -> Self {
        let given = request.header(REQUEST_ID).filter(|id| is_request_id(id));
        Self {
            id: given.map_or_else(|| Uuid::now_v7().to_string().into(), Into::into),
            uri: request.uri().clone(),
            caller: Arc::default(),
        }
    }

    /// The target of the request, before routing took it apart.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The context of a request that came through the shell.
    pub fn of(request: &Request) -> Result<&Self, Problem> {
        request
            .data()
            .ok_or_else(|| Problem::internal("a request came past the shell"))
    }

    /// The id in `X-Request-Id`: the client's when it has one of the right form, else a fresh one.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Remembers the caller for the log line.
    pub fn called_by(&self, caller: &Caller) {
        // Set once per request; a second set would bring the same caller.
        let _ = self.caller.set(caller.actor());
    }
}

/// What a log line and a header can hold, and no more.
fn is_request_id(id: &str) -> bool {
    (1..=REQUEST_ID_LENGTH).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'='))
}

/// A handler's panic. Its message may quote what it met; the panic hook logs as much of it as is safe.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked")]
struct Panicked;

/// The outermost endpoint.
pub struct Shell<E> {
    inner: E,
    state: Arc<State>,
    time_limit: Duration,
}

impl<E> Shell<E> {
    pub fn new(inner: E, state: Arc<State>) -> Self {
        Self {
            inner,
            state,
            time_limit: TIMEOUT,
        }
    }

    /// With another time limit than 10 s.
    #[cfg(test)]
    pub fn time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Shell<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let started = self.state.clock.now();
        let context = RequestContext::new(&request);
        let method = request.method().clone();
        let path = context.uri().path().to_owned();
        let limit = self.limit_of(&request);
        request.extensions_mut().insert(context.clone());
        request.extensions_mut().insert(Arc::clone(&self.state));

        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let answer = match tokio::time::timeout(limit, call).await {
            Ok(Ok(Ok(response))) => Ok(response),
            Ok(Ok(Err(error))) => Err(self.problem(error, &path)),
            Ok(Err(_)) => Err(Problem::internal(Panicked)),
            Err(_) => Err(timed_out(limit)),
        };
        let mut response = answer.unwrap_or_else(|problem| {
            report(&problem, &context, &method, &path);
            problem.to_response(&path, context.id())
        });
        dress(&mut response, &context);
        let took = (self.state.clock.now() - started)
            .num_microseconds()
            .unwrap_or(i64::MAX);
        log(&context, &method, &path, response.status(), took);
        Ok(response)
    }
}

impl<E> Shell<E> {
    fn limit_of(&self, request: &Request) -> Duration {
        if request.uri().path() == batches::PATH && request.method() == Method::POST {
            return batches::TIME_LIMIT;
        }
        if files::is_long(request.method(), request.uri().path()) {
            return files::TIME_LIMIT;
        }
        if logins::waits(request.method(), request.uri().path()) {
            return logins::WAIT + BEYOND_WAIT;
        }
        if let Some(wait) = events::waits(request.method(), request.uri().path()) {
            return wait + BEYOND_WAIT;
        }
        match prefer::wait(request.headers()) {
            Ok(Some(wait)) if request.method() == Method::POST => (wait + BEYOND_WAIT).max(self.time_limit),
            _ => self.time_limit,
        }
    }

    /// The problem behind an error of poem's or of our own.
    fn problem(&self, error: poem::Error, path: &str) -> Problem {
        let error = match error.downcast::<Problem>() {
            Ok(problem) => return problem,
            Err(error) => error,
        };
        if error.is::<NotFoundError>() {
            return Problem::new(Code::RouteNotFound, "The paths there are: see /openapi.json or /docs.");
        }
        if error.is::<MethodNotAllowedError>() {
            let allow = self.state.routes.allow(path);
            return Problem::new(Code::MethodNotAllowed, format!("The methods there are: {allow}."))
                .header("Allow", allow);
        }
        if error.is::<ContentTypeError>() {
            return Problem::new(Code::UnsupportedMediaType, "Send the body as application/json.");
        }
        if let Some(parameter) = error.downcast_ref::<ParseParamError>() {
            return Problem::new(Code::InvalidParameter, format!("{} cannot be read.", parameter.name))
                .field(parameter.name);
        }
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            status if status.is_client_error() => Problem::new(Code::BadRequest, "The request cannot be read."),
            status => Problem::internal(format!("the HTTP layer answered {status}: {error}")),
        }
    }
}

/// The problem of a body past the limit.
pub fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, "A body may have at most 1 MiB (1,048,576 bytes).")
}

fn timed_out(limit: Duration) -> Problem {
    let detail = format!(
        "There was no answer within {} s. What was asked for may have happened: look before you repeat it.",
        limit.as_secs()
    );
    Problem::new(Code::Timeout, detail).source("the time limit of the request passed")
}

fn report(problem: &Problem, context: &RequestContext, method: &Method, path: &str) {
    if problem.is_fault() {
        let error: &(dyn std::error::Error + 'static) = problem;
        let code = problem.code().as_str();
        tracing::error!(request.id = context.id(), %method, path, code, error, "a request failed");
    }
}

fn dress(response: &mut Response, context: &RequestContext) {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
    if let Ok(id) = HeaderValue::from_str(context.id()) {
        headers.insert(REQUEST_ID, id);
    }
}

/// One line per request: never the query, a header or a body.
fn log(context: &RequestContext, method: &Method, path: &str, status: StatusCode, microseconds: i64) {
    let (id, status) = (context.id(), status.as_u16());
    let caller = context.caller.get().map(String::as_str);
    if matches!(path, "/healthz" | "/readyz") {
        tracing::debug!(request.id = id, %method, path, status, microseconds, caller, "request");
    } else {
        tracing::info!(request.id = id, %method, path, status, microseconds, caller, "request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_fits_a_log_line() {
        for good in ["a", "0190-ab", "req:1/2", &"x".repeat(128)] {
            assert!(is_request_id(good), "{good}");
        }
        for bad in ["", "a b", "a\tb", "ü", "a\"b", &"x".repeat(129)] {
            assert!(!is_request_id(bad), "{bad}");
        }
    }
}
