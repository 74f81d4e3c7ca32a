//! `GET /v1/sessions/{id}`, `POST …/check` and `POST …/resume`: how a session is, whether it answers now, and a person's
//! word that its limit is over.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    State,
    applications::{ApplicationView, RefusalView},
    auth::{Allowed, Operator, Viewer},
    document::Tag,
    problem::{Code, Problem},
    session_caps::CapView,
    sessions::{self, SessionView},
    shell::RequestContext,
    typed::Typed,
};
use crate::{
    ids::SessionId,
    store::{
        self,
        applications::{self, ApplicationRecord},
        audit, caps, failed, session_checks,
        session_health::{self, HealthRecord, Resumed},
    },
};

/// How long a check is waited for: less than a request may take.
const CHECK_WAIT: Duration = Duration::from_secs(8);
const CHECK_LOOK: Duration = Duration::from_millis(100);

/// A session, how it is, and what it may still do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SessionDetail")]
pub struct SessionDetail {
    #[serde(flatten)]
    session: SessionView,
    /// The application it connects with: its own, or the default one. Null: a worker's environment names none.
    application: Option<SessionApplicationView>,
    /// It may run jobs, and a call to Telegram came back within `WIREROOM_SESSIONS_HEALTHY_SECONDS`.
    healthy: bool,
    /// When an update last came in.
    last_update_at: Option<DateTime<Utc>>,
    /// The pool it moves to when its running jobs have ended.
    moving_to: Option<String>,
    /// In which its hours and days are counted.
    time_zone: String,
    lease: LeaseView,
    breaker: BreakerView,
    caps: Vec<CapView>,
    /// Chats it is in, as far as jobs have seen.
    chats_joined: i64,
    running_jobs: i64,
    /// Jobs that only this session can run, and that are due.
    queued_jobs: i64,
}

/// The application that a session connects with.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SessionApplication")]
pub struct SessionApplicationView {
    id: Uuid,
    label: String,
    api_id: i32,
    /// It is the one of all sessions that name none.
    is_default: bool,
    /// Telegram does not take it: the session is not connected until somebody resumes the application. Null: it does.
    refused: Option<RefusalView>,
}

impl From<ApplicationRecord> for SessionApplicationView {
    fn from(record: ApplicationRecord) -> Self {
        let application = ApplicationView::from(record);
        Self {
            id: application.id,
            label: application.label,
            api_id: application.api_id,
            is_default: application.is_default,
            refused: application.refused,
        }
    }
}

/// The exclusive right of one worker to use the session.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Lease")]
pub struct LeaseView {
    /// A worker holds it now.
    held: bool,
    /// Its holder, or the last one when it ran out.
    worker: Option<Uuid>,
    /// Grows with every term.
    fence: i64,
    acquired_at: Option<DateTime<Utc>>,
    renewed_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
}

/// What leaves a session alone that keeps failing to connect.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Breaker")]
pub struct BreakerView {
    /// `closed`: all is well. `open`: nobody connects it until `open_until`. `half_open`: one attempt decides.
    #[schemars(extend("enum" = ["closed", "open", "half_open"]))]
    state: &'static str,
    /// How often it opened since the session last answered: each rest is twice as long as the one before.
    trips: i32,
    opened_at: Option<DateTime<Utc>>,
    open_until: Option<DateTime<Utc>>,
    /// What it failed with.
    error: Option<String>,
}

/// What a self-test found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "SessionCheck")]
pub struct CheckView {
    /// A call to Telegram came back with what it should.
    ok: bool,
    /// How long the call took.
    milliseconds: Option<i64>,
    /// What went wrong: Telegram's name of the error, or ours in snake case.
    code: Option<String>,
    message: Option<String>,
    /// The worker that made it.
    worker: Uuid,
}

impl SessionDetail {
    fn of(
        session: SessionView,
        application: Option<SessionApplicationView>,
        health: HealthRecord,
        caps: Vec<CapView>,
        healthy_for: Duration,
    ) -> Self {
        let may_run = ["ready", "limited"].contains(&session.state.as_str());
        let answers = health
            .silent_seconds
            .is_some_and(|seconds| seconds <= healthy_for.as_secs_f64());
        Self {
            application,
            healthy: may_run && answers,
            last_update_at: health.last_update_at,
            moving_to: health.next_pool,
            time_zone: health.time_zone,
            lease: LeaseView {
                held: health.lease_owner.is_some() && !health.lease_expired,
                worker: health.lease_owner.map(|worker| worker.0),
                fence: health.lease_fence,
                acquired_at: health.lease_acquired_at,
                renewed_at: health.lease_renewed_at,
                expires_at: health.lease_expires_at,
            },
            breaker: BreakerView {
                state: match (health.breaker_trips, health.breaker_is_open) {
                    (0, _) => "closed",
                    (_, true) => "open",
                    (_, false) => "half_open",
                },
                trips: health.breaker_trips,
                opened_at: health.breaker_opened_at,
                open_until: health.breaker_open_until,
                error: health.breaker_error,
            },
            caps,
            chats_joined: health.chats,
            running_jobs: health.running_jobs,
            queued_jobs: health.queued_jobs,
            session,
        }
    }
}

pub struct SessionHealthApi;

#[OpenApi]
impl SessionHealthApi {
    /// Look at a session
    ///
    /// Shows one session: its state, its holder, what it may not do for now and why, when it last answered, and what is
    /// left of its caps. Scope: viewer.
    #[oai(
        path = "/v1/sessions/:id",
        method = "get",
        operation_id = "get_session",
        tag = "Tag::Sessions"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        Ok(Json(Typed(detail(state.0, parse(&id)?).await?)))
    }

    /// Check a session
    ///
    /// The worker that holds the session makes one cheap call to Telegram with it, now; the answer says what came of it.
    /// 409 when no worker holds it, 504 when none has answered within 8 s. Scope: operator.
    #[oai(
        path = "/v1/sessions/:id/check",
        method = "post",
        operation_id = "check_session",
        tag = "Tag::Sessions"
    )]
    async fn check(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<CheckView>>, Problem> {
        let id = parse(&id)?;
        let deadline = Instant::now() + CHECK_WAIT;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_check"))?;
        let health = session_health::get(&mut transaction, id).await?.ok_or_else(not_found)?;
        if health.lease_owner.is_none() || health.lease_expired {
            let detail = "No worker holds the session, so nobody can check it; GET /v1/sessions/{id} says why.";
            return Err(Problem::new(Code::SessionNotHeld, detail));
        }
        let actor = caller.0.actor();
        let check = session_checks::request(&mut transaction, id, &actor).await?;
        let entry = audit::Entry {
            actor: &actor,
            action: "session.checked",
            subject: &format!("session:{id}"),
            request_id: Some(context.id()),
            details: json!({ "check": check }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_check"))?;
        state.signals.sessions_changed();
        while Instant::now() < deadline {
            if let Some((worker, answer)) = session_checks::answered(&state.pool, check).await? {
                return Ok(Json(Typed(CheckView::of(worker.0, &answer))));
            }
            sleep(CHECK_LOOK).await;
        }
        let detail = "The worker that holds the session has not answered in time: it may be stopped or cut off.";
        Err(Problem::new(Code::CheckTimeout, detail))
    }

    /// Resume a limited session
    ///
    /// Lets a session contact people again that Telegram had limited (`PEER_FLOOD`). Only a person can
    /// know that the limit is over: Telegram's own bot `@SpamBot` tells the account's owner. Scope: operator.
    #[oai(
        path = "/v1/sessions/:id/resume",
        method = "post",
        operation_id = "resume_session",
        tag = "Tag::Sessions"
    )]
    async fn resume(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        let id = parse(&id)?;
        let actor = caller.0.actor();
        let mut transaction = state.pool.begin().await.map_err(failed("begin_resume_session"))?;
        match session_health::resume(&mut transaction, id, &actor).await? {
            Resumed::Now => {}
            Resumed::Unknown => return Err(not_found()),
            Resumed::NotLimited(is) => {
                let detail = format!("The session is {is}; only a limited one is resumed.");
                return Err(Problem::new(Code::SessionNotLimited, detail));
            }
        }
        let entry = audit::Entry {
            actor: &actor,
            action: "session.resumed",
            subject: &format!("session:{id}"),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_resume_session"))?;
        state.signals.sessions_changed();
        Ok(Json(Typed(detail(state.0, id).await?)))
    }
}

impl CheckView {
    fn of(worker: Uuid, answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        Self {
            ok: answer["ok"] == true,
            milliseconds: answer["milliseconds"].as_i64(),
            code: text("code"),
            message: text("message"),
            worker,
        }
    }
}

/// One session with all that is known of it.
pub async fn detail(state: &State, id: SessionId) -> Result<SessionDetail, Problem> {
    let session = sessions::one(state, id).await?.ok_or_else(not_found)?;
    let mut conn = store::connection(&state.pool, "session_health").await?;
    let health = session_health::get(&mut conn, id).await?.ok_or_else(not_found)?;
    let caps = caps::of_session(&mut conn, id).await?;
    let caps = caps.into_iter().map(CapView::from).collect();
    let application = applications::of_session(&mut conn, id).await?;
    let application = application.map(SessionApplicationView::from);
    let healthy = state.config.sessions.healthy;
    Ok(SessionDetail::of(session, application, health, caps, healthy))
}

pub fn parse(id: &str) -> Result<SessionId, Problem> {
    id.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A session's id is a UUID.").field("id"))
}

pub fn not_found() -> Problem {
    Problem::new(Code::SessionNotFound, "There is no session of that id.")
}

#[cfg(test)]
mod tests;
