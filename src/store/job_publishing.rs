//! The functions' [`PublishStore`] port on Postgres: fenced, as all of the attempt's writes are.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;
use wireroom_jobs::{
    ports::{self, Effect, SentMessage},
    publish::{
        ports::{Look, PublishStore, Published, RoundTally, Target},
        statistics::StatisticsPlan,
    },
};

use super::{
    StoreError, effects,
    job_store::{JobStore, commit, fresh_random_id},
    publications, publish_targets,
};

impl JobStore {
    async fn begin_send(&self, target: &Target, chat_id: i64) -> Result<Effect, StoreError> {
        let mut transaction = self.fenced("begin_target").await?;
        publish_targets::save(&mut transaction, self.attempt, target).await?;
        let random_id = fresh_random_id()?;
        let effect = effects::prepare(&mut transaction, self.attempt, self.lease.session, chat_id, random_id).await?;
        effects::attempted(&mut transaction, self.attempt, chat_id).await?;
        commit(transaction, "begin_target").await?;
        Ok(effect)
    }

    /// Keeps the message with its effect too, where no other job has claimed it, so that no other job will.
    async fn claim_and_decide(&self, target: &Target, chat_id: i64, sent: &SentMessage) -> Result<bool, StoreError> {
        let mut transaction = self.fenced("decide_target").await?;
        if !effects::sent(&mut transaction, self.attempt, chat_id, sent).await? {
            return Ok(false);
        }
        effects::settle(&mut transaction, self.attempt, chat_id).await?;
        publish_targets::save(&mut transaction, self.attempt, target).await?;
        commit(transaction, "decide_target").await?;
        Ok(true)
    }

    async fn decide(&self, target: &Target) -> Result<(), StoreError> {
        let sent = target.decided.as_ref().and_then(|decided| decided.sent.as_ref());
        if let (Some(chat_id), Some(sent)) = (target.chat_id, sent)
            && self.claim_and_decide(target, chat_id, sent).await?
        {
            return Ok(());
        }
        let mut transaction = self.fenced("decide_target").await?;
        // One that is decided as another target's chat has no say in that one's effect.
        let is_duplicate = target
            .decided
            .as_ref()
            .is_some_and(|decided| decided.outcome == "duplicate");
        if let Some(chat_id) = target.chat_id.filter(|_| !is_duplicate) {
            effects::settle(&mut transaction, self.attempt, chat_id).await?;
        }
        publish_targets::save(&mut transaction, self.attempt, target).await?;
        commit(transaction, "decide_target").await
    }
}

#[async_trait]
impl PublishStore for JobStore {
    async fn targets(&self) -> Result<Vec<Target>, ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(publish_targets::all(&mut conn, self.attempt.job).await?)
    }

    async fn keep_target(&self, target: &Target) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("keep_target").await?;
        publish_targets::save(&mut transaction, self.attempt, target).await?;
        Ok(commit(transaction, "keep_target").await?)
    }

    async fn begin_target(&self, target: &Target, chat_id: i64) -> Result<Effect, ports::StoreError> {
        Ok(self.begin_send(target, chat_id).await?)
    }

    async fn refuse_target(&self, target: &Target, chat_id: i64) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("refuse_target").await?;
        effects::not_sent(&mut transaction, self.attempt, chat_id).await?;
        publish_targets::save(&mut transaction, self.attempt, target).await?;
        Ok(commit(transaction, "refuse_target").await?)
    }

    async fn decide_target(&self, target: &Target) -> Result<(), ports::StoreError> {
        Ok(self.decide(target).await?)
    }

    async fn met_by_name(&self, names: &[String]) -> Result<HashMap<String, i64>, ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(publications::met_by_name(&mut conn, self.lease.session, names).await?)
    }

    async fn follow(&self, plan: StatisticsPlan) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("follow_publication").await?;
        publications::follow(&mut transaction, self.attempt.job, self.lease.session, plan).await?;
        Ok(commit(transaction, "follow_publication").await?)
    }

    async fn begin_round(&self, jobs: &[Uuid]) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("begin_round").await?;
        publications::take_in(&mut transaction, jobs).await?;
        Ok(commit(transaction, "begin_round").await?)
    }

    async fn next_published(
        &self,
        jobs: &[Uuid],
        since: DateTime<Utc>,
    ) -> Result<Option<Published>, ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(publications::next(&mut conn, jobs, self.lease.session, since).await?)
    }

    async fn keep_looks(&self, jobs: &[Uuid], chat_id: i64, looks: &[Look]) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("keep_looks").await?;
        publications::keep(&mut transaction, jobs, chat_id, looks).await?;
        Ok(commit(transaction, "keep_looks").await?)
    }

    async fn looked_at(&self, jobs: &[Uuid], since: DateTime<Utc>) -> Result<RoundTally, ports::StoreError> {
        let mut conn = self.connection().await?;
        Ok(publications::tally(&mut conn, jobs, since).await?)
    }

    async fn claim_target(&self, target: &Target) -> Result<bool, ports::StoreError> {
        match (
            target.chat_id,
            target.decided.as_ref().and_then(|decided| decided.sent.as_ref()),
        ) {
            (Some(chat_id), Some(sent)) => Ok(self.claim_and_decide(target, chat_id, sent).await?),
            _ => Ok(false),
        }
    }
}
