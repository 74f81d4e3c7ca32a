//! How fast is a full queue worked off?

use super::{Surroundings, Target, crew::Crew, figures::Figures, say, site::Site};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Jobs to be worked off.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    #[command(flatten)]
    around: Surroundings,
}

/// From the first call of the function until the last end is committed.
pub async fn measure(args: &Args, site: &Site) -> anyhow::Result<Figures> {
    let jobs = u64::from(args.jobs);
    let filled = site.surround(&args.around).await?;
    say(&format!("queueing {jobs} jobs"));
    site.fill(&filled.sessions, jobs).await?;
    site.settle().await?;
    let mut crew = Crew::start(site, args.around.workers, filled.sessions.len(), jobs).await?;
    crew.go().await?;
    let span = crew.until_done().await?;
    let ended = crew.end().await?;
    ended.require_each_once(jobs)?;
    site.require_finished(jobs).await?;
    let figures = Figures {
        test: "drain",
        jobs,
        setting: filled.setting,
        ..Figures::default()
    };
    Ok(figures
        .took(span.stored - span.first)
        .with_cost(ended.cpu_us, ended.peak_memory))
}
