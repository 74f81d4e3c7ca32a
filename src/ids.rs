//! Ids, one type each, so that a session's id cannot stand where a job's belongs. All are `UUIDv7`: they sort by creation.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id of this moment.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A job.
    JobId
);
id!(
    /// A Telegram session.
    SessionId
);
id!(
    /// One start of one worker process.
    WorkerId
);
id!(
    /// Jobs that were enqueued together.
    BatchId
);
id!(
    /// A Telegram application (API id and hash).
    ApplicationId
);
id!(
    /// What somebody asked of the workers for one session, a login above all.
    ErrandId
);
id!(
    /// A schedule.
    ScheduleId
);
id!(
    /// Where events go by themselves.
    SubscriptionId
);
