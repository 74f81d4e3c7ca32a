//! Server programs from the internet, for machines without a package of them. Only the installation is taken from
//! `postgresql_embedded`; the cluster is made and started the same way as with any other programs.

use std::fs;
use std::path::Path;

use postgresql_embedded::{PostgreSQL, Settings, VersionReq};

use super::ClusterError;
use super::home::Home;
use super::locate::{HINT, Programs};

/// Downloads server programs into the cluster's directory, unless that was done before: of the version that made the
/// cluster, or the newest for a new one.
pub(super) async fn install(home: &Home, made_by: Option<u32>) -> Result<Programs, ClusterError> {
    let target = home.programs();
    let marker = target.join("no-cluster");
    // Its set-up makes a cluster as well, with other rules about users and passwords than ours. It leaves that out
    // where it sees the configuration of one.
    fs::create_dir_all(&marker).map_err(ClusterError::file("create", &marker))?;
    let configuration = marker.join("postgresql.conf");
    fs::write(&configuration, "").map_err(ClusterError::file("write", &configuration))?;

    let defaults = Settings::new();
    // The defaults make two temporary directories and leave them behind.
    for made in [Some(defaults.data_dir.as_path()), defaults.password_file.parent()]
        .into_iter()
        .flatten()
    {
        let _ = fs::remove_dir(made);
    }
    let version = made_by.map_or_else(|| "*".to_owned(), |major| major.to_string());
    // A number and a star are version requirements.
    let version = VersionReq::parse(&version).unwrap_or_default();
    let settings = Settings {
        version,
        installation_dir: target,
        data_dir: marker,
        temporary: false,
        ..defaults
    };
    let mut postgres = PostgreSQL::new(settings);
    postgres.setup().await.map_err(ClusterError::Download)?;
    let bin = postgres.settings().binary_dir();
    open_to_owner(home, &bin);
    Programs::probe(home.owner(), &bin).ok_or(ClusterError::NoPrograms { hint: HINT })
}

/// Lets the server's user through to programs that were unpacked by this one.
fn open_to_owner(home: &Home, bin: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let between = bin.ancestors().take_while(|dir| *dir != home.dir());
    for dir in between {
        // What stays closed shows when the programs are probed.
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    }
}
