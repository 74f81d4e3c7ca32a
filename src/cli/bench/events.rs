//! How long from the commit of an event until a reader has it, and how fast are events replayed: to a reader of the log, and as
//! webhooks to an endpoint on the loopback? Everything but Postgres is this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use poem::{EndpointExt, Route, Server, handler, http::StatusCode, listener::TcpAcceptor, post, web::Data};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Target,
    figures::{count, micros_to_secs, quantile, rounded},
    now_us, say,
    site::Site,
};
use crate::{
    cli::events as role,
    clock::SystemClock,
    config::EventsConfig,
    events::{Deliverer, DelivererDeps},
    ids::{JobId, SessionId, SubscriptionId},
    queue::Waker,
    store::{
        self, PgPool,
        event_log::{self, EventFilter},
        event_types::{EventType, Subject},
        outbox::{self, NewEvent},
        subscriptions::{self, Settings},
    },
    vault::{Sealed, Vault},
};

/// Events of one filling statement.
const FILL: u32 = 1_000;
/// Events of one page, as the stream reads them.
const PAGE: i64 = 500;
/// How long nothing may happen.
const STALLED: Duration = Duration::from_mins(1);
/// Signs the webhooks of a run.
const SECRET: &[u8] = b"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Events a second while latencies are measured.
    #[arg(long, value_name = "R", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// For how many seconds.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Events that are replayed.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    events: u32,
    /// Subjects that these are about.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subjects: u32,
}

/// The figures, as the JSON object has them.
#[derive(Debug, Serialize)]
pub struct Report {
    test: &'static str,
    rate_per_s: u32,
    /// From just before the commit until a reader had it.
    readable_p50_ms: Option<f64>,
    readable_p99_ms: Option<f64>,
    events: u32,
    /// Into the outbox and the log, a thousand to a transaction.
    written_per_s: f64,
    read_per_s: f64,
    webhooks_per_s: f64,
}

impl Report {
    /// To standard output, for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let shown = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string());
        println!(
            "events: commit to reader at {} a second: p50 {} ms, p99 {} ms",
            self.rate_per_s,
            shown(self.readable_p50_ms),
            shown(self.readable_p99_ms)
        );
        println!(
            "  {} events: written and numbered {}/s, read {}/s, as webhooks {}/s",
            self.events, self.written_per_s, self.read_per_s, self.webhooks_per_s
        );
        Ok(())
    }
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    crate::tls::install();
    let pool = site.pool(8)?;
    let waker = Waker::start(pool.clone());
    let sequencer = role::sequencer(&pool, &waker);
    say(&format!("{} events a second for {} s", args.rate, args.secs));
    let mut latencies = latencies(args, &pool, &waker).await?;
    latencies.sort_unstable();
    let at = |per_cent| quantile(&latencies, per_cent).map(|micros| rounded(micros_to_secs(micros) * 1e3, 3));
    let (p50, p99) = (at(50), at(99));
    let before = event_log::extent(&pool).await?.head;
    let written = write(args, &pool, &waker).await?;
    site.settle().await?;
    let head = before + i64::from(args.events);
    say("reading them");
    let read = read(&pool, before, head).await?;
    say("delivering them");
    let webhooks = deliver(args, &pool, &waker, before, sequencer.has_subscriptions()).await?;
    drop(sequencer);
    pool.close().await;
    let per_s = |micros: i64| rounded(count(u64::from(args.events)) / micros_to_secs(micros.max(1)), 1);
    Ok(Report {
        test: "events",
        rate_per_s: args.rate,
        readable_p50_ms: p50,
        readable_p99_ms: p99,
        events: args.events,
        written_per_s: per_s(written),
        read_per_s: per_s(read),
        webhooks_per_s: per_s(webhooks),
    })
}

/// How long each event of a steady stream took to a reader, in microseconds, without those of the first second.
async fn latencies(args: &Args, pool: &PgPool, waker: &Waker) -> anyhow::Result<Vec<i64>> {
    let warm_up = u64::from(args.rate);
    let total = warm_up + u64::from(args.rate) * u64::from(args.secs);
    let (sender, mut taken) = mpsc::unbounded_channel();
    let reader = AbortOnDropHandle::new(tokio::spawn(follow(pool.clone(), waker.logged_events(), sender)));
    let mut conn = store::connection(pool, "bench_events").await?;
    let mut tick = interval(Duration::from_secs(1) / args.rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..total {
        tick.tick().await;
        let mut transaction = store::begin(&mut conn, "bench_events").await?;
        outbox::append(&mut transaction, &[event(&Subject::job(JobId::generate()))]).await?;
        transaction.commit().await.context("an event was not committed")?;
    }
    let mut latencies = Vec::new();
    for i in 0..total {
        let took = timeout(STALLED, taken.recv()).await.context("an event was not read")?;
        let took = took.context("the reader ended")?;
        if i >= warm_up {
            latencies.push(took);
        }
    }
    drop(reader);
    Ok(latencies)
}

/// Reads on as the log grows, and says of each event how old it is.
async fn follow(
    pool: PgPool,
    mut logged: tokio::sync::watch::Receiver<i64>,
    taken: mpsc::UnboundedSender<i64>,
) -> anyhow::Result<()> {
    let mut conn = store::connection(&pool, "bench_events").await?;
    let mut place = 0;
    loop {
        let head = *logged.wait_for(|position| *position > place).await?;
        let batch = event_log::read(&mut conn, &EventFilter::default(), place, head, PAGE).await?;
        let now = now_us();
        for event in batch.events {
            let sent = event.data["t"].as_i64().context("an event of another")?;
            taken.send(now - sent)?;
        }
        place = batch.position;
    }
}

fn event(subject: &Subject) -> NewEvent {
    NewEvent {
        event_type: EventType::SessionStateChanged,
        subject: subject.clone(),
        data: json!({ "t": now_us(), "from": "ready", "to": "limited", "reason": "PEER_FLOOD" }),
    }
}

/// Writes the events that are replayed; how long it took until each had its number, in microseconds.
async fn write(args: &Args, pool: &PgPool, waker: &Waker) -> anyhow::Result<i64> {
    say(&format!("writing {} events", args.events));
    let subjects: Vec<Subject> = (0..args.subjects)
        .map(|_| Subject::session(SessionId::generate()))
        .collect();
    let mut logged = waker.logged_events();
    let head = event_log::extent(pool).await?.head + i64::from(args.events);
    let mut conn = store::connection(pool, "bench_events").await?;
    let begun = now_us();
    let mut subjects = subjects.iter().cycle();
    let mut left = args.events;
    while left > 0 {
        let many = left.min(FILL);
        let events: Vec<NewEvent> = subjects.by_ref().take(many as usize).map(event).collect();
        outbox::append(&mut conn, &events).await?;
        left -= many;
    }
    timeout(STALLED, logged.wait_for(|position| *position >= head))
        .await
        .context("not all events were numbered")??;
    Ok(now_us() - begun)
}

/// Reads the log page by page; how long it took, in microseconds.
async fn read(pool: &PgPool, after: i64, head: i64) -> anyhow::Result<i64> {
    let mut conn = store::connection(pool, "bench_events").await?;
    let (mut place, mut seen) = (after, 0);
    let begun = now_us();
    while place < head {
        let batch = event_log::read(&mut conn, &EventFilter::default(), place, head, PAGE).await?;
        seen += batch.events.len();
        place = batch.position;
    }
    let took = now_us() - begun;
    if i64::try_from(seen)? != head - after {
        bail!("{seen} of {} events were read", head - after);
    }
    Ok(took)
}

/// What the endpoint has taken.
#[derive(Clone, Default)]
struct Taken {
    count: Arc<AtomicI64>,
    more: Arc<Notify>,
}

#[handler]
fn take(Data(taken): Data<&Taken>) -> StatusCode {
    taken.count.fetch_add(1, Ordering::Relaxed);
    taken.more.notify_one();
    StatusCode::NO_CONTENT
}

/// Has the events after a place delivered to an endpoint of this process; how long it took from the first to the last, in
/// microseconds.
async fn deliver(
    args: &Args,
    pool: &PgPool,
    waker: &Waker,
    after: i64,
    has_subscriptions: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<i64> {
    let taken = Taken::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = TcpAcceptor::from_tokio(listener)?;
    let app = Route::new().at("/", post(take)).data(taken.clone());
    let _serving = AbortOnDropHandle::new(tokio::spawn(Server::new_with_acceptor(acceptor).run(app)));
    let vault = Vault::parse(&Vault::generate("bench")?)?;
    subscribe(pool, &vault, &format!("http://{address}/"), "session.*", after).await?;
    waker.events_asked();
    let deps = DelivererDeps {
        pool: pool.clone(),
        vault,
        clock: Arc::new(SystemClock),
        logged: waker.logged_events(),
        has_subscriptions,
        config: EventsConfig {
            allow_private: true,
            timeout: Duration::from_secs(15),
            concurrency: 16,
        },
    };
    let deliverer = Deliverer::start(deps, CancellationToken::new()).context("webhooks cannot be sent")?;
    let mut begun = None;
    while taken.count.load(Ordering::Relaxed) < i64::from(args.events) {
        timeout(STALLED, taken.more.notified())
            .await
            .context("the deliveries have stopped")?;
        begun.get_or_insert_with(now_us);
    }
    let took = now_us() - begun.unwrap_or_default();
    deliverer.shutdown().await;
    let seen = taken.count.load(Ordering::Relaxed);
    if seen != i64::from(args.events) {
        bail!("{seen} webhooks of {} events", args.events);
    }
    Ok(took)
}

/// Has events of a type after a place posted to a URL.
pub(super) async fn subscribe(pool: &PgPool, vault: &Vault, url: &str, types: &str, after: i64) -> anyhow::Result<()> {
    let id = SubscriptionId::generate();
    let (key_id, slot) = vault.slot()?;
    let secret = Sealed {
        key_id: key_id.to_owned(),
        bytes: slot.seal(&subscriptions::secret_owner(id), SECRET)?,
    };
    let settings = Settings {
        url: url.to_owned(),
        description: String::new(),
        types: vec![types.to_owned()],
        subjects: Vec::new(),
        enabled: true,
    };
    let mut conn = store::connection(pool, "bench_events").await?;
    subscriptions::insert(&mut conn, id, &settings, &secret, after, "bench").await?;
    Ok(())
}
