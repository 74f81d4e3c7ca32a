//! Consumers: readers with a name. What one has done with is what it acknowledges; reading marks nothing.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{OpenApi, param::Path, payload::Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::filter;
use crate::{
    api::{
        State,
        auth::{Allowed, Operator, Viewer},
        document::Tag,
        jobs::body,
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        audit,
        event_consumers::{self, ConsumerRecord},
        event_log::{self, Extent},
        failed,
    },
};

const LONGEST_NAME: usize = 100;

/// What a consumer reads.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConsumerRequest")]
pub struct ConsumerBody {
    /// Types of events, `session.*` or `session.access_lost`; none: every type. Ends of jobs are events while a consumer or
    /// a subscription names `job.*` or one of its types, and not otherwise.
    #[serde(default)]
    #[schemars(length(max = 50), example = json!(["session.*", "schedule.missed"]))]
    types: Vec<String>,
    /// Where a new consumer begins: after this position; 0: at the oldest event that is kept; null: at the next one. One that
    /// is there stays where it is.
    #[serde(default)]
    #[schemars(range(min = 0))]
    after: Option<i64>,
}

/// A consumer and how far it is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Consumer")]
pub struct ConsumerView {
    pub name: String,
    /// None: every type.
    pub types: Vec<String>,
    /// The last event that it has acknowledged.
    pub position: i64,
    /// How many events there are after it, of whatever type.
    pub lag: i64,
    /// Events after its position were deleted by age before it acknowledged them.
    pub has_missed: bool,
    pub created_at: DateTime<Utc>,
    /// When it last acknowledged something.
    pub acked_at: Option<DateTime<Utc>>,
}

impl ConsumerView {
    fn of(record: ConsumerRecord, extent: Extent) -> Self {
        Self {
            lag: (extent.head - record.position).max(0),
            has_missed: record.position < extent.oldest - 1,
            name: record.name,
            types: record.types,
            position: record.position,
            created_at: record.created_at,
            acked_at: record.acked_at,
        }
    }
}

/// The consumers there are.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Consumers")]
pub struct ConsumersView {
    pub items: Vec<ConsumerView>,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "AckRequest")]
pub struct AckBody {
    /// Its name. One that is not there is refused, unless `create` says otherwise: a misspelt name would leave the consumer that
    /// was meant where it is.
    #[schemars(length(min = 1, max = 100), example = &"billing")]
    consumer: String,
    /// It has done with every event up to this one.
    #[schemars(range(min = 0), example = 4711)]
    position: i64,
    /// Goes back to `position`, to read events again. Otherwise an acknowledgement that comes late changes nothing.
    #[serde(default)]
    back: bool,
    /// Makes a consumer of every type when there is none of that name.
    #[serde(default)]
    create: bool,
}

/// Where a consumer is now.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Acked")]
pub struct AckView {
    pub consumer: String,
    pub position: i64,
}

pub struct ConsumersApi;

#[OpenApi]
impl ConsumersApi {
    /// Acknowledge events
    ///
    /// Says that a consumer has done with every event up to a position: `GET /v1/events?consumer=` goes on after it. It never
    /// goes back unless `back` says so. A name that no consumer has is refused (`consumer_not_found`), unless `create` says
    /// otherwise. Scope: operator.
    #[oai(
        path = "/v1/events/ack",
        method = "post",
        operation_id = "ack_events",
        tag = "Tag::Events"
    )]
    async fn ack(
        &self,
        _caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        body: Sent<AckBody>,
    ) -> Result<Json<Typed<AckView>>, Problem> {
        let body = body.read()?;
        check_name("consumer", &body.consumer)?;
        let extent = event_log::extent(&state.pool).await?;
        let position = place("position", body.position, extent)?;
        let mut conn = state.pool.acquire().await.map_err(failed("ack_events"))?;
        let position = if body.create {
            event_consumers::ack_or_make(&mut conn, &body.consumer, position, body.back).await?
        } else {
            let acked = event_consumers::ack(&mut conn, &body.consumer, position, body.back).await?;
            acked.ok_or_else(not_found)?
        };
        Ok(Json(Typed(AckView {
            consumer: body.consumer,
            position,
        })))
    }

    /// List consumers
    ///
    /// Lists the consumers of events with how far each is behind. Scope: viewer.
    #[oai(
        path = "/v1/events/consumers",
        method = "get",
        operation_id = "list_consumers",
        tag = "Tag::Events"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
    ) -> Result<Json<Typed<ConsumersView>>, Problem> {
        Ok(Json(Typed(listed(&state).await?)))
    }

    /// Make or change a consumer
    ///
    /// Makes a consumer of events, or changes which types one reads. Scope: operator.
    #[oai(
        path = "/v1/events/consumers/:name",
        method = "put",
        operation_id = "put_consumer",
        tag = "Tag::Events"
    )]
    async fn put(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// Its name, up to 100 characters.
        name: Path<String>,
        body: Sent<ConsumerBody>,
    ) -> Result<Json<Typed<ConsumerView>>, Problem> {
        let body = body.read()?;
        check_name("name", &name)?;
        filter::known_types(&body.types).map_err(|message| body::invalid("types", message))?;
        let extent = event_log::extent(&state.pool).await?;
        let position = place("after", body.after.unwrap_or(extent.head), extent)?;
        let mut transaction = state.pool.begin().await.map_err(failed("begin_consumer"))?;
        event_consumers::put(&mut transaction, &name, &body.types, position).await?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "consumer.put",
            subject: &format!("consumer:{}", name.0),
            request_id: Some(context.id()),
            details: json!({ "types": body.types }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_consumer"))?;
        let consumer = event_consumers::get(&state.pool, &name).await?.ok_or_else(not_found)?;
        Ok(Json(Typed(ConsumerView::of(consumer, extent))))
    }

    /// Delete a consumer
    ///
    /// Forgets how far a consumer is, and answers with those that are left. Scope: operator.
    #[oai(
        path = "/v1/events/consumers/:name",
        method = "delete",
        operation_id = "delete_consumer",
        tag = "Tag::Events"
    )]
    async fn delete(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// Its name.
        name: Path<String>,
    ) -> Result<Json<Typed<ConsumersView>>, Problem> {
        let mut transaction = state.pool.begin().await.map_err(failed("begin_consumer"))?;
        if !event_consumers::delete(&mut transaction, &name).await? {
            return Err(not_found());
        }
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "consumer.deleted",
            subject: &format!("consumer:{}", name.0),
            request_id: Some(context.id()),
            details: json!({}),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_consumer"))?;
        Ok(Json(Typed(listed(&state).await?)))
    }
}

async fn listed(state: &State) -> Result<ConsumersView, Problem> {
    let consumers = event_consumers::list(&state.pool).await?;
    // Later than the consumers: none is ahead of it.
    let extent = event_log::extent(&state.pool).await?;
    let items = consumers
        .into_iter()
        .map(|consumer| ConsumerView::of(consumer, extent))
        .collect();
    Ok(ConsumersView { items })
}

pub(super) fn not_found() -> Problem {
    let detail = "Look for its name in GET /v1/events/consumers; a new one is made with PUT /v1/events/consumers/{name}, or by an \
                  acknowledgement with \"create\": true.";
    Problem::new(Code::ConsumerNotFound, detail).field("consumer")
}

/// The types that a consumer reads.
pub(super) async fn types_of(state: &State, name: &str) -> Result<Vec<String>, Problem> {
    let consumer = event_consumers::get(&state.pool, name).await?.ok_or_else(not_found)?;
    Ok(consumer.types)
}

fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_good) {
        return Err(body::invalid(
            field,
            format!("must be 1 to {LONGEST_NAME} letters, digits, dots, dashes and underscores."),
        ));
    }
    Ok(())
}

/// The place that a position names; 0 is before the oldest event that is kept.
fn place(field: &str, position: i64, extent: Extent) -> Result<i64, Problem> {
    if !(0..=extent.head).contains(&position) {
        return Err(body::invalid(
            field,
            format!("must be from 0 to {}, the newest event's position.", extent.head),
        ));
    }
    Ok(if position == 0 { extent.oldest - 1 } else { position })
}
