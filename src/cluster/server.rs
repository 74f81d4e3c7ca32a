//! The server's processes: made once by `initdb`, started under a guard, awaited until they answer, stopped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guard::{self, Until};
use super::home::{Home, remove_file, remove_tree};
use super::locate::Programs;
use super::{ClusterError, POLL, password};

/// The role that owns everything in a private cluster.
pub(super) const ROLE: &str = "wireroom";

/// How long a start may take; replaying the log of a large crashed cluster is what takes time.
const READY_SECONDS: u64 = 60;
/// How long each step of a stop may take: the guard cuts the server off after 10 s and kills it after 15.
pub(super) const STOP_SECONDS: u64 = 20;

/// Settings that every private cluster has; those of the caller come after them and win.
const SETTINGS: [(&str, &str); 6] = [
    ("listen_addresses", "127.0.0.1"),
    // The path of a Unix socket is limited to about 100 bytes; the loopback address is not.
    ("unix_socket_directories", ""),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    // Without the DETAIL lines, which quote the values of rows.
    ("log_error_verbosity", "terse"),
    ("cluster_name", ROLE),
];

/// The major version that made the cluster in `home`, if there is one.
pub(super) fn made_by(home: &Home) -> Option<u32> {
    let version = fs::read_to_string(home.data().join("PG_VERSION")).ok()?;
    version.trim().split('.').next()?.parse().ok()
}

/// Makes the cluster's files, unless that was done. An interrupted attempt leaves nothing that looks like a cluster: the
/// files get their name last.
pub(super) async fn init(home: &Home, programs: &Programs, durable: bool) -> Result<(), ClusterError> {
    if made_by(home).is_some() {
        return Ok(());
    }
    let draft = home.dir().join("data.new");
    remove_tree(&draft)?;
    home.make_private(&draft)?;
    let password = password::random()?;
    let password_file = home.run().join("password");
    remove_file(&password_file)?;
    write_for_server(home, &password_file, &password::verifier(&password)?)?;

    let mut command = home.owner().command(programs.initdb());
    command.args([
        "--encoding=UTF8",
        "--locale=C",
        "--auth=scram-sha-256",
        "--no-instructions",
    ]);
    command.arg(format!("--username={ROLE}"));
    if !durable {
        command.arg("--no-sync");
    }
    command.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(&draft);
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    remove_file(&password_file)?;
    let output = output.map_err(|source| ClusterError::Run {
        program: programs.initdb(),
        source,
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(ClusterError::Initdb {
            output: said.split_whitespace().collect::<Vec<_>>().join(" "),
        });
    }
    home.store_password(&password)?;
    remove_tree(&home.data())?;
    fs::rename(&draft, home.data()).map_err(ClusterError::file("rename", &draft))
}

/// Writes a file that only the server's user can read, in its directory.
fn write_for_server(home: &Home, path: &Path, text: &str) -> Result<(), ClusterError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(ClusterError::file("create", path))?;
    file.write_all(text.as_bytes())
        .map_err(ClusterError::file("write", path))?;
    home.owner().give(path)
}

/// Waits until no server runs in `home`, stopping one that was left behind, and answers with its locked log.
pub(super) async fn stop_left_behind(home: &Home) -> Result<File, ClusterError> {
    for signal in [None, Some(Signal::SIGINT), Some(Signal::SIGQUIT), Some(Signal::SIGKILL)] {
        if let Some(log) = home.take_log()? {
            return Ok(log);
        }
        // Its guard may be about to stop it, so the first round only waits.
        let seconds = if signal.is_none() { 1 } else { STOP_SECONDS };
        if let (Some(signal), Some(pid)) = (signal, server_pid(home)) {
            // The lock proves that a server of this directory lives, so the pid is not of a past life. One that ended
            // meanwhile is what was wanted.
            let _ = kill(pid, signal);
        }
        if let Ok(log) = tokio::time::timeout(Duration::from_secs(seconds), log_freed(home)).await {
            return log;
        }
    }
    Err(ClusterError::NotStopped {
        dir: home.dir().to_owned(),
        seconds: STOP_SECONDS,
    })
}

async fn log_freed(home: &Home) -> Result<File, ClusterError> {
    loop {
        if let Some(log) = home.take_log()? {
            return Ok(log);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn server_pid(home: &Home) -> Option<Pid> {
    let file = fs::read_to_string(home.data().join("postmaster.pid")).ok()?;
    file.lines()
        .next()?
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 1)
        .map(Pid::from_raw)
}

/// Everything a start needs to know.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) home: &'a Home,
    pub(super) programs: &'a Programs,
    pub(super) settings: &'a [(String, String)],
    pub(super) until: Until<'a>,
}

impl Launch<'_> {
    /// Starts the server on the port of last time or another free one, and waits until it answers. The log must be the
    /// locked one.
    ///
    /// A port that is free can be taken before the server has it; then another one is tried, unless it has to be `port`.
    pub(super) async fn start(
        &self,
        log: &File,
        port: Option<u16>,
        mut lifeline: impl FnMut() -> Result<Lifeline, ClusterError>,
    ) -> Result<Running, ClusterError> {
        let mut attempts = 5;
        loop {
            attempts -= 1;
            let chosen = match port {
                Some(port) => port,
                None => free_port(self.home.last_port().filter(|_| attempts == 4))?,
            };
            match self.start_on(chosen, log, lifeline()?).await {
                Err(ClusterError::Exited { reason, .. })
                    if port.is_none() && attempts > 0 && reason.contains("TCP/IP socket") => {}
                Ok(running) => {
                    self.home.store_port(chosen)?;
                    return Ok(running);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn start_on(&self, port: u16, log: &File, lifeline: Lifeline) -> Result<Running, ClusterError> {
        log.set_len(0).map_err(ClusterError::file("empty", &self.home.log()))?;
        // No server runs here, or the log would not be ours. What a crashed one left could name a pid that now belongs to
        // another process, and Postgres would refuse to start.
        remove_file(&self.home.data().join("postmaster.pid"))?;
        let child =
            guard::spawn(self.home.owner(), self.command(port), self.until, lifeline.read, log).map_err(|source| {
                ClusterError::Run {
                    program: self.programs.postgres(),
                    source,
                }
            })?;
        let mut running = Running {
            guard: child,
            hold: lifeline.hold,
            port,
        };
        let ready = self.ready(&mut running.guard);
        match tokio::time::timeout(Duration::from_secs(READY_SECONDS), ready).await {
            Ok(ready) => ready.map(|()| running),
            Err(_) => Err(ClusterError::NotReady {
                seconds: READY_SECONDS,
                log: self.home.log(),
            }),
        }
    }

    fn command(&self, port: u16) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec![self.programs.postgres().into(), "-D".into(), self.home.data().into()];
        let own = SETTINGS.iter().map(|(name, value)| format!("{name}={value}"));
        let given = self.settings.iter().map(|(name, value)| format!("{name}={value}"));
        for setting in own.chain([format!("port={port}")]).chain(given) {
            command.push("-c".into());
            command.push(setting.into());
        }
        command
    }

    /// Waits until the server says in its pid file that it takes connections, or has ended.
    async fn ready(&self, guard: &mut Child) -> Result<(), ClusterError> {
        let pid_file = self.home.data().join("postmaster.pid");
        loop {
            if let Ok(Some(_)) = guard.try_wait() {
                let log = self.home.log();
                return Err(ClusterError::Exited {
                    reason: last_words(&log),
                    log,
                });
            }
            // The eighth line is the state, as `pg_ctl` reads it.
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The two ends of what tells the guard that we are gone.
pub(super) struct Lifeline {
    /// The end that the guard reads.
    pub(super) read: Stdio,
    /// The end that we hold; `None` when `read` is a new pipe, whose other end comes with the guard.
    pub(super) hold: Option<File>,
}

impl Lifeline {
    /// A new pipe.
    pub(super) fn pipe() -> Self {
        Self {
            read: Stdio::piped(),
            hold: None,
        }
    }
}

/// A server that takes connections, with its guard. Dropped, it lets the lifeline go and waits for the end.
#[derive(Debug)]
pub(super) struct Running {
    guard: Child,
    hold: Option<File>,
    pub(super) port: u16,
}

impl Running {
    /// Lets the server go and waits until it has ended. `abruptly` cuts it off, as a crash would.
    pub(super) async fn stop(mut self, home: &Home, abruptly: bool) -> Result<(), ClusterError> {
        self.let_go(abruptly);
        let ended = async {
            while let Ok(None) = self.guard.try_wait() {
                tokio::time::sleep(POLL).await;
            }
            log_freed(home).await.map(drop)
        };
        match tokio::time::timeout(Duration::from_secs(STOP_SECONDS), ended).await {
            Ok(ended) => ended,
            Err(_) => stop_left_behind(home).await.map(drop),
        }
    }

    /// Leaves the server to the holders of its lifeline, of whom the caller is one for as long as it keeps the file.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn detach(mut self) -> Option<File> {
        let hold = self.hold.take();
        std::mem::forget(self);
        hold
    }

    fn let_go(&mut self, abruptly: bool) {
        self.hold = None;
        if let Some(mut lifeline) = self.guard.stdin.take()
            && abruptly
        {
            // A guard that is gone already has stopped the server.
            let _ = std::io::Write::write_all(&mut lifeline, guard::IMMEDIATE);
        }
    }
}

impl Drop for Running {
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
    fn drop(&mut self) {
        self.let_go(false);
        let polls = STOP_SECONDS * 1000 / 10;
        for _ in 0..polls {
            if !matches!(self.guard.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A port that is free on 127.0.0.1 now: `wanted` if that is.
fn free_port(wanted: Option<u16>) -> Result<u16, ClusterError> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    wanted
        .map(bind)
        .and_then(Result::ok)
        .map_or_else(|| bind(0), Ok)
        .map(|address| address.port())
        .map_err(ClusterError::NoPort)
}

/// Why the server ended, from the end of its log: its last error, or else its last line.
fn last_words(log: &Path) -> String {
    const TAIL: u64 = 8 * 1024;
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        std::io::Result::Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    let tail = read().unwrap_or_default();
    let fatal = tail
        .lines()
        .rev()
        .find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
    let last = fatal.or_else(|| tail.lines().rev().find(|line| !line.trim().is_empty()));
    last.map_or_else(|| "it said nothing".to_owned(), |line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_not_chosen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        assert_ne!(free_port(Some(port)).expect("another"), port);
        drop(taken);
        assert_eq!(free_port(Some(port)).expect("free again"), port);
    }

    #[test]
    fn the_last_error_is_what_a_person_gets_to_see() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        fs::write(&log, "LOG:  starting\nFATAL:  could not map memory\nLOG:  shut down\n").expect("written");
        assert_eq!(last_words(&log), "FATAL:  could not map memory");
        fs::write(&log, "sh: postgres: not found\n\n").expect("written");
        assert_eq!(last_words(&log), "sh: postgres: not found");
        assert_eq!(last_words(&dir.path().join("none")), "it said nothing");
    }
}
