//! `/v1/people/{id}`: all that is known of a person, and its erasure.

use std::{collections::BTreeMap, sync::Arc};

use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    State,
    auth::{Admin, Allowed},
    document::Tag,
    outreach::{person_key, settle_key},
    problem::{Code, Problem},
    shell::RequestContext,
    typed::Typed,
};
use crate::store::{self, audit, erasure, failed};

/// All that is known of a person.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PersonExport")]
pub struct ExportView {
    /// Telegram's user id.
    pub user_id: i64,
    /// The rows that are theirs or name them, by table; at most 10,000 of each.
    pub tables: BTreeMap<String, Vec<Map<String, Value>>>,
}

/// What became of an erasure.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PersonErasure")]
pub struct ErasureView {
    /// How many rows of each table were deleted or changed.
    pub tables: BTreeMap<String, i64>,
}

pub struct PeopleApi;

#[OpenApi]
impl PeopleApi {
    /// Export all about a person
    ///
    /// Shows every row that is theirs or names them, of every table. Scope: admin.
    #[oai(
        path = "/v1/people/:id/export",
        method = "get",
        operation_id = "export_person",
        tag = "Tag::Outreach"
    )]
    async fn export(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        /// Telegram's user id.
        id: Path<String>,
    ) -> Result<Json<Typed<ExportView>>, Problem> {
        let user_id = user_id(&id)?;
        let mut conn = store::connection(&state.pool, "export_person").await?;
        let found = erasure::export(&mut conn, user_id).await?;
        let tables = serde_json::from_value(found).map_err(Problem::internal)?;
        Ok(Json(Typed(ExportView { user_id, tables })))
    }

    /// Erase a person
    ///
    /// Removes them from every table: from scans, campaigns and ledgers, and from the args, results, errors and events that
    /// name them. What is kept is a keyed hash of their id: scans drop them, lists refuse them, and no campaign contacts
    /// them again. The audit log, which names nobody, says who did it. Scope: admin.
    #[oai(
        path = "/v1/people/:id",
        method = "delete",
        operation_id = "erase_person",
        tag = "Tag::Outreach"
    )]
    async fn erase(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// Telegram's user id.
        id: Path<String>,
    ) -> Result<Json<Typed<ErasureView>>, Problem> {
        let user_id = user_id(&id)?;
        let key = person_key(&state)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_erasure"))?;
        if erasure::is_ours(&mut transaction, user_id).await? {
            let detail = "This is the account of a session: delete the session instead.";
            return Err(Problem::new(Code::PersonIsSession, detail));
        }
        settle_key(&mut transaction, &key).await?;
        let done = erasure::erase(&mut transaction, &key, user_id).await?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "person.erased",
            subject: "person",
            request_id: Some(context.id()),
            details: json!({ "tables": done }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_erasure"))?;
        let tables = serde_json::from_value(done).map_err(Problem::internal)?;
        Ok(Json(Typed(ErasureView { tables })))
    }
}

fn user_id(text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|id| *id > 0).ok_or_else(|| {
        let detail = "A person's id is Telegram's user id, a positive number.";
        Problem::new(Code::InvalidParameter, detail).field("id")
    })
}
