use std::time::Duration;

use futures::StreamExt;
use poem::{
    Body, Response,
    http::{Method, StatusCode},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wireroom_jobs::{LogLevel, LogLine};

use super::{Pace, Place, stream};
use crate::{
    api::{
        JobSignals,
        follow::Followers,
        jobs::PACE,
        problem::Code,
        tests::bed::{TestApi, send},
    },
    ids::JobId,
    store::{attempt_data::AttemptKey, job_logs},
};

const BOUND: Duration = Duration::from_secs(20);

/// An event as a client reads it; a comment has the name `:`.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

/// A client's side of a stream.
struct Client {
    chunks: std::pin::Pin<Box<dyn futures::Stream<Item = Result<Vec<u8>, std::io::Error>> + Send>>,
    text: String,
}

impl Client {
    fn of(body: Body) -> Self {
        Self {
            chunks: Box::pin(body.into_bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()))),
            text: String::new(),
        }
    }

    /// The next event or comment; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if block.starts_with("retry: ") {
                    continue;
                }
                return Some(read(&block));
            }
            let chunk = tokio::time::timeout(BOUND, self.chunks.next())
                .await
                .expect("in time")?;
            self.text
                .push_str(&String::from_utf8(chunk.expect("a chunk")).expect("text"));
        }
    }

    /// All events to the end, which comes in time.
    async fn rest(mut self) -> Vec<Event> {
        let whole = async {
            let mut events = Vec::new();
            while let Some(event) = self.next().await {
                events.push(event);
            }
            events
        };
        tokio::time::timeout(BOUND, whole).await.expect("the stream ends")
    }
}

fn read(block: &str) -> Event {
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
    };
    Event {
        name: field("event: ").unwrap_or_else(|| ":".to_owned()),
        id: field("id: "),
        data: field("data: ").map_or(Value::Null, |data| serde_json::from_str(&data).expect("JSON")),
    }
}

async fn open(api: &TestApi, id: JobId, last: Option<&str>) -> Response {
    let mut request = api.request(Method::GET, &format!("/v1/jobs/{id}/events"));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    request.send().await.0
}

async fn follow(api: &TestApi, id: JobId, last: Option<&str>) -> Client {
    let response = open(api, id, last).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.content_type(), Some("text/event-stream"));
    Client::of(response.into_body())
}

/// The job runs, as a claim leaves it.
async fn claimed(api: &TestApi, id: JobId) -> AttemptKey {
    let fence = sqlx::query_scalar(
        "UPDATE jobs SET state = 'running', fence = fence + 1, attempt = attempt + 1, claimed_at = wireroom_now()
         WHERE id = $1 RETURNING fence",
    )
    .bind(id.0)
    .fetch_one(api.pool())
    .await
    .expect("claimed");
    AttemptKey { job: id, fence }
}

async fn went_back(api: &TestApi, id: JobId) {
    sqlx::query("UPDATE jobs SET state = 'queued' WHERE id = $1")
        .bind(id.0)
        .execute(api.pool())
        .await
        .expect("went back");
}

async fn say(api: &TestApi, attempt: AttemptKey, number: i64) {
    let mut conn = api.pool().acquire().await.expect("a connection");
    let line = LogLine::new("page_stored", "A page of the list is stored.").with("seen", number);
    job_logs::append(&mut conn, attempt, LogLevel::Info, &line)
        .await
        .expect("a line");
}

async fn progress(api: &TestApi, id: JobId, done: i64) {
    sqlx::query("UPDATE jobs SET progress = $2 WHERE id = $1")
        .bind(id.0)
        .bind(json!({ "done": done, "of": 10, "per_second": 1.0 }))
        .execute(api.pool())
        .await
        .expect("progress");
}

async fn finish(api: &TestApi, id: JobId) {
    api.finish(id).await;
    api.signals.finished(&[id]);
}

fn place(event: &Event) -> Place {
    Place::parse(event.id.as_deref().expect("an id")).expect("a place")
}

#[tokio::test]
async fn a_stream_tells_states_lines_progress_and_the_end_in_order() {
    let api = TestApi::new().await;
    let id = api.stored_job().await;
    let mut client = follow(&api, id, None).await;
    let queued = client.next().await.expect("a state");
    assert_eq!(
        (queued.name.as_str(), &queued.data["state"]),
        ("state", &json!("queued"))
    );
    let attempt = claimed(&api, id).await;
    say(&api, attempt, 5).await;
    let running = client.next().await.expect("a state");
    assert_eq!(running.data["state"], "running", "before the lines of the attempt");
    let line = client.next().await.expect("a line");
    assert_eq!(line.name, "log");
    assert_eq!(
        (
            &line.data["code"],
            &line.data["data"],
            &line.data["level"],
            &line.data["attempt"]
        ),
        (&json!("page_stored"), &json!({ "seen": 5 }), &json!("info"), &json!(1))
    );
    progress(&api, id, 5).await;
    let shown = client.next().await.expect("progress");
    assert_eq!((shown.name.as_str(), &shown.data["done"]), ("progress", &json!(5)));
    assert_eq!(
        shown.id, None,
        "only the latest progress counts: a client does not come back to it"
    );
    say(&api, attempt, 9).await;
    finish(&api, id).await;
    let rest = client.rest().await;
    let names: Vec<&str> = rest.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(
        names,
        ["log", "final"],
        "the stream ends after its final event: {rest:?}"
    );
    assert_eq!(rest[1].data["state"], "succeeded");
    assert_eq!(rest[1].data["result"], json!({ "status": "joined" }));
    let places = [&queued, &running, &line, &rest[0], &rest[1]].map(place);
    assert!(places.is_sorted_by(|a, b| a < b), "ids grow: {places:?}");
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed_and_nothing_twice() {
    let api = TestApi::new().await;
    let id = api.stored_job().await;
    let first = claimed(&api, id).await;
    for number in 1..=3 {
        say(&api, first, number).await;
    }
    let mut client = follow(&api, id, None).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(client.next().await.expect("an event"));
    }
    drop(client);
    let last = seen[2].id.clone();
    // Meanwhile the attempt says more, ends, and another one begins. More lines than are read at a time.
    for number in 4..=150 {
        say(&api, first, number).await;
    }
    went_back(&api, id).await;
    let second = claimed(&api, id).await;
    say(&api, second, 151).await;
    let mut client = follow(&api, id, last.as_deref()).await;
    let mut again = Vec::new();
    while again.len() < 150 {
        again.push(client.next().await.expect("an event"));
    }
    let numbers = |events: &[Event]| -> Vec<i64> {
        let lines = events.iter().filter(|event| event.name == "log");
        lines.filter_map(|event| event.data["data"]["seen"].as_i64()).collect()
    };
    seen.extend(again);
    assert_eq!(
        numbers(&seen),
        (1..=151).collect::<Vec<i64>>(),
        "each line once, in order"
    );
    let states: Vec<(usize, &Value)> = seen
        .iter()
        .enumerate()
        .filter(|(_, event)| event.name == "state")
        .map(|(index, event)| (index, &event.data["attempt"]))
        .collect();
    assert_eq!(
        states,
        [(0, &json!(1)), (151, &json!(2))],
        "the new attempt is told before its first line, the old one not again"
    );
    let places: Vec<Place> = seen.iter().map(place).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "ids grow over both connections");
}

#[tokio::test]
async fn a_finished_job_gives_its_final_event_and_whoever_has_it_need_not_come_back() {
    let api = TestApi::new().await;
    let id = api.stored_job().await;
    let attempt = claimed(&api, id).await;
    say(&api, attempt, 1).await;
    api.finish(id).await;
    let events = follow(&api, id, None).await.rest().await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["log", "final"]);
    let missed = follow(&api, id, events[0].id.as_deref()).await.rest().await;
    assert_eq!(missed, events[1..]);
    let response = open(&api, id, events[1].id.as_deref()).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let api = TestApi::new().await;
    let id = api.stored_job().await;
    let events = format!("/v1/jobs/{id}/events");
    api.get(&format!("/v1/jobs/{}/events", JobId::generate()))
        .await
        .problem("job_not_found");
    api.get("/v1/jobs/7/events").await.problem("invalid_parameter");
    for wrong in ["7", "x-1", "end", "end-0"] {
        let request = api.request(Method::GET, &events).header("Last-Event-ID", wrong);
        let answer = tokio::time::timeout(BOUND, send(request))
            .await
            .expect("refused, not streamed");
        assert_eq!(answer.problem("invalid_parameter")["field"], "Last-Event-ID");
    }
    send(api.bare(Method::GET, &events)).await.problem("unauthorized");
}

#[tokio::test]
async fn streams_are_bounded_and_a_place_is_free_when_a_client_goes() {
    let api = TestApi::with(|config| config.api.max_streams = 1).await;
    let id = api.stored_job().await;
    let mut first = follow(&api, id, None).await;
    first.next().await.expect("an event");
    let refused = api.get(&format!("/v1/jobs/{id}/events")).await;
    refused.problem("too_many_streams");
    assert_eq!(refused.header("retry-after"), "1");
    drop(first);
    let freed = async {
        while open(&api, id, None).await.status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, freed)
        .await
        .expect("the place is free again");
}

#[tokio::test]
async fn streams_hold_no_connection_read_or_not() {
    let api = TestApi::new().await;
    let mut streams = Vec::new();
    let mut ids = Vec::new();
    // More than the pool has connections.
    for _ in 0..40 {
        let id = api.stored_job().await;
        let attempt = claimed(&api, id).await;
        say(&api, attempt, 1).await;
        streams.push(follow(&api, id, None).await);
        ids.push(id);
    }
    for id in &ids {
        assert_eq!(api.get(&format!("/v1/jobs/{id}")).await.status, StatusCode::OK);
        finish(&api, *id).await;
    }
    for stream in streams {
        assert_eq!(
            stream.rest().await.last().map(|event| event.name.clone()),
            Some("final".to_owned())
        );
    }
}

/// Followers of their own, with other times than usual.
struct Own {
    followers: std::sync::Arc<Followers>,
    shutdown: CancellationToken,
}

impl Own {
    fn start(api: &TestApi) -> Self {
        let followers = Followers::polling(1, Duration::from_millis(20));
        let shutdown = CancellationToken::new();
        tokio::spawn(followers.clone().run(
            api.pool().clone(),
            api.signals.clone() as std::sync::Arc<dyn JobSignals>,
            shutdown.clone(),
        ));
        Self { followers, shutdown }
    }

    fn open(&self, api: &TestApi, id: JobId, pace: Pace) -> Body {
        let following = self.followers.follow(id).unwrap_or_else(|problem| panic!("{problem}"));
        stream::open(api.pool().clone(), following, Place::START, pace)
    }

    async fn until_free(&self, id: JobId) {
        let freed = async {
            while self.followers.follow(id).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(BOUND, freed).await.expect("its place is free");
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_ends_after_a_while() {
    let api = TestApi::new().await;
    let own = Own::start(&api);
    let id = api.stored_job().await;
    let pace = Pace {
        keep_alive: Duration::from_millis(50),
        quiet_keep_alives: 3,
        ..PACE
    };
    let events = Client::of(own.open(&api, id, pace)).rest().await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["state", ":", ":"]);
    own.until_free(id).await;
}

#[tokio::test]
async fn no_stream_is_older_than_its_age() {
    let api = TestApi::new().await;
    let own = Own::start(&api);
    let id = api.stored_job().await;
    // Long enough for the first look.
    let age = Duration::from_secs(3);
    let events = Client::of(own.open(&api, id, Pace { age, ..PACE })).rest().await;
    assert_eq!(events.len(), 1, "{events:?}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up_and_keeps_no_place() {
    let api = TestApi::new().await;
    let own = Own::start(&api);
    let id = api.stored_job().await;
    let attempt = claimed(&api, id).await;
    // Three pages: one chunk fits into the channel, the next one waits for the client.
    for number in 0..300 {
        say(&api, attempt, number).await;
    }
    let pace = Pace {
        patience: Duration::from_millis(200),
        ..PACE
    };
    let body = own.open(&api, id, pace);
    own.until_free(id).await;
    let events = Client::of(body).rest().await;
    assert!(
        events.len() <= 101,
        "it was not collected for the client: {}",
        events.len()
    );
}

#[tokio::test]
async fn streams_end_when_the_process_does() {
    let api = TestApi::new().await;
    let own = Own::start(&api);
    let id = api.stored_job().await;
    let mut client = Client::of(own.open(&api, id, PACE));
    client.next().await.expect("a state");
    own.shutdown.cancel();
    assert_eq!(client.next().await, None);
    let refused = own.followers.follow(id).err().map(|problem| problem.code());
    assert_eq!(refused, Some(Code::TooManyStreams));
}

#[tokio::test]
async fn nobody_is_listened_for_when_nobody_follows() {
    let api = TestApi::new().await;
    let id = api.stored_job().await;
    let mut client = follow(&api, id, None).await;
    client.next().await.expect("a state");
    let listening = || api.signals.finished.receiver_count();
    assert!(listening() > 0);
    drop(client);
    let unheard = async {
        while listening() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, unheard)
        .await
        .expect("the watch is given up");
}
