use std::{collections::HashSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::bed::{Answer, Bed, EndpointBed, Received, all_delivered, settings};
use crate::{
    ids::SessionId,
    store::{
        delivery_log::{self, Redelivered},
        event_log::EventFilter,
        event_types::Subject,
        subscription_tests, subscriptions,
    },
};

const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECOND: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn subject() -> Subject {
    Subject::session(SessionId::generate())
}

/// HMAC-SHA256 by its definition, for a key that is not longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        let mut block = vec![byte; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// Whether one of the request's signatures is the one of that secret.
fn is_signed(received: &Received, secret: &str) -> bool {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").expect("a secret"))
        .expect("base64");
    let (id, time) = (&received.headers["webhook-id"], &received.headers["webhook-timestamp"]);
    let signature = STANDARD.encode(hmac(&key, format!("{id}.{time}.{}", received.body).as_bytes()));
    let mut signatures = received.headers["webhook-signature"].split(' ');
    signatures.any(|one| one == format!("v1,{signature}"))
}

#[tokio::test]
async fn events_come_signed_in_order_and_a_secret_is_rotated_with_an_overlap() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&format!("{}/hook", endpoint.url), &[]).await;
    let deliverer = bed.deliverer();
    let subject = subject();
    bed.raise(&[(&subject, 1), (&subject, 2)]).await;
    let received = endpoint.got(2).await;
    assert_eq!(received.iter().map(Received::number).collect::<Vec<_>>(), [1, 2]);
    let first = &received[0];
    assert_eq!(
        (first.path.as_str(), first.headers["webhook-id"].as_str()),
        ("/hook", "evt_1")
    );
    assert_eq!(first.headers["content-type"], "application/json");
    let event = first.event();
    assert_eq!(event["type"], "session.state_changed");
    assert_eq!(
        (&event["position"], &event["subject"]),
        (&json!(1), &json!(subject.as_str()))
    );
    assert!(is_signed(first, FIRST) && !is_signed(first, SECOND));
    let rows = bed.deliveries(id, all_delivered(2)).await;
    assert_eq!(
        (rows[0].attempts, rows[0].last_status, &rows[0].last_error),
        (1, Some(204), &None)
    );

    let mut conn = bed.pool().acquire().await.expect("a connection");
    let hour = Duration::from_hours(1);
    assert!(
        subscriptions::rotate(&mut conn, id, &bed.secret(id, SECOND), hour)
            .await
            .expect("rotated")
    );
    // Within a second of the change; what was sent before it has one signature.
    let mut sent = 2;
    let mut next = async || {
        sent += 1;
        bed.raise(&[(&subject, i64::try_from(sent).expect("few"))]).await;
        endpoint.got(sent).await.pop().expect("one")
    };
    let rotated = async {
        loop {
            let last = next().await;
            assert!(is_signed(&last, FIRST), "the old secret signs all the while");
            if is_signed(&last, SECOND) {
                break;
            }
        }
        bed.advance(3_601).await;
        // The overlap is measured when the secret is read.
        bed.execute("UPDATE subscriptions SET version = version + 1").await;
        loop {
            let last = next().await;
            assert!(is_signed(&last, SECOND));
            if !is_signed(&last, FIRST) {
                break;
            }
        }
    };
    tokio::time::timeout(super::bed::BOUND, rotated).await.expect("in time");
    deliverer.shutdown().await;
}

#[tokio::test]
async fn of_two_processes_one_delivers_and_the_other_goes_on_when_it_ends() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&endpoint.url, &["session.*"]).await;
    let (one, other) = (bed.deliverer(), bed.deliverer());
    let subjects: Vec<Subject> = (0..5).map(|_| subject()).collect();
    let events: Vec<(&Subject, i64)> = (0..100)
        .map(|n| (&subjects[n % 5], i64::try_from(n).expect("few")))
        .collect();
    bed.raise(&events).await;
    endpoint.got(100).await;
    one.shutdown().await;
    bed.raise(&[(&subjects[0], 100)]).await;
    endpoint.got(101).await;
    other.shutdown().await;
    let received = endpoint.received.borrow().clone();
    let ids: HashSet<&str> = received.iter().map(|one| one.headers["webhook-id"].as_str()).collect();
    assert_eq!((received.len(), ids.len()), (101, 101), "each once");
    for subject in &subjects {
        let of_it = received.iter().filter(|one| one.event()["subject"] == subject.as_str());
        assert!(of_it.map(Received::number).collect::<Vec<_>>().is_sorted());
    }
    assert_eq!(bed.deliveries(id, all_delivered(101)).await.len(), 101);
    assert_eq!(bed.subscription(id).await.position, 101);
}

#[tokio::test]
async fn an_endpoint_that_hangs_delays_no_other() {
    let (bed, hanging, well) = (Bed::new().await, EndpointBed::start().await, EndpointBed::start().await);
    hanging.answer(|_| Some(Answer::Never));
    let subject = subject();
    bed.subscribe(&hanging.url, &[]).await;
    bed.subscribe(&well.url, &[]).await;
    let deliverer = bed.deliverer();
    bed.raise(&[(&subject, 1)]).await;
    hanging.got(1).await;
    // All of it while the other's first attempt hangs.
    for number in 2..20 {
        bed.raise(&[(&subject, number)]).await;
        well.got(usize::try_from(number).expect("few")).await;
    }
    assert_eq!(
        hanging.received.borrow().len(),
        1,
        "the order of a subject holds there, too"
    );
    drop(deliverer);
}

#[tokio::test]
async fn what_was_delivered_and_not_noted_comes_again_under_the_same_id() {
    let (mut bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    bed.config.timeout = Duration::from_mins(1);
    let id = bed.subscribe(&endpoint.url, &[]).await;
    endpoint.answer(|received| (received.number() == 2).then_some(Answer::Never));
    let subjects = [subject(), subject()];
    let killed = bed.deliverer();
    bed.raise(&[(&subjects[0], 1), (&subjects[1], 2)]).await;
    endpoint.got(2).await;
    bed.deliveries(id, |rows| rows.len() == 1).await;
    // As after SIGKILL: nothing is let go, and the lease runs out.
    killed.abort();
    endpoint.answer(|_| Some(Answer::Status(200)));
    bed.advance(300).await;
    let next = bed.deliverer();
    let received = endpoint.got(3).await;
    let ids: Vec<&str> = received.iter().map(|one| one.headers["webhook-id"].as_str()).collect();
    assert_eq!(
        (ids[1], ids[2]),
        ("evt_2", "evt_2"),
        "{ids:?}: what was noted does not come again"
    );
    bed.deliveries(id, all_delivered(2)).await;
    next.shutdown().await;
}

#[tokio::test]
async fn a_range_is_delivered_once_more_and_a_test_at_any_time() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&endpoint.url, &[]).await;
    let deliverer = bed.deliverer();
    let subjects = [subject(), subject()];
    let events: Vec<(&Subject, i64)> = (1..=6).map(|n| (&subjects[usize::from(n > 3)], n)).collect();
    bed.raise(&events).await;
    bed.deliveries(id, all_delivered(6)).await;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let again = delivery_log::redeliver(&mut conn, id, &EventFilter::default(), (2, 4), 100, 1).await;
    let expected = Redelivered {
        count: 3,
        last: Some(4),
        next: None,
    };
    assert_eq!(again.expect("asked"), expected);
    let received = endpoint.got(9).await;
    let mut ids: Vec<&str> = received[6..]
        .iter()
        .map(|one| one.headers["webhook-id"].as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["evt_2", "evt_3", "evt_4"]);
    bed.deliveries(id, all_delivered(6)).await;

    let mut off = settings(&endpoint.url, &[]);
    off.enabled = false;
    subscriptions::update(&mut conn, id, &off).await.expect("changed");
    let test = uuid::Uuid::now_v7();
    subscription_tests::ask(&mut conn, test, id).await.expect("asked");
    let sent = endpoint.got(10).await.pop().expect("one");
    assert_eq!(sent.event()["type"], "subscription.test");
    assert!(is_signed(&sent, FIRST));
    deliverer.shutdown().await;
    let outcome = subscription_tests::outcome(bed.pool(), test)
        .await
        .expect("read")
        .expect("done");
    assert_eq!((outcome.status, outcome.error), (Some(204), None));
}
