//! Partitions, retention, and what a beat says.

use wireroom::{
    config::QueueConfig,
    ids::JobId,
    store::{
        audit,
        partitions::{ensure_ahead, expire_rows, in_default, retire_one},
        vacuum::{Vacuumed, vacuum_jobs},
        workers::{WorkerState, beat},
    },
};
use wireroom_jobs::Outcome;

use super::bed::{BOUND, Bed, config, facts, function, job, jobs};
use crate::support::wait::eventually;

#[tokio::test]
async fn partitions_exist_ahead_and_are_made_once() {
    let bed = Bed::new().await;
    let mut conn = bed.pool().acquire().await.unwrap();
    ensure_ahead(&mut conn, 7).await.unwrap();
    assert_eq!(ensure_ahead(&mut conn, 7).await.unwrap(), 0);
    assert_eq!(ensure_ahead(&mut conn, 9).await.unwrap(), 6);
    assert!(!in_default(&mut conn).await.unwrap());
}

#[tokio::test]
async fn old_days_are_detached_then_dropped_and_young_ones_stay() {
    let bed = Bed::new().await;
    bed.run(
        "CREATE TABLE finished_jobs_20200101 PARTITION OF finished_jobs FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z');
         CREATE TABLE job_attempts_20200101 PARTITION OF job_attempts FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')",
    )
    .await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let mut retired = Vec::new();
    while let Some(name) = retire_one(&mut conn, 30).await.unwrap() {
        retired.push(name);
        assert!(retired.len() < 20, "it comes to an end: {retired:?}");
    }
    retired.sort();
    assert_eq!(
        retired,
        [
            "finished_jobs_20200101",
            "finished_jobs_20200101",
            "job_attempts_20200101",
            "job_attempts_20200101"
        ]
    );
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '^finished_jobs_[0-9]{8}$'";
    assert!(bed.count(left).await >= 8);
}

#[tokio::test]
async fn a_stopped_worker_stays_stopped_whatever_beat_comes_late() {
    let bed = Bed::new().await;
    let mut conn = bed.pool().acquire().await.unwrap();
    let facts = facts();
    let state = async || -> String {
        sqlx::query_scalar("SELECT state FROM workers WHERE id = $1")
            .bind(facts.id.0)
            .fetch_one(bed.pool())
            .await
            .unwrap()
    };
    for said in [WorkerState::Running, WorkerState::Draining, WorkerState::Stopped] {
        beat(&mut conn, &facts, said, &[]).await.unwrap();
        assert_eq!(state().await, said.as_str());
    }
    // Beats that were under way when the process said its last.
    for late in [WorkerState::Draining, WorkerState::Running] {
        beat(&mut conn, &facts, late, &[]).await.unwrap();
        assert_eq!(state().await, "stopped");
    }
}

#[tokio::test]
async fn old_rows_go_in_batches_and_live_effects_stay() {
    let bed = Bed::new().await;
    let live = bed.enqueue_one(job()).await;
    let session = bed.session("default").await;
    for (id, random) in [(live, 1_i64), (JobId::generate(), 2), (JobId::generate(), 3)] {
        sqlx::query(
            "INSERT INTO job_effects (job_id, chat_id, session_id, random_id, prepared_at)
             VALUES ($1, 5, $2, $3, wireroom_now() - interval '40 days')",
        )
        .bind(id.0)
        .bind(session.0)
        .bind(random)
        .execute(bed.pool())
        .await
        .unwrap();
    }
    let mut conn = bed.pool().acquire().await.unwrap();
    assert_eq!(expire_rows(&mut conn, 30, 2).await.unwrap(), 2);
    while expire_rows(&mut conn, 30, 2).await.unwrap() > 0 {}
    assert_eq!(bed.count("SELECT count(*) FROM job_effects").await, 1);
}

#[tokio::test]
async fn the_audit_log_loses_what_is_older_than_a_year_and_nothing_else() {
    let bed = Bed::new().await;
    bed.run(
        "INSERT INTO audit_log (at, actor, action, subject)
         SELECT wireroom_now() - make_interval(days => n), 'cli', 'x', 'x' FROM unnest(ARRAY[500, 400, 366, 364, 1]) n",
    )
    .await;
    let mut conn = bed.pool().acquire().await.unwrap();
    assert_eq!(audit::expire(&mut conn, 2).await.unwrap(), 2);
    while audit::expire(&mut conn, 2).await.unwrap() > 0 {}
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 2);
    for statement in ["DELETE FROM audit_log", "UPDATE audit_log SET actor = 'nobody'"] {
        let refused = sqlx::query(statement)
            .execute(bed.pool())
            .await
            .expect_err("append-only");
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
}

#[tokio::test]
async fn a_beat_tells_what_was_lost_and_what_is_to_be_cancelled() {
    let bed = Bed::new().await;
    let (worker, session, fence) = bed.worker_with_session().await;
    bed.enqueue(&[job(), job(), job()]).await;
    let claimed = bed.claim(worker, session, fence, "default", 3).await;
    let running: Vec<(JobId, i64)> = claimed.iter().map(|job| (job.id, job.fence)).collect();
    let mut conn = bed.pool().acquire().await.unwrap();
    let mut facts = facts();
    facts.id = worker;
    assert!(
        beat(&mut conn, &facts, WorkerState::Running, &running)
            .await
            .unwrap()
            .is_empty()
    );
    sqlx::query("UPDATE jobs SET cancel_requested_at = wireroom_now() WHERE id = $1")
        .bind(running[0].0.0)
        .execute(bed.pool())
        .await
        .unwrap();
    sqlx::query("UPDATE jobs SET fence = fence + 1 WHERE id = $1")
        .bind(running[1].0.0)
        .execute(bed.pool())
        .await
        .unwrap();
    bed.run("DELETE FROM workers").await;
    let unwanted = beat(&mut conn, &facts, WorkerState::Draining, &running).await.unwrap();
    let mut said: Vec<_> = unwanted.iter().map(|attempt| (attempt.id, attempt.lost)).collect();
    said.sort();
    let mut expected = [(running[0].0, false), (running[1].0, true)];
    expected.sort();
    assert_eq!(said, expected);
    assert_eq!(
        bed.count("SELECT count(*) FROM workers WHERE state = 'draining'").await,
        1
    );
}

#[tokio::test]
async fn a_step_that_fails_keeps_none_of_the_others_from_their_work() {
    let bed = Bed::new().await;
    bed.run(
        "CREATE TABLE finished_jobs_20200101 PARTITION OF finished_jobs FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z');
         ALTER TABLE job_logs RENAME TO job_logs_elsewhere; ALTER TABLE audit_log RENAME TO audit_log_elsewhere",
    )
    .await;
    assert_eq!(wireroom::queue::keep_house(bed.pool(), 30).await, 2);
    let left = "SELECT count(*) FROM pg_class WHERE relname = 'finished_jobs_20200101'";
    assert_eq!(bed.count(left).await, 0, "the last step was done");
    bed.run("ALTER TABLE job_logs_elsewhere RENAME TO job_logs; ALTER TABLE audit_log_elsewhere RENAME TO audit_log")
        .await;
    assert_eq!(wireroom::queue::keep_house(bed.pool(), 30).await, 0);
}

/// Vacuums of the live table that somebody asked for, by Postgres' own count.
const VACUUMS: &str = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'jobs'";

#[tokio::test]
async fn a_worker_that_has_ended_many_jobs_vacuums_the_live_table() {
    let bed = Bed::new().await;
    let session = bed.session("default").await;
    let config = QueueConfig {
        vacuum_after: 50,
        ..config()
    };
    let runner = function(|_| async { Outcome::Done(1.into()) });
    let _running = bed.start_on(session, 10, runner, config).await;
    bed.enqueue(&jobs(60)).await;
    eventually(BOUND, async || match bed.count(VACUUMS).await {
        0 => Err("no vacuum"),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn who_does_not_own_the_live_table_leaves_it_to_autovacuum() {
    let bed = Bed::new().await;
    let role = format!("reader_{}", JobId::generate().0.simple());
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD 'made-up'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(make))
        .execute(bed.pool())
        .await
        .unwrap();
    let options = bed
        .pool()
        .connect_options()
        .as_ref()
        .clone()
        .username(&role)
        .password("made-up");
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let refused = vacuum_jobs(&pool).await.unwrap();
    pool.close().await;
    let drop = format!("DROP ROLE {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop))
        .execute(bed.pool())
        .await
        .unwrap();
    assert_eq!(refused, Vacuumed::NotOwner);
    assert_eq!(vacuum_jobs(bed.pool()).await.unwrap(), Vacuumed::Done);
}
