//! The directory of a cluster: where it is, what lies in it, and who holds it.
//!
//! ```text
//! owner.lock   locked by the process that uses the cluster
//! server.log   standard output of the guard and the server; locked for as long as one of them lives
//! password     of the role `wireroom`; readable by the user of this process alone
//! port         the port of the last start, tried first at the next, so that a DATABASE_URL lasts
//! data/        Postgres' own files
//! run/         short-lived files of the server's user
//! programs/    downloaded server programs, if any
//! ```
//!
//! The locks are `flock`s. A lock belongs to the open file, and a child that has the file as its standard output shares
//! it: so the lock on `server.log` is let go by the last process of the server, however it ends, and the question
//! "does a server still run here" has an answer that no stale pid file can spoil.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use sha2::{Digest, Sha256};

use super::owner::Owner;
use super::{ClusterError, POLL};

/// The directory of one cluster, made and usable by the server's user.
#[derive(Debug, Clone)]
pub(super) struct Home {
    dir: PathBuf,
    owner: Owner,
}

impl Home {
    /// Makes the directory at `wanted`, or, where the server's user cannot reach that, at a place it can.
    pub(super) fn prepare(wanted: &Path) -> Result<Self, ClusterError> {
        fs::create_dir_all(wanted).map_err(ClusterError::file("create", wanted))?;
        let wanted = wanted.canonicalize().map_err(ClusterError::file("resolve", wanted))?;
        let home = Self::at(wanted)?;
        if home.owner.can_write(&home.run())? {
            return Ok(home);
        }
        let fallback = fallback_for(&home.dir);
        // Nothing of use is in the wanted place; what a person put there stays.
        let _ = fs::remove_dir(home.run());
        let _ = fs::remove_dir(&home.dir);
        claim_directory(&fallback)?;
        let home = Self::at(fallback)?;
        if home.owner.can_write(&home.run())? {
            Ok(home)
        } else {
            Err(ClusterError::ForeignDirectory { dir: home.dir })
        }
    }

    fn at(dir: PathBuf) -> Result<Self, ClusterError> {
        let owner = Owner::choose(&dir.join("data"))?;
        let home = Self { dir, owner };
        // Another user must pass through to the data; nobody needs to list what is here.
        set_mode(&home.dir, if owner.is_another_user() { 0o711 } else { 0o700 })?;
        home.make_private(&home.run())?;
        Ok(home)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.dir.join("programs")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.dir.join("password")
    }

    fn port_file(&self) -> PathBuf {
        self.dir.join("port")
    }

    /// Takes the cluster for this process, until the returned file is closed.
    ///
    /// It is asked for again for half a second: a child that another thread forks holds every open file until it runs its
    /// program, so a lock that was just let go can look held.
    pub(super) async fn take(&self) -> Result<File, ClusterError> {
        let mut tries = 50;
        loop {
            match try_lock(&self.dir.join("owner.lock"))? {
                Some(file) => return Ok(file),
                None if tries == 0 => return Err(ClusterError::InUse { dir: self.dir.clone() }),
                None => tries -= 1,
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for the turn of this process among those that share the cluster.
    #[cfg(any(test, feature = "testing"))]
    pub(super) async fn turn(&self) -> Result<File, ClusterError> {
        loop {
            if let Some(file) = try_lock(&self.dir.join("owner.lock"))? {
                return Ok(file);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes the server's log, or answers `None` while a server, or its guard, still runs here.
    pub(super) fn take_log(&self) -> Result<Option<File>, ClusterError> {
        try_lock(&self.log())
    }

    /// Makes `dir` as the server's own, closed to everyone else.
    pub(super) fn make_private(&self, dir: &Path) -> Result<(), ClusterError> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(ClusterError::file("create", dir)(source)),
        }
        set_mode(dir, 0o700)?;
        self.owner.give(dir)
    }

    /// Forgets the data, the password and the port. No server may run.
    pub(super) fn clear(&self) -> Result<(), ClusterError> {
        remove_tree(&self.data())?;
        remove_file(&self.password_file())?;
        remove_file(&self.port_file())
    }

    /// The password of the role `wireroom`.
    pub(super) fn password(&self) -> Result<String, ClusterError> {
        let path = self.password_file();
        let text = fs::read_to_string(&path).map_err(ClusterError::file("read", &path))?;
        let password = text.trim().to_owned();
        if password.is_empty() {
            Err(ClusterError::Damaged { path })
        } else {
            Ok(password)
        }
    }

    /// Stores the password for this process' user alone.
    pub(super) fn store_password(&self, password: &str) -> Result<(), ClusterError> {
        write_private(&self.password_file(), password)
    }

    /// The port of the last start, if there was one.
    pub(super) fn last_port(&self) -> Option<u16> {
        fs::read_to_string(self.port_file()).ok()?.trim().parse().ok()
    }

    pub(super) fn store_port(&self, port: u16) -> Result<(), ClusterError> {
        write_private(&self.port_file(), &port.to_string())
    }
}

/// Where the cluster wanted at `wanted` lives when the server's user cannot reach that.
fn fallback_for(wanted: &Path) -> PathBuf {
    let digest = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    let name = digest
        .iter()
        .take(8)
        .fold(String::from("wireroom-"), |name, byte| format!("{name}{byte:02x}"));
    // Kept over a restart of the machine, unlike the temporary directory.
    let parent = Path::new("/var/tmp");
    if parent.is_dir() {
        parent.join(name)
    } else {
        std::env::temp_dir().join(name)
    }
}

/// Makes a directory whose name anybody can guess, in a place where anybody can write: what is already there counts only
/// when it is a directory of ours that no one else can change.
fn claim_directory(dir: &Path) -> Result<(), ClusterError> {
    match DirBuilder::new().mode(0o711).create(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(source) => return Err(ClusterError::file("create", dir)(source)),
    }
    let metadata = dir.symlink_metadata().map_err(ClusterError::file("inspect", dir))?;
    let ours = metadata.is_dir() && metadata.uid() == Uid::effective().as_raw() && metadata.mode() & 0o022 == 0;
    if ours {
        Ok(())
    } else {
        Err(ClusterError::ForeignDirectory { dir: dir.to_owned() })
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ClusterError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(ClusterError::file("set the mode of", path))
}

fn open_private(path: &Path) -> Result<File, ClusterError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(ClusterError::file("open", path))
}

/// Opens and locks a file, or answers `None` while somebody else has it.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>, ClusterError> {
    let file = open_private(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(ClusterError::file("lock", path)(source)),
    }
}

/// Writes a small file at once, so that a crash leaves the old one or the new one.
fn write_private(path: &Path, text: &str) -> Result<(), ClusterError> {
    let draft = path.with_extension("new");
    remove_file(&draft)?;
    let mut file = open_private(&draft)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(ClusterError::file("write", &draft))?;
    fs::rename(&draft, path).map_err(ClusterError::file("write", path))
}

pub(super) fn remove_file(path: &Path) -> Result<(), ClusterError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ClusterError::file("remove", path)(source)),
        _ => Ok(()),
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<(), ClusterError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ClusterError::file("remove", path)(source)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_out_of_the_servers_reach_is_replaced_by_one_in_reach() {
        let closed = tempfile::tempdir().expect("a temporary directory");
        set_mode(closed.path(), 0o700).expect("our own directory");
        let home = Home::prepare(&closed.path().join("cluster")).expect("a place is found");
        let moved = !home.dir().starts_with(closed.path().canonicalize().expect("it exists"));
        assert_eq!(moved, home.owner().is_another_user(), "{}", home.dir().display());
        assert!(home.owner().can_write(&home.run()).expect("tried"));
        assert_eq!(
            home.dir().metadata().expect("it exists").mode() & 0o066,
            0,
            "others can list or write it"
        );

        let again = Home::prepare(&closed.path().join("cluster")).expect("the same place is found again");
        assert_eq!(again.dir(), home.dir());
        remove_tree(home.dir()).expect("it can be removed");
    }

    #[test]
    fn a_link_planted_at_the_fallback_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).expect("a link can be made");
        assert!(matches!(
            claim_directory(&link),
            Err(ClusterError::ForeignDirectory { .. })
        ));
    }

    #[tokio::test]
    async fn one_process_at_a_time_holds_a_home() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home {
            dir: dir.path().to_owned(),
            owner: Owner::choose(dir.path()).expect("an owner"),
        };
        let held = home.take().await.expect("free");
        assert!(matches!(home.take().await, Err(ClusterError::InUse { .. })));
        drop(held);
        home.take().await.expect("free again");
    }

    #[test]
    fn a_password_file_is_for_its_user_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home {
            dir: dir.path().to_owned(),
            owner: Owner::choose(dir.path()).expect("an owner"),
        };
        home.store_password("not-a-real-one").expect("stored");
        assert_eq!(
            home.password_file().metadata().expect("it exists").mode() & 0o777,
            0o600
        );
        assert_eq!(home.password().expect("read"), "not-a-real-one");
        fs::write(home.password_file(), "").expect("written");
        assert!(matches!(home.password(), Err(ClusterError::Damaged { .. })));
    }
}
