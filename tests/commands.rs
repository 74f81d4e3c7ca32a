//! The commands, as a person or a supervisor meets them: what they refuse, what they leave behind, how they end.

use std::{collections::HashMap, net::TcpListener, path::Path, time::Duration};

use serde_json::{Value, json};
use wireroom::{
    cluster::testing::TestDatabase,
    sandbox::{Effect, Fault},
};

use crate::support::{
    process::Process,
    stack::{Options, Stack, http_client, patience},
};

const BOUND: Duration = Duration::from_mins(1);

/// An empty database: [`TestDatabase`] is a migrated one, so its schema goes.
async fn empty_database() -> TestDatabase {
    let database = TestDatabase::new().await;
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .execute(database.pool())
        .await
        .expect("emptied");
    database
}

/// Runs a command to its end; whether it succeeded, and all it wrote.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let mut process = Process::wireroom(arguments, variables);
    let status = process.wait_for_end(BOUND).await;
    (status.success(), process.output())
}

async fn refused(arguments: &[&str], variables: &[(&str, &str)], reason: &str) {
    let (succeeded, output) = run(arguments, variables).await;
    assert!(!succeeded, "{arguments:?} succeeded: {output}");
    assert!(
        output.contains(reason),
        "{arguments:?} did not say {reason:?}: {output}"
    );
}

#[tokio::test]
async fn two_migrations_at_once_succeed_and_a_third_finds_nothing_to_do() {
    let database = empty_database().await;
    let variables = [("DATABASE_URL", database.url())];
    let ((first, one), (second, other)) = tokio::join!(run(&["migrate"], &variables), run(&["migrate"], &variables));
    assert!(first && second, "{one}{other}");
    let (third, output) = run(&["migrate"], &variables).await;
    assert!(third && output.contains("up to date"), "{output}");
}

#[tokio::test]
async fn a_database_that_is_not_migrated_is_refused_with_the_remedy() {
    let database = empty_database().await;
    for role in ["api", "keys list"] {
        let arguments: Vec<&str> = role.split(' ').collect();
        refused(
            &arguments,
            &[("DATABASE_URL", database.url())],
            "run `wireroom migrate`",
        )
        .await;
    }
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_refused_by_every_role() {
    let database = TestDatabase::new().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'of tomorrow', true, '', 0)",
    )
    .execute(database.pool())
    .await
    .expect("inserted");
    let variables = [
        ("DATABASE_URL", database.url()),
        (
            "WIREROOM_MASTER_KEYS",
            "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
    ];
    for role in ["migrate", "api", "worker"] {
        refused(&[role], &variables, "newer Wireroom (migration 99990101000000").await;
    }
}

/// As an older release after its successor was deployed and rolled back.
#[tokio::test]
async fn a_newer_schema_that_admits_this_release_is_run_with_and_warned_of_once() {
    let database = TestDatabase::new().await;
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'of tomorrow', true, '', 0);
         INSERT INTO schema_compatibility SELECT 99990101000000, max(version) FROM _sqlx_migrations
         WHERE version < 99990101000000",
    )
    .execute(database.pool())
    .await
    .expect("inserted");
    let variables = [("DATABASE_URL", database.url()), ("WIREROOM_API_LISTEN", "127.0.0.1:0")];
    let (succeeded, output) = run(&["migrate"], &variables).await;
    assert!(succeeded && output.contains("newer release"), "{output}");
    let (healthy, output) = run(&["doctor"], &variables).await;
    assert!(
        healthy && output.contains("migration 99990101000000 is of a newer Wireroom"),
        "{output}"
    );
    let mut api = Process::wireroom(&["api"], &variables);
    let line = api.wait_for_line("http://127.0.0.1:", BOUND).await;
    let (_, address) = line.split_once("http://").expect("waited for");
    let address = address
        .split(|c: char| !c.is_ascii_digit() && !".:".contains(c))
        .next()
        .unwrap_or_default();
    let ready = http_client()
        .get(format!("http://{address}/readyz"))
        .send()
        .await
        .expect("answered");
    assert_eq!(ready.status(), 200);
    let output = api.output();
    assert_eq!(output.matches("migrated by a newer release").count(), 1, "{output}");
}

#[tokio::test]
async fn bad_configuration_is_refused_by_the_variables_name() {
    let url = ("DATABASE_URL", "postgres://nobody@127.0.0.1:9/nothing");
    for role in ["api", "worker", "migrate"] {
        refused(
            &[role],
            &[url, ("WIREROOM_QUEUE_POL_SECONDS", "1")],
            "WIREROOM_QUEUE_POL_SECONDS is not",
        )
        .await;
        refused(&[role], &[url, ("WIREROOM_API_LISTEN", "here")], "WIREROOM_API_LISTEN").await;
        refused(&[role], &[], "DATABASE_URL is not set").await;
    }
}

#[tokio::test]
async fn a_worker_without_master_keys_is_refused_by_name() {
    let database = TestDatabase::new().await;
    refused(
        &["worker"],
        &[("DATABASE_URL", database.url())],
        "WIREROOM_MASTER_KEYS is not set",
    )
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let database = TestDatabase::new().await;
    let variables = [("DATABASE_URL", database.url()), ("WIREROOM_API_LISTEN", &address)];
    refused(&["api"], &variables, &address).await;
    refused(&["dev", "--listen", &address], &[], "--listen").await;
}

#[tokio::test]
async fn doctor_names_what_is_wrong_and_how_to_fix_it() {
    let database = empty_database().await;
    let variables = [("DATABASE_URL", database.url())];
    refused(&["doctor"], &variables, "run `wireroom migrate`").await;
    run(&["migrate"], &variables).await;
    let (healthy, output) = run(&["doctor"], &variables).await;
    assert!(healthy, "{output}");
    refused(
        &["doctor"],
        &[("DATABASE_URL", "postgres://nobody@127.0.0.1:9/nothing")],
        "check DATABASE_URL",
    )
    .await;
}

#[tokio::test]
async fn a_key_is_listed_without_its_secret_and_can_be_revoked() {
    let database = TestDatabase::new().await;
    let variables = [("DATABASE_URL", database.url())];
    let (_, output) = run(&["keys", "create", "--label", "reports"], &variables).await;
    let key = output.trim().to_owned();
    let id = key.split('_').nth(1).expect("wr_<id>_<secret>").to_owned();
    let (_, list) = run(&["keys", "list"], &variables).await;
    assert!(
        list.contains(&id) && list.contains("reports") && !list.contains(&key),
        "{list}"
    );
    let (revoked, output) = run(&["keys", "revoke", &id], &variables).await;
    assert!(revoked, "{output}");
    refused(
        &["keys", "revoke", "0000000000000000"],
        &variables,
        "no key with that id",
    )
    .await;
}

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let (_, printed) = run(&["openapi"], &[]).await;
    let committed = include_str!("../openapi/openapi.json");
    assert_eq!(printed, committed, "run: cargo run -- openapi > openapi/openapi.json");
    let document: Value = serde_json::from_str(&printed).expect("JSON");
    assert!(document["paths"]["/v1/jobs"].is_object());
}

/// A `dev` in `dir` that is ready, on a free port, and what it wrote for scripts.
pub async fn dev(dir: &Path) -> (Process, HashMap<String, String>) {
    let script = "cd \"$0\" && exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_wireroom");
    let place = dir.to_str().expect("a UTF-8 path");
    let arguments = ["-c", script, place, program, "dev", "--listen", "127.0.0.1:0"];
    let mut process = Process::start("/bin/sh", &arguments, &[]);
    process.wait_for_line("Wireroom is ready", BOUND).await;
    let env = std::fs::read_to_string(dir.join(".wireroom/dev.env")).expect("written");
    let values = env
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (process, values)
}

#[tokio::test]
async fn dev_answers_ends_softly_and_leaves_no_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut process, env) = dev(dir.path()).await;
    let sessions: Value = http_client()
        .get(format!("{}/v1/sessions", env["WIREROOM_URL"]))
        .bearer_auth(&env["WIREROOM_API_KEY"])
        .send()
        .await
        .expect("answered")
        .json()
        .await
        .expect("JSON");
    assert!(sessions.to_string().contains("alice"), "{sessions}");
    process.terminate();
    let status = process.wait_for_end(BOUND).await;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    assert!(
        process.output().contains("the worker has stopped"),
        "{}",
        process.output()
    );
    assert!(!process.output().contains("on-release"), "{}", process.output());
    let gone = sqlx::PgPool::connect(&env["DATABASE_URL"]).await;
    assert!(gone.is_err(), "Postgres still answers");
}

#[tokio::test]
async fn the_lines_that_dev_prints_work_when_pasted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut process, _) = dev(dir.path()).await;
    process.wait_for_line("Ctrl-C ends all of it", BOUND).await;
    let output = process.output();
    let lines: Vec<&str> = output.lines().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(lines.len(), 3, "{output}");
    for line in lines {
        let mut shell = Process::start("/bin/sh", &["-c", line], &[]);
        let status = shell.wait_for_end(BOUND).await;
        let answer: Value = serde_json::from_str(&shell.output()).unwrap_or_default();
        assert!(
            status.success() && answer["state"] == "succeeded",
            "{line}: {}",
            shell.output()
        );
    }
    process.interrupt();
    assert_eq!(
        process.wait_for_end(BOUND).await.code(),
        Some(0),
        "{}",
        process.output()
    );
}

#[tokio::test]
async fn dev_keeps_its_key_and_its_sessions_over_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, before) = dev(dir.path()).await;
    let ids = session_ids(&before).await;
    first.kill();
    first.wait_for_end(BOUND).await;
    let (mut second, after) = dev(dir.path()).await;
    assert_eq!(before["WIREROOM_API_KEY"], after["WIREROOM_API_KEY"]);
    assert_eq!(ids, session_ids(&after).await);
    second.interrupt();
    assert_eq!(second.wait_for_end(BOUND).await.code(), Some(0), "{}", second.output());
}

async fn session_ids(env: &HashMap<String, String>) -> Vec<String> {
    let pool = sqlx::PgPool::connect(&env["DATABASE_URL"]).await.expect("connected");
    sqlx::query_scalar("SELECT id::text FROM sessions ORDER BY label")
        .fetch_all(&pool)
        .await
        .expect("answered")
}

#[tokio::test]
async fn the_demo_runs_a_job_of_each_kind_and_ends() {
    let (succeeded, output) = run(&["dev", "--demo", "--listen", "127.0.0.1:0"], &[]).await;
    assert!(succeeded, "{output}");
    let is_told = |part: &str, what: &str| {
        let mut lines = output.lines();
        let is_there = lines.any(|line| line.contains(&format!(" ms {part} ")) && line.contains(what));
        assert!(is_there, "{part} {what}: {output}");
    };
    for kind in ["join", "scan", "publish", "invite"] {
        is_told(kind, "succeeded");
    }
    for (person, outcome) in [
        ("friendly_person", "invited (invited)"),
        ("mallory", "invited (invited)"),
        ("heidi", "basis_unconfirmed (skipped)"),
        ("dave", "suppressed (skipped)"),
    ] {
        is_told("invite", &format!("@{person}: {outcome}"));
    }
    is_told("invite", "is refused: only_scanned");
    is_told("invite", r#"preflight: 3 eligible, left out {"suppressed":1}"#);
    is_told("invite", "webhook  suppression.added");
    is_told("invite", "report: 4 people, 2 invited, 0 refused, 2 skipped, 0 waiting");
    is_told("monitor", "webhook  message.new");
    is_told("monitor", "stopped");
    for event in [
        "campaign.finished 1",
        "job.succeeded 4",
        "job.cancelled 1",
        "watch.stopped 1",
    ] {
        is_told("events", event);
    }
    is_told("events", "each of them came by webhook");
}

#[tokio::test]
async fn a_demo_that_nobody_reads_any_more_ends_quietly() {
    let program = env!("CARGO_BIN_EXE_wireroom");
    let script = format!("{program} dev --demo --listen 127.0.0.1:0 | head -n 1; echo the end");
    let mut shell = Process::start("/bin/sh", &["-c", &script], &[]);
    let status = shell.wait_for_end(BOUND).await;
    let output = shell.output();
    assert!(status.success() && output.contains("Wireroom is ready"), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.last(), Some(&"the end"), "{output}");
    assert!(!output.contains("panicked") && !output.contains("error:"), "{output}");
}

#[tokio::test]
async fn a_demo_that_fails_says_why_and_ends_badly() {
    let database = TestDatabase::new().await;
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no room'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.kind = 'scan') EXECUTE FUNCTION refuse();",
    )
    .execute(database.pool())
    .await
    .expect("made");
    let variables = [("DATABASE_URL", database.url())];
    refused(
        &["dev", "--demo", "--listen", "127.0.0.1:0"],
        &variables,
        "the demo's scan job",
    )
    .await;
}

#[tokio::test]
async fn dev_listens_to_other_machines_only_when_told_twice() {
    refused(&["dev", "--listen", "0.0.0.0:0"], &[], "--allow-remote").await;
}

#[tokio::test]
async fn dev_uses_the_database_it_is_given_and_throws_nothing_of_it_away() {
    let database = empty_database().await;
    let variables = [("DATABASE_URL", database.url())];
    refused(&["dev", "--fresh", "--listen", "127.0.0.1:0"], &variables, "--fresh").await;
    let (succeeded, output) = run(&["dev", "--demo", "--listen", "127.0.0.1:0"], &variables).await;
    assert!(succeeded, "{output}");
    let query = "SELECT kind, count(*) FROM all_jobs WHERE state = 'succeeded' GROUP BY kind ORDER BY kind";
    let succeeded: Vec<(String, i64)> = sqlx::query_as(query)
        .fetch_all(database.pool())
        .await
        .expect("answered");
    // The watch ends by being stopped.
    let wanted =
        [("invite", 1), ("join", 1), ("publish", 1), ("scan", 1)].map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(succeeded, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_worker_at_once() {
    let stack = Stack::with(Options {
        variables: vec![("WIREROOM_SHUTDOWN_SOFT_SECONDS", "300".to_owned()), patience()],
        ..Options::default()
    })
    .await;
    let mut worker = stack.worker().await;
    stack.fault(Fault::once("channels.getParticipants", Effect::Blackhole).forever());
    let args = json!({ "what": "members", "chat": "@big_bazaar", "purpose": "a count" });
    let id = stack.post("scan", args).await;
    stack.job_when(&id, "running", |job| job["state"] == "running").await;
    worker.terminate();
    worker.wait_for_line("shutting down", BOUND).await;
    worker.terminate();
    // The soft step alone would take five minutes.
    worker.wait_for_end(BOUND).await;
}
