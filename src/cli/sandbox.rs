//! `wireroom sandbox`: the made-up Telegram alone, for workers in other processes and for other clients.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args as ClapArgs;

use super::{descriptors, process};
use crate::{
    config::{Config, Source, TelemetryConfig},
    lifecycle::{Bounds, Shutdown, Signals, supervise},
    sandbox::{Sandbox, SandboxConfig, SandboxHandle},
    telemetry,
};

/// Nothing in a sandbox takes longer to end.
const BOUNDS: Bounds = Bounds {
    soft: Duration::from_secs(5),
    hard: Duration::from_secs(1),
};

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  wireroom sandbox --listen 127.0.0.1:4430 --key-file sandbox-key.pem --public-key-file sandbox-public-key.pem
  WIREROOM_TELEGRAM_SERVER=127.0.0.1:4430 WIREROOM_TELEGRAM_SERVER_KEY=sandbox-public-key.pem wireroom worker")]
pub struct Args {
    /// Where Telegram clients connect; loopback only, port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:4430")]
    listen: SocketAddr,
    /// Another data centre and where it listens; may be repeated. Port 0 takes a free one.
    #[arg(long = "dc", value_name = "DC=ADDRESS", value_parser = other_dc, default_value = "4=127.0.0.1:0")]
    other_dcs: Vec<(i32, SocketAddr)>,
    /// Where the control interface (faults, counts) listens; loopback only, port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// The private RSA key, made unless it is there; without it each start makes a new one.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Where to write the public half, for `WIREROOM_TELEGRAM_SERVER_KEY`; printed when left out.
    #[arg(long)]
    public_key_file: Option<PathBuf>,
    /// What the world is made from: the same seed makes the same world.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds a message's random id is remembered.
    #[arg(long, default_value_t = 300)]
    random_id_seconds: u64,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut source = Source::load()?;
    telemetry::init(&TelemetryConfig::read(&mut source)?)?;
    descriptors::raise_limit();
    // The sandbox needs no database, and refuses unknown variables like every other role.
    source.fill("DATABASE_URL", "postgres://unused");
    Config::read(&mut source)?;
    let mut signals = Signals::listen().context("cannot take over SIGTERM and SIGINT")?;
    let shutdown = Shutdown::new();
    let work = serve(&args, &shutdown);
    process::ended(supervise(&shutdown, BOUNDS, &mut signals, Box::pin(work)).await)?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Args, shutdown: &Shutdown) -> anyhow::Result<()> {
    let sandbox = Sandbox::start(SandboxConfig {
        listen: args.listen,
        other_dcs: args.other_dcs.clone(),
        control: args.control,
        seed: args.seed,
        key_file: args.key_file.clone(),
        random_id_window: Duration::from_secs(args.random_id_seconds),
    })
    .await?;
    announce(&sandbox, args)?;
    shutdown.soft().cancelled().await;
    sandbox.shutdown().await;
    Ok(())
}

fn other_dc(text: &str) -> Result<(i32, SocketAddr), String> {
    let (dc, address) = text
        .split_once('=')
        .ok_or("write DC=ADDRESS, such as 4=127.0.0.1:4434")?;
    let dc = dc.parse().map_err(|_| format!("{dc} is no number of a data centre"))?;
    let address = address
        .parse()
        .map_err(|_| format!("{address} is no address with a port"))?;
    Ok((dc, address))
}

fn announce(sandbox: &SandboxHandle, args: &Args) -> anyhow::Result<()> {
    println!("WIREROOM_TELEGRAM_SERVER={}", sandbox.addr());
    println!("WIREROOM_TELEGRAM_SERVER_DCS={}", sandbox.other_dcs());
    match &args.public_key_file {
        Some(path) => {
            std::fs::write(path, sandbox.public_key_pem())
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("WIREROOM_TELEGRAM_SERVER_KEY={}", path.display());
        }
        None => print!("{}", sandbox.public_key_pem()),
    }
    println!("Every account signs in with the code {}.", sandbox.login_code());
    Ok(())
}
