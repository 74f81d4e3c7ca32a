//! Batches and unique keys under the queue itself: whichever statement ends a job, and however many end at once.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use wireroom::{
    ids::{BatchId, JobId},
    store::{
        batches::{self, BatchMode},
        completions::{FinalState, Finish, finish},
        jobs::{NewJob, enqueue_in},
        unique_keys::{self, Enqueued, KeyedJob, OnConflict, Scope, Unique},
    },
};
use wireroom_jobs::{JobError, JobKind, Outcome};

use super::bed::{AGEING, BOUND, Bed, args, function, job, jobs};
use crate::support::wait::eventually;

impl Bed {
    async fn batch(&self, jobs: &[NewJob]) -> BatchId {
        let id = BatchId::generate();
        let mut transaction = self.pool().begin().await.unwrap();
        batches::open(&mut transaction, id, BatchMode::AllOrNothing, None)
            .await
            .unwrap();
        enqueue_in(&mut transaction, Some(id), jobs, AGEING).await.unwrap();
        batches::close(&mut transaction, id, BatchMode::AllOrNothing, jobs.len())
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        id
    }

    async fn until_blocked(&self) {
        eventually(BOUND, || async {
            let waiting = self
                .count("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
                .await;
            if waiting > 0 { Ok(()) } else { Err("nobody waits") }
        })
        .await;
    }

    async fn events(&self) -> Vec<(String, Value)> {
        sqlx::query_as("SELECT subject, data FROM events WHERE type = 'batch.finished' ORDER BY id")
            .fetch_all(self.pool())
            .await
            .unwrap()
    }
}

fn succeeded(id: JobId, fence: i64) -> Finish {
    Finish {
        id,
        fence,
        state: FinalState::Succeeded,
        result: None,
        error: None,
    }
}

fn keyed(on_conflict: OnConflict) -> KeyedJob {
    KeyedJob {
        job: job(),
        unique: Some(Unique {
            key: "the one".to_owned(),
            scope: Scope::Live,
            on_conflict,
        }),
    }
}

#[tokio::test]
async fn two_workers_finish_a_batch_and_tell_it_once() {
    let bed = Bed::new().await;
    let runner = function(|attempt| async move {
        match args(&attempt)["n"].as_u64() {
            Some(n) if n % 10 == 0 => Outcome::Discard(JobError::permanent("x", "x")),
            Some(n) if n % 10 == 1 && attempt.job.attempt == 1 => Outcome::Retry(JobError::transient("x", "x")),
            _ => Outcome::Done(1.into()),
        }
    });
    let many: Vec<NewJob> = (0..1000)
        .map(|n| NewJob::new(JobKind::Join, json!({ "n": n })))
        .collect();
    let id = bed.batch(&many).await;
    bed.enqueue(&jobs(50)).await;
    let (one, other) = tokio::join!(bed.start(20, runner.clone()), bed.start(20, runner));
    let record = eventually(Duration::from_mins(1), || async {
        let mut conn = bed.pool().acquire().await.unwrap();
        let record = batches::get(&mut *conn, id).await.unwrap().unwrap();
        let sum = record.scheduled + record.queued + record.running;
        assert_eq!(
            sum + i64::from(record.succeeded + record.failed + record.cancelled),
            i64::from(record.total),
            "one look adds up"
        );
        if record.finished_at.is_some() {
            Ok(record)
        } else {
            Err(record)
        }
    })
    .await;
    assert_eq!((record.total, record.succeeded, record.failed), (1000, 900, 100));
    let data = json!({ "batch": id, "total": 1000, "succeeded": 900, "failed": 100, "cancelled": 0 });
    assert_eq!(bed.events().await, [(format!("batch:{id}"), data)]);
    tokio::join!(one.handle.shutdown(), other.handle.shutdown());
}

#[tokio::test]
async fn of_two_last_ends_the_later_commit_tells() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed.batch(&jobs(2)).await;
    let claimed = bed.claim(worker, session, fence, "default", 2).await;
    let end = |n: usize| succeeded(claimed[n].id, claimed[n].fence);

    let mut undone = bed.pool().begin().await.unwrap();
    finish(&mut undone, &[end(0), end(1)]).await.unwrap();
    undone.rollback().await.unwrap();
    assert_eq!(bed.count("SELECT succeeded::bigint FROM batches").await, 0);

    let mut first = bed.pool().begin().await.unwrap();
    finish(&mut first, &[end(0)]).await.unwrap();
    let second = async {
        let mut second = bed.pool().begin().await.unwrap();
        finish(&mut second, &[end(1)]).await.unwrap();
        second.commit().await.unwrap();
    };
    let meanwhile = async {
        bed.until_blocked().await;
        assert!(bed.events().await.is_empty());
        first.commit().await.unwrap();
    };
    tokio::join!(second, meanwhile);
    assert_eq!(bed.events().await.len(), 1);
    assert_eq!(bed.events().await[0].0, format!("batch:{id}"));
}

#[tokio::test]
async fn a_rolled_back_batch_leaves_nothing_and_wakes_nobody() {
    let bed = Bed::new().await;
    let mut listener = PgListener::connect_with(bed.pool()).await.unwrap();
    listener.listen("wireroom_queue").await.unwrap();
    let id = BatchId::generate();
    let mut transaction = bed.pool().begin().await.unwrap();
    batches::open(&mut transaction, id, BatchMode::PerItem, None)
        .await
        .unwrap();
    let entries = [keyed(OnConflict::Reject)];
    unique_keys::enqueue(&mut transaction, Some(id), &entries, AGEING)
        .await
        .unwrap();
    enqueue_in(&mut transaction, Some(id), &jobs(10), AGEING).await.unwrap();
    batches::close(&mut transaction, id, BatchMode::PerItem, 11)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    for table in [
        "SELECT count(*) FROM jobs",
        "SELECT count(*) FROM batches",
        "SELECT count(*) FROM unique_keys",
        "SELECT count(*) FROM events",
    ] {
        assert_eq!(bed.count(table).await, 0, "{table}");
    }
    // Notifications keep their order: one of the batch's would come before this.
    bed.run("NOTIFY wireroom_queue, 'after'").await;
    let heard = tokio::time::timeout(BOUND, listener.recv()).await.unwrap().unwrap();
    assert_eq!(heard.payload(), "after");
}

#[tokio::test]
async fn who_waits_for_a_key_gets_it_when_the_other_is_undone() {
    let bed = Bed::new().await;
    let mut first = bed.pool().begin().await.unwrap();
    let entry = keyed(OnConflict::Reject);
    unique_keys::enqueue(&mut first, None, &[entry], AGEING).await.unwrap();
    let waits = keyed(OnConflict::Reject);
    let second = async {
        let mut conn = bed.pool().acquire().await.unwrap();
        unique_keys::enqueue(&mut conn, None, std::slice::from_ref(&waits), AGEING)
            .await
            .unwrap()
    };
    let undone = async {
        bed.until_blocked().await;
        first.rollback().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(second, undone);
    assert_eq!(outcome, [Enqueued::Created(waits.job.id)]);
}

#[tokio::test]
async fn who_waits_for_a_key_sees_the_job_that_came_with_it() {
    let bed = Bed::new().await;
    for on_conflict in [OnConflict::Reject, OnConflict::ReturnExisting, OnConflict::Replace] {
        bed.run("TRUNCATE jobs, unique_keys").await;
        let mut first = bed.pool().begin().await.unwrap();
        let entry = keyed(OnConflict::Reject);
        let holder = entry.job.id;
        unique_keys::enqueue(&mut first, None, &[entry], AGEING).await.unwrap();
        let second = async {
            let mut conn = bed.pool().begin().await.unwrap();
            let outcome = unique_keys::enqueue(&mut conn, None, &[keyed(on_conflict)], AGEING)
                .await
                .unwrap();
            conn.commit().await.unwrap();
            outcome
        };
        let commits = async {
            bed.until_blocked().await;
            first.commit().await.unwrap();
        };
        let (outcome, ()) = tokio::join!(second, commits);
        let expected = match on_conflict {
            OnConflict::Reject => Enqueued::Conflict(holder),
            OnConflict::ReturnExisting => Enqueued::Existing(holder),
            OnConflict::Replace => Enqueued::Replaced(holder),
        };
        assert_eq!(outcome, [expected]);
        assert_eq!(bed.count("SELECT count(*) FROM jobs").await, 1);
    }
}
