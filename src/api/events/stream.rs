//! `GET /v1/events/stream`: the same events as server-sent events. A stream keeps a place and reads page by page as the client
//! takes them: a slow client costs one page of memory and, between two pages, no connection; one that takes nothing is given
//! up.

use std::{fmt::Write as _, io, sync::Arc};

use poem::{Body, IntoResponse, Response, http::header, web::Data};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Query},
    payload::Payload,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    filter::{self, Otherwise, Start},
    view::StoredEvent,
};
use crate::{
    api::{
        State,
        auth::{Allowed, Viewer},
        document::Tag,
        follow::Followers,
        jobs::Pace,
        problem::Problem,
        typed::Typed,
    },
    store::{
        self, PgPool, StoreError,
        event_log::{self, EventFilter},
    },
};

/// Events of one chunk.
const EVENTS: i64 = 500;

/// Says what a client waits before it connects again, in milliseconds.
const OPENING: &str = "retry: 2000\n\n";

/// The stream's response.
struct Events(Response);

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Events {
    fn meta() -> MetaResponses {
        let content = MetaMediaType {
            content_type: "text/event-stream",
            schema: <poem_openapi::payload::Json<Typed<StoredEvent>> as Payload>::schema_ref(),
        };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The events, each with its type as its name, its position as its id, and itself as JSON.",
                status: Some(200),
                status_range: None,
                content: vec![content],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        <poem_openapi::payload::Json<Typed<StoredEvent>> as Payload>::register(registry);
    }
}

pub struct EventStreamApi;

#[OpenApi]
impl EventStreamApi {
    /// Stream events
    ///
    /// Streams events as they happen, in order, as server-sent events. A client that comes back with the last id in
    /// `Last-Event-ID` misses none, as far as events are kept. Without a word about it, it begins with the next event. A
    /// comment comes every 15 s when nothing else does, with the place so far as its id; after 10 minutes without an event,
    /// and after an hour in any case, the stream ends and the client connects again. Scope: viewer.
    #[oai(
        path = "/v1/events/stream",
        method = "get",
        operation_id = "stream_events",
        tag = "Tag::Events"
    )]
    #[expect(clippy::too_many_arguments, reason = "one per filter")]
    async fn stream(
        &self,
        _caller: Allowed<Viewer>,
        state: Data<&Arc<State>>,
        /// Only events of these types, separated by commas: `session.*,job.failed`.
        #[oai(name = "type")]
        types: Query<Option<String>>,
        /// Only events of this subject, such as `session:<id>`.
        subject: Query<Option<String>>,
        /// Begin after this position; 0: at the oldest event.
        after: Query<Option<String>>,
        /// Begin after the position that this consumer acknowledged, with its types unless `type` names others.
        consumer: Query<Option<String>>,
        /// The id of the last event the client has seen: begin after it, whatever the query says.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<String>>,
    ) -> Result<Events, Problem> {
        let given = filter::filter(types.as_deref(), subject.as_deref())?;
        let last = last_event_id.as_deref().filter(|id| !id.is_empty());
        if let Some(last) = last {
            filter::position("Last-Event-ID", last)?;
        }
        let start = Start {
            after: last.or(after.as_deref()),
            since: None,
            // Its types hold all the same.
            consumer: consumer.as_deref().filter(|_| last.is_none()),
        };
        let given = match (&*consumer, last, &*types) {
            (Some(name), Some(_), None) => given.of_types(&super::consumers::types_of(&state, name).await?),
            _ => given,
        };
        let (place, filter) = filter::place(&state, &start, Otherwise::AtTheEnd, given, types.is_some()).await?;
        let telling = Telling {
            pool: state.pool.clone(),
            followers: Arc::clone(&state.followers),
            logged: state.signals.logged_events(),
            filter,
            place,
            pace: state.pace,
        };
        let body = open(telling, state.followers.seat()?);
        let response = Response::builder()
            .content_type("text/event-stream")
            .header(header::CACHE_CONTROL, "no-store")
            // A proxy that collects a response before it passes it on would hold every event back.
            .header("X-Accel-Buffering", "no")
            .body(body);
        Ok(Events(response))
    }
}

/// One stream.
pub(super) struct Telling {
    pub pool: PgPool,
    pub followers: Arc<Followers>,
    pub logged: watch::Receiver<i64>,
    pub filter: EventFilter,
    pub place: i64,
    pub pace: Pace,
}

/// Starts the stream; it ends when the returned body is dropped, too.
pub(super) fn open(telling: Telling, seat: OwnedSemaphorePermit) -> Body {
    // One chunk on its way and one waiting, however many events there are.
    let (out, chunks) = mpsc::channel(1);
    tokio::spawn(async move {
        let _seat = seat;
        telling.run(out).await;
    });
    Body::from_bytes_stream(ReceiverStream::new(chunks).map(Ok::<_, io::Error>))
}

/// Why a stream ends before its time.
enum Stop {
    /// The client has gone, or takes nothing.
    ClientGone,
    /// Events after its place were deleted by age before the client took them. It hears of that when it connects again.
    Expired,
    Store(StoreError),
}

impl Telling {
    async fn run(mut self, out: mpsc::Sender<String>) {
        if let Err(Stop::Store(error)) = self.tell_all(&out).await {
            // The client connects again and misses nothing.
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::debug!(error, "a stream of events broke off");
        }
    }

    async fn tell_all(&mut self, out: &mpsc::Sender<String>) -> Result<(), Stop> {
        let mut age = Box::pin(tokio::time::sleep(self.pace.age));
        let over = self.followers.closing();
        let mut logged = self.logged.clone();
        let mut quiet = 0;
        self.send(out, OPENING.to_owned()).await?;
        loop {
            if self.tell_news(out).await? {
                quiet = 0;
            }
            let place = self.place;
            let news = async { logged.wait_for(|position| *position > place).await.is_ok() };
            tokio::select! {
                told = news => {
                    if !told {
                        return Ok(());
                    }
                }
                () = &mut age => return Ok(()),
                () = over.cancelled() => return Ok(()),
                () = out.closed() => return Err(Stop::ClientGone),
                () = tokio::time::sleep(self.pace.keep_alive) => {
                    quiet += 1;
                    if quiet >= self.pace.quiet_keep_alives {
                        return Ok(());
                    }
                    // Without data it is no event, but the client takes the id: it need not read the same again.
                    self.send(out, format!("id: {}\n: keep-alive\n\n", self.place)).await?;
                }
            }
        }
    }

    /// Tells everything up to the end of the log; `true`: there was something.
    async fn tell_news(&mut self, out: &mpsc::Sender<String>) -> Result<bool, Stop> {
        let mut extent = event_log::extent(&self.pool).await.map_err(Stop::Store)?;
        let mut told = false;
        while self.place < extent.head {
            let batch = {
                let mut conn = store::connection(&self.pool, "read_events")
                    .await
                    .map_err(Stop::Store)?;
                let read = event_log::read(&mut conn, &self.filter, self.place, extent.head, EVENTS);
                read.await.map_err(Stop::Store)?
            };
            // After the read: a day that was dropped before it is not passed over in silence.
            extent = event_log::extent(&self.pool).await.map_err(Stop::Store)?;
            if self.place < extent.oldest - 1 {
                return Err(Stop::Expired);
            }
            let mut chunk = String::new();
            for event in batch.events {
                add(&mut chunk, &event.into());
            }
            if !chunk.is_empty() {
                told = true;
                self.send(out, chunk).await?;
            }
            self.place = batch.position;
        }
        Ok(told)
    }

    async fn send(&self, out: &mpsc::Sender<String>, chunk: String) -> Result<(), Stop> {
        out.send_timeout(chunk, self.pace.patience)
            .await
            .map_err(|_| Stop::ClientGone)
    }
}

/// Writes an event. JSON has no line breaks of its own, so one `data` line holds it.
fn add(chunk: &mut String, event: &StoredEvent) {
    // The types of the API have string keys only, and numbers that JSON knows: they always serialize. A string takes
    // whatever is written.
    let data = serde_json::to_string(event).unwrap_or_default();
    let _ = writeln!(
        chunk,
        "event: {}\nid: {}\ndata: {data}\n",
        event.event_type, event.position
    );
}
