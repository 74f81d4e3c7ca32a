//! People who were erased write on where a watch hears it: it counts, and nothing says who it was.

use super::*;
use crate::store::erasure;

/// Who was erased, and somebody who was not.
const GONE: i64 = 4_242;
const THERE: i64 = 77_077;

async fn erased(bed: &Bed) {
    let mut connection = bed.pool().acquire().await.unwrap();
    crate::store::outreach_switch::settle_key(&mut connection, &key())
        .await
        .unwrap();
    erasure::mark(&mut connection, &key(), GONE).await.unwrap();
}

fn by(sender: i64, message: Message) -> Message {
    Message {
        sender_id: Some(sender),
        ..message
    }
}

fn written(sender: i64, id: i32, text: &str) -> Incoming {
    Incoming::New(by(sender, said(id, text)))
}

fn private(id: i32, text: &str) -> Message {
    Message {
        chat_id: GONE,
        ..by(GONE, said(id, text))
    }
}

/// How many rows of the tables that intake writes name them.
const NAMED: &str = "SELECT (SELECT count(*) FROM messages t WHERE t::text LIKE '%4242%')
    + (SELECT count(*) FROM events t WHERE t::text LIKE '%4242%') + (SELECT count(*) FROM watch_changes t WHERE t::text LIKE '%4242%')";

#[tokio::test]
async fn what_an_erased_person_writes_counts_and_is_kept_and_told_by_nobody() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    erased(&bed).await;
    bed.take(vec![
        written(THERE, 5, "hello"),
        written(GONE, 6, "it is 4242"),
        written(THERE, 7, "bye"),
    ])
    .await;
    // Again, edited, reacted to, and deleted: there is nothing to tell.
    let reacted = Incoming::Reactions {
        chat: CHAT,
        message_id: 6,
        reactions: vec![Reaction {
            reaction: "👍".into(),
            count: 1,
        }],
    };
    bed.take(vec![
        written(GONE, 6, "it is 4242"),
        Incoming::Edited(by(GONE, edit(6, "4242 has edited this"))),
        reacted,
    ])
    .await;
    assert_eq!(bed.told_ids().await, events("message.new", [5, 7]));
    let nobodys =
        "SELECT count(*) FROM messages WHERE message_id = 6 AND content IS NULL AND sender_id IS NULL AND digest = 0";
    assert_eq!(bed.figure(nobodys).await, 1);
    bed.take(vec![Incoming::Deleted {
        chat: Some(CHAT),
        message_ids: vec![6],
    }])
    .await;
    assert_eq!(bed.told_ids().await, []);
    assert_eq!(bed.figure("SELECT seen FROM watches").await, 3);
    assert_eq!(bed.state(watch).await.last_message_id, 7);
    assert_eq!(bed.figure(NAMED).await, 0);
    // An edit of one from before the watch's rows.
    bed.take(vec![Incoming::Edited(by(GONE, edit(2, "4242, too")))]).await;
    assert_eq!((bed.told_ids().await, bed.figure(NAMED).await), (vec![], 0));
}

#[tokio::test]
async fn the_history_brings_an_erased_person_back_no_more_than_the_stream() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    sqlx::raw_sql("UPDATE watches SET filling = true")
        .execute(bed.pool())
        .await
        .unwrap();
    erased(&bed).await;
    bed.take(vec![
        written(GONE, 6, "hello"),
        Incoming::Edited(by(GONE, edit(6, "4242 has edited this"))),
    ])
    .await;
    assert_eq!(bed.figure(NAMED).await, 0, "nothing is left to the history");
    let page = [by(THERE, said(5, "hello")), by(GONE, said(6, "4242"))];
    assert_eq!(bed.history(watch, &page, Some(6)).await, 2);
    assert_eq!(bed.told_ids().await, events("message.new", [5]));
    assert_eq!(bed.figure("SELECT from_history FROM watches").await, 2);
    assert_eq!(bed.figure(NAMED).await, 0);
}

#[tokio::test]
async fn an_erased_person_comes_and_goes_unheard() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    erased(&bed).await;
    let joined = |id, user_ids: &[i64], by| {
        let service = ServiceMessage::Joined {
            user_ids: user_ids.to_vec(),
            by,
        };
        served(id, service)
    };
    let left = |id, user_id, by| served(id, ServiceMessage::Left { user_id, by });
    let member = |user_id, by| Incoming::Member {
        chat: CHAT,
        user_id,
        joined: true,
        by,
        date: chat_message(1, "").date,
    };
    bed.take(vec![
        joined(5, &[GONE], None),
        joined(6, &[GONE, THERE], Some(GONE)),
        left(7, GONE, None),
        left(8, THERE, Some(GONE)),
        member(GONE, None),
        member(THERE, Some(GONE)),
    ])
    .await;
    let told: Vec<(String, Value, Value)> = bed
        .told()
        .await
        .into_iter()
        .map(|(event, data)| (event, data["user_id"].clone(), data["by"].clone()))
        .collect();
    let expected = ["member.joined", "member.left", "member.joined"];
    assert_eq!(
        told,
        expected.map(|event| (event.to_owned(), json!(THERE), Value::Null)),
    );
    assert_eq!(bed.figure("SELECT seen FROM watches").await, 4);
    assert_eq!(bed.figure(NAMED).await, 0);
}

#[tokio::test]
async fn a_private_chat_with_an_erased_person_is_no_place() {
    let mut bed = Bed::new().await;
    bed.watch(None, json!({})).await;
    erased(&bed).await;
    for _ in 0..2 {
        bed.take(vec![
            Incoming::New(private(5, "write to 4242")),
            Incoming::Edited(Message {
                edited_at: Some(private(5, "").date),
                ..private(5, "4242, please")
            }),
        ])
        .await;
    }
    // Telegram does not say of which chat it was.
    bed.take(vec![Incoming::Deleted {
        chat: None,
        message_ids: vec![5],
    }])
    .await;
    assert_eq!(bed.told().await, []);
    assert_eq!(bed.figure("SELECT seen FROM watches").await, 1);
    assert_eq!(bed.figure(NAMED).await, 0);
}

#[tokio::test]
async fn without_the_key_nothing_of_a_watched_chat_is_stored_once_somebody_was_erased() {
    let bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    let arrival = Arrival {
        lease: bed.lease,
        account_id: ACCOUNT,
        boxes: Vec::new(),
        incoming: vec![written(THERE, 5, "hello")],
        forgotten: Vec::new(),
    };
    let stranger = PersonKey::parse(&PersonKey::generate().unwrap()).unwrap();
    for (is_erased, person_key) in [(false, None), (true, None), (true, Some(&stranger))] {
        if is_erased {
            erased(&bed).await;
        }
        let mut transaction = bed.database.pool().begin().await.unwrap();
        let stored = record(
            &mut transaction,
            &mut Filters::default(),
            person_key,
            std::slice::from_ref(&arrival),
        )
        .await;
        assert_eq!(stored.is_err(), is_erased);
    }
}
