//! The functions' [`Outreach`] port on Postgres: one attempt of one job, fenced in every write.

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;
use wireroom_jobs::{
    WaitReason,
    invite::Tally,
    outreach::{Campaign, Leave, Listed, Outreach, Over, Person, PersonRef, Prepared, Turn, Verdict, VerdictClass},
    ports,
};

use super::{
    StoreError,
    attempt_data::{self, AttemptKey},
    campaign_people, campaigns,
    contact::Contact,
    failed,
    job_store::fresh_random_id,
    ledger::{self, Gate, LedgerRow},
    outreach_switch,
    suppressions::{self, Identity},
};
use crate::{ids::SessionId, person_key::PersonKey};

/// Campaigns as one attempt sees them.
#[derive(Debug, Clone)]
pub struct JobOutreach {
    pool: PgPool,
    attempt: AttemptKey,
    session: SessionId,
    key: Option<PersonKey>,
    contact: Contact,
}

impl JobOutreach {
    pub fn new(pool: PgPool, attempt: AttemptKey, session: SessionId, key: Option<PersonKey>) -> Self {
        Self {
            pool,
            attempt,
            session,
            key,
            contact: Contact::default(),
        }
    }

    /// The same, which says in `contact` whom it has granted leave for.
    #[must_use]
    pub fn telling(self, contact: Contact) -> Self {
        Self { contact, ..self }
    }

    /// A transaction in which the attempt keeps its job.
    async fn fenced(&self, operation: &'static str) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(failed(operation))?;
        attempt_data::hold(&mut transaction, self.attempt, operation).await?;
        Ok(transaction)
    }

    async fn next(&self, id: Uuid, only: &[PersonRef]) -> Result<Turn, StoreError> {
        let mut transaction = self.fenced("campaign_turn").await?;
        // Before anything that could keep the job from it: what is in doubt is looked up, which contacts nobody.
        if let Some(listed) = campaign_people::in_doubt(&mut transaction, self.attempt, id).await? {
            commit(transaction, "campaign_turn").await?;
            return Ok(Turn::Person(listed));
        }
        let turn = match ledger::gate(&mut transaction, id, None).await? {
            Gate::Halted { code } => {
                campaigns::let_go(&mut transaction, id, self.attempt.job).await?;
                Turn::Over(Over::Halted { code })
            }
            // Not for nobody.
            Gate::Wait { .. }
                if !campaign_people::is_anybody_left(&mut transaction, self.attempt, id, only).await? =>
            {
                campaigns::finish_if_done(&mut transaction, id, self.attempt.job).await?;
                Turn::Over(Over::Exhausted)
            }
            Gate::Wait { until, reason } => Turn::Wait { until, reason },
            Gate::Open => self.pick(&mut transaction, id, only).await?,
        };
        commit(transaction, "campaign_turn").await?;
        Ok(turn)
    }

    async fn pick(&self, conn: &mut PgConnection, id: Uuid, only: &[PersonRef]) -> Result<Turn, StoreError> {
        if let Some(listed) = campaign_people::take(conn, self.attempt, id, only).await? {
            return Ok(Turn::Person(listed));
        }
        if let Some((until, reason)) = campaign_people::quiet_until(conn, self.attempt, id, only).await? {
            return Ok(Turn::Wait { until, reason });
        }
        // Somebody whose row another transaction holds is passed over, and quiet hours may have ended since.
        if campaign_people::is_anybody_left(conn, self.attempt, id, only).await? {
            let until = campaigns::soon(conn).await?;
            let message = "Whoever is left is about to be free. The job goes on at once.";
            let reason = WaitReason::new("list_busy", message);
            return Ok(Turn::Wait { until, reason });
        }
        campaigns::finish_if_done(conn, id, self.attempt.job).await?;
        Ok(Turn::Over(Over::Exhausted))
    }

    async fn enter(&self, id: Uuid, listed: &Listed, person: &Person) -> Result<Prepared, StoreError> {
        let mut transaction = self.fenced("prepare_invitation").await?;
        let conn = &mut *transaction;
        if self.is_erased(conn, person).await? {
            campaign_people::scrub(conn, listed.entry).await?;
            let prepared = self.leave_out(conn, listed, "erased").await?;
            commit(transaction, "prepare_invitation").await?;
            return Ok(prepared);
        }
        campaign_people::resolve(conn, listed.entry, person.user_id).await?;
        let known = ledger::find(conn, self.attempt, id, person.user_id).await?;
        let prepared = match known {
            Some(row) => self.known(conn, id, listed, person, row).await?,
            None => self.unknown(conn, id, listed, person).await?,
        };
        commit(transaction, "prepare_invitation").await?;
        Ok(prepared)
    }

    async fn known(
        &self,
        conn: &mut PgConnection,
        id: Uuid,
        listed: &Listed,
        person: &Person,
        row: LedgerRow,
    ) -> Result<Prepared, StoreError> {
        let is_mine = row.job == Some(self.attempt.job);
        match row.state.as_str() {
            "prepared" if !row.is_anothers => {
                if let Some(outcome) = self.kept_out(conn, id, person).await? {
                    return self.leave_out(conn, listed, outcome).await;
                }
                // The same account keeps its key: whatever it handed in before and comes late is dropped by Telegram.
                let random_id = match row.random_id {
                    Some(random_id) if row.session == Some(self.session) => random_id,
                    _ => fresh_random_id()?,
                };
                ledger::take_over(conn, self.attempt, self.session, id, person.user_id, random_id).await?;
                Ok(Prepared::Fresh { random_id })
            }
            "attempted" if is_mine => match (row.random_id, row.attempted_at) {
                (Some(random_id), Some(since)) if row.session == Some(self.session) => Ok(Prepared::InDoubt {
                    random_id,
                    since,
                    tries: row.tries,
                    wording: ledger::wording(conn, id, person.user_id).await?,
                }),
                // Another account cannot look for it.
                _ => {
                    let verdict = unknown();
                    ledger::decide(conn, self.attempt, id, person.user_id, &verdict).await?;
                    campaign_people::finish(conn, self.attempt, listed.entry, &verdict).await?;
                    Ok(Prepared::Decided(verdict.outcome))
                }
            },
            "attempted" if !row.is_anothers => {
                // Its job is gone, and with it whoever could look.
                ledger::end_strays(conn, self.attempt, id).await?;
                let verdict = unknown();
                campaign_people::finish(conn, self.attempt, listed.entry, &verdict).await?;
                Ok(Prepared::Decided(verdict.outcome))
            }
            _ => self.leave_out(conn, listed, "already_invited").await,
        }
    }

    async fn unknown(
        &self,
        conn: &mut PgConnection,
        id: Uuid,
        listed: &Listed,
        person: &Person,
    ) -> Result<Prepared, StoreError> {
        if let Some(outcome) = self.kept_out(conn, id, person).await? {
            return self.leave_out(conn, listed, outcome).await;
        }
        let random_id = fresh_random_id()?;
        if ledger::enter(conn, self.attempt, self.session, id, person.user_id, random_id).await? {
            return Ok(Prepared::Fresh { random_id });
        }
        // Another job has entered them meanwhile.
        self.leave_out(conn, listed, "already_invited").await
    }

    /// Why nobody may contact this person, or not this campaign.
    async fn kept_out(
        &self,
        conn: &mut PgConnection,
        id: Uuid,
        person: &Person,
    ) -> Result<Option<&'static str>, StoreError> {
        if self.is_suppressed(conn, person).await? {
            return Ok(Some("suppressed"));
        }
        let lately = ledger::was_contacted_lately(conn, id, person.user_id).await?;
        Ok(lately.then_some("invited_lately"))
    }

    async fn is_suppressed(&self, conn: &mut PgConnection, person: &Person) -> Result<bool, StoreError> {
        let key = outreach_switch::require_key(conn, self.key.as_ref()).await?;
        suppressions::contains(conn, &Identity::of(person, key)).await
    }

    async fn is_erased(&self, conn: &mut PgConnection, person: &Person) -> Result<bool, StoreError> {
        let erased = super::erasure::erased_among(conn, self.key.as_ref(), &[person.user_id]).await?;
        Ok(!erased.is_empty())
    }

    async fn leave_out(
        &self,
        conn: &mut PgConnection,
        listed: &Listed,
        outcome: &'static str,
    ) -> Result<Prepared, StoreError> {
        campaign_people::finish(conn, self.attempt, listed.entry, &skipped(outcome)).await?;
        Ok(Prepared::Decided(outcome))
    }

    async fn leave(&self, id: Uuid, listed: &Listed, person: &Person) -> Result<Leave, StoreError> {
        let mut transaction = self.fenced("begin_invitation").await?;
        let conn = &mut *transaction;
        let gate = ledger::gate(conn, id, Some(person.user_id)).await?;
        // Two campaigns may have prepared the same person: one of them is first, and the other one sees that it was.
        ledger::lock_person(conn, person.user_id).await?;
        let row = ledger::find(conn, self.attempt, id, person.user_id).await?;
        if row.as_ref().is_some_and(LedgerRow::is_decided) {
            // Imported as invited before, since they were prepared.
            let decided = "already_invited";
            campaign_people::finish(conn, self.attempt, listed.entry, &skipped(decided)).await?;
            commit(transaction, "begin_invitation").await?;
            return Ok(Leave::Decided(decided));
        }
        // By an earlier attempt, which was looked up and had not reached them.
        let was_begun = row.is_some_and(|row| row.state == "attempted");
        let leave = if gate != Gate::Open || campaign_people::is_quiet(conn, listed.entry).await? {
            if was_begun {
                ledger::release(conn, self.attempt, id, person.user_id).await?;
            }
            // Somebody else of the list may be next where it is not night.
            campaign_people::put_back(conn, listed.entry).await?;
            Leave::NotNow
        } else if let Some(outcome) = self.not_any_more(conn, id, person, was_begun).await? {
            if was_begun {
                ledger::release(conn, self.attempt, id, person.user_id).await?;
            }
            let verdict = skipped(outcome);
            ledger::decide(conn, self.attempt, id, person.user_id, &verdict).await?;
            if outcome == "erased" {
                campaign_people::scrub(conn, listed.entry).await?;
            }
            campaign_people::finish(conn, self.attempt, listed.entry, &verdict).await?;
            Leave::Decided(outcome)
        } else {
            ledger::attempted(conn, self.attempt, id, person.user_id).await?;
            // The campaign is locked: whoever has changed its text, and was answered, is heeded.
            let wording = ledger::wording(conn, id, person.user_id).await?;
            self.contact
                .is(Identity::of(person, self.key.as_ref()), self.key.as_ref());
            Leave::Granted(wording)
        };
        commit(transaction, "begin_invitation").await?;
        Ok(leave)
    }

    /// Why somebody who was prepared may not be contacted any more. Whoever was begun has been contacted by this campaign, as
    /// far as any other one knows.
    async fn not_any_more(
        &self,
        conn: &mut PgConnection,
        id: Uuid,
        person: &Person,
        was_begun: bool,
    ) -> Result<Option<&'static str>, StoreError> {
        if self.is_erased(conn, person).await? {
            return Ok(Some("erased"));
        }
        if was_begun {
            return Ok(self.is_suppressed(conn, person).await?.then_some("suppressed"));
        }
        self.kept_out(conn, id, person).await
    }

    async fn settle(
        &self,
        id: Uuid,
        listed: &Listed,
        user_id: Option<i64>,
        verdict: &Verdict,
    ) -> Result<Option<String>, StoreError> {
        let mut transaction = self.fenced("decide_invitation").await?;
        let conn = &mut *transaction;
        if let Some(user) = user_id {
            ledger::decide(conn, self.attempt, id, user, verdict).await?;
            if verdict.suppress {
                let actor = format!("job:{}", self.attempt.job);
                let reason = "They blocked the account that contacted them.";
                suppressions::suppress_user(conn, user, "blocked_us", reason, &actor).await?;
            }
        }
        if verdict.outcome == "erased" {
            campaign_people::scrub(conn, listed.entry).await?;
        }
        campaign_people::finish(conn, self.attempt, listed.entry, verdict).await?;
        let stopped = match verdict.class {
            VerdictClass::Refused => campaigns::stop_if_refused(conn, id, self.attempt.job).await?,
            VerdictClass::Invited | VerdictClass::Skipped | VerdictClass::Unknown => None,
        };
        commit(transaction, "decide_invitation").await?;
        Ok(stopped)
    }
}

fn skipped(outcome: &'static str) -> Verdict {
    Verdict {
        outcome,
        class: VerdictClass::Skipped,
        why: None,
        message: None,
        suppress: false,
    }
}

fn unknown() -> Verdict {
    Verdict {
        class: VerdictClass::Unknown,
        ..skipped("outcome_unknown")
    }
}

async fn commit(transaction: Transaction<'static, Postgres>, operation: &'static str) -> Result<(), StoreError> {
    transaction.commit().await.map_err(failed(operation))
}

#[async_trait]
impl Outreach for JobOutreach {
    async fn campaign(&self, id: Uuid) -> Result<Option<Campaign>, ports::StoreError> {
        let mut transaction = self.fenced("campaign_of_job").await?;
        ledger::end_strays(&mut transaction, self.attempt, id).await?;
        let campaign = campaigns::of_job(&mut transaction, id).await?;
        commit(transaction, "campaign_of_job").await?;
        Ok(campaign)
    }

    async fn settle_chat(&self, id: Uuid, chat_id: i64) -> Result<bool, ports::StoreError> {
        let mut transaction = self.fenced("settle_campaign_chat").await?;
        let settled = campaigns::settle_chat(&mut transaction, id, chat_id).await?;
        commit(transaction, "settle_campaign_chat").await?;
        Ok(settled)
    }

    async fn tally(&self, id: Uuid) -> Result<Tally, ports::StoreError> {
        let mut conn = super::connection(&self.pool, "campaign_tally").await?;
        Ok(campaign_people::tally(&mut conn, self.attempt, id).await?)
    }

    async fn turn(&self, id: Uuid, only: &[PersonRef]) -> Result<Turn, ports::StoreError> {
        Ok(self.next(id, only).await?)
    }

    async fn prepare(&self, id: Uuid, listed: &Listed, person: &Person) -> Result<Prepared, ports::StoreError> {
        Ok(self.enter(id, listed, person).await?)
    }

    async fn begin(&self, id: Uuid, listed: &Listed, person: &Person) -> Result<Leave, ports::StoreError> {
        Ok(self.leave(id, listed, person).await?)
    }

    async fn release(&self, id: Uuid, user_id: i64) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("release_invitation").await?;
        ledger::release(&mut transaction, self.attempt, id, user_id).await?;
        Ok(commit(transaction, "release_invitation").await?)
    }

    async fn decide(
        &self,
        id: Uuid,
        listed: &Listed,
        user_id: Option<i64>,
        verdict: &Verdict,
    ) -> Result<Option<String>, ports::StoreError> {
        Ok(self.settle(id, listed, user_id, verdict).await?)
    }

    async fn halt(&self, id: Uuid, code: &str, message: &str) -> Result<(), ports::StoreError> {
        let mut transaction = self.fenced("halt_campaign").await?;
        campaigns::halt(&mut transaction, id, self.attempt.job, code, message).await?;
        Ok(commit(transaction, "halt_campaign").await?)
    }
}

#[cfg(test)]
mod tests;
