//! How fast does a scan read members, beside the bare loop of grammers that stores nothing, and beside a script of Telethon's if
//! there is one; and does its memory grow with the chat? A made-up Telegram in a process of its own, one real worker, and the
//! loop in this process; in turns, so that what else the machine does hits all.

pub(super) mod bare;
mod report;
mod telethon;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use chrono::TimeDelta;
use serde_json::json;
use tokio::time::{sleep, timeout};
use wireroom_jobs::{JobKind, scan::ScanResult};

pub use self::report::Report;
use self::{bare::Bare, report::rate, telethon::Telethon};
use super::{
    Target, now_us, say,
    sessions::{
        report::megabytes,
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
        PgPool, job_reads,
        jobs::{NewJob, enqueue},
    },
};

/// As large as `--crowd` says; nobody reads it but one scan, for the memory.
const CROWD: &str = "crowd";
/// Its list ends at 10,000.
const CHAT: &str = "big_bazaar";
/// An eighth of it, for the memory.
const SMALL_CHAT: &str = "harbour_market";
/// How long one scan may take.
const BOUND: Duration = Duration::from_mins(5);
/// How often it is looked at how far a scan is, and how much memory the worker has.
const LOOK: Duration = Duration::from_millis(20);
/// After a start, before the memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);
const CONNECTIONS: u32 = 2;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// How often each reads the list; the middle one counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Milliseconds that Telegram takes for each page, over and above the sandbox's own time.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    answer_after: u64,
    /// Members of one more chat, which is scanned once at the end, for the worker's memory; 0: leave it out.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=500_000))]
    crowd: u32,
    /// A Python that has telethon 1.45.0 and asyncpg: it then reads the same list in turn, and stores it.
    #[arg(long, value_name = "PATH")]
    telethon: Option<PathBuf>,
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    let telegram = Telegram::start(telegram::Args {
        accounts: 3,
        crowd: args.crowd,
        answer_after: args.answer_after,
        ..telegram::Args::default()
    })
    .await?;
    let [scanning, looping, scripted] = telegram.accounts.as_slice() else {
        bail!("the sandbox has other accounts than were asked for");
    };
    let (vault, master_keys) = telegram::vault()?;
    let mut variables = telegram.variables();
    variables.push(master_keys);
    // The distance between calls is for people who have floods to fear; the bare loop keeps none.
    variables.push(("WIREROOM_SESSIONS_PACE_SECONDS", "0".to_owned()));
    let pool = site.pool(CONNECTIONS)?;
    sessions::verify_master_keys(&pool, &vault).await?;
    let login = ImportAccount {
        label: scanning.username.clone(),
        pool: "default".to_owned(),
        phone: Secret::new(scanning.phone.clone()),
        code: Telegram::login_code(),
        password: None,
    };
    let session = sessions::import(&pool, &vault, &telegram.config()?, &login).await?.id;
    let bare = Bare::sign_in(&telegram, looping).await?;
    let worker = Worker::start(site, &variables).await?;
    let scans = Scans {
        site,
        pool: &pool,
        worker: &worker,
        session,
    };
    let mut script = match &args.telethon {
        Some(python) => Some(Telethon::start(python, &telegram, scripted, site.url()).await?),
        None => None,
    };
    let mut report = scans.beside(args, &bare, script.as_mut()).await?;
    if args.crowd > 0 {
        say("reading the crowd");
        let crowd = scans.scan(CROWD).await?;
        report.crowd_members = Some(crowd.members);
        report.crowd_rss_mb = Some(megabytes(crowd.resident));
    }
    if let Some(script) = script {
        script.end().await?;
    }
    bare.leave().await?;
    let complaints = worker.seen().complaints;
    worker.end().await?;
    pool.close().await;
    telegram.end().await?;
    Ok(Report { complaints, ..report })
}

/// What one scan came to.
struct Scanned {
    members: i64,
    micros: i64,
    /// The worker's highest resident memory, in bytes.
    resident: u64,
}

struct Scans<'a> {
    site: &'a Site,
    pool: &'a PgPool,
    worker: &'a Worker,
    session: SessionId,
}

impl Scans<'_> {
    async fn beside(&self, args: &Args, bare: &Bare, mut script: Option<&mut Telethon>) -> anyhow::Result<Report> {
        say("reading once for warmth");
        let small = self.scan(SMALL_CHAT).await?;
        bare.read(CHAT).await?;
        sleep(SETTLE).await;
        let mut report = Report {
            test: "scan",
            rounds: args.rounds,
            answer_after_ms: args.answer_after,
            small_rss_mb: megabytes(small.resident),
            ..Report::default()
        };
        let (mut loops, mut scans, mut resident) = (Vec::new(), Vec::new(), 0);
        let (mut scripted, mut stored) = (Vec::new(), Vec::new());
        for round in 1..=args.rounds {
            say(&format!("round {round} of {}", args.rounds));
            let begun = now_us();
            let members = bare.read(CHAT).await?;
            loops.push(now_us() - begun);
            let scanned = self.scan(CHAT).await?;
            if scanned.members != members {
                bail!("the scan saw {} people, the bare loop {members}", scanned.members);
            }
            scans.push(scanned.micros);
            resident = resident.max(scanned.resident);
            report.members = members;
            if let Some(script) = script.as_deref_mut() {
                scripted.push(script.read(CHAT, members).await?);
                stored.push(script.store(CHAT, members).await?);
            }
        }
        let (bare, scan) = (rate(report.members, loops), rate(report.members, scans));
        let beside = script.map(|_| (rate(report.members, scripted), rate(report.members, stored)));
        report.rates(bare, scan, beside);
        report.large_rss_mb = megabytes(resident);
        Ok(report)
    }

    /// Runs one scan, and looks at the worker's memory meanwhile. Its time is the attempt's, from the start of the function to
    /// the stored end.
    async fn scan(&self, chat: &str) -> anyhow::Result<Scanned> {
        let args = json!({ "what": "members", "chat": format!("@{chat}"), "purpose": "bench", "retention_days": 1 });
        let job = NewJob {
            session: Some(self.session),
            ..NewJob::new(JobKind::Scan, args)
        };
        let id = job.id;
        let jobs = [job];
        let mut conn = self.pool.acquire().await.context("the database went away")?;
        enqueue(&mut conn, &jobs, self.site.queue.ageing_step).await?;
        Waker::start(self.pool.clone()).enqueued(&jobs, None);
        drop(conn);
        let mut resident = 0;
        let ended = async {
            loop {
                resident = resident.max(self.worker.resident()?);
                let job = job_reads::get(self.pool, id).await?.context("the job is gone")?;
                if let (Some(started), Some(finished)) = (job.started_at, job.finished_at) {
                    return anyhow::Ok((finished - started, job));
                }
                sleep(LOOK).await;
            }
        };
        let ended: anyhow::Result<(TimeDelta, _)> = timeout(BOUND, ended).await.context("a scan did not end")?;
        let (took, job) = ended?;
        let result = job.result.context("a scan failed")?;
        let result: ScanResult = serde_json::from_value(result)?;
        Ok(Scanned {
            members: result.seen,
            micros: took.num_microseconds().context("a scan took for ever")?,
            resident,
        })
    }
}
