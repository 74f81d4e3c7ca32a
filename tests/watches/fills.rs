//! What happens in a chat while a worker is between reading its history and storing what it read.

use sqlx::{PgConnection, Postgres, Transaction};
use wireroom::sandbox::world::{PeerKey, hearing::Actor, messages::Content};

use super::*;

const HISTORY: &str = "messages.getHistory";

/// The monitor job's row, locked: a page that was read cannot be stored.
async fn hold_back(stack: &Stack, job: &str) -> Transaction<'static, Postgres> {
    let mut lock = stack.database.pool().begin().await.expect("begun");
    let connection: &mut PgConnection = &mut lock;
    sqlx::query("SELECT FROM jobs WHERE id = $1::uuid FOR UPDATE")
        .bind(job)
        .execute(connection)
        .await
        .expect("locked");
    lock
}

/// Waits until more of the history was read than `before`, and the page cannot be stored.
async fn page_is_held(stack: &Stack, before: u64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%hold_attempt%'";
    eventually(JOB_BOUND, async || {
        let (calls, held) = (stack.calls(HISTORY), stack.figure(waiting).await);
        if calls > before && held > 0 {
            Ok(())
        } else {
            Err((calls, held))
        }
    })
    .await;
}

/// How far alice's session has read the chat's updates.
async fn place(stack: &Stack, chat: PeerKey) -> i32 {
    let PeerKey::Channel(channel) = chat else {
        panic!("a supergroup")
    };
    sqlx::query_scalar(
        "SELECT u.pts FROM session_update_states u JOIN sessions s ON s.id = u.session_id WHERE s.label = 'alice' AND u.box = $1",
    )
    .bind(channel)
    .fetch_one(stack.database.pool())
    .await
    .expect("a place")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_or_deleted_while_a_page_is_on_its_way_is_stored_as_it_is_by_then() {
    let stack = two_members().await;
    let controls = stack.sandbox.controls();
    // Where it begins and what there is; then nothing to compare with what was seen: that would be stored too, and be what
    // is held back below.
    controls.add_fault(Fault::once(HISTORY, Effect::Delay { ms: 0 }).times(2));
    let nothing = Effect::Error {
        code: 400,
        name: "CHAT_ADMIN_REQUIRED".to_owned(),
    };
    controls.add_fault(Fault::once(HISTORY, nothing));
    let _worker = stack.worker().await;
    let id = stack.monitor("alice", json!({ "chat": "@harbour_market" })).await;
    stack.watched(&id, "alice").await;
    eventually(JOB_BOUND, async || match stack.calls(HISTORY) {
        calls if calls >= 3 => Ok(()),
        calls => Err(calls),
    })
    .await;
    let calls = stack.calls(HISTORY);
    let lost = controls.add_fault(Fault {
        method: "*".to_owned(),
        account: Some(stack.account("alice")),
        count: None,
        effect: Effect::LoseUpdates,
    });
    let said: Vec<i32> = texts(0..3).iter().map(|text| stack.say("judy", text)).collect();
    controls.with_world(|world| world.set_events_kept(1));
    let lock = hold_back(&stack, &id).await;
    controls.remove_fault(lost);
    stack.say("judy", "message 3");
    page_is_held(&stack, calls).await;

    let (judy, chat) = (Actor::offstage(stack.account("judy")), stack.chat(CHAT));
    let before = place(&stack, chat).await;
    let PeerKey::Channel(channel) = chat else {
        panic!("a supergroup")
    };
    let corrected = Content::Text {
        text: "message 1, corrected".to_owned(),
        entities: Vec::new(),
    };
    controls.with_world(|world| {
        world.edit_text(judy, chat, said[1], corrected).expect("edited");
        let deleted = world.delete_in_channel(judy, channel, &[said[2]]);
        assert!(deleted.expect("deleted").is_some());
    });
    eventually(JOB_BOUND, async || match place(&stack, chat).await {
        now if now >= before + 2 => Ok(()),
        now => Err((before, now)),
    })
    .await;
    lock.rollback().await.expect("let go");

    let wanted = ["message 0", "message 1, corrected", "message 3"].map(str::to_owned);
    stack.told_when(&wanted).await;
    stack.watched(&id, "alice").await;
    stack.say("judy", "message 4");
    stack.told_when(&[&wanted[..], &texts(4..5)].concat()).await;
    let told: Vec<String> = stack.told().await.into_iter().map(|(event, _)| event).collect();
    assert_eq!(told, ["message.new"; 4]);
    assert_eq!(stack.figure("SELECT count(*) FROM watch_changes").await, 0);
    let stored: Vec<String> = sqlx::query_scalar("SELECT content ->> 'text' FROM messages ORDER BY message_id")
        .fetch_all(stack.database.pool())
        .await
        .expect("messages");
    assert_eq!(stored, [&wanted[..], &texts(4..5)].concat());
    stop(&stack, &id).await;
    stack.finished(&id).await;
    stack.finish().await;
}
