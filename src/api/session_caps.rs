//! `/v1/caps` and `/v1/sessions/{id}/caps`: how often sessions may do something in a minute, an hour and a day.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    State,
    auth::{Admin, Allowed, Caller, Viewer},
    document::Tag,
    jobs::body,
    problem::{Code, Problem},
    sent::Sent,
    session_health::{SessionDetail, detail, not_found, parse},
    shell::RequestContext,
    typed::Typed,
};
use crate::{
    ids::SessionId,
    store::{
        self, PgConnection, audit,
        caps::{self, Cap, CapRecord, Capped},
        failed, session_health,
    },
};

const MOST: i64 = 1_000_000;

/// How often something may be done; 0 forbids it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewCap")]
#[expect(clippy::struct_field_names, reason = "that is how it reads in JSON")]
pub struct CapBody {
    /// In a minute of the clock.
    #[schemars(range(min = 0, max = 1_000_000), example = 3)]
    per_minute: i64,
    /// In an hour of the clock.
    #[schemars(range(min = 0, max = 1_000_000), example = 10)]
    per_hour: i64,
    /// In a day of the session's time zone.
    #[schemars(range(min = 0, max = 1_000_000), example = 20)]
    per_day: i64,
}

/// In which a session's hours and days are counted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewTimeZone")]
pub struct TimeZoneBody {
    /// A name of the IANA database.
    #[schemars(length(min = 1, max = 64), example = &"Europe/Lisbon")]
    time_zone: String,
}

/// How often a session may do something, and what is left of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Cap")]
pub struct CapView {
    /// `join`, `invite`, `message`, or `dialogue`: the first message to a person.
    #[schemars(extend("enum" = Capped::ALL.map(Capped::as_str)))]
    action: &'static str,
    minute: WindowView,
    hour: WindowView,
    day: WindowView,
    /// It is spent, and opens then.
    closed_until: Option<DateTime<Utc>>,
    /// It is the one of all sessions that have none of their own.
    is_default: bool,
    /// The key that set it: `key:<id>`; null: as it came.
    set_by: Option<String>,
    set_at: DateTime<Utc>,
}

/// A cap over one span of time.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "CapWindow")]
pub struct WindowView {
    cap: i32,
    used: i32,
    left: i32,
}

/// The caps of sessions that have none of their own.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Caps")]
pub struct CapsView {
    items: Vec<CapView>,
}

impl WindowView {
    fn new(cap: i32, used: i32) -> Self {
        Self {
            cap,
            used,
            left: (cap - used).max(0),
        }
    }
}

impl From<CapRecord> for CapView {
    fn from(record: CapRecord) -> Self {
        Self {
            action: record.capped.as_str(),
            minute: WindowView::new(record.cap.per_minute, record.minute_used),
            hour: WindowView::new(record.cap.per_hour, record.hour_used),
            day: WindowView::new(record.cap.per_day, record.day_used),
            closed_until: record.closed_until,
            is_default: record.is_default,
            set_by: record.set_by,
            set_at: record.set_at,
        }
    }
}

pub struct SessionCapsApi;

#[OpenApi]
impl SessionCapsApi {
    /// List caps
    ///
    /// Lists how often a session may join, invite, send a message and open a dialogue where nothing else is set for it.
    /// Scope: viewer.
    #[oai(path = "/v1/caps", method = "get", operation_id = "list_caps", tag = "Tag::Control")]
    async fn list(&self, _caller: Allowed<Viewer>, state: Data<&Arc<State>>) -> Result<Json<Typed<CapsView>>, Problem> {
        let mut conn = store::connection(&state.pool, "default_caps").await?;
        Ok(Json(Typed(all(&mut conn).await?)))
    }

    /// Set a cap
    ///
    /// For every session that has none of its own, from its next use on. Scope: admin.
    #[oai(
        path = "/v1/caps/:action",
        method = "put",
        operation_id = "set_cap",
        tag = "Tag::Control"
    )]
    async fn set(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// `join`, `invite`, `message` or `dialogue`.
        action: Path<String>,
        body: Sent<CapBody>,
    ) -> Result<Json<Typed<CapsView>>, Problem> {
        let capped = known(&action)?;
        let cap = read(&body)?;
        let change = Change::new(state.0, &caller.0, context.0);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_set_cap"))?;
        caps::set(&mut transaction, None, capped, cap, &change.actor).await?;
        change
            .record(
                &mut transaction,
                "cap.set",
                &format!("cap:{}", capped.as_str()),
                facts(cap),
            )
            .await?;
        let caps = all(&mut transaction).await?;
        change.commit(transaction, None).await?;
        Ok(Json(Typed(caps)))
    }

    /// Set a session's cap
    ///
    /// It goes before the one of all sessions, from the next use on. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/caps/:action",
        method = "put",
        operation_id = "set_session_cap",
        tag = "Tag::Sessions"
    )]
    async fn set_session(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
        /// `join`, `invite`, `message` or `dialogue`.
        action: Path<String>,
        body: Sent<CapBody>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        let (id, capped) = (parse(&id)?, known(&action)?);
        let cap = read(&body)?;
        let change = Change::new(state.0, &caller.0, context.0);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_set_cap"))?;
        exists(&mut transaction, id).await?;
        caps::set(&mut transaction, Some(id), capped, cap, &change.actor).await?;
        let mut details = facts(cap);
        details["action"] = json!(capped.as_str());
        change
            .record(&mut transaction, "session.cap_set", &format!("session:{id}"), details)
            .await?;
        change.commit(transaction, Some(id)).await?;
        Ok(Json(Typed(detail(state.0, id).await?)))
    }

    /// Remove a session's cap
    ///
    /// The one of all sessions holds for it again. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/caps/:action",
        method = "delete",
        operation_id = "remove_session_cap",
        tag = "Tag::Sessions"
    )]
    async fn remove_session(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
        /// `join`, `invite`, `message` or `dialogue`.
        action: Path<String>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        let (id, capped) = (parse(&id)?, known(&action)?);
        let change = Change::new(state.0, &caller.0, context.0);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_remove_cap"))?;
        exists(&mut transaction, id).await?;
        if !caps::remove(&mut transaction, id, capped).await? {
            return Err(Problem::new(
                Code::CapNotFound,
                "The session has no such cap of its own.",
            ));
        }
        let details = json!({ "action": capped.as_str() });
        change
            .record(
                &mut transaction,
                "session.cap_removed",
                &format!("session:{id}"),
                details,
            )
            .await?;
        change.commit(transaction, Some(id)).await?;
        Ok(Json(Typed(detail(state.0, id).await?)))
    }

    /// Set a session's time zone
    ///
    /// Its hours and days are counted in it from then on. Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/time-zone",
        method = "put",
        operation_id = "set_session_time_zone",
        tag = "Tag::Sessions"
    )]
    async fn set_time_zone(
        &self,
        caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The session's id.
        id: Path<String>,
        body: Sent<TimeZoneBody>,
    ) -> Result<Json<Typed<SessionDetail>>, Problem> {
        let id = parse(&id)?;
        let zone = body.read()?.time_zone;
        let change = Change::new(state.0, &caller.0, context.0);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_set_time_zone"))?;
        if zone.len() > 64 || !session_health::knows_time_zone(&mut transaction, &zone).await? {
            return Err(body::invalid(
                "time_zone",
                "must be a name of the IANA database, such as Europe/Lisbon.",
            ));
        }
        if !caps::set_time_zone(&mut transaction, id, &zone).await? {
            return Err(not_found());
        }
        let details = json!({ "time_zone": zone });
        change
            .record(
                &mut transaction,
                "session.time_zone_set",
                &format!("session:{id}"),
                details,
            )
            .await?;
        change.commit(transaction, Some(id)).await?;
        Ok(Json(Typed(detail(state.0, id).await?)))
    }
}

struct Change<'a> {
    state: &'a State,
    actor: String,
    request_id: &'a str,
}

impl<'a> Change<'a> {
    fn new(state: &'a State, caller: &Caller, context: &'a RequestContext) -> Self {
        Self {
            state,
            actor: caller.actor(),
            request_id: context.id(),
        }
    }

    async fn record(
        &self,
        conn: &mut PgConnection,
        action: &str,
        subject: &str,
        details: Value,
    ) -> Result<(), Problem> {
        let entry = audit::Entry {
            actor: &self.actor,
            action,
            subject,
            request_id: Some(self.request_id),
            details,
        };
        Ok(audit::record(conn, entry).await?)
    }

    /// Commits, and lets holders and jobs that were put off know.
    async fn commit(&self, transaction: store::PgTransaction<'_>, session: Option<SessionId>) -> Result<(), Problem> {
        transaction.commit().await.map_err(failed("commit_cap"))?;
        self.state.signals.sessions_changed();
        let ageing_step = self.state.config.queue.ageing_step;
        let mut conn = store::connection(&self.state.pool, "wake_capped").await?;
        while caps::wake(&mut conn, session, ageing_step).await? == caps::WAKE {}
        self.state.signals.changed();
        Ok(())
    }
}

async fn all(conn: &mut PgConnection) -> Result<CapsView, Problem> {
    let items = caps::defaults(conn).await?.into_iter().map(CapView::from).collect();
    Ok(CapsView { items })
}

async fn exists(conn: &mut PgConnection, id: SessionId) -> Result<(), Problem> {
    session_health::get(conn, id).await?.map(|_| ()).ok_or_else(not_found)
}

fn known(action: &str) -> Result<Capped, Problem> {
    Capped::parse(action).ok_or_else(|| {
        let detail = "action takes one of join, invite, message, dialogue.";
        Problem::new(Code::InvalidParameter, detail).field("action")
    })
}

fn read(body: &Sent<CapBody>) -> Result<Cap, Problem> {
    let body = body.read()?;
    let within = |field: &str, value: i64| body::within(field, Some(value), 0, MOST).map(|value| value.unwrap_or(0));
    Ok(Cap {
        per_minute: within("per_minute", body.per_minute)?,
        per_hour: within("per_hour", body.per_hour)?,
        per_day: within("per_day", body.per_day)?,
    })
}

fn facts(cap: Cap) -> Value {
    json!({ "per_minute": cap.per_minute, "per_hour": cap.per_hour, "per_day": cap.per_day })
}

#[cfg(test)]
mod tests;
