//! Leases between processes: how fast sessions run elsewhere, how few of them move, and what a wrong clock changes.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;
use wireroom_jobs::scan::ports::{MemberList, ScanTelegram};

use super::*;
use crate::support::{
    bystander::Bystander,
    process::Process,
    stack::{Options, START_BOUND, Stack},
};

/// As the stack configures it.
const LEASE: Duration = Duration::from_secs(3);
const ACCOUNTS: [&str; 6] = ["alice", "bob", "dave", "erin", "frank", "grace"];

async fn stack_of(accounts: &[&'static str]) -> Stack {
    Stack::with(Options {
        accounts: accounts.to_vec(),
        ..Options::default()
    })
    .await
}

/// With leases so long that none runs out on a busy machine, and workers that are not soon taken for dead: nothing but what
/// the test is about moves a session.
async fn stack_with_long_leases(accounts: &[&'static str]) -> Stack {
    stack_with_leases_of(accounts, 60).await
}

async fn stack_with_leases_of(accounts: &[&'static str], seconds: u32) -> Stack {
    Stack::with(Options {
        accounts: accounts.to_vec(),
        variables: vec![
            ("WIREROOM_SESSIONS_LEASE_SECONDS", seconds.to_string()),
            ("WIREROOM_QUEUE_WORKER_DEAD_SECONDS", "60".to_owned()),
        ],
        ..Options::default()
    })
    .await
}

/// A time by the database's clock, which knows nothing of how long a test took to look.
async fn time(stack: &Stack, query: &'static str) -> DateTime<Utc> {
    sqlx::query_scalar(query)
        .fetch_one(stack.database.pool())
        .await
        .expect("answered")
}

/// How many sessions each process holds, by pid.
async fn held_by(stack: &Stack, process: &Process) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM session_leases l JOIN workers w ON w.id = l.owner
        WHERE l.expires_at > wireroom_now() AND w.pid = $1",
    )
    .bind(i32::try_from(process.pid()).expect("a pid"))
    .fetch_one(stack.database.pool())
    .await
    .expect("answered")
}

async fn holds(stack: &Stack, process: &Process, count: i64) {
    until("held", async || (held_by(stack, process).await == count).then_some(())).await;
}

/// Sessions whose connection is open at the sandbox: they run.
fn connected(stack: &Stack) -> usize {
    stack.sandbox.controls().connections().len()
}

const TERMS: &str = "SELECT count(*) FROM session_terms";

#[tokio::test(flavor = "multi_thread")]
async fn sharing_levels_within_ten_seconds_and_moves_no_more_than_it_must() {
    let stack = stack_with_long_leases(&ACCOUNTS).await;
    let bystander = Bystander::beside(stack.database.pool());
    let mut first = stack.worker().await;
    holds(&stack, &first, 6).await;
    let second = stack.worker().await;
    let started = time(&stack, "SELECT max(started_at) FROM workers").await;
    holds(&stack, &second, 3).await;
    holds(&stack, &first, 3).await;
    let took = time(&stack, "SELECT max(acquired_at) FROM session_terms").await - started;
    println!("levelled in {took}");
    let levelled = took.to_std().expect("after it came");
    assert!(levelled < Duration::from_secs(10) + bystander.allows(), "{took}");
    assert_eq!(stack.figure(TERMS).await, 9, "three moved");

    first.terminate();
    holds(&stack, &second, 6).await;
    let slowest = "SELECT (extract(epoch FROM max(n.acquired_at - t.released_at)) * 1000)::bigint
        FROM session_terms t JOIN session_terms n ON n.session_id = t.session_id AND n.fence = t.fence + 1";
    let took = stack.figure(slowest).await;
    println!("handed over in {took} ms");
    let allowed = 1000 + bystander.allows().as_millis();
    assert!(
        u128::try_from(took).is_ok_and(|took| took < allowed),
        "given back, and taken {took} ms later, of {allowed}"
    );
    assert_eq!(stack.figure(TERMS).await, 12, "three moved back, and no other");
    assert!(first.wait_for_end(START_BOUND).await.success());
    until("connected", async || (connected(&stack) == 6).then_some(())).await;
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_sessions_run_elsewhere_within_the_lease_and_two_seconds() {
    let stack = stack_of(&ACCOUNTS[..4]).await;
    let bystander = Bystander::beside(stack.database.pool());
    let first = stack.worker().await;
    holds(&stack, &first, 4).await;
    let second = stack.worker().await;
    holds(&stack, &second, 2).await;
    holds(&stack, &first, 2).await;
    until("connected", async || (connected(&stack) == 4).then_some(())).await;
    let killed = time(&stack, "SELECT wireroom_now()").await;
    let at = Instant::now();
    first.kill();
    until("taken over", async || {
        (held_by(&stack, &second).await == 4 && connected(&stack) == 4).then_some(())
    })
    .await;
    let took = time(&stack, "SELECT max(acquired_at) FROM session_terms").await - killed;
    println!("taken over in {took}, connected in {:?}", at.elapsed());
    let bound = LEASE + Duration::from_secs(2) + bystander.allows();
    assert!(took.to_std().is_ok_and(|took| took < bound), "{took} of {bound:?}");
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deploys_every_few_seconds_under_load_lose_nothing_and_never_connect_twice() {
    const ROUNDS: usize = 5;
    let stack = stack_of(&ACCOUNTS[..3]).await;
    let mut worker = stack.worker().await;
    stack.succeed("join", json!({ "chat": "@harbour_market" })).await;
    let mut jobs = Vec::new();
    for round in 0..ROUNDS {
        for account in &ACCOUNTS[..3] {
            let join = json!({ "kind": "join", "session": account, "args": { "chat": "@harbour_market" } });
            jobs.push(stack.post_job(join).await);
            let text = format!("round {round} of {account}");
            let say =
                json!({ "kind": "publish", "session": account, "args": { "chat": "@harbour_market", "text": text } });
            jobs.push(stack.post_job(say).await);
            let scan = json!({ "kind": "scan", "session": account,
                "args": { "chat": "@harbour_market", "what": "members", "purpose": "a test" } });
            jobs.push(stack.post_job(scan).await);
        }
        let next = stack.worker().await;
        worker.terminate();
        assert!(worker.wait_for_end(START_BOUND).await.success(), "{}", worker.output());
        worker = next;
    }
    for job in &jobs {
        let ended = stack.finished(job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
    for round in 0..ROUNDS {
        for account in &ACCOUNTS[..3] {
            let text = format!("round {round} of {account}");
            assert_eq!(stack.count_messages("harbour_market", &text), 1, "{text}");
        }
    }
    let unhealthy = "SELECT count(*) FROM sessions WHERE state <> 'ready'";
    assert_eq!(stack.figure(unhealthy).await, 0);
    stack.finish().await;
}

/// Ten minutes off, as a worker's clock may be.
struct WrongClock(TimeDelta);

impl Clock for WrongClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + self.0
    }
}

#[tokio::test]
async fn a_clock_ten_minutes_off_opens_no_gate_early_and_takes_no_lease() {
    let world = World::with_accounts(2).await;
    let of = |minutes: i64| {
        let settings = holder_settings(WorkerId::generate(), world.telegram.clone());
        let clock = Arc::new(WrongClock(TimeDelta::minutes(minutes)));
        Holder::start(world.database.pool().clone(), world.vault.clone(), clock, settings).unwrap()
    };
    for minutes in [10, -10] {
        let wrong = of(minutes);
        let session = held(&wrong, 2).await.remove(0);
        let right = world.holder();
        // Long enough for the leases to be renewed more than once over.
        let renewed = "SELECT count(*) FROM session_leases WHERE renewed_at > acquired_at + interval '4 seconds'";
        until("renewed", async || (world.count(renewed).await == 2).then_some(())).await;
        assert_eq!(
            (wrong.held().len(), right.held().len()),
            (2, 0),
            "the lease is the database's to time"
        );
        let (telegram, _) = port_of(&session);
        let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
        let flood = Fault::once("channels.getParticipants", Effect::flood_wait(60));
        world.sandbox.controls().add_fault(flood);
        let flooded = telegram.members(&chat, &MemberList::Recent, 0, 10).await.unwrap_err();
        let (from, to) = (
            SystemClock.now() + TimeDelta::seconds(50),
            SystemClock.now() + TimeDelta::seconds(80),
        );
        assert!(
            matches!(flooded.decision, Decision::Gate { until } if until > from && until < to),
            "{minutes} minutes off: {flooded:?}"
        );
        let calls = world.sandbox.controls().calls();
        assert!(telegram.members(&chat, &MemberList::Recent, 0, 10).await.is_err());
        assert_eq!(world.sandbox.controls().calls(), calls, "the gate is closed here too");
        assert_eq!(session.closed_actions(), [Action::Read]);
        wrong.shutdown(BOUND).await;
        held(&right, 2).await;
        right.shutdown(BOUND).await;
        sqlx::raw_sql("DELETE FROM gates")
            .execute(world.database.pool())
            .await
            .unwrap();
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_over_the_api_is_made_by_the_holder_and_a_stopped_one_is_told() {
    // Renewals are minutes apart, and the API waits for seconds: whoever answers in time was told.
    let stack = stack_with_leases_of(&["alice"], 600).await;
    let worker = stack.worker().await;
    holds(&stack, &worker, 1).await;
    until("connected", async || (connected(&stack) == 1).then_some(())).await;
    let list = stack.get("/v1/sessions").await;
    let path = format!("/v1/sessions/{}/check", list["items"][0]["id"].as_str().expect("an id"));
    let answer = stack.request(Method::POST, &path).send().await.expect("answered");
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(answer["ok"], true, "{answer}");
    worker.pause();
    let late = stack.request(Method::POST, &path).send().await.expect("answered");
    assert_eq!(late.status(), 504);
    worker.resume();
    drop(worker);
}
