//! `wireroom keys`.
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every key, without its secret.
    List,
}

pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => Ok(ExitCode::SUCCESS),
    }
}
