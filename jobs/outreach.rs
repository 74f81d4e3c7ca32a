//! What contacting people needs of the outside: the campaign with its list and its ledger, and who a person is. The runtime
//! keeps the rules that no args can bend (suppressions, the switch, caps, quiet hours) where it keeps the rows, so that they
//! are checked in the moment that something is about to be sent, by every session alike.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    WaitReason,
    invite::Tally,
    ports::{Chat, SentMessage, StoreError, TextFormat},
};

/// How a campaign invites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InviteMode {
    /// By a message with a link, which the person follows or not.
    Message,
    /// Directly into the chat.
    Add,
}

/// Why a person may be contacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// They are among the session's contacts.
    Contact,
    /// They asked to be let into the chat.
    JoinRequest,
    /// They wrote to the session before.
    Dialogue,
    /// Somebody supplied them, with a proof that they agreed.
    Import,
}

impl InviteMode {
    pub const ALL: [Self; 2] = [Self::Message, Self::Add];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Add => "add",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

impl Basis {
    pub const ALL: [Self; 4] = [Self::Contact, Self::JoinRequest, Self::Dialogue, Self::Import];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::JoinRequest => "join_request",
            Self::Dialogue => "dialogue",
            Self::Import => "import",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|basis| basis.as_str() == name)
    }
}

/// A person as a list names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PersonRef {
    /// Telegram's user id; of use only to a session that has met the person.
    Id(i64),
    /// Without `@`.
    Username(String),
}

/// A phone number that Telegram shows to this session. Never shown, never stored: it is compared by its keyed hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Phone(pub String);

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[phone]")
    }
}

/// A person as the calling session sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Telegram's user id.
    pub user_id: i64,
    /// The private chat with them.
    pub chat: Chat,
    /// Every active name, without `@`.
    pub usernames: Vec<String>,
    /// Shown to this session, as of a contact.
    pub phone: Option<Phone>,
    pub is_contact: bool,
    pub is_bot: bool,
    pub is_deleted: bool,
}

/// What a person is in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Member,
    /// Was in it once: left, or was put out.
    Gone,
    /// Telegram knows of no membership.
    Absent,
}

/// How an attempt to add somebody ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Added,
    AlreadyMember,
    /// The call succeeded and left the person out.
    Missing {
        premium_would_allow_invite: bool,
        premium_required_for_pm: bool,
    },
}

/// What a campaign is, and stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    pub id: Uuid,
    /// As a client named it.
    pub chat: String,
    /// The chat of the first attempt: a name may move to another chat, a campaign does not.
    pub chat_id: Option<i64>,
    pub mode: InviteMode,
}

/// What a message of a campaign says: of each person's call its own, since a campaign's text may be changed while it runs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Wording {
    /// With its link; empty in the mode `add`.
    pub text: String,
    pub format: TextFormat,
}

/// Leaves the text out.
impl fmt::Debug for Wording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wording")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// What is there to be done for a campaign now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// This person is next, and this job's alone.
    Person(Listed),
    /// Nobody may be contacted before then.
    Wait { until: DateTime<Utc>, reason: WaitReason },
    /// The job's work is over.
    Over(Over),
}

/// Why a job has no more work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// Nobody is left on the list, or of those the job names.
    Exhausted,
    /// The campaign is paused or stopped: a stable word.
    Halted { code: String },
}

/// One person of a campaign's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The row.
    pub entry: i64,
    pub person: PersonRef,
    pub basis: Basis,
}

/// What the ledger says of a person before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing was sent. The key that Telegram deduplicates by.
    Fresh { random_id: i64 },
    /// An earlier attempt of this job may have contacted them.
    InDoubt {
        random_id: i64,
        /// Nothing of it is older.
        since: DateTime<Utc>,
        /// How often it was begun.
        tries: i32,
        /// What it said: that is looked for, whatever the campaign's text is by now.
        wording: Wording,
    },
    /// They are not to be contacted: an outcome's code, stored already.
    Decided(&'static str),
}

/// Whether the one call may be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    /// It may, in these words, and the ledger says that it may have been made.
    Granted(Wording),
    /// Not now; the ledger says that nothing was sent. The campaign's next turn says why, or who is next instead.
    NotNow,
    /// Not this person any more: an outcome's code, stored already.
    Decided(&'static str),
}

/// What became of one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The outcome's code.
    pub outcome: &'static str,
    pub class: VerdictClass,
    /// Telegram's own name, where there is one.
    pub why: Option<String>,
    pub message: Option<SentMessage>,
    /// They must not be contacted again, by anybody.
    pub suppress: bool,
}

/// What an outcome counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictClass {
    /// The invitation reached them.
    Invited,
    /// They, or Telegram for them, refused.
    Refused,
    /// Nobody asked them: it counts neither way.
    Skipped,
    /// Nobody knows whether it reached them.
    Unknown,
}

impl VerdictClass {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
            Self::Unknown => "outcome_unknown",
        }
    }
}

/// Campaigns, as one attempt of one job sees them. Every call is fenced, as those of [`Store`](crate::ports::Store).
#[async_trait]
pub trait Outreach: Send + Sync {
    /// The campaign; `None`: there is none of that id.
    async fn campaign(&self, id: Uuid) -> Result<Option<Campaign>, StoreError>;
    /// Remembers which chat the campaign's is; `false`: it was another one before.
    async fn settle_chat(&self, id: Uuid, chat_id: i64) -> Result<bool, StoreError>;
    /// How far this job is.
    async fn tally(&self, id: Uuid) -> Result<Tally, StoreError>;
    /// Takes the next person of the list, among `only` when that is not empty. One this job was about before comes first.
    async fn turn(&self, id: Uuid, only: &[PersonRef]) -> Result<Turn, StoreError>;
    /// Enters a person in the ledger, unless they are not to be contacted.
    async fn prepare(&self, id: Uuid, listed: &Listed, person: &Person) -> Result<Prepared, StoreError>;
    /// Asks for leave in the moment before the call, and notes durably that it may be made.
    async fn begin(&self, id: Uuid, listed: &Listed, person: &Person) -> Result<Leave, StoreError>;
    /// The call was refused by name for a reason that is not the person's: nothing was sent.
    async fn release(&self, id: Uuid, user_id: i64) -> Result<(), StoreError>;
    /// Stores what became of a person; `user_id` is not known of one that nobody found. Answers why the campaign has
    /// stopped by itself, if this refusal was one too many.
    async fn decide(
        &self,
        id: Uuid,
        listed: &Listed,
        user_id: Option<i64>,
        verdict: &Verdict,
    ) -> Result<Option<String>, StoreError>;
    /// Stops the campaign until a person resumes it. A `code` and a sentence.
    async fn halt(&self, id: Uuid, code: &str, message: &str) -> Result<(), StoreError>;
}
