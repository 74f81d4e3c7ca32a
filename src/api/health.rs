//! `/healthz`: the process answers. `/readyz`: it can do its work with this database. Both need no key and tell little.

use std::{sync::Arc, time::Duration};

use poem::web::Data;
use poem_openapi::{OpenApi, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    State,
    document::Tag,
    problem::{Code, Problem},
    typed::Typed,
};
use crate::store::health::{self, SchemaState};

/// How long the database may take; a probe should not wait longer.
const DATABASE_LIMIT: Duration = Duration::from_secs(3);

/// How the process is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Health {
    #[schemars(example = &"ok")]
    pub status: &'static str,
    /// The version that runs.
    pub version: &'static str,
}

const OK: Health = Health {
    status: "ok",
    version: env!("CARGO_PKG_VERSION"),
};

pub struct HealthApi;

#[OpenApi]
impl HealthApi {
    /// Is the process alive?
    ///
    /// Answers without looking at anything else. No key is needed.
    #[oai(path = "/healthz", method = "get", operation_id = "healthz", tag = "Tag::Health")]
    #[expect(clippy::unused_async, reason = "an operation is asynchronous")]
    async fn healthz(&self) -> Result<Json<Typed<Health>>, Problem> {
        Ok(Json(Typed(OK)))
    }

    /// Can the process serve?
    ///
    /// Checks the database, and that its schema is one that this version can run with; 503 (`not_ready`) names the part that fails. No
    /// key is needed.
    #[oai(path = "/readyz", method = "get", operation_id = "readyz", tag = "Tag::Health")]
    async fn readyz(&self, state: Data<&Arc<State>>) -> Result<Json<Typed<Health>>, Problem> {
        let schema = tokio::time::timeout(DATABASE_LIMIT, health::schema_state(&state.pool)).await;
        let detail = match schema {
            Ok(Ok(SchemaState::Current | SchemaState::Compatible { .. })) => return Ok(Json(Typed(OK))),
            Ok(Ok(SchemaState::Behind { missing })) => {
                format!("{missing} migrations are not applied: run wireroom migrate.")
            }
            Ok(Ok(SchemaState::Ahead { version, .. })) => {
                format!("Migration {version} is applied, which this version does not know: run a newer version.")
            }
            Ok(Ok(SchemaState::Different { version })) => {
                format!("Migration {version} was applied in another wording than this version has.")
            }
            Ok(Err(_)) | Err(_) => {
                return Err(Problem::new(Code::NotReady, "The database does not answer.").part("database"));
            }
        };
        Err(Problem::new(Code::NotReady, detail).part("migrations"))
    }
}
