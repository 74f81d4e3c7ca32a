//! What a scan is asked for: which rows, of which chat, how many, why, and for how long. Everything that can be wrong is told
//! at the API's door, by field.

use std::fmt;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::download::DownloadArgs;
use crate::{
    ArgsError,
    message::MediaKind,
    target::{self, ChatRef, ChatRefError},
};

/// No scan stores more rows than this, whatever it was asked for.
pub const MAX_ROWS: i64 = 1_000_000;
/// Found chats are looked at one by one: more in one job would take days at the pace that Telegram allows.
pub const MAX_CHATS: i64 = 1_000;

const MAX_PURPOSE_CHARS: usize = 200;
const MAX_RETENTION_DAYS: i32 = 365;
const MAX_QUERY_CHARS: usize = 64;
const MAX_QUERIES: usize = 50;
const MAX_POSTS: usize = 1_000;
const DEFAULT_POSTS: i32 = 10;

/// Reads who is in a chat, what was written there, what was commented, which public chats there are, or who or what one
/// person or chat is.
///
/// The rows can be read under `GET /v1/jobs/{id}/` (`members`, `messages`, `chats`, `profile`) until `retention_days` have
/// passed; phone numbers are never stored. What Telegram does not show is told: the job succeeds with `complete: false` and a
/// reason.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = ScanArgs {
    chat: "@reading_club".into(),
    purpose: "Yearly count of active members, agreed with the admins".into(),
    ..ScanArgs::default()
})]
#[schemars(example = ScanArgs {
    chat: "-1001234567890".into(),
    purpose: "Spot check of new members".into(),
    retention_days: 7,
    limit: Some(500),
    ..ScanArgs::default()
})]
#[schemars(example = ScanArgs {
    what: ScanWhat::History,
    chat: "@reading_club".into(),
    purpose: "What was asked most in spring".into(),
    history: Some(HistoryArgs { last: Some(2_000), media: vec![MediaKind::Photo], ..HistoryArgs::default() }),
    ..ScanArgs::default()
})]
#[schemars(example = ScanArgs {
    what: ScanWhat::History,
    chat: "@reading_club".into(),
    purpose: "The posters of this year's evenings".into(),
    download: Some(DownloadArgs { kinds: vec![MediaKind::Photo], max_bytes_each: Some(5_000_000), ..DownloadArgs::default() }),
    ..ScanArgs::default()
})]
#[schemars(example = ScanArgs {
    what: ScanWhat::Chats,
    purpose: "New reading clubs, each Monday".into(),
    search: Some(SearchArgs { queries: vec!["reading club".into()], standing: Some("reading-clubs".into()), ..SearchArgs::default() }),
    ..ScanArgs::default()
})]
pub struct ScanArgs {
    /// What to read.
    #[serde(default)]
    pub what: ScanWhat,
    /// The chat: `@name`, `t.me/name`, an invite link that the session has joined by, or an id such as `-1001234567890`
    /// of a chat that the session knows. A profile may be a person's. Left out in a search for chats.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub chat: String,
    /// Why these data are collected; kept with them.
    #[schemars(length(min = 1, max = 200))]
    pub purpose: String,
    /// Days until the rows are deleted.
    #[serde(default = "default_retention")]
    #[schemars(range(min = 1, max = 365))]
    pub retention_days: i32,
    /// Stop after this many rows. No scan stores more than 1,000,000, and no search more than 1,000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<i64>,
    /// Of `members`: which of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<MembersArgs>,
    /// Of `history`: which part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryArgs>,
    /// Of `comments`: of which posts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comments: Option<CommentsArgs>,
    /// Of `chats`: what to look for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchArgs>,
    /// Of `history` and `comments`: which files of the messages to download. None when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<DownloadArgs>,
}

/// What a scan reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScanWhat {
    /// Who is in a group or channel.
    #[default]
    Members,
    /// What was written in a group or channel.
    History,
    /// What was written under the posts of a channel.
    Comments,
    /// Public groups and channels, by keywords.
    Chats,
    /// One person, group or channel in full.
    Profile,
}

/// Which members to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MembersArgs {
    #[serde(default)]
    pub filter: MemberFilter,
    /// What a part of the name or the username begins with; for `search`, and if wanted for `contacts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub query: Option<String>,
    /// When the list ends at Telegram's cap, search it by each letter and digit as well: at most 68 more lists. It finds more
    /// people, and never proves that these are all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_letters: bool,
}

/// Telegram's lists of a chat's members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberFilter {
    /// Everybody, the newest first, as far as Telegram lists them.
    #[default]
    Recent,
    Admins,
    Bots,
    /// Those whose names begin with `query`.
    Search,
    /// The session's contacts.
    Contacts,
}

/// Which part of a history to read. It is read from its newest message to its oldest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryArgs {
    /// Only messages sent at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// Only messages sent at this time or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
    /// Only messages with this number or a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_id: Option<i32>,
    /// Only messages with this number or a lower one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_id: Option<i32>,
    /// Only the newest so many of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub last: Option<i64>,
    /// Only messages that carry one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub media: Vec<MediaKind>,
}

/// Which posts' comments to read: those of `posts`, or of the newest ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommentsArgs {
    /// The numbers of posts of the channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub posts: Vec<i32>,
    /// The newest so many posts of the channel, 10 unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub last_posts: Option<i32>,
}

/// What to look for among public chats. Telegram answers each keyword with a few chats only, the ones it thinks fit best.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchArgs {
    /// Keywords, each of which is searched for by itself.
    #[schemars(length(min = 1, max = 50))]
    pub queries: Vec<String>,
    /// A name for a search that is run again and again, from a schedule for example: it reports only chats that no run of
    /// that name has found before. Lower-case letters, digits, `-` and `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub standing: Option<String>,
    /// Only chats with this many members or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_members: Option<i64>,
}

/// Whom or what a profile is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Chat(ChatRef),
    /// A person by Telegram's user id.
    Person(i64),
}

const fn default_retention() -> i32 {
    30
}

impl Default for ScanArgs {
    fn default() -> Self {
        Self {
            what: ScanWhat::default(),
            chat: String::new(),
            purpose: String::new(),
            retention_days: default_retention(),
            limit: None,
            members: None,
            history: None,
            comments: None,
            search: None,
            download: None,
        }
    }
}

/// Shows an invite link without its code, and of what is searched for only that there is something.
impl fmt::Debug for ScanArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanArgs")
            .field("what", &self.what)
            .field("chat", &target::shape(&self.chat))
            .field("purpose", &self.purpose)
            .field("retention_days", &self.retention_days)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl ScanWhat {
    /// The word for it in args and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::History => "history",
            Self::Comments => "comments",
            Self::Chats => "chats",
            Self::Profile => "profile",
        }
    }
}

impl MemberFilter {
    /// The word for it in args and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recent => "recent",
            Self::Admins => "admins",
            Self::Bots => "bots",
            Self::Search => "search",
            Self::Contacts => "contacts",
        }
    }
}

impl CommentsArgs {
    /// How many of the newest posts; `None`: those that are named.
    pub(super) fn newest(&self) -> Option<i32> {
        self.posts.is_empty().then(|| self.last_posts.unwrap_or(DEFAULT_POSTS))
    }
}

fn wrong<T>(field: &str, message: impl Into<String>) -> Result<T, ArgsError> {
    Err(ArgsError {
        field: format!("args.{field}"),
        message: message.into(),
    })
}

impl ScanArgs {
    /// How many rows at most, and whether that is the client's own limit.
    pub(super) fn bound(&self) -> (i64, bool) {
        let most = if self.what == ScanWhat::Chats {
            MAX_CHATS
        } else {
            MAX_ROWS
        };
        match self.limit {
            Some(limit) if limit <= most => (limit, true),
            Some(_) | None => (most, false),
        }
    }

    pub(super) fn subject(&self) -> Result<Subject, ArgsError> {
        match ChatRef::parse(&self.chat) {
            Ok(chat) => Ok(Subject::Chat(chat)),
            Err(ChatRefError::PersonId) => match self.chat.trim().parse() {
                Ok(id) => Ok(Subject::Person(id)),
                Err(_) => wrong("chat", ChatRefError::BadId.to_string()),
            },
            Err(error) => wrong("chat", error.to_string()),
        }
    }

    pub(super) fn check(&self) -> Result<(), ArgsError> {
        match self.what {
            ScanWhat::Chats if !self.chat.trim().is_empty() => {
                wrong("chat", "is of no use to a search for chats; leave it out")?;
            }
            ScanWhat::Chats => {}
            ScanWhat::Profile => drop(self.subject()?),
            ScanWhat::Members | ScanWhat::History | ScanWhat::Comments => drop(ChatRef::of_args(&self.chat)?),
        }
        self.check_purpose()?;
        if !(1..=MAX_RETENTION_DAYS).contains(&self.retention_days) {
            wrong(
                "retention_days",
                format!("is {}; give 1 to {MAX_RETENTION_DAYS} days", self.retention_days),
            )?;
        }
        if let Some(limit) = self.limit.filter(|limit| *limit < 1) {
            wrong("limit", format!("is {limit}; give 1 or more, or leave it out"))?;
        }
        self.check_sections()?;
        check_members(self.members.as_ref())?;
        check_history(self.history.as_ref())?;
        check_comments(self.comments.as_ref())?;
        self.download.as_ref().map_or(Ok(()), DownloadArgs::check)?;
        check_search(self.search.as_ref())
    }

    fn check_purpose(&self) -> Result<(), ArgsError> {
        if self.purpose.trim().is_empty() {
            return wrong("purpose", "is empty; say why these personal data are collected");
        }
        if self.purpose.contains('\0') {
            return wrong("purpose", "holds a NUL character (U+0000); leave it out");
        }
        let chars = self.purpose.chars().count();
        if chars > MAX_PURPOSE_CHARS {
            return wrong(
                "purpose",
                format!("has {chars} characters; at most {MAX_PURPOSE_CHARS} are kept"),
            );
        }
        Ok(())
    }

    /// What is said about another kind of scan would be ignored, and the rows be others than expected.
    fn check_sections(&self) -> Result<(), ArgsError> {
        for (section, is_given, what) in [
            ("members", self.members.is_some(), ScanWhat::Members),
            ("history", self.history.is_some(), ScanWhat::History),
            ("comments", self.comments.is_some(), ScanWhat::Comments),
            ("search", self.search.is_some(), ScanWhat::Chats),
        ] {
            if is_given && self.what != what {
                let wanted = what.as_str();
                wrong(
                    section,
                    format!("belongs to what: {wanted}; leave it out, or ask for that"),
                )?;
            }
        }
        let has_messages = matches!(self.what, ScanWhat::History | ScanWhat::Comments);
        if self.download.is_some() && !has_messages {
            wrong(
                "download",
                "belongs to what: history and what: comments; leave it out, or ask for one of them",
            )?;
        }
        if self.what == ScanWhat::Chats && self.search.is_none() {
            wrong(
                "search",
                "is missing; say what to look for, such as {\"queries\": [\"chess\"]}",
            )?;
        }
        Ok(())
    }
}

fn check_members(members: Option<&MembersArgs>) -> Result<(), ArgsError> {
    let Some(members) = members else { return Ok(()) };
    let is_search = matches!(members.filter, MemberFilter::Search | MemberFilter::Contacts);
    match &members.query {
        None if members.filter == MemberFilter::Search => wrong(
            "members.query",
            "is missing; say what the names begin with that filter: search looks for",
        ),
        Some(_) if !is_search => wrong(
            "members.query",
            "is used by the filters search and contacts only; leave it out",
        ),
        Some(query) => check_query("members.query", query, 1),
        None => Ok(()),
    }?;
    if members.by_letters && members.filter != MemberFilter::Recent {
        wrong("members.by_letters", "goes with filter: recent only; leave it out")?;
    }
    Ok(())
}

fn check_query(field: &str, query: &str, least: usize) -> Result<(), ArgsError> {
    let chars = query.trim().chars().count();
    if !(least..=MAX_QUERY_CHARS).contains(&chars) {
        return wrong(
            field,
            format!("has {chars} characters; give {least} to {MAX_QUERY_CHARS}"),
        );
    }
    if query.contains('\0') {
        return wrong(field, "holds a NUL character (U+0000); leave it out");
    }
    Ok(())
}

fn check_history(history: Option<&HistoryArgs>) -> Result<(), ArgsError> {
    let Some(history) = history else { return Ok(()) };
    if let (Some(from), Some(to)) = (history.from, history.to)
        && from > to
    {
        wrong("history.from", "is after history.to; there is nothing between them")?;
    }
    for (field, id) in [("history.min_id", history.min_id), ("history.max_id", history.max_id)] {
        if let Some(id) = id.filter(|id| *id < 1) {
            wrong(field, format!("is {id}; messages are numbered from 1"))?;
        }
    }
    if let (Some(min), Some(max)) = (history.min_id, history.max_id)
        && min > max
    {
        wrong(
            "history.min_id",
            "is above history.max_id; there is nothing between them",
        )?;
    }
    if let Some(last) = history.last.filter(|last| !(1..=MAX_ROWS).contains(last)) {
        wrong("history.last", format!("is {last}; give 1 to {MAX_ROWS}"))?;
    }
    Ok(())
}

fn check_comments(comments: Option<&CommentsArgs>) -> Result<(), ArgsError> {
    let Some(comments) = comments else { return Ok(()) };
    if !comments.posts.is_empty() && comments.last_posts.is_some() {
        return wrong("comments.last_posts", "goes without comments.posts; give one of them");
    }
    if comments.posts.len() > MAX_POSTS {
        return wrong(
            "comments.posts",
            format!(
                "names {} posts; at most {MAX_POSTS} go into one job",
                comments.posts.len()
            ),
        );
    }
    if let Some(at) = comments.posts.iter().position(|id| *id < 1) {
        return wrong(
            &format!("comments.posts[{at}]"),
            "is below 1; posts are numbered from 1",
        );
    }
    let most = i32::try_from(MAX_POSTS).unwrap_or(i32::MAX);
    match comments.last_posts {
        Some(last) if !(1..=most).contains(&last) => {
            wrong("comments.last_posts", format!("is {last}; give 1 to {MAX_POSTS}"))
        }
        _ => Ok(()),
    }
}

fn check_search(search: Option<&SearchArgs>) -> Result<(), ArgsError> {
    let Some(search) = search else { return Ok(()) };
    if search.queries.is_empty() || search.queries.len() > MAX_QUERIES {
        return wrong(
            "search.queries",
            format!("has {} keywords; give 1 to {MAX_QUERIES}", search.queries.len()),
        );
    }
    for (at, query) in search.queries.iter().enumerate() {
        check_query(&format!("search.queries[{at}]"), query, 2)?;
    }
    if let Some(key) = &search.standing {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if key.is_empty() || key.len() > MAX_QUERY_CHARS || !key.bytes().all(is_plain) {
            return wrong(
                "search.standing",
                format!("is no name for a search; take 1 to {MAX_QUERY_CHARS} of a-z, 0-9, - and _"),
            );
        }
    }
    match search.min_members {
        Some(least) if least < 1 => wrong("search.min_members", format!("is {least}; give 1 or more")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
