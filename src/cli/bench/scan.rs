//! How fast does a scan read members, beside the bare loop of grammers that stores nothing, and does its memory grow with the
//! chat? A made-up Telegram in a process of its own, one real worker, and the loop in this process; in turns, so that what
//! else the machine does hits both.

mod bare;

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::json;
use tokio::time::{sleep, timeout};
use wireroom_jobs::{JobKind, scan::ScanResult};

use self::bare::Bare;
use super::{
    Target,
    figures::{count, micros_to_secs, quantile, rounded},
    now_us, say,
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
        PgPool, job_reads,
        jobs::{NewJob, enqueue},
    },
};

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
}

/// The figures, as the JSON object has them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub test: &'static str,
    pub rounds: u32,
    /// People of each reading.
    pub members: i64,
    /// People a second, of the middle round.
    pub bare_rate_per_s: f64,
    pub scan_rate_per_s: f64,
    /// The scan's rate by the bare one's: 0.9 is wanted.
    pub ratio: f64,
    /// Resident memory of the worker at its highest, during scans of the small chat and of the large one.
    pub small_rss_mb: f64,
    pub large_rss_mb: f64,
    /// Warnings and errors in the worker's log.
    pub complaints: usize,
}

impl Report {
    /// To standard output, for people or as JSON.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        println!("scan: {} members, the middle of {} rounds", self.members, self.rounds);
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        for (name, figure) in [
            ("bare loop, people a second", self.bare_rate_per_s),
            ("scan, people a second", self.scan_rate_per_s),
            ("ratio (0.9 is wanted)", self.ratio),
            ("memory, small chat, MB", self.small_rss_mb),
            ("memory, large chat, MB", self.large_rss_mb),
        ] {
            println!("  {name:<28}{figure}");
        }
        Ok(())
    }
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Report> {
    let telegram = Telegram::start(2, 0).await?;
    let [scanning, looping] = telegram.accounts.as_slice() else {
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
    let report = scans.beside(args, &bare).await?;
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
    async fn beside(&self, args: &Args, bare: &Bare) -> anyhow::Result<Report> {
        say("reading once for warmth");
        let small = self.scan(SMALL_CHAT).await?;
        bare.read(CHAT).await?;
        sleep(SETTLE).await;
        let mut report = Report {
            test: "scan",
            rounds: args.rounds,
            small_rss_mb: megabytes(small.resident),
            ..Report::default()
        };
        let (mut loops, mut scans, mut resident) = (Vec::new(), Vec::new(), 0);
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
        }
        let rate = |mut micros: Vec<i64>| {
            micros.sort_unstable();
            let middle = quantile(&micros, 50).unwrap_or(1).max(1);
            count(report.members.unsigned_abs()) / micros_to_secs(middle)
        };
        let (bare, scan) = (rate(loops), rate(scans));
        report.bare_rate_per_s = rounded(bare, 0);
        report.scan_rate_per_s = rounded(scan, 0);
        report.ratio = rounded(scan / bare, 3);
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

fn megabytes(bytes: u64) -> f64 {
    rounded(count(bytes) / 1e6, 1)
}
