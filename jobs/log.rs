//! Lines a running job shows to whoever follows it. A line is a stable code, a fixed sentence and numbers: there is no place
//! in it for the text of a message, a name or a phone number.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// The job goes on as it should.
    Info,
    /// Something is in its way, or was lost.
    Warn,
}

impl LogLevel {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
        }
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// A stable word in snake case, for programs.
    pub code: &'static str,
    /// One sentence for a person, always the same for a code.
    pub message: &'static str,
    /// Figures that go with it, each with its name; never a phone number.
    pub numbers: Vec<(&'static str, i64)>,
}

impl LogLine {
    pub const fn new(code: &'static str, message: &'static str) -> Self {
        Self {
            code,
            message,
            numbers: Vec::new(),
        }
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &'static str, number: i64) -> Self {
        self.numbers.push((name, number));
        self
    }
}
