//! How long the renewal of all leases takes: the statement of every holder, over a connection like its own, again and again
//! from this process, once the worker has given them back. What the worker itself saw of its few is beside it.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::{
    cli::bench::site::Site,
    ids::WorkerId,
    store::{
        self, bench_sessions, leases,
        line::{Line, lease_pool},
    },
};

/// The application of sessions that name none; Telegram has refused no such id.
const API_ID: i32 = 1;
const LEASE: Duration = Duration::from_mins(1);
const RENEWALS: usize = 240;
/// Between two of them: none waits for what the last one still writes.
const PAUSE: Duration = Duration::from_millis(50);
/// After so many the table is vacuumed: with a renewal each 5 s, autovacuum comes by after 12.
const VACUUM: usize = 12;

/// Microseconds of each renewal of so many leases.
#[derive(Default)]
pub struct Renewals {
    /// With its commit.
    pub whole: Vec<i64>,
    /// What of that the commit took: mostly the disk.
    pub commits: Vec<i64>,
}

pub async fn measure(site: &Site, sessions: usize) -> anyhow::Result<Renewals> {
    let pool = site.pool(1)?;
    let mut line = Line::new(lease_pool(&pool));
    let conn = line.open("renew_leases").await?;
    let mut cleaner = pool.acquire().await.context("the database went away")?;
    let worker = WorkerId::generate();
    let taken = leases::acquire(conn, worker, API_ID, sessions, LEASE).await?;
    let keys: Vec<_> = taken.iter().map(|lease| lease.key).collect();
    if keys.len() != sessions {
        bail!("{} of {sessions} leases were free", keys.len());
    }
    let mut renewals = Renewals::default();
    for nth in 0..RENEWALS {
        if nth % VACUUM == 0 {
            bench_sessions::vacuum_leases(&mut cleaner).await?;
        }
        // By itself the statement would be a transaction too; this one tells how long each part of it takes.
        let mut transaction = store::begin(conn, "renew_leases").await?;
        let begun = Instant::now();
        let renewed = leases::renew(&mut transaction, worker, API_ID, &keys, LEASE).await?;
        let renewing = begun.elapsed();
        transaction.commit().await.context("the database went away")?;
        let whole = begun.elapsed();
        renewals.whole.push(i64::try_from(whole.as_micros())?);
        renewals
            .commits
            .push(i64::try_from(whole.saturating_sub(renewing).as_micros())?);
        if renewed.len() != sessions {
            bail!("{} of {sessions} leases were renewed", renewed.len());
        }
        sleep(PAUSE).await;
    }
    Ok(renewals)
}
