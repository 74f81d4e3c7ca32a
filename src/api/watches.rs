//! `GET /v1/watches` and what may be done with one: which chats are watched, by which session, how far, and how whole.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    State,
    auth::{Allowed, Operator, Viewer},
    document::Tag,
    jobs::{stop_job, watching_session},
    page::{self, List, Page},
    problem::{Code, Problem},
    sent::Sent,
    shell::RequestContext,
    typed::Typed,
};
use crate::{
    ids::{JobId, SessionId},
    store::{
        audit, failed,
        watch_moves::{self, Switched},
        watch_reads::{self, WatchFilter, WatchRecord},
    },
};

/// What a watch can be.
pub const STATES: [&str; 3] = ["active", "stopped", "exhausted"];

/// A chat that is watched, or was.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Watch")]
pub struct WatchView {
    /// The monitor job's id.
    pub id: Uuid,
    /// In the Bot API's form; null for the private messages of the session's account.
    pub chat_id: Option<i64>,
    /// As it was called when a session last looked.
    pub chat_title: Option<String>,
    /// The session whose updates are recorded.
    pub session: Uuid,
    #[schemars(extend("enum" = STATES))]
    pub state: String,
    /// A worker runs the job on that session now. What comes in meanwhile is recorded all the same, or read from the
    /// history later.
    pub running: bool,
    /// The session that goes on, when that is to be another one.
    pub next_session: Option<Uuid>,
    /// The history is being read; new messages are recorded after it.
    pub filling: bool,
    /// Why the session cannot see the chat any more: a stable word, or Telegram's name of the error.
    pub lost_reason: Option<String>,
    pub events: Vec<String>,
    #[schemars(with = "wireroom_jobs::monitor::MessageFilter")]
    pub filter: Value,
    pub retention_days: i32,
    /// The newest message that is accounted for, by Telegram's number; 0 when there was none yet.
    pub last_message_id: i32,
    /// When a message came that was recorded last; null before the first.
    pub last_message_at: Option<DateTime<Utc>>,
    pub completeness: Completeness,
    pub started_at: DateTime<Utc>,
    pub stopped_at: Option<DateTime<Utc>>,
}

/// What a watch has seen against what there was.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Completeness {
    /// New messages that were seen, whether or not the filter takes them.
    pub seen: i64,
    /// How many of them were read from the history after a break, and not as they came.
    pub from_history: i64,
    /// Of the newest messages that exist, how many were looked for among those that were seen: when the history was read, and
    /// each hour, at most 100 at a time.
    pub checked: i64,
    /// How many of those were not seen.
    pub missed: i64,
    /// The share of those that were seen; 1 before anything was looked for.
    pub share: f64,
}

/// Which session is to go on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WatchSwitch")]
pub struct SwitchBody {
    /// The session's id or label. It has to be a member of the chat.
    #[schemars(length(min = 1, max = 100), example = &"second")]
    session: String,
}

#[derive(ApiResponse)]
enum SwitchReply {
    /// The session has the watch already, or will have it as soon as a worker that holds it goes on.
    #[oai(status = 202)]
    Accepted(Json<Typed<WatchView>>),
}

impl From<WatchRecord> for WatchView {
    fn from(watch: WatchRecord) -> Self {
        Self {
            id: watch.id.0,
            chat_id: watch.chat_id,
            chat_title: watch.chat_title,
            session: watch.session.0,
            state: watch.state,
            running: watch.running,
            next_session: watch.next_session.map(|session| session.0),
            filling: watch.filling,
            lost_reason: watch.lost_reason,
            events: watch.events,
            filter: watch.filter,
            retention_days: watch.retention_days,
            last_message_id: watch.last_message_id,
            last_message_at: watch.last_message_at,
            completeness: Completeness {
                seen: watch.seen,
                from_history: watch.from_history,
                checked: watch.checked,
                missed: watch.missed,
                share: share(watch.checked, watch.missed),
            },
            started_at: watch.started_at,
            stopped_at: watch.stopped_at,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share to look at")]
fn share(checked: i64, missed: i64) -> f64 {
    if checked == 0 {
        return 1.0;
    }
    (checked - missed) as f64 / checked as f64
}

pub struct WatchesApi;

#[OpenApi]
impl WatchesApi {
    /// List watches
    ///
    /// Lists what monitor jobs watch, the latest first; what they saw is in the events. Scope: viewer.
    #[oai(
        path = "/v1/watches",
        method = "get",
        operation_id = "list_watches",
        tag = "Tag::Watches"
    )]
    #[expect(clippy::too_many_arguments, reason = "one for each parameter of the query")]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only those in this state: `active`, `stopped` or `exhausted`.
        #[oai(name = "state")]
        in_state: Query<Option<String>>,
        /// Only those of this session, by its id.
        session: Query<Option<String>>,
        /// Only those of this chat, by its id.
        chat: Query<Option<String>>,
        /// Most watches of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<WatchView>>>, Problem> {
        let filter = WatchFilter {
            state: state_of(in_state.as_deref())?,
            session: session.as_deref().map(session_id).transpose()?,
            chat_id: chat.as_deref().map(chat_id).transpose()?,
        };
        let limit = page::limit(limit.as_deref())?;
        let before: Option<JobId> = page::decode(List::Watches, cursor.as_deref())?;
        let watches = watch_reads::list(&state.pool, filter, before, i64::from(limit) + 1).await?;
        let (watches, next_cursor) = page::cut(watches, limit, List::Watches, |watch| watch.id.to_string());
        let items = watches.into_iter().map(WatchView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Look at a watch
    ///
    /// Scope: viewer.
    #[oai(
        path = "/v1/watches/:id",
        method = "get",
        operation_id = "get_watch",
        tag = "Tag::Watches"
    )]
    async fn get(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The monitor job's id.
        id: Path<String>,
    ) -> Result<Json<Typed<WatchView>>, Problem> {
        Ok(Json(Typed(view(state.0, watch_id(&id)?).await?)))
    }

    /// Stop a watch
    ///
    /// Nothing is recorded of the chat from the answer on. The job ends `cancelled`. A watch that has ended already is
    /// answered as it is. Scope: operator.
    #[oai(
        path = "/v1/watches/:id/stop",
        method = "post",
        operation_id = "stop_watch",
        tag = "Tag::Watches"
    )]
    async fn stop(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The monitor job's id.
        id: Path<String>,
    ) -> Result<Json<Typed<WatchView>>, Problem> {
        let (state, id) = (state.0, watch_id(&id)?);
        if watch_reads::get(&state.pool, id).await?.is_none() {
            return Err(not_found());
        }
        stop_job(state, &caller.0, context.0, id).await?;
        Ok(Json(Typed(view(state, id).await?)))
    }

    /// Switch a watch to another session
    ///
    /// The session goes on where the other one was: what lies between is read from the history, so nothing is missed and
    /// nothing is told twice. A watch of private messages goes to another session of the same account. Scope: operator.
    #[oai(
        path = "/v1/watches/:id/switch",
        method = "post",
        operation_id = "switch_watch",
        tag = "Tag::Watches"
    )]
    async fn switch(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The monitor job's id.
        id: Path<String>,
        body: Sent<SwitchBody>,
    ) -> Result<SwitchReply, Problem> {
        let (state, id) = (state.0, watch_id(&id)?);
        let to = body.read()?.session;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_switch_watch"))?;
        let target = watching_session(&mut transaction, &to).await?;
        let watch = watch_reads::get(&mut *transaction, id).await?;
        let is_of_another = |watch: &WatchRecord| watch.chat_id.is_none() && target.account_id != Some(watch.owner);
        if watch.as_ref().is_some_and(is_of_another) {
            let detail = "Private messages are seen by the sessions of their own account alone. Start a watch of the other \
                          account's.";
            return Err(Problem::new(Code::WatchNotSwitchable, detail));
        }
        let to = target.id;
        match watch_moves::switch(&mut transaction, id, to).await? {
            Switched::Unknown if watch.is_none() => return Err(not_found()),
            Switched::Unknown => {
                let detail = "The watch has ended. Start a new monitor job.";
                return Err(Problem::new(Code::WatchNotSwitchable, detail));
            }
            Switched::Already => {}
            Switched::Done { from, .. } => {
                let entry = audit::Entry {
                    actor: &caller.0.actor(),
                    action: "watch.switched",
                    subject: &format!("watch:{id}"),
                    request_id: Some(context.0.id()),
                    details: json!({ "from": from, "to": to }),
                };
                audit::record(&mut transaction, entry).await?;
            }
        }
        transaction.commit().await.map_err(failed("commit_switch_watch"))?;
        // The attempt that runs stops, and hands over; whoever holds the session looks for it.
        state.signals.cancelled(id);
        state.signals.changed();
        Ok(SwitchReply::Accepted(Json(Typed(view(state, id).await?))))
    }
}

async fn view(state: &State, id: JobId) -> Result<WatchView, Problem> {
    let watch = watch_reads::get(&state.pool, id).await?;
    watch.map(WatchView::from).ok_or_else(not_found)
}

fn not_found() -> Problem {
    let detail = "No watch has that id. A monitor job has one from its first attempt on.";
    Problem::new(Code::WatchNotFound, detail)
}

fn watch_id(id: &str) -> Result<JobId, Problem> {
    parse(id, "id", "A watch's id is its job's: a UUID.")
}

fn session_id(id: &str) -> Result<SessionId, Problem> {
    parse(id, "session", "A session's id is a UUID.")
}

fn chat_id(id: &str) -> Result<i64, Problem> {
    parse(id, "chat", "A chat's id is a number, negative for groups and channels.")
}

fn parse<T: std::str::FromStr>(text: &str, field: &str, detail: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, detail).field(field))
}

fn state_of(text: Option<&str>) -> Result<Option<&str>, Problem> {
    match text {
        Some(text) if !STATES.contains(&text) => {
            let detail = "state takes one of active, stopped, exhausted.";
            Err(Problem::new(Code::InvalidParameter, detail).field("state"))
        }
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests;
