//! A private Postgres cluster, for `wireroom dev` and for tests: server programs that are already on the machine, a
//! directory of its own, the loopback address, a random password. Nothing is set up by hand and nothing is left running.
//!
//! - [`Cluster`] belongs to one process: it starts with it, and ends with it.
//! - `testing` shares one cluster among all the processes of a test run.
//!
//! `guard` is why nothing is left running; `home` says how two processes are kept apart; `owner` is what root needs.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod database;
#[cfg(feature = "download-postgres")]
mod download;
mod error;
mod guard;
mod home;
mod locate;
mod owner;
mod password;
mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::ClusterError;
use guard::Until;
use home::Home;
use locate::Programs;
use server::{Launch, Lifeline, Running};

/// How often a condition of another process is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What a private cluster should be like.
#[derive(Debug, Clone, Default)]
pub struct ClusterConfig {
    /// Where it lives; made if it is not there. See [`Cluster::dir`] for where it lives in the end.
    pub dir: PathBuf,
    /// Throw away what an earlier one left in `dir`, and start over.
    pub fresh: bool,
    /// Download the server programs if there are none on this machine.
    pub download: bool,
    /// Settings of `postgresql.conf`, by name, for this start. They win over the cluster's own. Without any, every
    /// commit is durable.
    pub settings: Vec<(String, String)>,
}

/// A running private cluster that belongs to this process.
///
/// It stops when the value is dropped, and when the process ends in any way. Its data stays for the next start.
pub struct Cluster {
    home: Home,
    programs: Programs,
    settings: Vec<(String, String)>,
    password: String,
    port: u16,
    /// `None` only after a restart that failed.
    running: Option<Running>,
    /// Keeps other processes out. Declared last: let go when the server has stopped.
    _taken: File,
}

impl Cluster {
    /// Starts the cluster in `config.dir`, which is made first where there is none. Takes well under a second for an
    /// existing cluster, and at most a few for a new one. A server that an earlier process left behind is stopped first.
    ///
    /// # Errors
    ///
    /// Among others: [`ClusterError::NoPrograms`] when Postgres is not installed, [`ClusterError::InUse`] when another
    /// process runs this cluster. When it fails, nothing is left running.
    pub async fn start(config: ClusterConfig) -> Result<Self, ClusterError> {
        let home = Home::prepare(&config.dir)?;
        let taken = home.take().await?;
        let log = server::stop_left_behind(&home).await?;
        if config.fresh {
            home.clear()?;
        }
        let programs = find_programs(&home, config.download).await?;
        server::init(&home, &programs, is_durable(&config.settings)).await?;
        let password = home.password()?;
        let running = launch(&home, &programs, &config.settings)
            .start(&log, None, || Ok(Lifeline::pipe()))
            .await?;
        let port = running.port;
        let ClusterConfig { settings, .. } = config;
        Ok(Self {
            home,
            programs,
            settings,
            password,
            port,
            running: Some(running),
            _taken: taken,
        })
    }

    /// Where the cluster lives: `dir` of its configuration, or, when this process is root and the server's user cannot
    /// reach that, a directory it can. Worth showing to a person when it differs.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// The port on 127.0.0.1. It stays the same over starts for as long as nothing else takes it meanwhile.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database in this cluster, with the password. The database `postgres` always exists.
    pub fn url(&self, database: &str) -> String {
        url(&self.password, self.port, database)
    }

    /// Creates a database, unless it exists, and answers with its URL.
    pub async fn ensure_database(&self, name: &str) -> Result<String, ClusterError> {
        database::ensure(&self.url("postgres"), name).await?;
        Ok(self.url(name))
    }

    /// Stops the server, rolling back what is not committed, and waits until it has ended.
    pub async fn stop(mut self) -> Result<(), ClusterError> {
        self.halt(false).await
    }

    /// Stops the server and starts it again on the same port. Clients lose their connections.
    pub async fn restart(&mut self) -> Result<(), ClusterError> {
        self.halt(false).await?;
        self.start_again().await
    }

    /// Cuts the server off without a shutdown, as a crash would, and starts it again on the same port.
    pub async fn crash(&mut self) -> Result<(), ClusterError> {
        self.halt(true).await?;
        self.start_again().await
    }

    /// Stops the server, and keeps the cluster and its port for [`Cluster::start_again`]: a database that is down.
    pub async fn halt(&mut self, abruptly: bool) -> Result<(), ClusterError> {
        match self.running.take() {
            Some(running) => running.stop(&self.home, abruptly).await,
            None => Ok(()),
        }
    }

    /// Starts the server after [`Cluster::halt`], on the same port.
    pub async fn start_again(&mut self) -> Result<(), ClusterError> {
        if self.running.is_some() {
            return Ok(());
        }
        let log = server::stop_left_behind(&self.home).await?;
        let launch = launch(&self.home, &self.programs, &self.settings);
        self.running = Some(launch.start(&log, Some(self.port), || Ok(Lifeline::pipe())).await?);
        Ok(())
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password.
        formatter
            .debug_struct("Cluster")
            .field("dir", &self.dir())
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

fn launch<'a>(home: &'a Home, programs: &'a Programs, settings: &'a [(String, String)]) -> Launch<'a> {
    Launch {
        home,
        programs,
        settings,
        until: Until::HolderGone,
    }
}

fn url(password: &str, port: u16, database: &str) -> String {
    format!("postgres://{}:{password}@127.0.0.1:{port}/{database}", server::ROLE)
}

fn is_durable(settings: &[(String, String)]) -> bool {
    !settings.iter().any(|(name, value)| name == "fsync" && value == "off")
}

#[cfg_attr(
    not(feature = "download-postgres"),
    expect(clippy::unused_async, reason = "the download alone awaits")
)]
async fn find_programs(home: &Home, download: bool) -> Result<Programs, ClusterError> {
    let made_by = server::made_by(home);
    match Programs::locate(home, made_by) {
        Err(ClusterError::NoPrograms { .. } | ClusterError::TooOld { .. } | ClusterError::OtherVersion { .. })
            if download =>
        {
            #[cfg(feature = "download-postgres")]
            let downloaded = download::install(home, made_by).await;
            #[cfg(not(feature = "download-postgres"))]
            let downloaded = Err(ClusterError::NoDownload);
            downloaded
        }
        found => found,
    }
}

#[cfg(test)]
mod tests;
