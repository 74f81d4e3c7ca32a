//! The database is away: what clients, operators and people at a terminal are told, and that it passes by itself.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    process::Process,
    stack::{Options, Stack},
    wait::eventually,
};

const BOUND: Duration = Duration::from_secs(30);

/// Words of the inside, which are nobody's business outside of the logs.
const INSIDE: [&str; 5] = ["pool", "sqlx", "postgres", "127.0.0.1", "connection"];

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_has_a_code_of_its_own_and_passes() {
    let mut stack = Stack::with(Options {
        own_server: true,
        accounts: vec![],
        variables: vec![
            ("WIREROOM_DATABASE_ACQUIRE_SECONDS", "0.5".to_owned()),
            ("WIREROOM_LOG_FORMAT", "json".to_owned()),
        ],
        ..Options::default()
    })
    .await;
    stack.get("/v1/jobs").await;
    stack.database.halt().await;

    let job = json!({ "kind": "join", "args": { "chat": "@harbour_market" } });
    let schedule = json!({ "name": "digest", "cron": "0 9 * * *", "job": job });
    let requests = [
        (Method::GET, "/v1/jobs", None),
        (Method::GET, "/v1/sessions", None),
        (Method::POST, "/v1/jobs", Some(&job)),
        (Method::POST, "/v1/schedules", Some(&schedule)),
        (
            Method::DELETE,
            "/v1/schedules/0190b8a0-0000-7000-8000-000000000000",
            None,
        ),
    ];
    for (number, (method, path, body)) in requests.into_iter().enumerate() {
        let id = format!("away-{number}");
        let mut request = stack.request(method.clone(), path).header("X-Request-Id", &id);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.expect("answered");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
        let again = response.headers().get("retry-after").expect("when to try again");
        assert!(
            again.to_str().is_ok_and(|seconds| seconds.parse::<u32>().is_ok()),
            "{again:?}"
        );
        let problem: Value = response.json().await.expect("problem+json");
        assert_eq!(problem["code"], "database_unavailable", "{method} {path}: {problem}");
        let told = format!("{} {}", problem["title"], problem["detail"]).to_lowercase();
        for word in INSIDE {
            assert!(!told.contains(word), "{method} {path} tells of its inside: {problem}");
        }
        told_once(&stack, &id);
    }
    people_at_a_terminal(&mut stack).await;
    eventually(BOUND, async || {
        let response = stack.request(Method::GET, "/v1/jobs").send().await.expect("answered");
        match response.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("the API answers {status}")),
        }
    })
    .await;
    stack.post_job(job).await;
    stack.finish().await;
}

/// One line with the reason, beside the line that each request has.
fn told_once(stack: &Stack, id: &str) {
    let output = stack.api_output();
    let lines = output.lines().filter(|line| line.contains(id));
    let faults: Vec<Value> = lines
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["level"] == "ERROR")
        .collect();
    let [fault] = faults.as_slice() else {
        panic!("{} faults of {id}: {output}", faults.len());
    };
    assert_eq!(fault["code"], "database_unavailable", "{fault}");
    let sources = fault["error.sources"].to_string();
    assert!(!sources.contains("pool timed out"), "{fault}");
    // The operation, and that nobody answers.
    assert!(
        sources.contains("the database is away") || sources.contains("Connection refused"),
        "{fault}"
    );
}

/// They read where nobody answers and why, and what waits goes on when the server is back.
async fn people_at_a_terminal(stack: &mut Stack) {
    let variables = stack.variables().to_vec();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut doctor = Process::wireroom(&["doctor"], &variables);
    assert!(!doctor.wait_for_end(BOUND).await.success(), "{}", doctor.output());
    let mut listing = Process::wireroom(&["keys", "list"], &variables);
    let waiting = listing.wait_for_line("waiting for it", BOUND).await;
    for text in [doctor.output(), waiting] {
        assert!(text.contains("no connection to 127.0.0.1:"), "{text}");
        assert!(text.contains("Connection refused"), "{text}");
        assert!(!text.contains("pool timed out"), "{text}");
    }
    stack.database.start_again().await;
    assert!(listing.wait_for_end(BOUND).await.success(), "{}", listing.output());
    assert_eq!(
        listing.output().matches("waiting for it").count(),
        1,
        "{}",
        listing.output()
    );
}
