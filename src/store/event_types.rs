//! The types of events: one list for those who raise them, those who read them, and the API's document.

use std::fmt;

use uuid::Uuid;

use crate::ids::{BatchId, JobId, ScheduleId, SessionId, SubscriptionId};

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $version:literal;)*) => {
        /// What an event says happened. Its data only ever gains fields within a version.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventType {
            $($(#[$doc])* $variant,)*
        }

        impl EventType {
            /// Every type, in the order of the documents.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, as clients filter by it: stable.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The version of what its data holds.
            pub fn version(self) -> i16 {
                match self {
                    $(Self::$variant => $version,)*
                }
            }
        }
    };
}

event_types! {
    /// A session is in another state.
    SessionStateChanged = "session.state_changed", 1;
    /// A session, or one of its chats, cannot be used any more.
    SessionAccessLost = "session.access_lost", 1;
    /// Telegram does not know any more how far a session has read: what came meanwhile is only in the histories.
    SessionUpdatesGap = "session.updates_gap", 1;
    /// A session is in another pool.
    SessionPoolChanged = "session.pool_changed", 1;
    /// A session's circuit breaker has opened or closed.
    SessionBreakerChanged = "session.breaker_changed", 1;
    /// Telegram refuses an application's API id.
    ApplicationRefused = "application.refused", 1;
    /// A person has let a refused application's sessions be held again.
    ApplicationResumed = "application.resumed", 1;
    /// A job ended well.
    JobSucceeded = "job.succeeded", 1;
    /// A job ended without what it was for.
    JobFailed = "job.failed", 1;
    /// A job was cancelled.
    JobCancelled = "job.cancelled", 1;
    /// The last job of a batch ended.
    BatchFinished = "batch.finished", 1;
    /// Ticks of a schedule made no job.
    ScheduleMissed = "schedule.missed", 1;
    /// A message came into a watched chat.
    MessageNew = "message.new", 1;
    /// A message of a watched chat was changed.
    MessageEdited = "message.edited", 1;
    /// Messages of a watched chat were deleted.
    MessageDeleted = "message.deleted", 1;
    /// The reactions to a message of a watched chat are others than before.
    MessageReactions = "message.reactions", 1;
    /// Somebody is a member of a watched chat now.
    MemberJoined = "member.joined", 1;
    /// Somebody is no member of a watched chat any more.
    MemberLeft = "member.left", 1;
    /// A watched chat has another title or picture, or another pinned message.
    ChatChanged = "chat.changed", 1;
    /// A chat, or a session's private messages, is watched from here on.
    WatchStarted = "watch.started", 1;
    /// Another session records what happens in the chat.
    WatchSwitched = "watch.switched", 1;
    /// Telegram did not keep what happened in the chat meanwhile: new messages are read from the history.
    WatchGap = "watch.gap", 1;
    /// A watch's session cannot see the chat any more.
    WatchAccessLost = "watch.access_lost", 1;
    /// No session of the watch's list can see the chat any more.
    WatchExhausted = "watch.exhausted", 1;
    /// Nothing is recorded of the chat any more.
    WatchStopped = "watch.stopped", 1;
    /// A campaign was started or resumed.
    CampaignResumed = "campaign.resumed", 1;
    /// A person paused a campaign.
    CampaignPaused = "campaign.paused", 1;
    /// A person changed a campaign.
    CampaignChanged = "campaign.changed", 1;
    /// A person deleted a campaign.
    CampaignDeleted = "campaign.deleted", 1;
    /// A campaign stopped by itself, for a reason that a person has to see to.
    CampaignStopped = "campaign.stopped", 1;
    /// Everybody on a campaign's list was dealt with.
    CampaignFinished = "campaign.finished", 1;
    /// A person is left alone from here on: they said so, or blocked one of our accounts.
    SuppressionAdded = "suppression.added", 1;
    /// A subscription was switched off, because too much of what was sent to it failed.
    SubscriptionDisabled = "subscription.disabled", 1;
}

impl EventType {
    /// The type of that name; `None` for one that only another release knows.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.name() == name)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an event is about: `session:<id>`, `chat:<id>`, `job:<id>`, … The events of one subject are read in the order in
/// which they were written, if whoever writes one holds a lock that stands for the subject until it commits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject(String);

impl Subject {
    pub fn session(id: SessionId) -> Self {
        Self(format!("session:{id}"))
    }

    /// A chat by its id in the form of the Bot API.
    pub fn chat(id: i64) -> Self {
        Self(format!("chat:{id}"))
    }

    /// A private chat: such ids are a session's own, and its messages are counted by account.
    pub fn private_chat(session: SessionId, user: i64) -> Self {
        Self(format!("chat:{session}/{user}"))
    }

    pub fn job(id: JobId) -> Self {
        Self(format!("job:{id}"))
    }

    pub fn batch(id: BatchId) -> Self {
        Self(format!("batch:{id}"))
    }

    /// An application by Telegram's number of it.
    pub fn application(api_id: i32) -> Self {
        Self(format!("application:{api_id}"))
    }

    pub fn schedule(id: ScheduleId) -> Self {
        Self(format!("schedule:{id}"))
    }

    pub fn subscription(id: SubscriptionId) -> Self {
        Self(format!("subscription:{id}"))
    }

    pub fn campaign(id: Uuid) -> Self {
        Self(format!("campaign:{id}"))
    }

    /// A row of the list of those to leave alone.
    pub fn suppression(id: Uuid) -> Self {
        Self(format!("suppression:{id}"))
    }

    /// A watch, by its job.
    pub fn watch(id: JobId) -> Self {
        Self(format!("watch:{id}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        let names: HashSet<&str> = EventType::ALL.iter().map(|event| event.name()).collect();
        assert_eq!(names.len(), EventType::ALL.len(), "two types of one name");
        for event in EventType::ALL {
            assert_eq!(EventType::parse(event.name()), Some(*event));
            let (family, what) = event.name().split_once('.').expect("a family and what happened");
            assert!(!family.is_empty() && !what.is_empty());
        }
        assert_eq!(EventType::parse("session."), None);
    }
}
