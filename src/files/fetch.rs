//! Fetching an address that a client names: never one of the own machine or network, at no step of a chain of redirects, by
//! no name; within a time, a size and the types that are wanted.

use std::{io, net::SocketAddr, sync::Arc};

use futures::{StreamExt, stream::BoxStream};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
    redirect::Policy,
};
use url::Url;

use super::FilesError;
use crate::{
    addresses::{is_public, literal},
    config::FilesConfig,
};

/// Redirects that are followed.
const MOST_REDIRECTS: usize = 5;

/// What the address must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Picture,
    Video,
    Voice,
    Anything,
}

impl Wanted {
    fn takes(self, content_type: &str) -> bool {
        match self {
            Self::Picture => content_type.starts_with("image/"),
            Self::Video => content_type.starts_with("video/"),
            Self::Voice => matches!(content_type, "audio/ogg" | "application/ogg" | "audio/opus"),
            Self::Anything => true,
        }
    }

    const fn described(self) -> &'static str {
        match self {
            Self::Picture => "a picture (image/…)",
            Self::Video => "a video (video/…)",
            Self::Voice => "a voice message (audio/ogg)",
            Self::Anything => "a file",
        }
    }
}

/// Looks at every address of a name before it is connected to.
#[derive(Debug, Clone, Copy)]
struct Guard {
    allows_private: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allows_private = self.allows_private;
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let is_refused = |address: &SocketAddr| !allows_private && !is_public(address.ip());
            if addresses.is_empty() || addresses.iter().any(is_refused) {
                let reason = "the name has an address that is not on the public internet, or none";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A client that goes to public addresses alone.
pub struct Fetcher {
    client: Client,
    guard: Guard,
}

/// An answer whose bytes are still to come.
pub struct Fetched {
    /// Whose address it was.
    pub host: String,
    pub name: Option<String>,
    pub content_type: String,
    pub bytes: BoxStream<'static, Result<bytes::Bytes, reqwest::Error>>,
}

impl Fetcher {
    pub fn new(config: &FilesConfig) -> Result<Self, FilesError> {
        let guard = Guard {
            allows_private: config.allow_private,
        };
        let client = Client::builder()
            .dns_resolver(Arc::new(guard))
            .redirect(Policy::none())
            .no_proxy()
            .timeout(config.fetch_timeout)
            .connect_timeout(config.fetch_timeout)
            .build()
            .map_err(|error| FilesError::Fetch(format!("no client can be made: {error}")))?;
        Ok(Self { client, guard })
    }

    /// Follows redirects by hand: each address is looked at like the first.
    pub async fn open(&self, url: &str, wanted: Wanted, most: u64) -> Result<Fetched, FilesError> {
        let mut url = Url::parse(url).map_err(|_| refused("the url cannot be read"))?;
        for _ in 0..=MOST_REDIRECTS {
            self.check(&url)?;
            let answer = self
                .client
                .get(url.clone())
                .send()
                .await
                .map_err(|error| unreachable(&error, &url))?;
            if !answer.status().is_redirection() {
                return accept(answer, &url, wanted, most);
            }
            let next = answer.headers().get(LOCATION).and_then(|next| next.to_str().ok());
            url = next
                .and_then(|next| url.join(next).ok())
                .ok_or_else(|| refused("the address redirects to nowhere"))?;
        }
        Err(refused("the address redirects too often"))
    }

    fn check(&self, url: &Url) -> Result<(), FilesError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("the address is none of http or https"));
        }
        if literal(url).is_some_and(|address| !self.guard.allows_private && !is_public(address)) {
            return Err(refused("the address is not on the public internet"));
        }
        Ok(())
    }
}

fn accept(answer: Response, url: &Url, wanted: Wanted, most: u64) -> Result<Fetched, FilesError> {
    let status = answer.status();
    if status.is_server_error() || status.as_u16() == 429 {
        let what = format!("{} answered {}", host(url), status.as_u16());
        return Err(FilesError::Unreachable(what));
    }
    if !status.is_success() {
        return Err(refused(&format!("the address answered {}", status.as_u16())));
    }
    let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("application/octet-stream");
    let content_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if !wanted.takes(&content_type) {
        return Err(refused(&format!("the address does not give {}", wanted.described())));
    }
    let length = answer
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > most)
    {
        return Err(FilesError::TooLarge { most });
    }
    let last = url.path_segments().and_then(|mut segments| segments.next_back());
    let name = last
        .filter(|name| !name.is_empty() && name.len() <= 200)
        .map(str::to_owned);
    Ok(Fetched {
        host: host(url),
        name,
        content_type,
        bytes: answer.bytes_stream().boxed(),
    })
}

fn refused(why: &str) -> FilesError {
    FilesError::Fetch(why.to_owned())
}

/// Whose address it is, and nothing behind that: a path or a query may carry a secret.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the address");
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn unreachable(error: &reqwest::Error, url: &Url) -> FilesError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut kind = None;
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return refused("the address is not on the public internet");
            }
            kind = Some(error.kind());
        }
        source = cause.source();
    }
    let host = host(url);
    FilesError::Unreachable(match kind {
        _ if error.is_timeout() => format!("{host} took too long"),
        Some(io::ErrorKind::ConnectionRefused) => format!("{host} refuses connections"),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {
            format!("{host} broke the connection off")
        }
        _ if error.is_connect() => {
            format!("{host} cannot be reached: its name leads nowhere, or nothing answers there")
        }
        _ => format!("{host} did not give a whole answer"),
    })
}

#[cfg(test)]
mod tests;
