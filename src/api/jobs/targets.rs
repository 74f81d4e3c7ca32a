//! `GET /v1/jobs/{id}/targets`: what became of each chat of a job with several, while it runs and however it ends.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::Serialize;
use wireroom_jobs::publish::ports::Target;

use super::{job_id, not_found};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page::{self, List, Page},
        problem::Problem,
        typed::Typed,
    },
    store::{job_reads, publish_targets},
};

/// One chat of a job that publishes to several, or joins, leaves or checks several.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "PublishTarget")]
pub struct TargetView {
    /// Its place in `args.chats`, from 0.
    pub position: i32,
    /// The chat, once it was found.
    pub chat_id: Option<i64>,
    /// Of a publish `sent`, of a join as its result has it (`joined`, `left`, …), or a stable word for what kept it from being
    /// done; null while that is not decided.
    pub outcome: Option<String>,
    /// What happened, and what to do about it; null when it was done.
    pub error: Option<String>,
    /// The message, or the first of several.
    pub message_id: Option<i32>,
    /// All messages of an album or a forward.
    pub message_ids: Vec<i32>,
    /// Telegram's date of the message.
    pub date: Option<DateTime<Utc>>,
    /// It is tried again then: slow mode of the chat lets the message in, or trouble with it may be over.
    pub not_before: Option<DateTime<Utc>>,
    /// How often trouble ended its turn: a send that was not seen to end, or a look-up without an answer.
    pub tries: i32,
}

impl From<Target> for TargetView {
    fn from(target: Target) -> Self {
        let (outcome, error, sent) = target.decided.map_or((None, None, None), |decided| {
            (Some(decided.outcome), decided.error, decided.sent)
        });
        let message_ids = sent.iter().flat_map(|sent| {
            let first = (!sent.others.is_empty()).then_some(sent.message_id.abs());
            first.into_iter().chain(sent.others.iter().copied())
        });
        Self {
            position: target.position,
            chat_id: target.chat_id,
            message_ids: message_ids.collect(),
            message_id: sent.as_ref().map(|sent| sent.message_id.abs()),
            date: sent.as_ref().map(|sent| sent.date),
            not_before: target.not_before.filter(|_| outcome.is_none()),
            outcome,
            error,
            tries: target.tries,
        }
    }
}

pub struct TargetsApi;

#[OpenApi]
impl TargetsApi {
    /// List a job's chats
    ///
    /// Lists what became of each chat of a `publish` or `join` job with `args.chats`, by its place there: chats that it has not
    /// come to yet are left out. So it says how far a job came that was cancelled or failed, too. They are kept as long as
    /// finished jobs are. Scope: viewer.
    #[oai(
        path = "/v1/jobs/:id/targets",
        method = "get",
        operation_id = "list_publish_targets",
        tag = "Tag::Jobs"
    )]
    async fn targets(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The job's id.
        id: Path<String>,
        /// Only those with this outcome, such as `sent` or `write_forbidden`.
        outcome: Query<Option<String>>,
        /// Most chats of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<TargetView>>>, Problem> {
        let job = job_id(&id)?;
        let limit = page::limit(limit.as_deref())?;
        let after: Option<i32> = page::decode(List::Targets, cursor.as_deref())?;
        let after = after.unwrap_or(-1);
        let targets = publish_targets::page(&state.pool, job, outcome.as_deref(), after, i64::from(limit) + 1).await?;
        if targets.is_empty() && job_reads::get(&state.pool, job).await?.is_none() {
            return Err(not_found());
        }
        let (targets, next_cursor) = page::cut(targets, limit, List::Targets, |target| target.position.to_string());
        let items = targets.into_iter().map(TargetView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }
}
