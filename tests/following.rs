//! Following a job over HTTP while a real worker runs it.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use wireroom::sandbox::{Effect, Fault};

use crate::support::stack::{JOB_BOUND, Stack};

/// Reads events as (name, id, data) until `enough` says so or the stream ends.
async fn read(
    mut response: Response,
    enough: impl Fn(&[(String, String, Value)]) -> bool,
) -> Vec<(String, String, Value)> {
    let (mut text, mut events) = (String::new(), Vec::new());
    while !enough(&events) {
        let chunk = tokio::time::timeout(JOB_BOUND, response.chunk())
            .await
            .expect("in time");
        let Some(chunk) = chunk.expect("the stream holds") else {
            break;
        };
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
        while let Some((block, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().to_owned()
            };
            let (name, id, data) = (field("event: "), field("id: "), field("data: "));
            if !name.is_empty() {
                events.push((name, id, serde_json::from_str(&data).expect("JSON")));
            }
            text = rest.to_owned();
        }
    }
    events
}

async fn follow(stack: &Stack, id: &str, last: Option<&str>) -> Response {
    let mut request = stack.request(Method::GET, &format!("/v1/jobs/{id}/events"));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = request.send().await.expect("answered");
    assert_eq!(response.status(), 200);
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_is_followed_over_a_cut_and_a_flood_to_its_result() {
    let stack = Stack::start().await;
    let _worker = stack.worker().await;
    stack.fault(Fault::once("channels.getParticipants", Effect::Delay { ms: 30 }).times(3));
    stack.fault(Fault::once("channels.getParticipants", Effect::flood_wait(6)));
    let args = json!({ "what": "members", "chat": "@harbour_market", "purpose": "a test of following" });
    let id = stack.post("scan", args).await;
    let is_page = |event: &&(String, String, Value)| event.2["code"] == "page_stored";
    let first = read(follow(&stack, &id, None).await, |events| {
        events.iter().any(|event| is_page(&event))
    })
    .await;
    let last = first
        .iter()
        .rev()
        .map(|event| event.1.as_str())
        .find(|id| !id.is_empty());
    let second = read(follow(&stack, &id, last).await, |_| false).await;
    let events = [first, second].concat();
    assert_eq!(
        events.iter().filter(is_page).count(),
        8,
        "1,250 people in pages of 200, and the head of the list again: {events:?}"
    );
    let codes: Vec<&str> = events.iter().filter_map(|event| event.2["code"].as_str()).collect();
    assert!(codes.contains(&"flood_met") && codes.contains(&"resumed"), "{codes:?}");
    let states: Vec<&str> = events
        .iter()
        .filter(|event| event.0 == "state")
        .filter_map(|event| event.2["state"].as_str())
        .collect();
    // A state that lasts for less than the time between two looks need not be seen; the snooze lasts for 6 s.
    assert!(states.contains(&"scheduled"), "{states:?}");
    let (name, end, data) = events.last().expect("events");
    assert_eq!((name.as_str(), &data["result"]["seen"]), ("final", &json!(1250)));
    let ids = events.iter().map(|event| &event.1).filter(|id| !id.is_empty());
    let places: Vec<(u64, u64)> = ids
        .map(|id| {
            let (stage, line) = id.split_once('-').expect("two parts");
            (stage.parse().unwrap_or(u64::MAX), line.parse().expect("a number"))
        })
        .collect();
    assert!(places.is_sorted_by(|a, b| a < b), "ids grow: {places:?}");
    let again = stack
        .request(Method::GET, &format!("/v1/jobs/{id}/events"))
        .header("Last-Event-ID", end)
        .send();
    assert_eq!(again.await.expect("answered").status(), 204);

    let attempts = stack.get(&format!("/v1/jobs/{id}/attempts")).await;
    let outcomes: Vec<&str> = attempts["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|attempt| attempt["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, ["succeeded", "snooze"]);
    stack.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_stops_does_not_wait_for_those_who_follow() {
    let mut stack = Stack::start().await;
    let id = stack.post("join", json!({ "chat": "@harbour_market" })).await;
    let stream = follow(&stack, &id, None).await;
    let first = tokio::spawn(read(stream, |_| false));
    let status = stack.stop_api(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    let events = tokio::time::timeout(JOB_BOUND, first)
        .await
        .expect("it ended")
        .expect("no panic");
    // Told to stop before its first look at the job, it has nothing to tell.
    assert!(events.len() <= 1, "no more than the state: {events:?}");
}
