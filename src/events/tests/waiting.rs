use std::time::Duration;

use super::bed::{Answer, BOUND, Bed, EndpointBed, Received, settings};
use crate::{
    ids::{SessionId, SubscriptionId},
    store::{
        delivery_log::{self, Redelivered},
        event_log::EventFilter,
        event_types::Subject,
        subscriptions,
    },
};

/// More than memory takes.
const MANY: i64 = 1_700;

fn subject() -> Subject {
    Subject::session(SessionId::generate())
}

fn numbers_of(received: &[Received], subject: &Subject) -> Vec<i64> {
    let of_it = received.iter().filter(|one| one.event()["subject"] == subject.as_str());
    of_it.map(Received::number).collect()
}

/// So many events of a subject, one of another after them, and both.
async fn backlog(bed: &Bed) -> (Subject, Subject) {
    let (endless, other) = (subject(), subject());
    let mut events: Vec<(&Subject, i64)> = (1..=MANY).map(|number| (&endless, number)).collect();
    events.push((&other, 1));
    bed.raise(&events).await;
    (endless, other)
}

/// Everything in the log waits as a row of the subscription, and is there because `next_at` says so.
async fn leave_all_waiting(bed: &Bed, next_at: &str) {
    let statement = format!(
        "INSERT INTO deliveries (subscription_id, position, type, subject, state, next_at)
         SELECT s.id, e.position, e.type, e.subject, 'pending', {next_at} FROM subscriptions s, event_log e"
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(bed.pool())
        .await
        .expect("rows");
    bed.execute("UPDATE subscription_progress SET position = (SELECT max(position) FROM event_log)")
        .await;
}

/// The first event of a subject hangs, and nothing else.
fn hang_first(endpoint: &EndpointBed, subject: &Subject) {
    let subject = subject.clone();
    endpoint.answer(move |received| {
        let is_first = received.event()["subject"] == subject.as_str() && received.number() == 1;
        is_first.then_some(Answer::Never)
    });
}

#[tokio::test]
async fn a_subject_that_fills_memory_hides_no_other_and_keeps_its_order_through_a_kill() {
    let (mut bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    bed.config.timeout = Duration::from_mins(1);
    bed.subscribe(&endpoint.url, &[]).await;
    let (endless, other) = backlog(&bed).await;
    hang_first(&endpoint, &endless);
    let killed = bed.deliverer();
    let of_other = |received: &[Received]| !numbers_of(received, &other).is_empty();
    let received = endpoint.got_when(of_other).await;
    assert_eq!(
        numbers_of(&received, &endless),
        [1],
        "it came while the first of the others hangs"
    );
    // As after SIGKILL, with the first on its way and the others behind it as rows.
    let rows = "SELECT count(*) FROM deliveries WHERE state = 'pending'";
    let stored = async {
        while sqlx::query_scalar::<_, i64>(rows)
            .fetch_one(bed.pool())
            .await
            .expect("read")
            < MANY - 1
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, stored).await.expect("in time");
    killed.abort();
    endpoint.answer(|_| Some(Answer::Status(204)));
    bed.advance(300).await;
    let next = bed.deliverer();
    let all = usize::try_from(MANY).expect("few") + 1;
    let received = endpoint.got_when(|received| received.len() > all).await;
    let mut expected: Vec<i64> = (1..=MANY).collect();
    expected.insert(0, 1);
    assert_eq!(
        numbers_of(&received, &endless),
        expected,
        "in order, and none twice but the one on its way"
    );
    next.shutdown().await;
}

#[tokio::test]
async fn a_subject_with_many_rows_hides_no_other() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    bed.subscribe(&endpoint.url, &[]).await;
    let (endless, other) = backlog(&bed).await;
    // As the release before has them sent once more, each due, and the first of them has failed since.
    let due = "now() + (e.position - 5000) * interval '1 millisecond'";
    leave_all_waiting(
        &bed,
        &format!("CASE WHEN e.position = 1 THEN now() + interval '6 hours' ELSE {due} END"),
    )
    .await;
    let deliverer = bed.deliverer();
    let received = endpoint
        .got_when(|received| !numbers_of(received, &other).is_empty())
        .await;
    assert_eq!(
        numbers_of(&received, &endless),
        Vec::<i64>::new(),
        "they wait for the first"
    );
    drop(deliverer);
}

#[tokio::test]
async fn what_a_killed_process_left_without_a_time_is_found() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    bed.subscribe(&endpoint.url, &[]).await;
    // More subjects than one step of the walk takes.
    let subjects: Vec<Subject> = (0..1_100).map(|_| subject()).collect();
    let events: Vec<(&Subject, i64)> = (1..=2).flat_map(|n| subjects.iter().map(move |one| (one, n))).collect();
    bed.raise(&events).await;
    leave_all_waiting(&bed, "NULL").await;
    let deliverer = bed.deliverer();
    let received = endpoint.got(2_200).await;
    for subject in &subjects {
        assert_eq!(numbers_of(&received, subject), [1, 2]);
    }
    deliverer.shutdown().await;
}

#[tokio::test]
async fn what_waits_when_a_subscription_is_switched_on_again_is_tried_at_once_and_has_three_days() {
    let (bed, endpoint) = (Bed::new().await, EndpointBed::start().await);
    let id = bed.subscribe(&endpoint.url, &[]).await;
    endpoint.answer(|_| Some(Answer::Status(500)));
    bed.raise(&[(&subject(), 1)]).await;
    leave_all_waiting(&bed, "now() + interval '6 hours'").await;
    bed.execute("UPDATE deliveries SET first_at = first_at - interval '4 days', last_at = now() - interval '1 hour'")
        .await;
    let mut off = settings(&endpoint.url, &[]);
    off.enabled = false;
    let mut conn = bed.pool().acquire().await.expect("a connection");
    subscriptions::update(&mut conn, id, &off).await.expect("switched off");
    subscriptions::update(&mut conn, id, &settings(&endpoint.url, &[]))
        .await
        .expect("switched on");
    let deliverer = bed.deliverer();
    let rows = bed.deliveries(id, |rows| rows[0].attempts == 1).await;
    assert_eq!(rows[0].state, "pending", "its three days begin anew");
    deliverer.shutdown().await;
}

async fn redeliver(bed: &Bed, id: SubscriptionId, types: &[&str], from: i64, limit: i64) -> Redelivered {
    let types: Vec<String> = types.iter().map(|name| (*name).to_owned()).collect();
    let filter = EventFilter::new(&types, &[]);
    let mut conn = bed.pool().acquire().await.expect("a connection");
    delivery_log::redeliver(&mut conn, id, &filter, (from, i64::MAX), limit, 2)
        .await
        .expect("asked")
}

#[tokio::test]
async fn a_long_range_is_sent_once_more_in_steps() {
    let bed = Bed::new().await;
    let id = bed.subscribe("https://example.com/", &[]).await;
    bed.execute(
        "INSERT INTO event_log (position, logged_at, at, type, version, subject, data)
         SELECT n, wireroom_now(), wireroom_now(), 'batch.finished', 1, 'batch:' || n % 3, '{}' FROM generate_series(1, 50000) n",
    )
    .await;
    bed.execute("UPDATE subscription_progress SET position = 50000").await;
    let nothing = Redelivered {
        next: Some(40_001),
        ..Redelivered::default()
    };
    assert_eq!(
        redeliver(&bed, id, &["session.*"], 1, 10).await,
        nothing,
        "it looks at so many and no more"
    );
    let rest = redeliver(&bed, id, &["session.*"], 40_001, 10).await;
    assert_eq!(
        rest,
        Redelivered::default(),
        "and says when it is at the subscription's place"
    );
    let ten = Redelivered {
        count: 10,
        last: Some(10),
        next: Some(11),
    };
    assert_eq!(redeliver(&bed, id, &["batch.*"], 1, 10).await, ten);
    let due: Vec<i64> =
        sqlx::query_scalar("SELECT position FROM deliveries WHERE next_at IS NOT NULL ORDER BY position")
            .fetch_all(bed.pool())
            .await
            .expect("read");
    assert_eq!(due, [1, 2, 3], "of each subject the first is due");
    let end = Redelivered {
        count: 5,
        last: Some(50_000),
        next: None,
    };
    assert_eq!(redeliver(&bed, id, &["batch.*"], 49_996, 10).await, end);
}
