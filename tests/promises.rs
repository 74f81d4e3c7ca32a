//! Promises of a durable queue, tried on real processes that die or are told to stop.

use std::time::Duration;

use serde_json::{Value, json};
use wireroom::sandbox::{Effect, Fault};

use crate::support::{
    process::Process,
    stack::{Options, Stack, patience},
    wait::eventually,
};

const BOUND: Duration = Duration::from_mins(1);

fn scan() -> Value {
    json!({ "what": "members", "chat": "@big_bazaar", "purpose": "a test of promises" })
}

/// After some pages none comes any more, until the faults are cleared.
fn held_pages(stack: &Stack) {
    stack.fault(Fault::once("channels.getParticipants", Effect::Delay { ms: 0 }).times(6));
    stack.fault(Fault::once("channels.getParticipants", Effect::Hold).forever());
}

async fn until_under_way(stack: &Stack, id: &str) -> Value {
    let wanted = |job: &Value| job["state"] == "running" && job["progress"]["done"].as_i64() >= Some(400);
    stack.job_when(id, "under way", wanted).await
}

async fn final_rows(stack: &Stack, id: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM finished_jobs WHERE id = $1::uuid")
        .bind(id)
        .fetch_one(stack.database.pool())
        .await
        .expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_killed_in_the_middle_runs_again_after_a_restart_under_any_name_with_one_result() {
    for renamed in [false, true] {
        let stack = Stack::patient().await;
        let first = stack.worker().await;
        held_pages(&stack);
        let id = stack.post("scan", scan()).await;
        let before = until_under_way(&stack, &id).await;
        first.kill();
        if renamed {
            sqlx::query("UPDATE workers SET host = 'another.example.com', pid = 1")
                .execute(stack.database.pool())
                .await
                .expect("renamed");
        }
        // On the same machine, under the same name: only its identity is new.
        let _restarted = stack.worker().await;
        stack.sandbox.controls().clear_faults();
        let job = stack.finished(&id).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        assert_ne!(job["worker"], before["worker"], "a new start is a new worker");
        assert_eq!(final_rows(&stack, &id).await, 1, "one final result");
        let attempts = stack.get(&format!("/v1/jobs/{id}/attempts")).await;
        let outcomes: Vec<&Value> = attempts["items"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|attempt| &attempt["outcome"])
            .collect();
        assert_eq!(outcomes, ["succeeded", "orphaned"], "renamed: {renamed}");
        stack.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_workers_die_ends_failed_and_the_next_job_runs() {
    let stack = Stack::patient().await;
    held_pages(&stack);
    let deadly = stack.post("scan", scan()).await;
    let harmless = stack.post("join", json!({ "chat": "@harbour_market" })).await;
    for crash in 1..=3 {
        let worker = stack.worker().await;
        let seen = until_started(&stack, &deadly).await;
        assert_eq!(seen, i64::from(crash), "the attempt that dies");
        worker.kill();
    }
    let _last = stack.worker().await;
    let job = stack.finished(&deadly).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("worker_crashed")),
        "{job}"
    );
    stack.sandbox.controls().clear_faults();
    let job = stack.finished(&harmless).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    stack.finish().await;
}

/// Waits until the start of an attempt by the newest worker is stored; returns its fence.
async fn until_started(stack: &Stack, id: &str) -> i64 {
    eventually(BOUND, async || {
        let started: Option<i64> = sqlx::query_scalar(
            "SELECT j.fence FROM jobs j JOIN workers w ON w.id = j.worker_id
             WHERE j.id = $1::uuid AND j.state = 'running' AND j.started_at IS NOT NULL
                AND NOT EXISTS (SELECT FROM workers o WHERE o.started_at > w.started_at)",
        )
        .bind(id)
        .fetch_optional(stack.database.pool())
        .await
        .expect("answered");
        started.ok_or("not started")
    })
    .await
}

/// The tick's job is inserted and its row is not: the moment in which a crash could make a job without a tick, which the next
/// worker would give a second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_tick_leaves_one_job_per_tick() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    let schedule = stack.schedule_each_second("@harbour_market").await;
    stack.ticks_go_on(1).await;
    let mut stall = stack.database.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE schedule_ticks IN SHARE MODE")
        .execute(&mut *stall)
        .await
        .expect("locked");
    let in_the_middle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND state = 'active' AND query LIKE '-- record_ticks%'";
    eventually(BOUND, async || match stack.figure(in_the_middle).await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    worker.kill();
    let _next = stack.worker().await;
    stall.rollback().await.expect("released");
    stack.ticks_go_on(4).await;
    stack.end_of_each_second(&schedule).await;
    eventually(BOUND, async || match stack.figure("SELECT count(*) FROM jobs").await {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_does_not_decode_ends_failed_and_not_in_a_loop() {
    let stack = Stack::start().await;
    // As a job of an older version, whose args this one does not read.
    let id = stack.post("join", json!({ "chat": "@harbour_market" })).await;
    let changed = sqlx::query("UPDATE jobs SET args = '{\"chatt\": \"@harbour_market\"}' WHERE id = $1::uuid")
        .bind(&id)
        .execute(stack.database.pool())
        .await
        .expect("changed");
    assert_eq!(changed.rows_affected(), 1);
    let _worker = stack.worker().await;
    let job = stack.finished(&id).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("args_invalid")),
        "{job}"
    );
    assert_eq!(job["attempt"], 1, "{job}");
    assert_eq!(stack.calls("channels.joinChannel"), 0);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_short_jobs_finish_and_nothing_is_claimed() {
    let stack = Stack::with(Options {
        accounts: vec!["alice", "bob"],
        variables: vec![patience()],
        ..Options::default()
    })
    .await;
    let mut worker = stack.worker().await;
    stack.fault(Fault::once("channels.joinChannel", Effect::Hold));
    let short = stack.post("join", json!({ "chat": "@harbour_market" })).await;
    stack.job_when(&short, "running", |job| job["state"] == "running").await;
    eventually(BOUND, async || match stack.calls("channels.joinChannel") {
        0 => Err("not yet with Telegram"),
        _ => Ok(()),
    })
    .await;
    worker.terminate();
    until_draining(&stack).await;
    // A slot of the other session is free, and the process still runs.
    let later = stack.post("join", json!({ "chat": "@big_bazaar" })).await;
    assert!(worker.is_alive());
    stack.sandbox.controls().clear_faults();
    let status = worker.wait_for_end(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{}", worker.output());
    let job = stack.job(&short).await;
    assert_eq!(job["state"], "succeeded", "a short job finishes: {job}");
    let job = stack.job(&later).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("queued"), &json!(0)), "{job}");
    let attempts = stack.get(&format!("/v1/jobs/{later}/attempts")).await;
    assert_eq!(attempts["items"], json!([]), "claimed after SIGTERM");
    let held = "SELECT count(*) FROM session_leases WHERE owner IS NOT NULL";
    assert_eq!(stack.figure(held).await, 0, "its leases are released");
    stack.finish().await;
}

async fn until_draining(stack: &Stack) {
    eventually(BOUND, async || {
        let draining = stack
            .figure("SELECT count(*) FROM workers WHERE state = 'draining'")
            .await;
        if draining == 1 { Ok(()) } else { Err("not draining") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_claimed_by_a_worker_that_dies_before_they_start_come_back_within_a_bound() {
    let stack = Stack::with(Options {
        accounts: vec!["alice", "bob"],
        ..Options::default()
    })
    .await;
    // Stopped at its claim: the jobs are its own, and none of them has begun.
    let worker: Process = stack.worker().await;
    eventually(BOUND, async || {
        let held = stack
            .figure("SELECT count(*) FROM session_leases WHERE expires_at > wireroom_now()")
            .await;
        if held == 2 { Ok(()) } else { Err(held) }
    })
    .await;
    worker.pause();
    let ids = [
        stack.post("join", json!({ "chat": "@harbour_market" })).await,
        stack.post("join", json!({ "chat": "@big_bazaar" })).await,
    ];
    let claimed = sqlx::query(
        "UPDATE jobs j SET state = 'running', worker_id = l.owner, session_id = l.session_id, session_fence = l.fence,
            fence = j.fence + 1, attempt = j.attempt + 1, claimed_at = wireroom_now()
         FROM (SELECT *, row_number() OVER (ORDER BY session_id) AS n FROM session_leases) l,
            (SELECT id, row_number() OVER (ORDER BY id) AS n FROM jobs) k
         WHERE l.n = k.n AND j.id = k.id",
    )
    .execute(stack.database.pool())
    .await
    .expect("claimed");
    assert_eq!(claimed.rows_affected(), 2);
    worker.kill();
    let _next = stack.worker().await;
    // Lease and heartbeat are over after 3 s each.
    let bound = Duration::from_secs(20);
    for id in ids {
        let job = tokio::time::timeout(bound, stack.finished(&id))
            .await
            .expect("within the bound");
        assert_eq!(
            (&job["state"], &job["attempt"]),
            (&json!("succeeded"), &json!(1)),
            "refunded: {job}"
        );
    }
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_whose_row_is_gone_gets_its_jobs_rescued() {
    let stack = Stack::patient().await;
    let worker = stack.worker().await;
    held_pages(&stack);
    let id = stack.post("scan", scan()).await;
    until_under_way(&stack, &id).await;
    worker.kill();
    sqlx::query("DELETE FROM workers")
        .execute(stack.database.pool())
        .await
        .expect("deleted");
    let _next = stack.worker().await;
    stack.sandbox.controls().clear_faults();
    let job = stack.finished(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(final_rows(&stack, &id).await, 1);
    stack.finish().await;
}
