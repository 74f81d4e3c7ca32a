//! The log of deliveries, and sending once more.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
    payload::Json,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{one, parse};
use crate::{
    api::{
        State,
        auth::{Allowed, Operator, Viewer},
        document::Tag,
        jobs::invalid,
        page::{self, List, Page},
        problem::{Code, Problem},
        sent::Sent,
        shell::RequestContext,
        typed::Typed,
    },
    store::{
        self, audit,
        delivery_log::{self, DeliveryRecord},
        event_log::{self, EventFilter},
        failed,
    },
};

/// What a delivery can be.
pub const STATES: [&str; 3] = ["pending", "delivered", "failed"];
/// Events of one request, and how often it reads on to find them.
const MOST_AGAIN: i64 = 10_000;
const MOST_WINDOWS: usize = 50;

/// What became of an event for a subscription.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Delivery")]
pub struct DeliveryView {
    /// The event's position.
    pub position: i64,
    /// The header `webhook-id` of each attempt.
    pub webhook_id: String,
    #[serde(rename = "type")]
    pub event_type: String,
    pub subject: String,
    /// `pending`: it waits to be tried; `delivered`; `failed`: it was given up after three days.
    #[schemars(extend("enum" = STATES))]
    pub state: String,
    /// How often it was tried.
    pub attempts: i32,
    /// From when its three days count.
    pub first_at: DateTime<Utc>,
    /// When it was last tried.
    pub last_at: Option<DateTime<Utc>>,
    /// When it is tried next; null of a pending one: as soon as those before it of its subject are through.
    pub next_at: Option<DateTime<Utc>>,
    /// What the endpoint answered last; null: nothing.
    pub last_status: Option<i16>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// How long the last attempt took, in milliseconds.
    pub last_millis: Option<i32>,
}

impl From<DeliveryRecord> for DeliveryView {
    fn from(record: DeliveryRecord) -> Self {
        Self {
            webhook_id: format!("evt_{}", record.position),
            position: record.position,
            event_type: record.event_type,
            subject: record.subject,
            state: record.state,
            attempts: record.attempts,
            first_at: record.first_at,
            last_at: record.last_at,
            next_at: record.next_at,
            last_status: record.last_status,
            last_error: record.last_error,
            last_millis: record.last_millis,
        }
    }
}

/// Which events are sent once more.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RedeliverRequest")]
pub struct RedeliverBody {
    /// The first event's position.
    #[schemars(range(min = 1), example = 4711)]
    from: i64,
    /// The last one's; left out: only `from`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    to: Option<i64>,
}

/// What is sent once more.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Redelivered")]
pub struct RedeliverView {
    /// How many events.
    pub count: i64,
    /// The position of the last of them.
    pub last: Option<i64>,
    /// The rest of the range begins here: pass it as `from` to go on. Null: all of it was looked at. A request takes up to 10,000
    /// events, out of up to 1,000,000 positions.
    pub next: Option<i64>,
}

pub struct DeliveriesApi;

#[OpenApi]
impl DeliveriesApi {
    /// List deliveries
    ///
    /// Lists what became of a subscription's events, the newest event first, for the last 7 days. Scope: viewer.
    #[oai(
        path = "/v1/subscriptions/:id/deliveries",
        method = "get",
        operation_id = "list_deliveries",
        tag = "Tag::Events"
    )]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// The subscription's id.
        id: Path<String>,
        /// Only those in this state: `pending`, `delivered` or `failed`.
        #[oai(name = "state")]
        in_state: Query<Option<String>>,
        /// Most deliveries of the page.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Typed<Page<DeliveryView>>>, Problem> {
        let id = parse(&id)?;
        one(&state, id).await?;
        if in_state.as_deref().is_some_and(|name| !STATES.contains(&name)) {
            let detail = format!("state takes one of {}.", STATES.join(", "));
            return Err(Problem::new(Code::InvalidParameter, detail).field("state"));
        }
        let limit = page::limit(limit.as_deref())?;
        let before: Option<i64> = page::decode(List::Deliveries, cursor.as_deref())?;
        let mut conn = store::connection(&state.pool, "delivery_page").await?;
        let rows = delivery_log::page(&mut conn, id, in_state.as_deref(), before, i64::from(limit) + 1).await?;
        let (rows, next_cursor) = page::cut(rows, limit, List::Deliveries, |row| row.position.to_string());
        let items = rows.into_iter().map(DeliveryView::from).collect();
        Ok(Json(Typed(Page { items, next_cursor })))
    }

    /// Send events once more
    ///
    /// Has an event, or a range of them, sent again under the ids they had: those that fit the subscription, are kept, and are
    /// not waiting anyhow, as far as the subscription has come. A long range takes several requests: each answers with where the
    /// next one begins. Events of a subject that come meanwhile wait behind them. Scope: operator.
    #[oai(
        path = "/v1/subscriptions/:id/redeliver",
        method = "post",
        operation_id = "redeliver",
        tag = "Tag::Events"
    )]
    async fn redeliver(
        &self,
        caller: Allowed<Operator>,
        state: Data<&Arc<State>>,
        context: Data<&RequestContext>,
        /// The subscription's id.
        id: Path<String>,
        body: Sent<RedeliverBody>,
    ) -> Result<Json<Typed<RedeliverView>>, Problem> {
        let id = parse(&id)?;
        let body = body.read()?;
        let to = body.to.unwrap_or(body.from);
        if body.from < 1 {
            return Err(invalid("from", "must be the position of an event."));
        }
        if to < body.from {
            return Err(invalid("to", "must not be less than from."));
        }
        let subscription = one(&state, id).await?;
        let extent = event_log::extent(&state.pool).await?;
        if to < extent.oldest {
            let detail = format!(
                "Events up to {} were deleted by age, and all up to {to} with them: they cannot be sent any more.",
                extent.oldest - 1
            );
            return Err(Problem::new(Code::EventsExpired, detail).field("to"));
        }
        let range = (body.from.max(extent.oldest), to);
        let filter = EventFilter::new(&subscription.types, &subscription.subjects);
        let mut transaction = state.pool.begin().await.map_err(failed("begin_redelivery"))?;
        let again = delivery_log::redeliver(&mut transaction, id, &filter, range, MOST_AGAIN, MOST_WINDOWS).await?;
        let entry = audit::Entry {
            actor: &caller.0.actor(),
            action: "subscription.redelivered",
            subject: &format!("subscription:{id}"),
            request_id: Some(context.id()),
            details: json!({ "from": body.from, "to": to, "count": again.count, "next": again.next }),
        };
        audit::record(&mut transaction, entry).await?;
        transaction.commit().await.map_err(failed("commit_redelivery"))?;
        Ok(Json(Typed(RedeliverView {
            count: again.count,
            last: again.last,
            next: again.next,
        })))
    }
}
