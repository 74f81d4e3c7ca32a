//! A long run at a steady rate, with workers that are killed: does it lose a job, run one twice, or grow? Jobs are enqueued in
//! bulk at the rate asked for, some more come over HTTP; each `--kill-every` seconds a worker is killed and replaced; what has
//! finished is checked job by job, and then dropped in slices of a minute, so that a long run needs little disk.

mod account;
mod producer;
mod report;
mod samples;
mod squad;
pub mod worker;

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until};

pub use self::report::Report;
use self::{
    account::Account,
    producer::{Caller, Producer},
    report::Facts,
    samples::{Sample, head, line, trend},
    squad::Squad,
};
use super::{
    Surroundings, Target,
    api::ApiProcess,
    crew::Crew,
    figures::{count, micros_to_secs},
    now_us, say,
    site::{SLOTS_OF_ONE, Site},
};
use crate::ids::SessionId;
use crate::store::{
    PgPool,
    soak::{self, Found, Slice},
};

/// Jobs of the short drain that finds the rate.
const TRIAL: u64 = 200_000;
/// How long a slice of the history is, at most.
const SLICE: Duration = Duration::from_mins(1);
/// After that, nothing is added to a slice any more: longer than any statement may take.
const CLOSED: TimeDelta = TimeDelta::seconds(12);
/// How often sizes are looked at, at most.
const LOOK: Duration = Duration::from_secs(10);
/// Every so many looks make a line of the table.
const LOOKS_A_LINE: usize = 6;
/// Nothing finished for that long although jobs wait: some will never.
const STALL: Duration = Duration::from_mins(2);
/// What a finished job takes on disk, about, before it was measured.
const BYTES_A_JOB: u64 = 600;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// How many seconds.
    #[arg(long, value_name = "S", default_value_t = 1200, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    secs: u32,
    /// Jobs a second [default: half of what a short drain comes to].
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Worker processes; the first is never killed when there are several.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Seconds between two kills.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    kill_every: u32,
}

/// A soak under way.
struct Soak<'a> {
    args: &'a Args,
    rate: u32,
    pool: PgPool,
    slices: Vec<Slice>,
    /// How many of them have been checked and dropped.
    checked: usize,
    /// What was read of the next slice, when a vacuum was in the way of dropping it.
    read: Option<Found>,
    account: Account,
    squad: Squad,
    api: ApiProcess,
    producer: Producer,
    caller: Caller,
    samples: Vec<Sample>,
    kills: u32,
    begun: i64,
    /// Bytes of the slices that were dropped.
    weighed: u64,
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    let around = Surroundings {
        sessions: args.workers,
        workers: args.workers,
        history: 0,
        future: 0,
    };
    let sessions = site.surround_with(&around, SLOTS_OF_ONE).await?;
    let pool = site.pool(4)?;
    let rate = match args.rate {
        Some(rate) => rate,
        None => half_a_drain(args, site, &pool, &sessions.sessions).await?,
    };
    if u64::from(rate) * u64::from(args.secs) > u64::from(u32::MAX >> 1) {
        bail!("--rate times --secs is more jobs than can be told apart (2,147,483,647)");
    }
    let slice = SLICE.min(Duration::from_secs(args.secs.into()) / 4);
    let kept = (slice * 2 + Duration::from_secs(15)).as_secs() * u64::from(rate) * BYTES_A_JOB;
    say(&format!(
        "{rate} jobs a second for {} s; the history is cut into slices of {} s and takes up to about {} MB at a time",
        args.secs,
        slice.as_secs(),
        kept >> 20
    ));
    let mut conn = pool.acquire().await.context("the database went away")?;
    let span = TimeDelta::seconds(i64::from(args.secs)) + TimeDelta::minutes(5);
    let slices = soak::cut(&mut conn, span, TimeDelta::from_std(slice)?).await?;
    drop(conn);
    let api = ApiProcess::start(site).await?;
    let mut squad = Squad::start(site, args.workers)?;
    let mut account = Account::default();
    while squad.ready() < args.workers as usize {
        let heard = tokio::time::timeout(STALL, squad.hear(&mut account)).await;
        heard.context("the workers did not start")??;
    }
    let soak = Soak {
        args,
        rate,
        producer: Producer::start(site, rate)?,
        caller: Caller::start(api.address, site.key().await?),
        pool,
        slices,
        checked: 0,
        read: None,
        account,
        squad,
        api,
        samples: Vec::new(),
        kills: 0,
        begun: now_us(),
        weighed: 0,
    };
    soak.run().await
}

/// Half the rate at which as many workers drain a full queue.
async fn half_a_drain(args: &Args, site: &Site, pool: &PgPool, sessions: &[SessionId]) -> anyhow::Result<u32> {
    say("draining a full queue, to find the rate");
    site.fill(sessions, TRIAL).await?;
    site.settle().await?;
    let mut crew = Crew::start(site, args.workers, sessions.len(), TRIAL).await?;
    crew.go().await?;
    let span = crew.until_done().await?;
    crew.end().await?.require_each_once(TRIAL)?;
    let mut conn = pool.acquire().await.context("the database went away")?;
    soak::clear(&mut conn).await?;
    let micros = u64::try_from(span.stored - span.first)?.max(1);
    Ok(u32::try_from(TRIAL * 500_000 / micros)?.max(1))
}

impl Soak<'_> {
    async fn run(mut self) -> anyhow::Result<Report> {
        println!("{}", head());
        let secs = Duration::from_secs(self.args.secs.into());
        let end = Instant::now() + secs;
        let every = |period: Duration| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut kills = every(Duration::from_secs(self.args.kill_every.into()));
        let mut looks = every(LOOK.min(secs / 24));
        let mut checks = every(Duration::from_secs(1));
        while Instant::now() < end {
            tokio::select! {
                heard = self.squad.hear(&mut self.account) => heard?,
                _ = kills.tick() => self.kills += u32::from(self.squad.kill_one()?),
                _ = looks.tick() => self.look().await?,
                _ = checks.tick() => {
                    self.producer.check(self.account.calls()).await?;
                    self.caller.check().await?;
                    self.check_slices().await?;
                }
                () = sleep_until(end) => break,
            }
        }
        self.finish().await
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let mut conn = self.pool.acquire().await.context("the database went away")?;
        let sample = Sample {
            at: now_us() - self.begun,
            sizes: soak::sizes(&mut conn).await?,
            calls: self.account.calls(),
            worker: self.squad.resident(),
            api: self.api.resident(),
            ready: self.squad.ready(),
        };
        self.samples.push(sample);
        if self.samples.len().is_multiple_of(LOOKS_A_LINE) {
            let now = &self.samples[self.samples.len() - 1];
            let before = self
                .samples
                .len()
                .checked_sub(LOOKS_A_LINE + 1)
                .map(|nth| &self.samples[nth]);
            println!("{}", line(now, before));
        }
        Ok(())
    }

    /// Reads and drops the slices that nothing is added to any more.
    async fn check_slices(&mut self) -> anyhow::Result<()> {
        let mut conn = self.pool.acquire().await.context("the database went away")?;
        let now = soak::now(&mut conn).await?;
        while let Some(slice) = self.slices.get(self.checked).filter(|slice| slice.to + CLOSED <= now) {
            let found = match self.read.take() {
                Some(found) => found,
                None => soak::found(&mut conn, slice.from, slice.to).await?,
            };
            let bytes = soak::slice_bytes(&mut conn, slice).await?;
            // What could not be dropped is there to be found at the end, and must not count twice.
            if !soak::drop_slice(&mut conn, slice).await? {
                self.read = Some(found);
                return Ok(());
            }
            if !found.shares.is_empty() {
                self.weighed += bytes.unsigned_abs();
            }
            self.account.found(found, self.producer.sent());
            self.checked += 1;
        }
        Ok(())
    }

    /// Lets what was enqueued finish, ends everything, and strikes the balance.
    async fn finish(mut self) -> anyhow::Result<Report> {
        let jobs = self.producer.end().await?;
        let secs = micros_to_secs(now_us() - self.begun);
        let posted = self.caller.end().await?;
        say("waiting for the last jobs");
        self.until_empty().await?;
        self.look().await?;
        self.squad.end(&mut self.account).await?;
        self.api.end().await?;
        let mut conn = self.pool.acquire().await.context("the database went away")?;
        let rest = soak::found(&mut conn, DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC).await?;
        drop(conn);
        self.account.found(rest, jobs);
        self.pool.close().await;
        let history = self
            .samples
            .last()
            .map_or(0, |sample| sample.sizes.history_bytes.unsigned_abs());
        let balance = self.account.balance(jobs);
        let finished = self.account.finished() + balance.posted;
        let facts = Facts {
            secs,
            jobs,
            wanted_per_s: self.rate,
            workers: self.args.workers,
            kills: self.kills,
            posted,
            bytes_per_finished_job: (finished > 0).then(|| count(self.weighed + history) / count(finished)),
            live: trend(&self.samples, |sample| u64::try_from(sample.sizes.live_bytes).ok()),
            worker_memory: trend(&self.samples, |sample| sample.worker),
            api_memory: trend(&self.samples, |sample| sample.api),
        };
        Ok(Report::of(facts, &balance))
    }

    /// Waits until no job waits or runs.
    async fn until_empty(&mut self) -> anyhow::Result<()> {
        let (mut left, mut since) = (i64::MAX, Instant::now());
        let mut checks = interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                heard = self.squad.hear(&mut self.account) => heard?,
                _ = checks.tick() => {
                    let mut conn = self.pool.acquire().await.context("the database went away")?;
                    let live = soak::sizes(&mut conn).await?.live;
                    match live {
                        0 => return Ok(()),
                        live if live != left => (left, since) = (live, Instant::now()),
                        live if since.elapsed() > STALL => {
                            bail!("{live} jobs wait or run, and nothing happens for {} s", STALL.as_secs())
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}
