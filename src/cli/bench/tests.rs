//! The four tests.

use std::{sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use serde_json::json;
use tokio::time::Instant;
use wireroom_jobs::JobKind;

use super::{
    Args, Report, Test,
    meter::{Meter, max_rss_kb, now_us, percentile_ms},
    work::{self, Process, Worked},
};
use crate::{
    ids::{SessionId, WorkerId},
    queue::Waker,
    store::{
        self, PgPool, bench,
        jobs::{NewJob, enqueue},
    },
};

/// Jobs of one call while the queue is filled.
const FILL: u64 = 5000;
/// Jobs before a latency that do not count.
const WARM_UP: u64 = 100;
/// How often it is looked whether the queue is empty.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub async fn measure(args: &Args, url: &str) -> anyhow::Result<Report> {
    let pool = work::pool(url)?;
    let workers: Vec<WorkerId> = (0..args.workers).map(|_| WorkerId::generate()).collect();
    let owners: Vec<WorkerId> = workers.iter().copied().cycle().take(count(args.sessions)).collect();
    let mut conn = store::connection(&pool, "bench").await?;
    let sessions = bench::add_sessions(&mut conn, &owners).await?;
    bench::add_bystanders(&mut conn, args.history, args.future).await?;
    drop(conn);
    let bed = Bed {
        args,
        url,
        pool,
        workers,
        sessions,
        ageing: work::settings()?.ageing_step,
    };
    match args.test {
        Test::Drain => bed.drain().await,
        Test::Enqueue => bed.enqueue().await,
        Test::Latency => bed.latency().await,
        Test::Idle => bed.idle().await,
        Test::Work => bail!("a worker process measures nothing"),
    }
}

struct Bed<'a> {
    args: &'a Args,
    url: &'a str,
    pool: PgPool,
    workers: Vec<WorkerId>,
    sessions: Vec<SessionId>,
    ageing: Duration,
}

impl Bed<'_> {
    fn job(&self, number: u64, sent_us: u64) -> NewJob {
        NewJob {
            // A stride that is no divisor spreads neighbours over the sessions.
            session: Some(self.sessions[count(number.wrapping_mul(7919)) % self.sessions.len()]),
            ..NewJob::new(JobKind::Join, json!({"i": number, "t": sent_us}))
        }
    }

    async fn store(&self, jobs: &[NewJob]) -> anyhow::Result<()> {
        let mut conn = store::connection(&self.pool, "enqueue").await?;
        enqueue(&mut conn, jobs, self.ageing).await?;
        Ok(())
    }

    async fn processes(&self) -> anyhow::Result<Vec<Process>> {
        let mut processes = Vec::new();
        for worker in &self.workers {
            processes.push(Process::start(self.args, self.url, *worker).await?);
        }
        Ok(processes)
    }

    async fn settle(&self) -> anyhow::Result<()> {
        let mut conn = store::connection(&self.pool, "settle").await?;
        Ok(bench::settle(&mut conn).await?)
    }

    /// Waits until nothing is queued or running; returns when that was seen.
    async fn until_empty(&self) -> anyhow::Result<u64> {
        let mut conn = store::connection(&self.pool, "has_work").await?;
        while bench::has_work(&mut conn).await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(now_us())
    }

    /// Every job succeeded, on its first and only claim; the history is not among them, its fence is 0.
    async fn all_done_once(&self, jobs: u64) -> anyhow::Result<()> {
        let mut conn = store::connection(&self.pool, "count_done_once").await?;
        let done = bench::count_done_once(&mut conn).await?;
        ensure!(
            u64::try_from(done).is_ok_and(|done| done == jobs),
            "{done} of {jobs} jobs succeeded on their only claim"
        );
        Ok(())
    }

    async fn drain(&self) -> anyhow::Result<Report> {
        let jobs = self.args.jobs;
        for first in (0..jobs).step_by(count(FILL)) {
            let batch: Vec<NewJob> = (first..jobs.min(first + FILL)).map(|i| self.job(i, 0)).collect();
            self.store(&batch).await?;
        }
        self.settle().await?;
        let processes = self.processes().await?;
        let ended_us = self.until_empty().await?;
        let worked = end_all(processes).await?;
        let handled: u64 = worked.iter().map(|worked| worked.handled).sum();
        let twice: u64 = worked.iter().map(|worked| worked.twice).sum();
        ensure!(
            handled == jobs && twice == 0,
            "{handled} of {jobs} jobs were handled, {twice} of them twice"
        );
        self.all_done_once(jobs).await?;
        let starts = worked.iter().map(|worked| worked.first_us).filter(|first| *first > 0);
        let secs = seconds(ended_us.saturating_sub(starts.min().unwrap_or(ended_us)));
        let cpu: u64 = worked.iter().map(|worked| worked.cpu_us).sum();
        Ok(Report {
            test: "drain",
            jobs,
            secs: Some(secs),
            rate_per_s: Some(number(jobs) / secs),
            worker_cpu_us_per_job: Some(number(cpu) / number(jobs)),
            rss_mb: worked
                .iter()
                .map(|worked| number(worked.rss_kb) / 1024.0)
                .reduce(f64::max),
            ..Report::default()
        })
    }

    async fn enqueue(&self) -> anyhow::Result<Report> {
        let Args {
            jobs, clients, bulk, ..
        } = *self.args;
        let cpu = super::meter::cpu_us()?;
        let begun = Instant::now();
        let producers = (0..clients).map(|client| async move {
            // The jobs of a client are those with its remainder, whatever the division leaves.
            let mut own = (client..jobs).step_by(count(clients)).map(|i| self.job(i, 0));
            loop {
                let batch: Vec<NewJob> = own.by_ref().take(count(bulk)).collect();
                if batch.is_empty() {
                    return Ok(());
                }
                self.store(&batch).await?;
            }
        });
        futures::future::try_join_all(producers)
            .await
            .map_err(|error: anyhow::Error| error)?;
        let secs = begun.elapsed().as_secs_f64();
        let cpu = super::meter::cpu_us()? - cpu;
        let mut conn = store::connection(&self.pool, "count_queued").await?;
        let queued = bench::count_queued(&mut conn).await?;
        ensure!(
            u64::try_from(queued).is_ok_and(|queued| queued == jobs),
            "{queued} of {jobs} jobs are there"
        );
        Ok(Report {
            test: "enqueue",
            jobs,
            secs: Some(secs),
            rate_per_s: Some(number(jobs) / secs),
            worker_cpu_us_per_job: Some(number(cpu) / number(jobs)),
            rss_mb: Some(number(max_rss_kb()?) / 1024.0),
            ..Report::default()
        })
    }

    /// The first worker is this process, which enqueues too; others are processes of their own.
    async fn latency(&self) -> anyhow::Result<Report> {
        let jobs = self.args.rate * self.args.secs;
        let others = Args {
            jobs,
            ..self.args.clone()
        };
        ensure!(
            self.args.workers == 1,
            "latency is measured with one worker; {} were asked for",
            others.workers
        );
        self.settle().await?;
        let meter = Arc::new(Meter::new(jobs));
        let waker = Waker::start(self.pool.clone());
        let slots = self.args.slots();
        let queue = work::start(&self.pool, waker.clone(), self.workers[0], slots, Arc::clone(&meter)).await?;
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / number(self.args.rate)));
        // Numbers from `jobs` on are the warm-up.
        for number in (jobs..jobs + WARM_UP).chain(0..jobs) {
            tick.tick().await;
            let job = [self.job(number, now_us())];
            self.store(&job).await?;
            waker.enqueued(&job);
        }
        self.until_empty().await?;
        queue.shutdown().await;
        let (handled, twice) = (meter.handled(), meter.twice());
        ensure!(
            handled == jobs && twice == 0,
            "{handled} of {jobs} jobs were handled, {twice} of them twice"
        );
        self.all_done_once(jobs + WARM_UP).await?;
        let latencies = meter.latencies_us();
        Ok(Report {
            test: "latency",
            jobs,
            p50_ms: percentile_ms(&latencies, 0.5),
            p95_ms: percentile_ms(&latencies, 0.95),
            p99_ms: percentile_ms(&latencies, 0.99),
            rss_mb: Some(number(max_rss_kb()?) / 1024.0),
            ..Report::default()
        })
    }

    async fn idle(&self) -> anyhow::Result<Report> {
        self.settle().await?;
        let processes = self.processes().await?;
        // This process's own connections are not what is looked at.
        self.pool.close().await;
        tokio::time::sleep(Duration::from_secs(self.args.secs)).await;
        let worked = end_all(processes).await?;
        Ok(Report {
            test: "idle",
            secs: Some(number(self.args.secs)),
            rss_mb: worked
                .iter()
                .map(|worked| number(worked.rss_kb) / 1024.0)
                .reduce(f64::max),
            ..Report::default()
        })
    }
}

async fn end_all(processes: Vec<Process>) -> anyhow::Result<Vec<Worked>> {
    futures::future::try_join_all(processes.into_iter().map(Process::end)).await
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn seconds(us: u64) -> f64 {
    number(us) / 1_000_000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts and times far below 2^52")]
fn number(number: u64) -> f64 {
    number as f64
}
