//! Sessions and chats that are lost, and what is written down about it.

use super::*;
use wireroom_jobs::scan::ports::{MemberList, ScanTelegram};

#[tokio::test]
async fn a_revoked_session_is_logged_out_and_left_alone() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let id = world.imported[0].account_id;
    world.sandbox.controls().revoke_keys(id, Revocation::SignOut);
    let refused = until("noticed", async || {
        let answer = telegram.resolve_username("nobody_by_that_name_here").await.unwrap_err();
        (answer.decision == Decision::Session).then_some(answer)
    });
    refused.await;
    until("state", async || {
        (world.row(session.id).await.0 == "logged_out").then_some(())
    })
    .await;
    until("let go", async || (holder.leases() == 0).then_some(())).await;
    assert!(session.lost.is_cancelled());
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.access_lost'")
            .await,
        1
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.state_changed' AND data ->> 'to' = 'logged_out'")
            .await,
        1
    );
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_key_the_server_forgot_is_never_replaced() {
    let world = World::with_accounts(1).await;
    let sealed = "SELECT md5(auth_key_sealed) FROM session_dcs WHERE auth_key_sealed IS NOT NULL";
    let key = |pool: PgPool| async move { sqlx::query_scalar::<_, String>(sealed).fetch_all(&pool).await.unwrap() };
    let before = key(world.database.pool().clone()).await;
    world
        .sandbox
        .controls()
        .revoke_keys(world.imported[0].account_id, Revocation::Forget);
    let holder = world.holder();
    let id = world.imported[0].id;
    until("state", async || (world.row(id).await.0 == "logged_out").then_some(())).await;
    assert_eq!(world.row(id).await.1.as_deref(), Some("AUTH_KEY_UNKNOWN"));
    assert_eq!(key(world.database.pool().clone()).await, before);
    holder.shutdown(BOUND).await;
    // A login gives it a new key on purpose.
    let again = world.import(0).await;
    assert_eq!(again.id, id);
    assert_eq!(world.row(id).await.0, "ready");
    world.end().await;
}

#[tokio::test]
async fn a_duplicated_key_is_an_incident() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let duplicated = Effect::Error {
        code: 406,
        name: "AUTH_KEY_DUPLICATED".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("contacts.resolveUsername", duplicated));
    let error = telegram.resolve_username("anybody").await.unwrap_err();
    assert_eq!(error.decision, Decision::Session);
    until("state", async || {
        (world.row(session.id).await.0 == "quarantined").then_some(())
    })
    .await;
    let incidents = "SELECT count(*) FROM audit_log WHERE action = 'session.auth_key_duplicated'
        AND jsonb_array_length(details -> 'terms') = 1";
    assert_eq!(world.count(incidents).await, 1);
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_limited_account_sends_nothing_until_a_person_lifts_it() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    let flood = Effect::Error {
        code: 400,
        name: "PEER_FLOOD".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("messages.sendMessage", flood));
    let error = telegram.send_message(&chat, 1, &draft("hello")).await.unwrap_err();
    assert_eq!(error.decision, Decision::Campaign);
    assert_eq!(world.row(session.id).await.0, "limited");
    assert_eq!(session.closed_actions(), [Action::Send, Action::Invite]);
    assert_eq!(
        telegram
            .send_message(&chat, 2, &draft("hello"))
            .await
            .unwrap_err()
            .decision,
        Decision::Campaign
    );
    assert!(
        telegram
            .resolve_username(chat.username.as_deref().unwrap())
            .await
            .is_ok(),
        "it may read"
    );
    // Long enough that a renewal has seen the limit.
    let renewed = "SELECT count(*) FROM session_leases l JOIN sessions s ON s.id = l.session_id
        WHERE l.renewed_at > s.state_since";
    until("renewed", async || (world.count(renewed).await == 1).then_some(())).await;
    sqlx::raw_sql("UPDATE sessions SET state = 'ready'")
        .execute(world.database.pool())
        .await
        .unwrap();
    until("lifted", async || session.closed_actions().is_empty().then_some(())).await;
    holder.shutdown(BOUND).await;
    world.end().await;
}

#[tokio::test]
async fn a_chat_that_shuts_us_out_is_remembered_and_reported_once() {
    let world = World::with_accounts(1).await;
    let holder = world.holder();
    let session = held(&holder, 1).await.remove(0);
    let (telegram, _) = port_of(&session);
    let chat = telegram.resolve_username(&public_group(&world, 1000)).await.unwrap();
    sqlx::query(
        "WITH c AS (INSERT INTO chats (id, type, title) VALUES ($1, 'supergroup', 't') RETURNING id)
        INSERT INTO session_chats (session_id, chat_id, member) SELECT $2, id, true FROM c",
    )
    .bind(chat.id)
    .bind(session.id.0)
    .execute(world.database.pool())
    .await
    .unwrap();
    let private = Effect::Error {
        code: 400,
        name: "CHANNEL_PRIVATE".to_owned(),
    };
    world
        .sandbox
        .controls()
        .add_fault(Fault::once("channels.getParticipants", private).times(2));
    for _ in 0..2 {
        let error = telegram.members(&chat, &MemberList::Recent, 0, 10).await.unwrap_err();
        assert_eq!(error.decision, Decision::Target);
    }
    assert_eq!(
        world
            .count("SELECT count(*) FROM events WHERE type = 'session.access_lost'")
            .await,
        1
    );
    assert_eq!(world.count("SELECT count(*) FROM session_chats WHERE member").await, 0);
    assert_eq!(world.row(session.id).await.0, "ready");
    holder.shutdown(BOUND).await;
    world.end().await;
}
