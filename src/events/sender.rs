//! One attempt at a webhook: signed, within a time, to an address that was looked at, with what comes back bounded.

use std::{error::Error, sync::Arc, time::Duration};

use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
    redirect,
};
use tokio::time::Instant;
use url::Url;
use wireroom_jobs::ports::Clock;

use super::{
    addresses::{Guard, PrivateAddress},
    signature::{self, SigningKey},
};

/// How much of an answer is read, so that its connection can be used again; its text is of no use.
const MOST_READ: usize = 64 * 1024;
/// Connections without work are kept for so long.
const IDLE: Duration = Duration::from_secs(30);
/// The longest rest that an endpoint may ask for.
const LONGEST_REST: Duration = Duration::from_hours(6);

/// Sends webhooks; clones share their connections.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    guard: Guard,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub status: Option<u16>,
    /// None: it was taken.
    pub error: Option<String>,
    /// How long the endpoint asks to be left alone.
    pub rest: Option<Duration>,
    pub took: Duration,
}

impl Attempt {
    pub fn is_taken(&self) -> bool {
        self.error.is_none()
    }

    /// The endpoint says that it is gone for good.
    pub fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }
}

impl Sender {
    /// Attempts take `timeout` at most.
    pub fn new(guard: Guard, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .dns_resolver(Arc::new(guard))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            .connect_timeout(timeout)
            .pool_idle_timeout(IDLE)
            .build()?;
        Ok(Self {
            client,
            guard,
            timeout,
            clock,
        })
    }

    /// Sends one event, signed with each of the keys.
    pub async fn send(&self, url: &Url, keys: &[&SigningKey], id: &str, body: Vec<u8>) -> Attempt {
        let begun = Instant::now();
        let answered = match self.guard.check_literal(url) {
            Err(error) => Err(error.to_string()),
            Ok(()) => tokio::time::timeout(self.timeout, self.post(url, keys, id, body))
                .await
                .unwrap_or_else(|_| Err("the endpoint did not answer in time".to_owned())),
        };
        let took = begun.elapsed();
        match answered {
            Ok((status, rest)) => Attempt {
                status: Some(status.as_u16()),
                error: (!status.is_success()).then(|| refused(status)),
                rest,
                took,
            },
            Err(error) => Attempt {
                status: None,
                error: Some(error),
                rest: None,
                took,
            },
        }
    }

    async fn post(
        &self,
        url: &Url,
        keys: &[&SigningKey],
        id: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Option<Duration>), String> {
        let timestamp = self.clock.now().timestamp();
        let signature = signature::header(keys, id, timestamp, &body);
        let request = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("wireroom/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let response = request.send().await.map_err(|error| told(&error))?;
        let status = response.status();
        let rest = asked_rest(&response);
        // An answer that breaks off is one all the same.
        let _ = read_away(response).await;
        Ok((status, rest))
    }
}

/// Reads a short answer to its end; leaves a long one, and its connection, alone.
async fn read_away(mut response: Response) -> Result<(), reqwest::Error> {
    let mut read = 0;
    while let Some(chunk) = response.chunk().await? {
        read += chunk.len();
        if read > MOST_READ {
            break;
        }
    }
    Ok(())
}

fn asked_rest(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_REST))
}

fn refused(status: StatusCode) -> String {
    if status.is_redirection() {
        return format!("the endpoint answered {status}: redirects are not followed");
    }
    format!("the endpoint answered {status}")
}

/// What went wrong, without the URL: it may hold a token.
fn told(error: &reqwest::Error) -> String {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    let mut last = None;
    while let Some(cause) = source {
        if let Some(private) = cause.downcast_ref::<PrivateAddress>() {
            return private.to_string();
        }
        last = Some(cause.to_string());
        source = cause.source();
    }
    let what = if error.is_timeout() {
        return "the endpoint did not answer in time".to_owned();
    } else if error.is_connect() {
        "no connection was made"
    } else {
        "the request broke off"
    };
    match last {
        Some(cause) => format!("{what}: {cause}"),
        None => what.to_owned(),
    }
}
