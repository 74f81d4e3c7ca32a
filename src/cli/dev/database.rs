//! Which Postgres `dev` uses: the one `DATABASE_URL` names, or a private cluster under `.wireroom/`.

use anyhow::{Context, bail};

use super::home::Home;
use crate::{
    cluster::{Cluster, ClusterConfig},
    config::Source,
};

/// The database's name in the private cluster.
const NAME: &str = "wireroom";

/// What was asked for on the command line.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub fresh: bool,
    pub download: bool,
}

/// A database, and the server that goes with it when it is ours. Dropping it stops that server.
pub struct Database {
    pub url: String,
    cluster: Option<Cluster>,
}

impl Database {
    /// Finds or starts it.
    pub async fn open(home: &Home, source: &mut Source, wanted: Wanted) -> anyhow::Result<Self> {
        match foreign_url(home, source)? {
            Some(_) if wanted.fresh => bail!(
                "--fresh throws away the private database only, and DATABASE_URL names another: unset it, or empty \
                 that database yourself"
            ),
            Some(url) => Ok(Self { url, cluster: None }),
            None => {
                let cluster = start(home, wanted).await?;
                let url = cluster
                    .ensure_database(NAME)
                    .await
                    .context("cannot make the database")?;
                Ok(Self {
                    url,
                    cluster: Some(cluster),
                })
            }
        }
    }

    /// One line for a person.
    pub fn place(&self) -> String {
        match &self.cluster {
            None => "the one DATABASE_URL names".into(),
            Some(cluster) => format!("private, in {}, port {}", cluster.dir().display(), cluster.port()),
        }
    }

    pub fn is_private(&self) -> bool {
        self.cluster.is_some()
    }

    /// Stops the server when it is ours, and waits for its end.
    pub async fn close(self) -> anyhow::Result<()> {
        match self.cluster {
            None => Ok(()),
            Some(cluster) => cluster.stop().await.context("Postgres did not stop"),
        }
    }
}

/// `DATABASE_URL`, unless it is what an earlier start wrote for its own cluster: a shell that has read `dev.env` must
/// not make the next start look for a server that is gone.
fn foreign_url(home: &Home, source: &mut Source) -> anyhow::Result<Option<String>> {
    let url = source.text("DATABASE_URL");
    let own = home.saved_private_url()?;
    Ok(url.filter(|url| own.as_ref() != Some(url)))
}

async fn start(home: &Home, wanted: Wanted) -> anyhow::Result<Cluster> {
    if wanted.fresh {
        home.start_over()?;
    }
    let config = ClusterConfig {
        dir: home.postgres(),
        fresh: wanted.fresh,
        download: wanted.download,
        settings: Vec::new(),
    };
    Ok(Cluster::start(config).await?)
}
