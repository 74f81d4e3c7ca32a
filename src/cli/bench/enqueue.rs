//! How fast does the queue take jobs?

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use super::{
    Surroundings, Target,
    figures::Figures,
    now_us,
    site::{Site, job},
    usage,
};
use crate::{
    ids::SessionId,
    queue::Waker,
    store::{PgPool, bench::Tally, jobs::enqueue_ringing},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Jobs to be queued.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Producers at once, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=500))]
    clients: u32,
    /// Jobs per call; every call commits.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    bulk: u32,
}

/// Calls that are shared between the producers.
struct Work {
    pool: PgPool,
    waker: Waker,
    sessions: Vec<SessionId>,
    ageing_step: std::time::Duration,
    jobs: u64,
    bulk: u64,
    next: AtomicU64,
}

/// From the first call to the last return. Whoever enqueues also rings, as the API does: that belongs to it.
pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Figures> {
    let jobs = u64::from(args.jobs);
    let filled = site
        .surround(&Surroundings {
            sessions: 1,
            workers: 0,
            history: 0,
            future: 0,
        })
        .await?;
    site.settle().await?;
    let (micros, cpu_us) = rate(site, &filled.sessions, jobs, args.clients, args.bulk).await?;
    let figures = Figures {
        test: "enqueue",
        jobs,
        setting: format!("{} client(s), {} job(s) per call", args.clients, args.bulk),
        ..Figures::default()
    };
    Ok(figures.took(micros).with_cost(cpu_us, usage::peak_memory()))
}

/// Enqueues `jobs` jobs into an empty queue by `clients` producers, `bulk` per call, and makes sure that they are there; how
/// long it took in microseconds, and the producers' CPU.
pub(super) async fn rate(
    site: &Site,
    sessions: &[SessionId],
    jobs: u64,
    clients: u32,
    bulk: u32,
) -> anyhow::Result<(i64, u64)> {
    // Beside the producers: the process's listener and the sender of its announcements.
    let pool = site.pool(clients + 2)?;
    let work = Arc::new(Work {
        waker: Waker::start(pool.clone()),
        pool: pool.clone(),
        sessions: sessions.to_vec(),
        ageing_step: site.queue.ageing_step,
        jobs,
        bulk: bulk.into(),
        next: AtomicU64::new(0),
    });
    let produced = produce(&work, clients).await?;
    drop(work);
    pool.close().await;
    require_queued(site.tally().await?, jobs)?;
    Ok(produced)
}

/// Runs the producers; how long they took, and their CPU.
async fn produce(work: &Arc<Work>, clients: u32) -> anyhow::Result<(i64, u64)> {
    let mut producers = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(
            work.pool
                .acquire()
                .await
                .context("the database gave too few connections")?,
        );
    }
    let (begun, cpu) = (now_us(), usage::cpu_us());
    for mut connection in connections {
        let work = work.clone();
        producers.spawn(async move {
            loop {
                let from = work.next.fetch_add(work.bulk, Ordering::Relaxed);
                if from >= work.jobs {
                    return anyhow::Ok(());
                }
                let last = work.jobs.min(from + work.bulk);
                let batch: Vec<_> = (from..last).map(|i| job(i, 0, &work.sessions)).collect();
                let ring = work.waker.ring(&batch);
                enqueue_ringing(&mut connection, &batch, work.ageing_step, ring.as_ref()).await?;
                work.waker.enqueued(&batch, ring.as_ref());
            }
        });
    }
    while let Some(ended) = producers.join_next().await {
        ended.context("a producer panicked")??;
    }
    Ok((now_us() - begun, usage::cpu_us() - cpu))
}

fn require_queued(found: Tally, jobs: u64) -> anyhow::Result<()> {
    if found.rows != found.live || u64::try_from(found.live) != Ok(jobs) {
        bail!(
            "of {jobs} jobs, {} are queued, in {} rows: some were lost or stored twice",
            found.live,
            found.rows
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_are_missing_or_there_twice_are_noticed() {
        let found = |live, rows| Tally {
            live,
            rows,
            ..Tally::default()
        };
        assert!(require_queued(found(10, 10), 10).is_ok());
        assert!(require_queued(found(9, 9), 10).is_err());
        assert!(require_queued(found(10, 11), 10).is_err());
        assert!(require_queued(found(9, 10), 10).is_err());
    }
}
