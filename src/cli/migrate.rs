//! `wireroom migrate`.

use std::process::ExitCode;

use super::{process, stdout};
use crate::store::schema::Migrated;

pub async fn run() -> anyhow::Result<ExitCode> {
    let config = process::load()?;
    let found = match process::migrate(&config.database).await? {
        // Of two at once both have missed the same ones.
        Migrated::Own { missing } => {
            format!("The schema is up to date; {missing} migration(s) were missing.")
        }
        Migrated::Newer { version } => format!(
            "The schema is that of a newer release (migration {version}), which says that this one may run with it; \
             nothing was done."
        ),
    };
    stdout::line(format_args!("{found}"))?;
    Ok(ExitCode::SUCCESS)
}
