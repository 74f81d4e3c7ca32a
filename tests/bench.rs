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

const HTTP_KEYS: [&str; 8] = [
    "clients",
    "enqueue_per_s",
    "history",
    "post_per_s",
    "post_to_enqueue",
    "routes",
    "rss_mb",
    "test",
];

const SESSIONS_KEYS: [&str; 23] = [
    "accounts",
    "arrival_rate",
    "arrival_sessions",
    "arrivals",
    "base_mb",
    "busy_percent",
    "complaints",
    "hook",
    "idle_cpu_percent",
    "idle_secs",
    "idle_session_kb",
    "idle_statements_per_s",
    "most_connects_per_s",
    "own_renewals",
    "reading_secs",
    "received_each",
    "received_session_kb",
    "renewal_commits",
    "renewals",
    "session_kb",
    "start_secs",
    "statements_by",
    "telethon",
];

/// Leases and heartbeats that are over soon after a kill.
const IMPATIENT: [(&str, &str); 3] = [
    ("WIREROOM_SESSIONS_LEASE_SECONDS", "2"),
    ("WIREROOM_QUEUE_HEARTBEAT_SECONDS", "0.5"),
    ("WIREROOM_QUEUE_WORKER_DEAD_SECONDS", "2"),
];

fn start(database: &TestDatabase, arguments: &str) -> Process {
    start_with(database, arguments, &[])
}

fn start_with(database: &TestDatabase, arguments: &str, variables: &[(&str, &str)]) -> Process {
    let mut all = vec!["bench"];
    all.extend(arguments.split_whitespace());
    all.extend(["--database-url", database.url(), "--json"]);
    Process::wireroom(&all, variables)
}

/// Runs a bench to its good end, and returns the object of its last line.
async fn figures(arguments: &str) -> Value {
    let figures = object(arguments, &[]).await;
    assert_eq!(keys(&figures), KEYS, "{figures}");
    figures
}

async fn object(arguments: &str, variables: &[(&str, &str)]) -> Value {
    let database = TestDatabase::new().await;
    let mut bench = start_with(&database, arguments, variables);
    let status = bench.wait_for_end(BOUND).await;
    let output = bench.output();
    assert!(status.success(), "{output}");
    left_nothing(&database).await;
    last_object(&output)
}

fn last_object(output: &str) -> Value {
    let mut lines = output.lines().rev();
    let last = lines.find(|line| line.starts_with("{\"test\"")).expect("an object");
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn keys(object: &Value) -> Vec<&str> {
    let fields = object.as_object().expect("an object");
    fields.keys().map(String::as_str).collect()
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

/// Runs statements in the schema of a run as soon as it is there; `SCHEMA` stands for it.
async fn sabotage(database: &TestDatabase, statements: &str) {
    let schema = eventually(BOUND, || async {
        let found: Option<String> = sqlx::query_scalar(
            "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname LIKE 'wireroom\\_bench%' AND c.relname = 'finished_jobs_unsuccessful'",
        )
        .fetch_optional(database.pool())
        .await
        .expect("answered");
        found.ok_or("no schema yet")
    })
    .await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.replace("SCHEMA", &schema)))
        .execute(database.pool())
        .await
        .expect("sabotaged");
}

/// A queue that forgets that it is done with a job: as soon as it goes, it is there again.
fn run_again(number: &str) -> String {
    format!(
        "CREATE FUNCTION SCHEMA.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO SCHEMA.jobs (id, kind, args, state, lane, pool, session_id, session_bound, rank, run_at, max_attempts,
                created_at, created_by)
            VALUES (gen_random_uuid(), OLD.kind, OLD.args, 'queued', OLD.lane, OLD.pool, OLD.session_id, true, OLD.rank,
                OLD.run_at, OLD.max_attempts, OLD.created_at, 'again');
            RETURN NULL; END $$;
         CREATE TRIGGER again AFTER DELETE ON SCHEMA.jobs FOR EACH ROW
            WHEN (OLD.args ->> 'i' = '{number}' AND OLD.created_by IS NULL) EXECUTE FUNCTION SCHEMA.again();"
    )
}

#[tokio::test]
async fn a_job_that_is_handled_twice_fails_the_run() {
    let database = TestDatabase::new().await;
    let mut bench = start(&database, "latency --rate 20 --secs 4");
    sabotage(&database, &run_again("60")).await;
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

#[tokio::test]
async fn the_api_is_measured_beside_the_enqueue_and_among_finished_jobs() {
    let figures = object("http --clients 4 --jobs 200 --history 4000 --secs 1 --rate 40", &[]).await;
    assert_eq!(keys(&figures), HTTP_KEYS, "{figures}");
    assert_eq!((&figures["test"], &figures["history"]), (&"http".into(), &4000.into()));
    positive(&figures, &["enqueue_per_s", "post_per_s", "post_to_enqueue"]);
    let routes = figures["routes"].as_array().expect("a list");
    let of = |route: &str, load: &str| {
        let mut found = routes.iter().filter(|one| one["route"] == route && one["load"] == load);
        found.next().unwrap_or_else(|| panic!("no {route} ({load}): {figures}"))
    };
    for route in [
        of("POST /v1/jobs", "closed"),
        of("POST /v1/jobs", "half"),
        of("GET /readyz", "open"),
        of("GET /v1/jobs/{id}", "open"),
        of("GET /v1/jobs", "open"),
        of("GET /v1/jobs?state=failed", "open"),
        of("GET /v1/jobs?session=…", "open"),
        of("GET /v1/jobs?kind=scan, a later page", "open"),
    ] {
        positive(route, &["requests", "rate_per_s", "p50_ms", "p95_ms", "p99_ms"]);
    }
    assert_eq!(of("POST /v1/jobs", "closed")["requests"], 200);
    assert_eq!(of("GET /readyz", "open")["requests"], 40);
}

#[tokio::test]
async fn a_job_that_the_api_accepts_and_loses_fails_the_run() {
    let database = TestDatabase::new().await;
    let mut bench = start(&database, "http --clients 2 --jobs 50 --history 100 --secs 1");
    // As if the answer had been sent before the commit, and the commit had failed.
    let lose = "CREATE FUNCTION SCHEMA.lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM SCHEMA.jobs WHERE id = NEW.id; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER lose AFTER INSERT ON SCHEMA.jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (NEW.created_by LIKE 'key:%') EXECUTE FUNCTION SCHEMA.lose();";
    sabotage(&database, lose).await;
    let status = bench.wait_for_end(BOUND).await;
    let output = bench.output();
    assert!(
        !status.success() && output.contains("the API accepted 55 jobs, and 0 are there"),
        "{output}"
    );
    left_nothing(&database).await;
}

#[tokio::test]
async fn a_soak_survives_its_kills_and_accounts_for_every_job() {
    let figures = object("soak --secs 8 --rate 300 --workers 2 --kill-every 3", &IMPATIENT).await;
    assert_eq!(
        (&figures["test"], &figures["ok"]),
        (&"soak".into(), &true.into()),
        "{figures}"
    );
    let kills = figures["kills"].as_u64().expect("a number");
    assert!((1..=2).contains(&kills), "{figures}");
    assert!(figures["jobs"].as_u64().is_some_and(|jobs| jobs >= 1_500), "{figures}");
    positive(&figures, &["posted", "bytes_per_finished_job", "rate_per_s"]);
    for nothing in ["lost", "twice", "doubled"] {
        assert_eq!(figures[nothing], 0, "{figures}");
    }
}

#[tokio::test]
async fn held_sessions_are_measured_over_real_connections() {
    let figures = object("sessions --accounts 3 --busy 2 --secs 3 --rate 10", &[]).await;
    let mut wanted = SESSIONS_KEYS.to_vec();
    wanted.push("test");
    assert_eq!(keys(&figures), wanted, "{figures}");
    assert_eq!(
        (&figures["test"], &figures["accounts"], &figures["complaints"]),
        (&"sessions".into(), &3.into(), &0.into()),
        "{figures}"
    );
    assert_eq!(figures["most_connects_per_s"], 3, "one connection each: {figures}");
    positive(
        &figures,
        &["start_secs", "reading_secs", "base_mb", "idle_statements_per_s"],
    );
    // Every message of the three seconds was heard of, and none of the first second counts.
    assert_eq!(figures["arrivals"]["count"], 30, "{figures}");
    assert!(figures["own_renewals"]["count"].as_u64() > Some(0), "{figures}");
    positive(&figures, &["busy_percent"]);
    for quantiles in ["arrivals", "renewals", "own_renewals"] {
        positive(&figures[quantiles], &["p50_ms", "p99_ms", "max_ms"]);
    }
    assert_eq!(figures["hook"]["connections"], 3);
    positive(
        &figures["hook"],
        &["look_ns", "plain_us", "relayed_us", "relayed_cpu_us"],
    );
    assert!(figures["telethon"].is_null());
}

#[tokio::test]
async fn a_scan_is_measured_beside_the_bare_loop() {
    let figures = object("scan --rounds 1 --answer-after 1 --crowd 700", &[]).await;
    assert_eq!(
        (
            &figures["test"],
            &figures["rounds"],
            &figures["members"],
            &figures["complaints"]
        ),
        (&"scan".into(), &1.into(), &10_000.into(), &0.into()),
        "{figures}"
    );
    positive(
        &figures,
        &[
            "bare_rate_per_s",
            "scan_rate_per_s",
            "ratio",
            "small_rss_mb",
            "large_rss_mb",
            "crowd_rss_mb",
        ],
    );
    // Its founder is in it, too.
    assert_eq!(figures["crowd_members"], 701, "{figures}");
    null(
        &figures,
        &["telethon_read_per_s", "telethon_store_per_s", "to_telethon"],
    );
}

#[tokio::test]
async fn a_scan_is_measured_beside_telethon() {
    let python = crate::clients::python_that_stores().await;
    let figures = object(&format!("scan --rounds 1 --telethon {}", python.display()), &[]).await;
    assert_eq!(figures["members"], 10_000, "{figures}");
    positive(
        &figures,
        &["telethon_read_per_s", "telethon_store_per_s", "to_telethon"],
    );
}

#[tokio::test]
async fn a_monitor_is_measured_beside_telethon() {
    let python = crate::clients::python_that_stores().await;
    let arguments = "monitor --accounts 2 --chats 6 --rate 20 --secs 2 --telethon";
    let figures = object(&format!("{arguments} {}", python.display()), &[]).await;
    assert_eq!(figures["readable"]["count"], 40, "{figures}");
    let telethon = &figures["telethon"];
    assert_eq!((&telethon["messages"], &telethon["stored"]), (&80.into(), &80.into()));
    assert_eq!(telethon["arrivals"]["count"], 40, "{figures}");
    positive(telethon, &["stored_per_s", "cpu_percent", "mb"]);
    positive(&telethon["arrivals"], &["p50_ms", "p99_ms"]);
}

#[tokio::test]
async fn a_publish_is_measured_against_its_pace_and_beside_the_bare_loop() {
    let figures = object("publish --chats 20 --pace-ms 100", &[]).await;
    assert_eq!(
        (&figures["test"], &figures["chats"], &figures["complaints"]),
        (&"publish".into(), &20.into(), &0.into()),
        "{figures}"
    );
    positive(
        &figures,
        &[
            "ideal_secs",
            "publish_secs",
            "bare_rate_per_s",
            "publish_rate_per_s",
            "ratio",
        ],
    );
}

/// A soak that is to fail; what it wrote.
async fn failed_soak(statements: &str) -> String {
    let database = TestDatabase::new().await;
    let mut bench = start_with(
        &database,
        "soak --secs 4 --rate 200 --workers 1 --kill-every 60",
        &IMPATIENT,
    );
    sabotage(&database, statements).await;
    let status = bench.wait_for_end(BOUND).await;
    let output = bench.output();
    assert!(!status.success(), "{output}");
    assert_eq!(last_object(&output)["ok"], false, "{output}");
    left_nothing(&database).await;
    output
}

#[tokio::test]
async fn a_soak_notices_a_job_that_was_lost() {
    let output = failed_soak(
        "CREATE FUNCTION SCHEMA.lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER lose BEFORE INSERT ON SCHEMA.finished_jobs FOR EACH ROW
            WHEN (NEW.args ->> 'i' = '100') EXECUTE FUNCTION SCHEMA.lose();",
    )
    .await;
    assert!(output.contains("the soak is not good: 1 job(s) were lost"), "{output}");
}

#[tokio::test]
async fn a_soak_notices_a_job_that_ran_twice() {
    let output = failed_soak(&run_again("100")).await;
    assert!(
        output.contains("1 job(s) have two results") && output.contains("1 job(s) were run more than once"),
        "{output}"
    );
}
