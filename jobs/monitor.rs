//! `monitor`: watches a chat, or a session's private messages, for as long as it is not stopped.
//!
//! The update stream of the session records what happens in watched chats, each message once; this function says what is
//! watched, reads from the history what the stream could not bring, and hands over to the next session when this one
//! cannot see the chat any more. It runs in the `watch` lane: it keeps no session busy, and a worker that stops or gives
//! the session away takes it off at once. Whoever goes on goes on from what is stored.

mod args;
pub mod filter;
mod private;

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

pub use args::{FailoverArgs, MonitorArgs, PRIVATE, WatchEvent};
pub use filter::{Matcher, MessageFilter};

use crate::{
    ArgsError, Job, JobContext, JobError, LogLevel, LogLine, Outcome, WaitReason,
    ports::{Chat, ChatType, Decision, Failover, TelegramError, WatchBegun, WatchStart, WatchState},
    target::{self, ChatRef},
};

/// An attempt that lasted this long was healthy: its failure is the first again.
const HEALTHY: TimeDelta = TimeDelta::minutes(10);
/// How often what was seen is compared with what exists.
const CHECK_EVERY: Duration = Duration::from_hours(1);
/// How soon after a look that found the chat it is believed to be lost all the same.
const LOOK_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Why a bot's session does not watch.
const SESSION_IS_BOT: &str = "session_is_bot";
/// How long a watch that was healthy waits after a failure.
const AFTER_HEALTHY: TimeDelta = TimeDelta::seconds(5);

#[async_trait]
impl Job for MonitorArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        self.check()
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        let began = context.clock.now();
        let outcome = match self.attempt(context).await {
            Ok(outcome) | Err(outcome) => outcome,
        };
        context.log_stop(&outcome).await;
        match outcome {
            Outcome::Retry(error) if context.clock.now() - began >= HEALTHY => Outcome::Snooze {
                until: context.clock.now() + AFTER_HEALTHY,
                reason: WaitReason::new("interrupted", error.message),
            },
            outcome => outcome,
        }
    }
}

/// The checkpoint: the chat of the first attempt. Its name may move to another chat; the watch does not.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Kept {
    chat_id: i64,
}

/// Why a stretch of watching ended.
enum Stretch {
    /// The session cannot see the chat any more, under Telegram's name or ours.
    Lost(String),
    /// The function was asked to stop, or the watch was.
    Over,
}

impl MonitorArgs {
    async fn attempt(&self, context: &JobContext) -> Result<Outcome, Outcome> {
        context.stop_if_cancelled()?;
        if context.telegram.is_bot() {
            return self.refuse_bot(context).await;
        }
        let chat = match self.chat(context).await? {
            Seen::Chat(chat) => Some(chat),
            Seen::Private => None,
            Seen::Not(reason) => return self.fail_over(context, &reason).await,
        };
        let start = match self.start(context, chat.as_ref()).await {
            Ok(start) => start,
            Err(error) => return self.fail_over(context, &lost(error)?).await,
        };
        let state = match context.store.begin_watch(&start).await? {
            WatchBegun::Watching(state) => state,
            WatchBegun::Other { watch } => {
                return Ok(Outcome::done(&MonitorResult {
                    already_watched: true,
                    watch,
                }));
            }
            WatchBegun::Stopped => return Ok(Outcome::Cancelled),
        };
        let line = LogLine::new("watching", "The session watches the chat.");
        context.log(LogLevel::Info, line).await;
        self.watch_on(context, chat.as_ref(), &start, state).await
    }

    /// Watches until the chat is lost for sure: what the update stream read of a loss may be older than what undid it.
    async fn watch_on(
        &self,
        context: &JobContext,
        chat: Option<&Chat>,
        start: &WatchStart,
        first: WatchState,
    ) -> Result<Outcome, Outcome> {
        let mut state = first;
        let mut looked: Option<Instant> = None;
        loop {
            let reason = match watch(context, chat, state).await? {
                Stretch::Lost(reason) => reason,
                Stretch::Over => return Ok(Outcome::Cancelled),
            };
            let is_late = looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN_AFTER);
            if !is_late || !matches!(self.chat(context).await?, Seen::Chat(_)) {
                return self.fail_over(context, &reason).await;
            }
            looked = Some(Instant::now());
            state = match context.store.begin_watch(start).await? {
                WatchBegun::Watching(state) => state,
                WatchBegun::Other { .. } | WatchBegun::Stopped => return Ok(Outcome::Cancelled),
            };
        }
    }

    /// Bots are given no histories, so what a bot's stream misses would be missed for good. A watch that has begun goes on with
    /// the next session of its list.
    async fn refuse_bot(&self, context: &JobContext) -> Result<Outcome, Outcome> {
        if context.read_checkpoint::<Kept>().await?.is_some() {
            return self.fail_over(context, SESSION_IS_BOT).await;
        }
        Ok(Outcome::Discard(JobError::permanent(
            SESSION_IS_BOT,
            "The session is a bot's, and bots cannot read the histories of chats, which a watch needs. Name the session of a \
             person's account.",
        )))
    }

    /// What there is to watch, as this session sees it.
    async fn chat(&self, context: &JobContext) -> Result<Seen, Outcome> {
        if self.is_private() {
            return Ok(Seen::Private);
        }
        let reference = target::parse_for_run(&self.chat)?;
        let kept: Option<Kept> = context.read_checkpoint().await?;
        let found = match &kept {
            Some(kept) => target::resolve_again(context, &reference, kept.chat_id).await,
            None => target::resolve(context, &reference).await,
        };
        let chat = match found {
            Ok(chat) => chat,
            Err(Outcome::Discard(error)) if kept.is_some() || is_not_seen(&reference, &error) => {
                return Ok(Seen::Not(error.code));
            }
            Err(outcome) => return Err(outcome),
        };
        target::refuse_person(&chat)?;
        context.store.save_chat(&chat).await?;
        if !chat.member {
            return Ok(Seen::Not("not_a_member".to_owned()));
        }
        if kept.is_none() {
            context.write_checkpoint(&Kept { chat_id: chat.id }).await?;
        }
        Ok(Seen::Chat(chat))
    }

    async fn start(&self, context: &JobContext, chat: Option<&Chat>) -> Result<WatchStart, TelegramError> {
        Ok(WatchStart {
            chat_id: chat.map(|chat| chat.id),
            owner: if chat.is_some_and(is_numbered_for_all) {
                0
            } else {
                context.telegram.account_id()
            },
            events: self.events.clone(),
            filter: self.filter.clone(),
            retention_days: self.retention_days,
            newest: context.telegram.newest_message(chat).await?,
        })
    }

    /// The session cannot see the chat: another one goes on, or this one tries again, or nobody is left.
    async fn fail_over(&self, context: &JobContext, reason: &str) -> Result<Outcome, Outcome> {
        let line = LogLine::new("access_lost", "The session cannot see the chat.");
        context.log(LogLevel::Warn, line).await;
        let until = context.clock.now() + TimeDelta::seconds(self.failover.delay_seconds.into());
        let wait = |message: &str| Outcome::Snooze {
            until,
            reason: WaitReason::new("failing_over", message),
        };
        Ok(match context.store.lose_watch(reason, self.failover).await? {
            Failover::Again => wait("The session lost sight of the chat and looks again."),
            Failover::Next => wait("The session lost sight of the chat; the next one of the list goes on."),
            Failover::Moved => Outcome::Cancelled,
            Failover::Exhausted => Outcome::Discard(JobError::permanent(
                "exhausted",
                format!("No session of the list can see the chat any more ({reason}). Give one that is a member."),
            )),
        })
    }
}

/// What a session sees of what it is to watch.
enum Seen {
    Private,
    Chat(Chat),
    /// Not the chat, for this reason.
    Not(String),
}

/// What a `monitor` job that found its chat watched already reports. One that watches ends when it is stopped, `cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MonitorResult {
    pub already_watched: bool,
    /// The job that watches the chat.
    pub watch: Uuid,
}

/// Whether another session may see the chat that this one cannot. A name is the same to all.
fn is_not_seen(reference: &ChatRef, error: &JobError) -> bool {
    match error.code.as_str() {
        "chat_inaccessible" | "invite_link_expired" | "invite_link_invalid" | "invite_link_empty" | "not_a_member" => {
            true
        }
        "chat_not_found" => !matches!(reference, ChatRef::Username(_)),
        _ => false,
    }
}

/// Numbers of messages are everybody's in supergroups and channels, and the account's own elsewhere.
fn is_numbered_for_all(chat: &Chat) -> bool {
    matches!(chat.chat_type, ChatType::Supergroup | ChatType::Channel)
}

/// The reason when the error says that the session cannot see the chat; otherwise what the error means.
fn lost(error: TelegramError) -> Result<String, Outcome> {
    match error.decision {
        Decision::Target => Ok(error.code),
        _ => Err(error.into()),
    }
}

/// Keeps the watch whole until something ends it.
async fn watch(context: &JobContext, chat: Option<&Chat>, first: WatchState) -> Result<Stretch, Outcome> {
    let mut state = first;
    let mut check_at = Instant::now() + CHECK_EVERY;
    loop {
        if let Some(reason) = state.lost_reason {
            return Ok(Stretch::Lost(reason));
        }
        if state.filling {
            if let Some(end) = fill(context, chat, &state).await? {
                return Ok(end);
            }
            check_at = Instant::now();
        }
        tokio::select! {
            () = context.cancellation.cancelled() => return Ok(Stretch::Over),
            () = context.telegram.watch_noted() => {}
            () = sleep_until(check_at) => {
                check(context, chat).await?;
                check_at = Instant::now() + CHECK_EVERY;
            }
        }
        match context.store.watch().await? {
            Some(now) => state = now,
            None => return Ok(Stretch::Over),
        }
    }
}

/// Compares what was seen with what exists. Where that cannot be read, whatever is wrong shows elsewhere.
async fn check(context: &JobContext, chat: Option<&Chat>) -> Result<(), Outcome> {
    if let Some(chat) = chat
        && let Ok(recent) = context.telegram.recent_messages(chat).await
    {
        context.store.check_watch(&recent).await?;
    }
    Ok(())
}

/// Reads the history from where the watch is to its end, and lets the update stream take over. `Some`: it came to
/// something else.
async fn fill(context: &JobContext, chat: Option<&Chat>, state: &WatchState) -> Result<Option<Stretch>, Outcome> {
    let mut after = state.last_message_id;
    if state.renumbered
        && let Some(chat) = chat
    {
        let found = match state.last_message_at {
            Some(time) => context.telegram.newest_message_until(chat, time).await,
            None => context.telegram.newest_message(Some(chat)).await,
        };
        after = match found {
            Ok(found) => found,
            Err(error) => return Ok(Some(Stretch::Lost(lost(error)?))),
        };
        context.store.renumber_watch(after).await?;
    }
    let mut read = 0;
    loop {
        // Looked at before the history is: what the stream had left by then is in it, or was deleted since.
        let Some(before) = context.store.watch().await? else {
            return Ok(Some(Stretch::Over));
        };
        if context.cancellation.is_cancelled() {
            return Ok(Some(Stretch::Over));
        }
        let mut page = match chat {
            Some(chat) => match context.telegram.history_after(chat, after).await {
                Ok(page) => page,
                Err(error) => return Ok(Some(Stretch::Lost(lost(error)?))),
            },
            None => match private::read(context, after, &mut read).await? {
                Ok(page) => page,
                Err(end) => return Ok(Some(end)),
            },
        };
        if page.is_last {
            page.reaches = page.reaches.max(before.left_to_history);
        }
        context.store.record_history(&page).await?;
        after = after.max(page.reaches);
        read += i64::try_from(page.messages.len()).unwrap_or(i64::MAX);
        if page.is_last && context.store.finish_filling(before.gaps).await? {
            break;
        }
    }
    let line = LogLine::new("caught_up", "The history is read up to now.").with("messages", read);
    context.log(LogLevel::Info, line).await;
    Ok(None)
}

#[cfg(test)]
mod tests;
