//! What every role does first: read the configuration, set up logs, reach the database, refuse one it does not know.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::{
    config::{Config, DatabaseConfig, QueueConfig, Secret},
    lifecycle::{Bounds, Ended, Shutdown},
    person_key::PersonKey,
    store::{
        self, PgPool,
        outreach_switch::{self, KeyFit},
        schema::Migrated,
    },
    telemetry,
};

/// Older servers lack what the statements use.
pub const OLDEST_POSTGRES: i32 = 15;

/// How long a starting role waits for a database that is starting too.
const DATABASE_BOUND: Duration = Duration::from_secs(30);

/// The configuration, with logs set up as it says.
pub fn load() -> anyhow::Result<Config> {
    let config = Config::load()?;
    telemetry::init(&config.telemetry)?;
    Ok(config)
}

/// A pool on a database that answers, is new enough, and has a schema that this program can run with.
pub async fn connect(config: &DatabaseConfig) -> anyhow::Result<PgPool> {
    let pool = reach(config).await?;
    let mut conn = store::connection(&pool, "connect").await?;
    store::schema::require_fitting(&mut conn).await?;
    drop(conn);
    Ok(pool)
}

/// Applies the migrations that are missing to a database that answers and is new enough.
pub async fn migrate(config: &DatabaseConfig) -> anyhow::Result<Migrated> {
    reach(config).await?;
    store::schema::migrate(config)
        .await
        .context("the database was not migrated")
}

/// The key that people are marked with, if there is one.
pub fn person_key(config: &Config) -> anyhow::Result<Option<PersonKey>> {
    let text: Option<&Secret> = config.outreach.person_key.as_ref();
    Ok(text.map(PersonKey::parse).transpose()?)
}

/// Refuses to work without the key that people were marked with: they would not be known again.
pub async fn verify_person_key(config: &Config, pool: &PgPool) -> anyhow::Result<()> {
    let key = person_key(config)?;
    let mut conn = store::connection(pool, "verify_person_key").await?;
    match outreach_switch::key_fit(&mut conn, key.as_ref()).await? {
        KeyFit::Fits => Ok(()),
        KeyFit::Missing => bail!(
            "WIREROOM_PERSON_KEY is not set, and people are marked with one in this database: give this worker the API's"
        ),
        KeyFit::Another => bail!("WIREROOM_PERSON_KEY is not the one that people are marked with in this database"),
    }
}

async fn reach(config: &DatabaseConfig) -> anyhow::Result<PgPool> {
    let pool = store::pool(config).map_err(|_| anyhow::anyhow!("DATABASE_URL is not a Postgres URL"))?;
    store::server::wait(&pool, DATABASE_BOUND)
        .await
        .context("the database that DATABASE_URL names cannot be reached")?;
    let mut conn = store::connection(&pool, "connect").await?;
    let facts = store::server::facts(&mut conn).await?;
    if facts.major < OLDEST_POSTGRES {
        bail!(
            "the database runs Postgres {}; {OLDEST_POSTGRES} or later is needed",
            facts.version
        );
    }
    drop(conn);
    Ok(pool)
}

/// Starts something, unless the process is told to end meanwhile: then what was started is dropped.
pub async fn until_told<T>(
    shutdown: &Shutdown,
    start: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        started = start => started.map(Some),
        () = shutdown.soft().cancelled() => Ok(None),
    }
}

/// What is left after the hard step, for ends to be stored and leases to be released.
const CLOSING: Duration = Duration::from_secs(5);

/// The two steps' bounds as the configuration has them.
pub fn bounds(config: &QueueConfig) -> Bounds {
    Bounds {
        soft: config.shutdown_soft,
        hard: config.shutdown_hard + CLOSING,
    }
}

/// The role's own result, or that it was cut off.
pub fn ended(ended: Ended<anyhow::Result<()>>) -> anyhow::Result<()> {
    match ended {
        Ended::Finished(result) => result,
        Ended::Late => bail!("something did not stop within the bounds, and was dropped"),
        Ended::Immediate => {
            tracing::warn!("ended at once, as a second signal asked");
            Ok(())
        }
    }
}
