use std::time::Duration;

use super::bed::{Answer, Bed, EndpointBed, Received, all_delivered, settings};
use crate::{
    ids::SessionId,
    store::{
        event_log::{self, EventFilter},
        event_types::Subject,
        outbox, subscriptions,
    },
};

fn subject() -> Subject {
    Subject::session(SessionId::generate())
}

fn numbers(received: &[Received]) -> Vec<i64> {
    received.iter().map(Received::number).collect()
}

#[tokio::test]
async fn an_event_that_fails_holds_its_subject_back_and_no_other() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&endpoint.url, &[]).await;
    endpoint.answer(|received| (received.number() == 1).then_some(Answer::Status(500)));
    let (bad, good) = (subject(), subject());
    let deliverer = bed.deliverer();
    bed.raise(&[(&bad, 1), (&bad, 2), (&good, 3), (&bad, 4), (&good, 5)])
        .await;
    let received = endpoint.got(3).await;
    assert!(numbers(&received).contains(&1));
    let rows = bed
        .deliveries(id, |rows| {
            rows.len() == 5 && rows.iter().filter(|row| row.state == "pending").count() == 3
        })
        .await;
    assert_eq!((rows[0].attempts, rows[0].last_status), (1, Some(500)));
    let waits = rows[0].next_at.expect("a time") - rows[0].last_at.expect("a time");
    assert!((4..=5).contains(&waits.num_seconds()), "{waits}");
    assert_eq!(rows[1].attempts, 0, "behind it");
    assert_eq!(bed.subscription(id).await.position, 5, "the others go on");
    // Still the same, half a minute after the next attempt.
    bed.advance(6).await;
    let rows = bed.deliveries(id, |rows| rows[0].attempts == 2).await;
    let waits = rows[0].next_at.expect("a time") - rows[0].last_at.expect("a time");
    assert!((24..=30).contains(&waits.num_seconds()), "{waits}");
    endpoint.answer(|_| Some(Answer::Status(200)));
    bed.raise(&[(&bad, 6)]).await;
    bed.advance(40).await;
    bed.deliveries(id, all_delivered(6)).await;
    let of_it: Vec<i64> = endpoint
        .received
        .borrow()
        .iter()
        .filter(|one| one.event()["subject"] == bad.as_str())
        .map(Received::number)
        .collect();
    assert_eq!(of_it, [1, 1, 1, 2, 4, 6], "in order, whatever failed");
    deliverer.shutdown().await;
}

#[tokio::test]
async fn an_event_is_given_up_after_three_days_and_its_subject_goes_on() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&endpoint.url, &[]).await;
    endpoint.answer(|received| (received.number() == 1).then_some(Answer::Status(500)));
    let subject = subject();
    let deliverer = bed.deliverer();
    bed.raise(&[(&subject, 1), (&subject, 2)]).await;
    bed.deliveries(id, |rows| rows.len() == 2 && rows[0].attempts == 1)
        .await;
    bed.execute("UPDATE deliveries SET first_at = first_at - interval '71 hours 59 minutes'")
        .await;
    bed.advance(6).await;
    let rows = bed.deliveries(id, |rows| rows[0].attempts == 2).await;
    assert_eq!(rows[0].state, "pending", "not before the time is over");
    bed.execute(
        "UPDATE deliveries SET first_at = first_at - interval '1 minute', next_at = wireroom_now() WHERE position = 1",
    )
    .await;
    let rows = bed
        .deliveries(id, |rows| rows[0].state == "failed" && rows[1].state == "delivered")
        .await;
    assert_eq!(rows[0].attempts, 3);
    assert_eq!(bed.subscription(id).await.failures, 0);
    deliverer.shutdown().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_too_often_is_left_alone_then_tried_with_one() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&endpoint.url, &[]).await;
    endpoint.answer(|_| Some(Answer::Status(503)));
    let subjects: Vec<Subject> = (0..40).map(|_| subject()).collect();
    let events: Vec<(&Subject, i64)> = subjects.iter().zip(1..).collect();
    let deliverer = bed.deliverer();
    bed.raise(&events).await;
    bed.deliveries(id, |rows| rows.len() >= 10).await;
    // At most what was on its way when the tenth failed.
    let open = bed.subscription(id).await;
    assert!(open.open_until.is_some() && open.failures >= 10, "{open:?}");
    let tried = endpoint.received.borrow().len();
    assert!((10..=17).contains(&tried), "{tried}");
    bed.advance(11).await;
    endpoint.got(tried + 1).await;
    let probed = bed.deliveries(id, |rows| {
        rows.iter().map(|row| row.attempts).sum::<i32>() > i32::try_from(tried).unwrap_or(0)
    });
    probed.await;
    assert_eq!(endpoint.received.borrow().len(), tried + 1, "one, which failed");
    assert!(bed.subscription(id).await.open_until.is_some(), "and it rests again");
    endpoint.answer(|_| Some(Answer::Status(200)));
    bed.advance(60).await;
    bed.deliveries(id, all_delivered(40)).await;
    let well = bed.subscription(id).await;
    assert_eq!((well.failures, well.open_until, well.failing_since), (0, None, None));
    deliverer.shutdown().await;
}

#[tokio::test]
async fn a_subscription_whose_endpoint_fails_for_days_or_is_gone_is_switched_off_with_a_notice() {
    let (bed, failing, gone) = (Bed::new().await, EndpointBed::start().await, EndpointBed::start().await);
    failing.answer(|_| Some(Answer::Status(500)));
    gone.answer(|_| Some(Answer::Status(410)));
    let (one, other) = (
        bed.subscribe(&failing.url, &[]).await,
        bed.subscribe(&gone.url, &[]).await,
    );
    let deliverer = bed.deliverer();
    bed.raise(&[(&subject(), 1)]).await;
    bed.deliveries(one, |rows| rows.len() == 1).await;
    bed.execute("UPDATE subscription_progress SET failing_since = failing_since - interval '3 days'")
        .await;
    bed.advance(6).await;
    let off = async |id| {
        loop {
            let subscription = bed.subscription(id).await;
            if !subscription.enabled {
                return subscription.disabled_reason;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let both = async { (off(one).await, off(other).await) };
    let reasons = tokio::time::timeout(super::bed::BOUND, both).await.expect("in time");
    assert_eq!(reasons, (Some("failing".to_owned()), Some("gone".to_owned())));
    let mut conn = bed.pool().acquire().await.expect("a connection");
    outbox::sequence(&mut conn, 100).await.expect("sequenced");
    let filter = EventFilter::new(&["subscription.disabled".to_owned()], &[]);
    let told = event_log::read(&mut conn, &filter, 0, 10, 10)
        .await
        .expect("read")
        .events;
    assert_eq!(told.len(), 2);
    assert!(
        told.iter()
            .any(|event| event.subject == format!("subscription:{one}") && event.data["reason"] == "failing")
    );

    let before = failing.received.borrow().len();
    failing.answer(|_| Some(Answer::Status(200)));
    subscriptions::update(&mut conn, one, &settings(&failing.url, &[]))
        .await
        .expect("enabled");
    let received = failing.got(before + 1).await;
    assert_eq!(
        received.last().expect("one").headers["webhook-id"],
        "evt_1",
        "it goes on where it was"
    );
    deliverer.shutdown().await;
}

#[tokio::test]
async fn webhooks_go_to_public_addresses_alone_and_follow_no_redirect() {
    let (mut bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    endpoint.answer(|received| (received.path == "/hook").then(|| Answer::Redirect("/elsewhere".to_owned())));
    let id = bed.subscribe(&format!("{}/hook", endpoint.url), &[]).await;
    let subject = subject();
    let deliverer = bed.deliverer();
    bed.raise(&[(&subject, 1)]).await;
    let rows = bed.deliveries(id, |rows| rows.len() == 1).await;
    assert_eq!(rows[0].last_status, Some(302));
    assert!(
        rows[0]
            .last_error
            .as_deref()
            .is_some_and(|error| error.contains("redirects are not followed"))
    );
    deliverer.shutdown().await;
    let received = endpoint.received.borrow().len();

    bed.config.allow_private = false;
    let port = endpoint.url.rsplit(':').next().expect("a port").to_owned();
    let by_name = bed.subscribe(&format!("http://localhost:{port}/"), &[]).await;
    let by_address = bed.subscribe(&endpoint.url, &[]).await;
    let deliverer = bed.deliverer();
    for id in [by_name, by_address] {
        let rows = bed.deliveries(id, |rows| rows.len() == 1).await;
        let error = rows[0].last_error.as_deref().unwrap_or_default();
        assert!(error.contains("not an address on the public internet"), "{error}");
    }
    deliverer.shutdown().await;
    assert_eq!(endpoint.received.borrow().len(), received, "no connection was made");
}
