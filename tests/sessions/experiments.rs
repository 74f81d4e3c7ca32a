//! The lease experiments: what is done to workers, how often, how many connections of one key the sandbox sees, and how long
//! it takes until the sessions run elsewhere. Each prints a row of the table in `docs/SESSIONS.md`. A round of each is a test;
//! `EXPERIMENT_ROUNDS` asks for more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tokio::time::Instant;
use wireroom::sandbox::{Misuse, call::UserId};

use super::*;
use crate::support::{
    bystander::Bystander,
    process::Process,
    stack::{Options, START_BOUND, Stack},
};

/// As the stack configures it.
const LEASE: Duration = Duration::from_secs(3);
const ACCOUNTS: [&str; 6] = ["alice", "bob", "dave", "erin", "frank", "grace"];

fn rounds() -> usize {
    let asked = std::env::var("EXPERIMENT_ROUNDS").ok();
    asked.map_or(1, |rounds| rounds.parse().expect("a number of rounds"))
}

/// What an experiment saw.
struct Seen {
    what: &'static str,
    rounds: usize,
    took: Vec<Duration>,
    /// Connections of one key that were open at the same time, at most.
    open: usize,
    bystander: Bystander,
}

impl Seen {
    fn new(what: &'static str, database: &PgPool) -> Self {
        Self {
            what,
            rounds: 0,
            took: Vec::new(),
            open: 1,
            bystander: Bystander::beside(database),
        }
    }

    fn add(&mut self, took: impl IntoIterator<Item = Duration>) {
        self.rounds += 1;
        self.took.extend(took);
    }

    /// Prints the row, and asserts that nothing took longer than `bound`, and what a busy machine takes.
    fn report(mut self, bound: Duration) {
        self.took.sort();
        let at = |percent: usize| {
            let place = (self.took.len() * percent).div_ceil(100);
            self.took[place.saturating_sub(1)].as_secs_f64()
        };
        println!(
            "| {} | {} | {} | {} | {:.2} s | {:.2} s | {:.2} s |",
            self.what,
            self.rounds,
            self.took.len(),
            self.open,
            at(50),
            at(99),
            at(100)
        );
        let slowest = *self.took.last().expect("something was seen");
        let allowed = self.bystander.allows();
        assert!(
            slowest < bound + allowed,
            "{}: {slowest:?}, allowed {allowed:?}",
            self.what
        );
    }
}

async fn stack_of(accounts: &[&'static str]) -> Stack {
    Stack::with(Options {
        accounts: accounts.to_vec(),
        // A transaction that a worker leaves behind must not hold a lease for longer than the lease would run.
        variables: vec![("WIREROOM_DATABASE_IDLE_TRANSACTION_SECONDS", "1".to_owned())],
        ..Options::default()
    })
    .await
}

/// The connection of each account that is open and speaks.
fn connections(stack: &Stack) -> BTreeMap<UserId, u64> {
    let open = stack.sandbox.controls().connections().into_iter();
    // Oldest first: of two, the newer one stays.
    open.filter_map(|open| Some((open.account?, open.connection))).collect()
}

/// The accounts whose sessions a process holds.
async fn accounts_of(stack: &Stack, process: &Process) -> BTreeSet<UserId> {
    let held: Vec<i64> = sqlx::query_scalar(
        "SELECT s.account_id FROM session_leases l JOIN workers w ON w.id = l.owner JOIN sessions s ON s.id = l.session_id
        WHERE l.expires_at > wireroom_now() AND w.pid = $1",
    )
    .bind(i32::try_from(process.pid()).expect("a pid"))
    .fetch_all(stack.database.pool())
    .await
    .expect("answered");
    held.into_iter().collect()
}

/// Waits until each process holds so many, and every one of them is connected.
async fn settled(stack: &Stack, shares: &[(&Process, usize)]) {
    let all: usize = shares.iter().map(|(_, share)| share).sum();
    until("settled", async || {
        for (process, share) in shares {
            if accounts_of(stack, process).await.len() != *share {
                return None;
            }
        }
        (connections(stack).len() == all).then_some(())
    })
    .await;
}

/// How long it takes from `since` until each of these accounts has another connection than `before`.
async fn moved(
    before: &BTreeMap<UserId, u64>,
    accounts: &BTreeSet<UserId>,
    stack: &Stack,
    since: Instant,
) -> Vec<Duration> {
    let mut left = accounts.clone();
    let mut took = Vec::new();
    let moving = async {
        while !left.is_empty() {
            let now = connections(stack);
            left.retain(|account| {
                let has_moved = now
                    .get(account)
                    .is_some_and(|connection| before.get(account) != Some(connection));
                if has_moved {
                    took.push(since.elapsed());
                }
                !has_moved
            });
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND * 2, moving).await.expect("they run elsewhere in time");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_workers_that_race_connect_each_session_once() {
    const WORKERS: usize = 10;
    const SESSIONS: usize = 8;
    let world = World::with_accounts(SESSIONS).await;
    let mut seen = Seen::new("ten workers race for free leases", world.database.pool());
    for _ in 0..rounds() {
        let began = Instant::now();
        // None knows of another, so that each would take all.
        let holders: Vec<_> = (0..WORKERS).map(|_| world.holder()).collect();
        let held = async || {
            let held: usize = holders.iter().map(|holder| holder.held().len()).sum();
            (held == SESSIONS).then_some(())
        };
        until("held", held).await;
        seen.add([began.elapsed()]);
        let mut sessions = BTreeSet::new();
        for holder in &holders {
            for session in holder.held() {
                assert!(sessions.insert(session.id), "held twice");
            }
        }
        assert_eq!(world.sandbox.controls().connections().len(), SESSIONS);
        futures::future::join_all(holders.iter().map(|holder| holder.shutdown(BOUND))).await;
        assert_eq!(
            world
                .count("SELECT count(*) FROM session_leases WHERE owner IS NOT NULL")
                .await,
            0
        );
    }
    assert_eq!(world.sandbox.incidents(), [], "no key from two places");
    seen.report(BOUND);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_killed_worker_run_elsewhere_within_the_lease_and_two_seconds() {
    let stack = stack_of(&ACCOUNTS[..4]).await;
    let mut seen = Seen::new("SIGKILL, lease 3 s", stack.database.pool());
    let mut first = stack.worker().await;
    settled(&stack, &[(&first, 4)]).await;
    for _ in 0..rounds() {
        let second = stack.worker().await;
        settled(&stack, &[(&first, 2), (&second, 2)]).await;
        let (before, accounts) = (connections(&stack), accounts_of(&stack, &first).await);
        let killed = Instant::now();
        first.kill();
        seen.add(moved(&before, &accounts, &stack, killed).await);
        first = second;
        settled(&stack, &[(&first, 4)]).await;
    }
    seen.report(LEASE + Duration::from_secs(2));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_stopped_worker_run_elsewhere_within_a_second() {
    let stack = stack_of(&ACCOUNTS[..4]).await;
    let mut seen = Seen::new("SIGTERM, idle", stack.database.pool());
    let mut first = stack.worker().await;
    settled(&stack, &[(&first, 4)]).await;
    for _ in 0..rounds() {
        let second = stack.worker().await;
        settled(&stack, &[(&first, 2), (&second, 2)]).await;
        let (before, accounts) = (connections(&stack), accounts_of(&stack, &first).await);
        let told = Instant::now();
        first.terminate();
        seen.add(moved(&before, &accounts, &stack, told).await);
        assert!(first.wait_for_end(START_BOUND).await.success(), "{}", first.output());
        first = second;
        settled(&stack, &[(&first, 4)]).await;
    }
    // The second is from its release; here the signal, the drain and the new connection count, too.
    let given_back = "SELECT (extract(epoch FROM max(n.acquired_at - t.released_at)) * 1000)::bigint
        FROM session_terms t JOIN session_terms n ON n.session_id = t.session_id AND n.fence = t.fence + 1";
    let slowest = stack.figure(given_back).await;
    println!("given back, and taken {slowest} ms later at most");
    let allowed = 1000 + seen.bystander.allows().as_millis();
    assert!(
        u128::try_from(slowest).is_ok_and(|took| took < allowed),
        "{slowest} ms of {allowed}"
    );
    seen.report(Duration::from_secs(5));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_sends_nothing_when_it_wakes_up_after_its_lease() {
    let stack = stack_of(&ACCOUNTS[..2]).await;
    let mut seen = Seen::new("SIGSTOP past the lease, then SIGCONT; lease 3 s", stack.database.pool());
    seen.open = 2;
    let mut frozen = stack.worker().await;
    settled(&stack, &[(&frozen, 2)]).await;
    for _ in 0..rounds() {
        let (before, accounts) = (connections(&stack), accounts_of(&stack, &frozen).await);
        let stopped = Instant::now();
        frozen.pause();
        let next = stack.worker().await;
        seen.add(moved(&before, &accounts, &stack, stopped).await);
        frozen.resume();
        let one_each = async || {
            let open: Vec<_> = stack.sandbox.controls().connections();
            (open.len() == 2
                && connections(&stack)
                    .values()
                    .all(|id| !before.values().any(|old| old == id)))
            .then_some(())
        };
        until("the old connections are closed", one_each).await;
        // It wakes as another worker than the one it was: its share is the other's until it ends.
        frozen.terminate();
        assert!(frozen.wait_for_end(START_BOUND).await.success(), "{}", frozen.output());
        frozen = next;
        settled(&stack, &[(&frozen, 2)]).await;
    }
    let misuse = stack.sandbox.controls().take_incidents();
    assert!(
        misuse.iter().all(|incident| incident.kind == Misuse::OpenTwice),
        "bytes of one key came from two places: {misuse:?}"
    );
    seen.report(LEASE + Duration::from_secs(2) + START_BOUND / 10);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_off_from_postgres_hangs_up_before_another_one_connects() {
    let stack = stack_of(&ACCOUNTS[..4]).await;
    let proxy = TcpProxy::to_url(stack.database.url()).await;
    let through = [("DATABASE_URL", proxy.rewrite(stack.database.url()))];
    let mut seen = Seen::new("Postgres cut off by a proxy, lease 3 s", stack.database.pool());
    let steady = stack.worker().await;
    settled(&stack, &[(&steady, 4)]).await;
    for _ in 0..rounds() {
        let mut cut_off = stack.worker_with(&through).await;
        settled(&stack, &[(&steady, 2), (&cut_off, 2)]).await;
        let (before, accounts) = (connections(&stack), accounts_of(&stack, &cut_off).await);
        let cut = Instant::now();
        proxy.blackhole();
        seen.add(moved(&before, &accounts, &stack, cut).await);
        proxy.resume();
        cut_off.terminate();
        cut_off.wait_for_end(START_BOUND).await;
        settled(&stack, &[(&steady, 4)]).await;
    }
    seen.report(LEASE + Duration::from_secs(2));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deploys_under_load_move_sessions_in_seconds_and_lose_nothing() {
    let stack = stack_of(&ACCOUNTS[..3]).await;
    let mut seen = Seen::new("deploys (start new, stop old) under load", stack.database.pool());
    let mut old = stack.worker().await;
    settled(&stack, &[(&old, 3)]).await;
    for account in &ACCOUNTS[..3] {
        let join = json!({ "kind": "join", "session": account, "args": { "chat": "@harbour_market" } });
        let joined = stack.post_job(join).await;
        assert_eq!(stack.finished(&joined).await["state"], "succeeded");
    }
    let mut jobs = Vec::new();
    for round in 0..rounds() * 2 {
        for account in &ACCOUNTS[..3] {
            for number in 0..5 {
                let text = format!("deploy {round} of {account}: {number}");
                let args = json!({ "chat": "@harbour_market", "text": text });
                let job = json!({ "kind": "publish", "session": account, "args": args });
                jobs.push((stack.post_job(job).await, text));
            }
        }
        let new = stack.worker().await;
        let (before, accounts) = (connections(&stack), accounts_of(&stack, &old).await);
        let told = Instant::now();
        old.terminate();
        seen.add(moved(&before, &accounts, &stack, told).await);
        assert!(old.wait_for_end(START_BOUND).await.success(), "{}", old.output());
        old = new;
    }
    for (job, text) in &jobs {
        let ended = stack.finished(job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        assert_eq!(stack.count_messages("harbour_market", text), 1, "{text}");
    }
    seen.report(Duration::from_secs(10));
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_levels_the_sessions_and_moves_no_more_than_its_share() {
    let stack = stack_of(&ACCOUNTS).await;
    let mut seen = Seen::new(
        "a worker comes: levelled, half of six sessions moved",
        stack.database.pool(),
    );
    let first = stack.worker().await;
    settled(&stack, &[(&first, 6)]).await;
    for _ in 0..rounds() {
        let before = connections(&stack);
        let mut second = stack.worker().await;
        let came = Instant::now();
        settled(&stack, &[(&first, 3), (&second, 3)]).await;
        seen.add([came.elapsed()]);
        let now = connections(&stack);
        let moved = before
            .iter()
            .filter(|(account, id)| now.get(account) != Some(id))
            .count();
        assert_eq!(moved, 3, "as few as possible");
        second.terminate();
        second.wait_for_end(START_BOUND).await;
        settled(&stack, &[(&first, 6)]).await;
    }
    seen.report(Duration::from_secs(10));
    stack.finish().await;
}
