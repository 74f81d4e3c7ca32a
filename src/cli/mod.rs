//! The command line, and the wiring: here alone the parts that must not know each other meet. A role (`api`, `worker`,
//! `sandbox`) is a function that runs until it is told to stop, so that `dev` runs the same code in one process.

mod allocator;
pub mod api;
mod bench;
#[cfg(feature = "sandbox")]
mod demo;
mod descriptors;
#[cfg(feature = "sandbox")]
mod dev;
mod doctor;
mod events;
mod keys;
mod media;
mod migrate;
mod openapi;
mod process;
#[cfg(feature = "sandbox")]
mod sandbox;
#[cfg(feature = "sandbox")]
mod sandbox_accounts;
mod session;
mod session_login;
mod stdout;
pub mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::tls;

const EXAMPLES: &str = "\
Examples:
  wireroom dev                         everything in one process, against a made-up Telegram
  wireroom dev --demo                  the same, one job of each kind, then the end
  wireroom migrate                     prepare the database that DATABASE_URL names
  wireroom api                         the HTTP API alone
  wireroom worker                      a worker alone; start as many as you like
  wireroom doctor                      what is wrong with this configuration

Every variable is listed in .env.example.";

/// A serverless-style runner for Telegram work, on Postgres.
#[derive(Debug, Parser)]
#[command(name = "wireroom", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process: a database, a made-up Telegram with accounts, the API and a worker.
    #[cfg(feature = "sandbox")]
    Dev(dev::Args),
    /// The HTTP API alone, until SIGTERM or Ctrl-C.
    #[command(after_help = "Example:\n  DATABASE_URL=postgres://user:password@localhost/wireroom wireroom api")]
    Api,
    /// A worker alone: runs jobs on the Telegram sessions it holds, until SIGTERM or Ctrl-C. Start as many as you like.
    #[command(after_help = "\
Example:
  DATABASE_URL=postgres://user:password@localhost/wireroom WIREROOM_MASTER_KEYS=k1:… wireroom worker")]
    Worker,
    /// Print the API's document, as openapi/openapi.json holds it.
    Openapi,
    /// Prepare the database: apply the migrations that it has not. Safe to run from several places at once.
    Migrate,
    /// API keys: create, list, revoke. Master keys: rotate.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Telegram sessions: log accounts in, list them.
    #[command(subcommand)]
    Session(session::Command),
    /// A made-up Telegram, for workers elsewhere and for other clients.
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Args),
    /// Check the configuration and everything it names, and say what is wrong and how to fix it.
    Doctor,
    /// Measure how fast the queue is on a database.
    #[command(subcommand)]
    Bench(bench::Command),
}

/// Parses the arguments and runs the command. 0: it did what it was asked to. 1: it did not, and said why. 2: the
/// arguments make no sense.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    allocator::limit_idle_memory();
    tls::install();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let ended = runtime.block_on(run(cli.command));
    // A blocking task that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(code) => code,
        Err(error) if error.is::<stdout::Closed>() => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        #[cfg(feature = "sandbox")]
        Command::Dev(args) => dev::run(args).await,
        Command::Worker => worker::run().await,
        Command::Session(command) => session::run(command).await,
        Command::Api => api::run().await,
        Command::Openapi => openapi::run(),
        Command::Migrate => migrate::run().await,
        Command::Keys(command) => keys::run(command).await,
        #[cfg(feature = "sandbox")]
        Command::Sandbox(args) => sandbox::run(args).await,
        Command::Doctor => doctor::run().await,
        Command::Bench(command) => bench::run(command).await,
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
