mod beside;
mod erased;
mod left;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use wireroom_jobs::{message::ServiceMessage, testing::chat_message};

use super::*;
use crate::{
    cluster::testing::TestDatabase,
    config::Secret,
    ids::WorkerId,
    store::sessions::{self, DcRow, NewSession},
    vault::Vault,
};

const CHAT: i64 = -1_000_000_000_001;
const GROUP: i64 = -77;
const PERSON: i64 = 11;
const ACCOUNT: i64 = 42;
const EVERYTHING: [&str; 7] = [
    "message.new",
    "message.edited",
    "message.deleted",
    "message.reactions",
    "member.joined",
    "member.left",
    "chat.changed",
];

struct Bed {
    database: TestDatabase,
    lease: LeaseKey,
    other: LeaseKey,
    filters: Filters,
}

impl Bed {
    /// Two held sessions.
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let vault = Vault::parse(&Vault::generate("k1").unwrap()).unwrap();
        let mut connection = database.pool().acquire().await.unwrap();
        for (label, account_id) in [("alice", ACCOUNT), ("bob", ACCOUNT + 1)] {
            let session = NewSession {
                id: SessionId::generate(),
                label: label.to_owned(),
                pool: "default".to_owned(),
                account_id,
                username: None,
                is_bot: false,
                home_dc: 2,
                dcs: vec![DcRow {
                    dc_id: 2,
                    ipv4: "203.0.113.5:443".to_owned(),
                    ipv6: "[::]:443".to_owned(),
                    auth_key: Some(vault.seal("test", &[7; 256]).unwrap()),
                }],
            };
            sessions::insert_ready(&mut connection, &session).await.unwrap();
        }
        let worker = WorkerId::generate();
        let minute = std::time::Duration::from_mins(1);
        let mut leases = leases::acquire(&mut connection, worker, 1, 2, minute).await.unwrap();
        leases.sort_by_key(|lease| lease.account_id);
        sqlx::raw_sql("DELETE FROM events")
            .execute(&mut *connection)
            .await
            .unwrap();
        drop(connection);
        Self {
            database,
            lease: leases[0].key,
            other: leases[1].key,
            filters: Filters::default(),
        }
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// A watch of alice's that is not filling.
    async fn watch(&self, chat: Option<i64>, filter: Value) -> Uuid {
        let owner = chat.map_or(ACCOUNT, |chat| owner_of(chat, ACCOUNT));
        let id = Uuid::now_v7();
        sqlx::query(
            "INSERT INTO watches (id, chat_id, session_id, owner, events, filter, retention_days, filling)
            VALUES ($1, $2, $3, $4, $5, $6, 30, false)",
        )
        .bind(id)
        .bind(chat)
        .bind(self.lease.session.0)
        .bind(owner)
        .bind(EVERYTHING.map(str::to_owned).to_vec())
        .bind(filter)
        .execute(self.pool())
        .await
        .unwrap();
        id
    }

    async fn take(&mut self, incoming: Vec<Incoming>) -> Recorded {
        let lease = self.lease;
        self.take_on(lease, incoming).await
    }

    async fn take_on(&mut self, lease: LeaseKey, incoming: Vec<Incoming>) -> Recorded {
        let account_id = if lease == self.lease { ACCOUNT } else { ACCOUNT + 1 };
        let arrival = Arrival {
            lease,
            account_id,
            boxes: Vec::new(),
            incoming,
            forgotten: Vec::new(),
        };
        self.record(&[arrival]).await[0]
    }

    async fn record(&mut self, arrivals: &[Arrival]) -> Vec<Recorded> {
        let mut transaction = self.database.pool().begin().await.unwrap();
        let recorded = record(&mut transaction, &mut self.filters, Some(&key()), arrivals)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        recorded
    }

    async fn history(&mut self, watch: Uuid, messages: &[Message], read_to: Option<i32>) -> u64 {
        let mut transaction = self.database.pool().begin().await.unwrap();
        let stored = record_history(
            &mut transaction,
            &mut self.filters,
            Some(&key()),
            self.lease,
            Page {
                watch,
                messages,
                read_to,
            },
        )
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        stored
    }

    /// The events so far, forgotten.
    async fn told(&self) -> Vec<(String, Value)> {
        sqlx::query_as(
            "WITH gone AS (DELETE FROM events RETURNING id, type, data) SELECT type, data FROM gone ORDER BY id",
        )
        .fetch_all(self.pool())
        .await
        .unwrap()
    }

    async fn told_ids(&self) -> Vec<(String, i64)> {
        let told = self.told().await.into_iter().map(|(event, data)| {
            let id = data["message"]["id"].as_i64().or(data["message_id"].as_i64());
            (event, id.unwrap_or(0))
        });
        told.collect()
    }

    async fn state(&self, watch: Uuid) -> Filling {
        let mut connection = self.pool().acquire().await.unwrap();
        filling(&mut connection, watch).await.unwrap().unwrap()
    }

    async fn figure(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }
}

/// The key that people are marked with.
fn key() -> PersonKey {
    PersonKey::parse(&Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")).unwrap()
}

const STORED: Recorded = Recorded::Stored { troubled: false };
const TROUBLED: Recorded = Recorded::Stored { troubled: true };

fn said(id: i32, text: &str) -> Message {
    chat_message(id, text)
}

fn new(id: i32) -> Incoming {
    Incoming::New(said(id, "hello"))
}

fn edit(id: i32, text: &str) -> Message {
    let message = said(id, text);
    Message {
        edited_at: Some(message.date + TimeDelta::seconds(i64::try_from(text.len()).unwrap())),
        ..message
    }
}

fn served(id: i32, service: ServiceMessage) -> Incoming {
    Incoming::New(Message {
        service: Some(service),
        ..said(id, "")
    })
}

fn events(event: &str, ids: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    ids.into_iter().map(|id| (event.to_owned(), id)).collect()
}

#[tokio::test]
async fn a_message_is_stored_and_told_once_however_often_it_comes() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    assert_eq!(bed.take(vec![new(5), new(6), new(5)]).await, STORED);
    assert_eq!(bed.take(vec![new(6), new(7)]).await, STORED);
    assert_eq!(bed.told_ids().await, events("message.new", [5, 6, 7]));
    assert_eq!(bed.state(watch).await.last_message_id, 7);
    assert_eq!(bed.figure("SELECT seen FROM watches").await, 3);
    assert_eq!(
        bed.figure("SELECT count(*) FROM messages WHERE content IS NOT NULL AND owner = 0")
            .await,
        3
    );
    let left = "SELECT extract(day FROM min(expires_at) - wireroom_now())::bigint FROM messages";
    assert_eq!(bed.figure(left).await, 29);
}

#[tokio::test]
async fn an_edit_is_told_once_however_far_behind_the_session_is_that_brings_it_again() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT wireroom_now()")
        .fetch_one(bed.pool())
        .await
        .unwrap();
    let edited = |id, ago: TimeDelta| {
        Incoming::Edited(Message {
            edited_at: Some(now - ago),
            ..said(id, "hello there")
        })
    };
    bed.take(vec![new(5), new(6)]).await;
    bed.told().await;
    // On the last day of the message's own time; what is told of it is kept as long as a message is.
    sqlx::raw_sql("UPDATE messages SET expires_at = expires_at - interval '29 days'")
        .execute(bed.pool())
        .await
        .unwrap();
    bed.take(vec![edited(5, TimeDelta::zero())]).await;
    assert_eq!(bed.told_ids().await, events("message.edited", [5]));
    let left = "SELECT extract(day FROM max(expires_at) - wireroom_now())::bigint FROM messages WHERE message_id = ";
    let of = async |sql: String| -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(bed.pool())
            .await
            .unwrap()
    };
    assert_eq!((of(format!("{left}5")).await, of(format!("{left}6")).await), (29, 0));
    bed.take(vec![edited(5, TimeDelta::zero())]).await;
    assert_eq!(bed.told_ids().await, []);
    // Both rows have expired: what is older than rows become was told, or came too late.
    sqlx::raw_sql("DELETE FROM messages").execute(bed.pool()).await.unwrap();
    bed.take(vec![edited(5, TimeDelta::days(31)), edited(6, TimeDelta::days(29))])
        .await;
    assert_eq!(bed.told_ids().await, events("message.edited", [6]));
}

#[tokio::test]
async fn only_the_watches_session_is_listened_to() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    let other = bed.other;
    assert_eq!(bed.take_on(other, vec![new(5)]).await, STORED);
    assert_eq!(bed.told_ids().await, []);
    assert_eq!(bed.take(vec![new(5)]).await, STORED);
    assert_eq!(bed.told_ids().await, events("message.new", [5]));
    sqlx::raw_sql("UPDATE watches SET state = 'stopped'")
        .execute(bed.pool())
        .await
        .unwrap();
    assert_eq!(bed.take(vec![new(6)]).await, STORED);
    assert_eq!(bed.told_ids().await, []);
}

#[tokio::test]
async fn a_stale_lease_fails_its_session_and_no_other() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    let place = |pts| BoxState {
        update_box: 0,
        pts: Some(pts),
        qts: None,
        date: None,
        seq: None,
    };
    let arrival = |lease: LeaseKey, incoming| Arrival {
        lease,
        account_id: ACCOUNT,
        boxes: vec![place(5)],
        incoming,
        forgotten: Vec::new(),
    };
    let stale = LeaseKey {
        fence: bed.other.fence + 1,
        ..bed.other
    };
    let arrivals = [arrival(stale, vec![new(4)]), arrival(bed.lease, vec![new(5)])];
    assert_eq!(bed.record(&arrivals).await, [Recorded::Fenced, STORED]);
    assert_eq!(bed.told_ids().await, events("message.new", [5]));
    assert_eq!(bed.figure("SELECT count(*) FROM session_update_states").await, 1);
    // Of one session twice: the later place holds.
    let again = [
        arrival(bed.lease, vec![]),
        Arrival {
            boxes: vec![place(9)],
            ..arrival(bed.lease, vec![])
        },
    ];
    assert_eq!(bed.record(&again).await, [STORED, STORED]);
    assert_eq!(bed.figure("SELECT pts::bigint FROM session_update_states").await, 9);
}

#[tokio::test]
async fn what_is_stored_of_some_private_chats_does_not_move_the_watch_past_the_others() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(None, json!({})).await;
    let place = "SELECT last_message_id::bigint FROM watches";
    let before = i32::try_from(bed.figure(place).await).unwrap();
    let of = |chat, ids: [i32; 2]| {
        ids.map(|id| Message {
            chat_id: chat,
            ..said(before + id, "hello")
        })
    };
    assert_eq!(bed.history(watch, &of(31, [1, 4]), Some(before)).await, 2);
    assert_eq!(
        bed.figure(place).await,
        i64::from(before),
        "those between are in a chat that is not read yet"
    );
    assert_eq!(bed.history(watch, &of(32, [2, 3]), Some(before)).await, 2);
    assert_eq!(bed.history(watch, &[], Some(before + 4)).await, 0);
    assert_eq!(bed.figure(place).await, i64::from(before) + 4);
}

#[tokio::test]
async fn what_the_filter_leaves_out_is_counted_and_told_when_an_edit_fits() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({ "keywords": ["boat"] })).await;
    bed.take(vec![new(5)]).await;
    assert_eq!(bed.told_ids().await, []);
    assert_eq!(bed.state(watch).await.last_message_id, 5);
    assert_eq!(
        bed.figure("SELECT count(*) FROM messages WHERE content IS NULL").await,
        1
    );
    bed.take(vec![Incoming::Edited(edit(5, "a boat"))]).await;
    assert_eq!(bed.told_ids().await, events("message.edited", [5]));
    // A filter that was changed is read again.
    let change = "UPDATE watches SET filter = '{}', version = version + 1";
    sqlx::raw_sql(change).execute(bed.pool()).await.unwrap();
    bed.take(vec![new(6)]).await;
    assert_eq!(bed.told_ids().await, events("message.new", [6]));
}

#[tokio::test]
async fn an_edit_is_told_once_per_content() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5)]).await;
    bed.told().await;
    // As it was: nothing has happened.
    bed.take(vec![Incoming::Edited(said(5, "hello"))]).await;
    assert_eq!(bed.told_ids().await, []);
    bed.take(vec![
        Incoming::Edited(edit(5, "hello you")),
        Incoming::Edited(edit(5, "hello you")),
    ])
    .await;
    bed.take(vec![Incoming::Edited(edit(5, "hello you"))]).await;
    assert_eq!(bed.told_ids().await, events("message.edited", [5]));
    // From before the watch.
    bed.take(vec![Incoming::Edited(edit(2, "old"))]).await;
    bed.take(vec![Incoming::Edited(edit(2, "old"))]).await;
    bed.take(vec![Incoming::Edited(edit(2, "older"))]).await;
    assert_eq!(bed.told_ids().await, events("message.edited", [2, 2]));
    // It has not come in yet.
    bed.take(vec![Incoming::Edited(edit(9, "early"))]).await;
    assert_eq!(bed.told_ids().await, []);
}

#[tokio::test]
async fn a_deletion_drops_the_content_and_is_told_once() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5), new(6)]).await;
    bed.told().await;
    let gone = || Incoming::Deleted {
        chat: Some(CHAT),
        message_ids: vec![5, 77],
    };
    bed.take(vec![gone()]).await;
    bed.take(vec![gone(), new(5), Incoming::Edited(edit(5, "back"))]).await;
    assert_eq!(bed.told_ids().await, events("message.deleted", [5]));
    let left = "SELECT count(*) FROM messages WHERE message_id = 5 AND content IS NULL AND deleted_at IS NOT NULL";
    assert_eq!(bed.figure(left).await, 1);
}

#[tokio::test]
async fn deletions_of_private_chats_and_groups_are_found_without_their_chat() {
    let mut bed = Bed::new().await;
    bed.watch(None, json!({})).await;
    bed.watch(Some(GROUP), json!({})).await;
    let of = |id, chat_id| {
        Incoming::New(Message {
            chat_id,
            ..said(id, "hi")
        })
    };
    bed.take(vec![of(5, PERSON), of(6, GROUP), of(7, -78)]).await;
    assert_eq!(bed.told_ids().await, events("message.new", [5, 6]));
    assert_eq!(bed.figure("SELECT count(*) FROM messages WHERE owner = 42").await, 2);
    let gone = Incoming::Deleted {
        chat: None,
        message_ids: vec![5, 6, 7],
    };
    bed.take(vec![gone]).await;
    assert_eq!(bed.told_ids().await, events("message.deleted", [5, 6]));
    // In the transaction that it came in with.
    let gone = Incoming::Deleted {
        chat: None,
        message_ids: vec![8],
    };
    bed.take(vec![of(8, PERSON), gone]).await;
    let told = bed.told().await;
    assert_eq!(told[0].0, "message.new");
    assert_eq!(
        (told[1].0.as_str(), &told[1].1["chat"]),
        ("message.deleted", &json!(PERSON))
    );
}

#[tokio::test]
async fn reactions_are_told_when_they_change() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5)]).await;
    bed.told().await;
    let counted = |count| {
        vec![Reaction {
            reaction: "👍".into(),
            count,
        }]
    };
    let told = |message_id, count| Incoming::Reactions {
        chat: CHAT,
        message_id,
        reactions: counted(count),
    };
    bed.take(vec![told(5, 1), told(5, 1), told(6, 1)]).await;
    bed.take(vec![told(5, 2)]).await;
    // Telegram says it by an edit, too; nobody has written anything.
    let edited = Message {
        reactions: counted(3),
        ..said(5, "hello")
    };
    bed.take(vec![Incoming::Edited(edited)]).await;
    assert_eq!(bed.told_ids().await, events("message.reactions", [5, 5, 5]));
}

#[tokio::test]
async fn who_comes_and_goes_and_what_changes_is_told_whatever_the_filter() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({ "keywords": ["boat"] })).await;
    let joined = ServiceMessage::Joined {
        user_ids: vec![3, 4],
        by: Some(2),
    };
    let left = ServiceMessage::Left { user_id: 3, by: None };
    let title = ServiceMessage::TitleChanged { title: "New".into() };
    bed.take(vec![served(5, joined), served(6, left), served(7, title)])
        .await;
    let told = bed.told().await;
    let names: Vec<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(names, ["member.joined", "member.joined", "member.left", "chat.changed"]);
    assert_eq!(
        (&told[1].1["user_id"], &told[1].1["by"], &told[1].1["message_id"]),
        (&json!(4), &json!(2), &json!(5))
    );
    assert_eq!(told[3].1["message"]["service"]["type"], "title_changed");
    assert_eq!(told[3].1["chat"], CHAT);
}

#[tokio::test]
async fn what_comes_while_the_history_is_read_is_left_to_it() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5)]).await;
    let gap = Incoming::Gap {
        chat: Some(CHAT),
        from_pts: Some(7),
        to_pts: Some(19),
        newest: Some(8),
        reason: "channelDifferenceTooLong".into(),
    };
    assert_eq!(bed.take(vec![gap, new(9)]).await, TROUBLED);
    let told = bed.told().await;
    assert_eq!((told.len(), told[1].0.as_str()), (2, "watch.gap"));
    assert_eq!((&told[1].1["from_pts"], &told[1].1["to_pts"]), (&json!(7), &json!(19)));
    let before = bed.state(watch).await;
    assert_eq!(
        (before.filling, before.left_to_history, before.last_message_id),
        (true, 9, 5)
    );

    assert_eq!(
        bed.history(watch, &[said(5, "hello"), said(6, "missed")], None).await,
        1
    );
    assert_eq!(bed.take(vec![new(6), Incoming::Edited(edit(7, "early"))]).await, STORED);
    let lease = bed.lease;
    let mut connection = bed.pool().acquire().await.unwrap();
    let finish =
        async |connection: &mut PgConnection, gaps| finish_filling(connection, lease, watch, gaps).await.unwrap();
    assert!(!finish(&mut connection, before.gaps).await, "the history is behind");
    // The last one is there no more: the history was read to where it was.
    assert_eq!(
        bed.history(watch, &[said(7, "missed"), said(8, "missed")], Some(9))
            .await,
        2
    );
    assert!(
        !finish(&mut connection, before.gaps - 1).await,
        "a gap was found meanwhile"
    );
    assert!(finish(&mut connection, before.gaps).await);
    assert_eq!(bed.take(vec![new(10)]).await, STORED);
    let told = bed.told().await;
    let ids: Vec<_> = told
        .iter()
        .map(|(_, data)| (data["message"]["id"].clone(), data["from_history"].clone()))
        .collect();
    assert_eq!(
        ids,
        [
            (json!(6), json!(true)),
            (json!(7), json!(true)),
            (json!(8), json!(true)),
            (json!(10), Value::Null)
        ]
    );
    assert_eq!(bed.figure("SELECT from_history FROM watches").await, 3);
}

#[tokio::test]
async fn what_is_from_before_the_watch_is_none_of_its() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    let begun = "UPDATE watches SET begun_after = 5, last_message_id = 5";
    sqlx::raw_sql(begun).execute(bed.pool()).await.unwrap();
    bed.take(vec![new(4), new(5), new(6)]).await;
    assert_eq!(bed.told_ids().await, events("message.new", [6]));
}

#[tokio::test]
async fn what_is_accounted_for_is_not_told_again_when_it_is_known_no_more() {
    const EXPIRE: &str = "DELETE FROM messages";
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    bed.watch(None, json!({})).await;
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT wireroom_now()")
        .fetch_one(bed.pool())
        .await
        .unwrap();
    let private = |id, days| {
        Incoming::New(Message {
            chat_id: PERSON,
            date: now - TimeDelta::days(days),
            ..said(id, "hello")
        })
    };
    bed.take(vec![new(5), new(9), private(5, 40), private(9, 0)]).await;
    assert_eq!(bed.told_ids().await, events("message.new", [5, 9, 5, 9]));
    sqlx::raw_sql(EXPIRE).execute(bed.pool()).await.unwrap();
    bed.take(vec![new(5), new(7), new(9), private(5, 40)]).await;
    assert_eq!(bed.told_ids().await, []);
    assert_eq!(bed.figure("SELECT sum(seen)::bigint FROM watches").await, 4);
    // Of another private chat: that was read before this was written, and a newer one of the first chat was read after it.
    let other = Incoming::New(Message {
        chat_id: PERSON + 1,
        date: now,
        ..said(8, "hello")
    });
    bed.take(vec![other, new(10)]).await;
    assert_eq!(bed.told_ids().await, events("message.new", [8, 10]));
}

#[tokio::test]
async fn what_the_history_was_left_is_told_however_old_it_is_and_wherever_the_stream_is() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5)]).await;
    sqlx::raw_sql("DELETE FROM messages").execute(bed.pool()).await.unwrap();
    let gap = Incoming::Gap {
        chat: Some(CHAT),
        from_pts: None,
        to_pts: None,
        newest: Some(7),
        reason: "channelDifferenceTooLong".into(),
    };
    // What is told again of what has expired comes before the gap, and after it.
    bed.take(vec![new(5), gap, new(5), new(8)]).await;
    let old = |id| Message {
        date: said(id, "").date - TimeDelta::days(400),
        ..said(id, "missed")
    };
    assert_eq!(
        bed.history(watch, &[old(6), old(7), said(8, "hello")], Some(8)).await,
        3
    );
    let gaps = bed.state(watch).await.gaps;
    let mut connection = bed.pool().acquire().await.unwrap();
    assert!(finish_filling(&mut connection, bed.lease, watch, gaps).await.unwrap());
    bed.take(vec![new(7), new(9)]).await;
    let mut told = bed.told_ids().await;
    told.retain(|(event, _)| event == "message.new");
    assert_eq!(told, events("message.new", [5, 6, 7, 8, 9]));
}

#[tokio::test]
async fn a_gap_of_the_account_is_one_of_all_its_own_chats() {
    let mut bed = Bed::new().await;
    for chat in [None, Some(GROUP), Some(CHAT)] {
        bed.watch(chat, json!({})).await;
    }
    let gap = Incoming::Gap {
        chat: None,
        from_pts: None,
        to_pts: None,
        newest: None,
        reason: "differenceTooLong".into(),
    };
    assert_eq!(bed.take(vec![gap]).await, TROUBLED);
    assert_eq!(bed.told().await.len(), 2);
    assert_eq!(
        bed.figure("SELECT count(*) FROM watches WHERE filling AND owner <> 0")
            .await,
        2
    );
    assert_eq!(bed.figure("SELECT count(*) FROM watches WHERE filling").await, 2);
}

#[tokio::test]
async fn a_chat_that_is_lost_is_noted() {
    let mut bed = Bed::new().await;
    bed.watch(Some(CHAT), json!({})).await;
    let lost = Incoming::Lost {
        chat: CHAT,
        reason: "CHANNEL_PRIVATE".into(),
    };
    assert_eq!(bed.take(vec![lost]).await, TROUBLED);
    assert_eq!(
        bed.figure("SELECT count(*) FROM watches WHERE lost_reason = 'CHANNEL_PRIVATE'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_message_names_who_brought_it_and_when() {
    let mut bed = Bed::new().await;
    let watch = bed.watch(Some(CHAT), json!({})).await;
    bed.take(vec![new(5)]).await;
    let (brought, of, date): (Uuid, Uuid, DateTime<Utc>) =
        sqlx::query_as("SELECT session_id, watch_id, date FROM messages")
            .fetch_one(bed.pool())
            .await
            .unwrap();
    assert_eq!((brought, of, date), (bed.lease.session.0, watch, said(5, "").date));
    let told = bed.told().await;
    assert_eq!(told[0].1["session"], json!(bed.lease.session.0));
    assert_eq!(told[0].1["watch"], json!(watch));
}
