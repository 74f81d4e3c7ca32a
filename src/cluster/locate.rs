//! Where Postgres' server programs are: on `PATH`, or where packages put them. Debian and Homebrew keep them off `PATH`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::ClusterError;
use super::home::Home;
use super::owner::Owner;

/// The oldest major version that has what the schema uses.
const OLDEST: u32 = 15;

/// What to install, in one line.
pub(super) const HINT: &str = if cfg!(target_os = "macos") {
    "install them with `brew install postgresql@17`, or pass --download-postgres"
} else {
    "install them with `sudo apt install postgresql` (Fedora: `sudo dnf install postgresql-server`), or pass --download-postgres"
};

/// Directories whose entries are named by version: parent, what stands before the version, what comes below.
const PACKAGED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A directory with `postgres` and `initdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    bin: PathBuf,
    major: u32,
}

impl Programs {
    /// Finds programs that `owner` can run. For an existing cluster they must be of the version that made it
    /// (`made_by`); for a new one the first that are recent enough are taken. Programs that were downloaded into
    /// `home` come last.
    pub(super) fn locate(home: &Home, made_by: Option<u32>) -> Result<Self, ClusterError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut bins = candidates(&path, &PACKAGED);
        bins.extend(versioned(&home.programs(), "").into_iter().map(|dir| dir.join("bin")));
        choose(
            bins.iter().filter_map(|bin| Self::probe(home.owner(), bin)),
            home.dir(),
            made_by,
        )
    }

    /// The programs in `bin`, if `owner` can run them. Asking them for their version is what proves it.
    pub(super) fn probe(owner: Owner, bin: &Path) -> Option<Self> {
        if !bin.join("initdb").is_file() {
            return None;
        }
        let output = owner.command(bin.join("postgres")).arg("--version").output().ok()?;
        let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self {
            bin: bin.to_owned(),
            major,
        })
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.bin.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.bin.join("initdb")
    }
}

/// Directories that hold a `postgres`, best first.
fn candidates(path: &OsStr, packaged: &[(&str, &str, &str)]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::env::split_paths(path)
        .filter_map(|dir| {
            // `initdb` may lie beside the program that a link on PATH points to, and not beside the link.
            let program = dir.join("postgres");
            if dir.join("initdb").is_file() && program.is_file() {
                Some(dir)
            } else {
                Some(program.canonicalize().ok()?.parent()?.to_owned())
            }
        })
        .collect();
    for (parent, before, below) in packaged {
        found.extend(
            versioned(Path::new(parent), before)
                .into_iter()
                .map(|dir| dir.join(below)),
        );
    }
    found
}

/// The entries of `parent` whose name is `before` and a version, newest first.
fn versioned(parent: &Path, before: &str) -> Vec<PathBuf> {
    let Ok(entries) = parent.read_dir() else {
        return Vec::new();
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let version = name
                .to_str()?
                .strip_prefix(before)?
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            Some((version, entry.path()))
        })
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The first of `found` that will do. `found` is lazy: the programs after the right ones are not run.
fn choose(found: impl Iterator<Item = Programs>, dir: &Path, made_by: Option<u32>) -> Result<Programs, ClusterError> {
    let mut too_old = None;
    let mut any = false;
    for programs in found {
        any = true;
        match made_by {
            Some(major) if programs.major == major => return Ok(programs),
            Some(_) => {}
            None if programs.major >= OLDEST => return Ok(programs),
            None => {
                too_old.get_or_insert(programs);
            }
        }
    }
    match (made_by, too_old) {
        (Some(made_by), _) if any => Err(ClusterError::OtherVersion {
            dir: dir.to_owned(),
            made_by,
        }),
        (None, Some(Programs { bin, major })) => Err(ClusterError::TooOld {
            major,
            oldest: OLDEST,
            bin,
            hint: HINT,
        }),
        _ => Err(ClusterError::NoPrograms { hint: HINT }),
    }
}

/// The major version in the answer to `postgres --version`: 15 in `postgres (PostgreSQL) 15.4 (Debian 15.4-1)`, 18 in
/// `postgres (PostgreSQL) 18beta1`.
fn major_version(answer: &str) -> Option<u32> {
    let version = answer.split_once("(PostgreSQL) ")?.1;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(major: u32) -> Programs {
        Programs {
            bin: format!("/made-up/{major}/bin").into(),
            major,
        }
    }

    fn chosen(majors: &[u32], made_by: Option<u32>) -> Result<u32, ClusterError> {
        let found = majors.iter().copied().map(programs);
        choose(found, Path::new("/made-up"), made_by).map(|programs| programs.major)
    }

    #[test]
    fn versions_are_read_from_every_vendors_answer() {
        assert_eq!(
            major_version("postgres (PostgreSQL) 15.4 (Debian 15.4-1.pgdg120+1)\n"),
            Some(15)
        );
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 17.2 (Homebrew)"), Some(17));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn the_first_recent_version_makes_a_new_cluster() {
        assert_eq!(chosen(&[14, 16, 17], None).expect("one will do"), 16);
        assert!(matches!(
            chosen(&[9, 14], None),
            Err(ClusterError::TooOld {
                major: 9,
                oldest: 15,
                ..
            })
        ));
        assert!(matches!(chosen(&[], None), Err(ClusterError::NoPrograms { .. })));
    }

    #[test]
    fn an_existing_cluster_gets_the_version_that_made_it() {
        assert_eq!(chosen(&[17, 15], Some(15)).expect("it is there"), 15);
        assert!(matches!(
            chosen(&[17], Some(15)),
            Err(ClusterError::OtherVersion { made_by: 15, .. })
        ));
        assert!(matches!(chosen(&[], Some(15)), Err(ClusterError::NoPrograms { .. })));
    }

    #[test]
    fn packaged_versions_come_newest_first_after_path() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for name in ["pg@9.6", "pg@15", "pg@17", "pg@latest", "other@18"] {
            std::fs::create_dir(root.path().join(name)).expect("made");
        }
        let on_path = root.path().join("on-path");
        std::fs::create_dir(&on_path).expect("made");
        for program in ["postgres", "initdb"] {
            std::fs::write(on_path.join(program), "").expect("written");
        }
        let parent = root.path().to_str().expect("text");
        let found = candidates(on_path.as_os_str(), &[(parent, "pg@", "bin")]);
        let expected = ["on-path", "pg@17/bin", "pg@15/bin", "pg@9.6/bin"].map(|name| root.path().join(name));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_link_on_path_leads_to_the_programs_beside_its_target() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let root = root.path().canonicalize().expect("it exists");
        for dir in ["real", "links"] {
            std::fs::create_dir(root.join(dir)).expect("made");
        }
        std::fs::write(root.join("real/postgres"), "").expect("written");
        std::os::unix::fs::symlink(root.join("real/postgres"), root.join("links/postgres")).expect("linked");
        assert_eq!(candidates(root.join("links").as_os_str(), &[]), [root.join("real")]);
    }

    #[test]
    fn programs_that_cannot_run_are_passed_over() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let owner = Owner::choose(dir.path()).expect("an owner");
        for program in ["postgres", "initdb"] {
            std::fs::write(dir.path().join(program), "not a program").expect("written");
        }
        assert_eq!(Programs::probe(owner, dir.path()), None);
    }
}
