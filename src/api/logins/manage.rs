//! What is done with a session that is there: enabled, exported, logged out, deleted.

use std::sync::Arc;

use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Header, Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use super::{LoginView, Waited, answered, asking::Asking, formats, patience, pending, session_id, view};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed},
        document::Tag,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::SessionId,
    letterbox::Opener,
    store::{
        self, applications,
        errands::{self, ErrandState, Portable, Task},
        failed, session_logins, session_reads,
    },
};

/// A promise about the session's life elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "EnableRequest")]
pub struct EnableBody {
    /// Nothing else uses this authorisation any more. It must be `true`: a session that is used from two places dies at once.
    #[schemars(example = true)]
    stopped_elsewhere: bool,
}

/// How a session is to be handed out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExportRequest")]
pub struct ExportBody {
    format: ExportFormat,
}

/// Whose string session it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    Telethon,
    Pyrogram,
}

/// A session in text: whoever has it has the account.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Export")]
pub struct ExportView {
    /// The Wireroom session it was; it is `disabled` now.
    pub id: Uuid,
    pub format: ExportFormat,
    /// The string session. It is shown this once.
    pub session: String,
    pub next: String,
}

impl Drop for ExportView {
    fn drop(&mut self) {
        self.session.zeroize();
    }
}

/// A session that is gone.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedSession")]
pub struct DeleteView {
    pub session: Uuid,
    /// Whether its authorisation was ended at Telegram.
    pub logged_out: bool,
}

pub struct ManageSessionApi;

#[OpenApi]
impl ManageSessionApi {
    /// Enable a session
    ///
    /// Brings a disabled session (imported, or exported) into use: a worker checks it with one call, and it is `ready` when that
    /// came back. Only with `stopped_elsewhere: true`: a session that still runs elsewhere dies the moment it is connected here
    /// (`AUTH_KEY_DUPLICATED`). Waits like a login. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/enable",
        method = "post",
        operation_id = "enable_session",
        tag = "Tag::Sessions"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the documented request")]
    async fn enable(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
        body: Sent<EnableBody>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        let id = session_id(&id)?;
        if !body.read()?.stopped_elsewhere {
            return Err(Problem::new(Code::ConfirmationNeeded, view::IMPORTED)
                .field("stopped_elsewhere")
                .session(id));
        }
        let asking = Asking::new(state.0, &caller.0, context.0);
        let patience = patience(state.0, headers)?;
        let errand = asking.errand(id, Task::Enable, None, None).await?;
        Ok(Json(Typed(asking.shown(id, errand, &patience).await?)))
    }

    /// Export a session
    ///
    /// Hands the session's authorisation to its owner as a string session. It is taken out of use first: its jobs finish, its
    /// worker hangs up, and it is `disabled`; it comes back only by `enable`, once it was stopped elsewhere. The audit log keeps
    /// who asked. Whoever has the text has the account. What comes out opens for this request alone: when it ended before that
    /// (504 `login_pending`, or the connection broke), ask again once the login is `done`. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/export",
        method = "post",
        operation_id = "export_session",
        tag = "Tag::Sessions"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the documented request")]
    async fn export(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
        body: Sent<ExportBody>,
    ) -> Result<Json<Typed<ExportView>>, Problem> {
        let id = session_id(&id)?;
        let format = body.read()?.format;
        // Known to this request alone, so that what a worker puts in the database opens nowhere else.
        let opener = Opener::generate().map_err(Problem::internal)?;
        let asking = Asking::new(state.0, &caller.0, context.0);
        let patience = patience(state.0, headers)?;
        refuse_if_unknown(state.0, id, format).await?;
        let errand = asking.errand(id, Task::Export, None, Some(opener.slot())).await?;
        let waited = answered(state.0, errand, 1, &patience).await?;
        let record = waited.record(|| export_pending(id))?;
        let opened = record
            .output
            .and_then(|letter| opener.open(&errands::output_owner(errand), &letter))
            .ok_or_else(|| Problem::internal("an export that does not open"))?;
        let portable: Portable = serde_json::from_slice(&opened).map_err(Problem::internal)?;
        let mut session = written(state.0, id, &portable, format).await?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_export"))?;
        errands::erase_output(&mut transaction, errand).await?;
        let details = json!({ "format": format });
        let asker = asking.asker();
        session_logins::note(
            &mut transaction,
            asker.actor,
            "session.exported",
            id,
            asker.request_id,
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed("commit_export"))?;
        Ok(Json(Typed(ExportView {
            id: id.0,
            format,
            session: std::mem::take(&mut session),
            next: format!(
                "The session is disabled here. When it was stopped elsewhere, POST /v1/sessions/{id}/enable with \
                 {{\"stopped_elsewhere\": true}} brings it back."
            ),
        })))
    }

    /// Log a session out
    ///
    /// Ends the authorisation at Telegram, once the session's jobs have finished, and erases its keys. The session stays, in the
    /// state `logged_out`; a login with its label brings it back. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/log-out",
        method = "post",
        operation_id = "log_out_session",
        tag = "Tag::Sessions"
    )]
    async fn log_out(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        let id = session_id(&id)?;
        let asking = Asking::new(state.0, &caller.0, context.0);
        let patience = patience(state.0, headers)?;
        let errand = asking.errand(id, Task::LogOut, None, None).await?;
        Ok(Json(Typed(asking.shown(id, errand, &patience).await?)))
    }

    /// Delete a session
    ///
    /// Logs it out at Telegram unless `log_out=false`, and deletes it with its keys and what it knew; its finished jobs stay.
    /// Refused while unfinished jobs name it (`session_busy`). Scope: admin.
    #[oai(
        path = "/v1/sessions/:id",
        method = "delete",
        operation_id = "delete_session",
        tag = "Tag::Sessions"
    )]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the documented request")]
    async fn delete(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for a worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
        /// `false` keeps the authorisation at Telegram alive; `true` by default.
        log_out: Query<Option<String>>,
    ) -> Result<Json<Typed<DeleteView>>, Problem> {
        let id = session_id(&id)?;
        let log_out = match log_out.as_deref() {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => {
                return Err(Problem::new(Code::InvalidParameter, "log_out takes true or false.").field("log_out"));
            }
        };
        let patience = patience(state.0, headers)?;
        let asking = Asking::new(state.0, &caller.0, context.0);
        refuse_if_needed(state.0, id).await?;
        let input = json!({ "log_out": log_out }).to_string();
        let errand = asking.errand(id, Task::Delete, Some(input.as_bytes()), None).await?;
        match answered(state.0, errand, 1, &patience).await? {
            Waited::Gone => Ok(Json(Typed(DeleteView {
                session: id.0,
                logged_out: log_out,
            }))),
            Waited::Pending => Err(pending(id)),
            Waited::Answered(record) => Err(match record.problem {
                Some(problem) => view::problem_of(&record, problem),
                None => Problem::internal(format!("a deletion is {}", ErrandState::as_str(record.state))),
            }),
        }
    }
}

async fn refuse_if_needed(state: &State, session: SessionId) -> Result<(), Problem> {
    let mut conn = store::connection(&state.pool, "live_jobs_of_session").await?;
    match session_logins::live_jobs(&mut conn, session).await? {
        0 => Ok(()),
        count => {
            let detail = format!("{count} unfinished jobs need the session: let them finish, or cancel them first.");
            Err(Problem::new(Code::SessionBusy, detail).session(session))
        }
    }
}

/// A Pyrogram session names its account, which is not known of an import before it was enabled once.
async fn refuse_if_unknown(state: &State, session: SessionId, format: ExportFormat) -> Result<(), Problem> {
    if format != ExportFormat::Pyrogram {
        return Ok(());
    }
    let mut conn = store::connection(&state.pool, "errand_facts").await?;
    let facts = session_logins::facts(&mut conn, session, None).await?;
    let is_import = session_reads::get(&state.pool, session)
        .await?
        .is_some_and(|row| row.state == "disabled");
    match facts {
        Some(facts) if is_import && facts.account_id.is_none() => Err(account_unknown(session)),
        _ => Ok(()),
    }
}

fn account_unknown(session: SessionId) -> Problem {
    let detail = format!(
        "A Pyrogram session names its account, and whose this one is was never asked: it was imported and not enabled yet. POST \
         /v1/sessions/{session}/enable first, or export it in the format telethon."
    );
    Problem::new(Code::SessionStateConflict, detail)
        .session(session)
        .field("format")
}

/// What comes out of an export opens for the request that asked for it alone.
fn export_pending(session: SessionId) -> Problem {
    let detail = format!(
        "The session is being taken out of use; its jobs finish first. Nothing is lost: when GET /v1/sessions/{session}/login says \
         done, ask again, and the answer comes at once. DELETE there gives it up."
    );
    Problem::new(Code::LoginPending, detail)
        .session(session)
        .header("Location", format!("/v1/sessions/{session}/login"))
}

/// The API id of the session's application, where the worker that handed it out did not say.
async fn api_id_of(state: &State, session: SessionId) -> Result<Option<i32>, Problem> {
    let mut conn = store::connection(&state.pool, "applications").await?;
    let facts = session_logins::facts(&mut conn, session, None).await?;
    let of_session = facts.and_then(|facts| facts.application);
    let known = applications::all(&mut conn).await?;
    let known = known.iter().find(|application| Some(application.id) == of_session);
    Ok(known
        .map(|application| application.api_id)
        .or(state.config.telegram.api_id))
}

fn no_application(session: SessionId) -> Problem {
    let detail = "A Pyrogram session names its application, and this session has none: set TELEGRAM_API_ID and TELEGRAM_API_HASH for \
                  the workers, or export it in the format telethon.";
    Problem::new(Code::ApplicationInvalid, detail)
        .session(session)
        .field("format")
}

async fn written(
    state: &State,
    session: SessionId,
    portable: &Portable,
    format: ExportFormat,
) -> Result<Zeroizing<String>, Problem> {
    let text = match format {
        ExportFormat::Telethon => formats::telethon(portable),
        ExportFormat::Pyrogram if portable.account_id.is_none() => return Err(account_unknown(session)),
        ExportFormat::Pyrogram => {
            let api_id = match portable.api_id {
                Some(api_id) => Some(api_id),
                None => api_id_of(state, session).await?,
            };
            formats::pyrogram(portable, api_id.ok_or_else(|| no_application(session))?)
        }
    };
    text.ok_or_else(|| Problem::internal("an authorisation that fits no string session"))
}
