//! `publish`: one message in one group or channel, once.
//!
//! Telegram drops a second message with the same `random_id`, but forgets ids after a time that it does not document. So
//! the id is stored before the first send and never changed; a send whose outcome nobody saw is followed by a look at the
//! session's own messages; only when that look succeeds and finds none is the message sent again. While nobody knows
//! whether it was sent, every failure that ends the job is `outcome_unknown`, whatever else went wrong.

use std::{collections::HashSet, fmt};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ArgsError, Job, JobContext, JobError, LogLevel, LogLine, Outcome,
    chat::{ChatFacts, message_link},
    ports::{Chat, Decision, Draft, Effect, SentMessage, StoreError, TelegramError, TextFormat},
    target::{self, ChatRef},
};

/// What Telegram takes as one message, in UTF-16 code units, once markup is read.
pub const MAX_LENGTH: usize = 4096;
/// What is taken with markup in it, in bytes.
pub const MAX_RAW_BYTES: usize = 32_768;
/// The code of a publish that ends without knowing whether its message was sent.
pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";
/// How far the database's clock may be ahead of Telegram's: a message of ours can carry a date this much before the
/// effect was stored. Wider, and an equal message that a person sent just before would be taken for ours.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// Sends one text message to a group or channel, exactly once.
///
/// After a lost connection or a crash the session's own messages are searched before anything is sent again. When the
/// chat's history cannot be read then, the job fails with `outcome_unknown` and a person decides.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = PublishArgs::plain("@reading_club", "The next meeting is on Friday."))]
#[schemars(example = PublishArgs {
    format: TextFormat::Markdown,
    silent: true,
    ..PublishArgs::plain("-1001234567890", "The **next** meeting is on [Friday](https://example.com).")
})]
pub struct PublishArgs {
    /// The chat: `@name`, `t.me/name`, an invite link that the session has joined by, or an id such as `-1001234567890`
    /// of a chat that the session knows.
    #[schemars(length(min = 1, max = 256))]
    pub chat: String,
    /// The message. Plain text may have 4,096 UTF-16 code units; text with markup 32,768 bytes, and 4,096 code units once
    /// the markup is read.
    #[schemars(length(min = 1, max = 32768))]
    pub text: String,
    /// How `text` is written.
    #[serde(default)]
    pub format: TextFormat,
    /// Members get no sound.
    #[serde(default)]
    pub silent: bool,
    /// Telegram shows a preview of the first link.
    #[serde(default = "shown")]
    pub link_preview: bool,
}

/// What a finished `publish` reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishResult {
    pub chat: ChatFacts,
    /// Null when Telegram confirmed that it had the message already and the message was not found: deleted since, most
    /// likely.
    pub message_id: Option<i32>,
    /// Telegram's date of the message; null with `message_id`.
    pub date: Option<DateTime<Utc>>,
    /// Opens the message, for members only in private chats; null in basic groups, whose messages have no links.
    pub link: Option<String>,
}

/// The checkpoint: what later attempts must know beside the effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The chat of the first attempt. Its name may move to another chat; the effect does not.
    chat: Chat,
    fate: Fate,
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

impl PublishArgs {
    /// Plain text with everything else as by default.
    pub fn plain(chat: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            chat: chat.into(),
            text: text.into(),
            format: TextFormat::Plain,
            silent: false,
            link_preview: shown(),
        }
    }
}

const fn shown() -> bool {
    true
}

/// Leaves the text out, and shows an invite link without its code.
impl fmt::Debug for PublishArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishArgs")
            .field("chat", &target::shape(&self.chat))
            .field("text_bytes", &self.text.len())
            .field("format", &self.format)
            .field("silent", &self.silent)
            .field("link_preview", &self.link_preview)
            .finish()
    }
}

#[async_trait]
impl Job for PublishArgs {
    fn validate(&self) -> Result<(), ArgsError> {
        ChatRef::of_args(&self.chat)?;
        let wrong = |message: String| ArgsError {
            field: "args.text".into(),
            message,
        };
        if self.text.trim().is_empty() {
            return Err(wrong("is empty; give the message's text".into()));
        }
        if self.text.contains('\0') {
            return Err(wrong("holds a NUL character (U+0000); leave it out".into()));
        }
        if self.format == TextFormat::Plain {
            let units = self.text.encode_utf16().count();
            if units > MAX_LENGTH {
                return Err(wrong(format!(
                    "has {units} UTF-16 code units; Telegram takes {MAX_LENGTH} in one message"
                )));
            }
        } else if self.text.len() > MAX_RAW_BYTES {
            return Err(wrong(format!(
                "has {} bytes with its markup; at most {MAX_RAW_BYTES} are taken",
                self.text.len()
            )));
        }
        Ok(())
    }

    async fn run(&self, context: &JobContext) -> Outcome {
        let mut publication = Publication {
            context,
            draft: Draft {
                text: self.text.clone(),
                format: self.format,
                silent: self.silent,
                link_preview: self.link_preview,
            },
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
    draft: Draft,
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
                    return Ok(report(&kept.chat, sent));
                }
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
            return Ok(report(&kept.chat, sent));
        }
        if kept.fate == Fate::Sent {
            return self.find_sent(&kept.chat, &effect).await;
        }
        if self.maybe_sent {
            if let Some(sent) = self.look(&kept.chat, &effect).await? {
                return Ok(report(&kept.chat, &sent));
            }
            self.maybe_sent = false;
        }
        self.send(kept, &effect).await
    }

    /// The first attempt: nothing of this job is in Telegram yet, and what would be refused anyway ends it here.
    async fn prepare(&mut self, reference: &ChatRef) -> Result<(Kept, Effect), Outcome> {
        let context = self.context;
        self.maybe_sent = false;
        self.check_length()?;
        context.stop_if_cancelled()?;
        let chat = target::resolve(context, reference).await?;
        target::refuse_person(&chat)?;
        context.store.save_chat(&chat).await?;
        let kept = Kept { chat, fate: Fate::Open };
        context.write_checkpoint(&kept).await?;
        let effect = context.store.prepare_effect(kept.chat.id).await?;
        // There is no checkpoint when a send begins without one; an effect that says otherwise is believed.
        self.maybe_sent = effect.attempted_at.is_some();
        Ok((kept, effect))
    }

    fn check_length(&self) -> Result<(), Outcome> {
        let wrong = |code: &str, message: String| Err(Outcome::Discard(JobError::permanent(code, message)));
        match self.context.telegram.visible_length(&self.draft)? {
            0 => wrong(
                "message_empty",
                "args.text shows nothing once its markup is read.".into(),
            ),
            units if units > MAX_LENGTH => wrong(
                "message_too_long",
                format!("args.text has {units} UTF-16 code units; Telegram takes {MAX_LENGTH} in one message."),
            ),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, kept: Kept, effect: &Effect) -> Result<PublishResult, Outcome> {
        let context = self.context;
        context.stop_if_cancelled()?;
        if kept.fate != Fate::Open {
            self.keep(&kept.chat, Fate::Open).await?;
        }
        self.say(LogLevel::Info, "sending", "The message is handed to Telegram.")
            .await;
        context.store.effect_attempted(kept.chat.id).await?;
        self.maybe_sent = true;
        let answer = context
            .telegram
            .send_message(&kept.chat, effect.random_id, &self.draft)
            .await;
        match answer {
            Ok(sent) => self.record(&kept.chat, sent).await,
            Err(error) => self.not_confirmed(&kept.chat, effect, error).await,
        }
    }

    /// Telegram answered with the message: that is the result, whatever the store says of it.
    async fn record(&self, chat: &Chat, sent: SentMessage) -> Result<PublishResult, Outcome> {
        match self.context.store.effect_sent(chat.id, &sent).await {
            Err(StoreError::Fenced) => Err(StoreError::Fenced.into()),
            // `false`: a job with the same text took this message for its own. A failed write: the job's result holds the
            // message all the same, and running it again could not make it more certain.
            Ok(_) | Err(StoreError::Failed(_)) => Ok(report(chat, &sent)),
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
                    return Ok(report(chat, &sent));
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
            | Decision::Bug => {
                self.maybe_sent = false;
                let _kept = self.keep(chat, Fate::NotSent).await;
                Err(error.into())
            }
        }
    }

    /// The oldest of the session's equal messages since the effect was stored that no other job has claimed.
    async fn look(&self, chat: &Chat, effect: &Effect) -> Result<Option<SentMessage>, Outcome> {
        self.say(
            LogLevel::Warn,
            "looking_for_message",
            "It is not certain how an earlier send ended: the chat is searched for the message.",
        )
        .await;
        let since = effect.prepared_at - CLOCK_SKEW;
        let telegram = &self.context.telegram;
        let found = telegram.own_messages_like(chat, &self.draft, since).await?;
        let store = &self.context.store;
        let ids: Vec<i32> = found.iter().map(|sent| sent.message_id).collect();
        let claimed = if ids.is_empty() {
            HashSet::new()
        } else {
            store.claimed_messages(chat.id, &ids).await?
        };
        for sent in found.into_iter().filter(|sent| !claimed.contains(&sent.message_id)) {
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
    async fn find_sent(&self, chat: &Chat, effect: &Effect) -> Result<PublishResult, Outcome> {
        match self.look(chat, effect).await {
            Ok(Some(sent)) => Ok(report(chat, &sent)),
            Ok(None) => Ok(without_id(chat)),
            Err(outcome) => self.sent_without_id(chat, outcome),
        }
    }

    /// The id is worth waiting and more attempts, and not worth failing a job whose message is there.
    fn sent_without_id(&self, chat: &Chat, outcome: Outcome) -> Result<PublishResult, Outcome> {
        match outcome {
            Outcome::Snooze { .. } | Outcome::Elsewhere { .. } | Outcome::Cancelled => Err(outcome),
            Outcome::Retry(_) if !self.context.is_last_attempt() => Err(outcome),
            Outcome::Retry(_) | Outcome::Discard(_) | Outcome::Done(_) => Ok(without_id(chat)),
        }
    }

    async fn say(&self, level: LogLevel, code: &'static str, message: &'static str) {
        self.context.log(level, LogLine::new(code, message)).await;
    }

    async fn keep(&self, chat: &Chat, fate: Fate) -> Result<(), Outcome> {
        let chat = chat.clone();
        self.context.write_checkpoint(&Kept { chat, fate }).await
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
}

fn without_id(chat: &Chat) -> PublishResult {
    PublishResult {
        chat: ChatFacts::from(chat),
        message_id: None,
        date: None,
        link: None,
    }
}

fn report(chat: &Chat, sent: &SentMessage) -> PublishResult {
    PublishResult {
        chat: ChatFacts::from(chat),
        message_id: Some(sent.message_id),
        date: Some(sent.date),
        link: message_link(chat, sent.message_id),
    }
}

#[cfg(test)]
mod tests;
