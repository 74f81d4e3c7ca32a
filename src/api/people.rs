//! `/v1/people/{id}`: all that is known of a person, and its erasure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    State,
    auth::{Admin, Allowed},
    document::Tag,
    outreach::{person_key, settle_key},
    problem::{Code, Problem},
    shell::RequestContext,
    typed::Typed,
};
use crate::store::{
    self, PgConnection,
    erasure::{self, ErasureRecord},
    failed,
};

/// All that is known of a person.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PersonExport")]
pub struct ExportView {
    /// Telegram's user id.
    pub user_id: i64,
    /// The rows that are theirs or name them, by table; at most 10,000 of each.
    pub tables: BTreeMap<String, Vec<Map<String, Value>>>,
    /// The tables that have more such rows than are shown.
    pub truncated: Vec<String>,
}

/// How far an erasure has come.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PersonErasure")]
pub struct ErasureView {
    /// The erasure's id; nothing leads from it to the person.
    pub id: Uuid,
    /// `working` or `done`.
    pub state: ErasureState,
    /// How many rows of each table were deleted or changed so far.
    pub tables: BTreeMap<String, i64>,
    /// How many tables, and days of partitioned ones, are left to be read.
    pub tables_left: i64,
    pub requested_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// Where an erasure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PersonErasureState")]
pub enum ErasureState {
    /// Workers go on with it.
    Working,
    /// The person is in no table any more.
    Done,
}

#[derive(ApiResponse)]
enum Erased {
    /// They are in no table any more.
    #[oai(status = 200)]
    Now(Json<Typed<ErasureView>>),
    /// It takes longer, and the workers go on with it; nobody contacts, lists or scans them from now on. The answer's `id` leads to
    /// `GET /v1/erasures/{id}`.
    #[oai(status = 202)]
    Later(
        Json<Typed<ErasureView>>,
        /// Where to look how far it has come.
        #[oai(header = "Location")]
        String,
    ),
}

/// How many rows of each table an export shows.
const MOST_ROWS: i32 = 10_000;
/// How long a request works on an erasure itself.
const IN_REQUEST: Duration = Duration::from_secs(2);

pub struct PeopleApi;

#[OpenApi]
impl PeopleApi {
    /// Export all about a person
    ///
    /// Shows the rows that are theirs or name them, of every table, and says where there are more of them than 10,000. Scope: admin.
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
        let mut view = ExportView {
            user_id,
            tables: BTreeMap::new(),
            truncated: Vec::new(),
        };
        for table in erasure::tables(&mut conn).await? {
            let found = erasure::export(&mut conn, user_id, &table, MOST_ROWS + 1).await?;
            let most = usize::try_from(MOST_ROWS).unwrap_or(usize::MAX);
            if found.len() > most {
                view.truncated.push(table.clone());
            }
            let rows = found.into_iter().take(most).map(serde_json::from_value);
            let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(Problem::internal)?;
            if !rows.is_empty() {
                view.tables.insert(table, rows);
            }
        }
        Ok(Json(Typed(view)))
    }

    /// Erase a person
    ///
    /// Removes them from every table: from scans, campaigns and ledgers, and from the args, results, errors and events that
    /// name them; files that scans downloaded from their messages, unless somebody else sent the same one, and files of text that name
    /// them are deleted. What is kept is a keyed hash of their id: scans drop them, lists refuse them, and no campaign contacts
    /// them again. In a large database that takes a while: then the workers go on with it, in small steps. Asking again meanwhile
    /// changes nothing. The audit log, which names nobody, says who did it. Scope: admin.
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
    ) -> Result<Erased, Problem> {
        let user_id = user_id(&id)?;
        let key = person_key(&state)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_erasure"))?;
        if erasure::is_ours(&mut transaction, user_id).await? {
            let detail = "This is the account of a session: delete the session instead.";
            return Err(Problem::new(Code::PersonIsSession, detail));
        }
        settle_key(&mut transaction, &key).await?;
        // First of all nobody stores anything new: whoever did not see the mark has committed before the tables are read.
        erasure::mark(&mut transaction, &key, user_id).await?;
        transaction.commit().await.map_err(failed("mark_erased"))?;
        let mut transaction = state.pool.begin().await.map_err(failed("await_writers"))?;
        erasure::await_writers(&mut transaction).await?;
        transaction.commit().await.map_err(failed("await_writers"))?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_erasure"))?;
        let begun = erasure::begin(&mut transaction, &key, user_id, &caller.0.actor()).await?;
        // Nothing of it is lost when the steps of this request are.
        let record = noted(&mut transaction, begun, "person.erasure_requested", context.0).await?;
        transaction.commit().await.map_err(failed("commit_erasure"))?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_erasure"))?;
        // Who asks twice need not wait for the one who is at it.
        let is_free = erasure::take_this(&mut transaction, begun).await?;
        if !is_free || !erasure::go_on(&mut transaction, begun, IN_REQUEST).await? {
            let record = erasure::find(&mut transaction, begun).await?.unwrap_or(record);
            transaction.commit().await.map_err(failed("commit_erasure"))?;
            let location = format!("/v1/erasures/{begun}");
            return Ok(Erased::Later(Json(Typed(view(record)?)), location));
        }
        noted(&mut transaction, begun, "person.erased", context.0).await?;
        transaction.commit().await.map_err(failed("commit_erasure"))?;
        // What it cannot do now others go on with.
        let looked_through = state.files.erase(Some(begun), IN_REQUEST).await;
        let swept = state.files.sweep().await;
        for error in looked_through.err().into_iter().chain(swept.err()) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "files of an erasure were left for later"
            );
        }
        let mut conn = store::connection(&state.pool, "get_erasure").await?;
        let record = erasure::find(&mut conn, begun).await?.unwrap_or(record);
        if !record.is_done {
            let location = format!("/v1/erasures/{begun}");
            return Ok(Erased::Later(Json(Typed(view(record)?)), location));
        }
        Ok(Erased::Now(Json(Typed(view(record)?))))
    }

    /// Get an erasure
    ///
    /// How far it has come; it does not say whose it is. Scope: admin.
    #[oai(
        path = "/v1/erasures/:id",
        method = "get",
        operation_id = "get_erasure",
        tag = "Tag::Outreach"
    )]
    async fn erasure(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        /// The erasure's id.
        id: Path<String>,
    ) -> Result<Json<Typed<ErasureView>>, Problem> {
        let not_found = || Problem::new(Code::ErasureNotFound, "There is no erasure with this id.");
        let id: Uuid = id.parse().map_err(|_| not_found())?;
        let mut conn = store::connection(&state.pool, "get_erasure").await?;
        let record = erasure::find(&mut conn, id).await?.ok_or_else(not_found)?;
        Ok(Json(Typed(view(record)?)))
    }
}

async fn noted(
    conn: &mut PgConnection,
    id: Uuid,
    action: &str,
    context: &RequestContext,
) -> Result<ErasureRecord, Problem> {
    let record = erasure::find(conn, id).await?;
    let record = record.ok_or_else(|| Problem::internal("an erasure that is gone"))?;
    erasure::note(conn, &record, action, Some(context.id())).await?;
    Ok(record)
}

fn view(record: ErasureRecord) -> Result<ErasureView, Problem> {
    Ok(ErasureView {
        id: record.id,
        state: if record.is_done {
            ErasureState::Done
        } else {
            ErasureState::Working
        },
        tables: serde_json::from_value(record.changed).map_err(Problem::internal)?,
        tables_left: record.tables_left,
        requested_at: record.created_at,
        finished_at: record.finished_at,
    })
}

fn user_id(text: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|id| *id > 0).ok_or_else(|| {
        let detail = "A person's id is Telegram's user id, a positive number.";
        Problem::new(Code::InvalidParameter, detail).field("id")
    })
}

#[cfg(test)]
mod tests;
