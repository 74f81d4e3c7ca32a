use std::net::SocketAddr;

use super::{ConfigError, Source};

/// The HTTP side.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `WIREROOM_API_LISTEN`: address and port, 127.0.0.1:8080 by default.
    pub listen: SocketAddr,
    /// `WIREROOM_API_PUBLIC_URL`: how clients reach it, for the document and `Location`; unset: relative.
    pub public_url: Option<String>,
    /// `WIREROOM_API_MAX_WAITERS`: how many requests with `Prefer: wait` one process holds, 1000 by default.
    pub max_waiters: usize,
    /// `WIREROOM_API_MAX_STREAMS`: how many streams of events one process holds, 500 by default.
    pub max_streams: usize,
}

impl ApiConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        Ok(Self {
            listen: source.parsed("WIREROOM_API_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080)))?,
            public_url: source.text("WIREROOM_API_PUBLIC_URL"),
            max_waiters: source.within("WIREROOM_API_MAX_WAITERS", 1000, 1, 100_000)?,
            max_streams: source.within("WIREROOM_API_MAX_STREAMS", 500, 1, 100_000)?,
        })
    }
}
