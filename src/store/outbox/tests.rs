use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use sqlx::PgPool;
use wireroom_jobs::JobKind;

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    ids::SessionId,
    store::{
        batches::{self, BatchMode},
        event_consumers,
        event_log::{self, EventFilter, EventRecord},
        jobs::{self, NewJob},
        partitions,
    },
};

fn event(subject: &Subject, number: i64) -> NewEvent {
    NewEvent {
        event_type: EventType::SessionStateChanged,
        subject: subject.clone(),
        data: json!({ "number": number }),
    }
}

async fn moved(pool: &PgPool) -> Sequenced {
    let mut conn = pool.acquire().await.expect("a connection");
    sequence(&mut conn, 1_000).await.expect("sequenced")
}

async fn read_after(pool: &PgPool, after: i64) -> Vec<EventRecord> {
    let head = event_log::extent(pool).await.expect("an extent").head;
    let mut conn = pool.acquire().await.expect("a connection");
    let batch = event_log::read(&mut conn, &EventFilter::default(), after, head, 1_000).await;
    batch.expect("read").events
}

fn numbers(events: &[EventRecord]) -> Vec<i64> {
    events
        .iter()
        .filter_map(|event| event.data["number"].as_i64())
        .collect()
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_not_skipped() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let subject = || Subject::session(SessionId::generate());
    let (early, late) = (subject(), subject());

    let mut slow = pool.begin().await.expect("begun");
    append(&mut slow, &[event(&late, 1)]).await.expect("appended");
    let mut fast = pool.begin().await.expect("begun");
    append(&mut fast, &[event(&early, 2)]).await.expect("appended");
    fast.commit().await.expect("committed");
    assert_eq!(moved(pool).await.moved, 1);
    let first = read_after(pool, 0).await;
    assert_eq!(
        numbers(&first),
        [2],
        "what has not committed is not read, and holds nothing up"
    );
    let place = first[0].position;

    // A transaction with a number of its own that stays open for long keeps nobody back either.
    let mut foreign = pool.begin().await.expect("begun");
    sqlx::query("SELECT pg_current_xact_id()")
        .execute(&mut *foreign)
        .await
        .expect("a number");
    slow.commit().await.expect("committed");
    assert_eq!(moved(pool).await.moved, 1);
    let rest = read_after(pool, place).await;
    assert_eq!(numbers(&rest), [1]);
    assert_eq!(rest[0].position, place + 1, "positions have no holes");

    let mut undone = pool.begin().await.expect("begun");
    append(&mut undone, &[event(&late, 3)]).await.expect("appended");
    undone.rollback().await.expect("rolled back");
    assert_eq!(moved(pool).await.moved, 0);
    assert!(read_after(pool, place + 1).await.is_empty());
}

/// Writes numbers to a subject, each in a transaction that holds the subject's row and commits after a turn or two.
async fn write(pool: PgPool, row: i64, subject: Subject, count: i64) {
    for number in 0..count {
        let mut transaction = pool.begin().await.expect("begun");
        let held: i64 = sqlx::query_scalar("UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING n")
            .bind(row)
            .fetch_one(&mut *transaction)
            .await
            .expect("the subject's row");
        append(&mut transaction, &[event(&subject, held)])
            .await
            .expect("appended");
        for _ in 0..(row + number) % 5 {
            tokio::task::yield_now().await;
        }
        transaction.commit().await.expect("committed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_beside_many_writers_and_sequencers_sees_each_event_once_and_each_subject_in_order() {
    const SUBJECTS: i64 = 4;
    const WRITERS: usize = 2;
    const EACH: i64 = 40;
    let database = TestDatabase::new().await;
    let pool = database.pool();
    sqlx::query("CREATE TABLE counters AS SELECT id, 0::bigint AS n FROM generate_series(0, 3) id")
        .execute(pool)
        .await
        .expect("counters");
    let mut writers = Vec::new();
    for row in 0..SUBJECTS {
        let subject = Subject::session(SessionId::generate());
        for _ in 0..WRITERS {
            writers.push(tokio::spawn(write(pool.clone(), row, subject.clone(), EACH)));
        }
    }
    let written = Arc::new(AtomicBool::new(false));
    let mut sequencers = Vec::new();
    for _ in 0..2 {
        let (pool, written) = (pool.clone(), Arc::clone(&written));
        sequencers.push(tokio::spawn(async move {
            let mut conn = pool.acquire().await.expect("a connection");
            loop {
                let last = written.load(Ordering::SeqCst);
                let sequenced = sequence(&mut conn, 7).await.expect("sequenced");
                if last && sequenced.moved == 0 && !sequenced.is_busy {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    let total = SUBJECTS * EACH * i64::try_from(WRITERS).expect("few");
    let reader = async {
        let (mut place, mut seen, mut latest) = (0, 0, HashMap::new());
        while seen < total {
            for event in read_after(pool, place).await {
                assert_eq!(event.position, place + 1, "no position is skipped");
                place = event.position;
                seen += 1;
                let number = event.data["number"].as_i64().expect("a number");
                let before = latest.insert(event.subject.clone(), number).unwrap_or(0);
                assert_eq!(number, before + 1, "the order of {}", event.subject);
            }
            tokio::task::yield_now().await;
        }
        place
    };
    let (place, ()) = tokio::join!(tokio::time::timeout(Duration::from_mins(1), reader), async {
        for writer in writers {
            writer.await.expect("written");
        }
        written.store(true, Ordering::SeqCst);
    });
    for sequencer in sequencers {
        sequencer.await.expect("sequenced");
    }
    assert_eq!(place.expect("in time"), total);
    assert_eq!(event_log::extent(pool).await.expect("an extent").head, total);
}

#[tokio::test]
async fn while_one_process_gives_out_numbers_no_other_does() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let subject = Subject::session(SessionId::generate());
    let mut conn = pool.acquire().await.expect("a connection");
    append(&mut conn, &[event(&subject, 1)]).await.expect("appended");
    let mut at_it = pool.begin().await.expect("begun");
    assert_eq!(sequence(&mut at_it, 10).await.expect("sequenced").moved, 1);
    append(&mut conn, &[event(&subject, 2)]).await.expect("appended");
    let other = sequence(&mut conn, 10).await.expect("no wait");
    assert_eq!((other.moved, other.is_busy), (0, true));
    at_it.commit().await.expect("committed");
    assert_eq!(sequence(&mut conn, 10).await.expect("sequenced").moved, 1);
    assert_eq!(numbers(&read_after(pool, 0).await), [1, 2]);
}

#[tokio::test]
async fn what_the_release_before_writes_and_deletes_still_works() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    // As its `emit_session_event`, `refuse_application` and `expire_rows` have them.
    sqlx::query("INSERT INTO events (type, subject, data) VALUES ($1, $2, $3)")
        .bind("session.state_changed")
        .bind("session:1")
        .bind(json!({ "number": 1 }))
        .execute(pool)
        .await
        .expect("inserted");
    sqlx::query(
        "WITH refused AS (SELECT 7 AS api_id)
         INSERT INTO events (type, subject, data)
         SELECT 'application.refused', 'application:' || api_id, jsonb_build_object('number', 2) FROM refused",
    )
    .execute(pool)
    .await
    .expect("inserted");
    moved(pool).await;
    assert_eq!(numbers(&read_after(pool, 0).await), [1, 2]);
    sqlx::query("UPDATE event_log SET at = at - interval '99 days'")
        .execute(pool)
        .await
        .expect("aged");
    let deleted: i64 = sqlx::query_scalar(
        "WITH clock AS MATERIALIZED (SELECT wireroom_now() - make_interval(days => 30) AS oldest), old_events AS (
            DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < (SELECT oldest FROM clock) ORDER BY at LIMIT 500)
            RETURNING 1)
         SELECT count(*) FROM old_events",
    )
    .fetch_one(pool)
    .await
    .expect("a delete");
    assert_eq!(deleted, 0, "it asks again until none was deleted");
    let types: Vec<String> = sqlx::query_scalar("SELECT type FROM events ORDER BY id")
        .fetch_all(pool)
        .await
        .expect("read");
    assert_eq!(types, ["session.state_changed", "application.refused"]);
}

#[tokio::test]
async fn a_day_that_was_kept_long_enough_goes_as_a_whole() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let subject = Subject::session(SessionId::generate());
    let mut conn = pool.acquire().await.expect("a connection");
    // The log as it was ten days ago, in a partition of that day.
    sqlx::raw_sql(
        "DO $$ DECLARE day date := (now() AT TIME ZONE 'UTC')::date - 10; BEGIN
            EXECUTE format('CREATE TABLE %I PARTITION OF event_log FOR VALUES FROM (%L) TO (%L)',
                'event_log' || to_char(day, '_YYYYMMDD'), day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
            UPDATE event_sequence SET position = 3, logged_at = day::timestamp AT TIME ZONE 'UTC' + interval '1 hour';
            INSERT INTO event_days (day, first_position) VALUES (day, 1);
            INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
            SELECT n, s.logged_at, s.logged_at, 'session.state_changed', 1, 'session:1', '{}'
            FROM event_sequence s, generate_series(1, 3) n;
        END $$",
    )
    .execute(&mut *conn)
    .await
    .expect("an old day");
    append(&mut conn, &[event(&subject, 4)]).await.expect("appended");
    assert_eq!(moved(pool).await.position, 4);
    let extent = event_log::extent(pool).await.expect("an extent");
    assert_eq!((extent.oldest, extent.head), (1, 4));
    assert_eq!(
        partitions::retire_one(&mut conn, 30).await.expect("looked"),
        None,
        "it is kept for 30 days"
    );
    let mut gone = HashSet::new();
    while let Some(name) = partitions::retire_one(&mut conn, 5).await.expect("retired") {
        gone.insert(name);
    }
    assert_eq!(gone.len(), 1, "{gone:?}");
    let extent = event_log::extent(pool).await.expect("an extent");
    assert_eq!((extent.oldest, extent.head), (4, 4));
    assert_eq!(numbers(&read_after(pool, 3).await), [4]);
    assert!(!partitions::in_default(&mut conn).await.expect("looked"));
}

#[tokio::test]
async fn an_empty_batch_is_told_and_a_job_s_end_only_to_those_who_ask() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let mut conn = pool.acquire().await.expect("a connection");
    let id = crate::ids::BatchId::generate();
    batches::open(&mut conn, id, BatchMode::PerItem, None)
        .await
        .expect("opened");
    batches::close(&mut conn, id, BatchMode::PerItem, 0)
        .await
        .expect("closed");
    let end = "WITH gone AS (DELETE FROM jobs RETURNING *)
        INSERT INTO finished_jobs (id, kind, args, state, lane, pool, session_id, priority, run_at, attempt, max_attempts,
            fence, finished_at, error, tags, created_by, created_at)
        SELECT id, kind, args, 'failed', lane, pool, session_id, priority, run_at, 1, max_attempts, fence, wireroom_now(),
            '{\"code\": \"chat_not_found\", \"message\": \"x\"}', tags, created_by, created_at FROM gone";
    for asks in [false, true] {
        if asks {
            event_consumers::put(&mut conn, "ends", &["job.*".to_owned()], 0)
                .await
                .expect("a consumer");
        }
        let job = NewJob::new(JobKind::Join, json!({ "chat": "@reading_club" }));
        jobs::enqueue(&mut conn, &[job], Duration::ZERO).await.expect("a job");
        sqlx::query(end).execute(&mut *conn).await.expect("ended");
    }
    moved(pool).await;
    let events = read_after(pool, 0).await;
    let types: Vec<&str> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["batch.finished", "job.failed"]);
    assert_eq!(events[1].data["error"], "chat_not_found");
    assert_eq!(
        events[1].subject,
        format!("job:{}", events[1].data["job"].as_str().expect("an id"))
    );
}
