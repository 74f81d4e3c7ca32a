//! `.wireroom/`: what `dev` keeps between two starts. Secrets in it are readable by their owner alone.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{config::Secret, person_key::PersonKey, vault::Vault};

/// Marks a `dev.env` whose database ends with `dev`.
const PRIVATE: &str = "# DATABASE_URL is the private cluster's: it answers while `wireroom dev` runs.";

/// The directory, and the files `dev` itself writes there.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// Makes `.wireroom` in the working directory unless it is there.
    pub fn prepare() -> anyhow::Result<Self> {
        let dir = std::env::current_dir()
            .context("the working directory is gone")?
            .join(".wireroom");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Postgres' own user must be able to pass through, and nobody needs to list it.
        fs::set_permissions(&dir, Permissions::from_mode(0o711))
            .with_context(|| format!("cannot set the mode of {}", dir.display()))?;
        Ok(Self { dir })
    }

    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// Where files are kept that belong to the private database.
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// Deletes those files: nothing knows of them any more.
    pub fn forget_files(&self) -> anyhow::Result<()> {
        let files = self.files();
        match fs::remove_dir_all(&files) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", files.display()))
            }
            _ => Ok(()),
        }
    }

    /// The sandbox's private RSA key; kept, so that a worker elsewhere can go on with the same public one.
    pub fn sandbox_key(&self) -> PathBuf {
        self.dir.join("sandbox-key.pem")
    }

    /// The public half, for `WIREROOM_TELEGRAM_SERVER_KEY`.
    pub fn sandbox_public_key(&self) -> PathBuf {
        self.dir.join("sandbox-public-key.pem")
    }

    /// `NAME=value` lines for scripts and other roles.
    pub fn dev_env(&self) -> PathBuf {
        self.dir.join("dev.env")
    }

    /// The master key of this directory, made at the first start.
    pub fn master_keys(&self) -> anyhow::Result<Secret> {
        let path = self.dir.join("master-key");
        if let Some(kept) = read(&path)? {
            return Ok(Secret::new(kept.trim()));
        }
        let made = Vault::generate("dev")?;
        write_private(&path, made.expose())?;
        Ok(made)
    }

    /// The key of this directory that marks people, made at the first start.
    pub fn person_key(&self) -> anyhow::Result<Secret> {
        let path = self.dir.join("person-key");
        if let Some(kept) = read(&path)? {
            return Ok(Secret::new(kept.trim()));
        }
        let made = PersonKey::generate()?;
        write_private(&path, made.expose())?;
        Ok(made)
    }

    /// Writes `dev.env`.
    pub fn save_env(&self, values: &[(&str, &str)], database_is_private: bool) -> anyhow::Result<()> {
        let mut text = String::from("# Written by `wireroom dev`, for scripts: set -a; . .wireroom/dev.env; set +a\n");
        if database_is_private {
            text.push_str(PRIVATE);
            text.push('\n');
        }
        for (name, value) in values {
            text.push_str(name);
            text.push('=');
            text.push_str(value);
            text.push('\n');
        }
        write_private(&self.dev_env(), &text)
    }

    /// `DATABASE_URL` of the last start, when that was its own cluster's.
    pub fn saved_private_url(&self) -> anyhow::Result<Option<String>> {
        let private = read(&self.dev_env())?.is_some_and(|text| text.lines().any(|line| line == PRIVATE));
        if private { self.saved("DATABASE_URL") } else { Ok(None) }
    }

    /// A value of `dev.env` as the last start wrote it.
    pub fn saved(&self, name: &str) -> anyhow::Result<Option<String>> {
        let text = read(&self.dev_env())?.unwrap_or_default();
        let value = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned());
        Ok(value)
    }

    /// Forgets what belonged to a database that is thrown away.
    pub fn start_over(&self) -> anyhow::Result<()> {
        for path in [self.dev_env(), self.dir.join("master-key"), self.dir.join("person-key")] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces a file in one step; only its owner can read it, at any moment.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(dir: &Path) -> Home {
        Home { dir: dir.to_owned() }
    }

    #[test]
    fn the_master_key_is_made_once_and_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let made = home.master_keys().unwrap();
        assert_eq!(home.master_keys().unwrap(), made);
        let mode = fs::metadata(dir.path().join("master-key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        home.start_over().unwrap();
        assert_ne!(home.master_keys().unwrap(), made);
    }

    #[test]
    fn a_saved_value_is_found_by_its_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        assert_eq!(home.saved("DATABASE_URL").unwrap(), None);
        let values = [("XDATABASE_URL", "a"), ("DATABASE_URL", "b=c")];
        home.save_env(&values, false).unwrap();
        assert_eq!(home.saved("DATABASE_URL").unwrap().as_deref(), Some("b=c"));
        assert_eq!(home.saved_private_url().unwrap(), None);
        home.save_env(&values, true).unwrap();
        assert_eq!(home.saved_private_url().unwrap().as_deref(), Some("b=c"));
    }
}
