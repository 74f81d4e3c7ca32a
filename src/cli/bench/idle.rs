//! What does a queue with nothing to do cost? Only the workers are there while it lasts: this process keeps no connection,
//! so that whoever counts statements and connections from outside counts theirs.

use std::time::Duration;

use anyhow::bail;

use super::{Surroundings, Target, crew::Crew, figures::Figures, say, site::Site};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Sessions that are held.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sessions: u32,
    /// Worker processes; each holds its share of the sessions.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// How many seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    secs: u32,
    /// 0, when it is given.
    #[arg(long, value_name = "N")]
    jobs: Option<u64>,
}

pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Figures> {
    if args.jobs.is_some_and(|jobs| jobs > 0) {
        bail!("--jobs is 0 here, or left out");
    }
    let around = Surroundings {
        sessions: args.sessions,
        workers: args.workers,
        history: 0,
        future: 0,
    };
    let filled = site.surround(&around).await?;
    site.settle().await?;
    let mut crew = Crew::start(site, args.workers, filled.sessions.len(), 0).await?;
    crew.go().await?;
    say(&format!("idle for {} s", args.secs));
    tokio::time::sleep(Duration::from_secs(args.secs.into())).await;
    let ended = crew.end().await?;
    ended.require_each_once(0)?;
    let figures = Figures {
        test: "idle",
        secs: f64::from(args.secs),
        setting: filled.setting,
        ..Figures::default()
    };
    Ok(figures.with_cost(ended.cpu_us, ended.peak_memory))
}
