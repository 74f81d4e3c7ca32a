//! Every role a process of its own, over one database, as README's "Separate processes" has it.

use std::time::Duration;

use serde_json::{Value, json};
use wireroom::{cluster::testing::TestDatabase, vault::Vault};

use crate::support::{process::Process, stack::http_client};

const BOUND: Duration = Duration::from_mins(1);

/// Starts a role and waits for `line`.
async fn role(arguments: &[&str], variables: &[(&str, &str)], line: &str) -> (Process, String) {
    let mut process = Process::wireroom(arguments, variables);
    let line = process.wait_for_line(line, BOUND).await;
    (process, line)
}

/// Runs a command to its end, which must be a good one; returns what it wrote.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut process = Process::wireroom(arguments, variables);
    let status = process.wait_for_end(BOUND).await;
    assert!(status.success(), "{arguments:?}: {}", process.output());
    process.output()
}

#[tokio::test]
async fn roles_work_together_as_processes_of_their_own() {
    let database = TestDatabase::new().await;
    let files = tempfile::tempdir().expect("a directory");
    let key_file = files.path().join("sandbox.pem");
    let key_file = key_file.to_str().expect("a UTF-8 path");
    let arguments = ["sandbox", "--listen", "127.0.0.1:0", "--public-key-file", key_file];
    let (sandbox, line) = role(&arguments, &[], "WIREROOM_TELEGRAM_SERVER=").await;
    let server = line.trim_start_matches("WIREROOM_TELEGRAM_SERVER=");
    let master = Vault::generate("test").expect("random").expose().to_owned();
    let variables = [
        ("DATABASE_URL", database.url()),
        ("WIREROOM_MASTER_KEYS", &master),
        ("WIREROOM_TELEGRAM_SERVER", server),
        ("WIREROOM_TELEGRAM_SERVER_KEY", key_file),
        ("WIREROOM_API_LISTEN", "127.0.0.1:0"),
    ];
    run(&["session", "import-sandbox", "alice"], &variables).await;
    let key = run(&["keys", "create", "--label", "me", "--scope", "operator"], &variables).await;
    let examined = run(&["doctor"], &variables).await;
    for part in ["database", "migrations", "master keys", "telegram"] {
        assert!(examined.contains(part), "doctor says nothing of the {part}: {examined}");
    }
    let other = Vault::generate("test").expect("random").expose().to_owned();
    let mut misfit = variables;
    misfit[1].1 = &other;
    let mut doctor = Process::wireroom(&["doctor"], &misfit);
    assert!(!doctor.wait_for_end(BOUND).await.success(), "{}", doctor.output());
    assert!(doctor.output().contains("FAIL  master keys"), "{}", doctor.output());
    let (worker, _) = role(&["worker"], &variables, "worker is ready").await;
    let (api, line) = role(&["api"], &variables, "http://127.0.0.1:").await;
    let line: Value = serde_json::from_str(&line).expect("logs are JSON where there is no terminal");
    let url = line["url"].as_str().expect("the address");

    let answer = http_client()
        .post(format!("{url}/v1/jobs"))
        .bearer_auth(key.trim())
        .header("Prefer", "wait=30")
        .json(&json!({ "kind": "join", "args": { "chat": "@harbour_market" } }))
        .send()
        .await
        .expect("answered");
    let job: Value = answer.json().await.expect("JSON");
    assert_eq!(job["state"], "succeeded", "{job}");

    for mut process in [api, worker, sandbox] {
        process.terminate();
        let status = process.wait_for_end(BOUND).await;
        let output = process.output();
        assert_eq!(status.code(), Some(0), "{output}");
    }
    let held: i64 = sqlx::query_scalar("SELECT count(*) FROM session_leases WHERE owner IS NOT NULL")
        .fetch_one(database.pool())
        .await
        .expect("answered");
    assert_eq!(held, 0, "the lease was released");
}
