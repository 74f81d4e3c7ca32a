//! How long the renewal of all leases takes: the statement of every holder, over a connection like its own, again and again
//! from this process, once the worker has given them back. What the worker itself saw of its few is beside it.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::{
    cli::bench::site::Site,
    ids::WorkerId,
    store::{
        bench_sessions, leases,
        line::{Line, lease_pool},
    },
};

const LEASE: Duration = Duration::from_mins(1);
const RENEWALS: usize = 240;
/// Between two of them: none waits for what the last one still writes.
const PAUSE: Duration = Duration::from_millis(50);
/// After so many the table is vacuumed: with a renewal each 5 s, autovacuum comes by after 12.
const VACUUM: usize = 12;

/// Microseconds of each renewal of so many leases.
pub async fn measure(site: &Site, sessions: usize) -> anyhow::Result<Vec<i64>> {
    let pool = site.pool(1)?;
    let mut line = Line::new(lease_pool(&pool));
    let conn = line.open("renew_leases").await?;
    let mut cleaner = pool.acquire().await.context("the database went away")?;
    let worker = WorkerId::generate();
    let taken = leases::acquire(conn, worker, sessions, LEASE).await?;
    let keys: Vec<_> = taken.iter().map(|lease| lease.key).collect();
    if keys.len() != sessions {
        bail!("{} of {sessions} leases were free", keys.len());
    }
    let mut micros = Vec::with_capacity(RENEWALS);
    for nth in 0..RENEWALS {
        if nth % VACUUM == 0 {
            bench_sessions::vacuum_leases(&mut cleaner).await?;
        }
        let begun = Instant::now();
        let renewed = leases::renew(conn, worker, &keys, LEASE).await?;
        micros.push(i64::try_from(begun.elapsed().as_micros())?);
        if renewed.len() != sessions {
            bail!("{} of {sessions} leases were renewed", renewed.len());
        }
        sleep(PAUSE).await;
    }
    Ok(micros)
}
