//! `wireroom bench`: each verb small, the contract of its last line, and that it leaves nothing, however it ends.

use std::time::Duration;

use serde_json::Value;
use wireroom::cluster::testing::TestDatabase;

use crate::support::{process::Process, wait::eventually};

const BOUND: Duration = Duration::from_mins(2);

const KEYS: [&str; 9] = [
    "jobs",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "rate_per_s",
    "rss_mb",
    "secs",
    "test",
    "worker_cpu_us_per_job",
];

fn start(database: &TestDatabase, arguments: &str) -> Process {
    let mut all = vec!["bench"];
    all.extend(arguments.split_whitespace());
    all.extend(["--database-url", database.url(), "--json"]);
    Process::wireroom(&all, &[])
}

/// Runs a bench to its good end, and returns the object of its last line.
async fn figures(arguments: &str) -> Value {
    let database = TestDatabase::new().await;
    let mut bench = start(&database, arguments);
    let status = bench.wait_for_end(BOUND).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    let last = output.lines().last().expect("it wrote something");
    let figures: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output}"));
    let keys: Vec<&str> = figures
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, KEYS, "{last}");
    left_nothing(&database).await;
    figures
}

/// No schema, and no process that still has a connection.
async fn left_nothing(database: &TestDatabase) {
    let schemas: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'wireroom\\_bench%'")
        .fetch_one(database.pool())
        .await
        .expect("answered");
    assert_eq!(schemas, 0);
    eventually(Duration::from_secs(20), || async {
        let connections: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND application_name = 'wireroom'",
        )
        .fetch_one(database.pool())
        .await
        .expect("answered");
        if connections == 0 { Ok(()) } else { Err(connections) }
    })
    .await;
}

fn positive(figures: &Value, keys: &[&str]) {
    for key in keys {
        assert!(
            figures[key].as_f64().is_some_and(|value| value > 0.0),
            "{key}: {figures}"
        );
    }
}

fn null(figures: &Value, keys: &[&str]) {
    for key in keys {
        assert!(figures[key].is_null(), "{key}: {figures}");
    }
}

#[tokio::test]
async fn a_drain_handles_every_job_beside_others() {
    let figures = figures("drain --jobs 500 --sessions 3 --workers 2 --history 200 --future 100").await;
    assert_eq!((&figures["test"], &figures["jobs"]), (&"drain".into(), &500.into()));
    positive(&figures, &["secs", "rate_per_s", "worker_cpu_us_per_job", "rss_mb"]);
    null(&figures, &["p50_ms", "p95_ms", "p99_ms"]);
}

#[tokio::test]
async fn one_session_drains_with_its_slots_printed() {
    let database = TestDatabase::new().await;
    let mut bench = start(&database, "drain --jobs 500");
    let status = bench.wait_for_end(BOUND).await;
    let output = bench.output();
    assert!(
        status.success() && output.contains("2000 bulk slot(s) each"),
        "{output}"
    );
}

#[tokio::test]
async fn an_enqueue_stores_every_job_by_many_producers() {
    let figures = figures("enqueue --jobs 500 --clients 4 --bulk 7").await;
    assert_eq!((&figures["test"], &figures["jobs"]), (&"enqueue".into(), &500.into()));
    positive(&figures, &["secs", "rate_per_s", "worker_cpu_us_per_job", "rss_mb"]);
}

#[tokio::test]
async fn a_latency_run_measures_what_came_after_the_warm_up() {
    let figures = figures("latency --rate 50 --secs 2 --jobs 100 --sessions 2").await;
    assert_eq!((&figures["test"], &figures["jobs"]), (&"latency".into(), &100.into()));
    positive(&figures, &["secs", "p50_ms", "p95_ms", "p99_ms", "rss_mb"]);
    assert!(figures["p50_ms"].as_f64() <= figures["p99_ms"].as_f64(), "{figures}");
}

#[tokio::test]
async fn an_idle_run_holds_for_the_time_asked() {
    let figures = figures("idle --sessions 5 --secs 2 --jobs 0").await;
    assert_eq!((&figures["test"], &figures["jobs"]), (&"idle".into(), &0.into()));
    assert_eq!(figures["secs"], 2.0);
    null(&figures, &["rate_per_s", "p50_ms", "worker_cpu_us_per_job"]);
}

#[tokio::test]
async fn ctrl_c_leaves_nothing() {
    let database = TestDatabase::new().await;
    let mut bench = start(&database, "idle --sessions 2 --workers 2 --secs 3600");
    bench.wait_for_line("idle for 3600 s", BOUND).await;
    bench.interrupt();
    let status = bench.wait_for_end(BOUND).await;
    assert!(
        !status.success() && bench.output().contains("stopped by SIGINT"),
        "{}",
        bench.output()
    );
    left_nothing(&database).await;
}

#[tokio::test]
async fn a_job_that_is_handled_twice_fails_the_run() {
    let database = TestDatabase::new().await;
    let mut bench = start(&database, "latency --rate 20 --secs 4");
    let schema = eventually(BOUND, || async {
        let found: Option<String> = sqlx::query_scalar(
            "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname LIKE 'wireroom\\_bench%' AND c.relname = 'jobs_session'",
        )
        .fetch_optional(database.pool())
        .await
        .expect("answered");
        found.ok_or("no schema yet")
    })
    .await;
    // A queue that forgets that it is done with job 60: as soon as it goes, it is there again.
    let sabotage = format!(
        "CREATE FUNCTION {schema}.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO {schema}.jobs (id, kind, args, state, lane, pool, session_id, session_bound, rank, run_at, max_attempts,
                created_at, created_by)
            VALUES (gen_random_uuid(), OLD.kind, OLD.args, 'queued', OLD.lane, OLD.pool, OLD.session_id, true, OLD.rank,
                OLD.run_at, OLD.max_attempts, OLD.created_at, 'again');
            RETURN NULL; END $$;
         CREATE TRIGGER again AFTER DELETE ON {schema}.jobs FOR EACH ROW
            WHEN (OLD.args ->> 'i' = '60' AND OLD.created_by IS NULL) EXECUTE FUNCTION {schema}.again();"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sabotage))
        .execute(database.pool())
        .await
        .expect("sabotaged");
    let status = bench.wait_for_end(BOUND).await;
    let output = bench.output();
    assert!(
        !status.success() && output.contains("0 were lost and 1 handled more than once"),
        "{output}"
    );
    left_nothing(&database).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let database = TestDatabase::new().await;
    for (arguments, reason) in [
        (
            "latency --rate 10 --secs 2 --jobs 7",
            "--jobs must be --rate times --secs (20)",
        ),
        ("idle --secs 1 --jobs 7", "--jobs is 0 here"),
        ("drain --jobs 0", "--jobs"),
    ] {
        let mut bench = start(&database, arguments);
        let status = bench.wait_for_end(BOUND).await;
        assert!(
            !status.success() && bench.output().contains(reason),
            "{}",
            bench.output()
        );
        left_nothing(&database).await;
    }
}
