//! What is sent: a message of the job's own or a forward. Both go out under a `random_id`, and both can be looked for.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    PublishAction, PublishArgs, PublishStatus,
    ports::Forward,
    post::{Attachment, Extras, Uploaded},
};
use crate::{
    JobContext, JobError, Outcome, markup,
    ports::{Chat, Draft, SentMessage, TelegramError},
    target,
};

/// How far the database's clock may be ahead of Telegram's: a message of ours can carry a date this much before the
/// effect was stored. Wider, and an equal message that a person sent just before would be taken for ours.
pub(super) const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);
/// Telegram shows what is scheduled nearer than this at once.
const SOON: TimeDelta = TimeDelta::seconds(10);
/// What Telegram keeps a message for at most.
const LONGEST_SCHEDULE: TimeDelta = TimeDelta::days(365);

/// What goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Draft(Draft),
    /// Without its source, until that was found.
    Forward(Option<Forward>),
}

impl Message {
    pub fn of(args: &PublishArgs) -> Self {
        match args.action {
            PublishAction::Forward => Self::Forward(None),
            _ => Self::Draft(draft(args)),
        }
    }

    /// Refuses what Telegram would refuse, before anything is tried. The door has checked it: rows of another version
    /// may still be wrong.
    pub fn check(&self, context: &JobContext, args: &PublishArgs) -> Result<(), Outcome> {
        let Self::Draft(draft) = self else { return Ok(()) };
        let wrong = |code: &str, message: String| Err(Outcome::Discard(JobError::permanent(code, message)));
        if let Err(error) = markup::read(&draft.text, draft.format) {
            return wrong("markup_invalid", format!("args.text: {error}."));
        }
        let most = if args.media.is_empty() {
            super::MAX_LENGTH
        } else {
            super::MAX_CAPTION
        };
        match context.telegram.visible_length(draft)? {
            0 if args.media.is_empty() => {
                return wrong(
                    "message_empty",
                    "args.text shows nothing once its markup is read.".into(),
                );
            }
            units if units > most => {
                return wrong(
                    "message_too_long",
                    format!("args.text has {units} UTF-16 code units; Telegram takes {most} there."),
                );
            }
            _ => {}
        }
        if !args.buttons.is_empty() && !context.telegram.is_bot() {
            return wrong(
                "buttons_need_bot",
                "Only a bot's messages have buttons. Run the job on a bot's session, or leave args.buttons out.".into(),
            );
        }
        Ok(())
    }

    /// Refuses a time that Telegram would not keep a message for.
    pub fn check_time(context: &JobContext, args: &PublishArgs) -> Result<(), JobError> {
        let Some(at) = args.schedule_at else { return Ok(()) };
        let now = context.clock.now();
        if at < now + SOON || at > now + LONGEST_SCHEDULE {
            return Err(JobError::permanent(
                "schedule_invalid",
                "args.schedule_at must be from 10 seconds to 365 days ahead when the message is sent.",
            ));
        }
        Ok(())
    }

    /// Finds the chat that is forwarded from.
    pub async fn find_source(&mut self, context: &JobContext, args: &PublishArgs) -> Result<(), Outcome> {
        let Self::Forward(forward @ None) = self else {
            return Ok(());
        };
        let from = args.from_chat.as_deref().unwrap_or_default();
        let from = target::resolve(context, &target::parse_for_run(from)?).await?;
        *forward = Some(Forward {
            from,
            message_ids: args.message_ids.clone(),
            topic: args.topic,
            silent: args.silent,
            protect: args.protect,
            hide_sender: args.hide_sender,
        });
        Ok(())
    }

    /// Says something else from now on.
    pub fn use_text(&mut self, text: String) {
        if let Self::Draft(draft) = self {
            draft.text = text;
        }
    }

    pub fn use_media(&mut self, media: &[Uploaded]) {
        if let Self::Draft(draft) = self {
            draft.extras.media = media.to_vec();
        }
    }

    pub async fn send(&self, context: &JobContext, chat: &Chat, random_id: i64) -> Result<SentMessage, TelegramError> {
        match self {
            Self::Draft(draft) => context.telegram.send_message(chat, random_id, draft).await,
            Self::Forward(Some(forward)) => context.telegram.forward(chat, random_id, forward).await,
            Self::Forward(None) => Err(no_source()),
        }
    }

    /// The session's equal messages since the effect was stored that are no other job's, oldest first.
    pub async fn look(
        &self,
        context: &JobContext,
        chat: &Chat,
        prepared_at: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, Outcome> {
        let since = prepared_at - CLOCK_SKEW;
        let found = match self {
            Self::Draft(draft) => context.telegram.own_messages_like(chat, draft, since).await?,
            Self::Forward(Some(forward)) => context.telegram.own_forwards_like(chat, forward, since).await?,
            Self::Forward(None) => return Err(no_source().into()),
        };
        let ids: Vec<i32> = found.iter().flat_map(ids_of).collect();
        let claimed = if ids.is_empty() {
            HashSet::new()
        } else {
            context.store.claimed_messages(chat.id, &ids).await?
        };
        let is_free = |sent: &SentMessage| !ids_of(sent).any(|id| claimed.contains(&id));
        let free = found.into_iter().filter(is_free);
        Ok(free.collect())
    }

    pub fn status(&self) -> PublishStatus {
        match self {
            Self::Draft(draft) if draft.extras.schedule_at.is_some() => PublishStatus::Scheduled,
            Self::Draft(_) => PublishStatus::Sent,
            Self::Forward(_) => PublishStatus::Forwarded,
        }
    }
}

pub(super) fn draft(args: &PublishArgs) -> Draft {
    Draft {
        text: args.text.clone(),
        format: args.format,
        silent: args.silent,
        link_preview: args.link_preview,
        extras: Extras {
            reply_to: args.reply_to,
            topic: args.topic,
            schedule_at: args.schedule_at,
            protect: args.protect,
            buttons: args.buttons.clone(),
            media: Vec::new(),
        },
    }
}

/// Why the media are not in Telegram.
pub(super) enum NotUploaded {
    Stopped(Outcome),
    Refused(TelegramError),
}

impl From<NotUploaded> for Outcome {
    fn from(reason: NotUploaded) -> Self {
        match reason {
            NotUploaded::Stopped(outcome) => outcome,
            NotUploaded::Refused(error) => error.into(),
        }
    }
}

/// Puts the media into Telegram, one after the other.
pub(super) async fn upload(
    context: &JobContext,
    chat: &Chat,
    media: &[Attachment],
) -> Result<Vec<Uploaded>, NotUploaded> {
    let mut uploaded = Vec::with_capacity(media.len());
    for item in media {
        context.stop_if_cancelled().map_err(NotUploaded::Stopped)?;
        let put_in = context.telegram.upload(chat, item).await;
        uploaded.push(put_in.map_err(NotUploaded::Refused)?);
    }
    Ok(uploaded)
}

/// Telegram wants the files again, and had them again in this attempt: the next one asks once more.
pub(super) fn stale_again(error: &TelegramError) -> Outcome {
    Outcome::Retry(JobError::transient(
        "media_stale",
        format!(
            "Telegram does not take the files that it was just given. Nothing was sent. Telegram's error: {}.",
            error.code
        ),
    ))
}

fn ids_of(sent: &SentMessage) -> impl Iterator<Item = i32> {
    std::iter::once(sent.message_id).chain(sent.others.iter().copied())
}

/// All messages that a send became, when there are several.
pub(super) fn all_ids(sent: &SentMessage) -> Vec<i32> {
    if sent.others.is_empty() {
        return Vec::new();
    }
    let mut ids = vec![sent.message_id.abs()];
    ids.extend(&sent.others);
    ids
}

pub(super) fn may_not_write() -> JobError {
    JobError::permanent(
        "write_forbidden",
        "The session may not post in this chat: it is no member, or only admins write there. Nothing was tried.",
    )
}

fn no_source() -> TelegramError {
    TelegramError {
        code: "source_not_found".into(),
        message: "The chat that is forwarded from was not looked up.".into(),
        decision: crate::ports::Decision::Bug,
    }
}
