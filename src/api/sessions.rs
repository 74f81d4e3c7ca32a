//! `GET /v1/sessions`; [`session_health`](super::session_health) has more of each.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Query, payload::Json};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Viewer},
    document::Tag,
    page::{self, List, Page},
    problem::{Code, Problem},
    typed::Typed,
};
use crate::{
    ids::{SessionId, WorkerId},
    store::session_reads::{self, GateRecord, SessionFilter, SessionRecord},
};

/// The states a session can be in.
pub const STATES: [&str; 11] = [
    "new",
    "code_needed",
    "password_needed",
    "ready",
    "limited",
    "degraded",
    "logged_out",
    "banned",
    "frozen",
    "quarantined",
    "disabled",
];

/// A Telegram session, without its secrets.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct SessionView {
    pub id: Uuid,
    pub label: String,
    pub pool: String,
    /// `ready` runs jobs; the other states say why not.
    #[schemars(extend("enum" = STATES))]
    pub state: String,
    pub state_reason: Option<String>,
    pub state_since: DateTime<Utc>,
    /// Telegram's user id of the account; set at login.
    pub account_id: Option<i64>,
    /// Without `@`.
    pub username: Option<String>,
    pub is_bot: bool,
    pub home_dc: i32,
    pub slots: SlotsView,
    /// When a call to Telegram last came back: connected is not healthy, this is.
    pub last_call_at: Option<DateTime<Utc>>,
    /// The worker that holds it now.
    pub worker: Option<Uuid>,
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// What it is connected through; null: nothing, it connects directly.
    pub proxy: Option<ProxyView>,
    /// What it may not do for now.
    pub gates: Vec<GateView>,
    pub created_at: DateTime<Utc>,
}

/// How many jobs of each lane a session runs at a time.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Slots")]
pub struct SlotsView {
    pub interactive: i32,
    pub bulk: i32,
    pub watch: i32,
}

/// A session's SOCKS5 proxy, without its user name and password.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Proxy")]
pub struct ProxyView {
    #[schemars(example = &"proxy.example.com")]
    pub host: String,
    pub port: i32,
    /// It is given a user name and a password.
    pub has_credentials: bool,
}

/// A closed gate: something the session may not do until then.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Gate")]
pub struct GateView {
    #[schemars(example = &"send")]
    pub action: String,
    /// The one chat it is closed for; null: all.
    pub chat_id: Option<i64>,
    pub reason: String,
    pub closed_at: DateTime<Utc>,
    pub opens_at: DateTime<Utc>,
}

impl From<GateRecord> for GateView {
    fn from(gate: GateRecord) -> Self {
        Self {
            action: gate.action,
            chat_id: (gate.chat_id != 0).then_some(gate.chat_id),
            reason: gate.reason,
            closed_at: gate.closed_at,
            opens_at: gate.opens_at,
        }
    }
}

impl SessionView {
    fn of(session: SessionRecord, gates: Vec<GateView>) -> Self {
        Self {
            id: session.id.0,
            label: session.label,
            pool: session.pool,
            state: session.state,
            state_reason: session.state_reason,
            state_since: session.state_since,
            account_id: session.account_id,
            username: session.username,
            is_bot: session.is_bot,
            home_dc: session.home_dc,
            slots: SlotsView {
                interactive: session.interactive_slots,
                bulk: session.bulk_slots,
                watch: session.watch_slots,
            },
            last_call_at: session.last_call_at,
            worker: session.worker.map(|id| id.0),
            lease_expires_at: session.lease_expires_at,
            proxy: session
                .proxy_host
                .zip(session.proxy_port)
                .map(|(host, port)| ProxyView {
                    host,
                    port,
                    has_credentials: session.proxy_has_credentials.unwrap_or_default(),
                }),
            gates,
            created_at: session.created_at,
        }
    }
}

pub struct SessionsApi;

#[OpenApi]
impl SessionsApi {
    /// List sessions
    ///
    /// Lists sessions by id: who holds them, how they are, and what they may not do for now. Scope: viewer.
    #[oai(
        path = "/v1/sessions",
        method = "get",
        operation_id = "list_sessions",
        tag = "Tag::Sessions"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per parameter of the query")]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only the session of this label.
        label: Query<Option<String>>,
        /// Only sessions of this pool.
        pool: Query<Option<String>>,
        /// Only sessions in this state.
        #[oai(name = "state")]
        in_state: Query<Option<String>>,
        /// Only sessions that the worker of this id holds now.
        worker: Query<Option<String>>,
        /// Most sessions of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<SessionView>>>, Problem> {
        if in_state.as_deref().is_some_and(|state| !STATES.contains(&state)) {
            let detail = format!("state takes one of {}.", STATES.join(", "));
            return Err(Problem::new(Code::InvalidParameter, detail).field("state"));
        }
        let filter = SessionFilter {
            label: label.as_deref(),
            pool: pool.as_deref(),
            state: in_state.as_deref(),
            worker: worker.as_deref().map(worker_id).transpose()?,
        };
        let limit = page::limit(limit.as_deref())?;
        let after: Option<SessionId> = page::decode(List::Sessions, cursor.as_deref())?;
        let sessions = session_reads::list(&state.pool, &filter, after, i64::from(limit) + 1).await?;
        let (sessions, next_cursor) = page::cut(sessions, limit, List::Sessions, |session| session.id.to_string());
        let items = with_gates(&state, sessions).await?;
        Ok(Json(Typed(Page { items, next_cursor })))
    }
}

fn worker_id(text: &str) -> Result<WorkerId, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "A worker's id is a UUID.").field("worker"))
}

/// The session of that id, with its gates.
pub async fn one(state: &State, id: SessionId) -> Result<Option<SessionView>, Problem> {
    let session = session_reads::get(&state.pool, id).await?;
    Ok(with_gates(state, session.into_iter().collect()).await?.pop())
}

async fn with_gates(state: &State, sessions: Vec<SessionRecord>) -> Result<Vec<SessionView>, Problem> {
    let ids: Vec<SessionId> = sessions.iter().map(|session| session.id).collect();
    let mut gates: HashMap<SessionId, Vec<GateView>> = HashMap::new();
    for gate in session_reads::closed_gates(&state.pool, &ids).await? {
        gates.entry(gate.session_id).or_default().push(gate.into());
    }
    Ok(sessions
        .into_iter()
        .map(|session| {
            let gates = gates.remove(&session.id).unwrap_or_default();
            SessionView::of(session, gates)
        })
        .collect())
}
