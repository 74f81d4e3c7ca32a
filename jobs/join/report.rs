//! What a finished `join` reports.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::port::{Rights, Standing};
use crate::ports::{Chat, ChatType};

/// What a finished `join` reports: of one chat everything, of a list an outcome for each target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum JoinResult {
    One(Box<JoinedOne>),
    List(JoinedList),
}

/// What became of one chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinedOne {
    pub status: JoinStatus,
    /// Null when Telegram does not show what a link leads to.
    pub chat: Option<JoinedChat>,
    /// When the approval was asked for; null when none was needed.
    pub requested_at: Option<DateTime<Utc>>,
    /// Of `would_fail`: the code that a join would fail with.
    pub code: Option<String>,
    /// Of `would_fail`: why, and what can be done about it.
    pub message: Option<String>,
    /// What became of the channel's discussion group; null when that was not asked for, or there is none.
    pub discussion: Option<Discussion>,
    /// Of `left`: what the session was in the chat; null when Telegram did not say.
    pub was: Option<Standpoint>,
}

/// How a target ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinStatus {
    /// This job made the session a member.
    Joined,
    /// This job asked, and an admin of the chat approved.
    Approved,
    /// It was a member before.
    AlreadyMember,
    /// This job took it out of the chat.
    Left,
    /// It was not in the chat.
    NotMember,
    /// Checked: a join would make it a member at once.
    WouldJoin,
    /// Checked: a join would send a request, which an admin has to approve.
    WouldRequest,
    /// Checked: a join would fail.
    WouldFail,
}

/// What the session was in a chat that it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standpoint {
    Member,
    Admin,
    /// Nobody runs the chat any more.
    LastAdmin,
    /// Of a basic group: Telegram lets no creator leave a supergroup or channel.
    Creator,
}

/// How a session has access to a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// The chat has a public name.
    Public,
    /// It has none, and was named by its id or by a message in it.
    Private,
    /// It has none, and was named by an invite link.
    Invite,
    /// The session may look into it for a while without being a member.
    Peek,
}

/// The chat, as the session sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinedChat {
    /// The chat's id in the Bot API's form: negative for groups, `-100…` for supergroups and channels. Null when an invite
    /// link was only checked: Telegram shows the id to members alone.
    pub id: Option<i64>,
    #[serde(rename = "type")]
    pub chat_type: ChatType,
    pub title: String,
    /// Without `@`; null for a private chat.
    pub username: Option<String>,
    /// As Telegram counts them; null when it does not say.
    pub member_count: Option<i64>,
    pub access: Access,
    /// What the session may do there; null when it is not a member, or when Telegram did not say.
    pub rights: Option<Rights>,
    /// Seconds between two messages of one member; 0: off; null: Telegram did not say.
    pub slow_mode_seconds: Option<i32>,
    /// A channel's discussion group, or the channel that a group discusses.
    pub linked_chat_id: Option<i64>,
    /// Whether it has topics; null: Telegram did not say.
    pub forum: Option<bool>,
    /// The topic that the link was about.
    pub topic: Option<Topic>,
    /// Since when the session is a member; null when it is not, or when Telegram did not say.
    pub joined_at: Option<DateTime<Utc>>,
}

/// A topic of a forum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Topic {
    pub id: i32,
    pub title: String,
}

/// What became of a channel's discussion group. It does not change how the job ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Discussion {
    pub chat_id: i64,
    /// `joined`, `already_member`, `requested` (an admin has to approve; that is not waited for), or the code of what was in
    /// the way.
    pub outcome: String,
}

/// What became of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinedList {
    /// How many targets ended with each outcome.
    pub outcomes: std::collections::BTreeMap<String, i64>,
    /// One row for each of `args.chats`, in that order.
    pub targets: Vec<TargetRow>,
}

/// What became of one target of a list. More about its chat: `GET /v1/chats/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetRow {
    /// Its place in `args.chats`, from 0.
    pub index: i32,
    /// A status as of a single chat, or the code that a single join would fail with, or `duplicate`, or `not_tried`.
    pub outcome: String,
    /// Left out when the chat is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_id: Option<i64>,
    /// Of `duplicate` alone: the place of the target that names the same chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<i32>,
    /// Telegram's name of the error that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telegram_error: Option<String>,
}

impl JoinStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Approved => "approved",
            Self::AlreadyMember => "already_member",
            Self::Left => "left",
            Self::NotMember => "not_member",
            Self::WouldJoin => "would_join",
            Self::WouldRequest => "would_request",
            Self::WouldFail => "would_fail",
        }
    }
}

impl JoinedOne {
    pub(super) const fn new(status: JoinStatus, chat: Option<JoinedChat>) -> Self {
        Self {
            status,
            chat,
            requested_at: None,
            code: None,
            message: None,
            discussion: None,
            was: None,
        }
    }

    pub(super) fn chat_id(&self) -> Option<i64> {
        self.chat.as_ref().and_then(|chat| chat.id)
    }
}

impl JoinedChat {
    /// What is known without a request of its own.
    pub(super) fn plain(chat: &Chat, access: Access) -> Self {
        Self {
            id: Some(chat.id),
            chat_type: chat.chat_type,
            title: chat.title.clone(),
            username: chat.username.clone(),
            member_count: chat.member_count,
            access: if chat.username.is_some() {
                Access::Public
            } else {
                access
            },
            rights: None,
            slow_mode_seconds: None,
            linked_chat_id: None,
            forum: None,
            topic: None,
            joined_at: None,
        }
    }

    /// Adds what Telegram says of the chat itself.
    pub(super) fn complete(&mut self, standing: &Standing) {
        self.member_count = standing.chat.member_count.or(self.member_count);
        self.slow_mode_seconds = Some(standing.slow_mode_seconds);
        self.linked_chat_id = standing.linked_chat_id;
        self.forum = Some(standing.forum);
        if standing.chat.member {
            self.rights = Some(standing.rights);
            self.joined_at = standing.joined_at;
        }
    }
}
