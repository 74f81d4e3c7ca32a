//! What happens in watched chats, whatever happens to the updates on their way. The watches are made by hand, and so is the
//! reading of histories.

mod crashes;
mod troubles;

use serde_json::{Value, json};
use wireroom::{
    sandbox::{
        call::UserId,
        world::{
            PeerKey,
            hearing::Actor,
            joining::Arrival,
            messages::{Content, Draft},
        },
    },
    store::intake::{self, Filters},
};
use wireroom_jobs::message::Message;

use super::*;
use crate::support::wait::eventually;

const CHAT: &str = "harbour_market";
const WRITER: &str = "judy";
const EVERYTHING: [&str; 7] = [
    "message.new",
    "message.edited",
    "message.deleted",
    "message.reactions",
    "member.joined",
    "member.left",
    "chat.changed",
];

/// A chat of the sandbox in which alice is, whose session reads it.
struct Scene<'a> {
    pool: PgPool,
    sandbox: &'a SandboxHandle,
    chat: PeerKey,
    alice: UserId,
    writer: UserId,
    session: SessionId,
}

impl<'a> Scene<'a> {
    /// Lets alice in, and waits until her session has read that.
    async fn begin(pool: PgPool, sandbox: &'a SandboxHandle, alice: UserId, session: SessionId) -> Self {
        let find = |name| {
            sandbox
                .controls()
                .with_world(|world| world.find_peer(name))
                .expect("it is there")
        };
        let PeerKey::User(writer) = find(WRITER) else {
            panic!("the writer is a person")
        };
        let scene = Self {
            pool,
            sandbox,
            chat: find(CHAT),
            alice,
            writer,
            session,
        };
        scene.reads(session, 0).await;
        scene.admit(alice);
        scene.reads(session, scene.channel()).await;
        scene
    }

    fn channel(&self) -> i64 {
        match self.chat {
            PeerKey::Channel(id) => id,
            _ => panic!("a supergroup"),
        }
    }

    fn admit(&self, user: UserId) {
        let admitted = self
            .sandbox
            .controls()
            .with_world(|world| world.admit(Actor::offstage(user), self.channel(), &[user], Arrival::ByUsername));
        admitted.expect("let in");
    }

    /// Returns when the session has stored its place in the box.
    async fn reads(&self, session: SessionId, update_box: i64) {
        until("the place is stored", async || {
            let stored: Option<i32> =
                sqlx::query_scalar("SELECT pts FROM session_update_states WHERE session_id = $1 AND box = $2")
                    .bind(session.0)
                    .bind(update_box)
                    .fetch_optional(&self.pool)
                    .await
                    .expect("answered");
            stored
        })
        .await;
    }

    /// Returns when no place in the chat's updates is stored any more: nothing asks for them at the next start.
    async fn forgets_the_chat(&self) {
        until("the chat's place is forgotten", async || {
            let places = "SELECT count(*) FROM session_update_states WHERE box <> 0";
            (self.figure(places).await == 0).then_some(())
        })
        .await;
    }

    /// A watch of everything from here on.
    async fn watch(&self) -> uuid::Uuid {
        let newest = self.sandbox.controls().with_world(|world| world.messages_of(self.chat));
        let newest = newest.iter().map(|message| message.id).max().unwrap_or(0);
        let id = uuid::Uuid::now_v7();
        sqlx::query(
            "INSERT INTO watches (id, chat_id, session_id, owner, events, filter, retention_days, filling, last_message_id)
            VALUES ($1, $2, $3, 0, $4, '{}', 30, false, $5)",
        )
        .bind(id)
        .bind(self.chat.marked())
        .bind(self.session.0)
        .bind(EVERYTHING.map(str::to_owned).to_vec())
        .bind(newest)
        .execute(&self.pool)
        .await
        .expect("stored");
        id
    }

    fn post(&self, text: &str) -> i32 {
        let posted = self
            .sandbox
            .controls()
            .with_world(|world| world.post_as(self.writer, self.chat, text));
        posted.expect("posted")
    }

    fn post_all(&self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            self.post(&text);
        }
    }

    fn edit(&self, id: i32, text: &str) {
        let content = Content::Text {
            text: text.to_owned(),
            entities: Vec::new(),
        };
        let by = Actor::offstage(self.writer);
        let edited = self
            .sandbox
            .controls()
            .with_world(|world| world.edit_text(by, self.chat, id, content));
        edited.expect("edited");
    }

    fn delete(&self, id: i32) {
        let by = Actor::offstage(self.writer);
        let deleted = self
            .sandbox
            .controls()
            .with_world(|world| world.delete_in_channel(by, self.channel(), &[id]));
        assert!(deleted.expect("deleted").is_some());
    }

    /// Loses the next updates that are pushed to alice; all of them without a count.
    fn lose_updates(&self, count: Option<u32>) -> u64 {
        self.sandbox.controls().add_fault(Fault {
            method: "*".to_owned(),
            account: Some(self.alice),
            count,
            effect: Effect::LoseUpdates,
        })
    }

    fn find_updates(&self, fault: u64) {
        self.sandbox.controls().remove_fault(fault);
    }

    /// The events of the chat so far: type, and the text, or the message it is about.
    async fn told(&self) -> Vec<(String, String)> {
        let events: Vec<(String, Value)> =
            sqlx::query_as("SELECT type, data FROM events WHERE subject = $1 ORDER BY id")
                .bind(format!("chat:{}", self.chat.marked()))
                .fetch_all(&self.pool)
                .await
                .expect("answered");
        let told = events.into_iter().map(|(event, data)| {
            let text = data["message"]["text"].as_str().filter(|text| !text.is_empty());
            let about = text.map_or_else(|| data["user_id"].to_string(), str::to_owned);
            (event, about)
        });
        told.collect()
    }

    /// Waits until the chat's events are `count`, and gives them.
    async fn told_times(&self, count: usize) -> Vec<(String, String)> {
        eventually(BOUND, async || {
            let told = self.told().await;
            if told.len() >= count { Ok(told) } else { Err(told) }
        })
        .await
    }

    /// Waits until each of these was told once as new, in this order, and nothing else was; and is stored once.
    async fn told_in_order(&self, texts: &[String]) {
        let told = self.told_times(texts.len()).await;
        let new: Vec<(String, String)> = texts
            .iter()
            .map(|text| ("message.new".to_owned(), text.clone()))
            .collect();
        assert_eq!(told, new);
        let stored: Vec<String> =
            sqlx::query_scalar("SELECT content ->> 'text' FROM messages WHERE chat_id = $1 ORDER BY message_id")
                .bind(self.chat.marked())
                .fetch_all(&self.pool)
                .await
                .expect("answered");
        assert_eq!(stored, texts);
    }

    async fn figure(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("answered")
    }

    /// Reads the history for the watch as whoever fills it does, until the stream may store again.
    async fn fill(&self, watch: uuid::Uuid, session: SessionId) {
        until("filled", async || {
            let mut transaction = self.pool.begin().await.expect("begun");
            let filling = intake::filling(&mut transaction, watch)
                .await
                .expect("answered")
                .expect("there");
            let lease = self.lease(session).await?;
            let messages: Vec<Message> = self.history_after(filling.last_message_id);
            let read_to = Some(filling.left_to_history);
            intake::record_history(
                &mut transaction,
                &mut Filters::default(),
                None,
                lease,
                intake::Page {
                    watch,
                    messages: &messages,
                    read_to,
                },
            )
            .await
            .expect("stored");
            let finished = intake::finish_filling(&mut transaction, lease, watch, filling.gaps)
                .await
                .expect("answered");
            transaction.commit().await.expect("committed");
            finished.then_some(())
        })
        .await;
    }

    async fn lease(&self, session: SessionId) -> Option<wireroom::store::leases::LeaseKey> {
        let (owner, fence): (WorkerId, i64) = sqlx::query_as(
            "SELECT owner, fence FROM session_leases WHERE session_id = $1 AND owner IS NOT NULL AND expires_at > wireroom_now()",
        )
        .bind(session.0)
        .fetch_optional(&self.pool)
        .await
        .expect("answered")?;
        Some(wireroom::store::leases::LeaseKey { session, owner, fence })
    }

    fn history_after(&self, id: i32) -> Vec<Message> {
        let rows = self.sandbox.controls().with_world(|world| world.messages_of(self.chat));
        let texts = rows.into_iter().filter(|row| row.id > id && !row.text.is_empty());
        let mut messages: Vec<Message> = texts
            .map(|row| Message {
                chat_id: self.chat.marked(),
                sender_id: Some(row.sender),
                ..wireroom_jobs::testing::chat_message(row.id, &row.text)
            })
            .collect();
        messages.sort_by_key(|message| message.id);
        messages
    }
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{prefix} {number}")).collect()
}

/// A world with some accounts, held here.
struct Stage {
    world: World,
    holder: Arc<Holder>,
}

impl Stage {
    async fn with(accounts: usize, change: impl FnOnce(&mut TelegramConfig)) -> Self {
        let mut world = World::with_accounts(accounts).await;
        change(&mut world.telegram);
        let holder = world.holder();
        held(&holder, accounts).await;
        Self { world, holder }
    }

    async fn new() -> Self {
        Self::with(1, |_| {}).await
    }

    async fn scene(&self) -> Scene<'_> {
        let alice = &self.world.imported[0];
        let pool = self.world.database.pool().clone();
        Scene::begin(pool, &self.world.sandbox, alice.account_id, alice.id).await
    }

    async fn end(self) {
        self.holder.shutdown(BOUND).await;
        self.world.end().await;
    }
}

fn told(event: &str, about: &str) -> (String, String) {
    (event.to_owned(), about.to_owned())
}

#[tokio::test]
async fn what_happens_in_a_watched_chat_is_told() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    let first = scene.post("a boat");
    let second = scene.post("a sail");
    scene.edit(first, "a big boat");
    scene.told_times(3).await;
    let reacted = stage
        .world
        .sandbox
        .controls()
        .with_world(|world| world.react(scene.writer, scene.chat, first, &[("👍", 2)]));
    reacted.expect("told");
    scene.told_times(4).await;
    scene.delete(second);
    let guest = stage
        .world
        .sandbox
        .controls()
        .with_world(|world| world.find_peer("erin"));
    let Some(PeerKey::User(guest)) = guest else {
        panic!("erin is there")
    };
    scene.admit(guest);
    let by = Actor::offstage(scene.writer);
    stage.world.sandbox.controls().with_world(|world| {
        world
            .remove_from_channel(by, scene.channel(), guest, false)
            .expect("removed");
        let title = grammers_tl_types::types::MessageActionChatEditTitle {
            title: "Harbour".into(),
        };
        world.post(by, scene.chat, Draft::service(title)).expect("told");
    });
    let seen = scene.told_times(8).await;
    assert_eq!(
        seen,
        [
            told("message.new", "a boat"),
            told("message.new", "a sail"),
            told("message.edited", "a big boat"),
            told("message.reactions", "null"),
            told("message.deleted", "null"),
            told("member.joined", &guest.to_string()),
            told("member.left", &guest.to_string()),
            told("chat.changed", "null"),
        ]
    );
    stage.end().await;
}

#[tokio::test]
async fn an_update_that_was_lost_is_fetched() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    let texts = numbered("message", 4);
    scene.post(&texts[0]);
    scene.lose_updates(Some(2));
    scene.post_all(texts[1..].to_vec());
    scene.told_in_order(&texts).await;
    stage.end().await;
}

#[tokio::test]
async fn edits_and_deletions_that_come_with_a_difference_are_told() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    let first = scene.post("one");
    let second = scene.post("two");
    scene.told_times(2).await;
    let lost = scene.lose_updates(None);
    scene.edit(first, "one and a half");
    scene.delete(second);
    scene.find_updates(lost);
    scene.post("three");
    let mut seen = scene.told_times(5).await.split_off(2);
    seen.sort();
    assert_eq!(
        seen,
        [
            told("message.deleted", "null"),
            told("message.edited", "one and a half"),
            told("message.new", "three"),
        ]
    );
    stage.end().await;
}

#[tokio::test]
async fn a_difference_that_is_too_long_is_a_gap_and_filled_from_the_history() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    let watch = scene.watch().await;
    let texts = numbered("message", 8);
    scene.post(&texts[0]);
    scene.told_times(1).await;
    let lost = scene.lose_updates(None);
    scene.post_all(texts[1..6].to_vec());
    stage
        .world
        .sandbox
        .controls()
        .with_world(|world| world.set_events_kept(1));
    scene.find_updates(lost);
    scene.post(&texts[6]);
    let seen = scene.told_times(2).await;
    assert_eq!(seen[1].0, "watch.gap");
    let noted = "SELECT left_to_history::bigint - last_message_id FROM watches WHERE filling";
    assert_eq!(scene.figure(noted).await, 6, "up to the newest");
    scene.fill(watch, scene.session).await;
    scene.post(&texts[7]);
    let mut seen = scene.told_times(9).await;
    seen.retain(|(event, _)| event != "watch.gap");
    let new: Vec<_> = texts.iter().map(|text| told("message.new", text)).collect();
    assert_eq!(seen, new);
    assert_eq!(scene.figure("SELECT from_history FROM watches").await, 6);
    stage.end().await;
}

#[tokio::test]
async fn a_chat_that_the_session_is_put_out_of_is_lost() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    let banned = stage
        .world
        .sandbox
        .controls()
        .with_world(|world| world.ban(scene.chat, scene.alice));
    banned.expect("banned");
    until("noted", async || {
        let noted = "SELECT count(*) FROM watches WHERE lost_reason IS NOT NULL";
        (scene.figure(noted).await == 1).then_some(())
    })
    .await;
    scene.forgets_the_chat().await;
    stage.end().await;
}

#[tokio::test]
async fn a_channel_whose_difference_is_refused_is_lost() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    scene.watch().await;
    let private = Effect::Error {
        code: 400,
        name: "CHANNEL_PRIVATE".to_owned(),
    };
    stage
        .world
        .sandbox
        .controls()
        .add_fault(Fault::once("updates.getChannelDifference", private));
    scene.lose_updates(Some(1));
    scene.post("lost");
    scene.post("found");
    until("noted", async || {
        let noted = "SELECT count(*) FROM watches WHERE lost_reason = 'CHANNEL_PRIVATE'";
        (scene.figure(noted).await == 1).then_some(())
    })
    .await;
    scene.forgets_the_chat().await;
    stage.end().await;
}

#[tokio::test]
async fn a_place_that_telegram_does_not_know_is_a_gap() {
    let stage = Stage::new().await;
    let scene = stage.scene().await;
    let watch = scene.watch().await;
    let unknown = Effect::Error {
        code: 400,
        name: "PERSISTENT_TIMESTAMP_INVALID".to_owned(),
    };
    stage
        .world
        .sandbox
        .controls()
        .add_fault(Fault::once("updates.getChannelDifference", unknown));
    scene.lose_updates(Some(1));
    let texts = numbered("message", 3);
    scene.post_all(texts[..2].to_vec());
    assert_eq!(scene.told_times(1).await[0].0, "watch.gap");
    scene.fill(watch, scene.session).await;
    scene.post(&texts[2]);
    let mut seen = scene.told_times(4).await;
    seen.remove(0);
    let new: Vec<_> = texts.iter().map(|text| told("message.new", text)).collect();
    assert_eq!(seen, new);
    stage.end().await;
}

#[tokio::test]
async fn a_silent_session_asks_for_what_it_missed() {
    let stage = Stage::with(1, |telegram| telegram.silence = Duration::from_secs(2)).await;
    let scene = stage.scene().await;
    scene.watch().await;
    scene.lose_updates(None);
    let texts = numbered("message", 3);
    scene.post_all(texts.clone());
    scene.told_in_order(&texts).await;
    stage.end().await;
}

#[tokio::test]
async fn a_connection_that_died_silently_is_found_by_the_probe() {
    let stage = Stage::with(1, |telegram| telegram.probe_after = Duration::from_secs(1)).await;
    let scene = stage.scene().await;
    scene.watch().await;
    // On a slow machine a probe may have ended one already, and the next may be on its way.
    let controls = stage.world.sandbox.controls();
    until("fallen silent", async || {
        (controls.silence_connections(Some(scene.alice)) > 0).then_some(())
    })
    .await;
    let texts = numbered("message", 3);
    scene.post_all(texts.clone());
    scene.told_in_order(&texts).await;
    stage.end().await;
}

#[tokio::test]
async fn two_sessions_in_a_chat_tell_each_message_once_and_hand_over_without_a_gap() {
    let stage = Stage::with(2, |_| {}).await;
    let scene = stage.scene().await;
    let bob = &stage.world.imported[1];
    scene.admit(bob.account_id);
    scene.reads(bob.id, scene.channel()).await;
    let watch = scene.watch().await;
    let texts = numbered("message", 30);
    scene.post_all(texts[..10].to_vec());
    scene.told_times(10).await;
    scene.post_all(texts[10..15].to_vec());
    // Whoever switches leaves everything to the history, until that has caught up.
    sqlx::query("UPDATE watches SET session_id = $1, filling = true, version = version + 1 WHERE id = $2")
        .bind(bob.id.0)
        .bind(watch)
        .execute(&scene.pool)
        .await
        .expect("switched");
    scene.post_all(texts[15..25].to_vec());
    scene.fill(watch, bob.id).await;
    scene.post_all(texts[25..].to_vec());
    scene.told_in_order(&texts).await;
    stage.end().await;
}

#[tokio::test]
async fn private_messages_are_told_to_their_watch() {
    let stage = Stage::new().await;
    let alice = &stage.world.imported[0];
    let scene = stage.scene().await;
    sqlx::query(
        "INSERT INTO watches (id, session_id, owner, events, filter, retention_days, filling)
        VALUES ($1, $2, $3, $4, '{}', 30, false)",
    )
    .bind(uuid::Uuid::now_v7())
    .bind(alice.id.0)
    .bind(alice.account_id)
    .bind(EVERYTHING.map(str::to_owned).to_vec())
    .execute(&scene.pool)
    .await
    .expect("stored");
    let to_alice = PeerKey::User(scene.alice);
    let write = |text: &str| {
        let posted = stage
            .world
            .sandbox
            .controls()
            .with_world(|world| world.post_as(scene.writer, to_alice, text));
        posted.expect("posted")
    };
    let own = write("hello");
    let by = Actor::offstage(scene.writer);
    stage
        .world
        .sandbox
        .controls()
        .with_world(|world| world.delete_in_inbox(by, &[own], true))
        .expect("deleted");
    until("told", async || {
        let told: Vec<(String, Value)> =
            sqlx::query_as("SELECT type, data FROM events WHERE type LIKE 'message.%' ORDER BY id")
                .fetch_all(&scene.pool)
                .await
                .expect("answered");
        let types: Vec<&str> = told.iter().map(|(event, _)| event.as_str()).collect();
        let told_both = types == ["message.new", "message.deleted"];
        (told_both && told.iter().all(|(_, data)| data["chat"] == json!(scene.writer))).then_some(())
    })
    .await;
    stage.end().await;
}
