//! Rounds of statistics: publications whose time has come are rows that any worker takes with SKIP LOCKED, and the jobs that
//! look at their messages are stored in the transaction that puts them off to their next round. What a round does, and what
//! becomes of it when it is killed or meets a flood, is the queue's, as for any other job.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;
use wireroom_jobs::{JobKind, publish::statistics::MOST_JOBS};

use super::waker::Waker;
use crate::store::{
    self, PgPool, StoreError, failed,
    jobs::{EnqueueError, NewJob, enqueue},
    publications,
};

/// What the jobs of rounds are found by.
pub const TAG: &str = "statistics";
/// Most publications of one transaction.
const BATCH: i64 = 200;

/// Makes the jobs of all rounds that are due. Returns how many jobs that were.
pub async fn begin_due(pool: &PgPool, ageing_step: Duration, waker: &Waker) -> Result<usize, StoreError> {
    let mut begun = 0;
    let mut conn = store::connection(pool, "publications_due").await?;
    while publications::is_due(&mut conn).await? {
        let mut transaction = pool.begin().await.map_err(failed("begin_rounds"))?;
        let due = publications::take_due(&mut transaction, BATCH).await?;
        let rounds = due.chunk_by(|one, other| one.session == other.session);
        let rounds = rounds.flat_map(|of_session| of_session.chunks(MOST_JOBS));
        let mut jobs = Vec::new();
        for round in rounds {
            let of_jobs: Vec<Uuid> = round.iter().map(|due| due.job.0).collect();
            let job = NewJob {
                session: round.first().map(|due| due.session),
                tags: vec![TAG.to_owned()],
                ..NewJob::new(JobKind::Publish, json!({ "action": "statistics", "of_jobs": of_jobs }))
            };
            publications::note_round(&mut transaction, &of_jobs, job.id).await?;
            jobs.push(job);
        }
        match enqueue(&mut transaction, &jobs, ageing_step).await {
            Ok(_) => {}
            Err(EnqueueError::Store(error)) => return Err(error),
            // A session that went between the two statements: the next look chooses another.
            Err(error) => {
                tracing::debug!(%error, "a round of statistics was not made");
                return Ok(begun);
            }
        }
        transaction.commit().await.map_err(failed("begin_rounds"))?;
        waker.enqueued(&jobs, None);
        begun += jobs.len();
        if jobs.is_empty() && due.is_empty() {
            // What is due is in other hands, or was put off.
            break;
        }
    }
    Ok(begun)
}
