//! The live table is vacuumed by those who make it need it. Each job that ends leaves two dead rows, and what looks for ready
//! jobs reads past them; autovacuum looks at a table once a minute, and in a minute a busy queue leaves millions. So a
//! process that has ended many jobs asks for a vacuum itself. It counts its own ends and asks nobody: an idle or slow queue
//! is autovacuum's alone, and costs no statement.

use std::time::Duration;

use super::batcher::Endings;
use crate::store::{
    PgPool, StoreError,
    vacuum::{Vacuumed, estimated_jobs, vacuum_jobs},
};

/// How often the count is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Of the jobs that are there, this part may be dead before a vacuum reads them all: it reads every index in full.
const PART_OF_TABLE: u64 = 10;

/// Asks for vacuums.
pub struct Cleaner {
    pub pool: PgPool,
    pub endings: Endings,
    /// A vacuum follows so many ends of this process; 0 is never.
    pub after: u64,
}

impl Cleaner {
    /// Runs until it is dropped, or finds that it may not.
    pub async fn run(self) {
        if self.after == 0 {
            return;
        }
        let mut cleaned_at = 0;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let ended = self.endings.stored();
            if ended - cleaned_at < self.after {
                continue;
            }
            match self.clean(ended - cleaned_at).await {
                Ok(None) => {}
                Ok(Some(Vacuumed::Done)) => cleaned_at = ended,
                Ok(Some(Vacuumed::NotOwner)) => {
                    tracing::info!("the table `jobs` belongs to another role, so vacuuming it is left to autovacuum");
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the live table could not be vacuumed; autovacuum will do it"
                    );
                    cleaned_at = ended;
                }
            }
        }
    }

    /// Vacuums, unless the table is so large that more should come together first.
    async fn clean(&self, ended: u64) -> Result<Option<Vacuumed>, StoreError> {
        if ended < estimated_jobs(&self.pool).await? / PART_OF_TABLE {
            return Ok(None);
        }
        vacuum_jobs(&self.pool).await.map(Some)
    }
}
