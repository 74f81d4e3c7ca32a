//! Who runs the server's processes. Postgres refuses to run as root, so root hands them to another user; everyone else
//! runs them as themselves.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use super::ClusterError;

/// The users root may hand the server to, best first.
const STAND_INS: [&str; 2] = ["postgres", "nobody"];

/// The user that the server's processes run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// Set when this process is root and must step down.
    drop_to: Option<(Uid, Gid)>,
}

impl Owner {
    /// Decides who runs the server. The owner of an existing data directory goes first: Postgres refuses to serve the
    /// files of another user, and a cluster made without root may be started once with it.
    pub(super) fn choose(data: &Path) -> Result<Self, ClusterError> {
        if !Uid::effective().is_root() {
            return Ok(Self { drop_to: None });
        }
        if let Ok(metadata) = data.symlink_metadata()
            && metadata.is_dir()
            && metadata.uid() != 0
        {
            let ids = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
            return Ok(Self { drop_to: Some(ids) });
        }
        STAND_INS
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .filter(|user| !user.uid.is_root())
            .map(|user| Self {
                drop_to: Some((user.uid, user.gid)),
            })
            .ok_or(ClusterError::NoServerUser)
    }

    /// Whether the server's user is not the user of this process.
    pub(super) fn is_another_user(self) -> bool {
        self.drop_to.is_some()
    }

    /// A command that will run as this user, without standard input, and without the environment variables that
    /// would point Postgres elsewhere or translate its messages.
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env_remove("LANGUAGE").stdin(Stdio::null());
        if let Some((uid, gid)) = self.drop_to {
            // `uid` also clears root's supplementary groups. The directory this process is in may be closed to the user.
            command.uid(uid.as_raw()).gid(gid.as_raw()).current_dir("/");
        }
        command
    }

    /// Hands `path` to this user.
    pub(super) fn give(self, path: &Path) -> Result<(), ClusterError> {
        let Some((uid, gid)) = self.drop_to else { return Ok(()) };
        chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .map_err(ClusterError::file("give to the server's user", path))
    }

    /// Whether this user can get to `dir` and write there. Tried rather than computed: mounts and access lists count too.
    pub(super) fn can_write(self, dir: &Path) -> Result<bool, ClusterError> {
        let status = self
            .command("/bin/sh")
            .args(["-c", r#"cd -- "$1" && test -w . && test -x ."#, "sh"])
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match status {
            Ok(status) => Ok(status.success()),
            // A container may keep even root from becoming somebody else.
            Err(source) if self.is_another_user() => Err(ClusterError::StepDown(source)),
            Err(source) => Err(ClusterError::Run {
                program: "/bin/sh".into(),
                source,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_never_runs_the_server_itself() {
        let owner = Owner::choose(Path::new("/nonexistent")).expect("a stand-in exists wherever the tests run");
        let output = owner.command("id").arg("-u").output().expect("id runs");
        assert_ne!(String::from_utf8_lossy(&output.stdout).trim(), "0");
        assert_eq!(owner.is_another_user(), Uid::effective().is_root());
    }

    #[test]
    fn a_directory_of_root_alone_is_not_writable_for_the_server() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(dir.path(), mode).expect("our own directory");
        let owner = Owner::choose(Path::new("/nonexistent")).expect("a stand-in exists");
        assert_eq!(owner.can_write(dir.path()).expect("tried"), !owner.is_another_user());
    }
}
