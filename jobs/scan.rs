//! `scan`: reads the member list of a group or channel, page by page, from the checkpoint of the attempt before. It says
//! how far Telegram let it see: a list that is capped, hidden or refused is a result with `complete: false` and a reason.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ArgsError, Job, JobContext, LogLevel, LogLine, Outcome,
    chat::ChatFacts,
    context::checkpoint_value,
    ports::{ChatDetails, ChatType, Decision, Member, MemberPage, Progress, ScanStart, TelegramError},
    target::{self, ChatRef},
};

/// The most that Telegram returns at once.
const PAGE: i32 = 200;
/// Lists of groups end near 10,000, however large the group.
const CAP: i64 = 10_000;
const NEAR_CAP: i64 = 9_000;
/// Pages in a row that show nobody new before the list counts as read. One can happen when many joined in a long pause.
const BARREN_PAGES: u32 = 3;
const MAX_PURPOSE_CHARS: usize = 200;
const MAX_RETENTION_DAYS: i32 = 365;

/// Reads who is in a group or channel.
///
/// The rows can be read at `GET /v1/jobs/{id}/members` until `retention_days` have passed; phone numbers are never
/// stored. Telegram ends lists of groups near 10,000 people, shows those of channels to admins only, and lets groups hide
/// theirs: the job then succeeds with `complete: false` and the reason.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = ScanArgs {
    what: ScanWhat::Members,
    chat: "@reading_club".into(),
    purpose: "Yearly count of active members, agreed with the admins".into(),
    retention_days: 30,
    limit: None,
})]
#[schemars(example = ScanArgs {
    what: ScanWhat::Members,
    chat: "-1001234567890".into(),
    purpose: "Spot check of new members".into(),
    retention_days: 7,
    limit: Some(500),
})]
pub struct ScanArgs {
    /// What to read.
    #[serde(default)]
    pub what: ScanWhat,
    /// The chat: `@name`, `t.me/name`, an invite link that the session has joined by, or an id such as `-1001234567890`
    /// of a chat that the session knows.
    #[schemars(length(min = 1, max = 256))]
    pub chat: String,
    /// Why these personal data are collected; kept with them.
    #[schemars(length(min = 1, max = 200))]
    pub purpose: String,
    /// Days until the rows are deleted.
    #[serde(default = "default_retention")]
    #[schemars(range(min = 1, max = 365))]
    pub retention_days: i32,
    /// Stop after this many people.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<i64>,
}

/// What a scan reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScanWhat {
    #[default]
    Members,
}

/// What a finished `scan` reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScanResult {
    pub chat: ChatFacts,
    /// How many members Telegram counts; null when it does not say.
    pub counted: Option<i64>,
    /// How many different people the job saw.
    pub seen: i64,
    /// Whether the job saw as many as Telegram counts.
    pub complete: bool,
    /// Why not; null when complete.
    pub reason: Option<Incomplete>,
}

/// Why a scan saw fewer people than Telegram counts.
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
    /// The list changed while it was read, or holds people whom Telegram does not describe.
    ListChanged,
}

/// The checkpoint: how far the list was read. What was seen is counted by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The chat of the first attempt. Its name may move to another chat; the scan does not.
    chat_id: i64,
    offset: i32,
    counted: Option<i64>,
    /// Telegram returned an empty page.
    ended: bool,
}

const fn default_retention() -> i32 {
    30
}

/// Shows an invite link without its code.
impl fmt::Debug for ScanArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanArgs")
            .field("what", &self.what)
            .field("chat", &target::shape(&self.chat))
            .field("purpose", &self.purpose)
            .field("retention_days", &self.retention_days)
            .field("limit", &self.limit)
            .finish()
    }
}

#[async_trait]
impl Job for ScanArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        ChatRef::of_args(&self.chat)?;
        let wrong = |field: &str, message: String| {
            Err(ArgsError {
                field: format!("args.{field}"),
                message,
            })
        };
        let purpose = self.purpose.trim();
        if purpose.is_empty() {
            return wrong("purpose", "is empty; say why these personal data are collected".into());
        }
        if purpose.contains('\0') {
            return wrong("purpose", "holds a NUL character (U+0000); leave it out".into());
        }
        let chars = self.purpose.chars().count();
        if chars > MAX_PURPOSE_CHARS {
            return wrong(
                "purpose",
                format!("has {chars} characters; at most {MAX_PURPOSE_CHARS} are kept"),
            );
        }
        if !(1..=MAX_RETENTION_DAYS).contains(&self.retention_days) {
            return wrong(
                "retention_days",
                format!("is {}; give 1 to {MAX_RETENTION_DAYS} days", self.retention_days),
            );
        }
        match self.limit {
            Some(limit) if limit < 1 => wrong("limit", format!("is {limit}; give 1 or more, or leave it out")),
            _ => Ok(()),
        }
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        match self.attempt(context).await {
            Ok(result) => Outcome::done(&result),
            Err(outcome) => {
                context.log_stop(&outcome).await;
                outcome
            }
        }
    }
}

impl ScanArgs {
    async fn attempt(&self, context: &JobContext) -> Result<ScanResult, Outcome> {
        let reference = target::parse_for_run(&self.chat)?;
        let kept: Option<Position> = context.read_checkpoint().await?;
        context.stop_if_cancelled()?;
        let chat = match &kept {
            Some(position) => target::resolve_again(context, &reference, position.chat_id).await?,
            None => target::resolve(context, &reference).await?,
        };
        target::refuse_person(&chat)?;
        let details = context.telegram.chat_details(&chat).await?;
        context.store.save_chat(&details.chat).await?;
        let start = ScanStart {
            chat_id: details.chat.id,
            purpose: self.purpose.trim().to_owned(),
            retention_days: self.retention_days,
        };
        context.store.begin_scan(&start).await?;
        let resumed = kept.is_some();
        let position = kept.unwrap_or(Position {
            chat_id: details.chat.id,
            offset: 0,
            counted: details.chat.member_count.or(chat.member_count),
            ended: false,
        });
        // Counts what earlier attempts saw; stores nothing new.
        let seen = if resumed {
            save(context, &[], position).await?
        } else {
            0
        };
        let begin = if resumed {
            LogLine::new("resumed", "The scan goes on where an earlier attempt stopped.")
        } else {
            LogLine::new("started", "The scan begins.")
        };
        let begin = begin.with("seen", seen).with("counted", position.counted.unwrap_or(0));
        context.log(LogLevel::Info, begin).await;
        Reading::new(context, &details, self.limit, position, seen).run().await
    }
}

/// Stores a page's people together with the position after it. Returns how many different people the job has seen.
async fn save(context: &JobContext, members: &[Member], position: Position) -> Result<i64, Outcome> {
    let checkpoint = checkpoint_value(&position)?;
    Ok(context
        .store
        .save_members(position.chat_id, members, checkpoint)
        .await?)
}

/// One attempt to read a list to its end.
struct Reading<'a> {
    context: &'a JobContext,
    details: &'a ChatDetails,
    limit: Option<i64>,
    position: Position,
    /// Different people, over all attempts.
    seen: i64,
    /// Pages in a row without a new person.
    barren: u32,
    began_at: DateTime<Utc>,
    /// People seen by earlier attempts, for the rate of this one.
    seen_before: i64,
}

impl<'a> Reading<'a> {
    fn new(
        context: &'a JobContext,
        details: &'a ChatDetails,
        limit: Option<i64>,
        position: Position,
        seen: i64,
    ) -> Self {
        Self {
            context,
            details,
            limit,
            position,
            seen,
            barren: 0,
            began_at: context.clock.now(),
            seen_before: seen,
        }
    }

    async fn run(mut self) -> Result<ScanResult, Outcome> {
        // Asking for a list that is known to be closed would be a refused call for nothing.
        if self.is_closed_list() && !self.details.can_view_participants {
            return Ok(self.result(Some(self.refused_because())));
        }
        while !self.is_at_end() {
            self.context.stop_if_cancelled()?;
            let (offset, asked) = (self.position.offset, self.asked());
            match self.context.telegram.members(&self.details.chat, offset, asked).await {
                Ok(page) => self.keep(page).await?,
                Err(error) if is_refusal_to_list(&error) => {
                    let refused = LogLine::new("list_refused", "Telegram does not show the rest of the list.");
                    self.context.log(LogLevel::Warn, refused.with("seen", self.seen)).await;
                    return Ok(self.result(Some(self.refused_because())));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.result(self.ended_because()))
    }

    /// Some people may see all of such a list, some a part, most nothing.
    fn is_closed_list(&self) -> bool {
        self.details.participants_hidden || self.details.chat.chat_type == ChatType::Channel
    }

    fn is_at_end(&self) -> bool {
        let Position {
            offset, counted, ended, ..
        } = self.position;
        let all_counted = offset > 0 && counted.is_some_and(|counted| i64::from(offset) >= counted);
        ended || all_counted || self.barren >= BARREN_PAGES || self.is_at_limit()
    }

    fn is_at_limit(&self) -> bool {
        self.limit.is_some_and(|limit| self.seen >= limit)
    }

    /// How many rows the next page may have.
    fn asked(&self) -> i32 {
        match self.limit {
            Some(limit) => i32::try_from(limit - self.seen).map_or(PAGE, |rest| rest.clamp(1, PAGE)),
            None => PAGE,
        }
    }

    async fn keep(&mut self, page: MemberPage) -> Result<(), Outcome> {
        self.position = Position {
            offset: self.position.offset.saturating_add(page.returned.max(0)),
            counted: Some(self.counted_with(page.count)),
            ended: page.returned <= 0,
            ..self.position
        };
        let seen = save(self.context, &page.members, self.position).await?;
        self.barren = if seen > self.seen { 0 } else { self.barren + 1 };
        self.seen = seen;
        let stored = LogLine::new("page_stored", "A page of the list is stored.")
            .with("people", i64::try_from(page.members.len()).unwrap_or(i64::MAX))
            .with("seen", seen)
            .with("counted", self.position.counted.unwrap_or(0));
        self.context.log(LogLevel::Info, stored).await;
        self.show_progress().await
    }

    /// A closed list may count only the part that the session sees; the chat's own number is the whole.
    fn counted_with(&self, page_count: i64) -> i64 {
        match self.position.counted {
            Some(whole) if self.is_closed_list() => whole.max(page_count),
            _ => page_count,
        }
    }

    async fn show_progress(&self) -> Result<(), Outcome> {
        let of = match (self.position.counted, self.limit) {
            (Some(counted), Some(limit)) => Some(counted.min(limit)),
            (counted, limit) => counted.or(limit),
        };
        let progress = Progress {
            done: self.seen,
            of,
            per_second: self.rate(),
        };
        Ok(self.context.store.progress(progress).await?)
    }

    /// People per second of this attempt; 0 until time has passed.
    fn rate(&self) -> f64 {
        let seconds = (self.context.clock.now() - self.began_at).as_seconds_f64();
        let people = u32::try_from(self.seen - self.seen_before).unwrap_or(0);
        if seconds > 0.0 {
            f64::from(people) / seconds
        } else {
            0.0
        }
    }

    fn refused_because(&self) -> Incomplete {
        if self.details.chat.chat_type == ChatType::Channel {
            Incomplete::BroadcastChannel
        } else if self.details.participants_hidden {
            Incomplete::ParticipantsHidden
        } else {
            Incomplete::NotPermitted
        }
    }

    /// Why the list that was read to its end is short; `None` when it is not.
    fn ended_because(&self) -> Option<Incomplete> {
        let counted = self.position.counted.unwrap_or(0);
        if self.seen >= counted {
            None
        } else if self.is_at_limit() {
            Some(Incomplete::Limit)
        } else if self.is_closed_list() {
            Some(self.refused_because())
        } else if counted > CAP && i64::from(self.position.offset) >= NEAR_CAP {
            Some(Incomplete::Cap10000)
        } else {
            Some(Incomplete::ListChanged)
        }
    }

    fn result(&self, reason: Option<Incomplete>) -> ScanResult {
        ScanResult {
            chat: ChatFacts::from(&self.details.chat),
            counted: self.position.counted,
            seen: self.seen,
            complete: reason.is_none(),
            reason,
        }
    }
}

fn is_refusal_to_list(error: &TelegramError) -> bool {
    error.decision == Decision::Target && matches!(error.code.as_str(), "CHAT_ADMIN_REQUIRED" | "RIGHT_FORBIDDEN")
}

#[cfg(test)]
mod tests;
