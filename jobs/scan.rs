//! `scan`: reads what Telegram shows of chats, page by page, each time from the checkpoint of the attempt before: who is in
//! them, what was written there, what was commented, which there are, and who or what one of them is in full. It says how
//! far Telegram let it see: what is capped, hidden or refused is a result with `complete: false` and a reason.

mod args;
mod chats;
mod comments;
pub mod download;
pub mod files;
mod history;
mod language;
mod members;
pub mod ports;
mod profile;
mod rate;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::args::{CommentsArgs, HistoryArgs, MAX_ROWS, MemberFilter, MembersArgs, ScanArgs, ScanWhat, SearchArgs};
pub use self::download::{DownloadArgs, FilesReport};
use self::ports::{Count, ScanStart, Tally};
use crate::{
    ArgsError, Job, JobContext, LogLevel, LogLine, Outcome,
    chat::ChatFacts,
    ports::Chat,
    target::{self, ChatRef},
};

/// What a finished `scan` reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScanResult {
    #[serde(default)]
    pub what: ScanWhat,
    /// The chat; null for a search, and for the profile of a person.
    pub chat: Option<ChatFacts>,
    /// How many there are as Telegram counts them (the members of the chat, its messages, the comments of the posts); null
    /// when it does not say, or when a part was asked for that it does not count.
    pub counted: Option<i64>,
    /// Of members: how many Telegram says the list has that was read.
    #[serde(default)]
    pub listed: Option<i64>,
    /// How many different ones the job saw.
    pub seen: i64,
    /// How many of them no earlier scan had seen, whose rows are kept.
    #[serde(default)]
    pub new: i64,
    /// Whether the job saw all that was asked for, measured against what Telegram counts.
    pub complete: bool,
    /// Why not; null when complete.
    pub reason: Option<Incomplete>,
    /// What became of the files of the messages, where some were to be downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesReport>,
}

/// Why a scan saw fewer than there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Incomplete {
    /// The group hides its members from everyone but its admins.
    ParticipantsHidden,
    /// Telegram ends the lists of large groups near 10,000.
    #[serde(rename = "cap_10000")]
    Cap10000,
    /// Telegram shows the subscribers of a channel to its admins only, and few to them.
    BroadcastChannel,
    /// The session may not read this list.
    NotPermitted,
    /// The job's `limit` was reached.
    Limit,
    /// The bound on the rows of every scan was reached.
    RowBound,
    /// The list changed while it was read, or holds people or messages that Telegram does not describe.
    ListChanged,
    /// The filter shows a part of the members by its nature.
    FilteredList,
    /// The chat hides from this session what was written before it came.
    HistoryHidden,
    /// Telegram answers a search with the few chats it thinks fit best, and never says how many there are.
    SearchIsPartial,
    /// People were erased here: they were met, and nothing about them is stored.
    PersonErased,
    /// Some of the posts cannot be commented or do not exist.
    CommentsClosed,
}

impl Incomplete {
    /// The word for it in results and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ParticipantsHidden => "participants_hidden",
            Self::Cap10000 => "cap_10000",
            Self::BroadcastChannel => "broadcast_channel",
            Self::NotPermitted => "not_permitted",
            Self::Limit => "limit",
            Self::RowBound => "row_bound",
            Self::ListChanged => "list_changed",
            Self::FilteredList => "filtered_list",
            Self::HistoryHidden => "history_hidden",
            Self::SearchIsPartial => "search_is_partial",
            Self::PersonErased => "person_erased",
            Self::CommentsClosed => "comments_closed",
        }
    }
}

#[async_trait]
impl Job for ScanArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        self.check()
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        let attempt = match self.what {
            ScanWhat::Members => members::read(self, context).await,
            ScanWhat::History => history::read(self, context).await,
            ScanWhat::Comments => comments::read(self, context).await,
            ScanWhat::Chats => chats::search(self, context).await,
            ScanWhat::Profile => profile::read(self, context).await,
        };
        match attempt {
            Ok(result) => Outcome::done(&result),
            Err(outcome) => {
                context.log_stop(&outcome).await;
                outcome
            }
        }
    }
}

/// The most rows a scan may have.
#[derive(Debug, Clone, Copy)]
struct Bound {
    rows: i64,
    /// The client's own `limit`.
    is_limit: bool,
}

impl Bound {
    fn new(args: &ScanArgs) -> Self {
        let (rows, is_limit) = args.bound();
        Self { rows, is_limit }
    }

    fn is_reached(self, seen: i64) -> bool {
        seen >= self.rows
    }

    fn reason(self) -> Incomplete {
        if self.is_limit {
            Incomplete::Limit
        } else {
            Incomplete::RowBound
        }
    }

    /// Of how many the progress is, when there are so many.
    fn total(self, known: Option<i64>) -> Option<i64> {
        match known {
            Some(known) => Some(known.min(self.rows)),
            None => self.is_limit.then_some(self.rows),
        }
    }

    /// How many rows the next page may have, of at most `page`.
    fn room(self, seen: i64, page: i32) -> i32 {
        i32::try_from(self.rows - seen).map_or(page, |rest| rest.clamp(1, page))
    }
}

/// The chat of this attempt, which stays that of the first one, whatever its name leads to now.
async fn find(context: &JobContext, args: &ScanArgs, kept: Option<i64>) -> Result<Chat, Outcome> {
    let reference: ChatRef = target::parse_for_run(&args.chat)?;
    context.stop_if_cancelled()?;
    let chat = match kept {
        Some(id) => target::resolve_again(context, &reference, id).await?,
        None => target::resolve(context, &reference).await?,
    };
    target::refuse_person(&chat)?;
    Ok(chat)
}

async fn begin(context: &JobContext, args: &ScanArgs, chat_id: Option<i64>) -> Result<(), Outcome> {
    let start = ScanStart {
        what: args.what,
        chat_id,
        purpose: args.purpose.trim().to_owned(),
        retention_days: args.retention_days,
        search_key: args.search.as_ref().and_then(|search| search.standing.clone()),
    };
    Ok(context.store.begin_scan(&start).await?)
}

/// Says how far the job was; returns what earlier attempts have stored.
async fn say_begin(context: &JobContext, resumed: bool, counted: Option<i64>) -> Result<Tally, Outcome> {
    let tally = if resumed {
        context.store.scan_tally().await?
    } else {
        Tally::default()
    };
    let line = if resumed {
        LogLine::new("resumed", "The scan goes on where an earlier attempt stopped.")
    } else {
        LogLine::new("started", "The scan begins.")
    };
    let line = line.with("seen", tally.seen).with("counted", counted.unwrap_or(0));
    context.log(LogLevel::Info, line).await;
    Ok(tally)
}

/// Notes what was counted, and makes the result of a chat's scan.
async fn finish(context: &JobContext, chat: &Chat, count: Count, listed: Option<i64>) -> Result<ScanResult, Outcome> {
    context.store.save_count(&count).await?;
    Ok(ScanResult {
        what: count.what,
        chat: Some(ChatFacts::from(chat)),
        counted: count.counted,
        listed,
        seen: count.tally.seen,
        new: count.tally.new,
        complete: count.reason.is_none(),
        reason: count.reason,
        files: None,
    })
}

#[cfg(test)]
mod tests;
