//! `wireroom migrate`.

use std::process::ExitCode;

use anyhow::Context;

use super::process;
use crate::store;

pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    let applied = store::schema::migrate(&config.database)
        .await
        .context("the database was not migrated")?;
    // Of two at once both have missed the same ones.
    println!("The schema is up to date; {applied} migration(s) were missing.");
    Ok(ExitCode::SUCCESS)
}
