//! Jobs come in: in the caller's transaction, in order, never early, and found without any notification.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use wireroom::{
    ids::{JobId, SessionId},
    queue::Waker,
    store::{
        claims::promote,
        jobs::{EnqueueError, NewJob, enqueue},
    },
};
use wireroom_jobs::{JobError, JobKind, Outcome};

use super::bed::{AGEING, BOUND, Bed, function, job, now};

#[tokio::test]
async fn a_rolled_back_transaction_leaves_no_job() {
    let bed = Bed::new().await;
    let mut transaction = bed.pool().begin().await.unwrap();
    let ids = enqueue(&mut transaction, &[job()], AGEING).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(bed.seen(ids[0]).await, None);
    let mut transaction = bed.pool().begin().await.unwrap();
    let ids = enqueue(&mut transaction, &[job()], AGEING).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(bed.job(ids[0]).await.state, "queued");
}

#[tokio::test]
async fn a_job_is_stored_alike_by_itself_and_among_others() {
    let bed = Bed::new().await;
    let session = bed.session("other").await;
    let in_an_hour = now() + TimeDelta::hours(1);
    let kinds: [NewJob; 4] = [
        job(),
        NewJob {
            session: Some(session),
            priority: -7,
            max_attempts: 9,
            run_at: Some(now() - TimeDelta::hours(1)),
            ..job()
        },
        NewJob {
            pool: Some("other".into()),
            run_at: Some(in_an_hour),
            deadline: Some(in_an_hour),
            limit_key: Some("campaign:spring".into()),
            ..job()
        },
        NewJob {
            kind: JobKind::Scan,
            args: json!({ "deep": [{ "x": "ü" }] }),
            tags: vec!["a".into(), "ü".into()],
            priority: 100,
            created_by: Some("key:1".into()),
            ..job()
        },
    ];
    // By everything but the id and what the clock says.
    let row = "SELECT to_jsonb(j) - '{id,created_at,rank,run_at}'::text[] || jsonb_build_object(
            'age', round((rank + priority * 60000000::bigint - extract(epoch FROM created_at) * 1000000) / 1e9),
            'wait', round(extract(epoch FROM run_at - created_at)),
            'origin', (SELECT limit_key FROM job_origins WHERE job_id = j.id))
        FROM jobs j WHERE id = $1";
    for lone in kinds {
        let with_others = NewJob {
            id: JobId::generate(),
            ..lone.clone()
        };
        bed.enqueue(std::slice::from_ref(&lone)).await;
        bed.enqueue(&[job(), with_others.clone(), job()]).await;
        let mut rows = Vec::new();
        for id in [lone.id, with_others.id] {
            let row: serde_json::Value = sqlx::query_scalar(row).bind(id.0).fetch_one(bed.pool()).await.unwrap();
            rows.push(row);
        }
        assert_eq!(rows[0], rows[1]);
    }
}

#[tokio::test]
async fn a_lone_job_in_the_wrong_place_is_refused_and_named() {
    let bed = Bed::new().await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let wrong = NewJob {
        session: Some(SessionId::generate()),
        ..job()
    };
    let error = enqueue(&mut conn, &[wrong], AGEING).await.unwrap_err();
    assert_eq!(error.field(), Some(("session", 0)), "{error}");
    assert_eq!(bed.count("SELECT count(*) FROM jobs").await, 0);
}

#[tokio::test]
async fn a_batch_with_one_wrong_job_stores_none_and_names_the_field() {
    let bed = Bed::new().await;
    let elsewhere = bed.session("other").await;
    let cases: [(NewJob, &str); 3] = [
        (
            NewJob {
                pool: Some("nowhere".into()),
                ..job()
            },
            "pool",
        ),
        (
            NewJob {
                session: Some(SessionId::generate()),
                ..job()
            },
            "session",
        ),
        (
            NewJob {
                session: Some(elsewhere),
                pool: Some("default".into()),
                ..job()
            },
            "session",
        ),
    ];
    for (wrong, field) in cases {
        let mut conn = bed.pool().acquire().await.unwrap();
        let error = enqueue(&mut conn, &[job(), wrong], AGEING).await.unwrap_err();
        assert_eq!(error.field(), Some((field, 1)), "{error}");
        assert!(!matches!(error, EnqueueError::Store(_)));
    }
    assert_eq!(bed.count("SELECT count(*) FROM jobs").await, 0);
    let id = bed
        .enqueue_one(NewJob {
            session: Some(elsewhere),
            tags: vec!["a\"b".into(), "c".into()],
            ..job()
        })
        .await;
    let (pool, tags): (String, Vec<String>) = sqlx::query_as("SELECT pool, tags FROM jobs WHERE id = $1")
        .bind(id.0)
        .fetch_one(bed.pool())
        .await
        .unwrap();
    assert_eq!(
        (pool.as_str(), tags),
        ("other", vec!["a\"b".to_owned(), "c".to_owned()])
    );
}

#[tokio::test]
async fn priority_then_age_then_id_and_priority_ages() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let at = |seconds: i64| Some(now() - TimeDelta::seconds(seconds));
    let run_at = at(10);
    let mut twins = [job(), job()].map(|job| NewJob { run_at, ..job });
    twins.sort_by_key(|job| job.id);
    let older = NewJob {
        run_at: at(30),
        ..job()
    };
    let preferred = NewJob {
        run_at: at(5),
        priority: 1,
        ..job()
    };
    // Two steps of priority are 120 seconds: this one has waited longer than that.
    let patient = NewJob {
        run_at: at(300),
        priority: -2,
        ..job()
    };
    let expected: Vec<JobId> = [&patient, &preferred, &older, &twins[0], &twins[1]]
        .map(|job| job.id)
        .to_vec();
    let [first, second] = twins;
    bed.enqueue(&[second, older, first, patient, preferred]).await;
    let claimed = bed.claim(worker, session, fence, "default", 10).await;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_future_job_is_never_early() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let id = bed
        .enqueue_one(NewJob {
            run_at: Some(now() + TimeDelta::hours(1)),
            ..job()
        })
        .await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let early = promote(&mut conn, 10).await.unwrap();
    assert_eq!(early.promoted, 0);
    let next_in = early.next_in.expect("one is ahead");
    assert!(
        next_in > Duration::from_secs(3590) && next_in <= Duration::from_hours(1),
        "{next_in:?}"
    );
    assert!(bed.claim(worker, session, fence, "default", 1).await.is_empty());
    assert_eq!(bed.job(id).await.state, "scheduled");
    bed.move_clock(3601).await;
    let due = promote(&mut conn, 10).await.unwrap();
    assert_eq!((due.promoted, due.next_in), (1, None));
    assert_eq!(bed.job(id).await.state, "queued");
}

#[tokio::test]
async fn a_full_promotion_says_that_more_are_due() {
    let bed = Bed::new().await;
    let later = Some(now() + TimeDelta::hours(1));
    bed.enqueue(&[job(), job(), job()].map(|job| NewJob { run_at: later, ..job }))
        .await;
    bed.move_clock(3700).await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let first = promote(&mut conn, 2).await.unwrap();
    assert_eq!((first.promoted, first.next_in), (2, Some(Duration::ZERO)));
    assert_eq!(promote(&mut conn, 2).await.unwrap().promoted, 1);
}

#[tokio::test]
async fn the_dispatcher_promotes_at_the_next_due_time() {
    let bed = Bed::new().await;
    let running = bed.start(1, function(|_| async { Outcome::Done(1.into()) })).await;
    let jobs = [NewJob {
        run_at: Some(now() + TimeDelta::milliseconds(700)),
        ..job()
    }];
    let id = bed.enqueue(&jobs).await[0];
    running.waker.enqueued(&jobs, None);
    bed.until_state(id, "succeeded").await;
    assert_eq!(
        bed.count("SELECT count(*) FROM finished_jobs WHERE started_at < run_at")
            .await,
        0
    );
}

#[tokio::test]
async fn a_lost_notification_is_found_by_polling() {
    let bed = Bed::new().await;
    let _running = bed.start(1, function(|_| async { Outcome::Done(1.into()) })).await;
    let id = bed.enqueue_one(job()).await;
    bed.until_state(id, "succeeded").await;
}

#[tokio::test]
async fn who_waits_for_a_job_hears_of_its_end_and_not_of_a_retry() {
    let bed = Bed::new().await;
    let runner = function(|attempt| async move {
        if attempt.job.attempt == 1 {
            Outcome::Retry(JobError::transient("x", "x"))
        } else {
            Outcome::Done(1.into())
        }
    });
    let session = bed.session("default").await;
    let slow_poll = wireroom::config::QueueConfig {
        poll: Duration::from_hours(1),
        ..super::bed::config()
    };
    let _running = bed.start_on(session, 1, runner, slow_poll).await;
    let api = Waker::start(bed.pool().clone());
    let mut watch = api.watch_finished();
    let heard = async {
        loop {
            let id = bed.enqueue_one(job()).await;
            api.enqueued(&[job()], None);
            // The bells may not have begun to listen yet.
            if tokio::time::timeout(Duration::from_secs(1), watch.finished(id))
                .await
                .is_ok()
            {
                return id;
            }
        }
    };
    let id = tokio::time::timeout(BOUND, heard).await.expect("an announcement");
    // It had been announced only once the retry was over too.
    assert_eq!(bed.job(id).await.state, "succeeded");
}

#[tokio::test]
async fn a_rollback_leaves_no_job_and_no_notification() {
    let bed = Bed::new().await;
    let mut listener = sqlx::postgres::PgListener::connect_with(bed.pool()).await.unwrap();
    listener.listen("wireroom_queue").await.unwrap();
    let mut transaction = bed.pool().begin().await.unwrap();
    let gone = enqueue(&mut transaction, &[job()], AGEING).await.unwrap()[0];
    transaction.rollback().await.unwrap();
    // Also a commit says nothing by itself: what it notified would make commits wait for each other.
    let mut transaction = bed.pool().begin().await.unwrap();
    let kept = enqueue(&mut transaction, &[job()], AGEING).await.unwrap()[0];
    transaction.commit().await.unwrap();
    // Notifications come in the order of commits: had there been any, this would not be the first.
    sqlx::query("SELECT pg_notify('wireroom_queue', 'the test')")
        .execute(bed.pool())
        .await
        .unwrap();
    let heard = tokio::time::timeout(BOUND, listener.recv())
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(heard.payload(), "the test");
    assert_eq!(bed.seen(gone).await, None);
    assert_eq!(bed.job(kept).await.state, "queued");
}

#[tokio::test]
async fn a_low_priority_is_not_starved_for_ever() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    let low = bed.enqueue_one(NewJob { priority: -10, ..job() }).await;
    // One slot, and each minute another job of a higher priority: there is always one that goes first.
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(rounds <= 25, "it was passed over {rounds} times");
        bed.enqueue_one(NewJob {
            run_at: Some(now() + TimeDelta::minutes(rounds)),
            priority: 10,
            ..job()
        })
        .await;
        bed.run("UPDATE jobs SET state = 'queued' WHERE state = 'scheduled'")
            .await;
        let claimed = bed.claim(worker, session, fence, "default", 1).await;
        assert_eq!(claimed.len(), 1);
        if claimed[0].id == low {
            break;
        }
    }
    // Twenty steps of priority are twenty minutes of age.
    assert!(rounds >= 20, "priority counts for something: claimed in round {rounds}");
}
