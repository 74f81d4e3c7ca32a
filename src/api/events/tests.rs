use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use poem::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::{
        jobs::PACE,
        tests::bed::{Answer, TestApi, send},
    },
    ids::SessionId,
    store::{
        event_log::EventFilter,
        event_types::{EventType, Subject},
        outbox::{self, NewEvent},
    },
};

const BOUND: Duration = Duration::from_secs(20);

/// Writes an event, moves it to the log, and lets the API hear of it.
async fn raise(api: &TestApi, event_type: EventType, subject: &Subject, number: i64) -> i64 {
    let event = NewEvent {
        event_type,
        subject: subject.clone(),
        data: json!({ "number": number }),
    };
    let mut conn = api.pool().acquire().await.expect("a connection");
    outbox::append(&mut conn, &[event]).await.expect("appended");
    let sequenced = outbox::sequence(&mut conn, 100).await.expect("sequenced");
    assert_eq!(sequenced.moved, 1);
    api.signals.logged.send_replace(sequenced.position);
    sequenced.position
}

fn session() -> Subject {
    Subject::session(SessionId::generate())
}

fn numbers(page: &Value) -> Vec<i64> {
    let items = page["items"].as_array().expect("items").iter();
    items.filter_map(|event| event["data"]["number"].as_i64()).collect()
}

async fn post(api: &TestApi, path: &str, body: &Value) -> Answer {
    send(api.request(Method::POST, path).body_json(body)).await
}

#[tokio::test]
async fn events_are_read_by_type_subject_and_place() {
    let api = TestApi::new().await;
    let (one, other) = (session(), session());
    raise(&api, EventType::SessionStateChanged, &one, 1).await;
    raise(&api, EventType::SessionAccessLost, &one, 2).await;
    raise(&api, EventType::BatchFinished, &other, 3).await;
    let page = api.get("/v1/events").await.json();
    assert_eq!(numbers(&page), [1, 2, 3]);
    assert_eq!((&page["position"], &page["head"]), (&json!(3), &json!(3)));
    let first = &page["items"][0];
    assert_eq!(first["type"], "session.state_changed");
    assert_eq!((&first["position"], &first["version"]), (&json!(1), &json!(1)));
    assert_eq!(first["subject"], one.as_str());

    for (query, expected) in [
        ("type=session.*", vec![1, 2]),
        ("type=session.access_lost,batch.*", vec![2, 3]),
        (&format!("subject={one}"), vec![1, 2]),
        (&format!("subject={one}&type=batch.*"), vec![]),
        ("after=2", vec![3]),
        ("after=0&limit=2", vec![1, 2]),
        ("since=2020-01-01T00:00:00Z", vec![1, 2, 3]),
        ("since=2999-01-01T00:00:00Z", vec![]),
    ] {
        let page = api.get(&format!("/v1/events?{query}")).await.json();
        assert_eq!(numbers(&page), expected, "{query}");
        let position = if query.contains("limit") { 2 } else { 3 };
        assert_eq!(page["position"], position, "{query}");
    }
    for (query, code) in [
        ("type=sessions.*", "invalid_parameter"),
        ("subject=nobody", "invalid_parameter"),
        ("after=-1", "invalid_parameter"),
        ("after=1&since=2020-01-01T00:00:00Z", "invalid_parameter"),
        ("wait=61", "invalid_parameter"),
        ("after=4", "event_position_unknown"),
        ("consumer=nobody", "consumer_not_found"),
    ] {
        api.get(&format!("/v1/events?{query}")).await.problem(code);
    }
}

#[tokio::test]
async fn a_place_before_the_oldest_event_is_refused_and_not_passed_over() {
    let api = TestApi::new().await;
    for number in 1..=3 {
        raise(&api, EventType::SessionStateChanged, &session(), number).await;
    }
    post(
        &api,
        "/v1/events/ack",
        &json!({ "consumer": "late", "position": 1, "create": true }),
    )
    .await;
    post(
        &api,
        "/v1/events/ack",
        &json!({ "consumer": "never", "position": 0, "create": true }),
    )
    .await;
    api.execute("DELETE FROM event_log WHERE position < 3").await;
    api.execute("UPDATE event_days SET first_position = 3").await;
    let problem = api.get("/v1/events?after=1").await.problem("events_expired");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("after=2")),
        "{problem}"
    );
    for consumer in ["late", "never"] {
        api.get(&format!("/v1/events?consumer={consumer}"))
            .await
            .problem("events_expired");
    }
    post(
        &api,
        "/v1/events/ack",
        &json!({ "consumer": "new", "position": 0, "create": true }),
    )
    .await;
    assert_eq!(
        numbers(&api.get("/v1/events?consumer=new").await.json()),
        [3],
        "0 is the oldest there is"
    );
    for good in ["", "?after=0", "?after=2"] {
        assert_eq!(
            numbers(&api.get(&format!("/v1/events{good}")).await.json()),
            [3],
            "{good}"
        );
    }
    let consumers = api.get("/v1/events/consumers").await.json();
    let missed: Vec<&Value> = consumers["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["has_missed"])
        .collect();
    assert_eq!(missed, [true, true, false], "late, never, new: {consumers}");
}

#[tokio::test]
async fn a_consumer_goes_on_from_what_it_acknowledged() {
    let api = TestApi::new().await;
    let subject = session();
    for number in 1..=3 {
        raise(&api, EventType::SessionStateChanged, &subject, number).await;
    }
    raise(&api, EventType::BatchFinished, &subject, 4).await;
    let made = api.request(Method::PUT, "/v1/events/consumers/crm");
    let made = send(made.body_json(&json!({ "types": ["session.*"], "after": 0 }))).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let read = || api.get("/v1/events?consumer=crm&limit=2");
    assert_eq!(numbers(&read().await.json()), [1, 2]);
    assert_eq!(numbers(&read().await.json()), [1, 2], "reading marks nothing");
    let ack = |position: i64, back: bool| {
        let body = json!({ "consumer": "crm", "position": position, "back": back });
        let api = &api;
        async move { post(api, "/v1/events/ack", &body).await.json()["position"].clone() }
    };
    assert_eq!(ack(2, false).await, 2);
    assert_eq!(numbers(&read().await.json()), [3], "of its types alone");
    assert_eq!(ack(1, false).await, 2, "one that comes late changes nothing");
    let listed = api.get("/v1/events/consumers").await.json();
    assert_eq!(listed["items"][0]["lag"], 2);
    assert_eq!(ack(0, true).await, 0);
    assert_eq!(numbers(&read().await.json()), [1, 2]);

    let wrong = json!({ "consumer": "crm", "position": 5 });
    post(&api, "/v1/events/ack", &wrong).await.problem("invalid_value");
    let wrong = json!({ "consumer": "c r m", "position": 1 });
    post(&api, "/v1/events/ack", &wrong).await.problem("invalid_value");
    let misspelt = json!({ "consumer": "crn", "position": 2 });
    let problem = post(&api, "/v1/events/ack", &misspelt)
        .await
        .problem("consumer_not_found");
    assert_eq!(problem["field"], "consumer");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(
        detail.contains("PUT /v1/events/consumers/") && detail.contains("create"),
        "{detail}"
    );
    assert_eq!(api.count("event_consumers").await, 1, "none is made of a misspelt name");
    let made = json!({ "consumer": "crn", "position": 2, "create": true });
    assert_eq!(post(&api, "/v1/events/ack", &made).await.json()["position"], 2);
    assert_eq!(
        post(&api, "/v1/events/ack", &misspelt).await.json()["position"],
        2,
        "it is there now"
    );
    send(api.request(Method::DELETE, "/v1/events/consumers/crn")).await;
    let wrong = api.request(Method::PUT, "/v1/events/consumers/x");
    send(wrong.body_json(&json!({ "types": ["walks.*"] })))
        .await
        .problem("invalid_value");
    let gone = send(api.request(Method::DELETE, "/v1/events/consumers/crm")).await;
    assert_eq!(gone.json()["items"], json!([]));
    api.get("/v1/events?consumer=crm").await.problem("consumer_not_found");
    assert_eq!(api.count("audit_log WHERE action LIKE 'consumer.%'").await, 3);
}

#[tokio::test]
async fn one_who_waits_is_answered_by_the_first_event_that_fits() {
    let api = TestApi::new().await;
    let subject = session();
    raise(&api, EventType::SessionStateChanged, &subject, 1).await;
    let waiting = api.get("/v1/events?after=1&type=batch.*&wait=30");
    let events = async {
        // Somebody waits.
        while api.signals.logged.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        raise(&api, EventType::SessionStateChanged, &subject, 2).await;
        raise(&api, EventType::BatchFinished, &subject, 3).await;
    };
    let (answer, ()) = tokio::time::timeout(BOUND, async { tokio::join!(waiting, events) })
        .await
        .expect("before the time is over");
    assert_eq!(numbers(&answer.json()), [3]);
    let nothing = api.get("/v1/events?after=3&wait=1").await.json();
    assert_eq!((numbers(&nothing).len(), &nothing["position"]), (0, &json!(3)));
}

/// Events of a stream as (id, name, number); a comment has the name `:`.
struct Client {
    chunks: std::pin::Pin<Box<dyn futures::Stream<Item = Vec<u8>> + Send>>,
    text: String,
}

impl Client {
    fn of(body: poem::Body) -> Self {
        Self {
            chunks: Box::pin(body.into_bytes_stream().map(|chunk| chunk.expect("a chunk").to_vec())),
            text: String::new(),
        }
    }

    async fn open(api: &TestApi, query: &str, last: Option<&str>) -> Self {
        let mut request = api.request(Method::GET, &format!("/v1/events/stream{query}"));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.0;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.content_type(), Some("text/event-stream"));
        Self::of(response.into_body())
    }

    async fn next(&mut self) -> Option<(i64, String, Option<i64>)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if block.starts_with("retry: ") {
                    continue;
                }
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let data: Option<Value> = field("data: ").map(|data| serde_json::from_str(data).expect("JSON"));
                return Some((
                    field("id: ").and_then(|id| id.parse().ok()).expect("an id"),
                    field("event: ").unwrap_or(":").to_owned(),
                    data.and_then(|event| event["data"]["number"].as_i64()),
                ));
            }
            let chunk = tokio::time::timeout(BOUND, self.chunks.next())
                .await
                .expect("in time")?;
            self.text.push_str(&String::from_utf8(chunk).expect("text"));
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_that_was_seen() {
    let api = TestApi::new().await;
    let subject = session();
    raise(&api, EventType::SessionStateChanged, &subject, 1).await;
    let mut client = Client::open(&api, "", None).await;
    raise(&api, EventType::SessionStateChanged, &subject, 2).await;
    let (id, name, number) = client.next().await.expect("an event");
    assert_eq!(
        (id, name.as_str(), number),
        (2, "session.state_changed", Some(2)),
        "it begins with the next"
    );
    drop(client);
    raise(&api, EventType::BatchFinished, &subject, 3).await;
    raise(&api, EventType::SessionAccessLost, &subject, 4).await;
    let mut client = Client::open(&api, "?type=session.*&after=0", Some("2")).await;
    assert_eq!(
        client.next().await.map(|event| event.2),
        Some(Some(4)),
        "what was missed, as far as it fits"
    );
    raise(&api, EventType::SessionStateChanged, &subject, 5).await;
    assert_eq!(client.next().await.map(|event| (event.0, event.2)), Some((5, Some(5))));
    let mut all = Client::open(&api, "?after=0", None).await;
    for number in 1..=5 {
        assert_eq!(all.next().await.map(|event| event.2), Some(Some(number)));
    }
    let wrong = api
        .request(Method::GET, "/v1/events/stream")
        .header("Last-Event-ID", "x");
    send(wrong).await.problem("invalid_parameter");
}

#[tokio::test]
async fn a_quiet_stream_tells_its_place_and_ends_and_one_seat_is_one_stream() {
    let api = TestApi::with(|config| config.api.max_streams = 1).await;
    raise(&api, EventType::BatchFinished, &session(), 1).await;
    let state = api.state();
    let seat = state.followers.seat().expect("the only seat");
    send(api.request(Method::GET, "/v1/events/stream"))
        .await
        .problem("too_many_streams");
    let telling = super::stream::Telling {
        pool: api.pool().clone(),
        followers: Arc::clone(&state.followers),
        logged: api.signals.logged.subscribe(),
        filter: EventFilter::new(&["session.*".to_owned()], &[]),
        place: 0,
        pace: crate::api::jobs::Pace {
            keep_alive: Duration::from_millis(5),
            quiet_keep_alives: 3,
            ..PACE
        },
    };
    let mut client = Client::of(super::stream::open(telling, seat));
    for _ in 0..2 {
        assert_eq!(
            client.next().await,
            Some((1, ":".to_owned(), None)),
            "past what does not fit"
        );
    }
    assert_eq!(client.next().await, None, "nobody listens to nothing for ever");
    let seats = async {
        while state.followers.seat().is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, seats)
        .await
        .expect("the seat is given back");
}

#[tokio::test]
async fn a_stream_that_was_overtaken_by_the_deletion_by_age_ends_and_passes_nothing_over() {
    let api = TestApi::new().await;
    for number in 1..=3 {
        raise(&api, EventType::SessionStateChanged, &session(), number).await;
    }
    let state = api.state();
    let telling = |place| super::stream::Telling {
        pool: api.pool().clone(),
        followers: Arc::clone(&state.followers),
        logged: api.signals.logged.subscribe(),
        filter: EventFilter::default(),
        place,
        pace: PACE,
    };
    // As when a client took its time, and the day of its place was dropped meanwhile.
    api.execute("DELETE FROM event_log WHERE position < 3").await;
    api.execute("UPDATE event_days SET first_position = 3").await;
    for (place, expected) in [(2, Some(Some(3))), (1, None)] {
        let seat = state.followers.seat().expect("a seat");
        let mut client = Client::of(super::stream::open(telling(place), seat));
        assert_eq!(client.next().await.map(|event| event.2), expected, "from {place}");
    }
}
