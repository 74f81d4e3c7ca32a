//! `wireroom openapi`: the API's document, the one `/openapi.json` answers with and `openapi/openapi.json` holds.

use std::process::ExitCode;

use anyhow::Context;

use super::stdout;
use crate::api;

pub fn run() -> anyhow::Result<ExitCode> {
    let document = serde_json::to_string_pretty(&api::document()).context("the document is not JSON")?;
    stdout::line(format_args!("{document}"))?;
    Ok(ExitCode::SUCCESS)
}
