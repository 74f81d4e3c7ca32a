//! How long from a message in a watched chat until its event can be read, and until a webhook has it? A made-up Telegram in a
//! process of its own, one real worker that watches all its chats and sends the webhooks, and this one, which reads.

mod telethon;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use poem::{
    EndpointExt, Route, Server, handler,
    http::StatusCode,
    listener::TcpAcceptor,
    post,
    web::{Data, Json},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use wireroom_jobs::JobKind;

use super::{
    Target, events, now_us, say,
    sessions::{
        self,
        report::{Quantiles, megabytes, percent},
        telegram::{self, Talk, Telegram},
        worker::Worker,
    },
    site::Site,
};
use crate::{
    ids::SessionId,
    queue::Waker,
    store::{
        self, PgPool, bench_sessions,
        event_log::{self, EventFilter},
        jobs::{NewJob, enqueue},
    },
};

/// How long the sessions may take to connect, and the watches to begin.
const START: Duration = Duration::from_mins(10);
/// How long no message may arrive.
const STALLED: Duration = Duration::from_mins(1);
/// Events of one page, as the stream reads them.
const PAGE: i64 = 500;
/// Messages of so many seconds come first, and do not count.
const WARM_UP: u32 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Sessions that watch.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    accounts: u32,
    /// Chats, each watched by one of them.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chats: u32,
    /// Messages a second, over all chats.
    #[arg(long, value_name = "R", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// For how many seconds.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    secs: u32,
    /// Leave the webhooks out.
    #[arg(long)]
    no_webhooks: bool,
    /// A Python that has telethon 1.45.0 and asyncpg: it then stores the messages of the same chats at the same rate.
    #[arg(long, value_name = "PATH")]
    telethon: Option<PathBuf>,
}

/// The figures, as the JSON object has them.
#[derive(Debug, Serialize)]
pub struct Report {
    test: &'static str,
    accounts: u32,
    chats: u32,
    rate_per_s: u32,
    secs: u32,
    /// From the first message to the last as a reader got them.
    read_per_s: f64,
    readable: Quantiles,
    webhooks: Option<Quantiles>,
    worker_cpu_percent: f64,
    worker_mb: f64,
    telethon: Option<telethon::Heard>,
}

impl Report {
    /// To standard output, for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "monitor: {} messages a second for {} s in {} chats, watched by {} sessions of one worker",
            self.rate_per_s, self.secs, self.chats, self.accounts
        );
        println!("  read by position      {}/s", self.read_per_s);
        println!("  message to reader     {}  (p99 under 100 ms)", self.readable.shown());
        if let Some(webhooks) = &self.webhooks {
            println!("  message to webhook    {}  (p99 under 250 ms)", webhooks.shown());
        }
        println!(
            "  the worker            {} % of a core, {} MB",
            self.worker_cpu_percent, self.worker_mb
        );
        if let Some(telethon) = &self.telethon {
            telethon.print();
        }
        Ok(())
    }
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    crate::cli::descriptors::raise_limit();
    crate::tls::install();
    let mut telegram = Telegram::start(telegram::Args {
        accounts: args.accounts,
        chats: args.chats,
        ..telegram::Args::default()
    })
    .await?;
    let (vault, master_keys) = telegram::vault()?;
    let mut variables = telegram.variables();
    variables.push(master_keys);
    variables.push(("WIREROOM_SESSIONS_MAX", args.accounts.to_string()));
    variables.push(("WIREROOM_WEBHOOK_ALLOW_PRIVATE", "true".to_owned()));
    say(&format!("logging {} accounts in", args.accounts));
    let held = sessions::log_in(site, &telegram, &vault).await?;
    say("starting the worker");
    let mut worker = Worker::start(site, &variables).await?;
    worker
        .until("connect all sessions", START, |seen| seen.reading.len() >= held.len())
        .await?;
    let pool = site.pool(4)?;
    let waker = Waker::start(pool.clone());
    let watching: Vec<SessionId> = held.iter().map(|(session, _)| *session).collect();
    say(&format!("watching {} chats", args.chats));
    watch(args, site, &pool, &waker, &watching).await?;
    let head = event_log::extent(&pool).await?.head;
    let endpoint = if args.no_webhooks {
        None
    } else {
        Some(Endpoint::start().await?)
    };
    if let Some(endpoint) = &endpoint {
        events::subscribe(&pool, &vault, &endpoint.url, "message.new", head).await?;
        waker.events_asked();
    }
    let (sender, read) = mpsc::unbounded_channel();
    let reader = AbortOnDropHandle::new(tokio::spawn(follow(pool.clone(), waker.logged_events(), head, sender)));
    say(&format!("{} messages a second for {} s", args.rate, args.secs));
    let talk = Talk {
        rate: args.rate,
        secs: args.secs + WARM_UP,
    };
    let cpu = worker.cpu_us()?;
    telegram.talk(talk).await?;
    let (readable, span) = collect(args, talk, read).await?;
    drop(reader);
    let worker_cpu_percent = percent(worker.cpu_us()? - cpu, talk.secs);
    let webhooks = match endpoint {
        Some(endpoint) => Some(collect(args, talk, endpoint.taken).await?.0),
        None => None,
    };
    let worker_mb = megabytes(worker.resident()?);
    worker.end().await?;
    let telethon = match &args.telethon {
        Some(python) => {
            say("letting Telethon store the messages of the same chats");
            Some(telethon::measure(python, &mut telegram, site.url(), args.rate, args.secs).await?)
        }
        None => None,
    };
    telegram.end().await?;
    pool.close().await;
    let messages = super::figures::count(u64::from(args.rate) * u64::from(args.secs));
    Ok(Report {
        test: "monitor",
        accounts: args.accounts,
        chats: args.chats,
        rate_per_s: args.rate,
        secs: args.secs,
        read_per_s: super::figures::rounded(messages / super::figures::micros_to_secs(span.max(1)), 1),
        readable: Quantiles::of(readable),
        webhooks: webhooks.map(Quantiles::of),
        worker_cpu_percent,
        worker_mb,
        telethon,
    })
}

/// Starts a watch of each chat by a job, as a client does, and waits until all record.
async fn watch(args: &Args, site: &Site, pool: &PgPool, waker: &Waker, held: &[SessionId]) -> anyhow::Result<()> {
    let jobs: Vec<NewJob> = (1..=args.chats)
        .zip(held.iter().cycle())
        .map(|(number, session)| NewJob {
            session: Some(*session),
            ..NewJob::new(JobKind::Monitor, json!({ "chat": format!("@stall{number}") }))
        })
        .collect();
    let mut conn = store::connection(pool, "bench_monitor").await?;
    enqueue(&mut conn, &jobs, site.queue.ageing_step).await?;
    waker.enqueued(&jobs, None);
    let all = async {
        while bench_sessions::recording(&mut conn).await? < i64::from(args.chats) {
            sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    timeout(START, all).await.context("not every chat was watched")?
}

/// When a message was written and when it arrived, in microseconds since 1970.
type Arrival = (i64, i64);

/// How long each message took, and how long from the first to the last of those that count. Fails when one is missing or doubled.
async fn collect(
    args: &Args,
    talk: Talk,
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
) -> anyhow::Result<(Vec<i64>, i64)> {
    let warm_up = u64::from(args.rate) * u64::from(WARM_UP);
    let mut all = Vec::new();
    while (all.len() as u64) < talk.messages() {
        match timeout(STALLED, arrivals.recv()).await {
            Ok(Some(arrival)) => all.push(arrival),
            _ => bail!("{} of {} messages arrived", all.len(), talk.messages()),
        }
    }
    if arrivals.try_recv().is_ok() {
        bail!("more events than messages");
    }
    all.sort_unstable();
    let counted = &all[usize::try_from(warm_up)?..];
    let last = counted.iter().map(|(_, arrived)| *arrived).max().unwrap_or_default();
    let first = counted.iter().map(|(_, arrived)| *arrived).min().unwrap_or_default();
    let took = counted.iter().map(|(written, arrived)| arrived - written).collect();
    Ok((took, last - first))
}

/// Reads on as the log grows.
async fn follow(
    pool: PgPool,
    mut logged: tokio::sync::watch::Receiver<i64>,
    mut place: i64,
    taken: mpsc::UnboundedSender<Arrival>,
) -> anyhow::Result<()> {
    let filter = EventFilter::new(&["message.new".to_owned()], &[]);
    let mut conn = store::connection(&pool, "bench_monitor").await?;
    loop {
        let head = *logged.wait_for(|position| *position > place).await?;
        let batch = event_log::read(&mut conn, &filter, place, head, PAGE).await?;
        let now = now_us();
        for event in batch.events {
            let written = event.data["message"]["text"]
                .as_str()
                .and_then(|text| text.parse().ok());
            taken.send((written.context("an event of another")?, now))?;
        }
        place = batch.position;
    }
}

/// Takes webhooks on the loopback.
struct Endpoint {
    url: String,
    taken: mpsc::UnboundedReceiver<Arrival>,
    _serving: AbortOnDropHandle<std::io::Result<()>>,
}

impl Endpoint {
    async fn start() -> anyhow::Result<Self> {
        let (sender, taken) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let acceptor = TcpAcceptor::from_tokio(listener)?;
        let app = Route::new().at("/", post(take)).data(Arc::new(sender));
        Ok(Self {
            url,
            taken,
            _serving: AbortOnDropHandle::new(tokio::spawn(Server::new_with_acceptor(acceptor).run(app))),
        })
    }
}

/// What of a webhook's body counts here.
#[derive(Deserialize)]
struct Hook {
    data: HookData,
}

#[derive(Deserialize)]
struct HookData {
    message: HookMessage,
}

#[derive(Deserialize)]
struct HookMessage {
    text: String,
}

#[handler]
fn take(Json(hook): Json<Hook>, Data(taken): Data<&Arc<mpsc::UnboundedSender<Arrival>>>) -> StatusCode {
    let now = now_us();
    match hook.data.message.text.parse() {
        // Nobody listens any more when enough have arrived.
        Ok(written) => {
            let _ = taken.send((written, now));
            StatusCode::NO_CONTENT
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
