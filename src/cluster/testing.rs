//! A database for every test, in one private cluster that all processes of a test run share.
//!
//! The first test to ask starts the cluster, in the target directory, and applies the migrations to a template; every
//! test gets a clone of that, in about 50 ms. It works under `cargo test`, with many tests per process, and under
//! nextest, with a process per test: each process holds the writing end of a FIFO that the cluster's guard reads, so the
//! server ends a few seconds after the last process has, `kill -9` included.
//!
//! Nothing in it is durable. A test that stops or crashes Postgres starts a [`Cluster`](super::Cluster) of its own.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::database::{connect, quoted, run};
use super::guard::Until;
use super::home::{self, Home};
use super::server::{self, Launch, Lifeline};
use super::{ClusterError, POLL, find_programs, url};
use crate::store::MIGRATOR;

/// Part of the template's name: raise it when a template is made in another way.
const TEMPLATE_FORMAT: u8 = 2;

/// Caps as they come are so low that a test about something else would meet them; tests of caps set their own.
pub const NO_CAPS: &str = "-- no_caps
    UPDATE session_cap_defaults SET per_minute = 1000000, per_hour = 1000000, per_day = 1000000";

/// How long the server outlives its last user: the time between two processes of one run.
const LINGER_TENTHS: u32 = 30;

/// How long another process may take to start the cluster and make the template.
const ATTACH_BOUND: Duration = Duration::from_mins(3);

/// How long one statement on a database as a whole may take on a busy machine.
const STATEMENT_BOUND: Duration = Duration::from_mins(1);

/// Connections in the pool of one test.
const POOL_SIZE: u32 = 10;

const SETTINGS: [(&str, &str); 8] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
    ("max_locks_per_transaction", "256"),
    // It would visit hundreds of databases that live for a second.
    ("autovacuum", "off"),
    ("jit", "off"),
    ("shared_buffers", "128MB"),
];

/// The cluster, as this process is attached to it.
pub(super) struct Shared {
    password: String,
    port: u16,
    template: String,
    /// Open until this process ends: the server's guard waits for that.
    _lifeline: File,
}

impl Shared {
    /// The URL of a database in it, with the password.
    pub(super) fn url(&self, database: &str) -> String {
        url(&self.password, self.port, database)
    }
}

static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// Why there is no database for a test.
#[derive(Debug, thiserror::Error)]
pub(super) enum TestingError {
    #[error("the shared test cluster")]
    Cluster(#[from] ClusterError),
    #[error("the lifeline of the shared test cluster")]
    Lifeline(#[source] std::io::Error),
    #[error("another process has been starting the shared test cluster for too long")]
    Stuck,
    #[error("the migrations")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("a statement on the shared test cluster")]
    Statement(#[from] sqlx::Error),
    #[error("a statement on the shared test cluster took too long")]
    Slow,
}

/// A migrated, otherwise empty database that belongs to one test. It is dropped with this value, also when connections to
/// it are open; those of a process that was killed go at the next start of the cluster.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
    maintenance_url: String,
    pool: PgPool,
}

impl TestDatabase {
    /// Clones the template. Starts the shared cluster where this is the first test to ask.
    ///
    /// # Panics
    ///
    /// When there is no database to be had; the message says why, with all causes.
    pub async fn new() -> Self {
        match Self::create().await {
            Ok(database) => database,
            Err(error) => panic!("no test database: {}", with_causes(&error)),
        }
    }

    async fn create() -> Result<Self, TestingError> {
        let shared = SHARED
            .get_or_try_init(|| attach(target_directory().join("test-cluster")))
            .await?;
        let name = format!("test_{}_{}", std::process::id(), Uuid::new_v4().simple());
        let maintenance_url = shared.url("postgres");
        let clone = async {
            let mut connection = connect(&maintenance_url).await?;
            // As fast as WAL_LOG here, and it leaves the shared buffers to the tests.
            let statement = format!(
                "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY",
                quoted(&name),
                shared.template
            );
            run(&mut connection, statement).await?;
            connection.close().await
        };
        bounded(clone).await?;
        let url = shared.url(&name);
        let pool = PgPoolOptions::new()
            .max_connections(POOL_SIZE)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy(&url)?;
        Ok(Self {
            name,
            url,
            maintenance_url,
            pool,
        })
    }

    /// The URL of the database, with the password. It is on 127.0.0.1, so a proxy can stand in between.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Connections to the database, made when they are first needed.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (name, url) = (
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.maintenance_url),
        );
        // A thread with a runtime of its own: the test's may be the one that is dropping this. A database that stays is
        // swept at the next start.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let drop = async {
                    let mut connection = connect(&url).await?;
                    run(
                        &mut connection,
                        format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(&name)),
                    )
                    .await
                };
                let _ = bounded(drop).await;
            });
            std::io::Result::Ok(())
        });
        let _ = dropper.join();
    }
}

/// Joins the shared cluster in `dir`, or starts it, and sees to the template.
pub(super) async fn attach(dir: PathBuf) -> Result<Shared, TestingError> {
    let attach = async {
        let home = Home::prepare(&dir)?;
        // One process at a time, so nobody joins a cluster that is not ready, and one makes the template.
        let _turn = home.turn().await?;
        let fifo = home.run().join("lifeline");
        let (lifeline, started) = loop {
            if let Some(log) = home.take_log()? {
                break (start(&home, &fifo, &log).await?, true);
            }
            if let Some(lifeline) = join(&fifo)? {
                break (lifeline, false);
            }
            // The server is about to end: its guard has taken the FIFO away.
            tokio::time::sleep(POLL).await;
        };
        let password = home.password()?;
        let port = home.last_port().ok_or_else(|| ClusterError::Damaged {
            path: home.dir().join("port"),
        })?;
        let template = template_name();
        prepare_databases(&password, port, &template, started).await?;
        Ok(Shared {
            password,
            port,
            template,
            _lifeline: lifeline,
        })
    };
    tokio::time::timeout(ATTACH_BOUND, attach)
        .await
        .unwrap_or(Err(TestingError::Stuck))
}

/// Starts the server under a guard that waits for all who hold `fifo`.
async fn start(home: &Home, fifo: &Path, log: &File) -> Result<File, TestingError> {
    match try_start(home, fifo, log).await {
        // Written without fsync, so a machine that went down may have left ruins; and nothing in it is worth keeping.
        Err(TestingError::Cluster(ClusterError::Exited { .. } | ClusterError::OtherVersion { .. })) => {
            home.clear()?;
            try_start(home, fifo, log).await
        }
        started => started,
    }
}

async fn try_start(home: &Home, fifo: &Path, log: &File) -> Result<File, TestingError> {
    let programs = find_programs(home, false).await?;
    server::init(home, &programs, false).await?;
    let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let until = Until::AllGone {
        fifo,
        tenths: LINGER_TENTHS,
    };
    let launch = Launch {
        home,
        programs: &programs,
        settings: &settings,
        until,
    };
    let running = launch.start(log, None, || lifeline(fifo)).await?;
    running.detach().ok_or(TestingError::Stuck)
}

/// A new FIFO at `fifo`, with both its ends open.
fn lifeline(fifo: &Path) -> Result<Lifeline, ClusterError> {
    home::remove_file(fifo)?;
    mkfifo(fifo, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| ClusterError::file("create", fifo)(error.into()))?;
    let open = |read, write| {
        File::options()
            .read(read)
            .write(write)
            .open(fifo)
            .map_err(ClusterError::file("open", fifo))
    };
    // Opening one end waits for the other, except where one opens both.
    let both = open(true, true)?;
    let (read, hold) = (open(true, false)?, open(false, true)?);
    drop(both);
    announce(&hold).map_err(ClusterError::file("write", fifo))?;
    Ok(Lifeline {
        read: read.into(),
        hold: Some(hold),
    })
}

/// Takes hold of the lifeline of a running server, or answers `None` when it is too late.
fn join(fifo: &Path) -> Result<Option<File>, TestingError> {
    let opened = File::options()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(fifo);
    let hold = match opened {
        Ok(hold) => hold,
        // No FIFO, or nobody reads it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => return Ok(None),
        Err(error) => return Err(TestingError::Lifeline(error)),
    };
    // Once the guard has taken the FIFO away, it waits only for those who were seen before.
    let ours = hold.metadata().map_err(TestingError::Lifeline)?;
    let still_there = fifo
        .metadata()
        .is_ok_and(|now| now.ino() == ours.ino() && now.dev() == ours.dev());
    if !still_there {
        return Ok(None);
    }
    announce(&hold).map_err(TestingError::Lifeline)?;
    Ok(Some(hold))
}

/// Tells the guard that somebody came.
fn announce(mut hold: &File) -> std::io::Result<()> {
    hold.write_all(b"here\n")
}

/// Sweeps what earlier runs left, when the server was just `started`, and makes the template if it is missing.
///
/// A template of an earlier run goes too, even one of the same migrations: these make partitions for the days to come,
/// and it may be weeks old.
async fn prepare_databases(password: &str, port: u16, template: &str, started: bool) -> Result<(), TestingError> {
    let mut connection = bounded(connect(&url(password, port, "postgres"))).await?;
    let mut names: Vec<String> = sqlx::query_scalar(
        "-- test_databases\nSELECT datname FROM pg_database WHERE datname ~ '^(test|template|building)_'",
    )
    .fetch_all(&mut connection)
    .await?;
    if started {
        for name in names.drain(..) {
            let statement = format!("DROP DATABASE {} WITH (FORCE)", quoted(&name));
            bounded(run(&mut connection, statement)).await?;
        }
    }
    if !names.iter().any(|name| name == template) {
        make_template(&mut connection, password, port, template).await?;
    }
    connection.close().await?;
    Ok(())
}

/// Migrates a new database, and gives it the template's name last: an interrupted attempt is not taken for a template.
async fn make_template(
    connection: &mut PgConnection,
    password: &str,
    port: u16,
    template: &str,
) -> Result<(), TestingError> {
    let draft = template.replacen("template", "building", 1);
    bounded(run(connection, format!("DROP DATABASE IF EXISTS {draft} WITH (FORCE)"))).await?;
    bounded(run(connection, format!("CREATE DATABASE {draft}"))).await?;
    let mut inside = connect(&url(password, port, &draft)).await?;
    MIGRATOR.run_direct(None, &mut inside, false).await?;
    bounded(run(&mut inside, NO_CAPS.to_owned())).await?;
    inside.close().await?;
    // A template that nobody is connected to can be cloned at any time.
    bounded(run(
        connection,
        format!("ALTER DATABASE {draft} ALLOW_CONNECTIONS false"),
    ))
    .await?;
    bounded(run(connection, format!("ALTER DATABASE {draft} RENAME TO {template}"))).await?;
    Ok(())
}

async fn bounded<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, TestingError> {
    match tokio::time::timeout(STATEMENT_BOUND, statement).await {
        Ok(result) => result.map_err(TestingError::Statement),
        Err(_) => Err(TestingError::Slow),
    }
}

/// The template's name: other migrations, another template.
fn template_name() -> String {
    let mut hash = Sha256::new();
    hash.update([TEMPLATE_FORMAT]);
    for migration in MIGRATOR.iter() {
        hash.update(migration.version.to_be_bytes());
        hash.update(&migration.checksum);
    }
    hash.finalize()
        .iter()
        .take(8)
        .fold("template_".to_owned(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        })
}

/// Cargo's target directory, where this test binary lies: the nearest directory above it that Cargo marked as a cache.
fn target_directory() -> PathBuf {
    let binary = std::env::current_exe().unwrap_or_default();
    binary
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), Path::to_owned)
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_test_has_a_migrated_database_of_its_own() {
        let (one, other) = tokio::join!(TestDatabase::new(), TestDatabase::new());
        assert_ne!(one.name(), other.name());
        sqlx::query("CREATE TABLE only_here (n int)")
            .execute(one.pool())
            .await
            .expect("created");
        let there: bool = sqlx::query_scalar("SELECT to_regclass('only_here') IS NOT NULL")
            .fetch_one(other.pool())
            .await
            .expect("answered");
        assert!(!there, "the two share a database");
        let applied: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE success")
            .fetch_one(one.pool())
            .await
            .expect("the template was migrated");
        assert_eq!(usize::try_from(applied).expect("a count"), MIGRATOR.iter().count());
    }

    #[tokio::test]
    async fn a_database_goes_with_its_test_even_while_it_is_used() {
        let keeper = TestDatabase::new().await;
        let database = TestDatabase::new().await;
        let name = database.name().to_owned();
        let pool = database.pool().clone();
        let _open = pool.acquire().await.expect("a connection that stays open");
        drop(database);
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(keeper.pool())
            .await
            .expect("answered");
        assert!(!there, "{name} was left");
    }

    #[test]
    fn the_lifeline_ends_when_its_last_holder_has_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fifo = dir.path().join("lifeline");
        let (mut both_ends, reader) = {
            let made = lifeline(&fifo).expect("made");
            (
                made.hold,
                File::options()
                    .read(true)
                    .custom_flags(nix::libc::O_NONBLOCK)
                    .open(&fifo)
                    .expect("opened"),
            )
        };
        let second = join(&fifo).expect("no fault").expect("somebody reads it");
        let read = |buffer: &mut [u8]| std::io::Read::read(&mut &reader, buffer);
        let mut buffer = [0; 64];
        assert_eq!(read(&mut buffer).expect("two lines"), 2 * "here\n".len());
        both_ends.take();
        assert_eq!(
            read(&mut buffer).expect_err("one holds on").kind(),
            std::io::ErrorKind::WouldBlock
        );
        drop(second);
        assert_eq!(read(&mut buffer).expect("the end"), 0);

        std::fs::remove_file(&fifo).expect("the guard takes it away");
        assert!(
            join(&fifo).expect("no fault").is_none(),
            "joined a server that is about to end"
        );
    }

    #[test]
    fn the_target_directory_is_where_cargo_put_this_binary() {
        let target = target_directory();
        assert!(
            std::env::current_exe().expect("this binary").starts_with(&target),
            "{}",
            target.display()
        );
    }
}
