//! `GET/PUT/DELETE /v1/pauses`: what operators hold back, and until when.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use wireroom_jobs::JobKind;

use super::{
    State,
    auth::{Allowed, Caller, Operator, Viewer},
    document::Tag,
    jobs::body,
    problem::{Code, Problem},
    sent::Sent,
    shell::RequestContext,
    typed::Typed,
};
use crate::store::{
    self, audit, failed,
    pauses::{self, Pause, PauseScope},
    session_reads,
};

const MAX_REASON: usize = 500;

/// Why, and until when, something is paused.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PauseRequest")]
pub struct PauseBody {
    /// For the people who wonder: up to 500 characters. It is shown to every key.
    #[schemars(length(min = 1, max = 500), example = &"Telegram is slow today")]
    reason: String,
    /// It ends by itself then (RFC 3339); null: when it is resumed.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    until: Option<String>,
}

/// Something that no worker claims for now.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Pause")]
pub struct PauseView {
    /// `everything`, `pool`, `session` or `kind`.
    #[schemars(extend("enum" = PauseScope::ALL.map(PauseScope::as_str)))]
    pub scope: &'static str,
    /// The pool's or the kind's name, or the session's id; null for everything.
    pub target: Option<String>,
    pub reason: String,
    /// When it ends by itself; null: when it is resumed.
    pub until: Option<DateTime<Utc>>,
    /// The key that paused it: `key:<id>`.
    pub paused_by: String,
    pub paused_at: DateTime<Utc>,
}

/// The pauses that hold now.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Pauses")]
pub struct PausesView {
    pub items: Vec<PauseView>,
}

impl From<Pause> for PauseView {
    fn from(pause: Pause) -> Self {
        Self {
            scope: pause.scope.as_str(),
            target: Some(pause.target).filter(|target| !target.is_empty()),
            reason: pause.reason,
            until: pause.until,
            paused_by: pause.paused_by,
            paused_at: pause.paused_at,
        }
    }
}

pub struct PausesApi;

#[OpenApi]
impl PausesApi {
    /// List pauses
    ///
    /// Lists what is paused now. Scope: viewer.
    #[oai(
        path = "/v1/pauses",
        method = "get",
        operation_id = "list_pauses",
        tag = "Tag::Control"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<PausesView>>, Problem> {
        let mut conn = store::connection(&state.pool, "active_pauses").await?;
        let (pauses, _) = pauses::active(&mut conn).await?;
        let items = pauses.into_iter().map(PauseView::from).collect();
        Ok(Json(Typed(PausesView { items })))
    }

    /// Pause everything
    ///
    /// No worker claims any job until it is resumed, or until `until`; jobs that run finish. Asked again, it changes the
    /// reason and the end. Scope: operator.
    #[oai(
        path = "/v1/pauses/everything",
        method = "put",
        operation_id = "pause_everything",
        tag = "Tag::Control"
    )]
    async fn pause_everything(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        body: Sent<PauseBody>,
    ) -> Result<Json<Typed<PauseView>>, Problem> {
        let target = (PauseScope::Everything, String::new());
        pause(state.0, &caller.0, context.0, target, &body).await
    }

    /// Resume everything
    ///
    /// Ends the pause of everything; pauses of pools, sessions and kinds stay. Scope: operator.
    #[oai(
        path = "/v1/pauses/everything",
        method = "delete",
        operation_id = "resume_everything",
        tag = "Tag::Control"
    )]
    async fn resume_everything(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
    ) -> Result<Json<Typed<PausesView>>, Problem> {
        let target = (PauseScope::Everything, String::new());
        resume(state.0, &caller.0, context.0, target).await
    }

    /// Pause a pool, a session or a kind
    ///
    /// No worker claims its jobs until it is resumed, or until `until`; jobs that run finish. Workers know within a second.
    /// Asked again, it changes the reason and the end. Scope: operator.
    #[oai(
        path = "/v1/pauses/:scope/:target",
        method = "put",
        operation_id = "pause",
        tag = "Tag::Control"
    )]
    async fn pause(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// `pool`, `session` or `kind`.
        scope: Path<String>,
        /// The pool's or the kind's name, or the session's id or label.
        target: Path<String>,
        body: Sent<PauseBody>,
    ) -> Result<Json<Typed<PauseView>>, Problem> {
        let target = known(state.0, &scope, &target).await?;
        pause(state.0, &caller.0, context.0, target, &body).await
    }

    /// Resume a pool, a session or a kind
    ///
    /// Ends the pause, and answers with those that are left. Scope: operator.
    #[oai(
        path = "/v1/pauses/:scope/:target",
        method = "delete",
        operation_id = "resume",
        tag = "Tag::Control"
    )]
    async fn resume(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// `pool`, `session` or `kind`.
        scope: Path<String>,
        /// The pool's or the kind's name, or the session's id or label.
        target: Path<String>,
    ) -> Result<Json<Typed<PausesView>>, Problem> {
        let target = known(state.0, &scope, &target).await?;
        resume(state.0, &caller.0, context.0, target).await
    }
}

/// What the path names, as pauses name it. A session that was deleted can still be resumed, by its id.
async fn known(state: &State, scope: &str, target: &str) -> Result<(PauseScope, String), Problem> {
    let scope = PauseScope::parse(scope)
        .filter(|scope| *scope != PauseScope::Everything)
        .ok_or_else(|| {
            let detail = "scope takes one of pool, session, kind; /v1/pauses/everything is for all.";
            Problem::new(Code::InvalidParameter, detail).field("scope")
        })?;
    let target = match scope {
        PauseScope::Session => match session_reads::find_target(&state.pool, target).await? {
            Some(session) => session.id.to_string(),
            None => target.to_owned(),
        },
        _ => target.to_owned(),
    };
    Ok((scope, target))
}

async fn pause(
    state: &State,
    caller: &Caller,
    context: &RequestContext,
    (scope, target): (PauseScope, String),
    body: &Sent<PauseBody>,
) -> Result<Json<Typed<PauseView>>, Problem> {
    let body = body.read()?;
    if body.reason.trim().is_empty() || body.reason.chars().count() > MAX_REASON {
        return Err(body::invalid(
            "reason",
            format!("must be 1 to {MAX_REASON} characters."),
        ));
    }
    let until = body::time("until", body.until.as_deref())?;
    if until.is_some_and(|until| until <= state.clock.now()) {
        return Err(body::invalid("until", "must be in the future."));
    }
    let mut transaction = state.pool.begin().await.map_err(failed("begin_pause"))?;
    if !pauses::target_exists(&mut transaction, scope, &target).await?
        || (scope == PauseScope::Kind && JobKind::parse(&target).is_none())
    {
        return Err(no_such_target(scope));
    }
    let actor = caller.actor();
    let pause = pauses::pause(&mut transaction, scope, &target, &body.reason, until, &actor).await?;
    let entry = audit::Entry {
        actor: &actor,
        action: "pause.set",
        subject: &subject(scope, &target),
        request_id: Some(context.id()),
        details: json!({ "reason": body.reason, "until": until }),
    };
    audit::record(&mut transaction, entry).await?;
    transaction.commit().await.map_err(failed("commit_pause"))?;
    state.signals.control_changed();
    Ok(Json(Typed(pause.into())))
}

async fn resume(
    state: &State,
    caller: &Caller,
    context: &RequestContext,
    (scope, target): (PauseScope, String),
) -> Result<Json<Typed<PausesView>>, Problem> {
    let mut transaction = state.pool.begin().await.map_err(failed("begin_resume"))?;
    if !pauses::resume(&mut transaction, scope, &target).await? {
        return Err(Problem::new(Code::PauseNotFound, "It is not paused."));
    }
    let entry = audit::Entry {
        actor: &caller.actor(),
        action: "pause.ended",
        subject: &subject(scope, &target),
        request_id: Some(context.id()),
        details: json!({}),
    };
    audit::record(&mut transaction, entry).await?;
    let (left, _) = pauses::active(&mut transaction).await?;
    transaction.commit().await.map_err(failed("commit_resume"))?;
    state.signals.control_changed();
    let items = left.into_iter().map(PauseView::from).collect();
    Ok(Json(Typed(PausesView { items })))
}

fn no_such_target(scope: PauseScope) -> Problem {
    match scope {
        PauseScope::Kind => Problem::new(Code::UnknownKind, "No kind has that name."),
        PauseScope::Session => Problem::new(Code::UnknownSession, "No session has that id or label."),
        PauseScope::Pool | PauseScope::Everything => Problem::new(Code::UnknownPool, "No pool has that name."),
    }
    .field("target")
}

fn subject(scope: PauseScope, target: &str) -> String {
    match scope {
        PauseScope::Everything => "everything".to_owned(),
        scope => format!("{}:{target}", scope.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use poem::http::{Method, StatusCode};
    use serde_json::{Value, json};

    use crate::{
        api::tests::bed::{Answer, TestApi, send},
        store::api_keys::Scope,
    };

    async fn put(api: &TestApi, path: &str, body: &Value) -> Answer {
        send(api.request(Method::PUT, path).body_json(body)).await
    }

    async fn delete(api: &TestApi, path: &str) -> Answer {
        send(api.request(Method::DELETE, path)).await
    }

    #[tokio::test]
    async fn what_is_paused_is_listed_told_and_resumed() {
        let api = TestApi::new().await;
        let session = api.session("alpha", "ready").await;
        let body = json!({ "reason": "a quiet day" });
        for path in ["everything", "pool/default", "session/alpha", "kind/scan"] {
            let paused = put(&api, &format!("/v1/pauses/{path}"), &body).await;
            assert_eq!(paused.status, StatusCode::OK, "{}", paused.text);
            assert_eq!(paused.json()["reason"], "a quiet day");
        }
        let list = api.get("/v1/pauses").await.json();
        let targets: Vec<&Value> = list["items"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|pause| &pause["target"])
            .collect();
        assert_eq!(
            targets,
            [&Value::Null, &json!("scan"), &json!("default"), &json!(session)]
        );
        assert_eq!(api.signals.control_changed.load(Ordering::SeqCst), 4);
        let left = delete(&api, "/v1/pauses/session/alpha").await.json();
        assert_eq!(left["items"].as_array().map(Vec::len), Some(3));
        delete(&api, "/v1/pauses/session/alpha")
            .await
            .problem("pause_not_found");
        delete(&api, "/v1/pauses/everything").await;
        assert_eq!(api.count("audit_log WHERE action = 'pause.set'").await, 4);
        assert_eq!(api.count("audit_log WHERE action = 'pause.ended'").await, 2);
    }

    #[tokio::test]
    async fn a_pause_that_ended_by_itself_is_not_listed_and_cannot_be_resumed() {
        let api = TestApi::new().await;
        put(&api, "/v1/pauses/kind/join", &json!({ "reason": "x" })).await;
        api.execute("UPDATE pauses SET until = wireroom_now() - interval '1 second'")
            .await;
        assert_eq!(api.get("/v1/pauses").await.json()["items"], json!([]));
        delete(&api, "/v1/pauses/kind/join").await.problem("pause_not_found");
    }

    #[tokio::test]
    async fn what_cannot_be_paused_is_refused() {
        let api = TestApi::new().await;
        let body = json!({ "reason": "x" });
        for (path, code) in [
            ("pool/nowhere", "unknown_pool"),
            ("session/nobody", "unknown_session"),
            ("kind/walk", "unknown_kind"),
            ("everything/x", "invalid_parameter"),
            ("chat/x", "invalid_parameter"),
        ] {
            put(&api, &format!("/v1/pauses/{path}"), &body).await.problem(code);
        }
        let path = "/v1/pauses/everything";
        put(&api, path, &json!({})).await.problem("missing_field");
        put(&api, path, &json!({ "reason": " " }))
            .await
            .problem("invalid_value");
        let past = json!({ "reason": "x", "until": "2020-01-01T00:00:00Z" });
        assert_eq!(put(&api, path, &past).await.problem("invalid_value")["field"], "until");
        let viewer = api.key(Scope::Viewer).await;
        let request = api
            .bare(Method::PUT, path)
            .header("Authorization", format!("Bearer {viewer}"))
            .body_json(&body);
        send(request).await.problem("forbidden");
        assert_eq!(api.count("pauses").await, 0);
    }
}
