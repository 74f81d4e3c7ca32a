//! `wireroom dev`: a database, a made-up Telegram with accounts in it, the API and a worker, in one process and from one
//! command. The API and the worker are the code of `wireroom api` and `wireroom worker`.

mod database;
mod home;
mod report;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use tokio::{net::TcpListener, time::Instant};

use self::{
    database::{Database, Wanted},
    home::Home,
    report::{CHAT, Ready},
};
use super::{
    api,
    demo::{Actor, Demo},
    descriptors, events, keys, process,
    sandbox_accounts::{self, Accounts},
    stdout, worker,
};
use crate::{
    clock::SystemClock,
    config::{ApiConfig, Config, FilesPlace, QueueConfig, Secret, Source, TelemetryConfig},
    lifecycle::{Shutdown, Signals, supervise},
    queue::Waker,
    sandbox::{Controls, Sandbox, SandboxConfig, SandboxHandle},
    store::{
        PgPool,
        api_keys::{self, KeyMaterial, Scope},
    },
    telemetry,
};

/// The seed of the sandbox's world: always the same, so that the documentation's names exist.
const SEED: u64 = 1;
/// The label of the key that `dev` makes for itself.
const KEY_LABEL: &str = "dev";
/// How long connections to the database may take to come back at the end.
const CLOSING: Duration = Duration::from_secs(1);
/// How long the API may take to say that it is ready.
const READY_BOUND: Duration = Duration::from_secs(30);

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  wireroom dev                             http://127.0.0.1:8080/docs
  wireroom dev --listen 127.0.0.1:9000     on another port
  wireroom dev --fresh                     forget everything and start over
  wireroom dev --demo                      run one job of each kind with its events, and end

It keeps its database, keys and .wireroom/dev.env (for scripts) in .wireroom/ of the working directory. With DATABASE_URL
set, that database is used instead of a private one.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// Where the API listens [default: `WIREROOM_API_LISTEN`, 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Let --listen name an address that other machines can reach. They get in with the key that is printed.
    #[arg(long)]
    allow_remote: bool,
    /// Throw the private database away and start over.
    #[arg(long)]
    fresh: bool,
    /// Download the Postgres programs when there are none on this machine.
    #[arg(long)]
    download_postgres: bool,
    /// Run one job of each kind, show each one's life, and end: 0 when all succeeded.
    #[arg(long)]
    demo: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let mut source = Source::load()?;
    if args.demo {
        // What the demo shows is its own story, not a line per request.
        source.fill("WIREROOM_LOG", "warn");
        // Its webhooks come to this process.
        source.fill("WIREROOM_WEBHOOK_ALLOW_PRIVATE", "true");
    }
    telemetry::init(&TelemetryConfig::read(&mut source)?)?;
    descriptors::raise_limit();
    let bounds = process::bounds(&QueueConfig::read(&mut source)?);
    // Before anything is started, so that a signal during the start stops what there is.
    let mut signals = Signals::listen().context("cannot take over SIGTERM and SIGINT")?;
    let shutdown = Shutdown::new();
    let work = live(&args, source, begun, &shutdown);
    process::ended(supervise(&shutdown, bounds, &mut signals, Box::pin(work)).await)?;
    Ok(ExitCode::SUCCESS)
}

async fn live(args: &Args, source: Source, begun: Instant, shutdown: &Shutdown) -> anyhow::Result<()> {
    let Some(parts) = process::until_told(shutdown, Parts::start(args, source)).await? else {
        return Ok(());
    };
    let Parts {
        config,
        pool,
        listener,
        front,
        sandbox,
        database,
    } = parts;
    let waker = Waker::start(pool.clone());
    let sequencer = events::sequencer(&pool, &waker);
    let deliverer = events::deliverer(&config, &pool, &waker, &sequencer, Arc::new(SystemClock), shutdown)?;
    let (served, worked, fronted) = tokio::join!(
        role(
            shutdown,
            "the API",
            api::serve(
                &config,
                pool.clone(),
                waker.clone(),
                Arc::new(SystemClock),
                listener,
                shutdown
            )
        ),
        role(
            shutdown,
            "the worker",
            worker::serve(
                &config,
                pool.clone(),
                waker.clone(),
                worker::Identity::generate(),
                shutdown
            )
        ),
        front.show(args.demo, begun, shutdown),
    );
    deliverer.shutdown().await;
    drop(sequencer);
    drop(waker);
    // Connections that something still has end with the server.
    let _ = tokio::time::timeout(CLOSING, pool.close()).await;
    sandbox.shutdown().await;
    let closed = database.close().await;
    fronted.and(served).and(worked).and(closed)
}

/// Runs one role; its end, good or bad, is the end of all.
async fn role(
    shutdown: &Shutdown,
    name: &'static str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let ended = work.await.with_context(|| format!("{name} failed"));
    shutdown.begin();
    ended
}

/// Everything that has to stand before the roles run.
struct Parts {
    config: Config,
    pool: PgPool,
    listener: TcpListener,
    front: Front,
    sandbox: SandboxHandle,
    // Declared last: the server ends after its clients.
    database: Database,
}

impl Parts {
    async fn start(args: &Args, mut source: Source) -> anyhow::Result<Self> {
        // First, since it costs nothing and is what a second start fails on.
        let listener = listen(args, &mut source).await?;
        let address = listener.local_addr().context("the listener has no address")?;
        let home = Home::prepare()?;
        let wanted = Wanted {
            fresh: args.fresh,
            download: args.download_postgres,
        };
        let (database, sandbox) = tokio::try_join!(Database::open(&home, &mut source, wanted), start_sandbox(&home))?;
        if args.fresh {
            home.forget_files()?;
        }
        let config = configure(source, &home, &database, &sandbox)?;
        if let Err(error) = process::migrate(&config.database).await {
            return Err(if database.is_private() {
                error.context("the private database cannot be used; `dev --fresh` starts over without what is in it")
            } else {
                error
            });
        }
        let pool = process::connect(&config.database).await?;
        let accounts = sandbox_accounts::import_all(&config, &pool, sandbox.controls()).await?;
        let key = api_key(&home, &pool).await?;
        let front = Front {
            url: format!("http://{}", reachable(address)),
            key,
            database: database.place(),
            env_file: home.dev_env().display().to_string(),
            sandbox: sandbox.addr(),
            other_dcs: sandbox.other_dcs(),
            control: sandbox.control_addr(),
            people: sandbox.controls().clone(),
            accounts,
        };
        front.save(&home, &config, &database)?;
        Ok(Self {
            config,
            pool,
            listener,
            front,
            sandbox,
            database,
        })
    }
}

/// Binds the API's address, or says what is in the way.
async fn listen(args: &Args, source: &mut Source) -> anyhow::Result<TcpListener> {
    let address = match args.listen {
        Some(address) => address,
        None => ApiConfig::read(source)?.listen,
    };
    if !address.ip().is_loopback() && !args.allow_remote {
        bail!(
            "{address} can be reached from other machines, and `dev` is made for this one alone: listen on 127.0.0.1, \
             or add --allow-remote"
        );
    }
    api::listen(address).await
}

/// Where a browser on this machine finds a listener on any address.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port())),
        other => other,
    }
}

async fn start_sandbox(home: &Home) -> anyhow::Result<SandboxHandle> {
    let sandbox = Sandbox::start(SandboxConfig {
        seed: SEED,
        key_file: Some(home.sandbox_key()),
        ..SandboxConfig::default()
    })
    .await
    .context("the sandbox did not start")?;
    let path = home.sandbox_public_key();
    std::fs::write(&path, sandbox.public_key_pem()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(sandbox)
}

/// The configuration that separate roles would be given.
fn configure(mut source: Source, home: &Home, database: &Database, sandbox: &SandboxHandle) -> anyhow::Result<Config> {
    let master_keys = home.master_keys()?;
    if database.is_private() {
        source.set("WIREROOM_MASTER_KEYS", master_keys.expose());
        source.set("WIREROOM_PERSON_KEY", home.person_key()?.expose());
        if source.text("WIREROOM_FILES_S3_BUCKET").is_none() {
            source.fill("WIREROOM_FILES_DIR", home.files().display().to_string());
        }
    } else {
        source.fill("WIREROOM_MASTER_KEYS", master_keys.expose());
        source.fill("WIREROOM_PERSON_KEY", home.person_key()?.expose());
    }
    source.set("DATABASE_URL", database.url.as_str());
    source.set("WIREROOM_TELEGRAM_SERVER", sandbox.addr().to_string());
    source.set("WIREROOM_TELEGRAM_SERVER_DCS", sandbox.other_dcs());
    source.set(
        "WIREROOM_TELEGRAM_SERVER_KEY",
        home.sandbox_public_key().display().to_string(),
    );
    Ok(Config::read(&mut source)?)
}

/// The key of the last start while it is valid, or a new one.
async fn api_key(home: &Home, pool: &PgPool) -> anyhow::Result<Secret> {
    if let Some(kept) = home.saved("WIREROOM_API_KEY")?
        && let Some(material) = KeyMaterial::parse(&kept)
        && let Some(stored) = api_keys::find(pool, material.id()).await?
        && material.matches(&stored)
        && stored.scope == Scope::Admin
    {
        return Ok(material.text().clone());
    }
    keys::create(pool, KEY_LABEL, Scope::Admin).await
}

/// What a person sees of it.
struct Front {
    url: String,
    key: Secret,
    database: String,
    env_file: String,
    sandbox: SocketAddr,
    other_dcs: String,
    control: SocketAddr,
    people: Controls,
    accounts: Accounts,
}

impl Front {
    fn save(&self, home: &Home, config: &Config, database: &Database) -> anyhow::Result<()> {
        let server = self.sandbox.to_string();
        let server_key = home.sandbox_public_key().display().to_string();
        let master_keys = config.vault.master_keys.as_ref().map_or("", Secret::expose);
        let person_key = config.outreach.person_key.as_ref().map_or("", Secret::expose);
        let files = match &config.files.place {
            FilesPlace::Directory(directory) => directory.display().to_string(),
            FilesPlace::S3 { .. } => String::new(),
        };
        home.save_env(
            &[
                ("WIREROOM_URL", &self.url),
                ("WIREROOM_API_KEY", self.key.expose()),
                ("DATABASE_URL", &database.url),
                // What a second worker needs besides.
                ("WIREROOM_MASTER_KEYS", master_keys),
                ("WIREROOM_PERSON_KEY", person_key),
                ("WIREROOM_FILES_DIR", &files),
                ("WIREROOM_TELEGRAM_SERVER", &server),
                ("WIREROOM_TELEGRAM_SERVER_DCS", &self.other_dcs),
                ("WIREROOM_TELEGRAM_SERVER_KEY", &server_key),
            ],
            database.is_private(),
        )
    }

    /// Waits for the API, says what there is, and runs the demo when that was asked for.
    async fn show(&self, demo: bool, begun: Instant, shutdown: &Shutdown) -> anyhow::Result<()> {
        let shown = tokio::select! {
            shown = self.introduce(demo, begun) => shown,
            // Whatever ended first has the reason.
            () = shutdown.soft().cancelled() => return Ok(()),
        };
        if demo || shown.is_err() {
            shutdown.begin();
        }
        shown
    }

    async fn introduce(&self, demo: bool, begun: Instant) -> anyhow::Result<()> {
        let session = self
            .accounts
            .imported
            .first()
            .context("no account of the sandbox is logged in")?;
        let actor = Actor {
            session: session.label.clone(),
            account: session.account_id,
        };
        let demonstration = Demo::new(self.url.clone(), self.key.clone(), actor, CHAT, self.people.clone())?;
        demonstration.wait_until_ready(READY_BOUND).await?;
        let seconds = begun.elapsed().as_secs_f64();
        if demo {
            stdout::line(format_args!("Wireroom is ready ({seconds:.1} s)."))?;
            return demonstration.run().await;
        }
        let ready = Ready {
            url: &self.url,
            key: self.key.expose(),
            database: &self.database,
            env_file: &self.env_file,
            sandbox: &self.sandbox.to_string(),
            control: &format!("http://{}", self.control),
            sessions: &self.accounts.imported,
            left_out: &self.accounts.left_out,
            again: self.accounts.again,
            lost: &self.accounts.lost,
            seconds,
        };
        stdout::line(format_args!("{}", ready.text()))
    }
}
