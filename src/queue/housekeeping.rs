//! Partitions ahead, and the removal of what is kept long enough. Each step by itself: one that fails says so once, and the
//! others go on, since a table that nothing is deleted from fills the disk whatever is wrong with another.

use std::time::Duration;

use crate::store::{
    self, PgConnection, PgPool, StoreError, audit, batches, campaign_changes, delivery_log, erasure, failed, floods,
    idempotency, job_logs, leases, outreach_switch, partitions, pauses, publications, scans, schedule_ticks,
    session_checks, unique_keys, vault_keys, watches,
};

/// Most rows of one statement.
const BATCH: i64 = 500;
/// How many of the clients' batches one statement deletes: each may have ten thousand rows.
const BATCHES: i64 = 2;
/// How many days the log of deliveries is kept, if finished work is kept for so long.
const DELIVERY_DAYS: i32 = 7;
/// How long one step of a person's erasure takes: what it changes is locked meanwhile.
const ERASURE_STEP: Duration = Duration::from_millis(500);
/// Day partitions that exist ahead.
pub const DAYS_AHEAD: i32 = 7;

/// One thing that is done until nothing is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    PartitionsAhead,
    DefaultPartition,
    OldRows,
    OldTicks,
    OldLogs,
    OldScans,
    OldMessages,
    OldStatistics,
    IdempotencyKeys,
    UniqueKeys,
    OldBatches,
    EndedPauses,
    OldFloods,
    OldChecks,
    OldTerms,
    GoneWorkersKeys,
    OldAudit,
    OldDeliveries,
    UnansweredOutreach,
    DeletedCampaigns,
    OldDays,
}

impl Step {
    const ALL: [Self; 21] = [
        Self::PartitionsAhead,
        Self::DefaultPartition,
        Self::OldRows,
        Self::OldTicks,
        Self::OldLogs,
        Self::OldScans,
        Self::OldMessages,
        Self::OldStatistics,
        Self::IdempotencyKeys,
        Self::UniqueKeys,
        Self::OldBatches,
        Self::EndedPauses,
        Self::OldFloods,
        Self::OldChecks,
        Self::OldTerms,
        Self::GoneWorkersKeys,
        Self::OldAudit,
        Self::OldDeliveries,
        Self::UnansweredOutreach,
        Self::DeletedCampaigns,
        Self::OldDays,
    ];

    /// Does a part of it; `true`: there may be more.
    async fn part(self, conn: &mut PgConnection, keep: i32) -> Result<bool, StoreError> {
        match self {
            Self::PartitionsAhead => partitions::ensure_ahead(conn, DAYS_AHEAD).await.map(|_| false),
            Self::DefaultPartition => {
                if partitions::in_default(conn).await? {
                    tracing::error!(
                        "finished jobs or events lie in a DEFAULT partition: a day's partition was missing"
                    );
                }
                Ok(false)
            }
            Self::OldRows => partitions::expire_rows(conn, keep, BATCH).await.map(|gone| gone > 0),
            Self::OldTicks => schedule_ticks::expire(conn, keep, BATCH).await.map(|gone| gone > 0),
            Self::OldLogs => job_logs::expire(conn, keep, BATCH).await.map(|gone| gone > 0),
            Self::OldScans => scans::sweep(conn, BATCH).await.map(|gone| gone > 0),
            Self::OldMessages => watches::expire(conn, keep, BATCH).await.map(|gone| gone > 0),
            Self::OldStatistics => publications::expire(conn, keep, BATCH).await.map(|gone| gone > 0),
            Self::IdempotencyKeys => idempotency::sweep(conn, BATCH).await.map(|gone| gone > 0),
            Self::UniqueKeys => unique_keys::sweep(conn, BATCH).await.map(|gone| gone > 0),
            Self::OldBatches => batches::sweep(conn, keep, BATCHES).await.map(|gone| gone > 0),
            Self::EndedPauses => pauses::sweep(conn, BATCH).await.map(|gone| gone > 0),
            Self::OldFloods => floods::expire(conn, keep, BATCH).await.map(|gone| gone > 0),
            Self::OldChecks => session_checks::sweep(conn, BATCH).await.map(|gone| gone > 0),
            Self::OldTerms => leases::sweep_terms(conn, BATCH).await.map(|gone| gone > 0),
            Self::GoneWorkersKeys => vault_keys::sweep_workers(conn, BATCH).await.map(|gone| gone > 0),
            Self::OldAudit => audit::expire(conn, BATCH).await.map(|gone| gone > 0),
            Self::OldDeliveries => delivery_log::expire(conn, keep.min(DELIVERY_DAYS), BATCH)
                .await
                .map(|gone| gone > 0),
            Self::UnansweredOutreach => outreach_switch::sweep(conn, BATCH).await.map(|gone| gone > 0),
            Self::DeletedCampaigns => campaign_changes::empty(conn, None, BATCH).await.map(|gone| gone > 0),
            Self::OldDays => {
                let retired = partitions::retire_one(conn, keep).await?;
                if let Some(partition) = &retired {
                    tracing::info!(partition, "retired a day of finished work or of events");
                }
                Ok(retired.is_some())
            }
        }
    }
}

/// One pass over every step; finished work and its like are kept for `keep` days. Returns how many steps failed, each of
/// them logged. A database that does not answer ends the pass, as it would end every other step.
pub async fn keep_house(pool: &PgPool, keep: i32) -> usize {
    let mut failures = 0;
    for step in Step::ALL {
        if let Err(error) = through(step, pool, keep).await {
            failures += 1;
            if error.is_closed() {
                break;
            }
            let is_away = error.is_unavailable();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                step = ?step,
                "housekeeping failed; trying again soon"
            );
            if is_away {
                break;
            }
        }
    }
    failures
}

/// Goes on with the erasures of people that a request has begun and not finished; a step and its end are one transaction. Ends
/// when none is left, or one fails.
pub async fn erase_people(pool: &PgPool) -> Result<(), StoreError> {
    const OPERATION: &str = "erase_people";
    loop {
        let mut transaction = pool.begin().await.map_err(failed(OPERATION))?;
        let Some(erasure) = erasure::take(&mut transaction).await? else {
            return Ok(());
        };
        let is_done = erasure::go_on(&mut transaction, erasure, ERASURE_STEP).await?;
        if let Some(record) = erasure::find(&mut transaction, erasure).await?.filter(|_| is_done) {
            erasure::note(&mut transaction, &record, "person.erased", None).await?;
            tracing::info!(erasure = %erasure, "a person was erased");
        }
        transaction.commit().await.map_err(failed(OPERATION))?;
    }
}

/// On a connection of its own: what a failed statement left of another's state is not this one's.
async fn through(step: Step, pool: &PgPool, keep: i32) -> Result<(), StoreError> {
    let mut conn = store::connection(pool, "keep_house").await?;
    while step.part(&mut conn, keep).await? {}
    Ok(())
}
