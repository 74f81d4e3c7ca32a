//! Logs: text in a terminal, JSON otherwise or on request, always on the error stream. What could hold a secret or a
//! message's text is cut off here, whatever the filter asks for.

mod json;

use std::{
    io::{self, IsTerminal},
    panic::PanicHookInfo,
};

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogFormat, TelemetryConfig};

/// Libraries that are only heard when something is wrong, unless the filter names them.
const QUIET: [(&str, &str); 3] = [("sqlx", "warn"), ("poem", "warn"), ("apalis", "warn")];

/// Libraries whose logs print requests, and so phone numbers, codes and texts; they warn of every connection that ends.
/// Only their errors are heard, whatever the filter asks for: what their calls came to is logged by who made them.
const TALKATIVE: [&str; 2] = ["grammers", "hyper"];

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("WIREROOM_LOG: {0}")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("logs are set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logs for the whole process, and the panic hook.
pub fn init(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let terminal = io::stderr().is_terminal();
    let as_json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let layer: Box<dyn Layer<_> + Send + Sync> = if as_json {
        let layer = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
        Box::new(layer.map_event_format(json::WithSources))
    } else {
        Box::new(fmt::layer().compact().with_ansi(terminal).with_writer(io::stderr))
    };
    // Filters of the whole subscriber, not of the layer: those keep a state per thread, and lose events when a library
    // asks through the `log` crate whether a line would be heard.
    tracing_subscriber::registry()
        .with(filter(&config.filter)?)
        .with(filter_fn(is_safe))
        .with(layer)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The filter asked for, over the quiet libraries' own.
fn filter(asked: &str) -> Result<EnvFilter, TelemetryError> {
    let quiet = QUIET
        .iter()
        .filter(|(library, _)| !asked.contains(*library))
        .map(|(library, level)| format!("{library}={level}"));
    let directives: Vec<String> = quiet.chain([asked.to_owned()]).collect();
    EnvFilter::builder()
        .parse(directives.join(","))
        .map_err(TelemetryError::Filter)
}

fn is_safe(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::ERROR || !TALKATIVE.iter().any(|name| metadata.target().starts_with(name))
}

/// One line per panic. The message's own values are left out: a slice error, for one, quotes the text it met.
fn log_panic(info: &PanicHookInfo<'_>) {
    let (file, line) = info.location().map_or(("?", 0), |place| (place.file(), place.line()));
    let thread = std::thread::current();
    tracing::error!(
        panic.message = panic_head(info.payload_as_str().unwrap_or("no message")),
        panic.location = format!("{file}:{line}"),
        thread = thread.name().unwrap_or("?"),
        "panicked"
    );
}

/// A panic's message up to where its values begin.
fn panic_head(message: &str) -> &str {
    let end = [": ", "; ", " of `", "\n"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min();
    end.map_or(message, |end| &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_shows_no_values() {
        for (message, head) in [
            ("the pool is gone", "the pool is gone"),
            (
                "called `Result::unwrap()` on an `Err` value: \"+999\"",
                "called `Result::unwrap()` on an `Err` value",
            ),
            (
                "byte index 1 is not a char boundary; it is inside 'é' of `é text`",
                "byte index 1 is not a char boundary",
            ),
            (
                "byte index 9 is out of bounds of `text`",
                "byte index 9 is out of bounds",
            ),
        ] {
            assert_eq!(panic_head(message), head);
        }
    }

    #[test]
    fn quiet_libraries_stay_quiet_unless_they_are_named() {
        assert!(filter("info").unwrap().to_string().contains("sqlx=warn"));
        assert!(!filter("sqlx=debug").unwrap().to_string().contains("sqlx=warn"));
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(filter("a=b=c").unwrap_err().to_string().starts_with("WIREROOM_LOG"));
    }
}
