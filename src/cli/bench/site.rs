//! The schema a run happens in: made, filled, counted, dropped.

use anyhow::{Context, bail};
use serde_json::json;
use url::Url;
use uuid::Uuid;
use wireroom_jobs::JobKind;

use super::{Surroundings, say};
use crate::{
    cli::keys,
    config::{DatabaseConfig, QueueConfig, Secret, Source},
    ids::{JobId, SessionId},
    store::{
        self, PgPool,
        api_keys::Scope,
        bench::{self, Tally},
        jobs::{NewJob, enqueue},
        schema,
    },
};

/// `bulk` slots of the only session; of many, each has one. Both are ordinary settings of a session.
pub const SLOTS_OF_ONE: i32 = 2_000;
/// Jobs of one filling statement.
const FILL: u64 = 1_000;

/// A schema that is only there for this run.
pub struct Site {
    /// As it was given, for making and dropping the schema.
    outside: DatabaseConfig,
    /// With the schema in its search path.
    inside: DatabaseConfig,
    schema: String,
    pub queue: QueueConfig,
}

/// The sessions of a run.
pub struct Filled {
    pub sessions: Vec<SessionId>,
    /// For people.
    pub setting: String,
}

impl Site {
    /// Makes the schema and applies the migrations in it.
    pub async fn make(mut source: Source) -> anyhow::Result<Self> {
        let outside = DatabaseConfig::read(&mut source)?;
        // The queue's own settings count; everything else of the environment is left alone.
        let queue = QueueConfig::read(&mut source)?;
        let schema = format!("wireroom_bench_{}", Uuid::new_v4().simple());
        let inside = DatabaseConfig {
            url: Secret::new(inside_url(outside.url.expose(), &schema)?),
            ..outside.clone()
        };
        bench::create_schema(&outside, &schema)
            .await
            .context("no schema could be made in the database; the role must be allowed to (CREATE on the database)")?;
        let site = Self {
            outside,
            inside,
            schema,
            queue,
        };
        if let Err(error) = schema::migrate(&site.inside).await {
            site.remove().await?;
            return Err(error).context("the schema was not migrated");
        }
        Ok(site)
    }

    /// Drops the schema with everything in it.
    pub async fn remove(&self) -> anyhow::Result<()> {
        bench::drop_schema(&self.outside, &self.schema)
            .await
            .with_context(|| format!("the schema {} could not be dropped: drop it by hand", self.schema))
    }

    /// The URL that leads into the schema: what a worker process is given.
    pub fn url(&self) -> &str {
        self.inside.url.expose()
    }

    /// The database with the schema in its search path.
    #[cfg(feature = "sandbox")]
    pub fn inside(&self) -> &DatabaseConfig {
        &self.inside
    }

    /// A pool of at most so many connections.
    pub fn pool(&self, connections: u32) -> anyhow::Result<PgPool> {
        let config = DatabaseConfig {
            max_connections: connections,
            ..self.inside.clone()
        };
        store::pool(&config).context("the database's URL cannot be used")
    }

    /// Sessions, and what lies in the tables beside the measured jobs.
    pub async fn surround(&self, around: &Surroundings) -> anyhow::Result<Filled> {
        let slots = if around.sessions == 1 { SLOTS_OF_ONE } else { 1 };
        self.surround_with(around, slots).await
    }

    /// The same with so many `bulk` slots for each session.
    pub async fn surround_with(&self, around: &Surroundings, slots: i32) -> anyhow::Result<Filled> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        let count = usize::try_from(around.sessions).context("too many sessions")?;
        let sessions = bench::add_sessions(&mut conn, count, slots).await?;
        if around.history + around.future > 0 {
            say("filling in finished and future jobs");
        }
        bench::add_finished(&mut conn, around.history.into(), &sessions).await?;
        bench::add_future(&mut conn, around.future.into(), &sessions).await?;
        drop(conn);
        pool.close().await;
        let setting = format!(
            "{} worker process(es), {count} session(s) with {slots} bulk slot(s) each, beside {} finished and {} future jobs",
            around.workers, around.history, around.future
        );
        Ok(Filled { sessions, setting })
    }

    /// Finished jobs of several kinds and ends; ids of up to `sample` of them, in no order.
    pub async fn fill_history(&self, count: u32, sessions: &[SessionId], sample: i64) -> anyhow::Result<Vec<JobId>> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        bench::add_mixed_finished(&mut conn, count.into(), sessions).await?;
        let jobs = bench::sample_finished(&mut conn, sample).await?;
        drop(conn);
        pool.close().await;
        Ok(jobs)
    }

    /// A fresh API key that may create jobs.
    pub async fn key(&self) -> anyhow::Result<String> {
        let pool = self.pool(1)?;
        let key = keys::create(&pool, "bench", Scope::Operator).await?;
        pool.close().await;
        Ok(key.expose().to_owned())
    }

    /// Empties the table of live jobs.
    pub async fn clear(&self) -> anyhow::Result<()> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        bench::clear_live(&mut conn).await?;
        drop(conn);
        pool.close().await;
        Ok(())
    }

    /// Fails unless so many jobs wait.
    pub async fn require_live(&self, jobs: u64) -> anyhow::Result<()> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        let found = bench::count_live(&mut conn).await?;
        drop(conn);
        pool.close().await;
        if u64::try_from(found) != Ok(jobs) {
            bail!("the API accepted {jobs} jobs, and {found} are there: some were lost or stored twice");
        }
        Ok(())
    }

    /// Queues the measured jobs, the n-th on the n-th session and so on in turn.
    pub async fn fill(&self, sessions: &[SessionId], jobs: u64) -> anyhow::Result<()> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        for from in (0..jobs).step_by(FILL.try_into()?) {
            let batch: Vec<NewJob> = (from..jobs.min(from + FILL)).map(|i| job(i, 0, sessions)).collect();
            enqueue(&mut conn, &batch, self.queue.ageing_step).await?;
        }
        drop(conn);
        pool.close().await;
        Ok(())
    }

    /// Vacuums, analyses and checkpoints, so that the filling's own aftermath is not measured.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        if !bench::settle(&mut conn).await? {
            say("the role may not ask for a checkpoint: the server may still be writing the filling back");
        }
        drop(conn);
        pool.close().await;
        Ok(())
    }

    /// The measured jobs as the database has them.
    pub async fn tally(&self) -> anyhow::Result<Tally> {
        let pool = self.pool(1)?;
        let mut conn = pool.acquire().await.context("the database went away")?;
        let tally = bench::tally(&mut conn).await?;
        drop(conn);
        pool.close().await;
        Ok(tally)
    }

    /// Fails unless each of `jobs` is in the database as finished, once, by its first attempt.
    pub async fn require_finished(&self, jobs: u64) -> anyhow::Result<()> {
        let found = self.tally().await?;
        let jobs = i64::try_from(jobs)?;
        let wanted = Tally {
            succeeded: jobs,
            distinct: jobs,
            ..Tally::default()
        };
        if found != wanted {
            bail!(
                "of {jobs} jobs, {} succeeded once, {} are still live, {} ended otherwise or took a second attempt",
                found.distinct,
                found.live,
                found.otherwise + found.succeeded - found.distinct
            );
        }
        Ok(())
    }
}

/// The measured job with the number `i`, sent at `t` (microseconds since 1970; 0 where that does not matter).
pub fn job(i: u64, t: i64, sessions: &[SessionId]) -> NewJob {
    let nth = usize::try_from(i).unwrap_or(0) % sessions.len();
    NewJob {
        session: Some(sessions[nth]),
        ..NewJob::new(JobKind::Join, json!({"i": i, "t": t}))
    }
}

/// The same database with the schema, and it alone, in the search path of every connection.
fn inside_url(url: &str, schema: &str) -> anyhow::Result<String> {
    let mut url = Url::parse(url)
        .ok()
        .context("the database's URL is not of the form postgres://user:password@host:port/database")?;
    url.query_pairs_mut()
        .append_pair("options", &format!("-c search_path={schema}"));
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_all_that_a_connection_sees() {
        let url = inside_url("postgres://me:pw@localhost/db?sslmode=disable", "s").expect("a URL");
        assert_eq!(
            url,
            "postgres://me:pw@localhost/db?sslmode=disable&options=-c+search_path%3Ds"
        );
        inside_url("nonsense", "s").expect_err("no URL");
    }

    #[test]
    fn jobs_go_to_the_sessions_in_turn() {
        let sessions = [SessionId::generate(), SessionId::generate()];
        let turns: Vec<_> = (0..3).map(|i| job(i, 0, &sessions).session).collect();
        assert_eq!(turns, [Some(sessions[0]), Some(sessions[1]), Some(sessions[0])]);
    }
}
