//! The only place with SQL. Functions that write take a `&mut PgConnection` and the caller commits once, so that an
//! enqueue joins its caller's transaction.

pub mod api_keys;
pub mod applications;
pub mod attempt_data;
pub mod attempt_reads;
pub mod audit;
pub mod audit_reads;
pub mod batches;
pub mod bench;
#[cfg(feature = "sandbox")]
pub mod bench_sessions;
pub mod breakers;
pub mod bulk;
pub mod campaign_changes;
pub mod campaign_people;
pub mod campaigns;
pub mod caps;
pub mod chat_reads;
pub mod chats;
pub mod claims;
pub mod completions;
pub mod contact;
pub mod deliveries;
pub mod delivery_log;
pub mod downloads;
pub mod effects;
pub mod erasure;
pub mod errand_upkeep;
pub mod errand_work;
pub mod errands;
pub mod event_consumers;
pub mod event_log;
pub mod event_types;
pub mod file_erasures;
pub mod files;
pub mod floods;
pub mod gates;
pub mod health;
pub mod holds;
pub mod idempotency;
pub mod incoming_files;
pub mod intake;
pub mod job_logs;
pub mod job_outreach;
mod job_publishing;
pub mod job_reads;
pub mod job_store;
pub mod jobs;
pub mod join_requests;
pub mod leases;
pub mod ledger;
pub mod limited_claims;
pub mod limits;
pub mod line;
pub mod login_requests;
pub mod login_rests;
mod lone_jobs;
pub mod member_reads;
pub mod notifications;
pub mod outbox;
pub mod outreach_switch;
pub mod own_claims;
pub mod partitions;
pub mod pauses;
pub mod peers;
pub mod pools;
pub mod preflight;
pub mod publications;
pub mod publish_targets;
pub mod rates;
pub mod reorder;
pub mod rescue;
pub mod said_stop;
pub mod sandbox_sessions;
pub mod scan_messages;
mod scan_port;
pub mod scan_rows;
pub mod scans;
mod schedule_events;
pub mod schedule_ticks;
pub mod schedules;
pub mod schema;
pub mod server;
pub mod session_checks;
pub mod session_health;
pub mod session_homes;
pub mod session_logins;
pub mod session_proxies;
pub mod session_reads;
pub mod sessions;
pub mod soak;
pub mod subscription_tests;
pub mod subscriptions;
pub mod suppressions;
pub mod templates;
pub mod unique_keys;
pub mod update_states;
pub mod vacuum;
pub mod vault_keys;
pub mod waiting_deliveries;
pub mod watch_moves;
pub mod watch_reads;
pub mod watches;
pub mod worker_reads;
pub mod workers;

use std::fmt::Write as _;

use sqlx::{
    Acquire as _, Postgres, Transaction,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
pub use sqlx::{PgConnection, PgPool, PgTransaction};

use crate::config::DatabaseConfig;

/// The migrations, compiled in.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// A statement that failed, named by its function.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{operation} failed")]
    Query {
        operation: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// The pool gave no connection.
    #[error(
        "{operation} got no connection in time: the database is away, or all WIREROOM_DATABASE_MAX_CONNECTIONS of this \
         process are in use"
    )]
    NoConnection { operation: &'static str },
    /// Nobody answers where the database should be, or refuses the connection.
    #[error("no connection to {place}")]
    Unreachable {
        /// Host and port, or a socket's directory.
        place: String,
        #[source]
        source: sqlx::Error,
    },
    /// The write changed another number of rows than it must.
    #[error("{operation} changed {changed} rows instead of {expected}")]
    Rows {
        operation: &'static str,
        changed: u64,
        expected: u64,
    },
    /// The write named a fence that is not the current one: nothing was changed.
    #[error("{operation} came from an attempt or a lease that is over")]
    Fenced { operation: &'static str },
    /// A value in the database that this version cannot read.
    #[error("{operation} read a value that this version does not know: {detail}")]
    Decode { operation: &'static str, detail: String },
}

impl StoreError {
    /// The database cannot be reached or takes no statements now: the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Query { source, .. } => is_unavailable(source),
            Self::NoConnection { .. } | Self::Unreachable { .. } => true,
            Self::Rows { .. } | Self::Fenced { .. } | Self::Decode { .. } => false,
        }
    }

    /// The process has closed its pool: it is about to end.
    pub fn is_closed(&self) -> bool {
        matches!(
            self,
            Self::Query {
                source: sqlx::Error::PoolClosed,
                ..
            }
        )
    }

    /// Whether two transactions stood in each other's way, and this one was rolled back for it: the same call may succeed.
    pub fn is_collision(&self) -> bool {
        let Self::Query {
            source: sqlx::Error::Database(error),
            ..
        } = self
        else {
            return false;
        };
        // Class 40: transaction rollback, a deadlock above all.
        error.code().is_some_and(|code| code.starts_with("40"))
    }

    /// Whether the database understood the statement and refuses its values, so that they will be refused again.
    pub fn is_refusal(&self) -> bool {
        let Self::Query {
            source: sqlx::Error::Database(error),
            ..
        } = self
        else {
            return false;
        };
        // Class 22: data exception; 23: integrity constraint violation; 54: program limit exceeded.
        error
            .code()
            .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }
}

/// The server ended a transaction that waited for this process.
const IDLE_TOO_LONG: &str = "25P03";

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Connection trouble, too little of something, and an operator's intervention: a shutdown, a start-up.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code == IDLE_TOO_LONG || ["08", "53", "57"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// `.map_err(failed("claim"))?` on a statement's result.
pub fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| match source {
        // Its own words blame the pool, whose connections may just have nobody to connect to.
        sqlx::Error::PoolTimedOut => StoreError::NoConnection { operation },
        source => StoreError::Query { operation, source },
    }
}

/// Bytes as people write them down, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// `one_row(done.rows_affected(), "claim")?`: the statement changed the row it was about, and no other.
fn one_row(changed: u64, operation: &'static str) -> Result<(), StoreError> {
    match changed {
        1 => Ok(()),
        changed => Err(StoreError::Rows {
            operation,
            changed,
            expected: 1,
        }),
    }
}

/// A pool of connections as the section says; connects lazily, so that a process starts while Postgres restarts.
///
/// The server ends a transaction that its process leaves waiting: one that was stopped, or cut off without a word, would
/// hold its locks for as long as it is away, and nobody could cancel or rescue its job.
pub fn pool(config: &DatabaseConfig) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = config.url.expose().parse()?;
    let idle = config.idle_transaction.as_millis().to_string();
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        // Compiling a claim takes a hundred times longer than running it, and the planner's estimates ask for it.
        .connect_lazy_with(
            options
                .application_name("wireroom")
                .options([("jit", "off"), ("idle_in_transaction_session_timeout", idle.as_str())]),
        ))
}

/// A connection of the pool for the statement `operation`.
pub async fn connection(pool: &PgPool, operation: &'static str) -> Result<PoolConnection<Postgres>, StoreError> {
    pool.acquire().await.map_err(failed(operation))
}

/// A transaction on a connection that the caller keeps, for the statement `operation`; rolled back when it is dropped.
pub async fn begin<'c>(
    conn: &'c mut PgConnection,
    operation: &'static str,
) -> Result<Transaction<'c, Postgres>, StoreError> {
    conn.begin().await.map_err(failed(operation))
}
