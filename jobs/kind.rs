//! The kinds of jobs, and the one place where args are parsed.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    JobContext, Outcome, invite::InviteArgs, join::JoinArgs, monitor::MonitorArgs, publish::PublishArgs, scan::ScanArgs,
};

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
    Invite,
    Monitor,
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
    /// Adding people to chats.
    Invite,
    /// Joining supergroups and channels, beside all of [`Action::Join`]: closed while the account is in as many as it may be. No
    /// kind waits for it: whoever leaves one opens it.
    JoinChannel,
    /// Anything else.
    Other,
}

impl JobKind {
    pub const ALL: [Self; 5] = [Self::Join, Self::Scan, Self::Publish, Self::Invite, Self::Monitor];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Scan => "scan",
            Self::Publish => "publish",
            Self::Invite => "invite",
            Self::Monitor => "monitor",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub const fn lane(self) -> Lane {
        match self {
            Self::Join | Self::Scan | Self::Publish | Self::Invite => Lane::Bulk,
            Self::Monitor => Lane::Watch,
        }
    }

    /// The action whose closed gate keeps jobs of this kind from being claimed.
    pub const fn action(self) -> Action {
        match self {
            Self::Join => Action::Join,
            Self::Scan | Self::Monitor => Action::Read,
            Self::Publish => Action::Send,
            Self::Invite => Action::Invite,
        }
    }

    pub const fn default_max_attempts(self) -> i32 {
        match self {
            Self::Join | Self::Publish => 8,
            Self::Scan | Self::Monitor => 12,
            // Of attempts that came to nothing: one that dealt with anybody is refunded.
            Self::Invite => 20,
        }
    }

    /// How long one attempt may take before it is stopped and counts as failed; without effect in the `watch` lane.
    pub const fn attempt_timeout(self) -> Duration {
        match self {
            Self::Join | Self::Publish => Duration::from_mins(5),
            Self::Scan | Self::Invite | Self::Monitor => Duration::from_hours(1),
        }
    }

    /// The longest pause between two attempts.
    pub const fn backoff_ceiling(self) -> Duration {
        match self {
            Self::Join | Self::Publish => Duration::from_mins(5),
            Self::Scan | Self::Invite | Self::Monitor => Duration::from_mins(15),
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
    pub const ALL: [Self; 7] = [
        Self::Resolve,
        Self::Join,
        Self::Send,
        Self::Read,
        Self::Invite,
        Self::JoinChannel,
        Self::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Join => "join",
            Self::Send => "send",
            Self::Read => "read",
            Self::Invite => "invite",
            Self::JoinChannel => "join_channel",
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
    Invite(InviteArgs),
    Monitor(MonitorArgs),
}

impl JobArgs {
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Join(_) => JobKind::Join,
            Self::Scan(_) => JobKind::Scan,
            Self::Publish(_) => JobKind::Publish,
            Self::Invite(_) => JobKind::Invite,
            Self::Monitor(_) => JobKind::Monitor,
        }
    }

    /// Reads args of `kind` from any serde source: wrap the deserializer in `serde_path_to_error` for the field's path.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(kind: JobKind, source: D) -> Result<Self, D::Error> {
        Ok(match kind {
            JobKind::Join => Self::Join(JoinArgs::deserialize(source)?),
            JobKind::Scan => Self::Scan(ScanArgs::deserialize(source)?),
            JobKind::Publish => Self::Publish(PublishArgs::deserialize(source)?),
            JobKind::Invite => Self::Invite(InviteArgs::deserialize(source)?),
            JobKind::Monitor => Self::Monitor(MonitorArgs::deserialize(source)?),
        })
    }

    /// The function behind these args.
    pub fn job(&self) -> &dyn Job {
        match self {
            Self::Join(args) => args,
            Self::Scan(args) => args,
            Self::Publish(args) => args,
            Self::Invite(args) => args,
            Self::Monitor(args) => args,
        }
    }

    /// The JSON schema of a kind's args, for the API's document.
    pub fn schema(kind: JobKind) -> schemars::Schema {
        match kind {
            JobKind::Join => schemars::schema_for!(JoinArgs),
            JobKind::Scan => schemars::schema_for!(ScanArgs),
            JobKind::Publish => schemars::schema_for!(PublishArgs),
            JobKind::Invite => schemars::schema_for!(InviteArgs),
            JobKind::Monitor => schemars::schema_for!(MonitorArgs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(kind: JobKind) -> Vec<serde_json::Value> {
        let schema = JobArgs::schema(kind);
        let examples = schema.get("examples").and_then(serde_json::Value::as_array);
        examples.cloned().unwrap_or_default()
    }

    #[test]
    fn each_documented_example_is_taken() {
        for kind in JobKind::ALL {
            let examples = examples(kind);
            assert!(examples.len() >= 2, "{kind:?} has too few examples");
            for example in examples {
                let args = JobArgs::deserialize(kind, &example).expect("an example reads");
                assert_eq!(args.kind(), kind);
                args.job().validate().expect("an example is valid");
                assert_eq!(serde_json::to_value(&args).expect("args are written"), example);
            }
        }
    }

    #[test]
    fn a_field_that_no_kind_has_is_refused() {
        for kind in JobKind::ALL {
            for mut example in examples(kind) {
                example["phone"] = "".into();
                assert!(JobArgs::deserialize(kind, &example).is_err(), "{kind:?}");
            }
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let scan = serde_json::json!({"chat": "@reading_club", "purpose": "A count"});
        let JobArgs::Scan(scan) = JobArgs::deserialize(JobKind::Scan, scan).expect("the least of a scan") else {
            panic!("a scan is a scan");
        };
        assert_eq!((scan.retention_days, scan.limit), (30, None));
        let publish = serde_json::json!({"chat": "@reading_club", "text": "Hello"});
        let JobArgs::Publish(publish) =
            JobArgs::deserialize(JobKind::Publish, publish).expect("the least of a publish")
        else {
            panic!("a publish is a publish");
        };
        assert_eq!(publish, PublishArgs::plain("@reading_club", "Hello"));
    }

    #[test]
    fn what_has_no_default_is_required() {
        for (kind, required) in [
            (JobKind::Join, &[][..]),
            (JobKind::Publish, &[]),
            (JobKind::Invite, &["campaign"]),
            (JobKind::Scan, &["purpose"]),
            (JobKind::Monitor, &["chat"]),
        ] {
            let schema = JobArgs::schema(kind);
            let listed = schema
                .get("required")
                .and_then(serde_json::Value::as_array)
                .cloned()
                .unwrap_or_default();
            assert_eq!(listed, required, "{kind:?}");
            assert_eq!(schema.get("additionalProperties"), Some(&false.into()), "{kind:?}");
        }
    }

    #[test]
    fn a_kinds_name_reads_back() {
        for kind in JobKind::ALL {
            assert_eq!(JobKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).expect("a kind is written"), kind.as_str());
        }
        assert_eq!(JobKind::parse("dance"), None);
    }
}
