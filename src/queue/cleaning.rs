//! The live table is vacuumed by those who make it need it. Each job that ends leaves two dead rows, and what looks for ready
//! jobs reads past them; autovacuum looks at a table once a minute, and in a minute a busy queue leaves millions. So a
//! process that has ended many jobs asks for a vacuum itself. It counts its own ends and asks nobody: an idle or slow queue
//! is autovacuum's alone, and costs no statement.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::batcher::Endings;
use crate::store::{
    PgPool, StoreError,
    vacuum::{Vacuumed, estimated_jobs, vacuum_jobs},
};

/// How often the count is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Of the jobs that are there, this part may be dead before a vacuum reads them all: it reads every index in full.
const PART_OF_TABLE: u64 = 10;

/// Asks for a vacuum after each `after` ends of this process; 0 is never. Runs until it is dropped, or finds that it may not.
pub async fn clean(pool: PgPool, endings: Endings, after: u64) {
    if after == 0 {
        return;
    }
    let mut cleaned_at = 0;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let ended = endings.stored();
        if ended - cleaned_at < after {
            continue;
        }
        match vacuum(&pool, ended - cleaned_at).await {
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
async fn vacuum(pool: &PgPool, ended: u64) -> Result<Option<Vacuumed>, StoreError> {
    if ended < estimated_jobs(pool).await? / PART_OF_TABLE {
        return Ok(None);
    }
    vacuum_jobs(pool).await.map(Some)
}
