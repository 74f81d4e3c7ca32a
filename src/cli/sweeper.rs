//! Deletes what scans kept once its time is over: personal data has an end that no request has to ask for. Every worker
//! does it; rows that another one has locked are left to it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{self, PgPool, StoreError, scans};

/// The longest that data outlives its time, while a worker runs.
const PAUSE: Duration = Duration::from_mins(1);
/// Rows of one table in one transaction: short enough that nobody waits for it.
const BATCH: i64 = 5_000;

/// Sweeps at once and each minute, until `stop`.
pub async fn run(pool: PgPool, stop: CancellationToken) {
    let sweeping = async {
        loop {
            match sweep(&pool).await {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "deleted what scans kept and whose time is over"),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "expired rows were not deleted"
                    );
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(sweeping).await;
}

async fn sweep(pool: &PgPool) -> Result<u64, StoreError> {
    let mut all = 0;
    loop {
        let mut conn = store::connection(pool, "sweep").await?;
        match scans::sweep(&mut conn, BATCH).await? {
            0 => return Ok(all),
            rows => all += rows,
        }
    }
}
