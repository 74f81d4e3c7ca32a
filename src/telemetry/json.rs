//! Lines of JSON that say what is behind an error: the library's own write its outermost words alone, and an operator reads
//! "the database failed" without a reason.

use std::{error::Error, fmt};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, Writer},
    },
    registry::LookupSpan,
};

/// Most errors behind an error that are told.
const DEEPEST: usize = 10;

/// The library's lines, with `error.sources`, as lines of text have it.
pub struct WithSources(pub Format<Json>);

impl<S, N> FormatEvent<S, N> for WithSources
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let mut sources = Sources::default();
        event.record(&mut sources);
        match line.trim_end().strip_suffix('}') {
            Some(open) if !sources.0.is_empty() => {
                let sources = serde_json::to_string(&sources.0).map_err(|_| fmt::Error)?;
                writeln!(writer, "{open},\"error.sources\":{sources}}}")
            }
            _ => writer.write_str(&line),
        }
    }
}

/// What is behind the errors of an event, the nearest first.
#[derive(Default)]
struct Sources(Vec<String>);

impl Visit for Sources {
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}

    fn record_error(&mut self, _: &Field, error: &(dyn Error + 'static)) {
        let mut behind = error.source();
        while let Some(source) = behind.filter(|_| self.0.len() < DEEPEST) {
            self.0.push(source.to_string());
            behind = source.source();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the list was not read")]
    struct Failed(#[source] io::Error);

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_what_is_behind_its_error() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        let layer = layer.map_event_format(WithSources).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let error = Failed(io::Error::other("no \"such\" host"));
            tracing::warn!(error = &error as &dyn Error, count = 3, "it failed");
            tracing::warn!(count = 4, "no error");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let parsed: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(parsed.len(), 2, "{text}");
        assert_eq!(parsed[0]["message"], "it failed");
        assert_eq!(parsed[0]["error"], "the list was not read");
        assert_eq!(parsed[0]["error.sources"], serde_json::json!(["no \"such\" host"]));
        assert_eq!(parsed[1]["count"], 4);
        assert!(parsed[1].get("error.sources").is_none());
    }
}
