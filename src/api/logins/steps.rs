//! `GET`/`DELETE /v1/sessions/{id}/login`, and `POST` of the code, the password and a resend.

use std::sync::Arc;

use poem::{http::HeaderMap, web::Data};
use poem_openapi::{
    OpenApi,
    param::{Header, Path},
    payload::Json,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{LoginView, answer, asking::Asking, busy, no_worker, patience, session_id, view::problem_of};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed},
        document::Tag,
        jobs::invalid,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    ids::SessionId,
    login_input,
    store::{
        self,
        errands::{self, ErrandProblem, ErrandRecord, MOST_RESENDS, Step},
        failed,
        login_requests::{self, StepAsked},
        session_reads,
    },
};

/// A login code.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LoginCodeRequest")]
pub struct CodeBody {
    /// As it was received; spaces and dashes are left out.
    #[schemars(length(min = 1, max = 64), example = &"12345")]
    code: String,
}

/// The second factor.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LoginPasswordRequest")]
pub struct PasswordBody {
    #[schemars(length(min = 1, max = 1024))]
    password: String,
}

pub struct StepsApi;

#[OpenApi]
impl StepsApi {
    /// Look at a session's login
    ///
    /// Shows what is being done for the session (a login, an import, an export, …) and what it waits for; when nothing is, what
    /// was done last. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/login",
        method = "get",
        operation_id = "get_login",
        tag = "Tag::Sessions"
    )]
    async fn get(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        let id = session_id(&id)?;
        Ok(Json(Typed(LoginView::of(latest(&state, id).await?)?)))
    }

    /// Give a session's login up
    ///
    /// Ends what is being done for the session; codes and passwords are erased, and what may have been authorised at Telegram
    /// meanwhile is logged out. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/login",
        method = "delete",
        operation_id = "cancel_login",
        tag = "Tag::Sessions"
    )]
    async fn cancel(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        let id = session_id(&id)?;
        let asking = Asking::new(state.0, &caller.0, context.0);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_cancel_login"))?;
        let given_up = login_requests::give_up(&mut transaction, id, asking.asker()).await?;
        transaction.commit().await.map_err(failed("commit_cancel_login"))?;
        if given_up.is_none() {
            return Err(not_found(&state, id).await?);
        }
        state.signals.errand_asked();
        state.signals.control_changed();
        Ok(Json(Typed(LoginView::of(latest(&state, id).await?)?)))
    }

    /// Enter the login code
    ///
    /// Answers with the login: `done`, or `password_needed` with the hint. A wrong code is `login_code_wrong`, one that is too
    /// old `login_code_expired`. Waits up to 60 s for the worker (`Prefer: wait=N` for less), then 504 `login_pending`.
    /// Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/code",
        method = "post",
        operation_id = "enter_login_code",
        tag = "Tag::Sessions"
    )]
    async fn code(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for the worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
        body: Sent<CodeBody>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        let given = Zeroizing::new(body.read()?.code);
        let code = login_input::code(&given).map_err(|refused| invalid(refused.field, refused.why))?;
        take_step(&state, headers, &id, Step::Code, Some(code.as_bytes())).await
    }

    /// Enter the password
    ///
    /// The account's second factor. Answers with the login; a wrong one is `password_wrong`. Waits like the code.
    /// Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/password",
        method = "post",
        operation_id = "enter_login_password",
        tag = "Tag::Sessions"
    )]
    async fn password(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for the worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
        body: Sent<PasswordBody>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        let password = Zeroizing::new(body.read()?.password);
        if password.is_empty() || password.len() > 1024 {
            return Err(invalid("password", "must be 1 to 1,024 bytes."));
        }
        take_step(&state, headers, &id, Step::Password, Some(password.as_bytes())).await
    }

    /// Send the code again
    ///
    /// By the next way that Telegram has, as `code.next` said; a code that is too old is replaced by a new one. Five times in one
    /// login, then `login_resend_limit`. Waits like the code. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/resend",
        method = "post",
        operation_id = "resend_login_code",
        tag = "Tag::Sessions"
    )]
    async fn resend(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        headers: &HeaderMap,
        /// `wait=N`: seconds to wait for the worker, at most and by default 60.
        #[oai(name = "Prefer")]
        _prefer: Header<Option<String>>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<LoginView>>, Problem> {
        take_step(&state, headers, &id, Step::Resend, None).await
    }
}

async fn take_step(
    state: &State,
    headers: &HeaderMap,
    id: &str,
    step: Step,
    input: Option<&[u8]>,
) -> Result<Json<Typed<LoginView>>, Problem> {
    let id = session_id(id)?;
    let patience = patience(state, headers)?;
    let mut transaction = state.pool.begin().await.map_err(failed("begin_login_step"))?;
    let asked = login_requests::ask_step(&mut transaction, id, step, input).await?;
    transaction.commit().await.map_err(failed("commit_login_step"))?;
    match asked {
        StepAsked::Now { errand, seq } => {
            state.signals.errand_asked();
            let record = answer(state, id, errand, seq, &patience).await?;
            Ok(Json(Typed(LoginView::of(*record)?)))
        }
        StepAsked::Busy => Err(busy(id)),
        StepAsked::NoWorker => Err(no_worker()),
        StepAsked::OutOfTurn(record) => {
            let view = LoginView::of(*record)?;
            let detail = format!("The login is in the state {}. {}", view.state, view.next);
            Err(Problem::new(Code::LoginOutOfTurn, detail).session(id))
        }
        // How it ended is worth more than that it did.
        StepAsked::Over(Some(record)) if record.problem.is_some() => {
            let problem = record.problem.map(|problem| problem_of(&record, problem));
            Err(problem.unwrap_or_else(|| Problem::internal("a problem was there")))
        }
        StepAsked::Over(_) => Err(not_found(state, id).await?),
        StepAsked::Rests(record) => Err(problem_of(&record, record.problem.unwrap_or(ErrandProblem::Flooded))),
        StepAsked::TooOften(_) => {
            let detail = format!(
                "The code was sent again {MOST_RESENDS} times: Telegram would lock the number. Enter the last one, or begin anew, and \
                 not at once."
            );
            Err(Problem::new(Code::LoginResendLimit, detail).session(id))
        }
    }
}

pub(super) async fn latest(state: &State, id: SessionId) -> Result<ErrandRecord, Problem> {
    let mut conn = store::connection(&state.pool, "read_errand").await?;
    let record = errands::latest(&mut conn, id).await?;
    drop(conn);
    match record {
        Some(record) => Ok(record),
        None => Err(not_found(state, id).await?),
    }
}

async fn not_found(state: &State, id: SessionId) -> Result<Problem, Problem> {
    if session_reads::get(&state.pool, id).await?.is_none() {
        return Ok(super::no_session());
    }
    let detail = "Nothing is being done for this session. POST /v1/sessions with its label logs it in.";
    Ok(Problem::new(Code::LoginNotFound, detail).session(id))
}
