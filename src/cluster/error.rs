//! What can go wrong with the private cluster. Each message is one line that says what to do, since it is what a
//! newcomer reads when the first command fails. None of them holds the password.

use std::io;
use std::path::{Path, PathBuf};

/// Why a private cluster could not be started, stopped or used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("no Postgres server programs were found: {hint}, or set DATABASE_URL")]
    NoPrograms { hint: &'static str },

    #[error("Postgres {major} in {bin} is too old, {oldest} or newer is needed: {hint}, or set DATABASE_URL")]
    TooOld {
        major: u32,
        oldest: u32,
        bin: PathBuf,
        hint: &'static str,
    },

    #[error(
        "the cluster in {dir} was made by Postgres {made_by}, whose programs were not found: install them, or start over with --fresh"
    )]
    OtherVersion { dir: PathBuf, made_by: u32 },

    #[error("another process uses the cluster in {dir}: stop it first, or use another directory")]
    InUse { dir: PathBuf },

    #[error("Postgres refuses to run as root, and neither a user `postgres` nor `nobody` exists to run it as")]
    NoServerUser,

    #[error("Postgres refuses to run as root, and this process may not start it as another user: run it without root")]
    StepDown(#[source] io::Error),

    #[error("{dir} belongs to someone else: remove it, or use another directory")]
    ForeignDirectory { dir: PathBuf },

    #[error("the file {path} is damaged: start over with --fresh")]
    Damaged { path: PathBuf },

    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot run {program}")]
    Run {
        program: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("initdb failed: {output}")]
    Initdb { output: String },

    #[error("Postgres did not start: {reason} (see {log})")]
    Exited { reason: String, log: PathBuf },

    #[error("Postgres was not ready within {seconds} s (see {log})")]
    NotReady { seconds: u64, log: PathBuf },

    #[error("Postgres in {dir} did not stop within {seconds} s")]
    NotStopped { dir: PathBuf, seconds: u64 },

    #[error("no free port on 127.0.0.1")]
    NoPort(#[source] io::Error),

    #[error("the operating system gave no random bytes for a password: {0}")]
    NoRandomness(getrandom::Error),

    #[error("cannot create the database {name}")]
    CreateDatabase {
        name: String,
        #[source]
        source: sqlx::Error,
    },

    #[error("this build cannot download Postgres: the feature `download-postgres` is off")]
    NoDownload,

    #[cfg(feature = "download-postgres")]
    #[error("cannot download Postgres")]
    Download(#[source] postgresql_embedded::Error),
}

impl ClusterError {
    /// An error of the file system, for `map_err`.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
