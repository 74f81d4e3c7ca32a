//! A connection that a loop keeps for itself: the hot statements of the queue pay no acquire, no ping, and wait for nobody.

use std::{io, time::Duration};

use sqlx::{Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions};

use super::{StoreError, connection as connect};

/// Connections of [`queue_pool`]: one for claims, one for ends, and the others for what runs beside them.
const QUEUE_CONNECTIONS: u32 = 6;

/// How long a statement of the queue may take before its connection counts as dead.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// How long a kept connection may take to say that it lives.
const PING_LIMIT: Duration = Duration::from_secs(1);

/// A pool for the queue's loops, to the same database as `pool`. Its connections never scan a table for the few rows they
/// want: a plan that was cached while a table was small would, and be used until the next ANALYZE. And they plan a statement
/// once: planning a claim takes 2 ms, many times what running it for a lone job does, and no value in it calls for
/// another plan. The server gives a statement up when its client has.
///
/// A queue that was empty when it was vacuumed looks empty to the planner for a minute into a burst, and reading all of an
/// index as good as looking a row up. So statements find jobs by `id = ANY (ARRAY[…])`: unlike `id = …` it cannot be
/// answered by reading the index in order, or from the other side of the join.
pub fn queue_pool(pool: &PgPool) -> PgPool {
    planned_once(pool, QUEUE_CONNECTIONS)
}

/// A pool of one such connection, for renewing leases: a renewal waits for nobody who wants a connection too.
pub fn lease_pool(pool: &PgPool) -> PgPool {
    planned_once(pool, 1)
}

/// A pool of one such connection, for numbering events: readers wait for that, whatever else the process does.
pub fn event_pool(pool: &PgPool) -> PgPool {
    planned_once(pool, 1)
}

fn planned_once(pool: &PgPool, connections: u32) -> PgPool {
    let limit = STATEMENT_LIMIT.as_millis().to_string();
    let options = pool.connect_options().as_ref().clone().options([
        ("statement_timeout", limit.as_str()),
        ("enable_seqscan", "off"),
        ("jit", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ]);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(pool.options().get_acquire_timeout())
        .connect_lazy_with(options)
}

/// One kept connection, made again after a failure.
#[derive(Debug)]
pub struct Line {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
}

impl Line {
    pub fn new(pool: PgPool) -> Self {
        Self { pool, connection: None }
    }

    /// The connection, made when there is none; `operation` is what it is wanted for.
    pub async fn open(&mut self, operation: &'static str) -> Result<&mut PgConnection, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.pool, operation).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Gives a kept connection up that does not answer any more.
    pub async fn refresh(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let answered = tokio::time::timeout(PING_LIMIT, connection.ping()).await;
        if !matches!(answered, Ok(Ok(()))) {
            self.hang_up();
        }
    }

    /// Gives the connection up after a failure.
    pub fn hang_up(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}

impl Drop for Line {
    /// Nobody else uses its pool: a connection that went back there would be tried first, on a server that may be gone.
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// `statement` within a time that a live database needs a fraction of: a connection that died without a word hangs for
/// ever. After an error, hang up.
pub async fn bounded<T>(
    operation: &'static str,
    statement: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let timed_out = |_| StoreError::Query {
        operation,
        source: sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut)),
    };
    tokio::time::timeout(STATEMENT_LIMIT, statement)
        .await
        .unwrap_or_else(|elapsed| Err(timed_out(elapsed)))
}
