//! The fakes' part for publishing.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{FakeTelegram, MemoryStore, lock};
use crate::{
    ports::{Chat, Clock, Draft, Effect, SentMessage, Store, StoreError, TelegramError},
    publish::{
        ports::{Access, Changed, Forward, Posting, PublishStore, Target},
        post::{Attachment, Uploaded},
    },
};

#[async_trait]
impl Posting for FakeTelegram {
    /// Without a queued answer: it may write, now.
    async fn access(&self, _chat: &Chat) -> Result<Access, TelegramError> {
        let queued = lock(&self.access).pop_front();
        queued.unwrap_or(Ok(Access {
            may_write: true,
            not_before: None,
        }))
    }

    async fn upload(&self, chat: &Chat, _item: &Attachment) -> Result<Uploaded, TelegramError> {
        self.answer(format!("upload {}", chat.id), &self.upload)
    }

    async fn edit_message(&self, _chat: &Chat, message_id: i32, _draft: &Draft) -> Result<Changed, TelegramError> {
        self.answer(format!("edit_message {message_id}"), &self.edit_message)
    }

    async fn delete_messages(&self, _chat: &Chat, message_ids: &[i32]) -> Result<usize, TelegramError> {
        self.answer(format!("delete_messages {message_ids:?}"), &self.delete_messages)
    }

    async fn pin_message(
        &self,
        _chat: &Chat,
        message_id: i32,
        pinned: bool,
        _silent: bool,
    ) -> Result<Changed, TelegramError> {
        self.answer(format!("pin_message {message_id} {pinned}"), &self.pin_message)
    }

    async fn forward(&self, chat: &Chat, random_id: i64, _forward: &Forward) -> Result<SentMessage, TelegramError> {
        self.answer(format!("forward {} {random_id}", chat.id), &self.forward)
    }

    async fn own_forwards_like(
        &self,
        _chat: &Chat,
        _forward: &Forward,
        _since: DateTime<Utc>,
    ) -> Result<Vec<SentMessage>, TelegramError> {
        self.answer("own_forwards_like".into(), &self.own_forwards_like)
    }
}

#[async_trait]
impl PublishStore for MemoryStore {
    async fn targets(&self) -> Result<Vec<Target>, StoreError> {
        Ok(self.open("targets")?.targets.values().cloned().collect())
    }

    async fn keep_target(&self, target: &Target) -> Result<(), StoreError> {
        let mut state = self.open("keep_target")?;
        state.targets.insert(target.position, target.clone());
        Ok(())
    }

    async fn begin_target(&self, target: &Target, chat_id: i64) -> Result<Effect, StoreError> {
        self.open("begin_target")?
            .targets
            .insert(target.position, target.clone());
        let before = self.prepare_effect(chat_id).await?;
        let now = self.clock.now();
        if let Some(effect) = self.state().effects.get_mut(&chat_id) {
            effect.attempted_at.get_or_insert(now);
        }
        Ok(before)
    }

    async fn refuse_target(&self, target: &Target, chat_id: i64) -> Result<(), StoreError> {
        let mut state = self.open("refuse_target")?;
        state.targets.insert(target.position, target.clone());
        if let Some(effect) = state.effects.get_mut(&chat_id) {
            effect.attempted_at = None;
        }
        Ok(())
    }

    async fn decide_target(&self, target: &Target) -> Result<(), StoreError> {
        let mut state = self.open("decide_target")?;
        let sent = target.decided.as_ref().and_then(|decided| decided.sent.clone());
        if let (Some(chat), Some(sent)) = (target.chat_id, sent)
            && let Some(effect) = state.effects.get_mut(&chat)
        {
            effect.sent = Some(sent);
        }
        state.targets.insert(target.position, target.clone());
        Ok(())
    }
}
