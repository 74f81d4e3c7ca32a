//! The files of a message to many chats: one upload serves them all, until Telegram wants them again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        post::Uploaded,
        sending::{self, NotUploaded},
    },
    Broadcast, Turn,
};
use crate::{
    JobError, Outcome, WaitReason,
    ports::{Chat, Decision, TelegramError},
};

/// The checkpoint: what all targets share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    media: Vec<Uploaded>,
}

impl Broadcast<'_> {
    /// Everything that the messages need is in Telegram. `Some`: this chat does not take it; others may.
    pub(super) async fn make_ready(&mut self, chat: &Chat) -> Result<Option<JobError>, Outcome> {
        self.message.find_source(self.context, self.args).await?;
        if self.media_ready {
            return Ok(None);
        }
        let kept: Kept = self.context.read_checkpoint().await?.unwrap_or_default();
        let media = if kept.media.len() == self.args.media.len() {
            kept.media
        } else {
            let media = match sending::upload(self.context, chat, &self.args.media).await {
                Ok(media) => media,
                Err(NotUploaded::Refused(error)) if error.decision == Decision::Target => {
                    return match Outcome::from(error) {
                        Outcome::Discard(error) => Ok(Some(error)),
                        outcome => Err(outcome),
                    };
                }
                Err(reason) => return Err(reason.into()),
            };
            self.context.write_checkpoint(&Kept { media: media.clone() }).await?;
            media
        };
        self.message.use_media(&media);
        self.media_ready = true;
        Ok(None)
    }

    /// Telegram took nothing, and wants the files again: once in an attempt.
    pub(super) async fn renew(&mut self, place: usize, chat: &Chat, error: &TelegramError) -> Result<Turn, Outcome> {
        self.not_sent(place, chat, true).await?;
        // With other files, what is in doubt would not be recognised.
        if let Some(until) = self.doubt_until() {
            let message = "Telegram wants the files again; a message that may be in its chat is looked for before.";
            return Err(Outcome::Snooze {
                until,
                reason: WaitReason::new("trouble", message),
            });
        }
        self.media_ready = false;
        self.context.write_checkpoint(&Kept::default()).await?;
        if std::mem::replace(&mut self.media_renewed, true) {
            return Err(sending::stale_again(error));
        }
        if let Some(refused) = self.make_ready(chat).await? {
            return self.refuse(place, refused).await;
        }
        Box::pin(self.send(place, chat)).await
    }

    /// When the first target that is in doubt is looked at.
    fn doubt_until(&self) -> Option<DateTime<Utc>> {
        let doubts = self
            .targets
            .iter()
            .filter(|target| target.begun && target.decided.is_none());
        doubts
            .map(|target| target.not_before.unwrap_or_else(|| self.context.clock.now()))
            .min()
    }
}
