//! `GET /v1/sessions/{id}/login/events`: a login as server-sent events, until it is over. A QR login above all, whose code is made
//! anew every half minute.

use std::{io, sync::Arc, time::Duration};

use poem::{Body, IntoResponse, Response, http::header, web::Data};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::Path,
    payload::{Json, Payload},
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{LoginView, session_id, steps::latest};
use crate::{
    api::{
        State,
        auth::{Admin, Allowed},
        document::Tag,
        problem::Problem,
        typed::Typed,
    },
    ids::ErrandId,
    store::{self, errands},
};

/// How often a followed login is looked at.
const LOOK: Duration = Duration::from_millis(250);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest life: whoever connects again shows a key that is still good.
const AGE: Duration = Duration::from_hours(1);

/// The stream.
struct Events(Response);

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Events {
    fn meta() -> MetaResponses {
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The events: `login`, and `final` when it is over; the data of both is the login.",
                status: Some(200),
                status_range: None,
                content: vec![MetaMediaType {
                    content_type: "text/event-stream",
                    schema: <Json<Typed<LoginView>> as Payload>::schema_ref(),
                }],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        <Json<Typed<LoginView>> as Payload>::register(registry);
    }
}

pub struct FollowLoginApi;

#[OpenApi]
impl FollowLoginApi {
    /// Follow a session's login
    ///
    /// Streams what the login waits for as server-sent events: `login` at first and at each change (a new QR code, a question for
    /// the password), `final` when it is over, and then the stream ends. A comment comes every 15 s when nothing else does.
    /// Scope: admin.
    #[oai(
        path = "/v1/sessions/:id/login/events",
        method = "get",
        operation_id = "follow_login",
        tag = "Tag::Sessions"
    )]
    async fn events(
        &self,
        _caller: Allowed<Admin>,
        state: Data<&Arc<State>>,
        /// The session's id.
        id: Path<String>,
    ) -> Result<Events, Problem> {
        let record = latest(&state, session_id(&id)?).await?;
        let seat = state.followers.seat()?;
        // One chunk on its way and one waiting.
        let (out, chunks) = mpsc::channel(1);
        tokio::spawn(tell(Arc::clone(&state), record.id, seat, out));
        let response = Response::builder()
            .content_type("text/event-stream")
            .header(header::CACHE_CONTROL, "no-store")
            // A proxy that collects a response before it passes it on would hold every event back.
            .header("X-Accel-Buffering", "no")
            .body(Body::from_bytes_stream(
                ReceiverStream::new(chunks).map(Ok::<String, io::Error>),
            ));
        Ok(Events(response))
    }
}

async fn tell(state: Arc<State>, errand: ErrandId, _seat: OwnedSemaphorePermit, out: mpsc::Sender<String>) {
    let begun = Instant::now();
    let mut told = None;
    let mut silent_since = begun;
    while begun.elapsed() < AGE && !state.followers.is_over() {
        let looked = async {
            let mut conn = store::connection(&state.pool, "read_errand").await?;
            errands::get(&mut conn, errand).await
        };
        let record = match looked.await {
            Ok(Some(record)) => record,
            // Its session was deleted.
            Ok(None) => return,
            Err(error) => {
                // The next look comes soon.
                tracing::debug!(%error, "a login that is followed could not be looked at");
                sleep(LOOK).await;
                continue;
            }
        };
        let over = record.state.is_final();
        let mark = (record.updated_at, record.asked, record.answered);
        let mut chunk = None;
        if told != Some(mark) {
            told = Some(mark);
            chunk = event(if over { "final" } else { "login" }, record);
        } else if silent_since.elapsed() >= KEEP_ALIVE {
            chunk = Some(": keep-alive\n\n".to_owned());
        }
        if let Some(chunk) = chunk {
            silent_since = Instant::now();
            if out.send_timeout(chunk, PATIENCE).await.is_err() {
                return;
            }
        }
        if over || timeout(LOOK, out.closed()).await.is_ok() {
            return;
        }
    }
}

fn event(name: &str, record: errands::ErrandRecord) -> Option<String> {
    let view = LoginView::of(record)
        .inspect_err(|problem| tracing::error!(%problem, "a login could not be shown"))
        .ok()?;
    // A struct of strings and numbers always serializes.
    let data = serde_json::to_string(&view).unwrap_or_default();
    Some(format!("event: {name}\ndata: {data}\n\n"))
}
