//! `GET /v1/events`: what happened after a place, at once or as soon as something does.

use std::{sync::Arc, time::Duration};

use poem::{http::Method, web::Data};
use poem_openapi::{OpenApi, param::Query, payload::Json};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    filter::{self, Otherwise, Start},
    view::{EventPage, StoredEvent},
};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        page,
        prefer::MAX_WAIT_SECONDS,
        problem::{Code, Problem},
        typed::Typed,
    },
    store::{
        self,
        event_log::{self, Batch, EventFilter},
    },
};

const PATH: &str = "/v1/events";

/// Statements of one answer: each looks at a bounded number of events, so an answer may come back without any, and further on.
const LOOKS: usize = 25;

/// How long one who waits rests after a look that brought nothing, while events come that do not fit.
const REST: Duration = Duration::from_millis(20);

/// How long a request may wait, if it is one that may.
pub fn waits(method: &Method, path: &str) -> Option<Duration> {
    (method == Method::GET && path == PATH).then_some(Duration::from_secs(MAX_WAIT_SECONDS))
}

pub struct EventListApi;

#[OpenApi]
impl EventListApi {
    /// List events
    ///
    /// Answers with the events after a place, in order; nothing that commits late is ever behind it. Without `after`, `since`
    /// or `consumer` it begins at the oldest event that is kept. Reading marks nothing as done. With `wait`, it answers as
    /// soon as there is an event, or without one when the time is over. Texts of messages are in events: give keys to those
    /// who may read them. Scope: viewer.
    #[oai(
        path = "/v1/events",
        method = "get",
        operation_id = "list_events",
        tag = "Tag::Events"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per filter")]
    async fn list(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only events of these types, separated by commas: `session.*,job.failed`.
        #[oai(name = "type")]
        types: Query<Option<String>>,
        /// Only events of this subject, such as `session:<id>`.
        subject: Query<Option<String>>,
        /// Only events that were logged at this time (RFC 3339) or later.
        since: Query<Option<String>>,
        /// Only events after this position; 0: from the oldest on.
        after: Query<Option<String>>,
        /// Only events after the position that this consumer acknowledged, of its types unless `type` names others.
        consumer: Query<Option<String>>,
        /// Most events of the page.
        limit: Query<Option<String>>,
        /// Seconds to wait for an event, 0 to 60.
        wait: Query<Option<String>>,
    ) -> Result<Json<Typed<EventPage>>, Problem> {
        let given = filter::filter(types.as_deref(), subject.as_deref())?;
        let limit = i64::from(page::limit(limit.as_deref())?);
        let wait = seconds(wait.as_deref())?;
        let start = Start {
            after: after.as_deref(),
            since: since.as_deref(),
            consumer: consumer.as_deref(),
        };
        let (place, filter) = filter::place(&state, &start, Otherwise::AtTheOldest, given, types.is_some()).await?;
        let (batch, head) = if wait.is_zero() {
            look(&state, &filter, place, limit).await?
        } else {
            wait_for(&state, &filter, place, limit, wait).await?
        };
        Ok(Json(Typed(EventPage {
            items: batch.events.into_iter().map(StoredEvent::from).collect(),
            position: batch.position,
            head,
        })))
    }
}

fn seconds(text: Option<&str>) -> Result<Duration, Problem> {
    let Some(text) = text else { return Ok(Duration::ZERO) };
    text.parse()
        .ok()
        .filter(|seconds| (0..=MAX_WAIT_SECONDS).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            let detail = format!("wait takes whole seconds, 0 to {MAX_WAIT_SECONDS}.");
            Problem::new(Code::InvalidParameter, detail).field("wait")
        })
}

/// What there is after a place, and where the log ends.
async fn look(state: &State, filter: &EventFilter, after: i64, limit: i64) -> Result<(Batch, i64), Problem> {
    let head = event_log::extent(&state.pool).await?.head;
    let mut conn = store::connection(&state.pool, "read_events").await?;
    let mut batch = Batch {
        events: Vec::new(),
        position: after,
    };
    for _ in 0..LOOKS {
        batch = event_log::read(&mut conn, filter, batch.position, head, limit).await?;
        if !batch.events.is_empty() || batch.position >= head {
            break;
        }
    }
    Ok((batch, head))
}

async fn wait_for(
    state: &State,
    filter: &EventFilter,
    after: i64,
    limit: i64,
    wait: Duration,
) -> Result<(Batch, i64), Problem> {
    let _seat = state
        .waiters
        .seat_or("Try again, or leave wait out and look from time to time.")?;
    let until = Instant::now() + wait;
    let over = state.followers.closing();
    // Before the look, so that nothing falls between the two.
    let mut logged = state.signals.logged_events();
    let mut place = after;
    let mut rest = Duration::ZERO;
    loop {
        let (batch, head) = look(state, filter, place, limit).await?;
        if !batch.events.is_empty() || Instant::now() >= until || state.followers.is_over() {
            return Ok((batch, head));
        }
        if batch.position < head {
            // What fits may be among those that were not looked at.
            place = batch.position;
            continue;
        }
        place = batch.position;
        if !rest.is_zero() {
            sleep(rest).await;
        }
        rest = REST;
        let news = async {
            sleep(REST).await;
            logged.wait_for(|position| *position > head).await.is_ok()
        };
        tokio::select! {
            // The process ends: what is known is the answer.
            () = over.cancelled() => return Ok((batch, head)),
            told = timeout_at(until, news) => if !matches!(told, Ok(true)) {
                return Ok((batch, head));
            },
        }
    }
}
