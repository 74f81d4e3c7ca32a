//! How long from an incoming private message to the commit of its row, in sessions whose bulk slot is busy with a scan.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use wireroom_jobs::JobKind;

use super::telegram::{Account, Telegram};
use crate::{
    cli::bench::{figures::count, site::Site},
    ids::SessionId,
    queue::Waker,
    store::{
        PgPool,
        bench_sessions::{self, Arrivals},
        jobs::{NewJob, enqueue},
    },
};

/// How long a job may take to start, and the last message to arrive.
const BOUND: Duration = Duration::from_secs(30);
/// A group whose list takes about this long to read: 50 pages, a pace apart.
const CHAT: &str = "@big_bazaar";
const SCAN_SECS: u32 = 5;
/// How often it is looked at whether the slots are busy.
const LOOK: Duration = Duration::from_secs(1);

/// Messages, and how long each took.
pub struct Arrived {
    /// In microseconds; those of the first second do not count.
    pub latencies: Vec<i64>,
    /// Of the looks at each session, how many found a job that was running on it.
    pub busy_per_cent: f64,
}

/// What is written, and to whom.
pub struct Plan<'a> {
    pub telegram: &'a Telegram,
    /// Sessions with their accounts.
    pub to: &'a [(SessionId, Account)],
    /// Messages a second.
    pub rate: u32,
    pub secs: u32,
}

pub async fn measure(plan: &Plan<'_>, site: &Site) -> anyhow::Result<Arrived> {
    let pool = site.pool(4)?;
    let sessions: Vec<SessionId> = plan.to.iter().map(|(session, _)| *session).collect();
    keep_busy(site, &pool, &sessions, plan.secs).await?;
    let mut conn = pool.acquire().await.context("the database went away")?;
    bench_sessions::watch_private(&mut conn, &sessions).await?;
    drop(conn);
    let mut waiting = Waiting::of(&sessions);
    let mut heard = hear(&pool).await?;
    let looks = Arc::new(Looks::default());
    let looking = AbortOnDropHandle::new(tokio::spawn(look(pool.clone(), sessions, Arc::clone(&looks))));
    let mut writer = plan.telegram.writer().await?;
    let mut tick = interval(Duration::from_secs(1) / plan.rate);
    // A call that takes long does not make the next ones come faster.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let messages = plan.rate * (plan.secs + 1);
    for (nth, (session, account)) in (0..messages).zip(plan.to.iter().cycle()) {
        tick.tick().await;
        waiting.sent(*session, nth >= plan.rate, Instant::now());
        writer.write(account, "Is anybody there?").await?;
        while let Ok(heard) = heard.try_recv() {
            waiting.heard(heard);
        }
    }
    drop(looking);
    while waiting.left() > 0 {
        match timeout(BOUND, heard.recv()).await {
            Ok(Some(heard)) => waiting.heard(heard),
            _ => bail!("{} of {messages} messages were not committed", waiting.left()),
        }
    }
    Ok(Arrived {
        latencies: waiting.latencies,
        busy_per_cent: looks.busy_per_cent(),
    })
}

/// Queues enough scans for each session, and waits until one runs on each.
async fn keep_busy(site: &Site, pool: &PgPool, sessions: &[SessionId], secs: u32) -> anyhow::Result<()> {
    let scans = secs.div_ceil(SCAN_SECS) * 2 + 2;
    let args = json!({ "what": "members", "chat": CHAT, "purpose": "bench", "retention_days": 1 });
    let job = |session: &SessionId| NewJob {
        session: Some(*session),
        ..NewJob::new(JobKind::Scan, args.clone())
    };
    let jobs: Vec<NewJob> = (0..scans).flat_map(|_| sessions.iter().map(job)).collect();
    let mut conn = pool.acquire().await.context("the database went away")?;
    enqueue(&mut conn, &jobs, site.queue.ageing_step).await?;
    Waker::start(pool.clone()).enqueued(&jobs, None);
    let all_busy = async {
        while bench_sessions::busy(&mut conn, sessions).await? < i64::try_from(sessions.len())? {
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    timeout(BOUND, all_busy)
        .await
        .context("the jobs that keep the sessions busy did not start")?
}

/// Looks at the sessions' slots.
#[derive(Default)]
struct Looks {
    made: AtomicU64,
    busy: AtomicU64,
}

impl Looks {
    fn busy_per_cent(&self) -> f64 {
        let made = self.made.load(Ordering::Relaxed).max(1);
        count(self.busy.load(Ordering::Relaxed)) * 100.0 / count(made)
    }
}

async fn look(pool: PgPool, sessions: Vec<SessionId>, looks: Arc<Looks>) {
    let mut tick = interval(LOOK);
    loop {
        tick.tick().await;
        let Ok(mut conn) = pool.acquire().await else { return };
        let Ok(busy) = bench_sessions::busy(&mut conn, &sessions).await else {
            return;
        };
        looks.made.fetch_add(sessions.len() as u64, Ordering::Relaxed);
        looks.busy.fetch_add(busy.unsigned_abs(), Ordering::Relaxed);
    }
}

/// Whose message was committed, and when that was heard.
type Heard = (Instant, SessionId);

/// Hears of each commit, stamped with the time by a task that does nothing else.
async fn hear(pool: &PgPool) -> anyhow::Result<mpsc::UnboundedReceiver<Heard>> {
    let (sender, heard) = mpsc::unbounded_channel();
    let mut arrivals = Arrivals::listen(pool).await?;
    tokio::spawn(async move {
        while let Ok(told) = arrivals.next().await {
            if told.is_some_and(|session| sender.send((Instant::now(), session)).is_err()) {
                return;
            }
        }
    });
    Ok(heard)
}

/// Messages that were sent and not yet heard of. Those of a session are stored in their order.
struct Waiting {
    sessions: HashMap<SessionId, VecDeque<Message>>,
    latencies: Vec<i64>,
}

struct Message {
    sent: Instant,
    counts: bool,
}

impl Waiting {
    fn of(sessions: &[SessionId]) -> Self {
        Self {
            sessions: sessions.iter().map(|session| (*session, VecDeque::new())).collect(),
            latencies: Vec::new(),
        }
    }

    fn sent(&mut self, session: SessionId, counts: bool, sent: Instant) {
        if let Some(messages) = self.sessions.get_mut(&session) {
            messages.push_back(Message { sent, counts });
        }
    }

    fn heard(&mut self, (at, session): Heard) {
        let messages = self.sessions.get_mut(&session);
        let Some(message) = messages.and_then(VecDeque::pop_front) else {
            return;
        };
        if message.counts {
            let took = at.saturating_duration_since(message.sent).as_micros();
            self.latencies.push(i64::try_from(took).unwrap_or(i64::MAX));
        }
    }

    fn left(&self) -> usize {
        self.sessions.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_heard_of_when_its_row_is_committed() {
        let session = SessionId::generate();
        let mut waiting = Waiting::of(&[session]);
        let sent = Instant::now();
        waiting.sent(session, false, sent);
        waiting.sent(session, true, sent);
        waiting.heard((sent + Duration::from_millis(1), session));
        assert_eq!((waiting.left(), waiting.latencies.len()), (1, 0));
        waiting.heard((sent + Duration::from_millis(3), SessionId::generate()));
        waiting.heard((sent + Duration::from_millis(3), session));
        assert_eq!((waiting.left(), waiting.latencies.as_slice()), (0, &[3_000][..]));
    }
}
