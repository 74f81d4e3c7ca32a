//! How much later than its pace does a publish to many chats end? And without a pace, how fast is it beside the bare loop of
//! grammers that stores nothing? A made-up Telegram in a process of its own, one real worker, and the loop in this process.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::json;
use tokio::time::{sleep, timeout};
use wireroom_jobs::{JobKind, publish::PublishResult};

use super::{
    Target,
    figures::{count, micros_to_secs, rounded},
    now_us, say,
    scan::bare::Bare,
    sessions::{
        telegram::{self, Telegram},
        worker::Worker,
    },
    site::Site,
};
use crate::{
    config::Secret,
    ids::SessionId,
    queue::Waker,
    sessions::{self, ImportAccount},
    store::{
        self, PgPool,
        caps::{self, Cap, Capped},
        job_reads,
        jobs::{NewJob, enqueue},
    },
};

/// How long one publish may take beyond its pace.
const BOUND: Duration = Duration::from_mins(10);
/// How often it is looked at whether one has ended.
const LOOK: Duration = Duration::from_millis(50);
const CONNECTIONS: u32 = 2;
/// Messages in whatever time: more than there are.
const UNCAPPED: i32 = 1_000_000;
const TEXT: &str = "The library is closed on Friday.";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Chats that get the message.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    chats: u32,
    /// The distance between two calls, in milliseconds: 100 is the default of a worker.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pace_ms: u32,
}

/// The figures, as the JSON object has them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub test: &'static str,
    pub chats: u32,
    pub pace_ms: u32,
    /// What the pace alone takes, from the first send to the last.
    pub ideal_secs: f64,
    /// From the job's making to its stored end.
    pub publish_secs: f64,
    /// By how much that is longer, in per cent: 5 is allowed.
    pub overhead_percent: f64,
    /// Messages a second without a pace.
    pub bare_rate_per_s: f64,
    pub publish_rate_per_s: f64,
    pub ratio: f64,
    /// Warnings and errors in the workers' logs.
    pub complaints: usize,
}

impl Report {
    /// To standard output, for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        println!("publish: to {} chats, a call each {} ms", self.chats, self.pace_ms);
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        for (name, figure) in [
            ("the pace alone, s", self.ideal_secs),
            ("publish, s", self.publish_secs),
            ("over the pace, % (5 allowed)", self.overhead_percent),
            ("bare loop, no pace, a second", self.bare_rate_per_s),
            ("publish, no pace, a second", self.publish_rate_per_s),
            ("ratio", self.ratio),
        ] {
            println!("  {name:<32}{figure}");
        }
        Ok(())
    }
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    let telegram = Telegram::start(telegram::Args {
        accounts: 1,
        chats: args.chats,
        ..telegram::Args::default()
    })
    .await?;
    let account = telegram.accounts.first().context("the sandbox has no account")?;
    let (vault, master_keys) = telegram::vault()?;
    let mut variables = telegram.variables();
    variables.push(master_keys);
    let pool = site.pool(CONNECTIONS)?;
    sessions::verify_master_keys(&pool, &vault).await?;
    let login = ImportAccount {
        label: account.username.clone(),
        pool: "default".to_owned(),
        phone: Secret::new(account.phone.clone()),
        code: Telegram::login_code(),
        password: None,
    };
    let session = sessions::import(&pool, &vault, &telegram.config()?, &login).await?.id;
    lift_cap(&pool, session).await?;
    let publishes = Publishes {
        site,
        pool: &pool,
        session,
        chats: (1..=args.chats).map(|number| format!("@stall{number}")).collect(),
    };
    let paced = |millis: u32| {
        let mut variables = variables.clone();
        let seconds = (f64::from(millis) / 1e3).to_string();
        variables.push(("WIREROOM_SESSIONS_PACE_SECONDS", seconds));
        variables
    };
    let mut report = Report {
        test: "publish",
        chats: args.chats,
        pace_ms: args.pace_ms,
        ..Report::default()
    };
    let chats = count(args.chats.into());

    let bare = Bare::sign_in(&telegram, account).await?;
    let mut known = Vec::new();
    for chat in &publishes.chats {
        known.push(bare.find(chat.trim_start_matches('@')).await?);
    }
    let worker = Worker::start(site, &paced(0)).await?;
    say("publishing once, so that the session has met the chats");
    publishes.run(Duration::ZERO).await?;
    say("the bare loop, and a publish without a pace");
    let begun = now_us();
    bare.send(&known, TEXT).await?;
    let looped = micros_to_secs(now_us() - begun);
    let unpaced = publishes.run(Duration::ZERO).await?;
    report.bare_rate_per_s = rounded(chats / looped, 0);
    report.publish_rate_per_s = rounded(chats / unpaced, 0);
    report.ratio = rounded(looped / unpaced, 3);
    bare.leave().await?;
    report.complaints = worker.seen().complaints;
    worker.end().await?;

    say(&format!("a publish with a call each {} ms", args.pace_ms));
    let worker = Worker::start(site, &paced(args.pace_ms)).await?;
    let ideal = f64::from(args.chats - 1) * f64::from(args.pace_ms) / 1e3;
    // A job that waits for the session to be held is not what is measured.
    publishes.warm_up().await?;
    let took = publishes.run(Duration::from_secs_f64(ideal)).await?;
    report.ideal_secs = rounded(ideal, 2);
    report.publish_secs = rounded(took, 2);
    if ideal > 0.0 {
        report.overhead_percent = rounded((took / ideal - 1.0) * 100.0, 2);
    }
    report.complaints += worker.seen().complaints;
    worker.end().await?;
    pool.close().await;
    telegram.end().await?;
    Ok(report)
}

/// What is measured is the pace: a cap would end it after some messages.
async fn lift_cap(pool: &PgPool, session: SessionId) -> anyhow::Result<()> {
    let mut conn = store::connection(pool, "bench_publish").await?;
    let lifted = Cap {
        per_minute: UNCAPPED,
        per_hour: UNCAPPED,
        per_day: UNCAPPED,
    };
    caps::set(&mut conn, Some(session), Capped::Message, lifted, "bench").await?;
    Ok(())
}

struct Publishes<'a> {
    site: &'a Site,
    pool: &'a PgPool,
    session: SessionId,
    /// By their names.
    chats: Vec<String>,
}

impl Publishes<'_> {
    /// Publishes to all chats; how many seconds from the job's making to its end. Fails when one did not get it.
    async fn run(&self, paced: Duration) -> anyhow::Result<f64> {
        let (result, took) = self.publish(&self.chats, paced + BOUND).await?;
        let sent = result.counts.get("sent").copied().unwrap_or_default();
        if usize::try_from(sent) != Ok(self.chats.len()) {
            bail!("of {} chats, {sent} got the message", self.chats.len());
        }
        Ok(took)
    }

    /// Returns when the worker holds the session and has published to one chat.
    async fn warm_up(&self) -> anyhow::Result<()> {
        self.publish(&self.chats[..1], BOUND).await.map(|_| ())
    }

    async fn publish(&self, chats: &[String], bound: Duration) -> anyhow::Result<(PublishResult, f64)> {
        let job = NewJob {
            session: Some(self.session),
            ..NewJob::new(JobKind::Publish, json!({ "chats": chats, "text": TEXT }))
        };
        let id = job.id;
        let jobs = [job];
        let mut conn = store::connection(self.pool, "bench_publish").await?;
        enqueue(&mut conn, &jobs, self.site.queue.ageing_step).await?;
        Waker::start(self.pool.clone()).enqueued(&jobs, None);
        drop(conn);
        let ended = async {
            loop {
                let job = job_reads::get(self.pool, id).await?.context("the job is gone")?;
                if let Some(finished) = job.finished_at {
                    return anyhow::Ok((finished - job.created_at, job));
                }
                sleep(LOOK).await;
            }
        };
        let (took, job) = timeout(bound, ended).await.context("a publish did not end")??;
        let result: PublishResult = serde_json::from_value(job.result.context("a publish failed")?)?;
        let micros = took.num_microseconds().context("a publish took for ever")?;
        Ok((result, micros_to_secs(micros)))
    }
}
