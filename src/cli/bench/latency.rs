//! How long from just before the enqueue call to the start of the function, at a steady rate? The producer is this process
//! and the workers are others, as with `wireroom api` and `wireroom worker`.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Surroundings, Target,
    crew::Crew,
    figures::Figures,
    now_us,
    site::{Site, job},
};
use crate::{
    ids::SessionId,
    queue::Waker,
    store::{PgPool, jobs::enqueue_ringing},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Jobs a second.
    #[arg(long, value_name = "R", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How many seconds.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Rate times seconds, when it is given.
    #[arg(long, value_name = "N")]
    jobs: Option<u64>,
    #[command(flatten)]
    around: Surroundings,
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Figures> {
    let jobs = u64::from(args.rate) * u64::from(args.secs);
    if args.jobs.is_some_and(|asked| asked != jobs) {
        bail!("--jobs must be --rate times --secs ({jobs}), or left out");
    }
    // A second of the same before, which does not count: connections, caches and plans are made in it.
    let warm_up = u64::from(args.rate);
    let filled = site.surround(&args.around).await?;
    site.settle().await?;
    let pool = site.pool(4)?;
    let mut crew = Crew::start(site, args.around.workers, filled.sessions.len(), warm_up + jobs).await?;
    crew.go().await?;
    let begun = send(site, &pool, &filled.sessions, args.rate, warm_up, jobs).await?;
    let span = crew.until_done().await?;
    pool.close().await;
    let ended = crew.end().await?;
    ended.require_each_once(warm_up + jobs)?;
    site.require_finished(warm_up + jobs).await?;
    let latencies = ended.latencies(warm_up);
    if latencies.len() as u64 != jobs {
        bail!("{} latencies of {jobs} jobs", latencies.len());
    }
    let figures = Figures {
        test: "latency",
        jobs,
        setting: format!("{} jobs a second, {}", args.rate, filled.setting),
        ..Figures::default()
    };
    // The workers' CPU is that of the warm-up too, a job of which costs the same.
    let cpu_us = ended.cpu_us * jobs / (warm_up + jobs);
    Ok(figures
        .took(span.stored - begun)
        .with_latencies(latencies)
        .with_cost(cpu_us, ended.peak_memory))
}

/// Sends the jobs one by one; when the first one that counts was sent.
async fn send(
    site: &Site,
    pool: &PgPool,
    sessions: &[SessionId],
    rate: u32,
    warm_up: u64,
    jobs: u64,
) -> anyhow::Result<i64> {
    let waker = Waker::start(pool.clone());
    let mut connection = pool.acquire().await.context("the database went away")?;
    let mut tick = interval(Duration::from_secs(1) / rate);
    // A call that takes long does not make the next ones come faster.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begun = 0;
    for i in 0..warm_up + jobs {
        tick.tick().await;
        let sent = now_us();
        if i == warm_up {
            begun = sent;
        }
        let batch = [job(i, sent, sessions)];
        let ring = waker.ring(&batch);
        enqueue_ringing(&mut connection, &batch, site.queue.ageing_step, ring.as_ref()).await?;
        waker.enqueued(&batch, ring.as_ref());
    }
    Ok(begun)
}
