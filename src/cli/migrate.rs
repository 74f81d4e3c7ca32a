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
    match applied {
        0 => println!("The schema is up to date."),
        1 => println!("Applied 1 migration."),
        more => println!("Applied {more} migrations."),
    }
    Ok(ExitCode::SUCCESS)
}
