//! A seeded simulation: workers of this process over a real Postgres and the sandbox, random operations and faults, and the
//! invariants of DESIGN §3 checked after every step. docs/SIMULATION.md says how to run it for longer and what replays.

mod act;
mod bed;
mod broken;
mod check;
mod draw;
mod faults;
mod model;
mod outreach;
mod plan;
mod settle;
mod time;
mod timetables;
mod watch;
mod watches;
mod worker;

use std::{any::Any, collections::BTreeMap, fmt::Write as _, panic::AssertUnwindSafe};

use futures::{FutureExt as _, StreamExt as _};

use self::{
    bed::Bed,
    draw::steps,
    plan::{Op, Step},
};

/// Steps of each of the fixed seeds.
const STEPS: usize = 60;

/// Runs a list of steps in a bed of its own, and checks after each.
pub async fn run(seed: u64, list: &[Step]) {
    run_in(Bed::new(seed).await, seed, list).await;
}

async fn run_in(mut bed: Bed, seed: u64, list: &[Step]) {
    for (number, step) in list.iter().enumerate() {
        let stepped = async {
            bed.act(&step.op).await;
            act::pause(step.wait_ms).await;
            bed.check().await;
        };
        if let Err(panic) = AssertUnwindSafe(stepped).catch_unwind().await {
            report(seed, list, number, panic.as_ref());
            std::panic::resume_unwind(panic);
        }
    }
    println!(
        "seed {seed}: {} steps, {} jobs, {} of them messages; {} watches told {} messages, {} campaigns reached {} people; {} looks",
        list.len(),
        bed.model.acknowledged.len(),
        bed.drafts_that_publish(),
        bed.model.watches.len(),
        bed.told().await,
        bed.model.campaigns.len(),
        bed.invitations(),
        bed.checker.looks
    );
    bed.end().await;
}

/// The operations up to the one after which something was wrong, and how to do them again.
fn report(seed: u64, list: &[Step], at: usize, panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic");
    let mut said = format!("seed {seed} went wrong at step {at}: {text}\n");
    for (number, step) in list.iter().enumerate().take(at + 1) {
        let _ = writeln!(said, "{number:4} {:?}, then {} ms", step.op, step.wait_ms);
    }
    let _ = write!(
        said,
        "again: WIREROOM_SIMULATION_SEED={seed} WIREROOM_SIMULATION_STEPS={} cargo test --test main \
         simulation::for_longer -- --ignored --nocapture",
        list.len()
    );
    eprintln!("{said}");
}

/// How often each operation is in the lists.
fn tally(lists: impl IntoIterator<Item = Vec<Step>>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for step in lists.into_iter().flatten() {
        *tally.entry(step.op.name()).or_default() += 1;
    }
    tally
}

macro_rules! seeds {
    ($($name:ident: $seed:expr,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            run($seed, &steps($seed, STEPS)).await;
        })*
    };
}

seeds! {
    seed_1: 1,
    seed_2: 2,
    seed_3: 3,
    seed_4: 4,
    seed_5: 5,
    seed_6: 6,
    seed_7: 7,
    seed_8: 8,
}

/// Seeds and steps by the environment. A seed that goes wrong does not stop the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as one likes: docs/SIMULATION.md"]
async fn for_longer() {
    let number = |name: &str, otherwise: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number")),
        Err(_) => otherwise,
    };
    let first = number("WIREROOM_SIMULATION_SEED", 1);
    let seeds = first..first + number("WIREROOM_SIMULATION_SEEDS", 1);
    let at_once = usize::try_from(number("WIREROOM_SIMULATION_AT_ONCE", 1)).expect("fewer at once");
    let count = usize::try_from(number("WIREROOM_SIMULATION_STEPS", 100)).expect("fewer steps");
    if std::env::var("WIREROOM_LOG").is_ok() {
        logs();
    }
    let runs = seeds.clone().map(|seed| async move {
        let run = tokio::spawn(async move { run(seed, &steps(seed, count)).await });
        (seed, run.await.is_ok())
    });
    let ended: Vec<(u64, bool)> = futures::stream::iter(runs).buffer_unordered(at_once).collect().await;
    let wrong: Vec<u64> = ended
        .into_iter()
        .filter(|(_, well)| !well)
        .map(|(seed, _)| seed)
        .collect();
    println!("{:#?}", tally(seeds.map(|seed| steps(seed, count))));
    assert!(wrong.is_empty(), "seeds that went wrong: {wrong:?}");
}

/// What the product says meanwhile, by the filter in `WIREROOM_LOG`.
fn logs() {
    let filter = tracing_subscriber::EnvFilter::from_env("WIREROOM_LOG");
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

#[test]
fn every_operation_is_drawn() {
    let tally = tally((0..40).map(|seed| steps(seed, 60)));
    let drawn = tally.len();
    let some = Op::Settle.name();
    assert!(tally.contains_key(&some) && drawn == 47, "{drawn}: {tally:#?}");
}
