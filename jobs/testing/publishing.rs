//! The fakes' part for publishing.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{FakeTelegram, MemoryStore, lock};
use crate::{
    ports::{Chat, Clock, Draft, Effect, SentMessage, Store, StoreError, TelegramError},
    publish::{
        ports::{Access, Changed, Forward, Found, Look, Posting, PublishStore, Published, RoundTally, Target},
        post::{Attachment, Uploaded},
        statistics::StatisticsPlan,
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

    /// Without a queued answer: none of them can be told that way.
    async fn chats_by_id(&self, ids: &[i64]) -> Result<Vec<Chat>, TelegramError> {
        if lock(&self.chats_by_id).is_empty() {
            return Ok(Vec::new());
        }
        self.answer(format!("chats_by_id {ids:?}"), &self.chats_by_id)
    }

    async fn message_counts(&self, chat: &Chat, message_ids: &[i32]) -> Result<Vec<Look>, TelegramError> {
        self.answer(
            format!("message_counts {} {message_ids:?}", chat.id),
            &self.message_counts,
        )
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
        let state = self.open("targets")?;
        let attempted = |chat: i64| {
            state
                .effects
                .get(&chat)
                .is_some_and(|effect| effect.attempted_at.is_some())
        };
        let targets = state.targets.values().map(|target| Target {
            begun: target.decided.is_none() && target.chat_id.is_some_and(attempted),
            ..target.clone()
        });
        Ok(targets.collect())
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

    async fn met_by_name(&self, names: &[String]) -> Result<HashMap<String, i64>, StoreError> {
        let met = &self.open("met_by_name")?.met;
        let known = names.iter().filter_map(|name| Some((name.clone(), *met.get(name)?)));
        Ok(known.collect())
    }

    async fn follow(&self, plan: StatisticsPlan) -> Result<(), StoreError> {
        self.open("follow")?.plan.get_or_insert(plan);
        Ok(())
    }

    async fn begin_round(&self, _jobs: &[Uuid]) -> Result<(), StoreError> {
        self.open("begin_round").map(|_| ())
    }

    async fn next_published(&self, _jobs: &[Uuid], _since: DateTime<Utc>) -> Result<Option<Published>, StoreError> {
        Ok(self.open("next_published")?.published.first().cloned())
    }

    async fn keep_looks(&self, _jobs: &[Uuid], chat_id: i64, looks: &[Look]) -> Result<(), StoreError> {
        let mut state = self.open("keep_looks")?;
        state.published.retain(|batch| batch.chat.id != chat_id);
        state.looks.extend(looks.iter().map(|look| (chat_id, look.clone())));
        Ok(())
    }

    async fn looked_at(&self, _jobs: &[Uuid], _since: DateTime<Utc>) -> Result<RoundTally, StoreError> {
        let state = self.open("looked_at")?;
        let mut tally = RoundTally::default();
        for (_, look) in &state.looks {
            match look.found {
                Found::There(_) => tally.there += 1,
                Found::Deleted => tally.deleted += 1,
                Found::Unreadable(_) => tally.unreadable += 1,
            }
        }
        Ok(tally)
    }

    async fn claim_target(&self, target: &Target) -> Result<bool, StoreError> {
        let sent = target.decided.as_ref().and_then(|decided| decided.sent.as_ref());
        if let (Some(chat), Some(sent)) = (target.chat_id, sent)
            && self.state().claimed_meanwhile.contains(&(chat, sent.message_id))
        {
            return Ok(false);
        }
        self.decide_target(target).await.map(|()| true)
    }
}
