//! `wireroom migrate`.

use std::process::ExitCode;

use super::process;

pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    let applied = process::migrate(&config.database).await?;
    // Of two at once both have missed the same ones.
    println!("The schema is up to date; {applied} migration(s) were missing.");
    Ok(ExitCode::SUCCESS)
}
