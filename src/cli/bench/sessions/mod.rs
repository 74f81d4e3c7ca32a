//! What do held sessions cost, and how fast do they hear? A made-up Telegram in a process of its own, one real worker process
//! that holds all its accounts over real connections on the loopback address, and this one, which looks on.

mod arrivals;
mod hook;
mod renewals;
pub(super) mod report;
pub mod telegram;
mod telethon;
pub mod worker;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

pub use self::report::Report;
use self::{
    report::{Hook, Quantiles, Telethon, kilobytes_each, megabytes, most_within_a_second, percent},
    telegram::{Account, Telegram},
    worker::Worker,
};
use super::{Target, figures, now_us, say, site::Site};
use crate::{
    cli::descriptors,
    config::Secret,
    ids::SessionId,
    sessions::{self, ImportAccount},
    store::bench_sessions::{CountedBy, StatementCounter},
    vault::Vault,
};

/// How long all sessions may take to connect.
const START: Duration = Duration::from_mins(10);
/// After a start, before anything is looked at: what was allocated for it is given back by then.
const SETTLE: Duration = Duration::from_secs(5);
/// Logins at a time.
const LOGINS: usize = 8;
/// The most connections of the measurement of the write hook: each takes six descriptors of this process.
const MOST_HOOKS: u32 = 1_000;
/// The most accounts that Telethon is given.
const MOST_TELETHON: usize = 200;
/// How many sessions are written to, to see what they keep of it, and how often each.
const RECEIVERS: usize = 50;
const RECEIVED: usize = 64;
const POOL: &str = "default";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Accounts that are held.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    accounts: u32,
    /// How many seconds of idling, and then of messages.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Private messages a second.
    #[arg(long, value_name = "R", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Sessions that get them, each with a job running.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    busy: u32,
    /// A Python that has telethon 1.45.0: it then holds up to 200 of the same accounts for as long.
    #[arg(long, value_name = "PATH")]
    telethon: Option<PathBuf>,
}

/// A session and its account.
pub(super) type Held = (SessionId, Account);

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    descriptors::raise_limit();
    let telegram = Telegram::start(telegram::Args {
        accounts: args.accounts,
        ..telegram::Args::default()
    })
    .await?;
    let (vault, master_keys) = telegram::vault()?;
    let mut variables = telegram.variables();
    variables.push(master_keys);
    variables.push(("WIREROOM_SESSIONS_MAX", args.accounts.max(1).to_string()));
    let mut report = Report {
        test: "sessions",
        accounts: args.accounts,
        idle_secs: args.secs,
        ..Report::default()
    };
    say("looking at a worker without sessions");
    let base = base(site, &variables).await?;
    report.base_mb = megabytes(base);
    say(&format!("logging {} accounts in", args.accounts));
    let held = log_in(site, &telegram, &vault).await?;
    site.settle().await?;
    hold(args, site, &telegram, &variables, &held, base, &mut report).await?;
    say("renewing all leases again and again");
    let renewals = renewals::measure(site, held.len()).await?;
    report.renewals = Quantiles::of(renewals.whole);
    report.renewal_commits = Quantiles::of(renewals.commits);
    say("sending packets with and without the relay");
    let connections = usize::try_from(args.accounts.min(MOST_HOOKS))?;
    report.hook = Hook::of(connections, &hook::measure(connections).await?);
    if let Some(python) = &args.telethon {
        say("letting Telethon hold the same accounts");
        let accounts = &telegram.accounts[..telegram.accounts.len().min(MOST_TELETHON)];
        let held = telethon::measure(python, &telegram, accounts, args.secs).await?;
        report.telethon = Some(Telethon::of(&held));
    }
    telegram.end().await?;
    Ok(report)
}

/// Resident memory in bytes of a worker that has nothing to hold.
async fn base(site: &Site, variables: &[(&'static str, String)]) -> anyhow::Result<u64> {
    let worker = Worker::start(site, variables).await?;
    sleep(SETTLE).await;
    let base = worker.resident()?;
    worker.end().await?;
    Ok(base)
}

/// Logs every account in over the network, as `session import-sandbox` does.
pub(super) async fn log_in(site: &Site, telegram: &Telegram, vault: &Vault) -> anyhow::Result<Vec<Held>> {
    let pool = site.pool(u32::try_from(LOGINS)?)?;
    let config = telegram.config()?;
    sessions::verify_master_keys(&pool, vault).await?;
    let logins = telegram.accounts.iter().map(|account| {
        let (pool, config) = (&pool, &config);
        async move {
            let login = ImportAccount {
                label: account.username.clone(),
                pool: POOL.to_owned(),
                phone: Secret::new(account.phone.clone()),
                code: Telegram::login_code(),
                password: None,
            };
            let imported = sessions::import(pool, vault, config, &login).await?;
            anyhow::Ok((imported.id, account.clone()))
        }
    });
    let held = stream::iter(logins).buffered(LOGINS).try_collect().await;
    pool.close().await;
    held.context("an account was not logged in")
}

/// All that is measured of the worker while it holds the sessions.
async fn hold(
    args: &Args,
    site: &Site,
    telegram: &Telegram,
    variables: &[(&'static str, String)],
    held: &[Held],
    base: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    say("starting the worker");
    let begun = now_us();
    let mut worker = Worker::start(site, variables).await?;
    let all = held.len();
    worker
        .until("connect all sessions", START, |seen| {
            seen.answers.len() >= all && seen.reading.len() >= all
        })
        .await?;
    let seen = worker.seen();
    let secs_until = |times: &[i64]| {
        let last = times.iter().max().map_or(0, |last| last - begun);
        figures::rounded(figures::micros_to_secs(last), 2)
    };
    report.start_secs = secs_until(&seen.answers);
    report.reading_secs = secs_until(&seen.reading);
    report.most_connects_per_s = most_within_a_second(&seen.dials);
    sleep(SETTLE).await;
    report.session_kb = kilobytes_each(worker.resident()?, base, all);
    idle(args, site, &worker, report).await?;
    report.idle_session_kb = kilobytes_each(worker.resident()?, base, all);
    say(&format!("writing {} messages a second for {} s", args.rate, args.secs));
    let to = &held[..all.min(usize::try_from(args.busy)?)];
    let plan = arrivals::Plan {
        telegram,
        to,
        rate: args.rate,
        secs: args.secs,
    };
    let arrived = arrivals::measure(&plan, site).await?;
    report.arrivals = Quantiles::of(arrived.latencies);
    report.arrival_rate = args.rate;
    report.arrival_sessions = to.len();
    report.busy_percent = figures::rounded(arrived.busy_per_cent, 1);
    report.received_session_kb = figures::rounded(
        report.idle_session_kb + received(telegram, &worker, &held[to.len()..]).await?,
        1,
    );
    report.received_each = RECEIVED;
    let seen = worker.seen();
    report.own_renewals = Quantiles::of(seen.renewals);
    report.complaints = seen.complaints;
    worker.end().await
}

/// How many kilobytes a session keeps of the messages that it got, over what it had before.
async fn received(telegram: &Telegram, worker: &Worker, idle: &[Held]) -> anyhow::Result<f64> {
    let receivers = &idle[..idle.len().min(RECEIVERS)];
    say(&format!(
        "writing {RECEIVED} messages to each of {} sessions",
        receivers.len()
    ));
    // What the scans had taken is given back by then.
    sleep(SETTLE).await;
    let before = worker.resident()?;
    let mut writer = telegram.writer().await?;
    for _ in 0..RECEIVED {
        for (_, account) in receivers {
            writer.write(account, "Is anybody there?").await?;
        }
    }
    sleep(SETTLE).await;
    Ok(kilobytes_each(worker.resident()?, before, receivers.len()))
}

/// CPU and statements of a worker whose sessions have nothing to do. This process asks the database nothing meanwhile.
async fn idle(args: &Args, site: &Site, worker: &Worker, report: &mut Report) -> anyhow::Result<()> {
    say(&format!("idle for {} s", args.secs));
    let counter = StatementCounter::start(site.inside()).await?;
    if counter.by == CountedBy::PgStatDatabase {
        say("pg_stat_statements is not in this database: transactions are counted, not statements");
    }
    report.statements_by = counter.by.as_str();
    let cpu = worker.cpu_us()?;
    sleep(Duration::from_secs(args.secs.into())).await;
    report.idle_cpu_percent = percent(worker.cpu_us()? - cpu, args.secs);
    let statements = counter.end().await?.unsigned_abs();
    report.idle_statements_per_s = figures::rounded(figures::count(statements) / f64::from(args.secs), 2);
    Ok(())
}
