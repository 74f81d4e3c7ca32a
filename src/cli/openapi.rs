//! `wireroom openapi`: the API's document, the one `/openapi.json` answers with and `openapi/openapi.json` holds.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;

use crate::api;

pub fn run() -> anyhow::Result<ExitCode> {
    let document = serde_json::to_string_pretty(&api::document()).context("the document is not JSON")?;
    match writeln!(io::stdout().lock(), "{document}") {
        // `wireroom openapi | head` is not a failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the document"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
