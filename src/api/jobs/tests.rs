//! Jobs over HTTP: what is done to jobs that are there (`control`), what is refused and how (`refusals`), what is shown
//! (`shown`), how a result is waited for (`waits`), how a request is repeated (`repeats`), how a job is alone (`uniques`),
//! how many come at once (`batches`), how those that come at the same time are stored together (`gathered`),
//! which files they have (`files`).

mod batches;
mod control;
mod files;
mod gathered;
mod refusals;
mod repeats;
mod shown;
mod uniques;
mod waits;

use serde_json::{Value, json};

use crate::ids::JobId;

fn join() -> Value {
    json!({ "kind": "join", "args": { "chat": "@reading_club" } })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = join();
    body[field] = value;
    body
}

fn id_of(job: &Value) -> JobId {
    job["id"].as_str().expect("an id").parse().expect("a UUID")
}
