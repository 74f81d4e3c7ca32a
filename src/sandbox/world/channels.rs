//! Supergroups and broadcast channels.

use std::collections::{BTreeMap, BTreeSet};

use super::boxes::MessageBox;
use super::members::Members;
use crate::sandbox::call::UserId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    Broadcast,
    Supergroup,
}

/// Somebody waiting for an admin's yes.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    pub user: UserId,
    pub date: i32,
    /// The hash of the link they came by; `None` by the username.
    pub link: Option<String>,
}

/// What a chat may be set to beyond the ordinary.
#[expect(
    clippy::struct_excessive_bools,
    reason = "settings that a chat has apart from each other"
)]
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Only admins see the member list.
    pub hidden_members: bool,
    /// After how many the list of members ends, if not where Telegram's do.
    pub listed: Option<usize>,
    /// Members see what was written before they came only if they are admins; for chats without a public name.
    pub hidden_history: bool,
    /// Joining by the username asks an admin first.
    pub join_request: bool,
    /// The bot whose mini app decides who is let in.
    pub join_app: Option<UserId>,
    /// Only admins may write (in a broadcast channel that is always so).
    pub read_only: bool,
    /// The pause between two messages of one member, in seconds.
    pub slow_mode: Option<i32>,
    /// The topics of a forum, by number; empty: it is none.
    pub topics: BTreeMap<i32, String>,
    /// The other half of a channel and its discussion group.
    pub linked: Option<i64>,
}

pub struct Channel {
    pub id: i64,
    pub kind: ChannelKind,
    pub title: String,
    pub about: String,
    /// `None`: private.
    pub username: Option<String>,
    pub created: i32,
    pub settings: Settings,
    pub members: Members,
    pub banned: BTreeSet<UserId>,
    /// Oldest first.
    pub requests: Vec<JoinRequest>,
    pub posts: MessageBox,
    /// The newest message read, by account.
    pub read: BTreeMap<UserId, i32>,
    /// When a member wrote last, for slow mode.
    pub wrote: BTreeMap<UserId, i32>,
}

impl Channel {
    pub fn new(id: i64, kind: ChannelKind, title: impl Into<String>, created: i32) -> Self {
        Self {
            id,
            kind,
            title: title.into(),
            about: String::new(),
            username: None,
            created,
            settings: Settings::default(),
            members: Members::default(),
            banned: BTreeSet::new(),
            requests: Vec::new(),
            posts: MessageBox::new(),
            read: BTreeMap::new(),
            wrote: BTreeMap::new(),
        }
    }

    pub fn is_broadcast(&self) -> bool {
        self.kind == ChannelKind::Broadcast
    }

    /// Whether `user`, who may look inside, is shown what was written at `date`.
    pub fn shows_history_to(&self, user: UserId, date: i32) -> bool {
        let is_hidden = self.settings.hidden_history && self.username.is_none();
        !is_hidden || self.members.is_admin(user) || self.members.get(user).is_some_and(|member| member.date <= date)
    }

    /// Whether `user` may look inside: its members may, and everyone who is not banned when it is public.
    pub fn is_open_to(&self, user: UserId) -> bool {
        self.members.contains(user) || (self.username.is_some() && !self.banned.contains(&user))
    }

    /// Whether `user` may see who is in it.
    pub fn shows_members_to(&self, user: UserId) -> bool {
        self.members.is_admin(user) || !(self.is_broadcast() || self.settings.hidden_members)
    }

    /// The id of the newest message; 0 when there is none.
    pub fn top_message(&self) -> i32 {
        self.posts.newest_first().next().map_or(0, |message| message.id)
    }
}
