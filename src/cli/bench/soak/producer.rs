//! Who makes jobs in a soak: a producer that enqueues in bulk at a steady rate, and a client that posts a few over HTTP and
//! looks at them, so that the API lives through the soak too.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use wireroom_jobs::JobKind;

use crate::{
    cli::bench::{
        http::client::{Client, request},
        site::Site,
    },
    queue::Waker,
    store::jobs::{NewJob, enqueue},
};

/// How often jobs are enqueued.
const TICK: Duration = Duration::from_millis(20);
/// Most jobs of one statement.
const BULK: u64 = 1_000;
/// A backlog of so many seconds, and this many jobs, is one that the workers will not work off.
const BACKLOG_SECS: u64 = 60;
const BACKLOG_JOBS: u64 = 20_000;
/// How often the client posts.
const POST: Duration = Duration::from_millis(50);
/// What it posts. The function of a soak does nothing.
const BODY: &str = r#"{"kind":"join","args":{"chat":"@example"}}"#;

/// A task that counts, and runs until it is told to end.
struct Task {
    count: Arc<AtomicU64>,
    stop: CancellationToken,
    handle: JoinHandle<anyhow::Result<()>>,
}

impl Task {
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Fails with the task's own error when it has ended by itself.
    async fn check(&mut self) -> anyhow::Result<()> {
        if self.handle.is_finished() {
            (&mut self.handle).await.context("it panicked")??;
            bail!("it ended by itself");
        }
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<u64> {
        self.stop.cancel();
        (&mut self.handle).await.context("it panicked")??;
        Ok(self.count())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Enqueues in bulk.
pub struct Producer {
    task: Task,
    rate: u32,
}

impl Producer {
    pub fn start(site: &Site, rate: u32) -> anyhow::Result<Self> {
        // Beside the producer: the process's listener and the sender of its announcements.
        let pool = site.pool(3)?;
        let ageing_step = site.queue.ageing_step;
        let (count, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let (sent, stopped) = (Arc::clone(&count), stop.clone());
        let handle = tokio::spawn(async move {
            let waker = Waker::start(pool.clone());
            let mut conn = pool.acquire().await.context("the database went away")?;
            let begun = Instant::now();
            let mut tick = interval(TICK);
            // After a statement that took long, all that is due comes at once: the rate is kept.
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                tick.tick().await;
                let due = due(begun.elapsed(), rate);
                let mut from = sent.load(Ordering::Acquire);
                while from < due && !stopped.is_cancelled() {
                    let to = due.min(from + BULK);
                    let batch: Vec<NewJob> = (from..to).map(job).collect();
                    enqueue(&mut conn, &batch, ageing_step).await?;
                    sent.store(to, Ordering::Release);
                    waker.enqueued(&batch, None);
                    from = to;
                }
            }
            drop((conn, waker));
            pool.close().await;
            Ok(())
        });
        Ok(Self {
            task: Task { count, stop, handle },
            rate,
        })
    }

    /// Jobs that were enqueued, and that is committed.
    pub fn sent(&self) -> u64 {
        self.task.count()
    }

    /// Fails when it has ended, or is far ahead of the workers, who have called the function so often.
    pub async fn check(&mut self, calls: u64) -> anyhow::Result<()> {
        self.task.check().await.context("the producer")?;
        let backlog = self.sent().saturating_sub(calls);
        if backlog > u64::from(self.rate) * BACKLOG_SECS + BACKLOG_JOBS {
            bail!(
                "{backlog} jobs wait: the workers do not keep up with {} jobs a second; choose a lower --rate",
                self.rate
            );
        }
        Ok(())
    }

    /// Ends it; how many jobs it has enqueued.
    pub async fn end(&mut self) -> anyhow::Result<u64> {
        self.task.end().await.context("the producer")
    }
}

/// Jobs that should have been enqueued by now.
fn due(elapsed: Duration, rate: u32) -> u64 {
    u64::try_from(elapsed.as_micros() * u128::from(rate) / 1_000_000).unwrap_or(u64::MAX)
}

/// For any session: when one goes, the others take its share.
fn job(i: u64) -> NewJob {
    NewJob::new(JobKind::Join, json!({ "i": i }))
}

/// Posts over HTTP.
pub struct Caller(Task);

impl Caller {
    pub fn start(address: SocketAddr, key: String) -> Self {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let (posted, stopped) = (Arc::clone(&count), stop.clone());
        let handle = tokio::spawn(async move {
            let mut client = Client::connect(address).await.context("the API takes no connection")?;
            let post = request("POST", "/v1/jobs", &key, Some(BODY));
            let mut tick = interval(POST);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                tick.tick().await;
                let reply = client.send(&post).await?;
                ensure!(reply.status == 202, "the API answered {} to a job", reply.status);
                posted.fetch_add(1, Ordering::AcqRel);
                let job: Value = serde_json::from_slice(reply.body).context("a job that is no JSON")?;
                let id = job["id"].as_str().context("a job without an id")?;
                let reply = client
                    .send(&request("GET", &format!("/v1/jobs/{id}"), &key, None))
                    .await?;
                ensure!(
                    reply.status == 200,
                    "the API answered {} for a job that it had accepted",
                    reply.status
                );
            }
            Ok(())
        });
        Self(Task { count, stop, handle })
    }

    /// Fails when it has ended.
    pub async fn check(&mut self) -> anyhow::Result<()> {
        self.0.check().await.context("the client of the API")
    }

    /// Ends it; how many jobs the API has accepted.
    pub async fn end(&mut self) -> anyhow::Result<u64> {
        self.0.end().await.context("the client of the API")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_any_time() {
        assert_eq!(due(Duration::from_millis(20), 100), 2);
        assert_eq!(due(Duration::from_hours(24), 100_000), 8_640_000_000);
        assert_eq!(due(Duration::ZERO, 100), 0);
    }
}
