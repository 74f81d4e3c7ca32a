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

use super::{
    LoginView, Waited, answer, answered, busy, formats, no_session, no_worker, patience, pending, session_id, view,
};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed, Caller},
        document::Tag,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::{ErrandId, SessionId},
    letterbox::{Opener, Slot},
    store::{
        self, applications,
        errands::{self, ErrandState, Portable, Task},
        failed,
        login_requests::{self, Asker, Begun},
        session_logins, session_reads,
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
        let asked = Asked {
            state: state.0,
            caller: &caller.0,
            context: context.0,
            id,
        };
        let patience = patience(state.0, headers)?;
        let errand = asked.begin(Task::Enable, None, None).await?;
        let record = answer(state.0, id, errand, 1, &patience).await?;
        Ok(Json(Typed(LoginView::of(*record)?)))
    }

    /// Export a session
    ///
    /// Hands the session's authorisation to its owner as a string session. It is taken out of use first: its jobs finish, its
    /// worker hangs up, and it is `disabled`; it comes back only by `enable`, once it was stopped elsewhere. The audit log keeps
    /// who asked. Whoever has the text has the account. Scope: admin.
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
        let asked = Asked {
            state: state.0,
            caller: &caller.0,
            context: context.0,
            id,
        };
        let patience = patience(state.0, headers)?;
        let errand = asked.begin(Task::Export, None, Some(opener.slot())).await?;
        let record = answer(state.0, id, errand, 1, &patience).await?;
        let opened = record
            .output
            .and_then(|letter| opener.open(&errands::output_owner(errand), &letter))
            .ok_or_else(|| Problem::internal("an export that does not open"))?;
        let portable: Portable = serde_json::from_slice(&opened).map_err(Problem::internal)?;
        let session = asked.written(&portable, format).await?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_export"))?;
        errands::erase_output(&mut transaction, errand).await?;
        let details = json!({ "format": format });
        let actor = caller.0.actor();
        session_logins::note(
            &mut transaction,
            &actor,
            "session.exported",
            id,
            Some(context.id()),
            details,
        )
        .await?;
        transaction.commit().await.map_err(failed("commit_export"))?;
        Ok(Json(Typed(ExportView {
            id: id.0,
            format,
            session,
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
        let asked = Asked {
            state: state.0,
            caller: &caller.0,
            context: context.0,
            id,
        };
        let patience = patience(state.0, headers)?;
        let errand = asked.begin(Task::LogOut, None, None).await?;
        let record = answer(state.0, id, errand, 1, &patience).await?;
        Ok(Json(Typed(LoginView::of(*record)?)))
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
        let asked = Asked {
            state: state.0,
            caller: &caller.0,
            context: context.0,
            id,
        };
        asked.refuse_if_needed().await?;
        let input = json!({ "log_out": log_out }).to_string();
        let errand = asked.begin(Task::Delete, Some(input.as_bytes()), None).await?;
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

/// A request about one session.
struct Asked<'a> {
    state: &'a State,
    caller: &'a Caller,
    context: &'a RequestContext,
    id: SessionId,
}

impl Asked<'_> {
    async fn begin(&self, task: Task, input: Option<&[u8]>, reply_to: Option<Slot>) -> Result<ErrandId, Problem> {
        let actor = self.caller.actor();
        let asker = Asker {
            actor: &actor,
            request_id: Some(self.context.id()),
        };
        let mut transaction = self.state.pool.begin().await.map_err(failed("begin_errand"))?;
        let begun = login_requests::begin_errand(&mut transaction, self.id, task, input, reply_to, asker).await?;
        transaction.commit().await.map_err(failed("commit_errand"))?;
        match begun {
            None => Err(no_session()),
            Some(Begun::NoWorker) => Err(no_worker()),
            Some(Begun::Busy { session }) => Err(busy(session)),
            Some(Begun::Wrong { .. }) => Err(self.wrong_state(task).await?),
            Some(Begun::Now { errand, .. }) => {
                self.state.signals.control_changed();
                self.state.signals.errand_asked();
                Ok(errand)
            }
        }
    }

    async fn wrong_state(&self, task: Task) -> Result<Problem, Problem> {
        let Some(session) = session_reads::get(&self.state.pool, self.id).await? else {
            return Ok(no_session());
        };
        let needs = match task {
            Task::Enable => "only a disabled session that has an authorisation can be enabled",
            _ => "it has no authorisation; a login with its label gives it one",
        };
        let detail = format!("The session is {}: {needs}.", session.state);
        Ok(Problem::new(Code::SessionStateConflict, detail).session(self.id))
    }

    async fn refuse_if_needed(&self) -> Result<(), Problem> {
        let mut conn = store::connection(&self.state.pool, "live_jobs_of_session").await?;
        match session_logins::live_jobs(&mut conn, self.id).await? {
            0 => Ok(()),
            count => {
                let detail =
                    format!("{count} unfinished jobs need the session: let them finish, or cancel them first.");
                Err(Problem::new(Code::SessionBusy, detail).session(self.id))
            }
        }
    }

    async fn written(&self, portable: &Portable, format: ExportFormat) -> Result<String, Problem> {
        let text = match format {
            ExportFormat::Telethon => formats::telethon(portable),
            ExportFormat::Pyrogram => {
                let mut conn = store::connection(&self.state.pool, "applications").await?;
                let facts = session_logins::facts(&mut conn, self.id, None).await?;
                let applications = applications::all(&mut conn).await?;
                let of_session = facts.and_then(|facts| facts.application);
                let api_id = applications
                    .iter()
                    .find(|application| Some(application.id) == of_session)
                    .map_or(self.state.config.telegram.api_id.unwrap_or_default(), |application| {
                        application.api_id
                    });
                formats::pyrogram(portable, api_id)
            }
        };
        text.map(|text| text.as_str().to_owned())
            .ok_or_else(|| Problem::internal("an authorisation that fits no string session"))
    }
}
