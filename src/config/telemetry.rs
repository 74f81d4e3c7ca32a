use std::str::FromStr;

use super::{ConfigError, Source};

/// Logs.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `WIREROOM_LOG`: a tracing filter, `info` by default.
    pub filter: String,
    /// `WIREROOM_LOG_FORMAT`: `auto`, `text` or `json`.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text in a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be auto, text or json"),
        }
    }
}

impl TelemetryConfig {
    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        Ok(Self {
            filter: source.text("WIREROOM_LOG").unwrap_or_else(|| "info".into()),
            format: source.parsed("WIREROOM_LOG_FORMAT", LogFormat::Auto)?,
        })
    }
}
