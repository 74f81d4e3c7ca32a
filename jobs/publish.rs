//! `publish`: one message in one group or channel, or in each of many, once; and changes of messages that are there.
//!
//! Telegram drops a second message with the same `random_id`, but forgets ids after a time that it does not document. So
//! the id is stored before the first send and never changed; a send whose outcome nobody saw is followed by a look at the
//! session's own messages; only when that look succeeds and finds none is the message sent again. While nobody knows
//! whether it was sent, every failure that ends the job is `outcome_unknown`, whatever else went wrong.

mod args;
mod many;
mod operate;
mod personal;
pub mod ports;
pub mod post;
mod sending;
pub mod statistics;
pub mod template;

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::args::{MAX_CAPTION, MAX_CHATS, MAX_LENGTH, MAX_MESSAGES, MAX_RAW_BYTES, PublishAction, PublishArgs};
pub use self::personal::TargetArgs;
use self::{post::Uploaded, sending::Message};
use crate::{
    ArgsError, Job, JobContext, JobError, LogLevel, LogLine, Outcome, WaitReason,
    chat::{ChatFacts, message_link},
    ports::{Chat, Decision, Effect, SentMessage, StoreError, TelegramError},
    target::{self, ChatRef},
};

/// The code of a publish that ends without knowing whether its message was sent.
pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// What a finished `publish` reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishResult {
    /// What was done.
    #[serde(default)]
    pub status: PublishStatus,
    /// The chat; null when the job had several.
    pub chat: Option<ChatFacts>,
    /// The message, the first of an album or of several forwarded ones; the number among the scheduled ones while `status` is
    /// `scheduled`. Null when Telegram confirmed that it had the message already and the message was not found: deleted
    /// since, most likely.
    pub message_id: Option<i32>,
    /// Telegram's date of the message; null with `message_id`.
    pub date: Option<DateTime<Utc>>,
    /// Opens the message, for members only in private chats; null in basic groups, whose messages have no links.
    pub link: Option<String>,
    /// All messages of an album, or all forwarded ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub message_ids: Vec<i32>,
    /// How many messages were deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<i64>,
    /// Of a job with `chats` or `targets`: what became of each, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetReport>,
    /// Of a job with `chats` or `targets`: how many had each outcome. Of one that looks at messages: how many are there, were
    /// deleted, or could not be looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, i64>,
}

/// What a `publish` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublishStatus {
    #[default]
    Sent,
    /// Telegram keeps it until `schedule_at`.
    Scheduled,
    Forwarded,
    Edited,
    Deleted,
    Pinned,
    Unpinned,
    /// It was so already.
    Unchanged,
    /// Several chats: `counts` and `targets` say what became of them.
    Finished,
    /// Messages were looked at: `counts` says how many. What was found is at `/v1/jobs/{id}/statistics` of the jobs that sent
    /// them.
    Counted,
}

/// What became of one chat of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetReport {
    /// Its place in `args.chats`, from 0.
    pub position: i32,
    /// The chat, when it was found.
    pub chat_id: Option<i64>,
    /// `sent`, or a stable word for what kept it from being sent.
    pub outcome: String,
    pub message_id: Option<i32>,
    pub date: Option<DateTime<Utc>>,
}

/// The checkpoint: what later attempts must know beside the effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The chat of the first attempt. Its name may move to another chat; the effect does not.
    chat: Chat,
    fate: Fate,
    /// The media, once Telegram has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    media: Vec<Uploaded>,
}

/// What is known of the message beyond what the effect says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// No more than the effect says.
    Open,
    /// The last send was seen to be refused.
    NotSent,
    /// Telegram confirmed that it had the message: never send again.
    Sent,
}

#[async_trait]
impl Job for PublishArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        self.check()
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        match self.action {
            PublishAction::Statistics => Box::pin(statistics::run(self, context)).await,
            PublishAction::Send | PublishAction::Forward if !self.places().is_empty() => {
                Box::pin(many::run(self, context)).await
            }
            PublishAction::Send | PublishAction::Forward => Box::pin(self.run_once(context)).await,
            PublishAction::Edit | PublishAction::Delete | PublishAction::Pin | PublishAction::Unpin => {
                Box::pin(operate::run(self, context)).await
            }
        }
    }
}

impl PublishArgs {
    async fn run_once(&self, context: &JobContext) -> Outcome {
        let mut publication = Publication {
            context,
            args: self,
            message: Message::of(self),
            media: Vec::new(),
            // Until the checkpoint and the effect are read, an earlier attempt may have done anything.
            maybe_sent: context.attempt > 1,
        };
        match publication.attempt(&self.chat).await {
            Ok(result) => Outcome::done(&result),
            Err(outcome) => {
                context.log_stop(&outcome).await;
                publication.settle(outcome)
            }
        }
    }
}

/// One attempt of one publish.
struct Publication<'a> {
    context: &'a JobContext,
    args: &'a PublishArgs,
    message: Message,
    media: Vec<Uploaded>,
    /// A message may be in the chat that this job does not know of.
    maybe_sent: bool,
}

impl Publication<'_> {
    async fn attempt(&mut self, chat: &str) -> Result<PublishResult, Outcome> {
        let context = self.context;
        let kept: Option<Kept> = context.read_checkpoint().await?;
        let reference = target::parse_for_run(chat)?;
        let (kept, effect) = match kept {
            Some(kept) => {
                let effect = context.store.prepare_effect(kept.chat.id).await?;
                if let Some(sent) = &effect.sent {
                    return Ok(self.report(&kept.chat, sent));
                }
                self.use_media(&kept.media);
                self.maybe_sent = kept.fate == Fate::Open && effect.attempted_at.is_some();
                match target::resolve_again(context, &reference, kept.chat.id).await {
                    Ok(chat) => (Kept { chat, ..kept }, effect),
                    Err(outcome) if kept.fate == Fate::Sent => return self.sent_without_id(&kept.chat, outcome),
                    Err(outcome) => return Err(outcome),
                }
            }
            None => self.prepare(&reference).await?,
        };
        if let Some(sent) = &effect.sent {
            return Ok(self.report(&kept.chat, sent));
        }
        if kept.fate == Fate::Sent {
            return self.find_sent(&kept.chat, &effect).await;
        }
        if self.maybe_sent {
            if let Some(sent) = self.look(&kept.chat, &effect).await? {
                return Ok(self.report(&kept.chat, &sent));
            }
            self.maybe_sent = false;
        }
        self.send(kept, &effect).await
    }

    /// The first attempt: nothing of this job is in Telegram yet, and what would be refused anyway ends it here.
    async fn prepare(&mut self, reference: &ChatRef) -> Result<(Kept, Effect), Outcome> {
        let context = self.context;
        self.maybe_sent = false;
        self.message.check(context, self.args)?;
        self.check_time()?;
        context.stop_if_cancelled()?;
        let chat = target::resolve(context, reference).await?;
        target::refuse_person(&chat)?;
        context.store.save_chat(&chat).await?;
        self.may_write_now(&chat).await?;
        if let Some(plan) = self.args.statistics {
            context.store.follow(plan).await?;
        }
        let kept = Kept {
            chat,
            fate: Fate::Open,
            media: Vec::new(),
        };
        context.write_checkpoint(&kept).await?;
        let effect = context.store.prepare_effect(kept.chat.id).await?;
        // There is no checkpoint when a send begins without one; an effect that says otherwise is believed.
        self.maybe_sent = effect.attempted_at.is_some();
        Ok((kept, effect))
    }

    /// Nothing is tried where the session may not write; where slow mode makes it wait, the job waits, and costs no attempt.
    async fn may_write_now(&self, chat: &Chat) -> Result<(), Outcome> {
        let context = self.context;
        let access = context.telegram.access(chat).await?;
        if !access.may_write {
            return Err(Outcome::Discard(sending::may_not_write()));
        }
        match access.not_before.filter(|until| *until > context.clock.now()) {
            // Slow mode is about when a message is shown: one that Telegram keeps may be put there now.
            Some(until) if self.args.schedule_at.is_none() => Err(Outcome::Snooze {
                until,
                reason: WaitReason::new(
                    "slow_mode",
                    "The chat is in slow mode; the message is sent when the chat takes the next one.",
                ),
            }),
            _ => Ok(()),
        }
    }

    fn check_time(&self) -> Result<(), Outcome> {
        let checked = Message::check_time(self.context, self.args);
        checked.map_err(Outcome::Discard)
    }

    /// Everything the message needs is in Telegram before its send begins: what is done here may be done again.
    async fn make_ready(&mut self, chat: &Chat) -> Result<(), Outcome> {
        let context = self.context;
        self.message.find_source(context, self.args).await?;
        if self.media.len() < self.args.media.len() {
            let media = sending::upload(context, chat, &self.args.media).await?;
            self.use_media(&media);
            self.keep(chat, Fate::NotSent).await?;
        }
        Ok(())
    }

    fn use_media(&mut self, media: &[Uploaded]) {
        self.media = media.to_vec();
        self.message.use_media(media);
    }

    async fn send(&mut self, kept: Kept, effect: &Effect) -> Result<PublishResult, Outcome> {
        let context = self.context;
        context.stop_if_cancelled()?;
        // An earlier attempt may have been put off until there is no time left.
        self.check_time()?;
        self.make_ready(&kept.chat).await?;
        let mut answer = self.hand_over(&kept, effect).await?;
        if let Err(error) = &answer
            && error.decision == Decision::StaleMedia
            && !self.media.is_empty()
        {
            self.say(LogLevel::Info, "media_again", "Telegram wants the files again.")
                .await;
            self.maybe_sent = false;
            self.use_media(&[]);
            self.keep(&kept.chat, Fate::NotSent).await?;
            self.make_ready(&kept.chat).await?;
            answer = self.hand_over(&kept, effect).await?;
        }
        match answer {
            Ok(sent) => self.record(&kept.chat, sent).await,
            Err(error) => self.not_confirmed(&kept.chat, effect, error).await,
        }
    }

    /// One call that sends, with everything durable before it.
    async fn hand_over(&mut self, kept: &Kept, effect: &Effect) -> Result<Result<SentMessage, TelegramError>, Outcome> {
        let context = self.context;
        if kept.fate != Fate::Open || !self.media.is_empty() {
            self.keep(&kept.chat, Fate::Open).await?;
        }
        self.say(LogLevel::Info, "sending", "The message is handed to Telegram.")
            .await;
        context.store.effect_attempted(kept.chat.id).await?;
        self.maybe_sent = true;
        Ok(self.message.send(context, &kept.chat, effect.random_id).await)
    }

    /// Telegram answered with the message: that is the result, whatever the store says of it.
    async fn record(&self, chat: &Chat, sent: SentMessage) -> Result<PublishResult, Outcome> {
        match self.context.store.effect_sent(chat.id, &sent).await {
            Err(StoreError::Fenced) => Err(StoreError::Fenced.into()),
            // `false`: a job with the same text took this message for its own. A failed write: the job's result holds the
            // message all the same, and running it again could not make it more certain.
            Ok(_) | Err(StoreError::Failed(_)) => Ok(self.report(chat, &sent)),
        }
    }

    async fn not_confirmed(
        &mut self,
        chat: &Chat,
        effect: &Effect,
        error: TelegramError,
    ) -> Result<PublishResult, Outcome> {
        match error.decision {
            Decision::Done => {
                self.maybe_sent = false;
                // Kept before the look: should Telegram forget the id while the look is repeated, a send would double it.
                // Where it cannot be kept, the next attempt looks first, as after any send.
                let _kept = self.keep(chat, Fate::Sent).await;
                self.find_sent(chat, effect).await
            }
            Decision::Retry | Decision::Session => {
                // Nobody comes after the last attempt to look.
                if self.context.is_last_attempt()
                    && let Some(sent) = self.look(chat, effect).await?
                {
                    return Ok(self.report(chat, &sent));
                }
                Err(error.into())
            }
            // Refused by name, so not sent. Kept, so that the next attempt need not look and cannot take another message for
            // ours, and so that nobody is told that the outcome is unknown.
            Decision::Gate { .. }
            | Decision::Elsewhere { .. }
            | Decision::Pending
            | Decision::Person { .. }
            | Decision::Target
            | Decision::Campaign
            | Decision::Content
            | Decision::StaleMedia
            | Decision::Bug => {
                self.maybe_sent = false;
                let is_stale = error.decision == Decision::StaleMedia && !self.media.is_empty();
                if is_stale {
                    self.use_media(&[]);
                }
                let _kept = self.keep(chat, Fate::NotSent).await;
                Err(if is_stale {
                    sending::stale_again(&error)
                } else {
                    error.into()
                })
            }
        }
    }

    /// The oldest of the session's equal messages since the effect was stored that no other job has claimed.
    async fn look(&mut self, chat: &Chat, effect: &Effect) -> Result<Option<SentMessage>, Outcome> {
        self.say(
            LogLevel::Warn,
            "looking_for_message",
            "It is not certain how an earlier send ended: the chat is searched for the message.",
        )
        .await;
        self.message.find_source(self.context, self.args).await?;
        let store = &self.context.store;
        for sent in self.message.look(self.context, chat, effect.prepared_at).await? {
            if store.effect_sent(chat.id, &sent).await? {
                self.say(LogLevel::Info, "message_found", "The message is in the chat.")
                    .await;
                return Ok(Some(sent));
            }
        }
        self.say(
            LogLevel::Info,
            "message_not_found",
            "No message of this job is in the chat.",
        )
        .await;
        Ok(None)
    }

    /// Reports a message that Telegram confirmed to have, and whose id it did not tell.
    async fn find_sent(&mut self, chat: &Chat, effect: &Effect) -> Result<PublishResult, Outcome> {
        match self.look(chat, effect).await {
            Ok(Some(sent)) => Ok(self.report(chat, &sent)),
            Ok(None) => Ok(self.without_id(chat)),
            Err(outcome) => self.sent_without_id(chat, outcome),
        }
    }

    /// The id is worth waiting and more attempts, and not worth failing a job whose message is there.
    fn sent_without_id(&self, chat: &Chat, outcome: Outcome) -> Result<PublishResult, Outcome> {
        match outcome {
            Outcome::Snooze { .. } | Outcome::Elsewhere { .. } | Outcome::Cancelled => Err(outcome),
            Outcome::Retry(_) if !self.context.is_last_attempt() => Err(outcome),
            Outcome::Retry(_) | Outcome::Discard(_) | Outcome::Done(_) => Ok(self.without_id(chat)),
        }
    }

    async fn say(&self, level: LogLevel, code: &'static str, message: &'static str) {
        self.context.log(level, LogLine::new(code, message)).await;
    }

    async fn keep(&self, chat: &Chat, fate: Fate) -> Result<(), Outcome> {
        let chat = chat.clone();
        let media = self.media.clone();
        self.context.write_checkpoint(&Kept { chat, fate, media }).await
    }

    /// Says `outcome_unknown` instead of any error that would hide that the message may be there.
    fn settle(&self, outcome: Outcome) -> Outcome {
        if !self.maybe_sent {
            return outcome;
        }
        match outcome {
            Outcome::Retry(error) if error.code == "fenced" => Outcome::Retry(error),
            Outcome::Retry(error) if !self.context.is_last_attempt() => Outcome::Retry(JobError::transient(
                OUTCOME_UNKNOWN,
                format!(
                    "The message may have been sent; the next attempt looks for it before anything is sent. {}",
                    error.message
                ),
            )),
            Outcome::Retry(error) | Outcome::Discard(error) => Outcome::Discard(JobError::permanent(
                OUTCOME_UNKNOWN,
                format!(
                    "The message may or may not have been sent, and the job could not find out. Look in the chat before \
                     you send it again. {}",
                    error.message
                ),
            )),
            Outcome::Done(_) | Outcome::Snooze { .. } | Outcome::Elsewhere { .. } | Outcome::Cancelled => outcome,
        }
    }

    fn without_id(&self, chat: &Chat) -> PublishResult {
        PublishResult {
            status: self.message.status(),
            ..PublishResult::of(chat)
        }
    }

    fn report(&self, chat: &Chat, sent: &SentMessage) -> PublishResult {
        let is_scheduled = sent.message_id < 0;
        PublishResult {
            status: self.message.status(),
            message_id: Some(sent.message_id.abs()),
            date: Some(sent.date),
            link: message_link(chat, sent.message_id).filter(|_| !is_scheduled),
            message_ids: sending::all_ids(sent),
            ..PublishResult::of(chat)
        }
    }
}

impl PublishResult {
    fn of(chat: &Chat) -> Self {
        Self {
            status: PublishStatus::Sent,
            chat: Some(ChatFacts::from(chat)),
            message_id: None,
            date: None,
            link: None,
            message_ids: Vec::new(),
            deleted: None,
            targets: Vec::new(),
            counts: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
