//! The kinds of jobs, and the one place where args are parsed.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobContext, Outcome, join::JoinArgs, publish::PublishArgs, scan::ScanArgs};

/// A kind's function: its args run it.
#[async_trait]
pub trait Job: Send + Sync {
    /// Checks that need no database and no Telegram, at the API's door: the message names the field and the fix.
    fn validate(&self) -> Result<(), ArgsError>;
    /// Runs one attempt.
    async fn run(&self, context: &JobContext) -> Outcome;
}

/// A field of the args that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ArgsError {
    /// The field's path, such as `args.chat`.
    pub field: String,
    /// The value's shape and the fix; never the value itself where that could be a secret or a message.
    pub message: String,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Join,
    Scan,
    Publish,
}

/// Which of a session's slots a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    Interactive,
    Bulk,
    Watch,
}

/// A class of Telegram calls that is limited together: what a gate closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Looking up names and links.
    Resolve,
    Join,
    /// Sending messages.
    Send,
    /// Reading lists and histories.
    Read,
    /// Anything else.
    Other,
}

impl JobKind {
    pub const ALL: [Self; 3] = [Self::Join, Self::Scan, Self::Publish];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Scan => "scan",
            Self::Publish => "publish",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub const fn lane(self) -> Lane {
        match self {
            Self::Join | Self::Scan | Self::Publish => Lane::Bulk,
        }
    }

    /// The action whose closed gate keeps jobs of this kind from being claimed.
    pub const fn action(self) -> Action {
        match self {
            Self::Join => Action::Join,
            Self::Scan => Action::Read,
            Self::Publish => Action::Send,
        }
    }

    pub const fn default_max_attempts(self) -> i32 {
        match self {
            Self::Join | Self::Publish => 8,
            Self::Scan => 12,
        }
    }

    /// How long one attempt may take before it is stopped and counts as failed.
    pub const fn attempt_timeout(self) -> Duration {
        match self {
            Self::Join | Self::Publish => Duration::from_secs(5 * 60),
            Self::Scan => Duration::from_secs(60 * 60),
        }
    }

    /// The longest pause between two attempts.
    pub const fn backoff_ceiling(self) -> Duration {
        match self {
            Self::Join | Self::Publish => Duration::from_secs(5 * 60),
            Self::Scan => Duration::from_secs(15 * 60),
        }
    }
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Bulk, Self::Watch];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
            Self::Watch => "watch",
        }
    }
}

impl Action {
    pub const ALL: [Self; 5] = [Self::Resolve, Self::Join, Self::Send, Self::Read, Self::Other];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Join => "join",
            Self::Send => "send",
            Self::Read => "read",
            Self::Other => "other",
        }
    }
}

/// The args of any job, told apart by kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum JobArgs {
    Join(JoinArgs),
    Scan(ScanArgs),
    Publish(PublishArgs),
}

impl JobArgs {
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Join(_) => JobKind::Join,
            Self::Scan(_) => JobKind::Scan,
            Self::Publish(_) => JobKind::Publish,
        }
    }

    /// Reads args of `kind` from any serde source: wrap the deserializer in `serde_path_to_error` for the field's path.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(kind: JobKind, source: D) -> Result<Self, D::Error> {
        Ok(match kind {
            JobKind::Join => Self::Join(JoinArgs::deserialize(source)?),
            JobKind::Scan => Self::Scan(ScanArgs::deserialize(source)?),
            JobKind::Publish => Self::Publish(PublishArgs::deserialize(source)?),
        })
    }

    /// The function behind these args.
    pub fn job(&self) -> &dyn Job {
        match self {
            Self::Join(args) => args,
            Self::Scan(args) => args,
            Self::Publish(args) => args,
        }
    }

    /// The JSON schema of a kind's args, for the API's document.
    pub fn schema(kind: JobKind) -> schemars::Schema {
        match kind {
            JobKind::Join => schemars::schema_for!(JoinArgs),
            JobKind::Scan => schemars::schema_for!(ScanArgs),
            JobKind::Publish => schemars::schema_for!(PublishArgs),
        }
    }
}
